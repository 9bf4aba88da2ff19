//! Enrolment: every state and what leads out of it, orders for exactly as many keys as there are new
//! devices, and a log of who did what.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use claviger_durable::{Engine as _, EngineError, MemoryEngine};
use claviger_fleet::enrolment::{
    Admission, Approval, EnrolmentError, Enrolments, FirstKeys, Measure, Standing,
};
use claviger_units::{MacAddr, Span, Timestamp};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);
const WHO: (&str, &str) = ("operator", "");

struct Site {
    store: MemoryEngine,
    enrolments: Enrolments,
}

fn mac(n: u8) -> MacAddr {
    MacAddr::from_bytes([2, 0, 0x5E, 0x10, 0, n])
}

impl Site {
    fn new(approval: Approval) -> Self {
        let mut store = MemoryEngine::new();
        let enrolments: Result<_, EngineError> =
            store.transact(|tx| Enrolments::open(tx, approval));
        Self { store, enrolments: enrolments.unwrap() }
    }

    fn import(&mut self, ns: &[u8]) -> Result<(), EnrolmentError> {
        let devices: Vec<_> = ns.iter().map(|&n| (mac(n), "sensor".to_owned())).collect();
        self.store.transact(|tx| self.enrolments.import(tx, NOW, "operator", &devices))
    }

    fn see(&mut self, n: u8) {
        let place = format!("0000000000000001:{n}");
        let seen: Result<_, EngineError> =
            self.store.transact(|tx| self.enrolments.handle_seen(tx, NOW, mac(n), &place));
        seen.unwrap();
    }

    fn settle(&mut self) -> Vec<FirstKeys> {
        let settled: Result<_, EngineError> =
            self.store.transact(|tx| self.enrolments.handle_settled(tx, NOW));
        settled.unwrap();
        self.orders()
    }

    fn orders(&mut self) -> Vec<FirstKeys> {
        std::iter::from_fn(|| self.enrolments.poll_order()).collect()
    }

    fn confirm(&mut self, n: u8) {
        let confirmed: Result<_, EngineError> =
            self.store.transact(|tx| self.enrolments.handle_confirmed(tx, NOW, mac(n)));
        confirmed.unwrap();
    }

    fn measure(&mut self, n: u8, measure: Measure) -> Result<Standing, EnrolmentError> {
        self.store.transact(|tx| self.enrolments.take_measure(tx, NOW, WHO, mac(n), measure))
    }

    fn standing(&mut self, n: u8) -> Standing {
        let found: Result<_, EngineError> =
            self.store.transact(|tx| self.enrolments.get(tx, mac(n)));
        found.unwrap().unwrap().standing
    }

    fn admission(&mut self, n: u8) -> Admission {
        let found: Result<_, EngineError> =
            self.store.transact(|tx| self.enrolments.admission(tx, mac(n)));
        found.unwrap()
    }

    fn reopen(&mut self, approval: Approval) {
        let enrolments: Result<_, EngineError> =
            self.store.transact(|tx| Enrolments::open(tx, approval));
        self.enrolments = enrolments.unwrap();
    }
}

#[test]
fn one_order_is_placed_for_exactly_the_new_devices_when_discovery_has_settled() {
    let mut site = Site::new(Approval::ByImport);
    site.import(&[1, 2, 3, 4]).unwrap();
    assert_eq!(site.settle(), [], "nobody was seen");
    for n in [3, 1, 2] {
        site.see(n);
    }
    // A card that nobody imported is no device.
    site.see(9);
    assert_eq!(site.orders(), []);
    let order = |number, devices: &[u8]| FirstKeys {
        number,
        placed: NOW,
        devices: devices.iter().map(|&n| mac(n)).collect(),
    };
    assert_eq!(site.settle(), [order(1, &[1, 2, 3])]);
    assert_eq!(site.settle(), [], "nobody is new");
    site.see(4);
    assert_eq!(site.settle(), [order(2, &[4])]);
    let kept: Result<_, EngineError> = site.store.transact(|tx| site.enrolments.orders(tx, 0, 10));
    assert_eq!(kept.unwrap().len(), 2);
}

#[test]
fn an_order_outlives_a_crash_before_it_was_placed_and_is_not_placed_again_after() {
    let mut site = Site::new(Approval::ByImport);
    site.import(&[1, 2]).unwrap();
    site.see(1);
    site.reopen(Approval::ByImport);
    assert_eq!(site.settle().len(), 1);
    site.reopen(Approval::ByImport);
    assert_eq!(site.settle(), []);
    // And the controller is told of every device again.
    let told = std::iter::from_fn(|| site.enrolments.poll_change()).count();
    assert_eq!(told, 2);
}

#[test]
fn an_operator_approves_one_by_one_and_orders_at_once_when_nothing_moves() {
    let mut site = Site::new(Approval::ByOperator);
    site.import(&[1, 2]).unwrap();
    site.see(1);
    assert_eq!((site.standing(1), site.admission(1)), (Standing::Pending, Admission::Barred));
    assert_eq!(site.settle(), []);
    assert_eq!(site.measure(1, Measure::Approve), Ok(Standing::Approved));
    assert_eq!(site.orders().len(), 1);
    assert_eq!(site.admission(1), Admission::Admitted { policy: "sensor".to_owned() });
    // One may be approved before it is seen.
    assert_eq!(site.measure(2, Measure::Approve), Ok(Standing::Approved));
    assert_eq!(site.orders()[0].devices, [mac(2)]);
}

