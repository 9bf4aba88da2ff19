//! What the platform says and takes of the enrolment of devices, as JSON: `GET` and `POST
//! /v1/enrolments`, `POST /v1/enrolments/{mac}/{measure}`, `GET /v1/orders` and `GET /v1/audit`.
//!
//! Cards are six pairs of hexadecimal digits with colons; times are seconds of Unix time.

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/enrolments?after=MAC&limit=N`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Enrolments {
    /// In the order of their cards.
    pub enrolments: Vec<Enrolment>,
}

/// A device as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Its card.
    pub mac: String,
    /// `manufactured`, `pending`, `approved`, `active`, `suspended`, `quarantined` or `retired`.
    pub standing: String,
    /// What it may reach: a policy of the controller's.
    pub policy: String,
    /// Where it was seen last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Since when it stands there.
    pub since_s: f64,
    /// The order with which its first key was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u64>,
}

/// The answer to an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// How many devices were taken in.
    pub devices: usize,
}

/// What a measure takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Why it is done, for the audit log.
    #[serde(default)]
    pub why: String,
}

/// The answer to a measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The device.
    pub mac: String,
    /// Where it stands now.
    pub standing: String,
}

/// The answer to `GET /v1/orders?after=NUMBER`: up to 1000.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    /// In the order in which they were placed.
    pub orders: Vec<Order>,
}

/// An order for first keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its number, from 1.
    pub number: u64,
    /// When it was placed.
    pub placed_s: f64,
    /// For how many devices: so many keys were asked for.
    pub keys: usize,
}

/// The answer to `GET /v1/audit?after=SEQ&wait_s=SECONDS`: up to 1000.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// In the order in which they were written.
    pub entries: Vec<AuditEntry>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number, from 1.
    pub seq: u64,
    /// When.
    pub at_s: f64,
    /// Who did it: the name in a certificate, or of a rule.
    pub who: String,
    /// To which device.
    pub mac: String,
    /// What.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_place_and_order_says_nothing_of_them() {
        let json = r#"{"mac":"02:00:5e:10:00:01","standing":"manufactured","policy":"sensor","since_s":1.5}"#;
        let read: Enrolment = serde_json::from_str(json).unwrap();
        assert_eq!((read.place.as_deref(), read.order), (None, None));
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
    }

    #[test]
    fn a_reason_may_be_left_out_and_nothing_else_put_in() {
        assert_eq!(serde_json::from_str::<Reason>("{}").unwrap(), Reason::default());
        assert!(serde_json::from_str::<Reason>(r#"{"because":"x"}"#).is_err());
    }
}
