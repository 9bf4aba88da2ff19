//! Histories of the reference model of `PROTOCOL.md` P1 and P2, played with the real stores:
//! crashes at every operation of the engine, broken connections, restored sites, clean stops.
//!
//! After each step the once-only rule holds (the world checks it whenever a key leaves); whenever
//! all records have arrived, both sites agree about every key ever made.

use claviger_durable::MemoryEngine;
use claviger_keystore::{HandOutError, ProposeError, Session, Site};
use claviger_units::Span;
use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::world::{BOTH, World, multicast, order, sae};

/// What may happen in a history besides hand-out and delivery.
#[derive(Clone, Copy)]
struct Plan {
    /// How many steps.
    steps: u32,
    /// The engine dies after a few more operations, once in so many steps; 0 is never.
    dies: u32,
    /// The connection breaks, once in so many steps; 0 is never.
    breaks: u32,
    /// A process is killed or stops cleanly between calls, once in so many steps; 0 is never.
    stops: u32,
    /// The site that is restored from a backup.
    restored: Option<Site>,
    /// Slaves fetch (off where a site is restored, as in the model: `PROTOCOL.md`, known rests).
    fetches: bool,
    /// Keys per block and owner; many of them displace each other.
    block: [usize; 2],
    /// Held keys grow old, once in so many steps; 0 is never.
    ages: u32,
}

const CRASHES: Plan = Plan {
    steps: 500,
    dies: 40,
    breaks: 40,
    stops: 80,
    restored: None,
    fetches: true,
    block: [9, 7],
    ages: 300,
};

/// Plays a history to its end and settles it.
struct Play {
    world: World,
    plan: Plan,
    story: String,
    backup: Option<MemoryEngine>,
    // Whether a site was restored: what it had handed out may be lost then, never doubled.
    was_restored: bool,
    roll_backs: u32,
}

impl Play {
    fn new(plan: Plan, seed: u64) -> Self {
        let mut world = World::new(seed);
        // Nobody promises that block numbers rise.
        world.shuffled = seed % 2 == 1;
        Self {
            world,
            plan,
            story: format!("seed {seed}"),
            backup: None,
            was_restored: false,
            roll_backs: 0,
        }
    }

    fn once_in(&mut self, n: u32) -> bool {
        n > 0 && self.world.rng.random_ratio(1, n)
    }

    fn any_site(&mut self) -> Site {
        if self.world.rng.random() { Site::A } else { Site::B }
    }

    /// Brings dead processes and lost connections back; resets both sites after a roll-back.
    fn heal(&mut self) {
        for site in BOTH {
            if !self.world.is_up(site) {
                self.world.start(site);
            }
        }
        if self.refused() {
            self.roll_backs += 1;
            self.world.offers.clear();
            for site in BOTH {
                if self.world.reset(site).is_none() {
                    return;
                }
            }
        }
        if !self.world.connected {
            self.world.connect();
            if self.world.rng.random() {
                self.world.run();
            }
        }
    }

    fn refused(&self) -> bool {
        let refused = |session: &Session| matches!(session, Session::RolledBack { .. });
        self.world.sessions().iter().any(refused)
    }

    fn step(&mut self) {
        self.world.now = self.world.now + Span::from_millis(self.world.rng.random_range(0..2000));
        let all_up = BOTH.iter().all(|site| self.world.is_up(*site));
        let ill = !all_up || !self.world.connected || self.refused();
        if ill && self.once_in(2) {
            self.heal();
        }
        if self.once_in(10) && self.is_quiet() {
            self.world.check_settled(&self.story);
        }
        let site = self.any_site();
        if self.plan.restored == Some(site) && self.once_in(25) {
            self.back_up_or_restore(site);
        }
        if !self.world.is_up(site) {
            return;
        }
        if self.once_in(self.plan.dies) {
            let lives = self.world.rng.random_range(0..30);
            self.world.kme(site).disk.die_after(lives);
        }
        if self.once_in(self.plan.breaks) {
            self.world.disconnect();
        }
        if self.once_in(self.plan.stops) {
            self.stop(site);
        } else if self.once_in(self.plan.ages) {
            self.world.now = self.world.now + Span::from_secs(1200);
            self.world.expire(site);
        } else {
            self.act(site);
        }
    }

