//! ETSI GS QKD 014 V1.1.1: the JSON bodies of its three methods (`WIRE.md` §2).
//!
//! Both directions stand here: a KME reads [`KeyRequest`] and [`KeyIds`] and writes [`Status`],
//! [`KeyContainer`] and [`ErrorBody`]; an application does the reverse. Requests are read strictly,
//! because a misread request spends keys; answers of other vendors' KMEs are read by what they must
//! contain and not by what they may.
//!
//! HTTP itself (paths, percent-decoding, limits on size) is the business of the shell.

mod json;
mod request;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_units::{KeyId, SecretBytes};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use zeroize::Zeroizing;

pub use request::{KeyIds, KeyRequest, Parameter, RequestError};

/// An answer that is not what ETSI GS QKD 014 says a KME answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Not the JSON that belongs here: the other end is no KME, or a proxy answered for it.
    // The cause is not named: a parser quotes what it stumbles over, and that may be a key.
    #[error("the answer is no {0} of ETSI GS QKD 014")]
    Malformed(&'static str),
}

/// The answer of "Get status" (ETSI GS QKD 014 §6.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The KME that answers.
    #[serde(rename = "source_KME_ID")]
    pub source_kme_id: String,
    /// The KME of the slave.
    #[serde(rename = "target_KME_ID")]
    pub target_kme_id: String,
    /// The application that asks.
    #[serde(rename = "master_SAE_ID")]
    pub master_sae_id: String,
    /// The application it asks about.
    #[serde(rename = "slave_SAE_ID")]
    pub slave_sae_id: String,
    /// The size of a key in bits where a request names none.
    pub key_size: u64,
    /// How many keys of that size this KME can hand to this pair now.
    pub stored_key_count: u64,
    /// The most that `stored_key_count` can become.
    pub max_key_count: u64,
    /// The most keys in one request.
    pub max_key_per_request: u64,
    /// The largest key in bits.
    pub max_key_size: u64,
    /// The smallest key in bits.
    pub min_key_size: u64,
    /// How many additional slaves a request may name.
    #[serde(rename = "max_SAE_ID_count")]
    pub max_sae_id_count: u64,
    /// What we say beyond the standard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_extension: Option<Extension>,
}

impl Status {
    /// Writes the body of the answer.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        written(self, Vec::new())
    }

    /// Reads the body of an answer.
    pub fn from_json(body: &[u8]) -> Result<Self, AnswerError> {
        serde_json::from_slice(body).or(Err(AnswerError::Malformed("status")))
    }
}

/// The members of ours in `status_extension` and `key_extension`; others are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extension {
    /// Where the keys come from, e.g. `simulated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claviger_origin: Option<String>,
    /// The security that their link claims, e.g. `finite-size`; absent where it claims none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claviger_claim: Option<String>,
    /// What the KME lacks to hand out keys, with the remedy; absent when it lacks nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claviger_lacks: Option<String>,
}

impl Extension {
    /// Makes an extension that says where keys come from.
    #[must_use]
    pub fn of_origin(origin: impl Into<String>) -> Self {
        Self { claviger_origin: Some(origin.into()), ..Self::default() }
    }
}

/// Takes what it knows and tolerates every other shape: extensions are "for future use".
impl<'de> Deserialize<'de> for Extension {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |name| value.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        Ok(Self {
            claviger_origin: text("claviger_origin"),
            claviger_claim: text("claviger_claim"),
            claviger_lacks: text("claviger_lacks"),
        })
    }
}

/// The answer of "Get key" and "Get key with key IDs" (ETSI GS QKD 014 §6.3).
///
/// ```
/// use claviger_units::{KeyId, SecretBytes};
/// use claviger_wire::etsi014::{Key, KeyContainer};
///
/// let key = Key {
///     id: KeyId::from_bytes([1; 16]),
///     key: SecretBytes::new(vec![7; 32]),
///     extension: None,
/// };
/// let body = KeyContainer { keys: vec![key] }.to_json();
/// let read = KeyContainer::from_json(body.expose())?;
/// assert_eq!(read.keys[0].key.expose(), [7; 32]);
/// # Ok::<(), claviger_wire::etsi014::AnswerError>(())
/// ```
#[derive(Debug)]
pub struct KeyContainer {
    /// The keys, in the order of the request.
    pub keys: Vec<Key>,
}

