//! Provisioning: a label is brought, its card is seen, an order is placed, the gateway may adopt.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use claviger_durable::{Engine as _, EngineError, MemoryEngine, Tx};
use claviger_fleet::enrolment::{Admission, Approval, Measure, Standing};
use claviger_fleet::labels::Label;
use claviger_fleet::provisioning::{Known, Provisioning, ProvisioningEvent};
use claviger_fleet::{Adoption, Half as _, PlatformConfig, ProvisionError, RecoveryKey};
use claviger_units::{Eui64, Key256, MacAddr, Span, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

struct Site {
    store: MemoryEngine,
    core: Provisioning,
}

fn mac(n: u8) -> MacAddr {
    MacAddr::from_bytes([2, 0, 0x5E, 0x10, 0, n])
}

fn label(n: u8, key: u8) -> Label {
    let (key, policy) = (Key256::from_bytes([key; 32]), "sensor".to_owned());
    Label { mac: mac(n), key, policy, line: 1 }
}

impl Site {
    fn new(approval: Option<Approval>) -> Self {
        let mut store = MemoryEngine::new();
        let core = open(&mut store, approval);
        Self { store, core }
    }

    fn run<R>(
        &mut self,
        job: impl FnOnce(&mut Provisioning, &mut dyn Tx) -> Result<R, EngineError>,
    ) -> R {
        self.store.transact(|tx| job(&mut self.core, tx)).unwrap()
    }

    fn bring(
        &mut self,
        labels: &[Label],
        known: Known,
    ) -> Result<(), Vec<(usize, ProvisionError)>> {
        self.run(|core, tx| core.bring(tx, NOW, "operator", labels, known))
    }

    fn see(&mut self, ns: &[u8]) {
        let seen: Vec<_> = ns.iter().map(|&n| (mac(n), format!("1:{n}"))).collect();
        self.run(|core, tx| core.handle_seen(tx, NOW, &seen));
    }

    fn settle(&mut self) {
        self.run(|core, tx| core.handle_settled(tx, NOW));
    }

    fn measure(&mut self, n: u8, measure: Measure) -> Standing {
        let who = ("operator", "");
        self.store.transact(|tx| self.core.take_measure(tx, NOW, who, mac(n), measure)).unwrap()
    }

    fn adoptions(&mut self) -> Vec<Adoption> {
        let devices = self.run(|core, tx| core.platform.devices(tx, None, 100));
        devices.into_iter().map(|device| device.adoption).collect()
    }

    fn ordered(&mut self) -> Vec<usize> {
        let events = std::iter::from_fn(|| self.core.poll_event());
        let sizes = events.filter_map(|event| match event {
            ProvisioningEvent::Ordered(order) => Some(order.devices.len()),
            _ => None,
        });
        sizes.collect()
    }

    fn changes(&mut self) -> Vec<(MacAddr, Admission)> {
        self.run(|core, tx| core.take_changes(tx, 100))
    }
}

fn open(store: &mut MemoryEngine, approval: Option<Approval>) -> Provisioning {
    let recovery = RecoveryKey::from_key(Key256::from_bytes([77; 32]));
    let config = PlatformConfig { grace: Span::from_secs(1), recovery };
    let mut rng = StdRng::seed_from_u64(1);
    let opened: Result<_, EngineError> =
        store.transact(|tx| Provisioning::open(tx, NOW, config, approval, &mut rng));
    opened.unwrap()
}

#[test]
fn a_device_is_held_until_its_card_was_seen_and_an_order_was_placed() {
    use Adoption::{Held, Waiting};
    let mut site = Site::new(Some(Approval::ByImport));
    site.bring(&[label(1, 1), label(2, 2), label(3, 3)], Known::Refused).unwrap();
    assert_eq!(site.adoptions(), [Held, Held, Held]);
    site.settle();
    site.see(&[1, 3]);
    assert_eq!(site.adoptions(), [Held, Held, Held], "discovery has not settled");
    site.settle();
    assert_eq!(site.adoptions(), [Waiting, Held, Waiting]);
    assert_eq!(site.ordered(), [2], "one order for both");
    let admitted = Admission::Admitted { policy: "sensor".to_owned() };
    assert_eq!(site.changes(), [(mac(1), admitted.clone()), (mac(3), admitted)]);
    // What was held and what waits is so after a start as well.
    site.core = open(&mut site.store, Some(Approval::ByImport));
    assert_eq!(site.core.platform.status(NOW).n_waiting, 2);
}

#[test]
fn without_a_controller_a_device_waits_for_its_adoption_at_once() {
    let mut site = Site::new(None);
    site.bring(&[label(1, 1)], Known::Refused).unwrap();
    assert_eq!(site.adoptions(), [Adoption::Waiting]);
    let known = site.bring(&[label(1, 2)], Known::Refused).unwrap_err();
    assert_eq!(known, [(0, ProvisionError::Known(Eui64::from(mac(1))))]);
    assert!(site.core.poll_event().is_none());
}

#[test]
fn all_faults_of_an_import_are_told_and_nothing_of_it_is_taken() {
    let mut site = Site::new(Some(Approval::ByImport));
    site.bring(&[label(1, 1)], Known::Refused).unwrap();
    let faults = site.bring(&[label(2, 2), label(1, 3), label(1, 1)], Known::Refused).unwrap_err();
    let eui = Eui64::from(mac(1));
    assert_eq!(faults, [(1, ProvisionError::Known(eui)), (2, ProvisionError::UsedKey(eui))]);
    assert_eq!(site.adoptions().len(), 1);
    assert_eq!(
        site.run(|core, tx| core.enrolments().unwrap().list(tx, None, 9)).len(),
        1,
        "the second card was not enrolled"
    );
}

#[test]
fn a_retired_device_keeps_no_key_and_comes_back_with_a_new_label_alone() {
    let mut site = Site::new(Some(Approval::ByImport));
    site.bring(&[label(1, 1)], Known::Refused).unwrap();
    site.see(&[1]);
    site.settle();
    assert_eq!(site.measure(1, Measure::Retire), Standing::Retired);
    assert_eq!(site.adoptions(), [Adoption::Held]);
    let keys =
        site.run(|_, tx| tx.scan(claviger_durable::Table::secret("platform_epoch"), b"", b"", 9));
    assert!(keys.is_empty());
    let used = site.bring(&[label(1, 1)], Known::Refused).unwrap_err();
    assert_eq!(used, [(0, ProvisionError::UsedKey(Eui64::from(mac(1))))]);
    site.bring(&[label(1, 9)], Known::Refused).unwrap();
    site.see(&[1]);
    site.settle();
    assert_eq!((site.adoptions(), site.ordered()), (vec![Adoption::Waiting], vec![1, 1]));
}

#[test]
fn a_new_label_lifts_no_suspension() {
    let mut site = Site::new(Some(Approval::ByImport));
    site.bring(&[label(1, 1)], Known::Refused).unwrap();
    site.see(&[1]);
    site.settle();
    site.measure(1, Measure::Suspend);
    site.bring(&[label(1, 2)], Known::BeginsAnew).unwrap();
    site.settle();
    assert_eq!(site.adoptions(), [Adoption::Held]);
    assert_eq!(site.measure(1, Measure::Resume), Standing::Approved);
    assert_eq!((site.adoptions(), site.ordered()), (vec![Adoption::Waiting], vec![1, 1]));
}
