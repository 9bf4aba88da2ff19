//! The client of ETSI GS QKD 014 that gateway, platform and command line share.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::http::StatusCode;
use claviger_net::http::{Answer, Client, ClientError};
use claviger_units::{Bits, KeyId, SaeId, SecretBytes};
use claviger_wire::etsi014::{
    AnswerError, ErrorBody, Extension, Key, KeyContainer, KeyIds, KeyRequest, Status,
};

/// An application's access to the KME of its site; the certificate of the client says who asks.
///
/// Every error tells what may have been spent and what to do next. Nothing is tried twice here:
/// without a request token a second try spends new keys.
#[derive(Clone, Debug)]
pub struct KeyClient {
    url: String,
    client: Client,
}

/// A key that now belongs to the application alone: the KME has no copy for it any more.
#[derive(Debug)]
pub struct GrantedKey {
    /// Its name, under which the other application fetches its copy.
    pub id: KeyId,
    /// The key.
    pub key: SecretBytes,
    /// Where the KME says that it comes from, such as `simulated`.
    pub origin: Option<String>,
    /// The security that the KME says its link claims, such as `finite-size`.
    pub claim: Option<String>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// 400, 401 or another of that hundred: nothing was spent. The same request will be refused
    /// again; for `dec_keys`, 400 means that these keys will never be had.
    #[error("the KME refuses ({}): {message}", .status.as_u16())]
    Refused {
        /// 400 for the request, 401 for who asks.
        status: StatusCode,
        /// What the KME says.
        message: String,
    },
    /// 503: nothing was spent; ask again later.
    #[error("the KME cannot answer now: {message}")]
    Unavailable {
        /// What the KME says.
        message: String,
    },
    /// Nothing was sent, so nothing was spent; ask again later.
    #[error("the KME cannot be reached")]
    Unreachable(#[source] ClientError),
    /// The request may have been carried out: count its keys as spent.
    #[error("the KME gave no usable answer; what was asked for may be spent")]
    Lost(#[source] LostAnswer),
}

/// What is wrong with an answer that is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LostAnswer {
    /// It did not arrive.
    #[error(transparent)]
    Broken(ClientError),
    /// It has a status that ETSI GS QKD 014 does not know.
    #[error("the status is {0}")]
    Status(StatusCode),
    /// It is not the JSON that it should be.
    #[error(transparent)]
    Malformed(AnswerError),
    /// It does not hold the keys that were asked for: the other end is no conforming KME.
    #[error("the answer does not hold the keys that were asked for")]
    OtherKeys,
}

impl KeyClient {
    /// Makes the access to the KME at `url` (scheme, host and port) by a client with the
    /// application's certificate.
    #[must_use]
    pub fn new(url: &str, client: Client) -> Self {
        Self { url: url.to_owned(), client }
    }

    /// Asks for `number` new keys of `size` to share with `slave` (ETSI GS QKD 014 §5.2).
    pub async fn enc_keys(
        &self,
        slave: &SaeId,
        number: u32,
        size: Bits,
    ) -> Result<Vec<GrantedKey>, KeyError> {
        let request = KeyRequest {
            number: Some(number.into()),
            size: Some(size.count().into()),
            ..KeyRequest::default()
        };
        let keys = self.keys(slave, "enc_keys", request.to_json()).await?;
        let wanted = u32::try_from(keys.len()) == Ok(number)
            && keys.iter().all(|granted| Bits::new(8 * granted.key.len() as u64) == size);
        if wanted { Ok(keys) } else { Err(KeyError::Lost(LostAnswer::OtherKeys)) }
    }

    /// Asks for the copies of keys that `master` was granted, and returns them in the order of
    /// `ids` (ETSI GS QKD 014 §5.3).
    pub async fn dec_keys(
        &self,
        master: &SaeId,
        ids: &[KeyId],
    ) -> Result<Vec<GrantedKey>, KeyError> {
        let body = KeyIds { ids: ids.to_vec() }.to_json();
        let keys = self.keys(master, "dec_keys", body).await?;
        in_order(keys, ids).ok_or(KeyError::Lost(LostAnswer::OtherKeys))
    }

    /// Asks what the KME has for this application and `slave` (ETSI GS QKD 014 §5.1).
    pub async fn status(&self, slave: &SaeId) -> Result<Status, KeyError> {
        let body = judge(self.client.get(&self.path(slave, "status"), &[]).await)?;
        Status::from_json(body.expose()).map_err(malformed)
    }

    async fn keys(
        &self,
        other: &SaeId,
        method: &str,
        request: Vec<u8>,
    ) -> Result<Vec<GrantedKey>, KeyError> {
        let answer = self.client.post_json(&self.path(other, method), &[], request).await;
        let container = KeyContainer::from_json(judge(answer)?.expose()).map_err(malformed)?;
        Ok(container.keys.into_iter().map(GrantedKey::from).collect())
    }