/// A key with its name and origin.
#[derive(Debug)]
pub struct Key {
    /// The `key_ID`.
    pub id: KeyId,
    /// The key itself.
    pub key: SecretBytes,
    /// What we say beyond the standard.
    pub extension: Option<Extension>,
}

impl KeyContainer {
    /// Writes the body of the answer; it holds the keys.
    #[must_use]
    pub fn to_json(&self) -> SecretBytes {
        let keys = self.keys.iter().map(KeyOut::of).collect();
        // All room at once: a vector that grows leaves copies of the keys behind.
        let room = self.keys.iter().map(Key::json_bound).sum::<usize>() + 16;
        SecretBytes::new(written(&ContainerOut { keys }, Vec::with_capacity(room)))
    }

    /// Reads the body of an answer.
    pub fn from_json(body: &[u8]) -> Result<Self, AnswerError> {
        let malformed = AnswerError::Malformed("key container");
        let container: ContainerIn<'_> = serde_json::from_slice(body).or(Err(malformed))?;
        let keys = container.keys.into_iter().map(|key| {
            let id = key.key_id.parse().or(Err(malformed))?;
            Ok(Key { id, key: key.key.0, extension: key.key_extension })
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }
}

impl Key {
    /// At least the length of this key in JSON.
    fn json_bound(&self) -> usize {
        let texts = |e: &Extension| {
            [&e.claviger_origin, &e.claviger_claim, &e.claviger_lacks]
                .map(|text| text.as_ref().map_or(0, String::len))
        };
        // A character of JSON text takes at most six bytes for one of its own.
        let texts: usize = 6 * self.extension.iter().flat_map(texts).sum::<usize>();
        192 + 4 * self.key.len().div_ceil(3) + texts
    }
}

#[derive(Serialize)]
struct ContainerOut<'a> {
    keys: Vec<KeyOut<'a>>,
}

#[derive(Serialize)]
struct KeyOut<'a> {
    #[serde(rename = "key_ID")]
    key_id: String,
    #[serde(serialize_with = "base64_text")]
    key: &'a SecretBytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_extension: Option<&'a Extension>,
}

impl<'a> KeyOut<'a> {
    fn of(key: &'a Key) -> Self {
        Self { key_id: key.id.to_string(), key: &key.key, key_extension: key.extension.as_ref() }
    }
}

fn base64_text<S: Serializer>(key: &SecretBytes, serializer: S) -> Result<S::Ok, S::Error> {
    let text = Zeroizing::new(STANDARD.encode(key.expose()));
    serializer.serialize_str(&text)
}

#[derive(Deserialize)]
struct ContainerIn<'a> {
    #[serde(borrow)]
    keys: Vec<KeyIn<'a>>,
}

#[derive(Deserialize)]
struct KeyIn<'a> {
    #[serde(rename = "key_ID", borrow)]
    key_id: Cow<'a, str>,
    key: Base64Key,
    #[serde(default)]
    key_extension: Option<Extension>,
}

/// Decodes while reading, so that no text of the key is kept.
struct Base64Key(SecretBytes);

impl<'de> Deserialize<'de> for Base64Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Base64Visitor)
    }
}

struct Base64Visitor;

impl Visitor<'_> for Base64Visitor {
    type Value = Base64Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key in base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Base64Key, E> {
        let bytes = STANDARD.decode(text).or(Err(E::custom("no base64")))?;
        Ok(Base64Key(SecretBytes::new(bytes)))
    }
}

