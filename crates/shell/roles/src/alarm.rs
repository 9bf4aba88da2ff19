//! The bell of an end of the quantum channel: it tells the controller that the fibre is bad.

use claviger_net::http::Client;
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
