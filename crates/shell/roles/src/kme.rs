//! A key management entity: ETSI GS QKD 014 by HTTPS, IDQ3P by UDP, blocks from the QKD node,
//! records to and from the other site.

mod desk;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use claviger_durable::{EngineError, Tx};
use claviger_keystore::{
    Block, BlockKey, BlockStanding, Event as StoreEvent, Inquiry, KeyStore, KeyStoreError, Origin,
    ProposeError, Provenance, Session, StoreConfig,
};
use claviger_kme::{
    DatagramDeclined, Declined, DevicePair, Event as Audit, Kme, KmeConfig, Limits, PATIENCE,
    Refusal, RefusalKind, SaeBinding,
};
use claviger_net::accept::Limits as Connections;
use claviger_net::link::{self, LinkEvent};
use claviger_net::shutdown::TaskGroup;
use claviger_net::tls::{self, TlsServer};
use claviger_net::{http, listen};
use claviger_store::{StoreError, Writer};
use claviger_units::{Bits, SaeId, SecretBytes, Site, Span, Timestamp};
use claviger_wire::idq3p::{ByteOrder, Status};
use claviger_wire::node::{Delay, Message as Node};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::channel::Channel;
use crate::config::KmeRoleConfig;
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};

/// Runs a key management entity until the signal to stop.
pub async fn run(config: KmeRoleConfig, folder: Folder, context: Context) -> Result<(), RoleError> {
    let (service, outputs) = Service::open(&config, &folder, context.clone())?;
    let (identity, authority) = folder.identity()?;
    let server = tls::server_mutual(&identity, &authority);
    let peer = match config.site {
        Site::A => {
            let listener = listen::tcp(config.peer).await?;
            link::serve_tls(listener, Arc::clone(&server), config.peer_name.clone())
        }
        Site::B => {
            let client = tls::client_mutual(&identity, &authority);
            link::dial_tls(&config.peer.to_string(), client, &config.peer_name)?
        }
    };
    let node = listen::tcp(config.node).await?;
    let node = link::serve_tls(node, Arc::clone(&server), config.node_name.clone());
    let https = listen::tcp(config.https).await?;
    let mut tasks = TaskGroup::new(context.shutdown.clone());
    let (router, shutdown) = (desk::router(service.clone()), context.shutdown.clone());
    let guarded = TlsServer::new(server, Connections::STANDARD);
    tasks.spawn("kme https", async move {
        http::serve(https, &guarded, router, &shutdown).await;
    });
    if let Some(address) = config.idq3p_listen {
        let socket = listen::udp(address).await?;
        let service = service.clone();
        tasks.spawn("kme idq3p", service.serve_idq3p(socket));
    }
    context.reports.tell(Report::Ready("kme"));
    let entity = Entity {
        service,
        outputs,
        peer: Channel::new(peer),
        node: Channel::new(node),
        timer: None,
    };
    let ended = tokio::select! {
        ended = entity.run() => ended,
        name = tasks.lost() => Err(RoleError::Lost(name)),
    };
    context.shutdown.trigger();
    tasks.finish(std::time::Duration::from_secs(2)).await;
    ended
}

/// The key store and the decisions over it.
struct Core {
    store: KeyStore,
    kme: Kme,
    rng: StdRng,
    /// Number of the connection to the peer, so that nothing of an old one is sent on a new one.
    session: u64,
}

/// What the core wants carried out, after its transaction is durable.
enum Output {
    Peer { session: u64, frame: Vec<u8> },
    Store(StoreEvent),
    Audit(Audit),
    Timer(Option<Timestamp>),
}

/// What requests need: the core, and news of it.
#[derive(Clone)]
struct Service {
    writer: Writer<Core>,
    changed: watch::Sender<()>,
    context: Context,
    site: Site,
    capacity: Bits,
}