#[test]
fn suspension_and_quarantine_lead_back_to_where_they_came_from() {
    let mut site = Site::new(Approval::ByImport);
    site.import(&[1]).unwrap();
    site.see(1);
    site.settle();
    assert_eq!(site.measure(1, Measure::Suspend), Ok(Standing::Suspended));
    assert_eq!(site.admission(1), Admission::Barred);
    // What arrives late counts all the same.
    site.confirm(1);
    assert_eq!(site.measure(1, Measure::Quarantine), Ok(Standing::Quarantined));
    assert_eq!(site.admission(1), Admission::Quarantined);
    assert_eq!(site.measure(1, Measure::Release), Ok(Standing::Active));
    assert_eq!(site.orders(), [], "it has its first key");
    assert_eq!(site.measure(1, Measure::Retire), Ok(Standing::Retired));
    assert_eq!(site.admission(1), Admission::Barred);
    let refused = site.measure(1, Measure::Approve).unwrap_err().to_string();
    assert!(refused.contains("import it again"), "{refused}");
    site.import(&[1]).unwrap();
    assert_eq!(site.standing(1), Standing::Manufactured);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would_and_an_import_is_whole() {
    let mut site = Site::new(Approval::ByOperator);
    site.import(&[1]).unwrap();
    assert_eq!(site.import(&[2, 1]), Err(EnrolmentError::Known(mac(1))));
    assert_eq!(site.measure(2, Measure::Approve), Err(EnrolmentError::Unknown(mac(2))));
    for (measure, remedy) in [
        (Measure::Suspend, "takes no part yet"),
        (Measure::Quarantine, "takes no part yet"),
        (Measure::Resume, "only a suspended device"),
        (Measure::Release, "only a quarantined device"),
    ] {
        let refused = site.measure(1, measure).unwrap_err().to_string();
        assert!(refused.contains(remedy), "{refused}");
    }
}

#[test]
fn the_log_says_who_did_what_and_why() {
    let mut site = Site::new(Approval::ByImport);
    site.import(&[1]).unwrap();
    site.see(1);
    let (later, why) = (NOW + Span::from_secs(5), ("operator", "battery door was open"));
    let measure = Measure::Quarantine;
    site.store
        .transact(|tx| site.enrolments.take_measure(tx, later, why, mac(1), measure))
        .unwrap();
    let log: Result<_, EngineError> = site.store.transact(|tx| site.enrolments.audit(tx, 0, 100));
    let lines: Vec<_> =
        log.unwrap().into_iter().map(|e| format!("{} {} {}", e.seq, e.who, e.what)).collect();
    assert_eq!(
        lines,
        [
            "1 operator imported as sensor",
            "2 network seen at 0000000000000001:1",
            "3 rule approved, as its label was imported",
            "4 operator quarantine: battery door was open",
        ]
    );
}

proptest! {
    /// Whatever happens in whatever order: every device is in at most one order, only those that take
    /// part are admitted, and a restart changes nothing.
    #[test]
    fn orders_name_nobody_twice_and_only_who_takes_part_is_admitted(
        steps in prop::collection::vec((0_u8..11, 1_u8..5), 0..60),
        by_import: bool,
    ) {
        let approval = if by_import { Approval::ByImport } else { Approval::ByOperator };
        let mut site = Site::new(approval);
        let mut ordered = Vec::new();
        for (step, n) in steps {
            match step {
                0 => drop(site.import(&[n])),
                1 => site.see(n),
                2 => ordered.extend(site.settle()),
                3 => site.confirm(n),
                4 => drop(site.measure(n, Measure::Approve)),
                5 => drop(site.measure(n, Measure::Suspend)),
                6 => drop(site.measure(n, Measure::Resume)),
                7 => drop(site.measure(n, Measure::Quarantine)),
                8 => drop(site.measure(n, Measure::Release)),
                9 => drop(site.measure(n, Measure::Retire)),
                _ => site.reopen(approval),
            }
            ordered.extend(site.orders());
        }
        for n in 1..5 {
            let found: Result<_, EngineError> =
                site.store.transact(|tx| site.enrolments.get(tx, mac(n)));
            let Some(device) = found.unwrap() else { continue };
            let takes_part = matches!(device.standing, Standing::Approved | Standing::Active);
            let is_admitted = matches!(site.admission(n), Admission::Admitted { .. });
            prop_assert_eq!(takes_part, is_admitted);
            // A new life begins with an import, and only then another order.
            let named = ordered.iter().filter(|order| order.number == device.order);
            let named: Vec<_> = named.filter(|order| order.devices.contains(&mac(n))).collect();
            prop_assert_eq!(named.len(), usize::from(device.order > 0));
        }
        let numbers: Vec<_> = ordered.iter().map(|order| order.number).collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }
}
