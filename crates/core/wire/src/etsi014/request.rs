//! What an application asks: new keys, or its copy of keys that a master has got.

use std::collections::BTreeMap;

use claviger_units::{KeyId, SaeId};
use serde::Serialize;

use super::json::{Json, JsonError};
use super::written;

/// A request that cannot be read; the application has to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The body is no JSON text.
    #[error("the body is not JSON")]
    Syntax,
    /// The body is JSON, but no object.
    #[error("the body shall be a JSON object")]
    NoObject,
    /// An object, at any depth, has two members of one name.
    #[error("an object names a member twice")]
    Duplicate,
    /// A member has the wrong type.
    #[error("{member} shall be {expected}")]
    Type {
        /// The member or parameter.
        member: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// A member that a request cannot do without.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A query parameter that a GET cannot carry, or one given twice.
    #[error("a GET carries {allowed}, each at most once; use POST for more")]
    Query {
        /// What it may carry.
        allowed: &'static str,
    },
}

/// The request of "Get key" (ETSI GS QKD 014 §6.2), as read: ranges are not yet checked.
///
/// ```
/// use claviger_wire::etsi014::KeyRequest;
///
/// let request = KeyRequest::from_body(br#"{"number": 3, "size": null}"#)?;
/// assert_eq!((request.number, request.size), (Some(3), None));
/// assert!(KeyRequest::from_body(br#"{"number": 3.0}"#).is_err());
/// # Ok::<(), claviger_wire::etsi014::RequestError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRequest {
    /// How many keys; any integer that the application wrote, also a negative one.
    pub number: Option<i128>,
    /// The size of each in bits, likewise.
    pub size: Option<i128>,
    /// Slaves beside the one in the path.
    pub additional_slaves: Vec<SaeId>,
    /// What the KME must obey, or refuse.
    pub mandatory: Vec<Parameter>,
}

/// An extension parameter that the KME must obey, or refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name.
    pub name: String,
    /// The value where it is a text.
    pub text: Option<String>,
}

impl KeyRequest {
    /// Reads the body of a POST; an empty one means `{}`.
    pub fn from_body(body: &[u8]) -> Result<Self, RequestError> {
        let mut members = Members::parse(body)?;
        let number = members.integer("number")?;
        let size = members.integer("size")?;
        let slaves = members.array(SLAVES.0, SLAVES.1)?.unwrap_or_default();
        let mandatory = parameters(members.array(MANDATORY.0, MANDATORY.1)?, MANDATORY)?;
        // Nothing optional is supported, but what is malformed is refused all the same.
        parameters(members.array(OPTIONAL.0, OPTIONAL.1)?, OPTIONAL)?;
        let additional_slaves = slaves.into_iter().map(|slave| parsed(slave, SLAVES));
        Ok(Self {
            number,
            size,
            additional_slaves: additional_slaves.collect::<Result<_, _>>()?,
            mandatory,
        })
    }

    /// Reads the decoded query of a GET.
    pub fn from_query<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, RequestError> {
        let mut request = Self::default();
        for (name, value) in pairs {
            let (slot, member) = match name.as_ref() {
                "number" => (&mut request.number, "number"),
                "size" => (&mut request.size, "size"),
                _ => return Err(KEY_QUERY),
            };
            if slot.replace(decimal(value.as_ref(), member)?).is_some() {
                return Err(KEY_QUERY);
            }
        }
        Ok(request)
    }

    /// Writes the body of a POST.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        written(&KeyRequestOut::of(self), Vec::new())
    }
}

/// The request of "Get key with key IDs" (ETSI GS QKD 014 §6.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyIds {
    /// The keys that are asked for, as written: perhaps none, perhaps one twice.
    pub ids: Vec<KeyId>,
}

impl KeyIds {
    /// Reads the body of a POST; an empty one means `{}`.
    pub fn from_body(body: &[u8]) -> Result<Self, RequestError> {
        let entries = Members::parse(body)?.array(IDS.0, IDS.1)?;
        let ids = entries.ok_or(RequestError::Missing(IDS.0))?.into_iter().map(|entry| {
            let Json::Object(object) = entry else { return Err(wrong(IDS)) };
            let id = Members(object).take(ID.0).ok_or(RequestError::Missing(ID.0))?;
            parsed(id, ID)
        });
        Ok(Self { ids: ids.collect::<Result<_, _>>()? })
    }

