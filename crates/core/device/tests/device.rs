//! A device against a scripted site: renewals, losses, hostile answers, and power cuts everywhere.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use claviger_device::{
    Action, BootError, Delivery, Device, FlashImage, FlashWrite, KeyAnswer, KeyPath, KeyRequest,
    PadMark, Profile, Slot,
};
use claviger_frames::telemetry::{self, Header};
use claviger_frames::{
    DataKeys, DeviceRoot, Epoch, EpochKeys, GatewaySecret, Reading, ReplayWindow, Seen, key_frame,
    next_wake, parse_authorization, split_bootstrap,
};
use claviger_oscore::key_service::{self, Answer, Side};
use claviger_units::{Eui64, Key256, SecretBytes, Span, Timestamp};
use coap_lite::Packet;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5e, 0xff, 0xfe, 0x10, 0, 1]);
const PERIOD: Span = Span::from_secs(60);

fn bootstrap() -> Key256 {
    Key256::from_bytes([7; 32])
}

/// One epoch at the site.
struct SiteEpoch {
    epoch: Epoch,
    gateway: GatewaySecret,
    data: DataKeys,
    window: ReplayWindow,
    // Questions by CoAP.
    questions: ReplayWindow,
}

/// Gateway and platform in one, with a network that loses what the script says.
struct Site {
    root: DeviceRoot,
    // Every epoch so far, oldest first; the last but one is `cur` while `next` waits.
    epochs: Vec<SiteEpoch>,
    next: Option<Vec<u8>>,
    // How many epochs it still gives out.
    n_to_give: u32,
    loses: bool,
    // How the device is told to fetch.
    path: KeyPath,
    pad: Option<PadMark>,
    rng: StdRng,
    on_air: BTreeMap<(Epoch, u32), Vec<u8>>,
    readings: Vec<Reading>,
}

impl Site {
    fn new(n_to_give: u32) -> Self {
        let (root, gateway) = split_bootstrap(&bootstrap());
        let mut site = Self {
            root,
            epochs: Vec::new(),
            next: None,
            n_to_give,
            loses: false,
            path: KeyPath::Https,
            pad: None,
            rng: StdRng::seed_from_u64(1),
            on_air: BTreeMap::new(),
            readings: Vec::new(),
        };
        site.push(Epoch::BOOTSTRAP, gateway);
        site
    }

    fn push(&mut self, epoch: Epoch, gateway: GatewaySecret) {
        let data = DataKeys::derive(&self.root, &gateway, EUI, epoch);
        let (window, questions) = (ReplayWindow::new(), ReplayWindow::new());
        self.epochs.push(SiteEpoch { epoch, gateway, data, window, questions });
    }

    /// Prepares the next epoch.
    fn prepare(&mut self) {
        let cur = self.epochs.last().unwrap();
        let epoch = Epoch::new(cur.epoch.number() + 1);
        let qkd = Key256::random(&mut self.rng);
        self.next = Some(key_frame::seal(&cur.gateway, epoch, &qkd, self.rng.random()));
        let gateway = cur.gateway.next(&qkd, EUI, cur.epoch, epoch);
        self.n_to_give -= 1;
        self.push(epoch, gateway);
    }

    /// Serves a request by whatever path; the network may lose question and answer.
    fn serve(&mut self, now: Timestamp, device: &mut Device, request: &KeyRequest) {
        match request {
            KeyRequest::Https { path_and_query, authorization } => {
                let (epoch, mac) = parse_authorization(authorization).unwrap();
                assert_eq!(*path_and_query, format!("/v1/devices/{EUI}/key?have={epoch}"));
                let known = self.known(epoch);
                assert!(known.gateway.verify_request(&format!("GET {path_and_query}"), &mac));
                let frame = self.next_after(epoch);
                device.handle_key_answer(now, answer_of(frame.as_deref()));
            }
            KeyRequest::Psk { path_and_query, path } => {
                let identity = device.psk_identity(path.psk_version().unwrap());
                let epoch = identity.epoch;
                self.follow(epoch);
                assert_eq!(*path_and_query, format!("/v1/devices/{EUI}/key?have={epoch}"));
                let key = self.known(epoch).gateway.pre_shared_key(identity.version);
                assert!(key.ct_eq(&device.pre_shared_key(identity.version)));
                let frame = self.next_after(epoch);
                device.handle_key_answer(now, answer_of(frame.as_deref()));
            }
            KeyRequest::Pad { place } => device.handle_pad_key(now, Some(&pad_key(*place))),
            KeyRequest::Coap { datagram } => {
                if let Some(answer) = self.answer_datagram(datagram) {
                    device.handle_coap(now, &answer);
                }
            }
            KeyRequest::Await => {
                if let Some(frame) = self.next_after(device.epoch()) {
                    device.handle_pushed(now, &frame);
                }
            }
        }
    }

