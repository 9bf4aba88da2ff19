//! The whole chain in virtual time: light, both KMEs, gateway, platform and devices.
//!
//! What the roles of the shell do with sockets and clocks, [`VirtualChain`] does with a queue of
//! events: the same cores, the same order of transaction, commit and output, and messages that
//! take their time. Processes can be killed and devices lose power at any step; what must hold is
//! checked at every step.

#![expect(clippy::cast_precision_loss, reason = "counts of bits stay far below 2^53")]

mod agenda;
mod audit;
mod closing;
mod devices;
mod fleet;
mod keys;
mod process;
mod source;

pub use audit::Tally;

use anyhow::{Result, bail, ensure};
use claviger_device::Profile;
use claviger_distill::seed;
use claviger_durable::EngineError;
use claviger_fleet::{Gateway, Half, Platform, ProvisionError};
use claviger_frames::Epoch;
use claviger_keystore::Stored;
use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Fraction, Key256, OwnerRatio, Site, Span, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;

use agenda::{Agenda, Event, Timeouts};
use audit::Audit;
use devices::DeviceSite;
use fleet::Forwarder;
use keys::{KmeSite, Reply};
use process::Process;
use source::Source;

/// Where the blocks of a run come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    /// Random keys at the rate that theory expects of the link: a day takes seconds.
    Drawn,
    /// Photons, sifting, reconciliation and amplification: [`VirtualLink`](crate::VirtualLink).
    Real,
}

/// What a run is made of; it is a function of this alone.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// The link.
    pub preset: LinkPreset,
    /// Where its blocks come from.
    pub light: Light,
    /// The key buffer of each site (paper, buffer: 1 Mbit).
    pub capacity: Bits,
    /// How many devices.
    pub n_devices: u16,
    /// How often each wakes, renews its key and sends a reading.
    pub renew: Span,
    /// From what everything random is made.
    pub seed: u64,
}

/// Somebody who can die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// The KME of a site.
    Kme(Site),
    /// The gateway, at A.
    Gateway,
    /// The platform, at B.
    Platform,
    /// A device, by its number from 0.
    Device(usize),
}

/// A stream of records between the sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Between the KMEs.
    Kmes,
    /// Between gateway and platform.
    Fleet,
}

/// A connection that keeps order and may break.
#[derive(Debug, Default)]
struct Connection {
    is_up: bool,
    number: u64,
}

/// The whole chain in virtual time.
///
/// ```
/// use claviger_lab::VirtualChain;
/// use claviger_lab::chain::{ChainConfig, Light};
/// use claviger_photonics::LinkPreset;
/// use claviger_units::{Bits, Span};
///
/// let mut chain = VirtualChain::start(ChainConfig {
///     preset: LinkPreset::named("lab")?,
///     light: Light::Drawn,
///     capacity: Bits::new(1_000_000),
///     n_devices: 2,
///     renew: Span::from_secs(60),
///     seed: 1,
/// })?;
/// chain.run_for(Span::from_secs(120))?;
/// assert!(chain.epochs().all(|epoch| epoch.number() > 0));
/// assert!(chain.tally().readings >= 4);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct VirtualChain {
    config: ChainConfig,
    now: Timestamp,
    agenda: Agenda,
    audit: Audit,
    rng: StdRng,
    source: Source,
    is_lit: bool,
    ratio: Option<OwnerRatio>,
    /// Blocks on their way to the KMEs.
    offers_open: usize,
    kmes: [KmeSite; 2],
    gateway: Process<Gateway>,
    platform: Process<Platform>,
    forwarder: Forwarder,
    devices: Vec<DeviceSite>,
    timeouts: Timeouts,
    connections: [Connection; 2],
    ack_loss: Fraction,
    auditor_got: Option<Reply>,
    n_idle_steps: u32,
}

/// From one site to the other.
pub(crate) const LATENCY: Span = Span::from_millis(5);
/// From an application to its own KME.
pub(crate) const LAN: Span = Span::from_millis(1);
/// From a device to the gateway.
const RADIO: Span = Span::from_millis(20);
/// Until a node offers a block again, or the light looks whether there is room.
const RETRY: Span = Span::from_secs(1);
/// Until a broken connection is tried again.
const RECONNECT: Span = Span::from_secs(1);
/// Until a dead process starts again.
const RESTART: Span = Span::from_secs(2);
/// How many steps may follow one another at one instant.
const MOST_IDLE_STEPS: u32 = 1_000_000;