    /// Whether every record has arrived and nobody has died.
    fn is_quiet(&mut self) -> bool {
        BOTH.iter().all(|site| self.world.is_up(*site))
            && self.world.sessions() == [Session::Open; 2]
            && self.world.kmes.iter().all(|kme| kme.inbox.is_empty())
            && BOTH.iter().all(|site| self.world.stored(*site).unacknowledged == 0)
    }

    /// Ends a process, at once or after it has given its lease back.
    fn stop(&mut self, site: Site) {
        if self.world.rng.random() {
            self.world.store(site).stop();
            if self.world.connected && self.world.rng.random() {
                let work =
                    |_: &mut claviger_keystore::KeyStore, _: &mut dyn claviger_durable::Tx, _| {
                        Ok::<_, claviger_durable::EngineError>(())
                    };
                self.world.call(site, work);
                self.world.run();
            }
        }
        if self.world.is_up(site) {
            self.world.kill(site);
        }
    }

    fn back_up_or_restore(&mut self, site: Site) {
        match self.backup.take() {
            Some(backup) => {
                self.world.kill(site);
                self.world.kme(site).disk = backup;
                self.was_restored = true;
            }
            None => self.backup = Some(self.world.kme(site).disk.snapshot()),
        }
    }

    fn act(&mut self, site: Site) {
        match self.world.rng.random_range(0..15) {
            0..7 => {
                for _ in 0..self.world.rng.random_range(1..10) {
                    if self.world.is_up(site) {
                        self.world.receive(site);
                    }
                }
            }
            7 => {
                let [of_a, of_b] = self.plan.block;
                let proposed = self.world.is_up(Site::A).then(|| self.world.propose(of_a, of_b));
                let fits = matches!(
                    proposed,
                    None | Some(
                        Ok(_)
                            | Err(ProposeError::Apart
                                | ProposeError::RolledBack
                                | ProposeError::Busy)
                    )
                );
                assert!(fits, "{}: {proposed:?}", self.story);
            }
            8..10 if self.world.is_up(Site::B) => self.take_offer(),
            10..13 => self.hand_out(site),
            13..15 if self.plan.fetches => self.fetch(site),
            _ => {}
        }
    }

    /// An offer reaches Bob's node, or is lost on the way, which Alice's node may notice.
    fn take_offer(&mut self) {
        let Some(offer) = self.world.offers.pop_front() else { return };
        if self.once_in(6) {
            if self.world.is_up(Site::A) && self.world.rng.random() {
                self.world.store(Site::A).withdraw(offer.number);
            }
        } else {
            let taken = self.world.accept(offer);
            let fits = !matches!(taken, Some(Err(ProposeError::Stale)));
            assert!(fits, "{}: {taken:?}", self.story);
        }
    }

    fn hand_out(&mut self, site: Site) {
        let (number, bits) = *[(1, 256), (1, 256), (2, 256), (1, 512), (2, 384), (20, 256)]
            .choose(&mut self.world.rng)
            .unwrap();
        let order = if self.world.rng.random() {
            order(site, number, bits)
        } else {
            multicast(site, number)
        };
        let result = self.world.hand_out(site, &order);
        let fits = !matches!(
            result,
            Some(Err(HandOutError::Order(_)
                | HandOutError::Backlog { .. }
                | HandOutError::Store(_)))
        );
        assert!(fits, "{}: {result:?}", self.story);
    }

    /// Some slave of this site asks for some key, its own or not.
    fn fetch(&mut self, site: Site) {
        let handed: Vec<_> = self.world.apps.handed.iter().collect();
        let Some((id, handed)) = handed.choose(&mut self.world.rng) else { return };
        let (id, master) = (**id, sae(&format!("master-{:?}", handed.at)));
        let here = handed.slaves.iter().filter(|slave| slave.site == site);
        let here: Vec<_> = here.cloned().collect();
        if let Some(slave) = here.choose(&mut self.world.rng) {
            self.world.fetch(slave, &master, &[id]);
        }
    }

