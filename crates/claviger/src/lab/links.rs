//! What the links of hosts carry, counted below everything: in a file that is written each second while a command
//! runs, and in a line at its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use claviger_netlab::{Carried, Relay};
use claviger_units::Span;
use serde::{Deserialize, Serialize};

use super::shelf::write_whole;
use crate::console;

/// The file below the state folder.
const NAME: &str = "links.json";

/// What a link has carried, as it is written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Written {
    sent: u64,
    lost: u64,
    crowded: u64,
    arrived: u64,
    under_way_us: u64,
}

/// Counts while something is done, and says at its end what there was.
pub(super) async fn beside<T>(
    relay: Option<&Relay>,
    state: &Path,
    doing: impl Future<Output = T>,
) -> T {
    let Some(relay) = relay else { return doing.await };
    let counting = async {
        loop {
            if let Err(error) = write(relay, state) {
                tracing::warn!(error = format!("{error:#}"), "what the links carry is not written");
            }
            tokio::time::sleep(PACE).await;
        }
    };
    let done = tokio::select! {
        done = doing => done,
        () = counting => unreachable!("it counts for ever"),
    };
    if let Ok(carried) = relay.carried() {
        let sum = |count: fn(&Carried) -> u64| carried.values().map(count).sum::<u64>();
        let (sent, lost, crowded) =
            (sum(|one| one.sent), sum(|one| one.lost), sum(|one| one.crowded));
        console::err(format_args!(
            "links of hosts: {sent} frames sent, {lost} lost by chance, {crowded} for want of room"
        ));
    }
    done
}

fn write(relay: &Relay, state: &Path) -> Result<()> {
    let written = |Carried { sent, lost, crowded, arrived, under_way }| Written {
        sent,
        lost,
        crowded,
        arrived,
        under_way_us: under_way.as_micros(),
    };
    let all: BTreeMap<_, _> =
        relay.carried()?.into_iter().map(|(host, carried)| (host, written(carried))).collect();
    write_whole(&state.join(NAME), &serde_json::to_string(&all)?)
}

/// Reads what each host's link has carried so far, a second ago at most.
pub(super) fn read(state: &Path) -> Result<BTreeMap<String, Carried>> {
    let path = state.join(NAME);
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("reading {}: is there a --link?", path.display()))?;
    let all: BTreeMap<String, Written> = serde_json::from_str(&text)?;
    let carried = |Written { sent, lost, crowded, arrived, under_way_us }| Carried {
        sent,
        lost,
        crowded,
        arrived,
        under_way: Span::from_micros(under_way_us),
    };
    Ok(all.into_iter().map(|(host, written)| (host, carried(written))).collect())
}

const PACE: Duration = Duration::from_secs(1);
