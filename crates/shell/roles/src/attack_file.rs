//! `attack.toml` in the folder of the fibre: attacks that somebody puts onto running light.
//!
//! ```toml
//! until_unix_s = 1796342400.0
//!
//! [[attack]]
//! name = "blinding"
//! strength = 0.5
//! ```
//!
//! `cut = ["lab"]` cuts fibres behind an optical switch. After that time the file has no effect: whoever wrote it may be dead.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{fs, io};

use claviger_photonics::Eve;
use claviger_photonics::eve::{Attack, Strength, StrengthError, UnknownAttack};
use claviger_units::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::role::Folder;

/// The name of the file.
pub const NAME: &str = "attack.toml";

/// Attacks, and when they end.
#[derive(Clone, Debug, PartialEq)]
pub struct AttackFile {
    /// When they end.
    pub until: Timestamp,
    // Invariant: every strength is one that its attack takes.
    attacks: Vec<(Attack, Strength, f64)>,
    cuts: BTreeSet<String>,
}

/// Why a file of attacks cannot be used; the light goes on without them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttackFileError {
    /// The system does not give or take it: check the owner and the mode of the folder.
    #[error("cannot {action} {}", .path.display())]
    Access {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the TOML that is expected: mend or remove it.
    #[error("{} is not understood, mend or remove it: {source}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// It names an attack that there is not.
    #[error("{}: {source}", .path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// Which there are.
        source: UnknownAttack,
    },
    /// A strength is out of range.
    #[error("{}: {source}", .path.display())]
    Strength {
        /// The file.
        path: PathBuf,
        /// What would be right.
        source: StrengthError,
    },
    /// Its end is no time.
    #[error("{}: until_unix_s = {value} must be a time in seconds since 1970", .path.display())]
    Until {
        /// The file.
        path: PathBuf,
        /// What stands there.
        value: f64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    until_unix_s: f64,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    cut: BTreeSet<String>,
    #[serde(default)]
    attack: Vec<RawAttack>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAttack {
    name: String,
    strength: f64,
}

impl AttackFile {
    /// One attack, until then.
    pub fn new(attack: Attack, strength: f64, until: Timestamp) -> Result<Self, StrengthError> {
        let attacks = vec![(attack, attack.strength(strength)?, strength)];
        Ok(Self { until, attacks, cuts: BTreeSet::new() })
    }

    /// A fibre that is cut, until then.
    #[must_use]
    pub fn cutting(fibre: &str, until: Timestamp) -> Self {
        Self { until, attacks: Vec::new(), cuts: BTreeSet::from([fibre.to_owned()]) }
    }

    /// Returns the fibres behind an optical switch that are cut.
    #[must_use]
    pub const fn cuts(&self) -> &BTreeSet<String> {
        &self.cuts
    }

    /// Reads the file of a fibre's folder; `None` where there is none.
    pub fn load(folder: &Folder) -> Result<Option<Self>, AttackFileError> {
        let path = folder.file(NAME);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(AttackFileError::Access { action: "read", path, source }),
        }
    }

    fn parse(text: &str, path: PathBuf) -> Result<Self, AttackFileError> {
        let raw: Raw = match toml::from_str(text) {
            Ok(raw) => raw,
            Err(source) => {
                return Err(AttackFileError::Syntax { path, source: Box::new(source) });
            }
        };
        if !raw.until_unix_s.is_finite() || raw.until_unix_s < 0.0 {
            return Err(AttackFileError::Until { path, value: raw.until_unix_s });
        }
        let mut attacks = Vec::new();
        for RawAttack { name, strength } in raw.attack {
            let attack: Attack = match name.parse() {
                Ok(attack) => attack,
                Err(source) => return Err(AttackFileError::Name { path, source }),
            };
            match attack.strength(strength) {
                Ok(checked) => attacks.push((attack, checked, strength)),
                Err(source) => return Err(AttackFileError::Strength { path, source }),
            }
        }
        let until = Timestamp::START + Span::from_secs_f64(raw.until_unix_s);
        Ok(Self { until, attacks, cuts: raw.cut })
    }

    /// Writes the file so that nobody reads half of it.
    pub fn store(&self, folder: &Folder) -> Result<(), AttackFileError> {
        let (path, fresh) = (folder.file(NAME), folder.file("attack.toml.new"));
        let written = fs::write(&fresh, self.text()).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|source| AttackFileError::Access { action: "write", path, source })
    }

    /// Removes the file, if it is there and still this one.
    pub fn remove(&self, folder: &Folder) -> Result<(), AttackFileError> {
        let path = folder.file(NAME);
        if fs::read_to_string(&path).is_ok_and(|text| text != self.text()) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AttackFileError::Access { action: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Tells whether its time is not over.
    #[must_use]
    pub fn is_on(&self, now: Timestamp) -> bool {
        now < self.until && !(self.attacks.is_empty() && self.cuts.is_empty())
    }

    /// Adds the attacks to what is done to the light already.
    #[must_use]
    pub fn on_top_of(&self, eve: Eve) -> Eve {
        let attacks = self.attacks.iter();
        attacks.fold(eve, |eve, &(attack, strength, _)| eve.with(attack, strength))
    }

    /// Names the attacks for people, such as `blinding 0.5`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let word = |&(attack, strength, value): &(Attack, Strength, f64)| match strength {
            Strength::Share(_) => format!("{attack} {value}"),
            Strength::Loss(loss) => format!("{attack} {loss}"),
        };
        let cuts = self.cuts.iter().map(|fibre| format!("fibre {fibre} is cut"));
        self.attacks.iter().map(word).chain(cuts).collect::<Vec<_>>().join(", ")
    }

    fn text(&self) -> String {
        let attack = |&(attack, _, strength): &(Attack, Strength, f64)| {
            format!("\n[[attack]]\nname = \"{attack}\"\nstrength = {strength:?}\n")
        };
        let attacks: String = self.attacks.iter().map(attack).collect();
        let cuts = if self.cuts.is_empty() {
            String::new()
        } else {
            format!("cut = {:?}\n", Vec::from_iter(&self.cuts))
        };
        format!(
            "# written by `claviger link`; without effect after this time\n\
             until_unix_s = {:?}\n{cuts}{attacks}",
            self.until.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use claviger_units::Fraction;

    use super::*;

    const UNTIL: Timestamp = Timestamp::from_micros(1_796_342_400_000_000);

    #[test]
    fn what_was_written_is_read_until_it_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().into());
        assert_eq!(AttackFile::load(&folder).unwrap(), None);
        let file = AttackFile::new(Attack::Blinding, 0.5, UNTIL).unwrap();
        file.store(&folder).unwrap();
        assert_eq!(AttackFile::load(&folder).unwrap(), Some(file.clone()));
        // Somebody else's is left alone.
        let other = AttackFile::new(Attack::AddedLoss, 3.0, UNTIL).unwrap();
        other.remove(&folder).unwrap();
        assert_eq!(AttackFile::load(&folder).unwrap(), Some(file.clone()));
        file.remove(&folder).unwrap();
        file.remove(&folder).unwrap();
        assert_eq!(AttackFile::load(&folder).unwrap(), None);
        assert_eq!(
            (file.in_words(), other.in_words()),
            ("blinding 0.5".into(), "added-loss 3 dB".into())
        );
    }

    #[test]
    fn a_cut_fibre_is_named_and_mended_at_its_time() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().into());
        let file = AttackFile::cutting("lab", UNTIL);
        file.store(&folder).unwrap();
        assert_eq!(AttackFile::load(&folder).unwrap(), Some(file.clone()));
        assert_eq!(file.in_words(), "fibre lab is cut");
        assert!(file.is_on(UNTIL - Span::from_millis(1)) && !file.is_on(UNTIL));
        assert_eq!(file.on_top_of(Eve::ABSENT), Eve::ABSENT);
    }

    #[test]
    fn attacks_come_on_top_and_end_at_their_time() {
        let file = AttackFile::new(Attack::Splitting, 0.25, UNTIL).unwrap();
        let eve = file.on_top_of(Eve::intercepting(Fraction::ONE));
        assert_eq!((eve.intercept_resend, eve.splitting.as_f64()), (Fraction::ONE, 0.25));
        assert!(file.is_on(UNTIL - Span::from_millis(1)) && !file.is_on(UNTIL));
    }

    #[test]
    fn a_bad_file_is_refused_with_what_would_be_right() {
        for (text, right) in [
            ("", "missing field `until_unix_s`"),
            ("until_unix_s = 1.0\nattack = []\nuntill = 2", "unknown field `untill`"),
            ("until_unix_s = 1.0\n[[attack]]\nname = \"blinding\"\nstrenght = 1.0", "`strenght`"),
            (
                "until_unix_s = 1.0\n[[attack]]\nname = \"pns\"\nstrength = 1.0",
                "there are intercept-resend",
            ),
            (
                "until_unix_s = 1.0\n[[attack]]\nname = \"blinding\"\nstrength = 2.0",
                "between 0 and 1",
            ),
            ("until_unix_s = nan\nattack = []", "seconds since 1970"),
        ] {
            let refused =
                AttackFile::parse(text, "fibre/attack.toml".into()).unwrap_err().to_string();
            assert!(refused.contains(right), "{text}: {refused}");
            assert!(refused.contains("fibre/attack.toml"), "{refused}");
        }
    }
}
