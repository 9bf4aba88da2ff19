//! How many devices a link feeds, from the theory of the link that runs.

use claviger_distill::rules;
use claviger_photonics::preset::NoKey;
use claviger_photonics::{LinkPreset, theory};
use claviger_units::{BitRate, Bits, Decibels, Span};

use crate::duration::in_words;
use crate::figures::grouped;

/// Returns the rate of key that theory expects of a link, with full-sized blocks and all they pay.
pub(crate) fn key_rate(preset: &LinkPreset) -> BitRate {
    theory::expected(preset).secret_rate_with(preset.block_costs(rules::OVERHEAD))
}

/// What a link can do.
#[derive(Clone, Debug)]
pub(crate) struct Capacity {
    preset: LinkPreset,
    rate: BitRate,
    speed: f64,
}

/// More keys were asked for than the link makes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{asked} need {needed} of key, and the link {made}: {remedies}")]
pub(crate) struct TooMuch {
    asked: String,
    needed: BitRate,
    made: String,
    remedies: String,
}

impl Capacity {
    /// Works out what a link can do, or says why it gives no key at all.
    pub(crate) fn of(preset: &LinkPreset, speed: f64) -> Result<Self, NoKey> {
        preset.viability(rules::OVERHEAD)?;
        Ok(Self { preset: preset.clone(), rate: key_rate(preset), speed })
    }

    /// Returns the rate of key in link time.
    pub(crate) const fn rate(&self) -> BitRate {
        self.rate
    }

    /// Says in one sentence what the link can do and what is asked of it.
    pub(crate) fn sentence(&self, devices: u32, renew: Span) -> String {
        let feeds = |span| grouped(devices_every(self.by_the_wall(self.rate), span));
        let other = match renew == HALF_HOUR {
            true => String::new(),
            false => format!(" ({} every {})", feeds(HALF_HOUR), in_words(HALF_HOUR)),
        };
        format!(
            "{} feeds {} devices every {}{other}; you asked for {}",
            self.made(),
            feeds(renew),
            in_words(renew),
            grouped(devices.into()),
        )
    }

    /// Refuses what the link cannot hold, with what it could.
    pub(crate) fn check(&self, devices: u32, renew: Span) -> Result<(), TooMuch> {
        let rate = self.by_the_wall(self.rate);
        let most = devices_every(rate, renew);
        if most >= u64::from(devices) {
            return Ok(());
        }
        let needed = Bits::new(u64::from(devices) * Bits::KEY.count()) / renew;
        Err(TooMuch {
            asked: format!("{} devices every {}", grouped(devices.into()), in_words(renew)),
            needed,
            made: format!(
                "{} with {} makes {}",
                self.preset.name(),
                self.preset.loss(),
                self.made()
            ),
            remedies: self.remedies(devices, needed, most),
        })
    }

    fn remedies(&self, devices: u32, needed: BitRate, most: u64) -> String {
        let mut remedies = Vec::new();
        if most > 0 {
            remedies.push(format!("ask for fewer devices (--devices {most})"));
        }
        let secs = f64::from(devices) * f64::from(KEY_BITS) / self.by_the_wall(self.rate).as_bps();
        let longer = Span::from_secs_f64(secs.ceil());
        remedies.push(format!("renew less often (--renew {:.0}s)", longer.as_secs_f64()));
        if let Some(loss) = self.loss_for(needed) {
            remedies.push(format!("choose a link with less loss (--loss-db {})", loss.as_db()));
        }
        remedies.join(", or ")
    }

    /// Finds the largest loss in tenths of a decibel with which the link would do.
    fn loss_for(&self, needed: BitRate) -> Option<Decibels> {
        let tenths = (0..=600).rev().map(|n| f64::from(n) / 10.0);
        let lower = tenths.filter(|db| *db < self.preset.loss().as_db());
        let mut losses = lower.filter_map(|db| Decibels::from_db(db).ok());
        losses.find(|loss| {
            let rate = key_rate(&self.preset.clone().with_loss(*loss));
            self.by_the_wall(rate) >= needed
        })
    }