    fn answer_datagram(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let packet = Packet::from_bytes(datagram).unwrap();
        let (eui, epoch) = key_service::claimed(&packet).unwrap();
        assert_eq!(eui, EUI);
        let known = self.known(epoch);
        let context = key_service::context(Side::Gateway, &known.gateway, EUI, epoch);
        let mut context = context.resumed(0, known.questions.clone());
        let opened = context.open_request(&packet);
        let (message, request) = opened.expect("no number is used for two questions");
        known.questions = context.window().clone();
        if self.lost() {
            return None;
        }
        let answer = self.next_after(epoch).map_or(Answer::NothingDue, Answer::Frame);
        let response = answer.respond_to(&message);
        Some(context.protect_response(&response, request).unwrap().to_bytes().unwrap())
    }

    /// Takes the next epoch of the pad, once its device has spoken under it.
    fn follow(&mut self, epoch: Epoch) {
        let newest = self.epochs.last().unwrap();
        if let Some((place, next)) = self.pad.and_then(|pad| pad.next_after(newest.epoch))
            && next == epoch
        {
            let gateway = newest.gateway.next(&pad_key(place), EUI, newest.epoch, next);
            self.push(next, gateway);
        }
    }

    /// Finds the epoch that a device says it holds.
    fn known(&mut self, epoch: Epoch) -> &mut SiteEpoch {
        let newest = self.epochs.last().unwrap().epoch;
        let place = match self.next {
            Some(_) if epoch < newest => self.epochs.len() - 2,
            _ => self.epochs.len() - 1,
        };
        let known = &mut self.epochs[place];
        assert_eq!(known.epoch, epoch, "the device is at an epoch that the site has left");
        known
    }

    /// Returns the frame for a device that has proven to hold `epoch`, if the network does not lose it.
    fn next_after(&mut self, epoch: Epoch) -> Option<Vec<u8>> {
        if epoch == self.epochs.last().unwrap().epoch {
            self.next = None;
        }
        let leads_on = self.pad.is_some_and(|pad| pad.next_after(epoch).is_some());
        if self.next.is_none() && self.n_to_give > 0 && !leads_on {
            self.prepare();
        }
        if self.lost() { None } else { self.next.clone() }
    }

    fn published(&mut self, header: Header, frame: &[u8]) -> Delivery {
        let before = self.on_air.insert((header.epoch, header.counter), frame.to_vec());
        assert!(before.is_none_or(|b| b == frame), "{header:?} was used for two messages");
        if self.lost() {
            return Delivery::Failed;
        }
        self.follow(header.epoch);
        let known = self.epochs.iter_mut().find(|known| known.epoch == header.epoch);
        let known = known.expect("a device is one epoch ahead at the most");
        let (read, plaintext) = telemetry::open(&known.data, EUI, frame).unwrap();
        assert_eq!(read, header);
        if known.window.check(header.counter) == Seen::Fresh {
            known.window.mark(header.counter);
            self.readings.push(Reading::decode(&plaintext).unwrap());
        }
        if self.epochs.last().unwrap().epoch == header.epoch {
            self.next = None;
        }
        if self.lost() { Delivery::Failed } else { Delivery::Acknowledged }
    }

    fn lost(&mut self) -> bool {
        self.loses && self.rng.random_ratio(1, 4)
    }
}

fn pad_key(place: u32) -> Key256 {
    Key256::from_bytes([place.to_be_bytes()[3] ^ 0x5A; 32])
}

fn answer_of(frame: Option<&[u8]>) -> KeyAnswer<'_> {
    frame.map_or(KeyAnswer::NothingDue, KeyAnswer::Frame)
}

/// What a slot holds after the power failed during its write.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Before,
    /// So many bytes are new, the rest is erased.
    TornErased(usize),
    /// So many bytes are new, the rest is old.
    TornOld(usize),
    After,
}

/// A supply that fails at a flash write.
struct Power {
    n_writes_left: Option<(u32, Cut)>,
}

impl Power {
    const fn steady() -> Self {
        Self { n_writes_left: None }
    }

    fn failing_at(n: u32, cut: Cut) -> Self {
        Self { n_writes_left: Some((n, cut)) }
    }

    /// Does a write, whole or not; tells whether the device is still alive.
    fn write(&mut self, flash: &mut FlashImage, write: &FlashWrite) -> bool {
        let cut = match &mut self.n_writes_left {
            None => None,
            Some((0, cut)) => Some(*cut),
            Some((n, _)) => {
                *n -= 1;
                None
            }
        };
        let new = write.bytes.expose();
        let old = flash.slot(write.slot).expose();
        let bytes = match cut {
            Some(Cut::Before) => old.to_vec(),
            Some(Cut::TornErased(n)) => [&new[..n], &vec![0xFF; new.len() - n]].concat(),
            Some(Cut::TornOld(n)) => [&new[..n], old.get(n..).unwrap_or_default()].concat(),
            Some(Cut::After) | None => new.to_vec(),
        };
        flash.write(&FlashWrite { slot: write.slot, bytes: SecretBytes::new(bytes) });
        cut.is_none()
    }
}