impl VirtualChain {
    /// Starts every part and provisions the devices; all happens when it runs.
    pub fn start(config: ChainConfig) -> Result<Self> {
        let seed = config.seed;
        let mut chain = Self {
            now: Timestamp::START,
            agenda: Agenda::default(),
            audit: Audit::new(),
            rng: rng(seed, "chain"),
            source: Source::start(&config)?,
            is_lit: true,
            ratio: None,
            offers_open: 0,
            kmes: [Site::A, Site::B].map(|site| KmeSite::new(site, seed)),
            gateway: Process::new(rng(seed, "gateway")),
            platform: Process::new(rng(seed, "platform")),
            forwarder: Forwarder::default(),
            devices: Vec::new(),
            timeouts: Timeouts::default(),
            connections: Default::default(),
            ack_loss: Fraction::ZERO,
            auditor_got: None,
            n_idle_steps: 0,
            config,
        };
        for party in [Party::Kme(Site::A), Party::Kme(Site::B), Party::Gateway, Party::Platform] {
            chain.start_party(party);
        }
        chain.provision()?;
        chain.connect(Stream::Kmes);
        chain.connect(Stream::Fleet);
        let first = chain.source.next_span();
        chain.enter_after(first, Event::Light);
        Ok(chain)
    }

    /// Runs for `span` of virtual time, or to the first violation, which is the error.
    pub fn run_for(&mut self, span: Span) -> Result<()> {
        let end = self.now + span;
        while self.step(end)? {}
        self.now = end;
        Ok(())
    }

