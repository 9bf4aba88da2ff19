//! The end of a run: everything comes to rest, and the books are compared.

use anyhow::{Context as _, Result, bail, ensure};
use claviger_durable::peer::Session;
use claviger_fleet::NextEpoch;
use claviger_keystore::Standing;
use claviger_kme::RefusalKind;
use claviger_units::{KeyId, Site, Span};
use claviger_wire::etsi014::KeyContainer;

use super::VirtualChain;
use super::keys::{Asker, Reply, Want};

impl VirtualChain {
    /// Puts the light out and runs until nothing is under way.
    pub fn rest(&mut self) -> Result<()> {
        self.is_lit = false;
        let latest = self.now + LONGEST_REST;
        while !self.is_at_rest() {
            ensure!(self.step(latest)?, "there is still something under way");
        }
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        let asleep = self.devices.iter().all(|site| site.device.is_asleep());
        let due = self.next_due().is_some_and(|(at, _)| at <= self.now);
        asleep && !due && self.agenda.is_empty() && self.forwarder.is_idle()
    }

    /// Compares both sites at rest: every key stands alike, every device is at the epoch that
    /// gateway and platform know, and all telemetry that was acknowledged has been read.
    pub fn check_agreement(&mut self) -> Result<()> {
        self.check_keys()?;
        self.check_devices()?;
        let readings =
            self.at_platform(|platform, tx, _, _| platform.readings(tx, 0, None, usize::MAX));
        self.audit.note_stored(&readings.context("the platform is down")??);
        let unread = self.audit.unread();
        ensure!(unread == 0, "{unread} acknowledged readings never reached the platform");
        match self.audit.violations() {
            [] => Ok(()),
            [first, ..] => bail!("{first}"),
        }
    }

    fn check_keys(&mut self) -> Result<()> {
        let mut owned = [0; 2];
        for id in self.audit.drawn().to_vec() {
            let [a, b] = [self.standing(Site::A, id)?, self.standing(Site::B, id)?];
            let agreed = match (a, b) {
                (Standing::Available { owner }, Standing::Available { owner: same }) => {
                    owned[owner as usize] += 1;
                    owner == same
                }
                (Standing::Unknown | Standing::Held { .. }, _) => {
                    matches!(b, Standing::Unknown | Standing::Held { .. })
                }
                _ => false,
            };
            ensure!(agreed, "key {id} stands {a:?} at A and {b:?} at B");
        }
        for site in [Site::A, Site::B] {
            let stored = self.stored(site).context("a KME is down")?;
            let store = &self.kmes[site as usize].process.core.as_ref().context("is down")?.store;
            ensure!(store.session() == Session::Open, "site {site}: {:?}", store.session());
            ensure!(store.is_serving(), "site {site} serves nobody");
            ensure!(
                (stored.pending, stored.unacknowledged) == (0, 0),
                "site {site} waits: {stored:?}"
            );
            let [mine, theirs] = [site, site.other()].map(|owner| owned[owner as usize]);
            ensure!(
                (stored.mine, stored.theirs) == (mine, theirs),
                "site {site} counts {stored:?}, of {mine} and {theirs}"
            );
        }
        Ok(())
    }

    fn standing(&mut self, site: Site, id: KeyId) -> Result<Standing> {
        let standing = self.at_kme(site, |entity, tx, _, _| entity.store.standing(tx, id));
        Ok(standing.context("a KME is down")??)
    }

    fn check_devices(&mut self) -> Result<()> {
        let at_gateway = self.at_gateway(|gateway, tx, now, _| {
            let queued = gateway.status(now).n_queued_uplinks;
            gateway.devices(tx, None, usize::MAX).map(|devices| (devices, queued))
        });
        let (at_gateway, queued) = at_gateway.context("the gateway is down")??;
        let at_platform =
            self.at_platform(|platform, tx, _, _| platform.devices(tx, None, usize::MAX));
        let at_platform = at_platform.context("the platform is down")??;
        ensure!(queued == 0, "{queued} telemetry frames are queued");
        let n_devices = [self.devices.len(), at_gateway.len(), at_platform.len()];
        ensure!(n_devices.iter().all(|n| *n == n_devices[0]), "a device is lost: {n_devices:?}");
        for ((site, gateway), platform) in self.devices.iter().zip(at_gateway).zip(at_platform) {
            let (eui, epoch) = (site.eui, site.device.epoch());
            ensure!((gateway.eui, platform.eui) == (eui, eui), "another order of devices");
            ensure!(gateway.current == epoch, "{gateway:?}, but the device is at {epoch}");
            ensure!(platform.active == epoch, "{platform:?}, but the device is at {epoch}");
            ensure!(platform.cloned.is_none(), "{platform:?} is quarantined");
            let settled = matches!(gateway.next, None | Some(NextEpoch::Ready(_)));
            ensure!(settled, "{gateway:?} waits for a key");
        }
        Ok(())
    }

    /// Hands out every key that is left at both sites, fetches it at the other one, and compares
    /// the bits; returns how many left, the devices' own in the meantime included. Nothing is left
    /// for anybody else afterwards.
    pub fn compare_all_keys(&mut self) -> Result<u64> {
        let before = self.audit.tally.handed_out;
        for site in [Site::A, Site::B] {
            loop {
                let usable = self.stored(site).context("a KME is down")?.usable;
                let number = u32::try_from(usable)?.min(MOST_PER_REQUEST);
                if number == 0 {
                    break;
                }
                // The gateway may have been faster.
                let Some(ids) = self.audit_keys(site, Want::New(number))? else { continue };
                let copies = self.audit_keys(site.other(), Want::Copies(ids.clone()))?;
                ensure!(copies == Some(ids), "site {} gave other keys", site.other());
            }
        }
        Ok(self.audit.tally.handed_out - before)
    }

    /// Asks a KME as its application would; the audit compares what it gets. `None` if there were
    /// too few keys.
    fn audit_keys(&mut self, site: Site, want: Want) -> Result<Option<Vec<KeyId>>> {
        self.auditor_got = None;
        self.ask(Asker::Auditor(site, want));
        let latest = self.now + LONGEST_REST;
        while self.auditor_got.is_none() {
            ensure!(self.step(latest)?, "site {site} does not answer");
        }
        match self.auditor_got.take() {
            Some(Reply::Keys(KeyContainer { keys })) => {
                Ok(Some(keys.iter().map(|key| key.id).collect()))
            }
            Some(Reply::Refused(RefusalKind::Unavailable)) => Ok(None),
            other => bail!("site {site} answered {other:?}"),
        }
    }
}

/// How long after the last light everything must have come to rest.
const LONGEST_REST: Span = Span::from_secs(600);
/// `PROTOCOL.md` P2: `max_key_per_request`.
const MOST_PER_REQUEST: u32 = 128;
