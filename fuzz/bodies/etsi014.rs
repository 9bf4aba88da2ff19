//! The JSON of ETSI GS QKD 014, requests and answers, and the query of a GET.

use claviger_wire::etsi014::{ErrorBody, KeyContainer, KeyIds, KeyRequest, Status};

/// What can be read is read alike once written again.
pub(crate) fn check(input: &[u8]) {
    if let Ok(request) = KeyRequest::from_body(input) {
        assert_eq!(KeyRequest::from_body(&request.to_json()), Ok(request));
    }
    if let Ok(ids) = KeyIds::from_body(input) {
        assert_eq!(KeyIds::from_body(&ids.to_json()), Ok(ids));
    }
    if let Ok(status) = Status::from_json(input) {
        assert_eq!(Status::from_json(&status.to_json()), Ok(status));
    }
    if let Ok(error) = ErrorBody::from_json(input) {
        assert_eq!(ErrorBody::from_json(&error.to_json()), Ok(error));
    }
    if let Ok(container) = KeyContainer::from_json(input) {
        let written = container.to_json();
        let again = KeyContainer::from_json(written.expose()).expect("it was just written");
        assert!(again.to_json().ct_eq(&written), "{container:?}");
    }
    check_query(&String::from_utf8_lossy(input));
}

fn check_query(query: &str) {
    let pairs = || query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    if let Ok(request) = KeyRequest::from_query(pairs()) {
        assert_eq!(KeyRequest::from_body(&request.to_json()), Ok(request));
    }
    if let Ok(ids) = KeyIds::from_query(pairs()) {
        assert_eq!(ids.ids.len(), 1, "a query carries one key id");
    }
}