impl Service {
    fn open(
        config: &KmeRoleConfig,
        folder: &Folder,
        context: Context,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Output>), RoleError> {
        let store_config = StoreConfig {
            site: config.site,
            capacity: config.capacity,
            untaken_expiry: Span::from_secs(3600),
            untaken_per_pair: 20_000,
        };
        let kme =
            Kme::new(kme_config(config)).map_err(|error| RoleError::Kme(error.to_string()))?;
        let now = context.clock.now();
        let (sender, outputs) = mpsc::unbounded_channel();
        let writer = folder.writer(
            move |tx| {
                let mut rng =
                    StdRng::try_from_rng(&mut SysRng).expect("the system's generator never fails");
                let store = KeyStore::open(tx, now, store_config, &mut rng)?;
                Ok::<_, EngineError>(Core { store, kme, rng, session: 0 })
            },
            move |core| drain(core, &sender),
        )?;
        let (site, capacity) = (config.site, config.capacity);
        Ok((Self { writer, changed: watch::Sender::new(()), context, site, capacity }, outputs))
    }

    /// Asks the core, again after each of its news, for at most the patience of `PROTOCOL.md` P2.
    async fn ask<R: Send + 'static>(
        &self,
        job: impl Fn(&mut Core, &mut dyn Tx, Timestamp, Inquiry) -> Result<R, Declined>
        + Clone
        + Send
        + 'static,
    ) -> Result<R, Failure> {
        let deadline = self.context.clock.now() + PATIENCE;
        let (mut news, mut asked) = (self.changed.subscribe(), Inquiry::NEW);
        loop {
            let (now, job) = (self.context.clock.now(), job.clone());
            news.mark_unchanged();
            match self.writer.run(move |core, tx| job(core, tx, now, asked)).await? {
                Ok(result) => return Ok(result),
                Err(Declined::Pending { last, inquiry }) => {
                    asked = inquiry;
                    tokio::select! {
                        _ = news.changed() => {}
                        () = self.context.clock.sleep_until(Some(deadline)) => {
                            return Err(Failure::Refused(last));
                        }
                    }
                }
                Err(Declined::Refused(refusal)) => return Err(Failure::Refused(refusal)),
                Err(_) => return Err(Failure::Store),
            }
        }
    }

    async fn serve_idq3p(self, socket: UdpSocket) {
        let (socket, places) = (Arc::new(socket), Arc::new(Semaphore::new(256)));
        let mut buffer = [0; 2048];
        loop {
            let received = tokio::select! {
                () = self.context.shutdown.cancelled() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            // An error here is the echo of an answer that nobody took.
            let Ok((length, source)) = received else { continue };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let datagram = buffer.get(..length).unwrap_or_default().to_vec();
            let (service, socket) = (self.clone(), Arc::clone(&socket));
            tokio::spawn(async move {
                if let Some(answer) = service.answer_datagram(source, datagram).await {
                    drop(socket.send_to(answer.expose(), source).await);
                }
                drop(place);
            });
        }
    }

    async fn answer_datagram(&self, source: SocketAddr, datagram: Vec<u8>) -> Option<SecretBytes> {
        let deadline = self.context.clock.now() + PATIENCE;
        let (mut news, mut asked) = (self.changed.subscribe(), Inquiry::NEW);
        loop {
            let (now, datagram) = (self.context.clock.now(), datagram.clone());
            let from = source.to_string();
            news.mark_unchanged();
            let job = move |core: &mut Core, tx: &mut dyn Tx| {
                let Core { store, kme, .. } = core;
                kme.handle_datagram(tx, now, store, from.as_bytes(), &datagram, asked)
            };
            match self.writer.run(job).await.ok()? {
                Ok(answer) | Err(DatagramDeclined::Refused(answer)) => return Some(answer),
                Err(DatagramDeclined::Pending { last, inquiry }) => {
                    asked = inquiry;
                    tokio::select! {
                        _ = news.changed() => {}
                        () = self.context.clock.sleep_until(Some(deadline)) => return Some(last),
                    }
                }
                Err(DatagramDeclined::Dropped(why)) => {
                    tracing::debug!(%source, %why, "IDQ3P datagram dropped");
                    return None;
                }
                Err(_) => return None,
            }
        }
    }
}

