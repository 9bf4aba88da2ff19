//! Where the gateway gets its keys: the key management entity of its site.

use axum::http::StatusCode;
use claviger_fleet::{Extraction, KeyOrder, PadExtraction};
use claviger_frames::Epoch;
use claviger_units::{Bits, Eui64, SaeId};
use tokio::sync::mpsc;

use super::Service;
use crate::orders::{MOST_KEYS, extraction, extractions, fetching, tell_ended};
use crate::sae::{KeyClient, KeyError};

/// Where the gateway gets its keys.
#[derive(Clone)]
pub(super) struct Counter {
    pub(super) service: Service,
    pub(super) keys: KeyClient,
    pub(super) platform: SaeId,
}

/// A device, and the epoch that it needs a key for.
pub(super) type Asked = (Eui64, Epoch);

impl Counter {
    /// Does what the core ordered, and reports the outcome; an error ends with the writer.
    pub(super) async fn fill(self, order: KeyOrder, asked: mpsc::UnboundedSender<Asked>) {
        match order {
            // The counter ends with the role.
            KeyOrder::Extract { eui, epoch, .. } => drop(asked.send((eui, epoch))),
            KeyOrder::Master { .. } => {
                let outcome = extraction(self.keys.enc_keys(&self.platform, 1, Bits::KEY).await);
                let now = self.service.context.clock.now();
                let filled = self.service.core(move |core, tx| {
                    core.half.handle_mastered(tx, now, outcome, &mut core.rng)
                });
                tell_ended(filled.await);
            }
            KeyOrder::ExtractPad { most } => {
                let outcome = self.spare_keys(most).await;
                let now = self.service.context.clock.now();
                let filled = self
                    .service
                    .core(move |core, tx| core.half.handle_pad_extracted(tx, now, outcome));
                tell_ended(filled.await);
            }
            KeyOrder::Fetch { key_id } => {
                let outcome = fetching(self.keys.dec_keys(&self.platform, &[key_id]).await);
                let now = self.service.context.clock.now();
                let filled = self
                    .service
                    .core(move |core, tx| core.half.handle_fetched(tx, now, key_id, outcome));
                tell_ended(filled.await);
            }
        }
    }

    /// Draws the keys that devices need, as many at a time as are asked for and granted
    /// (`PROTOCOL.md` P3b.2).
    pub(super) async fn extract(self, mut asking: mpsc::UnboundedReceiver<Asked>) {
        let shutdown = self.service.context.shutdown.clone();
        let extract_all = async {
            let mut asked = Vec::new();
            while asking.recv_many(&mut asked, MOST_KEYS).await > 0 {
                self.extract_for(std::mem::take(&mut asked)).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = extract_all => {}
        }
    }

    /// Draws keys for a pad, if the KME has more than a fleet may need at once.
    async fn spare_keys(&self, most: usize) -> PadExtraction {
        let Ok(status) = self.keys.status(&self.platform).await else {
            return PadExtraction::Later;
        };
        let most = most.min(usize::try_from(status.max_key_per_request).unwrap_or(usize::MAX));
        let left = status.stored_key_count.saturating_sub(most as u64);
        if left < status.max_key_count / KEPT_FOR_FLEET {
            return PadExtraction::Later;
        }
        let number = u32::try_from(most).unwrap_or(u32::MAX);
        let answer = self.keys.enc_keys(&self.platform, number, Bits::KEY).await;
        let keys = extractions(most, answer).into_iter().map(|outcome| match outcome {
            Extraction::Key(key_id, key, origin) => Some((key_id, key, origin)),
            _ => None,
        });
        keys.collect::<Option<_>>().map_or(PadExtraction::Later, PadExtraction::Keys)
    }

    async fn extract_for(&self, mut asked: Vec<Asked>) {
        let mut size = asked.len();
        while !asked.is_empty() {
            size = size.min(asked.len());
            let number = u32::try_from(size).unwrap_or(u32::MAX);
            let answer = self.keys.enc_keys(&self.platform, number, Bits::KEY).await;
            let is_too_many = matches!(
                answer,
                Err(KeyError::Unavailable { .. }
                    | KeyError::Refused { status: StatusCode::BAD_REQUEST, .. })
            );
            // Nothing is spent: fewer may be there, or be granted at once.
            if is_too_many && size > 1 {
                size /= 2;
                continue;
            }
            // What is true of one key is true of all that are asked for after it.
            let n_answered = if answer.is_ok() { size } else { asked.len() };
            let answered = asked.drain(..n_answered).collect::<Vec<_>>();
            self.report(answered, extractions(n_answered, answer)).await;
        }
    }

    async fn report(&self, asked: Vec<Asked>, outcomes: Vec<Extraction>) {
        let now = self.service.context.clock.now();
        let filled = self.service.core(move |core, tx| {
            for ((eui, epoch), outcome) in asked.into_iter().zip(outcomes) {
                core.half.handle_extracted(tx, now, eui, epoch, outcome, &mut core.rng)?;
            }
            Ok(())
        });
        tell_ended(filled.await);
    }
}

/// Which part of the buffer pads leave to devices that ask.
const KEPT_FOR_FLEET: u64 = 8;
