//! What has happened in the network, for whoever asks: the newest of it, numbered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_control::{ChannelAlarm, Event, Place};
use claviger_units::{MacAddr, Timestamp};
use claviger_wire::sdn;
use tokio::sync::watch;

use crate::report::{Report, Reporter};

/// Events that are remembered; whoever asks later has missed some.
const REMEMBERED: usize = 50_000;

#[derive(Clone, Debug)]
pub(super) struct Happenings {
    events: Arc<Mutex<VecDeque<sdn::Event>>>,
    newest: watch::Sender<u64>,
    run: u64,
}

impl Happenings {
    pub(super) fn new(started: Timestamp) -> Self {
        let (newest, _) = watch::channel(0);
        Self { events: Arc::default(), newest, run: started.as_micros() }
    }

    /// Remembers and logs an event.
    pub(super) fn note(&self, now: Timestamp, event: &Event, reports: &Reporter) {
        let told = told(event);
        let seq = *self.newest.borrow() + 1;
        if told.is_suspicious {
            reports.refused("controller", &told.text);
        } else {
            tracing::info!(kind = told.kind, "{}", told.text);
        }
        if let Event::ChannelMoved { to, .. } = event {
            reports.tell(Report::Channel { fibre: to.clone(), why: told.text.clone() });
        }
        reports.tell(Report::Network { kind: told.kind, text: told.text.clone() });
        if let &Event::Settled { n_switches, n_links, n_hosts } = event {
            let (switches, links, hosts) = (n_switches, n_links, n_hosts);
            reports.tell(Report::Settled { switches, links, hosts });
        }
        let mut events = self.lock();
        events.push_back(sdn::Event {
            seq,
            at_s: now.as_secs_f64(),
            kind: told.kind.to_owned(),
            text: told.text,
            mac: told.mac.map(|mac| mac.to_string()),
            place: told.place.map(|place| place.to_string()),
            address: told.address,
        });
        if events.len() > REMEMBERED {
            events.pop_front();
        }
        drop(events);
        self.newest.send_replace(seq);
    }

    /// Returns up to `limit` events after `seq`.
    pub(super) fn after(&self, seq: u64, limit: usize) -> sdn::Events {
        let events = self.lock();
        let first = events.partition_point(|event| event.seq <= seq);
        let events = events.range(first..).take(limit).cloned().collect();
        sdn::Events { events, newest: *self.newest.borrow(), run: self.run }
    }

