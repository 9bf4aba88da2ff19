//! What the platform shows its operator as JSON: `GET /v1/readings` and `GET /v1/devices`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/readings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// In the order in which they were stored.
    pub readings: Vec<Reading>,
}

/// A reading that was decrypted and stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Its place among all readings, from 1.
    pub seq: u64,
    /// The device, as 16 hexadecimal digits.
    pub eui: String,
    /// The epoch of the key that it was sealed under.
    pub epoch: u32,
    /// Where that key comes from; unknown for what an earlier version stored.
    pub key_origin: Option<KeyOrigin>,
    /// Which message of the epoch it is.
    pub counter: u32,
    /// When it was read, in seconds of Unix time.
    pub received_s: f64,
    /// When it was measured; with the rest, absent in a format that the platform does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_s: Option<f64>,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// Relative humidity in per cent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub humidity_pct: Option<f64>,
    /// Illuminance in lux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light_lux: Option<u32>,
    /// Voltage of the battery in millivolts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battery_mv: Option<u16>,
}

/// The answer to `GET /v1/devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// In the order of their names.
    pub devices: Vec<Device>,
}

/// `GET /v1/devices/{eui}/pads`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pads {
    /// Oldest first; a pad that is used up is gone.
    pub pads: Vec<Pad>,
}

/// A pad: keys for many epochs of a device, given by cable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pad {
    /// Which pad of the device's present life, from 1.
    pub pad: u32,
    /// How many keys were ordered.
    pub keys: u32,
    /// How many are held at both sites; once all are, the device can be docked.
    pub held: u32,
    /// The first epoch that the pad leads to, once its device was docked.
    pub first_epoch: Option<u32>,
}

/// A device as the platform knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name, as 16 hexadecimal digits.
    pub eui: String,
    /// Whether the gateway serves it: `waiting`, `offered` or `adopted`.
    pub adoption: String,
    /// The epoch that it has used last.
    pub epoch: u32,
    /// The newest epoch that is ready for it.
    pub prepared: Option<u32>,
    /// Where the key of its epoch comes from; none before the first key from the link.
    pub key_origin: Option<KeyOrigin>,
}

/// Where a key comes from, as far as its key management entity said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyOrigin {
    /// From simulated light: it protects nothing.
    Simulated,
    /// The entity said nothing of it.
    Unlabelled,
}

impl fmt::Display for KeyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simulated => "simulated",
            Self::Unlabelled => "unlabelled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reading_says_where_its_key_comes_from() {
        let reading = Reading {
            seq: 12,
            eui: "02005efffe100001".into(),
            epoch: 3,
            key_origin: Some(KeyOrigin::Simulated),
            counter: 0,
            received_s: 100.0,
            taken_s: None,
            temperature_c: None,
            humidity_pct: Some(43.1),
            light_lux: None,
            battery_mv: None,
        };
        let json = r#"{"readings":[{"seq":12,"eui":"02005efffe100001","epoch":3,"key_origin":"simulated","counter":0,"received_s":100.0,"humidity_pct":43.1}]}"#;
        let readings = Readings { readings: vec![reading] };
        assert_eq!(serde_json::to_string(&readings).unwrap(), json);
        assert_eq!(serde_json::from_str::<Readings>(json).unwrap(), readings);
    }

    #[test]
    fn a_device_without_a_key_has_no_origin() {
        let json = r#"{"devices":[{"eui":"02005efffe100002","adoption":"waiting","epoch":0,"prepared":null,"key_origin":null}]}"#;
        let devices: Devices = serde_json::from_str(json).unwrap();
        assert_eq!(devices.devices[0].key_origin, None);
        assert_eq!(serde_json::to_string(&devices).unwrap(), json);
    }
}