/// The body of every refusal (ETSI GS QKD 014 §6.5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub message: String,
    /// Names and values that tell more, one pair or several in each entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "tolerant_details")]
    pub details: Vec<BTreeMap<String, String>>,
}

impl ErrorBody {
    /// Makes a body of a message alone.
    #[must_use]
    pub fn of_message(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: Vec::new() }
    }

    /// Writes the body of the answer.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        written(self, Vec::new())
    }

    /// Reads the body of an answer.
    pub fn from_json(body: &[u8]) -> Result<Self, AnswerError> {
        serde_json::from_slice(body).or(Err(AnswerError::Malformed("error")))
    }
}

/// Reads the details of other vendors: what is no text becomes the text of its JSON.
fn tolerant_details<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<BTreeMap<String, String>>, D::Error> {
    let entries = match Value::deserialize(deserializer)? {
        Value::Array(entries) => entries,
        Value::Null => Vec::new(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            vec![other]
        }
    };
    let text = |value| match value {
        Value::String(text) => text,
        other => Value::to_string(&other),
    };
    let pairs = |entry| match entry {
        Value::Object(members) => members.into_iter().map(|(k, v)| (k, text(v))).collect(),
        other => BTreeMap::from([("detail".to_owned(), text(other))]),
    };
    Ok(entries.into_iter().map(pairs).collect())
}