/// Runs a device from boot until `end` or until its power fails; `None` if it failed.
fn live(
    now: &mut Timestamp,
    end: Timestamp,
    flash: &mut FlashImage,
    site: &mut Site,
    power: &mut Power,
) -> Option<Device> {
    let mut rng = StdRng::seed_from_u64(now.as_micros());
    let profile = Profile { path: site.path, ..Profile::waking_every(PERIOD) };
    let mut device = Device::boot(*now, flash, profile).unwrap();
    if let Some(mark) = site.pad {
        assert!(device.attach_pad(mark), "a docked pad is never lost");
    }
    loop {
        while let Some(write) = device.poll_flash() {
            assert_eq!(device.poll_action(), None, "nothing leaves while a write is due");
            if !power.write(flash, &write) {
                return None;
            }
            device.handle_flash(flash.slot(write.slot).expose());
        }
        let action = device.poll_action();
        // Otherwise a slot that decays later would take the device back to used counters.
        let alike = flash.slot(Slot::A).ct_eq(flash.slot(Slot::B));
        assert!(action.is_none() || alike, "it sends although the slots differ");
        match action {
            Some(Action::RequestKey(request)) => site.serve(*now, &mut device, &request),
            Some(Action::Publish { header, frame }) => {
                let delivery = site.published(header, &frame);
                if site.path == KeyPath::Push
                    && let Some(frame) = site.next_after(header.epoch.max(device.epoch()))
                {
                    device.handle_pushed(*now, &frame);
                }
                device.handle_published(*now, header, delivery);
            }
            None => {
                let due = device.poll_timeout().unwrap();
                if due > end {
                    return Some(device);
                }
                *now = due.max(*now);
                device.handle_timeout(*now, &mut rng);
            }
        }
    }
}

fn fresh() -> FlashImage {
    FlashImage::provision(bootstrap(), EUI)
}

/// Boots after every failure until `end`, with a last stretch on steady power.
fn live_through(flash: &mut FlashImage, site: &mut Site, failures: Vec<Power>, end: Timestamp) {
    let mut now = Timestamp::START;
    for mut power in failures {
        // Whether it dies or ends early, the next boot goes on where it stopped.
        drop(live(&mut now, end, flash, site, &mut power));
    }
    let end = now.max(end) + Span::from_secs(300);
    let device = live(&mut now, end, flash, site, &mut Power::steady()).unwrap();
    assert!(device.is_asleep() && device.epoch() > Epoch::BOOTSTRAP);
    assert_eq!(device.n_waiting(), 0, "every reading since the last boot has arrived");
    assert!(flash.slot(Slot::A).ct_eq(flash.slot(Slot::B)), "one epoch in both slots");
}

#[test]
fn it_renews_at_every_wake_and_loses_no_reading() {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(u32::MAX), Timestamp::START);
    let end = now + Span::from_secs(3600);
    let device = live(&mut now, end, &mut flash, &mut site, &mut Power::steady()).unwrap();
    let counters = device.counters();
    assert_eq!((counters.wakes, counters.requests, counters.renewals), (61, 61, 61));
    assert_eq!((counters.readings, counters.acknowledged, counters.retries), (61, 61, 0));
    assert_eq!(device.epoch(), Epoch::new(61));
    assert_eq!(site.readings.len(), 61);
    // The first as soon as it has a key, all others in its slot.
    for pair in site.readings[1..].windows(2) {
        assert_eq!(pair[1].taken, next_wake(pair[0].taken, EUI, PERIOD));
    }
}

#[test]
fn losses_cost_repeats_and_nothing_else() {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(30), Timestamp::START);
    site.loses = true;
    let end = now + Span::from_secs(2 * 3600);
    let device = live(&mut now, end, &mut flash, &mut site, &mut Power::steady()).unwrap();
    let counters = device.counters();
    assert_eq!(device.epoch(), Epoch::new(30));
    assert!(counters.retries > 20, "{counters:?}");
    assert_eq!(counters.readings, counters.acknowledged + device.n_waiting() as u64);
    assert!(site.readings.len() as u64 >= counters.acknowledged);
    assert_eq!(counters.dropped, 0);
    // Each is stored once, in the order in which they were taken.
    assert!(site.readings.windows(2).all(|pair| pair[0].taken < pair[1].taken));
}

#[test]
fn two_runs_are_alike() {
    let run = || {
        let (mut flash, mut site, mut now) = (fresh(), Site::new(9), Timestamp::START);
        site.loses = true;
        let end = now + Span::from_secs(1800);
        let device = live(&mut now, end, &mut flash, &mut site, &mut Power::steady()).unwrap();
        (device.counters(), site.readings, site.on_air)
    };
    assert_eq!(run(), run());
}

const CUTS: [Cut; 6] = [
    Cut::Before,
    Cut::TornErased(1),
    Cut::TornErased(91),
    Cut::TornOld(6),
    Cut::TornOld(50),
    Cut::After,
];

/// Every write of a life with a renewal at every wake, cut in every way, on every path of keys.
#[test]
fn no_power_cut_reuses_a_counter_or_loses_the_device() {
    for path in KeyPath::ALL {
        for n in 0..24 {
            for cut in CUTS {
                let (mut flash, mut site) = (fresh(), Site { path, ..Site::new(6) });
                let end = Timestamp::START + Span::from_secs(600);
                live_through(&mut flash, &mut site, vec![Power::failing_at(n, cut)], end);
            }
        }
    }
}

