//! JSON read strictly: no member twice, integers apart from other numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON value in which no object names a member twice.
#[derive(Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool,
    Integer(i128),
    /// Written with a fraction or exponent, or too large for 64 bits.
    OtherNumber,
    Text(String),
    Array(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

/// Why a text is no [`Json`].
#[derive(Debug, PartialEq)]
pub(super) enum JsonError {
    Syntax,
    Duplicate,
}

impl Json {
    pub(super) fn parse(input: &[u8]) -> Result<Self, JsonError> {
        // The visitor refuses nothing but duplicates, so an error in the data is one of those.
        serde_json::from_slice(input).map_err(|error: serde_json::Error| {
            if error.is_data() { JsonError::Duplicate } else { JsonError::Syntax }
        })
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::OtherNumber)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(entry) = entries.next_element()? {
            array.push(entry);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = BTreeMap::new();
        while let Some((name, value)) = members.next_entry::<String, Json>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_apart() {
        for (text, value) in [
            ("0", Json::Integer(0)),
            ("-7", Json::Integer(-7)),
            ("18446744073709551615", Json::Integer(u64::MAX.into())),
            ("18446744073709551616", Json::OtherNumber),
            ("1.0", Json::OtherNumber),
            ("1e2", Json::OtherNumber),
            ("-0", Json::OtherNumber),
        ] {
            assert_eq!(Json::parse(text.as_bytes()), Ok(value), "{text}");
        }
    }

    #[test]
    fn faults_are_told_apart() {
        for (text, error) in [
            ("", JsonError::Syntax),
            ("{", JsonError::Syntax),
            ("{} {}", JsonError::Syntax),
            ("{'a':1}", JsonError::Syntax),
            ("01", JsonError::Syntax),
            ("1e999", JsonError::Syntax),
            ("\"\\ud800\"", JsonError::Syntax),
            (r#"{"a":1,"\u0061":1}"#, JsonError::Duplicate),
            (r#"[{"x":{"a":null,"a":null}}]"#, JsonError::Duplicate),
        ] {
            assert_eq!(Json::parse(text.as_bytes()), Err(error), "{text}");
        }
        assert_eq!(Json::parse("[".repeat(100_000).as_bytes()), Err(JsonError::Syntax));
        assert_eq!(Json::parse(b"\"\xff\""), Err(JsonError::Syntax));
    }
}