    /// Reads the decoded query of a GET, which carries one `key_ID`.
    pub fn from_query<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, RequestError> {
        let mut ids = Vec::new();
        for (name, value) in pairs {
            if name.as_ref() != ID.0 || !ids.is_empty() {
                return Err(ID_QUERY);
            }
            ids.push(value.as_ref().parse().or(Err(wrong(ID)))?);
        }
        if ids.is_empty() { Err(RequestError::Missing(ID.0)) } else { Ok(Self { ids }) }
    }

    /// Writes the body of a POST.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let entry = |id: &KeyId| BTreeMap::from([(ID.0, id.to_string())]);
        let entries: Vec<_> = self.ids.iter().map(entry).collect();
        written(&BTreeMap::from([(IDS.0, entries)]), Vec::new())
    }
}

#[derive(Serialize)]
struct KeyRequestOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<i128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<i128>,
    #[serde(rename = "additional_slave_SAE_IDs", skip_serializing_if = "Vec::is_empty")]
    additional_slaves: Vec<&'a str>,
    #[serde(rename = "extension_mandatory", skip_serializing_if = "Vec::is_empty")]
    mandatory: Vec<BTreeMap<&'a str, Option<&'a str>>>,
}

impl<'a> KeyRequestOut<'a> {
    fn of(request: &'a KeyRequest) -> Self {
        let pair = |p: &'a Parameter| BTreeMap::from([(p.name.as_str(), p.text.as_deref())]);
        Self {
            number: request.number,
            size: request.size,
            additional_slaves: request.additional_slaves.iter().map(SaeId::as_str).collect(),
            mandatory: request.mandatory.iter().map(pair).collect(),
        }
    }
}

/// The members of an object; unknown ones are never asked for.
struct Members(BTreeMap<String, Json>);

impl Members {
    fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        match Json::parse(body) {
            Ok(Json::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(RequestError::NoObject),
            Err(JsonError::Syntax) => Err(RequestError::Syntax),
            Err(JsonError::Duplicate) => Err(RequestError::Duplicate),
        }
    }

    /// Takes a member; null is as good as absent.
    fn take(&mut self, name: &str) -> Option<Json> {
        self.0.remove(name).filter(|value| *value != Json::Null)
    }

    fn integer(&mut self, name: &'static str) -> Result<Option<i128>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::Integer(value)) => Ok(Some(value)),
            Some(_) => Err(wrong((name, INTEGER))),
        }
    }

    fn array(
        &mut self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<Vec<Json>>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::Array(entries)) => Ok(Some(entries)),
            Some(_) => Err(wrong((name, expected))),
        }
    }
}

/// Flattens an array of objects into names and values.
fn parameters(array: Option<Vec<Json>>, member: Member) -> Result<Vec<Parameter>, RequestError> {
    let mut parameters = Vec::new();
    for entry in array.unwrap_or_default() {
        let Json::Object(object) = entry else { return Err(wrong(member)) };
        parameters.extend(object.into_iter().map(|(name, value)| match value {
            Json::Text(text) => Parameter { name, text: Some(text) },
            _ => Parameter { name, text: None },
        }));
    }
    Ok(parameters)
}

fn parsed<T: std::str::FromStr>(value: Json, member: Member) -> Result<T, RequestError> {
    match value {
        Json::Text(text) => text.parse().or(Err(wrong(member))),
        _ => Err(wrong(member)),
    }
}

/// Reads an integer of a query as JSON writes it, so that both methods mean the same by it.
fn decimal(text: &str, member: &'static str) -> Result<i128, RequestError> {
    let digits = text.bytes().all(|c| c.is_ascii_digit() || c == b'-');
    match Json::parse(text.as_bytes()) {
        Ok(Json::Integer(value)) if digits => Ok(value),
        _ => Err(wrong((member, INTEGER))),
    }
}

const fn wrong((member, expected): Member) -> RequestError {
    RequestError::Type { member, expected }
}

/// The name of a member and what belongs there.
type Member = (&'static str, &'static str);