/// A second cut while the device recovers from the first, also with losses on the network.
#[test]
fn no_second_power_cut_does_either() {
    for (first, second) in (0..8).flat_map(|first| (0..8).map(move |second| (first, second))) {
        for (one, two) in CUTS.iter().flat_map(|one| CUTS.iter().map(move |two| (*one, *two))) {
            let (mut flash, mut site) = (fresh(), Site::new(4));
            let powers = vec![Power::failing_at(first, one), Power::failing_at(second, two)];
            let end = Timestamp::START + Span::from_secs(300);
            live_through(&mut flash, &mut site, powers, end);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any number of cuts, anywhere, with losses, on any path.
    #[test]
    fn no_number_of_power_cuts_does(
        path in prop::sample::select(KeyPath::ALL.to_vec()),
        cuts in prop::collection::vec((0..40_u32, prop::sample::select(CUTS.to_vec())), 0..12),
        loses: bool,
        seed: u64,
    ) {
        let (mut flash, mut site) = (fresh(), Site { path, loses, ..Site::new(12) });
        site.rng = StdRng::seed_from_u64(seed);
        let powers = cuts.into_iter().map(|(n, cut)| Power::failing_at(n, cut));
        let end = Timestamp::START + Span::from_secs(1200);
        let mut now = Timestamp::START;
        for mut power in powers {
            drop(live(&mut now, end, &mut flash, &mut site, &mut power));
        }
        // The network recovers at last, and nothing is lost.
        site.loses = false;
        live_through(&mut flash, &mut site, Vec::new(), now.max(end));
    }
}

/// Docks a device that has come to an epoch; its keys lead on from there, with a gap in the numbers.
fn dock(flash: &mut FlashImage, site: &mut Site, n_keys: u32) -> Timestamp {
    let mut now = Timestamp::START;
    site.n_to_give = 2;
    let end = now + Span::from_secs(300);
    let device = live(&mut now, end, flash, site, &mut Power::steady()).unwrap();
    let prev = device.epoch();
    assert_eq!(prev.number(), 2);
    let life = split_bootstrap(&bootstrap()).0.mark();
    site.pad = Some(PadMark { prev, first: Epoch::new(5), n_keys, life });
    now
}

#[test]
fn a_pad_leads_on_without_a_word_and_then_keys_come_by_air_again() {
    let (mut flash, mut site) = (fresh(), Site { path: KeyPath::Pad, ..Site::new(0) });
    let mut now = dock(&mut flash, &mut site, 20);
    site.n_to_give = 3;
    let end = now + Span::from_secs(1500);
    let device = live(&mut now, end, &mut flash, &mut site, &mut Power::steady()).unwrap();
    assert_eq!(device.epoch(), Epoch::new(5 + 20 - 1 + 3));
    assert_eq!(device.n_pad_keys_used(), Some(20));
    assert_eq!(device.counters().refused_frames, 0);
}

#[test]
fn a_pad_over_the_cable_is_taken_only_from_its_gateway() {
    let mut flash = fresh();
    let mut site = Site { path: KeyPath::Pad, ..Site::new(0) };
    let now = dock(&mut flash, &mut site, 3);
    let device = Device::boot(now, &flash, Profile::waking_every(PERIOD)).unwrap();
    let keys = SecretBytes::new((0..3).flat_map(|n| *pad_key(n).expose()).collect());
    let (prev, first) = (device.epoch(), Epoch::new(5));
    let own = &site.epochs.last().unwrap().gateway;
    let sealed = claviger_frames::pad::seal(own, EUI, (prev, first), &keys, [1; 12]);
    let (mark, opened) = device.open_pad(&sealed).unwrap();
    assert_eq!(Some(mark), site.pad);
    assert!(opened.ct_eq(&keys));
    let other = &site.epochs.first().unwrap().gateway;
    let forged = claviger_frames::pad::seal(other, EUI, (prev, first), &keys, [1; 12]);
    assert!(device.open_pad(&forged).is_none());
}

/// A gateway that only says when to ask again may not have noted what the device holds.
#[test]
fn a_device_steps_on_only_when_its_epoch_is_noted() {
    let mut flash = fresh();
    let mut site = Site { path: KeyPath::Pad, ..Site::new(0) };
    let mut now = dock(&mut flash, &mut site, 20);
    let profile = Profile { path: KeyPath::Pad, ..Profile::waking_every(PERIOD) };
    let mut device = Device::boot(now, &flash, profile).unwrap();
    assert!(device.attach_pad(site.pad.unwrap()));
    // Down with the power just after the first step, so that nothing has been said under it.
    while device.epoch() == site.pad.unwrap().prev {
        if let Some(Action::RequestKey(KeyRequest::Pad { place })) =
            step(&mut device, &mut flash, &mut now)
        {
            device.handle_pad_key(now, Some(&pad_key(place)));
            settle(&mut device, &mut flash);
        }
    }
    let answers = [
        KeyAnswer::Later { retry_after: Span::from_secs(1) },
        KeyAnswer::Denied,
        KeyAnswer::Unreachable,
    ];
    for _ in 0..10 {
        for answer in answers {
            match step(&mut device, &mut flash, &mut now) {
                Some(Action::RequestKey(KeyRequest::Psk { .. })) => {
                    device.handle_key_answer(now, answer);
                }
                Some(Action::Publish { header, .. }) => {
                    device.handle_published(now, header, Delivery::Failed);
                }
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
    }
    assert_eq!(device.epoch(), Epoch::new(5));
    let mut asked = None;
    while asked.is_none() {
        asked = step(&mut device, &mut flash, &mut now)
            .filter(|action| matches!(action, Action::RequestKey(_)));
    }
    device.handle_key_answer(now, KeyAnswer::NothingDue);
    loop {
        if let Some(Action::RequestKey(request)) = step(&mut device, &mut flash, &mut now) {
            assert_eq!(request, KeyRequest::Pad { place: 1 });
            break;
        }
    }
}

#[test]
fn nothing_from_the_air_leads_away_from_a_pad() {
    let (mut flash, mut site) = (fresh(), Site { path: KeyPath::Pad, ..Site::new(0) });
    let now = dock(&mut flash, &mut site, 20);
    let profile = Profile { path: KeyPath::Pad, ..Profile::waking_every(PERIOD) };
    let mut device = Device::boot(now, &flash, profile).unwrap();
    let cur = site.epochs.last().unwrap();
    let frame = key_frame::seal_compact(&cur.gateway, Epoch::new(3), &pad_key(1));
    assert!(device.attach_pad(site.pad.unwrap()));
    device.handle_pushed(now, &frame);
    assert!(device.poll_flash().is_none(), "it stays with its pad");
    // A pad of another life or state is none, and the air counts again.
    let pad = site.pad.unwrap();
    for other in [PadMark { prev: Epoch::new(1), ..pad }, PadMark { life: [0; 8], ..pad }] {
        assert!(!device.attach_pad(other));
    }
    device.handle_pushed(now, &frame);
    assert!(device.poll_flash().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However often the power fails and the network loses, a docked device is never further ahead than its
    /// gateway can follow, and never lost.
    #[test]
    fn no_power_cut_takes_a_device_off_its_pad(
        cuts in prop::collection::vec((0..30_u32, prop::sample::select(CUTS.to_vec())), 0..10),
        loses: bool,
        seed: u64,
    ) {
        let (mut flash, mut site) = (fresh(), Site { path: KeyPath::Pad, ..Site::new(0) });
        let mut now = dock(&mut flash, &mut site, 12);
        (site.loses, site.rng) = (loses, StdRng::seed_from_u64(seed));
        let end = now + Span::from_secs(900);
        for (n, cut) in cuts {
            drop(live(&mut now, end, &mut flash, &mut site, &mut Power::failing_at(n, cut)));
        }
        site.loses = false;
        let end = now.max(end) + Span::from_secs(900);
        let device = live(&mut now, end, &mut flash, &mut site, &mut Power::steady()).unwrap();
        prop_assert_eq!(device.epoch(), Epoch::new(16));
        prop_assert_eq!(device.n_waiting(), 0);
    }
}

#[test]
fn every_path_leads_to_a_key_at_every_wake() {
    for path in KeyPath::ALL {
        let (mut flash, mut now) = (fresh(), Timestamp::START);
        let mut site = Site { path, ..Site::new(u32::MAX) };
        let end = now + Span::from_secs(3600);
        let device = live(&mut now, end, &mut flash, &mut site, &mut Power::steady()).unwrap();
        let counters = device.counters();
        assert!(counters.renewals >= 61, "{path}: {counters:?}");
        assert_eq!((counters.readings, counters.acknowledged), (61, 61), "{path}");
        // Who is pushed to asks for the first key alone.
        let expected = if path == KeyPath::Push { 1 } else { 61 };
        assert_eq!(counters.requests, expected, "{path}");
    }
}

#[test]
fn a_device_asks_once_a_period_in_a_wake_that_it_makes_anyway() {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(u32::MAX), Timestamp::START);
    let renew_period = Span::from_secs(600);
    let profile = Profile { renew_period, ..Profile::waking_every(PERIOD) };
    let mut device = Device::boot(now, &flash, profile).unwrap();
    let mut asked = Vec::new();
    while now < Timestamp::START + Span::from_secs(7200) {
        let mut action = step(&mut device, &mut flash, &mut now);
        while let Some(wanted) = action {
            match wanted {
                Action::RequestKey(request) => {
                    asked.push(now);
                    site.serve(now, &mut device, &request);
                }
                Action::Publish { header, frame } => {
                    let delivery = site.published(header, &frame);
                    device.handle_published(now, header, delivery);
                }
            }
            action = settle(&mut device, &mut flash);
        }
    }
    assert!((12..=13).contains(&asked.len()), "{asked:?}");
    for pair in asked[1..].windows(2) {
        assert_eq!(pair[1].since(pair[0]), renew_period);
    }
}

#[test]
fn a_key_that_is_too_old_seals_nothing_where_that_is_the_policy() {
    for path in KeyPath::ALL {
        a_key_that_is_too_old_seals_nothing(path);
    }
}

fn a_key_that_is_too_old_seals_nothing(path: KeyPath) {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(2), Timestamp::START);
    publishing(&mut site, &mut flash, &mut now);
    let max_age = Some(Span::from_secs(600));
    let profile = Profile { max_age, path, ..Profile::waking_every(PERIOD) };
    let mut device = Device::boot(now, &flash, profile).unwrap();
    let start = now;
    let mut last = start;
    while now < start + Span::from_secs(1200) {
        match step(&mut device, &mut flash, &mut now) {
            Some(Action::RequestKey(_)) => device.handle_key_answer(now, KeyAnswer::NothingDue),
            Some(Action::Publish { header, .. }) => {
                last = now;
                device.handle_published(now, header, Delivery::Acknowledged);
            }
            None => {}
        }
    }
    let age = last.since(start);
    assert!(age <= Span::from_secs(600) && age > Span::from_secs(530), "{path}: {age:?}");
    assert!(device.n_waiting() >= 9, "readings wait for a key");
    // It asks for one by whatever path, and a fresh key lets them go.
    while !matches!(step(&mut device, &mut flash, &mut now), Some(Action::RequestKey(_))) {}
    site.prepare();
    let frame = site.next.take().unwrap();
    match path {
        KeyPath::Push => device.handle_pushed(now, &frame),
        _ => device.handle_key_answer(now, KeyAnswer::Frame(&frame)),
    }
    settle(&mut device, &mut flash);
    let publish = step(&mut device, &mut flash, &mut now);
    assert!(matches!(publish, Some(Action::Publish { header, .. }) if header.epoch.number() == 2));
}

#[test]
fn only_the_gateway_answers_by_coap() {
    let (mut flash, mut now) = (fresh(), Timestamp::START);
    let mut site = Site { path: KeyPath::Oscore, ..Site::new(1) };
    let profile = Profile { path: KeyPath::Oscore, ..Profile::waking_every(PERIOD) };
    let mut device = Device::boot(now, &flash, profile).unwrap();
    let Some(Action::RequestKey(KeyRequest::Coap { datagram })) =
        step(&mut device, &mut flash, &mut now)
    else {
        panic!("it asks, once a number is reserved")
    };
    let answer = site.answer_datagram(&datagram).unwrap();
    let mut forged = answer.clone();
    *forged.last_mut().unwrap() ^= 1;
    for noise in [&b"junk"[..], &forged, &datagram, &[0x60, 0x81, 0x7F, 0xFF]] {
        assert!(!device.handle_coap(now, noise));
        assert!(device.poll_flash().is_none() && !device.is_asleep(), "it waits on");
    }
    assert!(device.handle_coap(now, &answer));
    settle(&mut device, &mut flash);
    assert_eq!(device.epoch().number(), 1);
    // Nothing is asked any more: the same answer is passed over.
    assert!(!device.handle_coap(now, &answer));
    assert_eq!((device.epoch().number(), device.counters().refused_frames), (1, 0));
}

/// A frame may be pushed while the acknowledgement of a reading is on its way, and its commit must not be
/// given up for the counters that the next reading needs.
#[test]
fn a_key_on_its_way_into_flash_is_not_given_up_for_counters() {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(2), Timestamp::START);
    publishing(&mut site, &mut flash, &mut now);
    let profile = Profile { path: KeyPath::Push, ..Profile::waking_every(PERIOD) };
    let mut device = Device::boot(now, &flash, profile).unwrap();
    // Sixteen readings wait, more than were reserved when the device started anew.
    let mut n_published = 0;
    loop {
        let Some(Action::Publish { header, .. }) = step(&mut device, &mut flash, &mut now) else {
            continue;
        };
        n_published += 1;
        if header.counter % 64 == 63 {
            // A second reading waits, for which nothing is reserved.
            device.handle_published(now, header, Delivery::Failed);
            while !device.is_asleep() {
                let action = step(&mut device, &mut flash, &mut now);
                if let Some(Action::Publish { header, .. }) = action {
                    device.handle_published(now, header, Delivery::Failed);
                }
            }
            break;
        }
        device.handle_published(now, header, Delivery::Acknowledged);
        assert!(n_published < 200, "a counter ends in 63");
    }
    let Some(Action::Publish { header, .. }) = step_to_publish(&mut device, &mut flash, &mut now)
    else {
        panic!("it publishes the old reading first")
    };
    site.prepare();
    device.handle_pushed(now, &site.next.take().unwrap());
    assert!(device.poll_flash().is_some(), "the key goes into flash");
    device.handle_published(now, header, Delivery::Acknowledged);
    settle(&mut device, &mut flash);
    assert_eq!(device.epoch().number(), 2, "the key is there");
}

fn step_to_publish(
    device: &mut Device,
    flash: &mut FlashImage,
    now: &mut Timestamp,
) -> Option<Action> {
    (0..10).find_map(|_| {
        step(device, flash, now).filter(|action| matches!(action, Action::Publish { .. }))
    })
}

/// One key for a long time: here only the reserved counters are written.
#[test]
fn counters_are_reserved_ahead_and_never_used_twice() {
    for n in 0..8 {
        for cut in CUTS {
            let (mut flash, mut site) = (fresh(), Site::new(1));
            let end = Timestamp::START + Span::from_secs(150 * 60);
            live_through(&mut flash, &mut site, vec![Power::failing_at(n, cut)], end);
            let epochs: Vec<u32> = site.on_air.keys().map(|(epoch, _)| epoch.number()).collect();
            assert!(epochs.len() >= 150 && epochs.iter().all(|&epoch| epoch == 1));
        }
    }
    let (mut flash, mut site, mut now) = (fresh(), Site::new(1), Timestamp::START);
    let end = now + Span::from_secs(149 * 60);
    let device = live(&mut now, end, &mut flash, &mut site, &mut Power::steady()).unwrap();
    assert_eq!((device.counters().seals, device.counters().flash_writes), (150, 6));
}

/// Hands a device whatever its flash is due, and returns what it wants to send.
fn settle(device: &mut Device, flash: &mut FlashImage) -> Option<Action> {
    while let Some(write) = device.poll_flash() {
        flash.write(&write);
        device.handle_flash(flash.slot(write.slot).expose());
    }
    device.poll_action()
}

/// Takes a device to the point where it waits for the answer to a key request.
fn asking(flash: &mut FlashImage, now: &mut Timestamp) -> Device {
    let mut device = Device::boot(*now, flash, Profile::waking_every(PERIOD)).unwrap();
    assert_eq!(settle(&mut device, flash), None);
    *now = device.poll_timeout().unwrap();
    device.handle_timeout(*now, &mut StdRng::seed_from_u64(1));
    assert!(matches!(settle(&mut device, flash), Some(Action::RequestKey(_))));
    device
}

fn step(device: &mut Device, flash: &mut FlashImage, now: &mut Timestamp) -> Option<Action> {
    *now = device.poll_timeout().unwrap();
    device.handle_timeout(*now, &mut StdRng::seed_from_u64(1));
    settle(device, flash)
}

/// Takes a device with a first key to its first publication.
fn publishing(
    site: &mut Site,
    flash: &mut FlashImage,
    now: &mut Timestamp,
) -> (Device, Header, Vec<u8>) {
    let mut device = asking(flash, now);
    site.prepare();
    device.handle_key_answer(*now, KeyAnswer::Frame(&site.next.take().unwrap()));
    assert_eq!(settle(&mut device, flash), None);
    let Some(Action::Publish { header, frame }) = step(&mut device, flash, now) else { panic!() };
    (device, header, frame)
}

#[test]
fn a_reading_is_repeated_byte_for_byte() {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(2), Timestamp::START);
    let (mut device, header, frame) = publishing(&mut site, &mut flash, &mut now);
    device.handle_published(now, header, Delivery::Failed);
    let again = step(&mut device, &mut flash, &mut now);
    assert_eq!(again, Some(Action::Publish { header, frame }));
    // Silence counts as failure too; after three attempts it sleeps until its slot.
    step(&mut device, &mut flash, &mut now);
    step(&mut device, &mut flash, &mut now);
    step(&mut device, &mut flash, &mut now);
    assert!(device.is_asleep() && device.n_waiting() == 1);
    assert_eq!(device.poll_timeout(), Some(next_wake(now, EUI, PERIOD)));
}

/// The platform knows a repeat by its epoch and counter alone.
#[test]
fn a_reading_of_an_earlier_epoch_is_repeated_as_it_was() {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(2), Timestamp::START);
    let (mut device, header, frame) = publishing(&mut site, &mut flash, &mut now);
    for _ in 0..5 {
        step(&mut device, &mut flash, &mut now);
    }
    assert!(device.is_asleep());
    step(&mut device, &mut flash, &mut now);
    site.prepare();
    device.handle_key_answer(now, KeyAnswer::Frame(&site.next.take().unwrap()));
    settle(&mut device, &mut flash);
    assert_eq!((header.epoch.number(), device.epoch().number()), (1, 2));
    let again = step(&mut device, &mut flash, &mut now);
    assert_eq!(again, Some(Action::Publish { header, frame }));
    // Once it is acknowledged the next reading goes out, sealed under the new epoch.
    device.handle_published(now, header, Delivery::Acknowledged);
    let Some(Action::Publish { header: next, .. }) = settle(&mut device, &mut flash) else {
        panic!()
    };
    assert_eq!((next.epoch.number(), next.counter), (2, 0));
    // News of the old frame is passed over.
    device.handle_published(now, header, Delivery::Acknowledged);
    assert_eq!(device.n_waiting(), 1);
    device.handle_published(now, next, Delivery::Acknowledged);
    assert_eq!(device.n_waiting(), 0);
}