/// Why a request got nothing.
enum Failure {
    Refused(Refusal),
    Store,
}

impl From<StoreError> for Failure {
    fn from(_: StoreError) -> Self {
        Self::Store
    }
}

/// The links of an entity, and the loop that serves them.
struct Entity {
    service: Service,
    outputs: mpsc::UnboundedReceiver<Output>,
    peer: Channel,
    node: Channel,
    timer: Option<Timestamp>,
}

impl Entity {
    async fn run(mut self) -> Result<(), RoleError> {
        let (clock, shutdown) = (self.service.context.clock, self.service.context.shutdown.clone());
        loop {
            let timer = self.timer;
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.service.writer.ended() => return Err(StoreError::Stopped.into()),
                Some(output) = self.outputs.recv() => self.carry_out(output).await?,
                event = self.peer.next() => self.handle_peer(event).await?,
                event = self.node.next() => self.handle_node(event).await?,
                () = clock.sleep_until(timer) => self.handle_timer().await?,
            }
        }
        self.stop().await
    }

    /// Gives the lease back, so that a clean stop burns no key, and closes the store.
    async fn stop(mut self) -> Result<(), RoleError> {
        let clock = self.service.context.clock;
        let deadline = clock.now() + Span::from_secs(1);
        self.core(|core, _| {
            core.store.stop();
            Ok(())
        })
        .await?;
        loop {
            tokio::select! {
                Some(output) = self.outputs.recv() => {
                    let returned = matches!(output, Output::Store(StoreEvent::LeaseReturned));
                    self.carry_out(output).await?;
                    if returned {
                        break;
                    }
                }
                event = self.peer.next() => self.handle_peer(event).await?,
                () = clock.sleep_until(Some(deadline)) => break,
            }
        }
        self.service.writer.stop().await;
        Ok(())
    }

    async fn handle_peer(&mut self, event: LinkEvent) -> Result<(), RoleError> {
        match event {
            LinkEvent::Connected(_) => {
                let session = self.peer.session();
                self.core(move |core, _| {
                    core.session = session;
                    core.store.handle_connected(&mut core.rng);
                    Ok(())
                })
                .await
            }
            LinkEvent::Disconnected => {
                self.core(|core, _| {
                    core.store.handle_disconnected();
                    Ok(())
                })
                .await
            }
            LinkEvent::Frame(frame) => {
                let now = self.service.context.clock.now();
                let job = move |core: &mut Core, tx: &mut dyn Tx| {
                    core.store.handle_message(tx, now, &frame)
                };
                match self.service.writer.run(job).await? {
                    Ok(()) => Ok(()),
                    Err(KeyStoreError::Store(error)) => Err(error.into()),
                    Err(error) => {
                        self.service.context.reports.refused("kme", error);
                        self.peer.hang_up();
                        Ok(())
                    }
                }
            }
        }
    }

    async fn handle_node(&mut self, event: LinkEvent) -> Result<(), RoleError> {
        match event {
            LinkEvent::Connected(_) => self.tell_ratio().await,
            LinkEvent::Disconnected => Ok(()),
            LinkEvent::Frame(frame) => match Node::decode(&frame) {
                Ok(Node::Block { number, seeded, claim, acceptance, keys }) => {
                    let origin = if seeded { Origin::SimulatedSeeded } else { Origin::Simulated };
                    let keys = keys.into_iter();
                    let keys = keys.map(|(id, owner, key)| BlockKey { id, owner, key }).collect();
                    let provenance = Provenance { origin, claim };
                    let block = Block { number, provenance, acceptance, keys };
                    self.take_block(block).await
                }
                Ok(Node::Withdraw { number }) => {
                    self.core(move |core, _| {
                        core.store.withdraw(number);
                        Ok(())
                    })
                    .await
                }
                _ => {
                    self.service.context.reports.refused("kme", "the QKD node spoke out of turn");
                    Ok(())
                }
            },
        }
    }

    async fn take_block(&mut self, block: Block) -> Result<(), RoleError> {
        let (number, site) = (block.number, self.service.site);
        let now = self.service.context.clock.now();
        let taken = self.service.writer.run(move |core, tx| match site {
            Site::A => core.store.propose(tx, now, block),
            Site::B => core.store.accept(tx, now, block),
        });
        let answer = match taken.await? {
            Ok(BlockStanding::Held) => Node::Held { number },
            Ok(BlockStanding::Committed) => Node::Outcome { number, committed: true },
            Err(ProposeError::Busy) => Node::Later { number, reason: Delay::Busy },
            Err(ProposeError::Apart | ProposeError::RolledBack) => {
                Node::Later { number, reason: Delay::Apart }
            }
            Err(ProposeError::Store(error)) => return Err(error.into()),
            Err(ProposeError::Stale) => {
                let why = format!(
                    "site {site}: block {number} is empty or was here before, as when the store of a QKD \
                     node was put back from an older copy: bring its newest copy back, or let the \
                     link run, which passes the forgotten numbers with pauses of up to an hour"
                );
                self.service.context.reports.halted("kme", why);
                Node::Outcome { number, committed: false }
            }
            Err(error) => {
                self.service.context.reports.refused("kme", error);
                Node::Outcome { number, committed: false }
            }
        };
        self.node.send(answer.encode());
        Ok(())
    }

    async fn handle_timer(&mut self) -> Result<(), RoleError> {
        let now = self.service.context.clock.now();
        self.core(move |core, tx| {
            core.kme.handle_timeout(now);
            core.store.handle_timeout(tx, now)
        })
        .await
    }

    async fn carry_out(&mut self, output: Output) -> Result<(), RoleError> {
        match output {
            Output::Peer { session, frame } => self.peer.send_on(session, frame),
            Output::Timer(timer) => self.timer = timer,
            Output::Audit(line) => {
                self.tell_audit(line);
                return self.tell_level().await;
            }
            Output::Store(event) => return self.handle_event(event).await,
        }
        Ok(())
    }

    async fn handle_event(&mut self, event: StoreEvent) -> Result<(), RoleError> {
        let site = self.service.site;
        tracing::info!(%site, ?event, "key store");
        self.service.changed.send_replace(());
        match event {
            StoreEvent::BlockCommitted { block, .. } => {
                self.node.send(Node::Outcome { number: block, committed: true }.encode());
                self.tell_ratio().await?;
                self.tell_level().await?;
            }
            StoreEvent::BlockAborted { block } => {
                self.node.send(Node::Outcome { number: block, committed: false }.encode());
            }
            StoreEvent::ClaimsDiffer { block, by_alice, by_bob } => {
                let [by_alice, by_bob] = [by_alice, by_bob]
                    .map(|claim| claim.map_or_else(|| "nothing".to_owned(), |c| c.to_string()));
                let why = format!(
                    "block {block}: the QKD node of site A claims {by_alice} of its keys, that of                      site B {by_bob}: give both nodes the same preset"
                );
                self.service.context.reports.halted("kme", why);
            }
            StoreEvent::SessionChanged(Session::RolledBack { mine }) => {
                let whose = if mine { site } else { site.other() };
                let why = format!(
                    "site {site}: the key store of site {whose} was rolled back to an old copy: stop \
                     both entities and run `claviger kme reset` at both sites"
                );
                self.service.context.reports.halted("kme", why);
            }
            StoreEvent::SessionChanged(Session::Superseded) => {
                let why = format!("site {site}: two processes run on one store; stop one of them");
                self.service.context.reports.halted("kme", why);
            }
            StoreEvent::Unmatched { id } => {
                let what =
                    format!("site {site}: the peer spoke of key {id}, which does not wait here");
                self.service.context.reports.violation("kme", what);
            }
            _ => {}
        }
        Ok(())
    }

    fn tell_audit(&self, line: Audit) {
        let (reports, site) = (&self.service.context.reports, self.service.site);
        match line {
            Audit::HandedOut { interface, master, slaves, ids, size } => {
                tracing::info!(%site, ?interface, %master, ?slaves, ?ids, %size, "handed out");
                let slaves: Vec<_> = slaves.iter().map(SaeId::as_str).collect();
                let to = format!("{master} → {}", slaves.join(", "));
                reports.tell(Report::Delivered { site, keys: ids.len() as u64, to });
            }
            Audit::Fetched { interface, slave, master, ids } => {
                tracing::info!(%site, ?interface, %slave, %master, ?ids, "fetched");
                let to = format!("{slave} (from {master})");
                reports.tell(Report::Delivered { site, keys: ids.len() as u64, to });
            }
            // A shortage passes by itself; whoever asked was told to ask again.
            Audit::Refused { caller, refusal } if refusal.kind() == RefusalKind::Unavailable => {
                tracing::info!(%site, %caller, %refusal, "no key now");
            }
            Audit::DeviceRefused { device, status: Status::NoMoreKeys } => {
                tracing::info!(%site, device, "no key now");
            }
            Audit::Refused { caller, refusal } => {
                reports.refused("kme", format_args!("site {site}, {caller}: {refusal}"));
            }
            Audit::DeviceRefused { device, status } => {
                reports
                    .refused("kme", format_args!("site {site}, IDQ3P device {device}: {status:?}"));
            }
        }
    }

    async fn tell_ratio(&mut self) -> Result<(), RoleError> {
        let now = self.service.context.clock.now();
        let ratio = self.core(move |core, _| Ok(core.store.ratio(now))).await?;
        self.node.send(Node::Ratio(ratio).encode());
        Ok(())
    }

    async fn tell_level(&self) -> Result<(), RoleError> {
        let stored = self.core(|core, tx| core.store.stored(tx)).await?;
        let capacity = self.service.capacity / Bits::KEY;
        let (site, available) = (self.service.site, stored.mine + stored.theirs);
        self.service.context.reports.tell(Report::Buffer { site, available, capacity });
        Ok(())
    }

    async fn core<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core, &mut dyn Tx) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, RoleError> {
        Ok(self.service.writer.run(job).await??)
    }
}

