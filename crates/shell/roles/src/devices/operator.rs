//! The operator, who brings the labels of new devices to the platform (`PROTOCOL.md` P3a.1).

use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_net::http::{Answer, Client, ClientError};
use claviger_units::{Eui64, Key256};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::complaints::Complaints;
use crate::role::Context;
use crate::sae;

/// The operator's access to the platform.
#[derive(Debug)]
pub(super) struct Operator {
    url: String,
    client: Client,
    context: Context,
    places: Semaphore,
    complaints: Complaints,
}

/// What the platform says to a label.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It has the device now.
    Provisioned,
    /// It knew the device: this label was brought before and the answer got lost, or the device
    /// is known by another key and this one will serve nobody.
    Known,
    /// No answer, or none at present.
    Away,
    /// It refuses: somebody has to mend the certificate or the version.
    Refused(String),
}

impl Operator {
    pub(super) fn new(platform_url: &str, client: Client, context: Context) -> Self {
        Self {
            url: format!("{platform_url}/v1/devices"),
            client,
            complaints: Complaints::quiet_until(context.clock.now()),
            context,
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// Brings a label to the platform, however often and long it takes; it may then be destroyed.
    pub(super) async fn provision(&self, eui: Eui64, label: &Key256) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.bring(eui, label).await {
                Verdict::Provisioned => return,
                Verdict::Known => {
                    tracing::info!(%eui, "the platform knows the device already");
                    return;
                }
                Verdict::Away => tracing::debug!(%eui, "the platform is away; the label waits"),
                Verdict::Refused(why) => {
                    let why = format_args!("the platform does not take device {eui}: {why}");
                    self.complaints.refused(self.context.clock.now(), &self.context.reports, why);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LAST_PAUSE);
        }
    }

    /// Orders a pad for a device, unless one is under way; tells whether the platform has answered.
    pub(super) async fn order_pad(&self, eui: Eui64, n_keys: u32) -> bool {
        // An error would mean that the semaphore was closed, which nobody does.
        let _place = self.places.acquire().await;
        let body = format!(r#"{{"keys":{n_keys}}}"#).into_bytes();
        let answer = self.client.post_json(&format!("{}/{eui}/pads", self.url), &[], body).await;
        match verdict(&answer) {
            Verdict::Provisioned | Verdict::Known => true,
            Verdict::Away => false,
            Verdict::Refused(why) => {
                let why = format_args!("the platform orders no pad for device {eui}: {why}");
                self.complaints.refused(self.context.clock.now(), &self.context.reports, why);
                true
            }
        }
    }

    async fn bring(&self, eui: Eui64, label: &Key256) -> Verdict {
        // An error would mean that the semaphore was closed, which nobody does.
        let _place = self.places.acquire().await;
        let printed = Zeroizing::new(STANDARD.encode(label.expose()));
        // A label exists only for a device that starts anew, whatever the platform remembers of it.
        let body = format!(r#"{{"eui":"{eui}","bootstrap_key":"{}","again":true}}"#, *printed);
        verdict(&self.client.post_json(&self.url, &[], body.into_bytes()).await)
    }
}

fn verdict(answer: &Result<Answer, ClientError>) -> Verdict {
    let Ok(Answer { status, body, .. }) = answer else { return Verdict::Away };
    match *status {
        StatusCode::CONFLICT => Verdict::Known,
        status if status.is_success() => Verdict::Provisioned,
        status if status.is_server_error() => Verdict::Away,
        status => Verdict::Refused(format!("{} ({})", sae::message(body), status.as_u16())),
    }
}

/// Labels on their way at once.
const AT_ONCE: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderMap;
    use claviger_units::SecretBytes;

    #[test]
    fn a_label_is_done_with_only_when_the_platform_has_the_device() {
        let refused = |why: &str| Verdict::Refused(why.to_owned());
        for (status, body, expected) in [
            (200, "", Verdict::Provisioned),
            (201, "", Verdict::Provisioned),
            (409, r#"{"message":"known"}"#, Verdict::Known),
            (401, r#"{"message":"not the operator"}"#, refused("not the operator (401)")),
            (400, "?", refused("it does not say why (400)")),
            (302, "", refused("it does not say why (302)")),
            (500, "", Verdict::Away),
            (503, "", Verdict::Away),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let body = SecretBytes::new(body.into());
            assert_eq!(verdict(&Ok(Answer { status, headers: HeaderMap::new(), body })), expected);
        }
        let lost = Err(ClientError::TooLong { url: String::new() });
        assert_eq!(verdict(&lost), Verdict::Away);
    }
}
