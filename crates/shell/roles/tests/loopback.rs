//! All roles in one process on loopback: from the photon to the reading.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use claviger_device::KeyPath;
use claviger_lab::VirtualLink;
use claviger_net::clock::Clock;
use claviger_net::http::Client;
use claviger_net::shutdown::Shutdown;
use claviger_net::tls;
use claviger_photonics::{Eve, LinkPreset};
use claviger_roles::config::{
    self, RawController, RawDevices, RawFibre, RawGateway, RawKme, RawLan, RawLink, RawPlatform,
    RawQkd,
};
use claviger_roles::init::{self, Layout, Plan, Ports};
use claviger_roles::sae::KeyClient;
use claviger_roles::{
    Context, Folder, Report, Reporter, RoleError, controller, devices, fibre, gateway, kme, lan,
    platform, qkd,
};
use claviger_units::Bits;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// A network under a folder, with its roles running.
struct Network {
    reports: mpsc::UnboundedReceiver<Report>,
    context: Context,
    tasks: JoinSet<(&'static str, Result<(), RoleError>)>,
    _eve: watch::Sender<Eve>,
}

/// Finds a base from which all ports are free now; the kernel hands out others meanwhile.
fn free_base() -> u16 {
    let free = |port: u16| {
        let address = (Ipv4Addr::LOCALHOST, port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    // Tests that run at the same time begin at places of their own, which do not overlap.
    let n_places = 9600 / Ports::COUNT;
    let start = u16::try_from(std::process::id() % u32::from(n_places)).unwrap();
    (0..n_places)
        .map(|n| 20_000 + (start + n) % n_places * Ports::COUNT)
        .find(|&base| (base..base + Ports::COUNT).all(free))
        .expect("free ports in a row")
}

fn plan(devices: u32, seed: Option<u64>) -> Plan {
    Plan {
        link: RawLink { preset: "lab".into(), loss_db: None, seed },
        simulated_speed: 5.0,
        eve_fraction: 0.0,
        devices,
        fibres: Vec::new(),
        renew_s: 4.0,
        paths: vec![KeyPath::Https],
        pad_keys: None,
        danger_idq3p: true,
        port_base: free_base(),
        names: BTreeMap::new(),
    }
}

impl Network {
    fn start(state: &Path) -> Self {
        tls::install_provider();
        let (reporter, reports) = Reporter::channel();
        let context =
            Context { clock: Clock::start(), shutdown: Shutdown::new(), reports: reporter };
        let layout = Layout::below(state);
        let folder = |role: &str| Folder::new(layout.folder(role));
        let file = |role: &str| layout.config(role);
        let (eve, watched) = watch::channel(Eve::ABSENT);
        let mut tasks = JoinSet::new();
        let all = context.clone();
        let light = config::load::<RawFibre>(&file("fibre")).unwrap();
        let c = all.clone();
        let f = folder("fibre");
        tasks.spawn(async move { ("fibre", fibre::run(light, f, watched, c).await) });
        for (name, role) in [("alice", "site-a/qkd"), ("bob", "site-b/qkd")] {
            let (config, folder, c) =
                (config::load::<RawQkd>(&file(role)).unwrap(), folder(role), all.clone());
            tasks.spawn(async move { (name, qkd::run(config, folder, c).await) });
        }
        for (name, role) in [("kme a", "site-a/kme"), ("kme b", "site-b/kme")] {
            let (config, folder, c) =
                (config::load::<RawKme>(&file(role)).unwrap(), folder(role), all.clone());
            tasks.spawn(async move { (name, kme::run(config, folder, c).await) });
        }
        let role = "site-a/gateway";
        let (config, f, c) =
            (config::load::<RawGateway>(&file(role)).unwrap(), folder(role), all.clone());
        tasks.spawn(async move { ("gateway", gateway::run(config, f, c).await) });
        let role = "site-b/platform";
        let (config, f, c) =
            (config::load::<RawPlatform>(&file(role)).unwrap(), folder(role), all.clone());
        tasks.spawn(async move { ("platform", platform::run(config, f, c).await) });
        let role = "site-b/controller";
        let (config, f, c) =
            (config::load::<RawController>(&file(role)).unwrap(), folder(role), all.clone());
        tasks.spawn(async move { ("controller", controller::run(config, f, c).await) });
        let role = "site-a/switch";
        let (config, f, c) =
            (config::load::<RawLan>(&file(role)).unwrap(), folder(role), all.clone());
        tasks.spawn(async move { ("lan", lan::run(config, f, c).await) });
        let (config, f) =
            (config::load::<RawDevices>(&file("devices")).unwrap(), folder("devices"));
        tasks.spawn(async move { ("devices", devices::run(config, f, all).await) });
        Self { reports, context, tasks, _eve: eve }
    }

    /// Waits until `done` says so of a report; fails with all that was reported after a minute.
    async fn wait(&mut self, mut done: impl FnMut(&Report) -> bool) {
        let mut seen = Vec::new();
        let waiting = async {
            loop {
                tokio::select! {
                    Some(report) = self.reports.recv() => {
                        let end = done(&report);
                        assert!(!matches!(report, Report::Violation { .. }), "{report:?}");
                        if !matches!(report, Report::Sampled { .. }) {
                            seen.push(format!("{report:?}"));
                        }
                        if end {
                            return;
                        }
                    }
                    Some(ended) = self.tasks.join_next() => {
                        let (name, result) = ended.unwrap();
                        panic!("{name} ended: {result:?}");
                    }
                }
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(outcome.is_ok(), "nothing more came after {seen:#?}");
    }

    async fn stop(mut self) {
        self.context.shutdown.trigger();
        while let Some(ended) = self.tasks.join_next().await {
            let (name, result) = ended.unwrap();
            assert!(result.is_ok(), "{name}: {result:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_device_gets_keys_and_every_reading_arrives() {
    let state = tempfile::tempdir().unwrap();
    init::create(state.path(), &plan(6, None)).unwrap();
    let mut network = Network::start(state.path());
    let mut readings = BTreeMap::new();
    network
        .wait(|report| {
            if let Report::Decrypted { eui, epoch, counter, .. } = report {
                let fresh = readings.entry(*eui).or_insert_with(Vec::new);
                assert!(!fresh.contains(&(*epoch, *counter)), "a reading was accepted twice");
                fresh.push((*epoch, *counter));
            }
            // Every device has come to its second key from the link.
            readings.len() == 6 && readings.values().all(|r| r.iter().any(|(epoch, _)| *epoch >= 2))
        })
        .await;
    network.stop().await;

    // The same folder goes on where it stopped.
    let mut network = Network::start(state.path());
    let mut again = std::collections::BTreeSet::new();
    network
        .wait(|report| {
            if let Report::Decrypted { eui, epoch, counter, .. } = report {
                assert!(
                    !readings[eui].contains(&(*epoch, *counter)),
                    "accepted twice over a restart"
                );
                again.insert(*eui);
            }
            again.len() == 6
        })
        .await;
    network.stop().await;
}

/// The decisions live in the cores: the same seed gives the same blocks, key ids and key bits in
/// virtual time and over real sockets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_run_agrees_with_the_virtual_one() {
    const SEED: u64 = 11;
    let state = tempfile::tempdir().unwrap();
    let plan = Plan { simulated_speed: 10.0, devices: 1, ..plan(1, Some(SEED)) };
    init::create(state.path(), &plan).unwrap();
    let ports = Ports::from_base(plan.port_base).unwrap();
    let mut network = Network::start(state.path());
    let mut live = Vec::new();
    network
        .wait(|report| {
            if let Report::Block(ledger) = report {
                live.push(ledger.to_csv());
            }
            live.len() == 3
        })
        .await;
    let app = Folder::new(Layout::below(state.path()).folder("site-a/app"));
    let (identity, authority) = app.identity().unwrap();
    let client = Client::new(&tls::client_mutual(&identity, &authority));
    let kme = KeyClient::new(&format!("https://localhost:{}", ports.kme_a.port()), client);
    let keys = kme.enc_keys(&"app-b".parse().unwrap(), 3, Bits::KEY).await.unwrap();
    network.stop().await;

    let preset = LinkPreset::named("lab").unwrap();
    let mut link = VirtualLink::start(&preset, Eve::ABSENT, SEED).unwrap();
    while link.ledger().len() < 3 {
        link.run_window().unwrap();
    }
    let virtual_: Vec<_> =
        link.ledger().iter().map(claviger_distill::BlockLedger::to_csv).collect();
    live.sort();
    assert_eq!(live, virtual_);
    let blocks = link.take_blocks();
    let all: Vec<_> = blocks.iter().flat_map(|block| &block.keys).collect();
    for granted in keys {
        let found = all.iter().find(|(id, ..)| *id == granted.id).expect("the same key ids");
        assert_eq!(found.2.expose()[..], *granted.key.expose(), "the same key bits");
    }
}
