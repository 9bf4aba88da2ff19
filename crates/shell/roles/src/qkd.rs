//! A QKD node: Alice or Bob between the light, the classical channel and the site's key buffer.

mod initial_secret;

use std::collections::BTreeMap;

use claviger_distill::{
    Alice, Bob, Committed, DistillError, Event, FinishedBlock, InitialSecret, Outcome, Reserve,
    Rules, Window, seed,
};
use claviger_durable::{EngineError, Tx};
use claviger_net::link::{self, LinkEvent};
use claviger_net::{http, listen, tls};
use claviger_photonics::Detector;
use claviger_store::Writer;
use claviger_units::{SecretBytes, Site, Span, Timestamp};
use claviger_wire::classical::DropReason;
use claviger_wire::light::Message as Light;
use claviger_wire::node::Message as ToKme;
use claviger_wire::sdn::Alarm;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;

use crate::alarm::{Bell, Brightness};
use crate::channel::Channel;
use crate::config::{Party, QkdConfig};
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};

/// Runs a QKD node until the signal to stop.
pub async fn run(config: QkdConfig, folder: Folder, context: Context) -> Result<(), RoleError> {
    Node::open(config, &folder, context).await?.run().await
}

/// Either machine, with the generator that serves it.
struct Core {
    machine: Machine,
    rng: StdRng,
    /// Number of the classical connection, so that nothing of an old one is sent on a new one.
    session: u64,
}

enum Machine {
    Alice(Alice),
    Bob(Bob),
}

/// What a machine wants carried out, after its transaction is durable.
enum Output {
    Transmit { session: u64, frame: Vec<u8> },
    Event(Event),
    WantsLight(bool),
}

struct Node {
    config: QkdConfig,
    rules: Rules,
    context: Context,
    writer: Writer<Core>,
    outputs: mpsc::UnboundedReceiver<Output>,
    classical: Channel,
    light: Channel,
    kme: Channel,
    lights: u64,
    /// Whether a session was opened before.
    opened: bool,
    rng: StdRng,
    /// Finished blocks that the key buffer has not taken; asked again every second.
    waiting: BTreeMap<u64, FinishedBlock>,
    /// Blocks that the key buffer holds and has not judged.
    judged: Vec<u64>,
    retry: Option<Timestamp>,
    /// When the core next looks whether the other end owes a word.
    look: Timestamp,
    /// By when the other end has to have proved itself.
    unproved: Option<Timestamp>,
    /// Windows taken since room was last offered.
    taken: u32,
    state: String,
    /// Where an optical switch can be told to take another fibre.
    bell: Option<Bell>,
    brightness: Brightness,
}

/// Time between two looks whether the other end owes a word.
const LOOK: Span = Span::from_secs(5);
/// Seconds between two attempts to give a block to the key buffer.
const RETRY: Span = Span::from_secs(1);
/// How long the other end may take to prove that it knows the link's secret.
const PROOF: Span = Span::from_secs(5);
/// Windows that Bob takes ahead.
const WINDOWS_AHEAD: u32 = 8;

