//! The light: it plays the pulses between Alice and Bob, and Eve where she is wanted.

mod optics;

use std::collections::BTreeSet;

use claviger_distill::{Rules, seed};
use claviger_net::link::{self, Link, LinkEvent};
use claviger_net::listen;
use claviger_photonics::{Eve, Fibre};
use claviger_units::{Decibels, SecretBytes, Span, Timestamp};
use claviger_wire::light::Message;
use rand::SeedableRng;
use rand::rngs::SysRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use tokio::sync::watch;

use self::optics::{Optics, Path};
use crate::attack_file::AttackFile;
use crate::channel::Channel;
use crate::config::FibreConfig;
use crate::report::{Report, Reporter};
use crate::role::{Context, Folder, RoleError};
use crate::switch_line::Heard;

/// Runs the fibre until the signal to stop; `eve` may change at any time, and so may the attacks that
/// lie in the folder ([`crate::attack_file`]).
pub async fn run(
    config: FibreConfig,
    folder: Folder,
    mut eve: watch::Receiver<Eve>,
    context: Context,
) -> Result<(), RoleError> {
    let alice = link::serve_plain(listen::tcp(config.alice).await?, "alice's light");
    let bob = link::serve_plain(listen::tcp(config.bob).await?, "bob's light");
    context.reports.tell(Report::Ready("fibre"));
    let (now, shutdown) = (context.clock.now(), &context.shutdown);
    let optics = config.optics.clone();
    let mut optics =
        optics.map(|optics| Optics::start(optics, &folder, now, shutdown)).transpose()?;
    let mut light = Light::new(&config, alice, bob);
    let mut attacks = Attacks::of(folder);
    loop {
        let due = light.due();
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(()),
            event = light.alice.channel.next() => light.handle_alice(event, context.clock.now()),
            event = light.bob.channel.next() => light.handle_bob(event, context.clock.now()),
            () = context.clock.sleep_until(Some(attacks.look)) => {
                attacks.handle_look(context.clock.now(), &context.reports);
                if let Some(optics) = &mut optics {
                    optics.set_cuts(&attacks.cuts());
                    light.set_path(optics.path());
                }
            }
            heard = next_of(&mut optics) => if let Some(optics) = &mut optics {
                optics.handle(context.clock.now(), heard);
                light.set_path(optics.path());
            },
            () = context.clock.sleep_until(due) => {
                let present = *eve.borrow_and_update();
                let eve = if light.is_at_eve() { attacks.on_top_of(present) } else { Eve::ABSENT };
                light.emit(eve, context.clock.now());
            }
        }
    }
}

/// Waits for a word of the controller, where there is an optical switch.
async fn next_of(optics: &mut Option<Optics>) -> Heard {
    match optics {
        Some(optics) => optics.next().await,
        None => std::future::pending().await,
    }
}

/// What is done to the light by the file in the folder.
struct Attacks {
    folder: Folder,
    /// When to look again.
    look: Timestamp,
    on: Option<AttackFile>,
    /// The fault that was told last, so that it is told once.
    fault: Option<String>,
}

const PACE_OF_LOOKS: Span = Span::from_secs(1);

impl Attacks {
    const fn of(folder: Folder) -> Self {
        Self { folder, look: Timestamp::START, on: None, fault: None }
    }

    fn handle_look(&mut self, now: Timestamp, reports: &Reporter) {
        self.look = now + PACE_OF_LOOKS;
        let (file, fault) = match AttackFile::load(&self.folder) {
            Ok(file) => (file, None),
            Err(error) => (None, Some(error.to_string())),
        };
        if let Some(why) = fault.as_ref().filter(|why| self.fault.as_ref() != Some(*why)) {
            reports.refused("fibre", why);
        }
        self.fault = fault;
        let on = file.filter(|file| file.is_on(now));
        if on != self.on {
            let words = on.as_ref().map(AttackFile::in_words);
            tracing::warn!(attack = words.as_deref().unwrap_or("none"), "attack on the light");
            reports.tell(Report::Attack(words));
            self.on = on;
        }
    }

    /// Returns the fibres that are cut.
    fn cuts(&self) -> BTreeSet<String> {
        self.on.as_ref().map(|file| file.cuts().clone()).unwrap_or_default()
    }

    fn on_top_of(&self, eve: Eve) -> Eve {
        self.on.as_ref().map_or(eve, |file| file.on_top_of(eve))
    }
}

/// One end's connection and the seed that it brought.
struct End<S> {
    channel: Channel,
    seed: Option<S>,
}

impl<S> End<S> {
    const fn new(link: Link) -> Self {
        Self { channel: Channel::new(link), seed: None }
    }

    fn send(&mut self, message: &Message) {
        self.channel.send(message.encode());
    }
}

struct Light {
    rules: Rules,
    preset: claviger_photonics::LinkPreset,
    seed: Option<u64>,
    /// Wall time between two windows.
    pace: Span,
    alice: End<(u64, SecretBytes)>,
    bob: End<SecretBytes>,
    room: u32,
    running: Option<Running>,
    used: bool,
    path: Path,
    /// The loss of no path at all.
    dark: Decibels,
}