/// A device that nobody acknowledges: how many readings it holds and how old the oldest gets.
fn alone(profile: Profile, hours: u64) -> (Device, Span) {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(1), Timestamp::START);
    publishing(&mut site, &mut flash, &mut now);
    let start = now;
    let mut device = Device::boot(now, &flash, profile).unwrap();
    let (mut first_sent, mut oldest) = (BTreeMap::new(), Span::ZERO);
    while now < start + Span::from_secs(hours * 3600) {
        match step(&mut device, &mut flash, &mut now) {
            Some(Action::RequestKey(_)) => device.handle_key_answer(now, KeyAnswer::NothingDue),
            Some(Action::Publish { header, .. }) => {
                let sent = *first_sent.entry(header.counter).or_insert(now);
                oldest = oldest.max(now.since(sent));
                device.handle_published(now, header, Delivery::Failed);
            }
            None => {}
        }
    }
    (device, oldest)
}

/// PROTOCOL.md P3b.6: the platform keeps an epoch that it has left for 36 h.
#[test]
fn readings_are_given_up_when_they_are_too_many_or_too_old() {
    let (device, _) = alone(Profile::waking_every(PERIOD), 2);
    assert_eq!(device.n_waiting(), 32);
    assert_eq!(device.counters().dropped, device.counters().readings - 32);
    let (device, oldest) = alone(Profile::waking_every(Span::from_secs(2 * 3600)), 24 * 7);
    assert!(oldest > Span::from_secs(33 * 3600) && oldest <= Span::from_secs(36 * 3600));
    assert!((18..=19).contains(&device.n_waiting()), "{}", device.n_waiting());
}