fn drain(core: &mut Core, outputs: &mpsc::UnboundedSender<Output>) {
    // The receiver outlives the writer but for the end of the role, when nothing matters any more.
    let give = |output| drop(outputs.send(output));
    while let Some(frame) = core.store.poll_transmit() {
        give(Output::Peer { session: core.session, frame });
    }
    while let Some(event) = core.store.poll_event() {
        give(Output::Store(event));
    }
    while let Some(line) = core.kme.poll_event() {
        give(Output::Audit(line));
    }
    let timers = [core.store.poll_timeout(), core.kme.poll_timeout()];
    give(Output::Timer(timers.into_iter().flatten().min()));
}

fn kme_config(config: &KmeRoleConfig) -> KmeConfig {
    let saes: BTreeMap<_, _> =
        config.saes.iter().map(|(name, &site)| (name.clone(), SaeBinding { site })).collect();
    let devices = config.idq3p.iter().map(|(&number, (sae, peer))| {
        (number, DevicePair { sae: sae.clone(), peer: peer.clone() })
    });
    KmeConfig {
        kme_id: config.kme_id.clone(),
        peer_kme_id: config.peer_kme_id.clone(),
        site: config.site,
        saes,
        limits: Limits::DESIGN,
        idq3p_order: ByteOrder::LittleEndian,
        idq3p_devices: devices.collect(),
    }
}