    /// Returns the virtual time.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Returns what happened so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.audit.tally
    }

    /// Returns the epochs of the devices, in their order.
    pub fn epochs(&self) -> impl Iterator<Item = Epoch> {
        self.devices.iter().map(|site| site.device.epoch())
    }

    /// Returns how many readings the devices have taken, in their order.
    pub fn readings_taken(&self) -> impl Iterator<Item = u64> {
        self.devices.iter().map(DeviceSite::n_readings)
    }

    /// Returns what the KME of a site stores; `None` while it is down.
    pub fn stored(&mut self, site: Site) -> Option<Stored> {
        let stored = self.at_kme(site, |entity, tx, _, _| entity.store.stored(tx));
        stored.and_then(Result::ok)
    }

    /// Returns SHA-256 over every key id, epoch, telemetry frame and reading, in order.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.audit.digest()
    }

    /// Kills somebody without warning; a process starts again after two seconds, a device at once.
    pub fn crash(&mut self, party: Party) {
        let is_up = match party {
            Party::Kme(site) => self.kme(site).process.is_up(),
            Party::Gateway => self.gateway.is_up(),
            Party::Platform => self.platform.is_up(),
            Party::Device(_) => true,
        };
        if is_up {
            self.bury(party);
        }
    }

    /// Lets somebody die at its `n`-th disk operation from now on, or flash write.
    pub fn die_after(&mut self, party: Party, n: u64) {
        match party {
            Party::Kme(site) => self.kme(site).process.disk.die_after(n),
            Party::Gateway => self.gateway.disk.die_after(n),
            Party::Platform => self.platform.disk.die_after(n),
            Party::Device(device) => self.devices[device].cut_after = Some(n),
        }
    }

    /// Breaks a connection; it is up again after a second if both ends are.
    pub fn cut(&mut self, stream: Stream) {
        let connection = &mut self.connections[stream as usize];
        if !connection.is_up {
            return;
        }
        connection.is_up = false;
        self.audit.tally.cuts += 1;
        match stream {
            Stream::Kmes => self.disconnect_kmes(),
            Stream::Fleet => self.disconnect_fleet(),
        }
        self.enter_after(RECONNECT, Event::Connect(stream));
    }

    /// Loses a share of the acknowledgements of telemetry, to devices and to the gateway.
    pub const fn lose_acknowledgements(&mut self, share: Fraction) {
        self.ack_loss = share;
    }

    /// Ends every fault that is still to come.
    pub fn end_faults(&mut self) {
        self.ack_loss = Fraction::ZERO;
        for site in &mut self.kmes {
            site.process.disk.revive();
        }
        self.gateway.disk.revive();
        self.platform.disk.revive();
        for device in &mut self.devices {
            device.cut_after = None;
        }
    }

    fn provision(&mut self) -> Result<()> {
        let (seed, n_devices) = (self.config.seed, self.config.n_devices);
        let profile = Profile::waking_every(self.config.renew);
        let mut rng = rng(seed, "bootstrap keys");
        for eui in DeviceSite::euis(n_devices) {
            let bootstrap = Key256::random(&mut rng);
            let provisioned: Option<Result<(), ProvisionError>> =
                self.at_platform(|platform, tx, _, _| platform.provision(tx, eui, &bootstrap));
            ensure!(provisioned == Some(Ok(())), "device {eui} cannot be provisioned");
            let site = DeviceSite::new(eui, bootstrap, profile, seed);
            self.timeouts.set(self.devices.len(), site.device.poll_timeout());
            self.devices.push(site);
        }
        Ok(())
    }

    /// Does what is due next, if it is due by `end`; tells whether there was anything.
    fn step(&mut self, end: Timestamp) -> Result<bool> {
        let (event, due) = (self.agenda.first(), self.next_due());
        let Some(next) = event.into_iter().chain(due.map(|(at, _)| at)).min() else {
            return Ok(false);
        };
        if next > end {
            return Ok(false);
        }
        self.n_idle_steps = if next > self.now { 0 } else { self.n_idle_steps + 1 };
        ensure!(self.n_idle_steps < MOST_IDLE_STEPS, "time stands still: {due:?} is due for ever");
        self.now = self.now.max(next);
        match due {
            Some((at, party)) if event.is_none_or(|event| at < event) => self.time_out(party),
            _ => {
                if let Some(event) = self.agenda.take_first() {
                    self.handle(event);
                }
            }
        }
        match self.audit.violations() {
            [] => Ok(true),
            [first, ..] => bail!("after {}: {first}", self.now.since(Timestamp::START)),
        }
    }

    /// Returns who wants to be called next, and when.
    fn next_due(&self) -> Option<(Timestamp, Party)> {
        let kmes = [Site::A, Site::B].map(|site| {
            let entity = self.kmes[site as usize].process.core.as_ref()?;
            let due = [entity.store.poll_timeout(), entity.kme.poll_timeout()];
            Some((due.into_iter().flatten().min()?, Party::Kme(site)))
        });
        let gateway = self.gateway.core.as_ref().and_then(Half::poll_timeout);
        let platform = self.platform.core.as_ref().and_then(Half::poll_timeout);
        let others = [(gateway, Party::Gateway), (platform, Party::Platform)];
        let others = others.into_iter().map(|(at, party)| Some((at?, party)));
        let device = self.timeouts.first().map(|(at, n)| (at, Party::Device(n)));
        kmes.into_iter().chain(others).chain([device]).flatten().min()
    }

    fn time_out(&mut self, party: Party) {
        match party {
            Party::Kme(site) => self.time_out_kme(site),
            Party::Gateway => {
                self.at_gateway(|gateway, tx, now, rng| gateway.handle_timeout(tx, now, rng));
            }
            Party::Platform => {
                self.at_platform(|platform, tx, now, rng| platform.handle_timeout(tx, now, rng));
            }
            Party::Device(n) => self.time_out_device(n),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Light => self.shine(),
            Event::Offer { site, offer } => self.offer(site, offer),
            Event::Frame { stream, to, connection, bytes } => {
                self.receive(stream, to, connection, &bytes);
            }
            Event::Connect(stream) => self.connect(stream),
            Event::Restart(party) => self.start_party(party),
            Event::Ask(ask) => self.handle_ask(ask),
            Event::AskAgain(site) => self.ask_again(site),
            Event::Reply { ask, reply } => self.handle_reply(ask, reply),
            Event::KeyRequest { device, boot, path_and_query, authorization } => {
                self.handle_key_request(device, boot, &path_and_query, &authorization);
            }
            Event::KeyAnswer { device, boot, answer } => {
                self.handle_key_answer(device, boot, answer.as_ref());
            }
            Event::Publish { device, boot, header, frame, password } => {
                self.handle_publish((device, boot), header, &frame, &password);
            }
            Event::Published { device, boot, header, delivery } => {
                self.handle_published(device, boot, header, delivery);
            }
            Event::Uplink { attempt, seq, eui, frame } => {
                self.handle_uplink(attempt, seq, eui, &frame);
            }
            Event::UplinkAck { attempt, seq } => self.handle_uplink_ack(attempt, seq),
            Event::UplinkLost { attempt } => self.handle_uplink_lost(attempt),
        }
    }

    fn enter_after(&mut self, span: Span, event: Event) {
        self.agenda.enter(self.now + span, event);
    }

    /// Puts a message on the wire, if there is a connection.
    fn send(&mut self, stream: Stream, to: Site, bytes: Vec<u8>) {
        let Connection { is_up, number: connection } = self.connections[stream as usize];
        if is_up {
            self.enter_after(LATENCY, Event::Frame { stream, to, connection, bytes });
        }
    }

    fn receive(&mut self, stream: Stream, to: Site, connection: u64, bytes: &[u8]) {
        let Connection { is_up, number } = self.connections[stream as usize];
        if !is_up || number != connection {
            return;
        }
        let refusal = match (stream, to) {
            (Stream::Kmes, _) => {
                let taken = self
                    .at_kme(to, |entity, tx, now, _| entity.store.handle_message(tx, now, bytes));
                taken.and_then(Result::err).map(|refusal| refusal.to_string())
            }
            (Stream::Fleet, Site::A) => {
                let taken =
                    self.at_gateway(|gateway, tx, now, _| gateway.handle_message(tx, now, bytes));
                taken.and_then(Result::err).map(|refusal| refusal.to_string())
            }
            (Stream::Fleet, Site::B) => {
                let taken = self
                    .at_platform(|platform, tx, now, _| platform.handle_message(tx, now, bytes));
                taken.and_then(Result::err).map(|refusal| refusal.to_string())
            }
        };
        if let Some(refusal) = refusal {
            self.audit.violate(format!("{stream:?}: site {to} refused a message: {refusal}"));
        }
    }

    fn connect(&mut self, stream: Stream) {
        let both_up = match stream {
            Stream::Kmes => self.kmes.iter().all(|site| site.process.is_up()),
            Stream::Fleet => self.gateway.is_up() && self.platform.is_up(),
        };
        if !both_up {
            self.enter_after(RECONNECT, Event::Connect(stream));
            return;
        }
        let connection = &mut self.connections[stream as usize];
        connection.is_up = true;
        connection.number += 1;
        match stream {
            Stream::Kmes => self.connect_kmes(),
            Stream::Fleet => self.connect_fleet(),
        }
    }

    fn start_party(&mut self, party: Party) {
        let is_up = match party {
            Party::Kme(site) => {
                self.start_kme(site);
                self.kme(site).process.is_up()
            }
            Party::Gateway => {
                self.start_gateway();
                self.gateway.is_up()
            }
            Party::Platform => {
                self.start_platform();
                self.platform.is_up()
            }
            Party::Device(_) => true,
        };
        if !is_up {
            self.enter_after(RESTART, Event::Restart(party));
        }
    }

    /// Ends a process: with it go its connections and all it had under way.
    fn bury(&mut self, party: Party) {
        let failure = match party {
            Party::Device(n) => return self.reboot(n),
            Party::Kme(site) => {
                let KmeSite { process, waiting } = self.kme(site);
                process.kill();
                let (failure, asks) = (process.failure.take(), std::mem::take(waiting));
                for ask in asks {
                    self.reply(ask, Reply::Unreachable);
                }
                self.cut(Stream::Kmes);
                failure
            }
            Party::Gateway => {
                self.gateway.kill();
                self.forwarder.stop();
                self.cut(Stream::Fleet);
                self.gateway.failure.take()
            }
            Party::Platform => {
                self.platform.kill();
                self.cut(Stream::Fleet);
                self.platform.failure.take()
            }
        };
        if let Some(failure) = failure.filter(|failure| *failure != EngineError::Died) {
            self.audit.violate(format!("{party:?}: {failure}"));
        }
        self.audit.tally.crashes += 1;
        self.enter_after(RESTART, Event::Restart(party));
    }
}

/// Returns the generator of one part of a run.
fn rng(seed: u64, part: &str) -> StdRng {
    StdRng::from_seed(seed::derive(seed, part))
}