#[test]
fn without_a_key_the_pauses_grow_to_a_limit() {
    let (mut flash, mut now) = (fresh(), Timestamp::START);
    let mut device = asking(&mut flash, &mut now);
    assert!(now <= Timestamp::START + Span::from_secs(5));
    let second = 1_000_000;
    for (answer, base) in [
        (KeyAnswer::Unreachable, 1),
        (KeyAnswer::Denied, 2),
        (KeyAnswer::NothingDue, 4),
        (KeyAnswer::Frame(b"junk"), 8),
        (KeyAnswer::Later { retry_after: Span::ZERO }, 16),
        (KeyAnswer::Later { retry_after: Span::from_secs(3) }, 3),
        (KeyAnswer::Later { retry_after: Span::from_secs(1_000_000) }, 60),
        (KeyAnswer::Unreachable, 60),
    ] {
        device.handle_key_answer(now, answer);
        let pause = device.poll_timeout().unwrap().since(now).as_micros();
        let expected = base * second..=base * second * 3 / 2;
        assert!(expected.contains(&pause), "{answer:?}: {pause} µs");
        let request = step(&mut device, &mut flash, &mut now);
        assert!(matches!(request, Some(Action::RequestKey(_))));
    }
}

#[test]
fn a_device_with_a_key_publishes_whatever_the_answer() {
    for answer in [
        KeyAnswer::NothingDue,
        KeyAnswer::Later { retry_after: Span::from_secs(99) },
        KeyAnswer::Denied,
        KeyAnswer::Unreachable,
        KeyAnswer::Frame(b"junk"),
    ] {
        let (mut flash, mut site, mut now) = (fresh(), Site::new(1), Timestamp::START);
        publishing(&mut site, &mut flash, &mut now);
        let mut device = asking(&mut flash, &mut now);
        device.handle_key_answer(now, answer);
        let publish = step(&mut device, &mut flash, &mut now);
        assert!(matches!(publish, Some(Action::Publish { .. })), "{answer:?}");
        assert_eq!(device.epoch(), Epoch::new(1));
    }
}