impl Node {
    async fn open(config: QkdConfig, folder: &Folder, context: Context) -> Result<Self, RoleError> {
        let rules = Rules::of(&config.link.preset);
        let secret = folder.file("link.secret");
        let initial = initial_secret::take(&secret)?;
        let (party, seeded) = (config.party, config.link.seed);
        let core_rules = rules.clone();
        let (sender, outputs) = mpsc::unbounded_channel();
        let label = if party == Party::Alice { "alice" } else { "bob" };
        let rng = generator(seeded, label);
        let writer = folder.writer(
            move |tx| open_core(tx, party, core_rules, initial.as_ref(), rng),
            move |core| drain(core, &sender),
        )?;
        // The secret now lies sealed in the store; in clear it is of no more use.
        if secret.exists() {
            initial_secret::forget(&secret)?;
        }
        let filled = writer.run(|_, tx| Reserve::is_filled(tx)).await??;
        if !filled {
            let why = "it is missing and the store holds none".to_owned();
            return Err(RoleError::Secret { path: secret, why });
        }
        let (identity, authority) = folder.identity()?;
        let tls = tls::client_mutual(&identity, &authority);
        let bell = config.controller_url.as_ref();
        let bell = bell.map(|url| Bell::at(url, http::Client::new(&tls)));
        let kme = link::dial_tls(&config.kme.to_string(), tls, &config.kme_name)?;
        let classical = match party {
            Party::Alice => link::serve_plain(listen::tcp(config.classical).await?, "bob"),
            Party::Bob => link::dial_plain(&config.classical.to_string(), "alice"),
        };
        let light = link::dial_plain(&config.light.to_string(), "light");
        let rng = generator(seeded, &format!("{label} light"));
        context.reports.tell(Report::Ready(label));
        let look = context.clock.now() + LOOK;
        let brightness = Brightness::of(&rules, &config.link.preset);
        Ok(Self {
            config,
            rules,
            context,
            writer,
            outputs,
            classical: Channel::new(classical),
            light: Channel::new(light),
            kme: Channel::new(kme),
            lights: 0,
            opened: false,
            rng,
            waiting: BTreeMap::new(),
            judged: Vec::new(),
            retry: None,
            look,
            unproved: None,
            taken: 0,
            state: String::new(),
            bell,
            brightness,
        })
    }

    async fn run(mut self) -> Result<(), RoleError> {
        loop {
            let (clock, look) = (self.context.clock, self.look);
            let (retry, unproved) = (self.retry, self.unproved);
            tokio::select! {
                () = self.context.shutdown.cancelled() => break,
                () = self.writer.ended() => return Err(claviger_store::StoreError::Stopped.into()),
                Some(output) = self.outputs.recv() => self.carry_out(output).await?,
                event = self.classical.next() => self.handle_classical(event).await?,
                event = self.light.next() => self.handle_light(event).await?,
                event = self.kme.next() => self.handle_kme(event).await?,
                () = clock.sleep_until(Some(look)) => self.handle_look().await?,
                () = clock.sleep_until(retry) => self.offer_all(),
                () = clock.sleep_until(unproved) => {
                    self.unproved = None;
                    self.context.reports.refused("qkd", "whoever called did not prove itself in time");
                    self.classical.hang_up();
                }
            }
        }
        self.writer.stop().await;
        Ok(())
    }

    async fn handle_look(&mut self) -> Result<(), RoleError> {
        let now = self.context.clock.now();
        self.look = now + LOOK;
        self.core(move |core, _| {
            match &mut core.machine {
                Machine::Alice(alice) => alice.handle_timeout(now),
                Machine::Bob(bob) => bob.handle_timeout(now),
            }
            Ok(())
        })
        .await
    }

    async fn handle_classical(&mut self, event: LinkEvent) -> Result<(), RoleError> {
        let now = self.context.clock.now();
        match event {
            LinkEvent::Connected(_) => {
                self.tell("greeting the other end");
                self.unproved = Some(now + PROOF);
                let session = self.classical.session();
                self.core(move |core, _| {
                    core.session = session;
                    match &mut core.machine {
                        Machine::Alice(alice) => alice.handle_connected(&mut core.rng),
                        Machine::Bob(bob) => bob.handle_connected(&mut core.rng),
                    }
                    Ok(())
                })
                .await
            }
            LinkEvent::Disconnected => {
                self.tell("stopped: the classical channel is down");
                self.unproved = None;
                self.core(|core, _| {
                    match &mut core.machine {
                        Machine::Alice(alice) => alice.handle_disconnected(),
                        Machine::Bob(bob) => bob.handle_disconnected(),
                    }
                    Ok(())
                })
                .await
            }
            LinkEvent::Frame(frame) => {
                let handled = self
                    .writer
                    .run(move |Core { machine, .. }, tx| match machine {
                        Machine::Alice(alice) => alice.handle_message(tx, now, &frame),
                        Machine::Bob(bob) => bob.handle_message(tx, now, &frame),
                    })
                    .await?;
                match handled {
                    Err(DistillError::Store(error)) => Err(error.into()),
                    Err(error) => {
                        self.context.reports.refused("qkd", error);
                        self.hang_up();
                        Ok(())
                    }
                    Ok(()) => Ok(()),
                }
            }
        }
    }