    /// Waits for an event after `seq`.
    pub(super) async fn wait_for(&self, seq: u64) {
        // Never an error, since this keeps the sender alive.
        drop(self.newest.subscribe().wait_for(|newest| *newest > seq).await);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<sdn::Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Told {
    kind: &'static str,
    text: String,
    mac: Option<MacAddr>,
    place: Option<Place>,
    address: Option<String>,
    /// Somebody should look at it.
    is_suspicious: bool,
}

fn told(event: &Event) -> Told {
    let known = told_of_switches(event).or_else(|| told_of_hosts(event));
    // A kind that this version does not know is told as it is.
    known.unwrap_or_else(|| plain("other", format!("{event:?}")))
}

const fn plain(kind: &'static str, text: String) -> Told {
    Told { kind, text, mac: None, place: None, address: None, is_suspicious: false }
}

fn about(kind: &'static str, mac: &MacAddr, place: &Place, text: &str) -> Told {
    let told = plain(kind, format!("{mac} {text} {place}"));
    Told { mac: Some(*mac), place: Some(*place), ..told }
}

fn told_of_switches(event: &Event) -> Option<Told> {
    Some(match event {
        Event::SwitchUp { datapath, description } => {
            plain("switch-up", format!("switch {datapath} is up ({description})"))
        }
        Event::SwitchDown { datapath, why } => {
            plain("switch-down", format!("switch {datapath} is out of reach: {why}"))
        }
        Event::ConnectionRefused { connection, why } => Told {
            is_suspicious: true,
            ..plain("connection-refused", format!("connection {}: {why}", connection.0))
        },
        Event::LinkUp(a, b) => plain("link-up", format!("{a} and {b} are joined")),
        Event::LinkDown(a, b) => plain("link-down", format!("{a} and {b} are no longer joined")),
        Event::LinkForged { at } => Told {
            place: Some(*at),
            is_suspicious: true,
            ..plain(
                "link-forged",
                format!("a forged or repeated frame of discovery came in at {at}"),
            )
        },
        Event::Rejected { datapath, error } => Told {
            is_suspicious: true,
            ..plain("rejected", format!("switch {datapath} refuses: {error}"))
        },
        Event::Reconciled { datapath, n_changes } => {
            plain("reconciled", format!("switch {datapath}: {n_changes} changes to its tables"))
        }
        Event::Superseded { datapath } => Told {
            is_suspicious: true,
            ..plain(
                "superseded",
                format!("another controller is master, says switch {datapath}; it is given up"),
            )
        },
        Event::ChannelMoved { from, to, alarm } => plain(
            "channel-moved",
            format!("quantum channel moved from {from} to {to}: {}", alarm_in_words(*alarm)),
        ),
        Event::ChannelStays { fibre, alarm } => Told {
            is_suspicious: true,
            ..plain(
                "channel-stays",
                format!(
                    "{}, and no other fibre has light: the quantum channel stays in {fibre}",
                    alarm_in_words(*alarm)
                ),
            )
        },
        Event::Settled { n_switches, n_links, n_hosts } => plain(
            "settled",
            format!("settled: {n_switches} switches, {n_links} links, {n_hosts} hosts"),
        ),
        _ => return None,
    })
}

fn told_of_hosts(event: &Event) -> Option<Told> {
    Some(match event {
        Event::HostAppeared { mac, place } => about("host-appeared", mac, place, "appeared at"),
        Event::HostMoved { mac, from, to } => {
            about("host-moved", mac, to, &format!("moved from {from} to"))
        }
        Event::HostExpired { mac, place } => about("host-expired", mac, place, "is gone from"),
        Event::AddressLearned { mac, address } => Told {
            mac: Some(*mac),
            address: Some(address.to_string()),
            ..plain("address-learned", format!("{mac} has {address}"))
        },
        Event::AddressTaken { address, owner, claimant } => Told {
            mac: Some(*claimant),
            address: Some(address.to_string()),
            is_suspicious: true,
            ..plain("address-taken", format!("{claimant} claims {address}, which {owner} has"))
        },
        Event::Bound { mac, place } => about("host-bound", mac, place, "belongs to"),
        Event::Spoofed { mac, bound, seen } => Told {
            is_suspicious: true,
            ..about("spoofed", mac, seen, &format!("belongs to {bound}, and is spoofed at"))
        },
        Event::SpoofDropped { mac, datapath, packets } => Told {
            mac: Some(*mac),
            ..plain(
                "spoof-dropped",
                format!("{packets} packets spoofing {mac} dropped at {datapath}"),
            )
        },
        Event::RogueDhcp { mac, place } => Told {
            is_suspicious: true,
            ..about("rogue-dhcp", mac, place, "answers as a DHCP server at")
        },
        Event::Crowded { place } => Told {
            place: Some(*place),
            is_suspicious: true,
            ..plain("crowded", format!("too many unknown cards at {place}; others are not listed"))
        },
        _ => return None,
    })
}

const fn alarm_in_words(alarm: ChannelAlarm) -> &'static str {
    match alarm {
        ChannelAlarm::Qber => "its error rate says that somebody may be listening",
        ChannelAlarm::LossOfLight => "hardly any light arrives",
        ChannelAlarm::FibreDark => "there is no light in it",
        ChannelAlarm::Operator => "an operator wants it so",
    }
}
