//! Hardware, read from a file that gives a source for each value, and checked.

use serde::Deserialize;

/// What some hardware needs, in the units that its data sheets use. Every value comes from its file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is called: the name of its file.
    pub name: String,
    /// What it is, in words.
    pub title: String,
    /// Supply voltage.
    pub voltage_v: f64,
    /// The processor computes, the radio is off.
    pub cpu_ma: f64,
    /// The radio receives, with the processor.
    pub listen_ma: f64,
    /// The radio sends, with the processor.
    pub transmit_ma: f64,
    /// Deep sleep.
    pub deep_sleep_ua: f64,
    /// P-256: a key pair.
    pub key_generation_ms: f64,
    /// P-256: a shared secret.
    pub agreement_ms: f64,
    /// P-256: a signature.
    pub sign_ms: f64,
    /// P-256: checking a signature.
    pub verify_ms: f64,
    /// Symmetric work of a handshake and its records.
    pub session_ms: f64,
    /// Symmetric work of one frame.
    pub frame_ms: f64,
    /// Bits a second over the air.
    pub air_bit_rate: f64,
    /// Air time of a packet beside its bits.
    pub packet_air_ms: f64,
    /// Awake time of a packet beside round trips.
    pub packet_awake_ms: f64,
    /// A round trip to the gateway.
    pub round_trip_ms: f64,
    /// A wake with one reading, all of it.
    pub reading_ms: f64,
    /// Its charge.
    pub reading_mc: f64,
    /// What the battery holds.
    pub battery_mah: f64,
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// There is no such profile: name one that there is, or a file.
    #[error("there is no profile {0}: choose one of {names}, or a file such as profiles/fipy.toml", names = Profile::NAMES.join(", "))]
    Unknown(String),
    /// The file is not understood.
    #[error("the profile is not understood:\n{0}")]
    Syntax(String),
    /// A value lies where none can be.
    #[error("{key} = {value}: must be {right}")]
    Value {
        /// Its key.
        key: &'static str,
        /// The value.
        value: f64,
        /// What would be right.
        right: &'static str,
    },
}

/// The profiles that come with this program.
const FILES: [(&str, &str); 13] = [
    ("fipy", include_str!("../../../../profiles/fipy.toml")),
    ("esp32-fast-ecc", include_str!("../../../../profiles/esp32-fast-ecc.toml")),
    ("cortex-m4", include_str!("../../../../profiles/cortex-m4.toml")),
    ("nrf52840", include_str!("../../../../profiles/nrf52840.toml")),
    ("lte-m", include_str!("../../../../profiles/lte-m.toml")),
    ("lora-sf7", include_str!("../../../../profiles/lora-sf7.toml")),
    ("lora-sf8", include_str!("../../../../profiles/lora-sf8.toml")),
    ("lora-sf9", include_str!("../../../../profiles/lora-sf9.toml")),
    ("lora-sf10", include_str!("../../../../profiles/lora-sf10.toml")),
    ("lora-sf11", include_str!("../../../../profiles/lora-sf11.toml")),
    ("lora-sf12", include_str!("../../../../profiles/lora-sf12.toml")),
    ("reference", include_str!("../../../../profiles/reference.toml")),
    ("reference-fast-ecc", include_str!("../../../../profiles/reference-fast-ecc.toml")),
];

impl Profile {
    /// The names of the profiles that come with this program.
    pub const NAMES: [&str; FILES.len()] = {
        let mut names = [""; FILES.len()];
        let mut n = 0;
        while n < FILES.len() {
            names[n] = FILES[n].0;
            n += 1;
        }
        names
    };

    /// Returns a profile that comes with this program.
    pub fn named(name: &str) -> Result<Self, ProfileError> {
        let file = FILES.iter().find(|(known, _)| *known == name);
        let (_, text) = file.ok_or_else(|| ProfileError::Unknown(name.to_owned()))?;
        Self::from_toml(text)
    }

    /// Reads a profile and checks it.
    pub fn from_toml(text: &str) -> Result<Self, ProfileError> {
        let profile: Self =
            toml::from_str(text).map_err(|error| ProfileError::Syntax(error.to_string()))?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), ProfileError> {
        let above_zero = [
            ("voltage_v", self.voltage_v),
            ("cpu_ma", self.cpu_ma),
            ("air_bit_rate", self.air_bit_rate),
            ("battery_mah", self.battery_mah),
        ];
        let not_negative = [
            ("deep_sleep_ua", self.deep_sleep_ua),
            ("key_generation_ms", self.key_generation_ms),
            ("agreement_ms", self.agreement_ms),
            ("sign_ms", self.sign_ms),
            ("verify_ms", self.verify_ms),
            ("session_ms", self.session_ms),
            ("frame_ms", self.frame_ms),
            ("packet_air_ms", self.packet_air_ms),
            ("packet_awake_ms", self.packet_awake_ms),
            ("round_trip_ms", self.round_trip_ms),
            ("reading_ms", self.reading_ms),
            ("reading_mc", self.reading_mc),
        ];
        for (key, value) in above_zero {
            if !(value > 0.0 && value.is_finite()) {
                return Err(ProfileError::Value { key, value, right: "above 0" });
            }
        }
        for (key, value) in not_negative {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(ProfileError::Value { key, value, right: "0 or above" });
            }
        }
        for (key, value) in [("listen_ma", self.listen_ma), ("transmit_ma", self.transmit_ma)] {
            if !(value >= self.cpu_ma && value.is_finite()) {
                let right = "cpu_ma or above, as it includes the processor";
                return Err(ProfileError::Value { key, value, right });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_has_its_own_name_and_a_source_for_each_value() {
        for (name, text) in FILES {
            assert_eq!(Profile::named(name).unwrap().name, name);
            let mut has_source = false;
            for line in text.lines() {
                has_source |= line.starts_with("# source: ");
                let is_value = line.contains(" = ") && !line.starts_with('#');
                let needs_none = line.starts_with("name") || line.starts_with("title");
                assert!(!is_value || needs_none || has_source, "{name}: {line}");
                // A source holds for the values below it, up to the next empty line.
                has_source &= !line.is_empty();
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let good = FILES[0].1;
        let with = |key: &str, value: &str| {
            let lines = good.lines().map(|line| match line.split_once(" = ") {
                Some((name, _)) if name == key => format!("{key} = {value}\n"),
                _ => format!("{line}\n"),
            });
            Profile::from_toml(&lines.collect::<String>()).unwrap_err().to_string()
        };
        for (key, value, told) in [
            ("voltage_v", "0", "above 0"),
            ("verify_ms", "-1", "0 or above"),
            ("listen_ma", "1", "includes the processor"),
            ("battery_mah", "nan", "above 0"),
            ("cpu_ma", "\"much\"", "cpu_ma"),
        ] {
            let said = with(key, value);
            assert!(said.contains(key) && said.contains(told), "{said}");
        }
        assert!(Profile::named("toaster").unwrap_err().to_string().contains("fipy, "));
        assert!(Profile::from_toml(&(good.to_owned() + "speed = 1\n")).is_err());
    }
}