    async fn handle_light(&mut self, event: LinkEvent) -> Result<(), RoleError> {
        let now = self.context.clock.now();
        match event {
            LinkEvent::Connected(_) => self.shine().await,
            LinkEvent::Disconnected => {
                self.tell("stopped: there is no light");
                Ok(())
            }
            LinkEvent::Frame(frame) => match Light::decode(&frame) {
                Ok(Light::Again) => self.shine().await,
                Ok(Light::Window { light, end, clicks }) => {
                    let clicks =
                        clicks.into_iter().map(|(p, v)| (p, Detector::for_value(v))).collect();
                    let window = Window { light, end, clicks };
                    self.taken += 1;
                    if self.brightness.note(window.clicks.len()) {
                        self.ring(Alarm::LossOfLight);
                    }
                    self.core(move |core, _| {
                        if let Machine::Bob(bob) = &mut core.machine {
                            bob.handle_window(now, window);
                        }
                        Ok(())
                    })
                    .await
                }
                Ok(Light::OtherPreset) => {
                    self.context.reports.refused("qkd", "the light was given another link preset");
                    Ok(())
                }
                _ => {
                    self.context.reports.refused("qkd", "the light spoke out of turn");
                    Ok(())
                }
            },
        }
    }

    /// Brings fresh choices or bases to the light; Bob only once the other end has proved itself,
    /// so that a seeded run begins the same way every time.
    async fn shine(&mut self) -> Result<(), RoleError> {
        if !self.light.is_connected() {
            return Ok(());
        }
        let preset = self.rules.digest;
        let seed = self.light_seed();
        let kept = SecretBytes::new(seed.to_vec());
        match self.config.party {
            Party::Alice => {
                self.lights += 1;
                let light = match self.config.link.seed {
                    Some(_) => self.lights,
                    None => self.rng.next_u64(),
                };
                self.core(move |core, _| {
                    if let Machine::Alice(alice) = &mut core.machine {
                        alice.handle_light(light, &seed);
                    }
                    Ok(())
                })
                .await?;
                self.light.send(Light::Emit { light, seed: kept, preset }.encode());
            }
            Party::Bob if self.state == OPEN => {
                self.lights += 1;
                self.core(move |core, _| {
                    if let Machine::Bob(bob) = &mut core.machine {
                        bob.handle_light(&seed);
                    }
                    Ok(())
                })
                .await?;
                self.taken = 0;
                self.light.send(Light::Measure { seed: kept, preset }.encode());
                self.light.send(Light::Room { windows: WINDOWS_AHEAD }.encode());
            }
            Party::Bob => {}
        }
        Ok(())
    }

    /// Draws the seed of a light session; a seeded run begins as the virtual link of the same seed.
    fn light_seed(&mut self) -> [u8; 32] {
        let label = match self.config.party {
            Party::Alice => "choices",
            Party::Bob => "bases",
        };
        match self.config.link.seed.filter(|_| self.lights == 0) {
            Some(number) => seed::derive(number, label),
            None => {
                let mut seed = [0; 32];
                self.rng.fill_bytes(&mut seed);
                seed
            }
        }
    }