    /// Lets every death, break and record come to its end, then checks what must hold.
    fn settle(mut self) -> Self {
        for kme in &mut self.world.kmes {
            kme.disk.revive();
        }
        self.heal();
        for _ in 0..2 {
            self.world.connect();
            self.world.run();
            self.heal();
        }
        self.world.run();
        self.world.check_settled(&self.story);
        if !self.was_restored {
            assert_eq!(self.roll_backs, 0, "{}: a roll-back without a restore", self.story);
            self.world.check_fetchable(&self.story);
        }
        // Life goes on: proposals without an answer give way to a new block, which is used.
        self.world.now = self.world.now + Span::from_secs(600);
        self.world.deliver_block(5, 5);
        for site in BOTH {
            let order = order(site, 1, 256);
            let ids = self.world.hand_out(site, &order).unwrap();
            let ids = ids.unwrap_or_else(|error| panic!("{}: {site:?} {error}", self.story));
            let got = self.world.fetch_patiently(&order.slaves[0], &order.master, &ids);
            assert_eq!(got, Some(Ok(())), "{}", self.story);
        }
        self.world.run();
        self.world.check_settled(&self.story);
        self
    }

    fn play(mut self) -> Self {
        self.heal();
        for _ in 0..self.plan.steps {
            self.step();
        }
        self.settle()
    }
}

fn play_seeds(plan: Plan, seeds: std::ops::Range<u64>) -> Vec<Play> {
    seeds.map(|seed| Play::new(plan, seed).play()).collect()
}

/// The model's `s_crash`, with fetching.
#[test]
fn crashes_and_breaks_lose_no_key_and_double_none() {
    let plays = play_seeds(CRASHES, 0..300);
    let deaths: u32 = plays.iter().map(|play| play.world.deaths).sum();
    let fetched: usize = plays.iter().map(|play| play.world.apps.fetched.len()).sum();
    let handed: usize = plays.iter().map(|play| play.world.apps.handed.len()).sum();
    let enough = deaths > 1000 && handed > 5000 && fetched > 5000;
    assert!(enough, "{deaths} deaths, {handed} keys handed out, {fetched} fetched");
}

/// The same, with blocks so large that the owners displace all the time.
#[test]
fn displacement_survives_crashes() {
    play_seeds(Plan { block: [40, 30], ..CRASHES }, 1000..1060);
}

/// The model's `s_cA`, `s_cB`, `s_gA`, `s_gB`, `s_clean` without gifts: one site restored from an
/// older copy, warm or cold, at any moment.
#[test]
fn a_restored_site_never_hands_a_key_out_twice() {
    let mut roll_backs = [0; 2];
    for site in BOTH {
        let plan = Plan {
            dies: 60,
            breaks: 40,
            stops: 30,
            restored: Some(site),
            fetches: false,
            ages: 20,
            ..CRASHES
        };
        for play in play_seeds(plan, 2000..2250) {
            roll_backs[site as usize] += play.roll_backs;
        }
    }
    assert!(roll_backs.iter().all(|n| *n > 50), "{roll_backs:?} detected");
}

/// Dies at each single operation of one site in turn, in histories without any other accident.
#[test]
fn every_operation_may_be_the_last_one() {
    let plan = Plan { steps: 120, dies: 0, breaks: 0, stops: 0, block: [5, 3], ..CRASHES };
    for (seed, site) in [(2, Site::A), (4, Site::B)] {
        let calm = Play::new(plan, seed).play();
        let n_operations = calm.world.kmes[site as usize].disk.operations();
        for lives in 0..n_operations {
            let mut play = Play::new(plan, seed);
            play.story = format!("seed {seed}, {site:?} dies after {lives} operations");
            // The world has opened the stores already.
            play.world.kme(site).disk.die_after(lives);
            let ended = play.play();
            assert!(ended.world.deaths <= 1, "{}", ended.story);
        }
    }
}
