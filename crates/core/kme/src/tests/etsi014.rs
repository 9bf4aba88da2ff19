//! ETSI GS QKD 014: the decisions of `WIRE.md` §2, one by one.

use claviger_durable::{Engine, EngineError, Table, Tx};
use claviger_keystore::{Origin, Provenance};
use claviger_security::SecurityClaim;
use claviger_units::{Bits, KeyId, Site};
use claviger_wire::etsi014::KeyContainer;

use super::world::{SIMULATED, World, sae_id};
use crate::{AuditLine, Declined, Event, Interface, Refusal, RefusalKind};

const PAIR: (&str, &str) = ("gateway", "platform");
const RIAP: (&str, &str) = ("platform", "gateway");
const NOT_FOUND: &str = "one or more keys specified are not found on KME";

fn ids(container: &KeyContainer) -> Vec<KeyId> {
    container.keys.iter().map(|key| key.id).collect()
}

fn equal(one: &KeyContainer, other: &KeyContainer) -> bool {
    let pairs = one.keys.iter().zip(&other.keys);
    one.keys.len() == other.keys.len()
        && pairs.into_iter().all(|(x, y)| x.id == y.id && x.key.ct_eq(&y.key))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Declined>) -> Refusal {
    match result.unwrap_err() {
        Declined::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn pending<T: std::fmt::Debug>(result: Result<T, Declined>) -> Refusal {
    match result.unwrap_err() {
        Declined::Pending { last, .. } => last,
        other => panic!("not pending: {other:?}"),
    }
}

#[test]
fn a_key_leaves_once_at_each_site_and_is_the_same() {
    let mut world = World::with_keys(64);
    let at_a = world.enc_keys(Site::A, PAIR, "").unwrap();
    assert_eq!((at_a.keys.len(), at_a.keys[0].key.len()), (1, 32));
    world.settle();
    let at_b = world.dec_keys(Site::B, RIAP, &ids(&at_a)).unwrap();
    assert!(equal(&at_a, &at_b));
    let again = refusal(world.dec_keys(Site::B, RIAP, &ids(&at_a)));
    assert_eq!((again.kind(), &*again.to_string()), (RefusalKind::BadRequest, NOT_FOUND));
}

#[test]
fn each_site_is_master_of_its_own_share() {
    let mut world = World::with_keys(64);
    let at_b = world.enc_keys(Site::B, RIAP, r#"{"number":2}"#).unwrap();
    world.settle();
    assert!(equal(&at_b, &world.dec_keys(Site::A, PAIR, &ids(&at_b)).unwrap()));
}

#[test]
fn every_size_arrives_alike_at_both_ends() {
    for bits in [64, 72, 128, 256, 264, 512, 1024] {
        let mut world = World::with_keys(64);
        let body = format!(r#"{{"number":3,"size":{bits}}}"#);
        let at_a = world.enc_keys(Site::A, PAIR, &body).unwrap();
        assert!(at_a.keys.iter().all(|key| key.key.len() * 8 == bits), "{bits}");
        world.settle();
        assert!(equal(&at_a, &world.dec_keys(Site::B, RIAP, &ids(&at_a)).unwrap()), "{bits}");
    }
}

/// `WIRE.md` §2: 400 and nothing spent.
#[test]
fn bad_key_requests_spend_nothing() {
    let number = "number shall be 1 to 128";
    let size = "size shall be 64 to 1024 bits";
    let octets = "size shall be a multiple of 8";
    let same = "master and slave shall be two different SAEs";
    let unknown = "slave_SAE_ID names no SAE that is registered here";
    let unsupported = "not all extension_mandatory parameters are supported";
    let integer = "number shall be an integer";
    let slaves = "additional_slave_SAE_IDs shall be an array of SAE ids";
    let mut world = World::with_keys(64);
    let before = (world.a.state(), world.b.state());
    for (slave, body, message) in [
        ("platform", r#"{"number":0}"#, number),
        ("platform", r#"{"number":-1}"#, number),
        ("platform", r#"{"number":129}"#, number),
        ("platform", r#"{"number":18446744073709551615}"#, number),
        ("platform", r#"{"number":1.0}"#, integer),
        ("platform", r#"{"number":"1"}"#, integer),
        ("platform", r#"{"size":0}"#, size),
        ("platform", r#"{"size":-256}"#, size),
        ("platform", r#"{"size":56}"#, size),
        ("platform", r#"{"size":1032}"#, size),
        ("platform", r#"{"size":255}"#, octets),
        ("platform", r#"{"size":-1}"#, octets),
        ("platform", r#"{"size":1}"#, octets),
        ("gateway", "", same),
        ("", "", unknown),
        (" ", "", unknown),
        ("nobody", "", unknown),
        ("Platform", "", unknown),
        ("platform", r#"{"additional_slave_SAE_IDs":["nobody"]}"#, unknown),
        ("platform", r#"{"additional_slave_SAE_IDs":["gateway"]}"#, same),
        ("platform", r#"{"additional_slave_SAE_IDs":["platform"]}"#, "a slave is named twice"),
        (
            "platform",
            r#"{"additional_slave_SAE_IDs":["archive","archive"]}"#,
            "a slave is named twice",
        ),
        ("platform", r#"{"additional_slave_SAE_IDs":[""]}"#, slaves),
        ("platform", r#"{"additional_slave_SAE_IDs":{}}"#, slaves),
        ("platform", r#"{"extension_mandatory":[{"route":"direct"}]}"#, unsupported),
        ("platform", r#"{"extension_mandatory":[{},{"a":1}]}"#, unsupported),
        (
            "platform",
            r#"{"extension_mandatory":{"a":1}}"#,
            "extension_mandatory shall be an array of objects",
        ),
        ("platform", r#"{"number":1"#, "the body is not JSON"),
        ("platform", "[]", "the body shall be a JSON object"),
        ("platform", r#"{"number":1,"number":1}"#, "an object names a member twice"),
    ] {
        let refusal = refusal(world.enc_keys(Site::A, ("gateway", slave), body));
        assert_eq!(refusal.to_string(), message, "{slave} {body}");
        assert_eq!(refusal.kind(), RefusalKind::BadRequest, "{slave} {body}");
        assert_eq!(refusal.body().message, message);
    }
    assert_eq!((world.a.state(), world.b.state()), before);
}

#[test]
fn what_is_absent_null_or_optional_is_no_error() {
    let mut world = World::with_keys(64);
    for body in [
        "",
        "{}",
        r#"{"number":null,"size":null,"extension_mandatory":null,"unknown":0}"#,
        r#"{"extension_mandatory":[],"extension_optional":[{"route":"direct"}]}"#,
        r#"{"additional_slave_SAE_IDs":[]}"#,
    ] {
        assert_eq!(world.enc_keys(Site::A, PAIR, body).unwrap().keys.len(), 1, "{body}");
    }
}

/// `WIRE.md` §2: a valid certificate of an unregistered SAE: 401. Each SAE is bound to one KME.
#[test]
fn only_applications_of_this_kme_are_served() {
    let mut world = World::with_keys(64);
    let before = (world.a.state(), world.b.state());
    for (site, pair) in
        [(Site::A, ("stranger", "platform")), (Site::A, RIAP), (Site::B, ("gateway", "nobody"))]
    {
        let refusals = [
            refusal(world.enc_keys(site, pair, "")),
            refusal(world.enc_keys(site, pair, "{")),
            refusal(world.dec_keys(site, pair, &[KeyId::from_bytes([1; 16])])),
            refusal(world.status(site, pair.0, pair.1)),
            world.party(site).kme.admit(&sae_id(pair.0)).unwrap_err(),
        ];
        assert_eq!(refusals, [const { Refusal::Unregistered }; 5], "{pair:?}");
        assert_eq!(Refusal::Unregistered.kind(), RefusalKind::Unauthorized);
    }
    assert_eq!((world.a.state(), world.b.state()), before);
}

/// `WIRE.md` §2, order at `dec_keys`: parse, all known, named for each, not yet taken.
#[test]
fn bad_fetches_spend_nothing() {
    let mut world = World::with_keys(64);
    let at_a = world.enc_keys(Site::A, PAIR, r#"{"number":3}"#).unwrap();
    let for_archive = world.enc_keys(Site::A, ("gateway", "archive"), "").unwrap();
    world.settle();
    let [one, two, three] = *ids(&at_a) else { panic!("three were asked for") };
    let [other] = *ids(&for_archive) else { panic!("one was asked for") };
    let stranger = KeyId::from_bytes([0x55; 16]);
    world.dec_keys(Site::B, RIAP, &[three]).unwrap();
    world.settle();
    let before = (world.a.state(), world.b.state());

    let count = "key_IDs shall hold 1 to 128 ids";
    let entitled = "this SAE was not named when one or more of the keys were handed out";
    let unknown = "master_SAE_ID names no SAE that is registered here";
    let many: Vec<_> = (0..129).map(|n| KeyId::from_bytes([n; 16])).collect();
    for (master, ids, kind, message) in [
        ("gateway", &[][..], RefusalKind::BadRequest, count),
        ("gateway", &many, RefusalKind::BadRequest, count),
        ("gateway", &[one, two, one], RefusalKind::BadRequest, "key_IDs names a key twice"),
        ("gateway", &[one, stranger], RefusalKind::BadRequest, NOT_FOUND),
        ("gateway", &[one, other, stranger], RefusalKind::BadRequest, NOT_FOUND),
        ("gateway", &[one, other], RefusalKind::Unauthorized, entitled),
        ("gateway", &[other, three], RefusalKind::Unauthorized, entitled),
        ("gateway", &[one, three], RefusalKind::BadRequest, NOT_FOUND),
        ("printer", &[one], RefusalKind::Unauthorized, entitled),
        ("", &[one], RefusalKind::BadRequest, unknown),
        ("nobody", &[one], RefusalKind::BadRequest, unknown),
        (
            "platform",
            &[one],
            RefusalKind::BadRequest,
            "master and slave shall be two different SAEs",
        ),
    ] {
        let refusal = refusal(world.dec_keys_patiently(Site::B, ("platform", master), ids));
        assert_eq!((refusal.kind(), &*refusal.to_string()), (kind, message), "{master} {ids:?}");
    }
    assert_eq!((world.a.state().0, world.b.state().0), (before.0.0, before.1.0));
    assert_eq!(world.dec_keys(Site::B, RIAP, &[one, two]).unwrap().keys.len(), 2);
}

#[test]
fn each_slave_of_a_multicast_key_takes_its_copy_once() {
    let mut world = World::with_keys(64);
    let body = r#"{"additional_slave_SAE_IDs":["archive","printer"]}"#;
    let at_a = world.enc_keys(Site::A, PAIR, body).unwrap();
    world.settle();
    for (site, slave) in [(Site::B, "archive"), (Site::B, "platform"), (Site::A, "printer")] {
        let copy = world.dec_keys(site, (slave, "gateway"), &ids(&at_a)).unwrap();
        assert!(equal(&at_a, &copy), "{slave}");
        let again = refusal(world.dec_keys(site, (slave, "gateway"), &ids(&at_a)));
        assert_eq!(again, Refusal::KeysNotFound, "{slave}");
        world.settle();
    }
}

/// `WIRE.md` §2: fewer keys than asked: 503 and nothing spent.
#[test]
fn a_shortage_spends_nothing() {
    let mut world = World::with_keys(16);
    let at_hand = world.a.deliverable("gateway", "platform");
    let before = world.a.state().0;
    let refusal = refusal(world.enc_keys(Site::A, PAIR, r#"{"number":128}"#));
    assert_eq!((refusal.clone(), refusal.kind()), (Refusal::Shortage, RefusalKind::Unavailable));
    assert_eq!(world.a.state().0, before);
    let body = format!(r#"{{"number":{at_hand}}}"#);
    assert_eq!(world.enc_keys(Site::A, PAIR, &body).unwrap().keys.len() as u64, at_hand);
}

#[test]
fn a_request_beyond_the_lease_waits_for_the_peer() {
    let mut world = World::with_keys(400);
    let body = r#"{"number":128}"#;
    let before = world.a.state().0;
    assert_eq!(pending(world.enc_keys(Site::A, PAIR, body)), Refusal::LeaseLate);
    assert_eq!(world.a.state().0, before);
    assert_eq!(world.a.events(), []);
    world.settle();
    assert_eq!(world.enc_keys(Site::A, PAIR, body).unwrap().keys.len(), 128);
}

/// `PROTOCOL.md` P2, Fetch: 400 or 401 is never given on incomplete knowledge.
#[test]
fn an_id_that_the_notice_has_not_reached_waits_and_then_succeeds() {
    let mut world = World::with_keys(64);
    let at_a = world.enc_keys(Site::A, PAIR, "").unwrap();
    assert_eq!(pending(world.dec_keys(Site::B, RIAP, &ids(&at_a))), Refusal::NoticeLate);
    world.settle();
    assert!(equal(&at_a, &world.dec_keys(Site::B, RIAP, &ids(&at_a)).unwrap()));

    let unheard = world.enc_keys(Site::A, PAIR, "").unwrap();
    world.disconnect();
    let refusal = refusal(world.dec_keys(Site::B, RIAP, &ids(&unheard)));
    assert_eq!((refusal.clone(), refusal.kind()), (Refusal::Apart, RefusalKind::Unavailable));
    world.connect();
    assert!(equal(&unheard, &world.dec_keys(Site::B, RIAP, &ids(&unheard)).unwrap()));
}

#[test]
fn a_status_counts_what_can_be_handed_out() {
    let mut world = World::with_keys(64);
    let at_hand = world.a.deliverable("gateway", "platform");
    let status = world.status(Site::A, "gateway", "platform").unwrap();
    assert_eq!((&*status.source_kme_id, &*status.target_kme_id), ("kme-a", "kme-b"));
    assert_eq!((&*status.master_sae_id, &*status.slave_sae_id), PAIR);
    assert_eq!(status.stored_key_count, at_hand);
    assert!(status.stored_key_count > 0 && status.stored_key_count <= status.max_key_count);
    assert_eq!((status.key_size, status.min_key_size, status.max_key_size), (256, 64, 1024));
    assert_eq!((status.max_key_per_request, status.max_sae_id_count), (128, 2));
    let extension = status.status_extension.unwrap();
    assert_eq!(extension.claviger_origin.as_deref(), Some("simulated"));
    assert_eq!(extension.claviger_lacks, None);

    let body = format!(r#"{{"number":{at_hand}}}"#);
    world.enc_keys(Site::A, PAIR, &body).unwrap();
    assert_eq!(world.status(Site::A, "gateway", "platform").unwrap().stored_key_count, 0);
    let beside = world.status(Site::A, "gateway", "printer").unwrap();
    assert_eq!((&*beside.source_kme_id, &*beside.target_kme_id), ("kme-a", "kme-a"));
}

#[test]
fn a_bad_status_request_is_refused() {
    let mut world = World::empty();
    for (slave, refused) in [
        ("nobody", Refusal::UnknownSae("slave_SAE_ID")),
        ("", Refusal::UnknownSae("slave_SAE_ID")),
        ("gateway", Refusal::SameSae),
    ] {
        assert_eq!(refusal(world.status(Site::A, "gateway", slave)), refused, "{slave:?}");
    }
}

/// `DESIGN.md`, invariant 14: a role says in one line what it lacks.
#[test]
fn a_status_says_what_is_lacking() {
    let mut world = World::with_keys(64);
    let disk = world.a.engine.snapshot();
    let extension = |world: &mut World| {
        let status = world.status(Site::A, "gateway", "platform").unwrap();
        (status.stored_key_count, status.status_extension.unwrap().claviger_lacks.unwrap())
    };
    let at_a = world.enc_keys(Site::A, PAIR, "").unwrap();
    world.settle();
    world.dec_keys(Site::B, RIAP, &ids(&at_a)).unwrap();
    world.settle();
    world.disconnect();
    assert_eq!(extension(&mut world).1, "the peer KME: new keys leave only within the lease");
    world.restart_a_from(disk);
    let rolled_back = "one KME was rolled back; reset both with `claviger kme reset`";
    assert_eq!(extension(&mut world), (0, rolled_back.to_owned()));
    assert_eq!(refusal(world.enc_keys(Site::A, PAIR, "")), Refusal::RolledBack);
    assert_eq!(refusal(world.dec_keys(Site::B, RIAP, &ids(&at_a))), Refusal::RolledBack);
}

/// What both copies of a key of `size` bits say of it, and the status of the rest.
fn told(world: &mut World, size: u64) -> [(Option<String>, Option<String>); 3] {
    let body = format!(r#"{{"size":{size}}}"#);
    let at_a = world.enc_keys(Site::A, PAIR, &body).unwrap();
    world.settle();
    let at_b = world.dec_keys(Site::B, RIAP, &ids(&at_a)).unwrap();
    let [at_a, at_b] = [at_a, at_b].map(|container| container.keys[0].extension.clone());
    let status = world.status(Site::A, "gateway", "platform").unwrap().status_extension;
    [at_a, at_b, status].map(|extension| {
        let extension = extension.unwrap();
        (extension.claviger_origin, extension.claviger_claim)
    })
}

/// `DESIGN.md`, invariant 6.
#[test]
fn every_key_says_where_it_comes_from_and_what_is_claimed_of_it() {
    for (origin, text) in [
        (Origin::Simulated, "simulated"),
        (Origin::SimulatedSeeded, "simulated, seeded: reproducible, never to be used"),
        (Origin::Hardware, "hardware"),
    ] {
        for (claim, claimed) in [
            (Some(SecurityClaim::EraHeuristic), Some("era-heuristic")),
            (Some(SecurityClaim::Gllp), Some("gllp")),
            (Some(SecurityClaim::FiniteSize), Some("finite-size")),
            (None, None),
        ] {
            let mut world = World::empty();
            world.add_block(16, Provenance { origin, claim });
            for told in told(&mut world, 256) {
                let expected = (Some(text.to_owned()), claimed.map(ToOwned::to_owned));
                assert_eq!(told, expected);
            }
        }
    }
}

/// A chain of keys is as strong as the weakest of them, in either respect by itself.
#[test]
fn a_joined_key_claims_no_more_than_the_weakest_of_its_members() {
    let (origin, weak) = (Origin::Simulated, Some(SecurityClaim::EraHeuristic));
    let strong = Some(SecurityClaim::FiniteSize);
    for (first, second, claimed) in [
        (strong, weak, Some("era-heuristic")),
        (weak, strong, Some("era-heuristic")),
        (strong, strong, Some("finite-size")),
        (strong, None, None),
        (None, weak, None),
    ] {
        let mut world = World::empty();
        world.add_block(64, Provenance { origin, claim: first });
        let of_first = world.a.deliverable("gateway", "platform");
        world.add_block(64, Provenance { origin, claim: second });
        // All but one of the first block's keys leave alone, so that the next two do not agree.
        for _ in 1..of_first {
            world.enc_keys(Site::A, PAIR, "").unwrap();
            world.settle();
        }
        let [at_a, at_b, next] = told(&mut world, 512);
        assert_eq!(at_a.1.as_deref(), claimed, "{first:?} and {second:?}");
        assert_eq!(at_b, at_a);
        assert_eq!(next.1.as_deref(), second.map(SecurityClaim::as_str));
    }
}

#[test]
fn the_audit_log_names_keys_and_parties() {
    let mut world = World::with_keys(64);
    let at_a = world.enc_keys(Site::A, PAIR, r#"{"number":2,"size":128}"#).unwrap();
    world.settle();
    world.dec_keys(Site::B, RIAP, &ids(&at_a)).unwrap();
    refusal(world.dec_keys(Site::B, RIAP, &ids(&at_a)));
    let (gateway, platform) = (sae_id("gateway"), sae_id("platform"));
    let handed_out = Event::HandedOut {
        interface: Interface::Etsi014,
        master: gateway.clone(),
        slaves: vec![platform.clone()],
        ids: ids(&at_a),
        size: Bits::new(128),
    };
    assert_eq!(world.a.audit(), [AuditLine { seq: 1, at: world.now, event: handed_out.clone() }]);
    assert_eq!(world.a.events(), [handed_out]);
    let fetched = Event::Fetched {
        interface: Interface::Etsi014,
        slave: platform.clone(),
        master: gateway,
        ids: ids(&at_a),
    };
    let refused = Event::Refused { caller: platform, refusal: Refusal::KeysNotFound };
    assert_eq!(world.b.audit(), [AuditLine { seq: 1, at: world.now, event: fetched.clone() }]);
    assert_eq!(world.b.events(), [fetched, refused]);
}

/// `PROTOCOL.md` P2: the audit line is written with the hand-out, or neither is.
#[test]
fn the_audit_trail_is_as_durable_as_the_hand_out() {
    let survived = (0..).find(|&lives| {
        let mut world = World::with_keys(64);
        world.a.engine.die_after(lives);
        let died = world.enc_keys(Site::A, PAIR, "").is_err();
        world.a.engine.revive();
        world.restart_a();
        let n_noticed = world.b.untaken();
        assert_eq!(world.a.audit().len() as u64, n_noticed, "dead after {lives} operations");
        !died
    });
    assert!(survived > Some(5), "a hand-out writes more than that");
}

#[test]
fn the_audit_trail_goes_on_after_a_start() {
    let mut world = World::with_keys(64);
    for seq in 1..4 {
        let given = ids(&world.enc_keys(Site::A, PAIR, "").unwrap());
        world.restart_a();
        // The start has burnt what was leased.
        world.add_block(64, SIMULATED);
        let last = world.a.audit().pop().unwrap();
        assert_eq!(last.seq, seq);
        assert!(matches!(last.event, Event::HandedOut { ids, .. } if ids == given));
    }
}

/// The newest 10 000 lines are kept, and none holds a key.
#[test]
fn the_audit_trail_is_bounded_and_holds_no_key() {
    const TRAIL: Table = Table::plain("kme_audit");
    let mut world = World::with_keys(64);
    let key = world.enc_keys(Site::A, PAIR, "").unwrap().keys.remove(0).key;
    let rows = |world: &mut World| {
        let scan = |tx: &mut dyn Tx| tx.scan(TRAIL, b"", b"", usize::MAX);
        world.a.engine.transact::<_, EngineError>(scan).unwrap()
    };
    let row = rows(&mut world).remove(0).1;
    assert!(!row.expose().windows(8).any(|eight| key.expose().windows(8).any(|k| k == eight)));
    let fill = |tx: &mut dyn Tx| {
        (2..=10_000_u64).try_for_each(|seq| tx.write(TRAIL, &seq.to_be_bytes(), row.expose()))
    };
    world.a.engine.transact::<_, EngineError>(fill).unwrap();
    world.restart_a();
    world.add_block(64, SIMULATED);
    world.enc_keys(Site::A, PAIR, "").unwrap();
    let rows = rows(&mut world);
    assert_eq!(rows.len(), 10_000);
    assert_eq!(rows.last().unwrap().0, 10_001_u64.to_be_bytes());
}

#[test]
fn refusals_tell_the_limits() {
    let number = Refusal::Number { max: 128 };
    assert_eq!(
        String::from_utf8(number.body().to_json()).unwrap(),
        r#"{"message":"number shall be 1 to 128","details":[{"max_key_per_request":"128"}]}"#
    );
    assert_eq!(
        Refusal::KeysNotFound.body().to_json(),
        format!(r#"{{"message":"{NOT_FOUND}"}}"#).as_bytes()
    );
}