    async fn handle_kme(&mut self, event: LinkEvent) -> Result<(), RoleError> {
        match event {
            LinkEvent::Connected(_) => {
                self.offer_all();
                Ok(())
            }
            LinkEvent::Disconnected => {
                self.tell("blocks wait: the key management entity of this site is away");
                // What it was about to judge is unknown now: give the pads up, and greet again so
                // that both ends agree on which pads they hold.
                for number in std::mem::take(&mut self.judged) {
                    self.judge(number, Committed::No).await?;
                }
                self.hang_up();
                Ok(())
            }
            LinkEvent::Frame(frame) => match ToKme::decode(&frame) {
                Ok(ToKme::Held { number }) => {
                    self.waiting.remove(&number);
                    self.judged.push(number);
                    self.core(move |core, _| {
                        if let Machine::Alice(alice) = &mut core.machine {
                            alice.handle_held(number);
                        }
                        Ok(())
                    })
                    .await
                }
                Ok(ToKme::Later { reason, .. }) => {
                    self.tell(&format!("blocks wait: {reason}"));
                    self.retry = Some(self.context.clock.now() + RETRY);
                    Ok(())
                }
                Ok(ToKme::Outcome { number, committed }) => {
                    self.waiting.remove(&number);
                    self.judged.retain(|held| *held != number);
                    let verdict = if committed { Committed::Yes } else { Committed::No };
                    self.judge(number, verdict).await
                }
                Ok(ToKme::Ratio(ratio)) => {
                    self.core(move |core, _| {
                        if let Machine::Alice(alice) = &mut core.machine {
                            alice.handle_ratio(ratio);
                        }
                        Ok(())
                    })
                    .await
                }
                _ => {
                    let why = "the key management entity spoke out of turn";
                    self.context.reports.refused("qkd", why);
                    Ok(())
                }
            },
        }
    }

    async fn judge(&mut self, number: u64, verdict: Committed) -> Result<(), RoleError> {
        self.core(move |core, tx| match &mut core.machine {
            Machine::Alice(alice) => alice.handle_outcome(tx, number, verdict),
            Machine::Bob(bob) => bob.handle_outcome(tx, number, verdict),
        })
        .await
    }

    async fn carry_out(&mut self, output: Output) -> Result<(), RoleError> {
        match output {
            Output::Transmit { session, frame } => self.classical.send_on(session, frame),
            Output::WantsLight(true) => {
                let windows = std::mem::take(&mut self.taken);
                if windows > 0 {
                    self.light.send(Light::Room { windows }.encode());
                }
            }
            Output::Event(Event::Opened) => {
                self.tell(OPEN);
                self.unproved = None;
                // Fresh light for every session: what was announced before is never asked again.
                if self.config.party == Party::Bob || std::mem::replace(&mut self.opened, true) {
                    return self.shine().await;
                }
            }
            Output::Event(Event::Refused(refusal)) => {
                self.context.reports.refused("qkd", refusal);
                self.tell(&format!("stopped: {refusal}"));
                // None of it is authenticated: whoever said it may be gone at the next greeting.
                self.hang_up();
            }
            Output::Event(Event::Finished(block)) => {
                let number = block.number;
                self.waiting.insert(number, block);
                self.offer(number);
            }
            Output::Event(Event::Sampled { qber, sampled, .. }) => {
                self.report(Report::Sampled { qber, sampled });
            }
            Output::Event(Event::Ended(ledger)) => {
                tracing::info!(party = ?self.config.party, ledger = %ledger.to_csv(), "block ended");
                if let Outcome::Dropped(reason) = ledger.outcome {
                    self.withdraw(ledger.block);
                    if matches!(reason, DropReason::SampledQber | DropReason::Qber) {
                        self.ring(Alarm::Qber);
                    }
                }
                self.note_accounts().await?;
                self.report(Report::Block(Box::new(ledger)));
            }
            Output::WantsLight(false) | Output::Event(_) => {}
        }
        Ok(())
    }

    /// Rings the bell, where there is one.
    fn ring(&mut self, alarm: Alarm) {
        let now = self.context.clock.now();
        if let Some(bell) = &mut self.bell {
            bell.ring(now, alarm);
        }
    }