#[test]
fn a_flash_that_does_not_keep_its_bytes_silences_the_device() {
    let (mut flash, mut site, mut now) = (fresh(), Site::new(1), Timestamp::START);
    let mut device = asking(&mut flash, &mut now);
    site.prepare();
    device.handle_key_answer(now, KeyAnswer::Frame(&site.next.take().unwrap()));
    for _ in 0..3 {
        assert!(device.poll_flash().is_some() && device.poll_action().is_none());
        device.handle_flash(&[0xFF; 92]);
    }
    assert!(device.is_broken() && device.poll_flash().is_none());
    assert_eq!((device.poll_action(), device.poll_timeout()), (None, None));
}

#[test]
fn an_empty_flash_does_not_boot() {
    let flash = FlashImage::from_slots(Vec::new(), vec![0xFF; 92]);
    let booted = Device::boot(Timestamp::START, &flash, Profile::waking_every(PERIOD));
    assert_eq!(booted.unwrap_err(), BootError::NoValidSlot);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Only an authenticated frame changes what the device holds (PROTOCOL.md P3).
    #[test]
    fn no_forged_frame_changes_the_device(
        at: prop::sample::Index, flip in 1..=255_u8, junk in prop::collection::vec(any::<u8>(), 0..90),
    ) {
        let (mut flash, mut site, mut now) = (fresh(), Site::new(1), Timestamp::START);
        let mut device = asking(&mut flash, &mut now);
        site.prepare();
        let mut forged = site.next.take().unwrap();
        let at = at.index(forged.len());
        forged[at] ^= flip;
        for frame in [&forged, &junk] {
            device.handle_key_answer(now, KeyAnswer::Frame(frame));
            prop_assert!(device.poll_flash().is_none() && device.epoch() == Epoch::BOOTSTRAP);
            step(&mut device, &mut flash, &mut now);
        }
        prop_assert_eq!(device.counters().refused_frames, 2);
    }
}
