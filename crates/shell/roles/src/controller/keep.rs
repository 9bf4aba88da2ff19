//! What a controller keeps over a restart: who is admitted, where and with which addresses.
//!
//! No secret is in it. It is written at most once a second, whole and by a rename; what a crash costs
//! is learnt again from the network, and from the provisioning application.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use claviger_control::{Admission, Controller, Event, Movement, Place, Policy, PolicyId, Standing};
use claviger_units::{MacAddr, Span, Timestamp};
use claviger_wire::sdn;

use crate::role::{Folder, RoleError};

#[derive(Debug)]
pub(super) struct Keep {
    path: PathBuf,
    policies: Vec<String>,
    kept: BTreeMap<MacAddr, Admission>,
    due: Option<Timestamp>,
}

/// The pause between two writings.
const PACE: Span = Span::from_secs(1);

impl Keep {
    /// Reads what an earlier run has kept.
    pub(super) fn open(folder: &Folder, policies: &[Policy]) -> Result<Self, RoleError> {
        let path = folder.file("admissions.json");
        let policies: Vec<String> = policies.iter().map(|policy| policy.name.clone()).collect();
        let failed = |why: String| RoleError::Keep { path: path.clone(), why };
        let kept = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(error.to_string())),
            Ok(bytes) => {
                let read = serde_json::from_slice(&bytes).or_else(|error| {
                    // The network is learnt again, and the provisioning application says who is in it.
                    tracing::warn!(%error, path = %path.display(), "damaged, and set aside");
                    std::fs::rename(&path, path.with_added_extension("damaged"))?;
                    Ok(sdn::Admissions { admit: Vec::new(), replace: true })
                });
                let read: sdn::Admissions =
                    read.map_err(|error: std::io::Error| failed(error.to_string()))?;
                let admissions = read.admit.iter().filter_map(|kept| {
                    // A policy that the configuration has no more lets nobody in.
                    let parsed = parse(kept, |name| policy_of(&policies, name));
                    parsed.inspect_err(|why| tracing::warn!(mac = kept.mac, %why, "not kept")).ok()
                });
                admissions.map(|admission| (admission.mac, admission)).collect()
            }
        };
        Ok(Self { path, policies, kept, due: None })
    }

    pub(super) fn place_of(&self, mac: MacAddr) -> Option<Place> {
        self.kept.get(&mac)?.place
    }

    pub(super) fn admissions(&self) -> Vec<Admission> {
        self.kept.values().cloned().collect()
    }

    /// Tells whether an event changes what is kept.
    pub(super) const fn wants(event: &Event) -> bool {
        matches!(
            event,
            Event::Bound { .. } | Event::HostMoved { .. } | Event::AddressLearned { .. }
        )
    }

    pub(super) fn touch(&mut self, now: Timestamp) {
        self.due = self.due.or(Some(now + PACE));
    }

    pub(super) const fn due(&self) -> Option<Timestamp> {
        self.due
    }

    /// Writes what is to be kept.
    pub(super) fn write(&mut self, controller: &Controller) -> Result<(), RoleError> {
        self.due = None;
        let admitted = controller.hosts(None, usize::MAX).into_iter().filter_map(|host| {
            let Standing::Admitted(PolicyId(policy)) = host.standing else { return None };
            let policy = self.policies.get(usize::from(policy) - 1)?.clone();
            Some(sdn::Admission {
                mac: host.mac.to_string(),
                policy,
                place: host.place.map(|place| place.to_string()),
                addresses: host.addresses.iter().map(ToString::to_string).collect(),
                fixed: controller.movement_of(host.mac) == Some(Movement::Fixed),
            })
        });
        let kept = sdn::Admissions { admit: admitted.collect(), replace: true };
        let failed = |why: String| RoleError::Keep { path: self.path.clone(), why };
        let text = serde_json::to_vec(&kept).map_err(|error| failed(error.to_string()))?;
        replace(&self.path, &text).map_err(|error| failed(error.to_string()))
    }
}

/// Replaces a file, whole or not at all, also when the power fails.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = path.with_added_extension("new");
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Returns the number of this election: that of the second at which it is won, and higher than that of
/// every one before, also where the clock went back.
pub(super) fn next_generation(folder: &Folder, now: Timestamp) -> Result<u64, RoleError> {
    let path = folder.file("generation");
    let failed = |why: String| RoleError::Keep { path: path.clone(), why };
    let before = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error.to_string())),
        // A damaged one says nothing; the clock goes forward as a rule.
        Ok(text) => text.trim().parse::<u64>().unwrap_or(0),
    };
    let generation = (now.as_micros() / 1_000_000).max(before.saturating_add(1));
    replace(&path, generation.to_string().as_bytes()).map_err(|error| failed(error.to_string()))?;
    Ok(generation)
}

/// Returns the number of a policy.
pub(super) fn policy_of(policies: &[String], name: &str) -> Option<PolicyId> {
    let at = policies.iter().position(|policy| policy == name)?;
    u16::try_from(at + 1).ok().map(PolicyId)
}

/// Reads an admission.
pub(super) fn parse(
    asked: &sdn::Admission,
    policy: impl Fn(&str) -> Option<PolicyId>,
) -> Result<Admission, String> {
    let mac = asked.mac.parse().map_err(|error| format!("{}: {error}", asked.mac))?;
    let policy = policy(&asked.policy);
    let policy = policy.ok_or_else(|| format!("{mac}: there is no policy {:?}", asked.policy))?;
    let place = asked.place.as_deref().map(str::parse).transpose();
    let place = place.map_err(|error| format!("{mac}: {error}"))?;
    let addresses = asked
        .addresses
        .iter()
        .map(|text| text.parse().or(Err(format!("{mac}: {text:?} is no IP address"))))
        .collect::<Result<_, _>>()?;
    let movement = if asked.fixed { Movement::Fixed } else { Movement::AfterUnplugging };
    Ok(Admission { mac, policy, place, addresses, movement })
}