    fn by_the_wall(&self, rate: BitRate) -> BitRate {
        BitRate::from_bps(rate.as_bps() * self.speed)
    }

    fn made(&self) -> String {
        let faster = is_faster(self.speed)
            .then(|| format!(", run {} times faster than real light,", self.speed));
        format!("{} (simulated){}", self.rate, faster.unwrap_or_default())
    }
}

/// Tells whether the link's clock is not the clock on the wall.
pub(crate) fn is_faster(speed: f64) -> bool {
    (speed - 1.0).abs() > f64::EPSILON
}

fn devices_every(rate: BitRate, renew: Span) -> u64 {
    (rate * renew) / Bits::KEY
}

const HALF_HOUR: Span = Span::from_secs(1800);
const KEY_BITS: u16 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Span = Span::from_secs(60);

    fn capacity(name: &str, speed: f64) -> Capacity {
        Capacity::of(&LinkPreset::named(name).unwrap(), speed).unwrap()
    }

    /// One figure wherever theory is told, and none beside it: the README's table of the paper's two
    /// set-ups is this one.
    #[test]
    fn theory_is_one_figure_everywhere() {
        let readme = include_str!("../../../../README.md");
        for name in ["lab", "city"] {
            let told = format!(" | {} |", capacity(name, 1.0).rate());
            let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}`"))).unwrap();
            assert!(row.ends_with(&told), "{told} is not the theory of {row}");
        }
    }

    #[test]
    fn the_sentence_of_the_papers_link() {
        assert_eq!(
            capacity("lab", 1.0).sentence(24, MINUTE),
            "1893 bit/s (simulated) feeds 443 devices every 60 s (13 310 every 30 min); you asked for 24"
        );
        assert_eq!(
            capacity("lab", 1.0).sentence(12_000, HALF_HOUR),
            "1893 bit/s (simulated) feeds 13 310 devices every 30 min; you asked for 12 000"
        );
        assert_eq!(
            capacity("lab", 60.0).sentence(24, MINUTE),
            "1893 bit/s (simulated), run 60 times faster than real light, feeds 26 620 devices \
             every 60 s (798 613 every 30 min); you asked for 24"
        );
    }

    #[test]
    fn what_cannot_hold_is_refused_with_the_numbers_and_what_would() {
        let lab = capacity("lab", 1.0);
        assert_eq!(lab.check(443, MINUTE), Ok(()));
        assert_eq!(
            lab.check(500, MINUTE).unwrap_err().to_string(),
            "500 devices every 60 s need 2133 bit/s of key, and the link lab with 4 dB makes \
             1893 bit/s (simulated): ask for fewer devices (--devices 443), or renew less often \
             (--renew 68s), or choose a link with less loss (--loss-db 3.2)"
        );
        // Whoever follows the advice is not refused again.
        assert_eq!(lab.check(500, Span::from_secs(68)), Ok(()));
        let shorter = LinkPreset::named("lab").unwrap().with_loss(Decibels::from_db(3.2).unwrap());
        assert_eq!(Capacity::of(&shorter, 1.0).unwrap().check(500, MINUTE), Ok(()));
        // No loss is small enough, and not one device can be fed.
        let refused = lab.check(100_000, Span::from_millis(100)).unwrap_err().to_string();
        assert!(!refused.contains("--devices") && !refused.contains("--loss-db"), "{refused}");
    }

    #[test]
    fn a_link_without_key_says_why() {
        let dark = LinkPreset::named("lab").unwrap().with_loss(Decibels::from_db(30.0).unwrap());
        let refused = Capacity::of(&dark, 1.0).unwrap_err().to_string();
        assert!(refused.starts_with("no key comes of a link with 30 dB"), "{refused}");
    }
}