const INTEGER: &str = "an integer";
const SLAVES: Member = ("additional_slave_SAE_IDs", "an array of SAE ids");
const MANDATORY: Member = ("extension_mandatory", "an array of objects");
const OPTIONAL: Member = ("extension_optional", "an array of objects");
const IDS: Member = ("key_IDs", "an array of objects with a key_ID");
const ID: Member = ("key_ID", "a UUID such as 550e8400-e29b-41d4-a716-446655440000");
const KEY_QUERY: RequestError = RequestError::Query { allowed: "only number and size" };
const ID_QUERY: RequestError = RequestError::Query { allowed: "only one key_ID" };

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(number: Option<i128>, size: Option<i128>) -> KeyRequest {
        KeyRequest { number, size, ..KeyRequest::default() }
    }

    #[test]
    fn absent_null_and_empty_are_one() {
        for body in [
            "",
            "{}",
            r#"{"number":null,"size":null,"additional_slave_SAE_IDs":null}"#,
            r#"{"extension_mandatory":[],"extension_optional":null}"#,
            r#"{"extension_mandatory":[{}],"additional_slave_SAE_IDs":[]}"#,
            r#"{"unknown":{"number":0},"Number":7}"#,
        ] {
            assert_eq!(KeyRequest::from_body(body.as_bytes()), Ok(of(None, None)), "{body}");
        }
    }

    #[test]
    fn key_requests_are_read_as_written() {
        for (body, request) in [
            (r#"{"number":0}"#, of(Some(0), None)),
            (r#"{"number":-3,"size":18446744073709551615}"#, of(Some(-3), Some(u64::MAX.into()))),
            (r#"{"num\u0062er":5,"extension_optional":[{"a":1}]}"#, of(Some(5), None)),
        ] {
            assert_eq!(KeyRequest::from_body(body.as_bytes()), Ok(request), "{body}");
        }
        let body = r#"{"extension_mandatory":[{"a":"b","c":1}],"additional_slave_SAE_IDs":["x"]}"#;
        let read = KeyRequest::from_body(body.as_bytes()).unwrap();
        let names: Vec<_> = read.mandatory.iter().map(|p| (&*p.name, p.text.as_deref())).collect();
        assert_eq!(names, [("a", Some("b")), ("c", None)]);
        assert_eq!(read.additional_slaves, ["x".parse().unwrap()]);
    }

    #[test]
    fn malformed_key_requests_are_refused() {
        let number = wrong(("number", INTEGER));
        let size = wrong(("size", INTEGER));
        for (body, error) in [
            ("null", RequestError::NoObject),
            ("[]", RequestError::NoObject),
            ("number=1", RequestError::Syntax),
            (" ", RequestError::Syntax),
            (r#"{"number":1}x"#, RequestError::Syntax),
            (r#"{"number":1,"number":1}"#, RequestError::Duplicate),
            (r#"{"unknown":{"a":1,"a":1}}"#, RequestError::Duplicate),
            (r#"{"number":1.0}"#, number.clone()),
            (r#"{"number":1e0}"#, number.clone()),
            (r#"{"number":"1"}"#, number.clone()),
            (r#"{"number":true}"#, number.clone()),
            (r#"{"number":18446744073709551616}"#, number.clone()),
            (r#"{"number":[1]}"#, number),
            (r#"{"size":{}}"#, size),
            (r#"{"additional_slave_SAE_IDs":{}}"#, wrong(SLAVES)),
            (r#"{"additional_slave_SAE_IDs":"x"}"#, wrong(SLAVES)),
            (r#"{"additional_slave_SAE_IDs":["x",null]}"#, wrong(SLAVES)),
            (r#"{"additional_slave_SAE_IDs":[""]}"#, wrong(SLAVES)),
            (r#"{"additional_slave_SAE_IDs":[" "]}"#, wrong(SLAVES)),
            (r#"{"extension_mandatory":{}}"#, wrong(MANDATORY)),
            (r#"{"extension_mandatory":["a"]}"#, wrong(MANDATORY)),
            (r#"{"extension_optional":{}}"#, wrong(OPTIONAL)),
            (r#"{"extension_optional":[1]}"#, wrong(OPTIONAL)),
        ] {
            assert_eq!(KeyRequest::from_body(body.as_bytes()), Err(error), "{body}");
        }
    }

    #[test]
    fn a_get_carries_number_and_size_only() {
        let read = |pairs: &[(&str, &str)]| KeyRequest::from_query(pairs.iter().copied());
        assert_eq!(read(&[]), Ok(of(None, None)));
        assert_eq!(read(&[("size", "128"), ("number", "-1")]), Ok(of(Some(-1), Some(128))));
        for value in ["", " 1", "1 ", "+1", "1.0", "1e1", "007", "one", "--1", "1\n", "٣"] {
            assert_eq!(read(&[("number", value)]), Err(wrong(("number", INTEGER))), "{value:?}");
        }
        for pairs in [
            &[("number", "1"), ("number", "1")][..],
            &[("additional_slave_SAE_IDs", "x")],
            &[("Number", "1")],
            &[("", "")],
        ] {
            assert_eq!(read(pairs), Err(KEY_QUERY), "{pairs:?}");
        }
    }

    #[test]
    fn key_ids_are_uuids_in_objects() {
        const UUID: &str = "550e8400-e29b-41d4-a716-446655440000";
        let id: KeyId = UUID.parse().unwrap();
        let read = |body: &str| KeyIds::from_body(body.as_bytes());
        let one = format!(r#"{{"key_IDs":[{{"key_ID":"{UUID}","key_ID_extension":{{}}}}],"x":1}}"#);
        assert_eq!(read(&one), Ok(KeyIds { ids: vec![id] }));
        assert_eq!(read(&one.replace(UUID, &UUID.to_uppercase())), read(&one));
        assert_eq!(read(r#"{"key_IDs":[]}"#), Ok(KeyIds::default()));
        for (body, error) in [
            ("", RequestError::Missing("key_IDs")),
            (r#"{"key_IDs":null}"#, RequestError::Missing("key_IDs")),
            (r#"{"key_IDs":{}}"#, wrong(IDS)),
            (r#"{"key_IDs":["x"]}"#, wrong(IDS)),
            (r#"{"key_IDs":[{}]}"#, RequestError::Missing("key_ID")),
            (r#"{"key_IDs":[{"key_ID":null}]}"#, RequestError::Missing("key_ID")),
            (r#"{"key_IDs":[{"key_ID":1}]}"#, wrong(ID)),
            (r#"{"key_IDs":[{"key_ID":"1"}]}"#, wrong(ID)),
            (r#"{"key_IDs":[{"key_ID":"550e8400e29b41d4a716446655440000"}]}"#, wrong(ID)),
        ] {
            assert_eq!(read(body), Err(error), "{body}");
        }
        let query = |pairs: &[(&str, &str)]| KeyIds::from_query(pairs.iter().copied());
        assert_eq!(query(&[("key_ID", UUID)]), Ok(KeyIds { ids: vec![id] }));
        assert_eq!(query(&[]), Err(RequestError::Missing("key_ID")));
        assert_eq!(query(&[("key_ID", "")]), Err(wrong(ID)));
        assert_eq!(query(&[("key_ID", UUID), ("key_ID", UUID)]), Err(ID_QUERY));
        assert_eq!(query(&[("number", "1")]), Err(ID_QUERY));
    }

    fn any_sae() -> impl Strategy<Value = SaeId> {
        any::<String>().prop_filter_map("a SAE id", |text| text.parse().ok())
    }

    proptest! {
        #[test]
        fn key_requests_survive_json(
            number in any::<Option<u64>>(),
            size in any::<Option<i64>>(),
            additional_slaves in prop::collection::vec(any_sae(), 0..4),
            mandatory in prop::collection::vec(any::<(String, Option<String>)>(), 0..4),
        ) {
            let mandatory = mandatory.into_iter().map(|(name, text)| Parameter { name, text });
            let request = KeyRequest {
                number: number.map(i128::from),
                size: size.map(i128::from),
                additional_slaves,
                mandatory: mandatory.collect(),
            };
            prop_assert_eq!(KeyRequest::from_body(&request.to_json()), Ok(request));
        }

        #[test]
        fn key_ids_survive_json(ids: Vec<[u8; 16]>) {
            let ids = KeyIds { ids: ids.into_iter().map(KeyId::from_bytes).collect() };
            prop_assert_eq!(KeyIds::from_body(&ids.to_json()), Ok(ids));
        }

        #[test]
        fn readers_of_requests_never_panic(body: Vec<u8>, text: String, pairs: Vec<(String, String)>) {
            for body in [&body[..], text.as_bytes()] {
                let _ = KeyRequest::from_body(body).is_ok();
                let _ = KeyIds::from_body(body).is_ok();
            }
            let _ = KeyRequest::from_query(pairs.clone()).is_ok();
            let _ = KeyIds::from_query(pairs).is_ok();
        }
    }
}