    fn path(&self, other: &SaeId, method: &str) -> String {
        format!("{}/api/v1/keys/{}/{method}", self.url, percent_encoded(other.as_str()))
    }
}

impl From<Key> for GrantedKey {
    fn from(Key { id, key, extension }: Key) -> Self {
        let Extension { claviger_origin: origin, claviger_claim: claim, .. } =
            extension.unwrap_or_default();
        Self { id, key, origin, claim }
    }
}

/// Tells an answer from the ways to have none.
fn judge(answer: Result<Answer, ClientError>) -> Result<SecretBytes, KeyError> {
    let Answer { status, body, .. } = answer.map_err(|error| match error {
        ClientError::Unreachable { .. } => KeyError::Unreachable(error),
        _ => KeyError::Lost(LostAnswer::Broken(error)),
    })?;
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::SERVICE_UNAVAILABLE => Err(KeyError::Unavailable { message: message(&body) }),
        _ if status.is_client_error() => Err(KeyError::Refused { status, message: message(&body) }),
        _ => Err(KeyError::Lost(LostAnswer::Status(status))),
    }
}

/// Returns what the body of an error says.
pub(crate) fn message(body: &SecretBytes) -> String {
    ErrorBody::from_json(body.expose())
        .map_or_else(|_| "it does not say why".to_owned(), |error| error.message)
}

const fn malformed(error: AnswerError) -> KeyError {
    KeyError::Lost(LostAnswer::Malformed(error))
}

/// Puts keys into the order of `ids`; `None` unless they are exactly those.
fn in_order(keys: Vec<GrantedKey>, ids: &[KeyId]) -> Option<Vec<GrantedKey>> {
    if keys.len() != ids.len() {
        return None;
    }
    let mut by_id: BTreeMap<KeyId, GrantedKey> =
        keys.into_iter().map(|granted| (granted.id, granted)).collect();
    ids.iter().map(|id| by_id.remove(id)).collect()
}

/// Writes a text so that it is one segment of a path (RFC 3986 §2.1).
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to memory succeeds");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderMap;

    fn key(byte: u8) -> GrantedKey {
        let id = KeyId::from_bytes([byte; 16]);
        GrantedKey { id, key: SecretBytes::new(vec![byte; 32]), origin: None, claim: None }
    }

    fn answer(status: u16, body: &str) -> Result<Answer, ClientError> {
        Ok(Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: SecretBytes::new(body.into()),
        })
    }

    #[test]
    fn a_name_is_one_segment_of_the_path() {
        for (name, segment) in
            [("kme-a_1.x~", "kme-a_1.x~"), ("a/b c", "a%2Fb%20c"), ("ä?#%", "%C3%A4%3F%23%25")]
        {
            assert_eq!(percent_encoded(name), segment);
        }
    }

    #[test]
    fn every_answer_tells_what_was_spent() {
        assert!(judge(answer(200, "{}")).is_ok());
        for (status, body, expected) in [
            (400, r#"{"message":"no"}"#, "the KME refuses (400): no"),
            (401, "nothing", "the KME refuses (401): it does not say why"),
            (404, "", "the KME refuses (404): it does not say why"),
            (503, r#"{"message":"no keys"}"#, "the KME cannot answer now: no keys"),
            (500, "", "the KME gave no usable answer; what was asked for may be spent"),
            (302, "", "the KME gave no usable answer; what was asked for may be spent"),
        ] {
            assert_eq!(judge(answer(status, body)).unwrap_err().to_string(), expected);
        }
        let too_long = Err(ClientError::TooLong { url: String::new() });
        assert!(matches!(judge(too_long), Err(KeyError::Lost(_))));
    }

    #[test]
    fn fetched_keys_come_in_the_order_of_their_ids() {
        let ids =
            |bytes: &[u8]| bytes.iter().map(|&b| KeyId::from_bytes([b; 16])).collect::<Vec<_>>();
        let ordered = in_order(vec![key(1), key(2)], &ids(&[2, 1])).unwrap();
        assert_eq!(ordered.iter().map(|k| k.key.expose()[0]).collect::<Vec<_>>(), [2, 1]);
        for (keys, wanted) in [
            (vec![key(1)], ids(&[2])),
            (vec![key(1)], ids(&[1, 2])),
            (vec![key(1), key(2)], ids(&[1])),
            (vec![key(1), key(1)], ids(&[1, 1])),
            (vec![key(1), key(1)], ids(&[1, 2])),
        ] {
            assert!(in_order(keys, &wanted).is_none());
        }
    }
}