    async fn note_accounts(&mut self) -> Result<(), RoleError> {
        let level = self.writer.run(|core, tx| match &core.machine {
            Machine::Alice(alice) => Ok((alice.reserve_level(tx)?, alice.epsilon(tx)?)),
            Machine::Bob(bob) => Ok((bob.reserve_level(tx)?, bob.epsilon(tx)?)),
        });
        let (pads, epsilon) = level.await?.map_err(|error: EngineError| error)?;
        self.report(Report::Epsilon(epsilon));
        let site = if self.config.party == Party::Alice { Site::A } else { Site::B };
        self.context.reports.tell(Report::Reserve { site, pads });
        Ok(())
    }

    fn offer_all(&mut self) {
        self.retry = None;
        for number in self.waiting.keys().copied().collect::<Vec<_>>() {
            self.offer(number);
        }
    }

    /// Takes back a block that the other end declined after it was offered.
    fn withdraw(&mut self, number: u64) {
        let waited = self.waiting.remove(&number).is_some();
        let offered = self.judged.contains(&number);
        if (waited || offered) && self.config.party == Party::Alice {
            self.judged.retain(|held| *held != number);
            self.kme.send(ToKme::Withdraw { number }.encode());
        }
    }

    /// Offers a finished block to the key buffer of this site.
    fn offer(&mut self, number: u64) {
        let Some(block) = self.waiting.get(&number) else { return };
        let keys = block.keys.iter();
        let message = ToKme::Block {
            number,
            seeded: self.config.link.seed.is_some(),
            claim: Some(self.rules.claim()),
            acceptance: block.acceptance,
            keys: keys.map(|(id, owner, key)| (*id, *owner, key.duplicate())).collect(),
        };
        self.kme.send(message.encode());
    }

    /// Closes the classical connection, which comes back by itself with a fresh greeting.
    fn hang_up(&self) {
        self.classical.hang_up();
    }

    async fn core<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core, &mut dyn Tx) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, RoleError> {
        Ok(self.writer.run(job).await??)
    }

    fn tell(&mut self, state: &str) {
        if self.state != state {
            tracing::info!(party = ?self.config.party, state, "link");
            state.clone_into(&mut self.state);
            self.report(Report::Link(state.to_owned()));
        }
    }

    /// Alice speaks for the link, so that nothing is told twice.
    fn report(&self, report: Report) {
        if self.config.party == Party::Alice {
            self.context.reports.tell(report);
        }
    }
}

const OPEN: &str = "open";

fn open_core(
    tx: &mut dyn Tx,
    party: Party,
    rules: Rules,
    initial: Option<&InitialSecret>,
    rng: StdRng,
) -> Result<Core, EngineError> {
    if let Some(secret) = initial.filter(|_| !matches!(Reserve::is_filled(tx), Ok(true))) {
        Reserve::fill(tx, secret)?;
    }
    let machine = match party {
        Party::Alice => Machine::Alice(Alice::open(tx, rules)?),
        Party::Bob => Machine::Bob(Bob::open(tx, rules)?),
    };
    Ok(Core { machine, rng, session: 0 })
}

fn drain(core: &mut Core, outputs: &mpsc::UnboundedSender<Output>) {
    // The receiver outlives the writer but for the end of the role, when nothing matters any more.
    let give = |output| drop(outputs.send(output));
    match &mut core.machine {
        Machine::Alice(alice) => {
            while let Some(frame) = alice.poll_transmit() {
                give(Output::Transmit { session: core.session, frame });
            }
            while let Some(event) = alice.poll_event() {
                give(Output::Event(event));
            }
        }
        Machine::Bob(bob) => {
            while let Some(frame) = bob.poll_transmit() {
                give(Output::Transmit { session: core.session, frame });
            }
            while let Some(event) = bob.poll_event() {
                give(Output::Event(event));
            }
            give(Output::WantsLight(bob.wants_light()));
        }
    }
}

fn generator(seeded: Option<u64>, label: &str) -> StdRng {
    match seeded {
        Some(number) => StdRng::from_seed(seed::derive(number, label)),
        None => StdRng::try_from_rng(&mut SysRng).expect("the system's generator never fails"),
    }
}