/// Writes `value` into `room`.
fn written(value: &impl Serialize, mut room: Vec<u8>) -> Vec<u8> {
    serde_json::to_writer(&mut room, value)
        .expect("writing to memory succeeds, all keys are texts");
    room
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status() -> Status {
        Status {
            source_kme_id: "kme-a".to_owned(),
            target_kme_id: "kme-b".to_owned(),
            master_sae_id: "gateway".to_owned(),
            slave_sae_id: "platform".to_owned(),
            key_size: 256,
            stored_key_count: 3400,
            max_key_count: 3417,
            max_key_per_request: 128,
            max_key_size: 1024,
            min_key_size: 64,
            max_sae_id_count: 0,
            status_extension: Some(Extension::of_origin("simulated")),
        }
    }

    /// ETSI GS QKD 014 §6.1 names the members; `WIRE.md` §2: all integers are JSON integers.
    #[test]
    fn a_status_has_the_members_of_the_standard() {
        let golden = concat!(
            r#"{"source_KME_ID":"kme-a","target_KME_ID":"kme-b","master_SAE_ID":"gateway","#,
            r#""slave_SAE_ID":"platform","key_size":256,"stored_key_count":3400,"#,
            r#""max_key_count":3417,"max_key_per_request":128,"max_key_size":1024,"#,
            r#""min_key_size":64,"max_SAE_ID_count":0,"#,
            r#""status_extension":{"claviger_origin":"simulated"}}"#,
        );
        assert_eq!(String::from_utf8(status().to_json()).unwrap(), golden);
        assert_eq!(Status::from_json(golden.as_bytes()), Ok(status()));
    }

    #[test]
    fn a_container_has_the_members_of_the_standard() {
        let id = "550e8400-e29b-41d4-a716-446655440000".parse().unwrap();
        let key = Key {
            id,
            key: SecretBytes::new(vec![0xFB; 8]),
            extension: Some(Extension {
                claviger_claim: Some("gllp".to_owned()),
                ..Extension::of_origin("simulated")
            }),
        };
        let golden = concat!(
            r#"{"keys":[{"key_ID":"550e8400-e29b-41d4-a716-446655440000","key":"+/v7+/v7+/s=","#,
            r#""key_extension":{"claviger_origin":"simulated","claviger_claim":"gllp"}}]}"#,
        );
        let body = KeyContainer { keys: vec![key] }.to_json();
        assert_eq!(std::str::from_utf8(body.expose()), Ok(golden));
    }

    #[test]
    fn containers_of_other_vendors_are_read() {
        let body = concat!(
            r#"{"key_container_extension":null,"keys":[{"key_ID_extension":{"x":1},"#,
            r#""key_ID":"550E8400-E29B-41D4-A716-446655440000","key":"+\/v7+\/v7+\/s=","#,
            r#""key_extension":"anything"}]}"#,
        );
        let read = KeyContainer::from_json(body.as_bytes()).unwrap();
        let key = read.keys.first().unwrap();
        assert_eq!(key.id.to_string(), "550e8400-e29b-41d4-a716-446655440000");
        assert_eq!(key.key.expose(), [0xFB; 8]);
        assert_eq!(key.extension, Some(Extension::default()));
    }

    #[test]
    fn malformed_answers_are_refused_without_quoting_them() {
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"keys":[{"key_ID":"1","key":"AAAA"}]}"#,
            r#"{"keys":[{"key_ID":"550e8400-e29b-41d4-a716-446655440000","key":"AAA"}]}"#,
            r#"{"keys":[{"key_ID":"550e8400-e29b-41d4-a716-446655440000","key":"_-__"}]}"#,
            r#"{"keys":[{"key":"AAAA"}]}"#,
            r#"{"keys":"c2VjcmV0"}"#,
        ] {
            let error = KeyContainer::from_json(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "the answer is no key container of ETSI GS QKD 014");
        }
    }

    #[test]
    fn an_error_has_details_only_where_there_are_some() {
        let plain = ErrorBody::of_message("no");
        assert_eq!(plain.to_json(), br#"{"message":"no"}"#);
        let told = ErrorBody {
            details: vec![BTreeMap::from([("max_key_per_request".to_owned(), "128".to_owned())])],
            ..plain
        };
        assert_eq!(
            told.to_json(),
            br#"{"message":"no","details":[{"max_key_per_request":"128"}]}"#
        );
        assert_eq!(ErrorBody::from_json(&told.to_json()), Ok(told));
        for (theirs, count) in [
            (r#"{"message":"no","details":null}"#, 0),
            (r#"{"message":"no","details":"text"}"#, 1),
            (r#"{"message":"no","details":[{"a":1,"b":{}},"c"],"code":7}"#, 2),
        ] {
            assert_eq!(ErrorBody::from_json(theirs.as_bytes()).unwrap().details.len(), count);
        }
    }

    fn any_extension() -> impl Strategy<Value = Option<Extension>> {
        prop::option::of(any::<[Option<String>; 3]>().prop_map(|texts| {
            let [claviger_origin, claviger_claim, claviger_lacks] = texts;
            Extension { claviger_origin, claviger_claim, claviger_lacks }
        }))
    }

    proptest! {
        #[test]
        fn containers_survive_json_and_never_outgrow_their_room(
            keys in prop::collection::vec(
                (any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..130), any_extension()),
                0..6,
            ),
        ) {
            let container = KeyContainer {
                keys: keys.iter().map(|(id, key, extension)| Key {
                    id: KeyId::from_bytes(*id),
                    key: SecretBytes::new(key.clone()),
                    extension: extension.clone(),
                }).collect(),
            };
            let room = container.keys.iter().map(Key::json_bound).sum::<usize>() + 16;
            let body = container.to_json();
            prop_assert!(body.len() <= room);
            let back = KeyContainer::from_json(body.expose()).unwrap();
            for (key, (id, bytes, extension)) in back.keys.iter().zip(&keys) {
                prop_assert_eq!(key.id.as_bytes(), id);
                prop_assert_eq!(key.key.expose(), &bytes[..]);
                prop_assert_eq!(&key.extension, extension);
            }
            prop_assert_eq!(back.keys.len(), keys.len());
        }

        #[test]
        fn readers_of_answers_never_panic(body: Vec<u8>, text: String) {
            for body in [&body[..], text.as_bytes()] {
                let _ = Status::from_json(body).is_ok();
                let _ = ErrorBody::from_json(body).is_ok();
                let _ = KeyContainer::from_json(body).is_ok();
            }
        }
    }
}
