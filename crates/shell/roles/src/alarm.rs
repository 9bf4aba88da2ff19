//! The bell of an end of the quantum channel: it tells the controller that the fibre is bad.

use claviger_distill::Rules;
use claviger_net::http::Client;
use claviger_photonics::{LinkPreset, theory};
use claviger_units::{Span, Timestamp};
use claviger_wire::sdn::{Alarm, ChannelAlarm};

/// A bell that rings at the controller.
#[derive(Debug)]
pub(crate) struct Bell {
    url: String,
    client: Client,
    /// Not before then is it rung again.
    next: Timestamp,
}

/// The controller does not hear more often than that.
const PACE: Span = Span::from_secs(2);

impl Bell {
    /// Hangs a bell at the controller at `url`.
    pub(crate) fn at(url: &str, client: Client) -> Self {
        Self { url: format!("{url}/v1/channel/alarms"), client, next: Timestamp::START }
    }

    /// Rings; whether anybody hears it shows in where the channel goes.
    pub(crate) fn ring(&mut self, now: Timestamp, alarm: Alarm) {
        if now < self.next {
            return;
        }
        self.next = now + PACE;
        let (url, client) = (self.url.clone(), self.client.clone());
        tokio::spawn(async move {
            // Names of alarms, which JSON can hold.
            let body = serde_json::to_vec(&ChannelAlarm { alarm }).unwrap_or_default();
            match client.post_json(&url, &[], body).await {
                Ok(answer) if answer.status.is_success() => {}
                Ok(answer) => tracing::warn!(status = %answer.status, "the alarm was refused"),
                Err(error) => tracing::warn!(%error, "the alarm reached nobody"),
            }
        });
    }
}

/// How much light has come lately, of what should.
#[derive(Debug)]
pub(crate) struct Brightness {
    expected: f64,
    mean: f64,
}

impl Brightness {
    pub(crate) fn of(rules: &Rules, preset: &LinkPreset) -> Self {
        let window = rules.time_of(rules.window).as_secs_f64();
        let expected = theory::expected(preset).raw.as_bps() * window;
        Self { expected, mean: expected }
    }

    /// Takes a window in; tells whether it has become dark.
    pub(crate) fn note(&mut self, clicks: usize) -> bool {
        let clicks = u32::try_from(clicks).map_or(f64::MAX, f64::from);
        self.mean += (clicks - self.mean) / MEAN_OVER;
        self.mean < DARK * self.expected
    }
}

/// Windows over which brightness is averaged.
const MEAN_OVER: f64 = 8.0;
/// Below this share of what is expected it is dark; a fibre that loses 6 dB more is not.
const DARK: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn darkness_is_noticed_and_a_longer_fibre_is_not_dark() {
        let preset = LinkPreset::named("lab").unwrap();
        let rules = Rules::of(&preset);
        let mut brightness = Brightness::of(&rules, &preset);
        let clicks = usize::try_from(rules.time_of(rules.window).as_micros() / 100).unwrap();
        assert!((0..100).all(|_| !brightness.note(clicks)));
        // 6 dB less.
        assert!((0..100).all(|_| !brightness.note(clicks / 4)));
        assert!((0..100).any(|_| brightness.note(0)));
    }
}