struct Running {
    fibre: Fibre,
    light: u64,
    end: u64,
    due: Timestamp,
}

impl Light {
    fn new(config: &FibreConfig, alice: Link, bob: Link) -> Self {
        let rules = Rules::of(&config.link.preset);
        let window = rules.time_of(rules.window).as_secs_f64();
        Self {
            pace: Span::from_secs_f64(window / config.speed),
            rules,
            preset: config.link.preset.clone(),
            seed: config.link.seed,
            alice: End::new(alice),
            bob: End::new(bob),
            room: 0,
            running: None,
            used: false,
            dark: Decibels::from_db(200.0).expect("a loss above zero"),
            // Without an optical switch the link's own fibre is the path.
            path: match config.optics {
                Some(_) => Path::Dark,
                None => Path::Through { fibre: 0, loss: config.link.preset.loss() },
            },
        }
    }

    fn set_path(&mut self, path: Path) {
        if self.path != path {
            tracing::info!(?path, "the light goes another way");
            self.path = path;
        }
    }

    /// Tells whether the light passes the eavesdropper, who sits at the first fibre.
    const fn is_at_eve(&self) -> bool {
        matches!(self.path, Path::Through { fibre: 0, .. })
    }

    /// When the next window is complete; never while an end is missing or has no room.
    fn due(&self) -> Option<Timestamp> {
        self.running.as_ref().filter(|_| self.room > 0).map(|running| running.due)
    }

    fn handle_alice(&mut self, event: LinkEvent, now: Timestamp) {
        match event {
            LinkEvent::Connected(_) | LinkEvent::Disconnected => {
                self.alice.seed = None;
                self.stop();
            }
            LinkEvent::Frame(frame) => match Message::decode(&frame) {
                Ok(Message::Emit { preset, .. }) if preset != self.rules.digest => {
                    self.alice.send(&Message::OtherPreset);
                }
                Ok(Message::Emit { light, seed, .. }) => {
                    self.stop();
                    self.alice.seed = Some((light, seed));
                    self.used = false;
                }
                _ => tracing::warn!("Alice's light spoke out of turn"),
            },
        }
        self.start(now);
    }

    fn handle_bob(&mut self, event: LinkEvent, now: Timestamp) {
        match event {
            LinkEvent::Connected(_) | LinkEvent::Disconnected => {
                self.bob.seed = None;
                self.room = 0;
                self.stop();
            }
            LinkEvent::Frame(frame) => match Message::decode(&frame) {
                Ok(Message::Measure { preset, .. }) if preset != self.rules.digest => {
                    self.bob.send(&Message::OtherPreset);
                }
                Ok(Message::Measure { seed, .. }) => {
                    self.bob.seed = Some(seed);
                    self.stop();
                    // Alice's pulses are played once: a second measurement of them would show
                    // the same bits again.
                    if self.used {
                        self.alice.seed = None;
                        self.alice.send(&Message::Again);
                    }
                }
                Ok(Message::Room { windows }) => {
                    self.room = self.room.saturating_add(windows);
                    // Waiting light does not come all at once.
                    if let Some(running) = &mut self.running {
                        running.due = running.due.max(now);
                    }
                }
                _ => tracing::warn!("Bob's light spoke out of turn"),
            },
        }
        self.start(now);
    }

    fn stop(&mut self) {
        self.running = None;
    }

    fn start(&mut self, now: Timestamp) {
        let (Some((light, choices)), Some(bases)) = (&self.alice.seed, &self.bob.seed) else {
            return;
        };
        let seeds = (choices.expose().try_into(), bases.expose().try_into());
        let (Ok(choices), Ok(bases)) = seeds else { return };
        if self.running.is_some() || self.used {
            return;
        }
        let rng = match self.seed {
            Some(number) => Xoshiro256PlusPlus::from_seed(seed::derive(number, "light")),
            None => Xoshiro256PlusPlus::try_from_rng(&mut SysRng)
                .expect("the system's generator never fails"),
        };
        let fibre = Fibre::new(&self.preset, choices, bases, Eve::ABSENT, rng);
        self.running = Some(Running { fibre, light: *light, end: 0, due: now + self.pace });
        self.used = true;
    }

    /// Plays one window and gives Bob its clicks.
    fn emit(&mut self, eve: Eve, now: Timestamp) {
        let loss = match self.path {
            Path::Through { loss, .. } => loss,
            Path::Dark => self.dark,
        };
        let Some(running) = &mut self.running else { return };
        running.fibre.set_eve(eve);
        running.fibre.set_loss(loss);
        running.end += self.rules.window;
        let clicks = std::iter::from_fn(|| running.fibre.click_before(running.end));
        let clicks = clicks.map(|click| (click.pulse, click.detector.value())).collect();
        // A late window is made up for, but not more than a second of them.
        let earliest = now - Span::from_secs(1);
        running.due = (running.due + self.pace).max(earliest);
        let window = Message::Window { light: running.light, end: running.end, clicks };
        self.room -= 1;
        self.bob.send(&window);
    }
}
