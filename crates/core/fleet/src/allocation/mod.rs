//! Who gets a key next, and when: what a gateway decides of the keys of its link (`PROTOCOL.md` P3b.1, P3b.2).

mod agenda;
mod shortage;

use claviger_frames::Epoch;
use claviger_units::{Eui64, Span, Timestamp};

use self::agenda::Agenda;
use self::shortage::Shortage;
use crate::GatewayEvent;
use crate::lane::Lane;
use crate::orders::RequestToken;
use crate::turns::Sharing;

/// When each device is due, whose turn it is, and how long nobody is tried while keys are short.
///
/// It knows no keys and writes nothing down: the [`Gateway`](crate::Gateway) does, and opens it anew from
/// that. `lab` drives the same decisions for fleets whose records would not fit into a day's computation.
///
/// ```
/// use claviger_fleet::{Allocation, RequestToken, Sharing};
/// use claviger_frames::Epoch;
/// use claviger_units::{Span, Timestamp};
///
/// let (now, eui) = (Timestamp::START, "02005efffe100001".parse()?);
/// let mut allocation = Allocation::new(Sharing::default(), Span::from_secs(1620));
/// let due = allocation.next_time(now, Epoch::BOOTSTRAP, now);
/// allocation.plan(eui, due);
/// assert_eq!((due, allocation.take_due(now)), (now, Some(eui)));
///
/// let order = (eui, Epoch::new(1));
/// allocation.ask(order, RequestToken::from_bytes([7; 16]));
/// assert!(allocation.start(now).is_some());
/// allocation.too_few(now, order);
/// assert_eq!(allocation.wake_at(), Some(now + Span::from_secs(1)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Allocation {
    sharing: Sharing,
    prepare_after: Span,
    // When a device without a next epoch gets one.
    agenda: Agenda,
    asking: Lane<(Eui64, Epoch), RequestToken>,
    shortage: Shortage,
}

/// Returns how long after a key the next one is prepared: a tenth of the period is left for shortages, so that
/// it is ready at the wake.
#[must_use]
pub const fn prepare_after(renew_period: Span) -> Span {
    Span::from_micros(renew_period.as_micros() / 10 * 9)
}

/// A device and the epoch that a key is asked for.
pub type KeyWanted = (Eui64, Epoch);

impl Allocation {
    /// Begins with nobody; a device gets its next key `prepare_after` it took the one that it holds.
    #[must_use]
    pub fn new(sharing: Sharing, prepare_after: Span) -> Self {
        let (agenda, shortage) = Default::default();
        Self { sharing, prepare_after, agenda, asking: Lane::with_room(IN_FLIGHT), shortage }
    }

    /// Returns when a device that has held `epoch` since then gets its next key: at once where it has none
    /// of the link, or where keys have been short of late.
    #[must_use]
    pub fn next_time(&self, now: Timestamp, epoch: Epoch, since: Timestamp) -> Timestamp {
        let at_once = epoch == Epoch::BOOTSTRAP || self.shortage.is_recent(now);
        let rest = if at_once { Span::ZERO } else { self.prepare_after };
        // A clock that was set back must not hold a device up for longer than its period.
        since.min(now) + rest
    }

    /// Enters a device, in place of an earlier entry.
    pub fn plan(&mut self, eui: Eui64, at: Timestamp) {
        self.agenda.enter(eui, at);
    }

    /// Tells whether a device is due.
    #[must_use]
    pub fn is_due(&self, now: Timestamp, eui: Eui64) -> bool {
        self.agenda.is_due(now, eui)
    }

    /// Takes out the device that has been due the longest.
    pub fn take_due(&mut self, now: Timestamp) -> Option<Eui64> {
        self.agenda.take_due(now)
    }

    /// Lets a key be asked for, behind all of its device's rank.
    pub fn ask(&mut self, wanted: KeyWanted, token: RequestToken) {
        self.asking.push_as(wanted, token, self.sharing.rank(wanted.0));
    }

    /// Starts the next order, if keys have not been short just now; it ends by [`granted`](Self::granted),
    /// [`too_few`](Self::too_few) or [`unreachable`](Self::unreachable).
    pub fn start(&mut self, now: Timestamp) -> Option<(KeyWanted, RequestToken)> {
        self.asking.start(now)
    }

    /// The key has come.
    pub fn granted(&mut self, now: Timestamp, wanted: KeyWanted) {
        self.shortage.note_key(now);
        self.asking.succeed(wanted);
    }

    /// The key management entity has too few keys: the order keeps its place, and all wait a while.
    pub fn too_few(&mut self, now: Timestamp, wanted: KeyWanted) {
        self.shortage.note_refusal(now);
        self.asking.postpone(now, wanted);
    }

    /// The order failed: it goes behind the others, and all wait a while.
    pub fn unreachable(&mut self, now: Timestamp, wanted: KeyWanted) {
        self.asking.fail(now, wanted);
    }

    /// Puts an order back into its place, in another wording.
    pub(crate) fn repeat(&mut self, wanted: KeyWanted, token: RequestToken) {
        self.asking.repeat(wanted, token);
    }

    /// Ends an order that nobody waits for any more.
    pub(crate) fn end(&mut self, wanted: KeyWanted) {
        self.asking.succeed(wanted);
    }

    /// Forgets a device.
    pub(crate) fn forget(&mut self, eui: Eui64) {
        self.asking.forget(|(of, _), _| *of == eui);
        self.agenda.strike(eui);
    }

    /// Forgets every order; what is in flight is answered in vain.
    pub(crate) fn forget_orders(&mut self) {
        self.asking.forget(|_, _| true);
    }

    /// Forgets every order and when anybody is due.
    pub(crate) fn forget_all(&mut self) {
        self.forget_orders();
        self.agenda = Agenda::default();
    }

    /// Tells what an operator should know, once for each shortage and once for its end.
    pub fn judge(&mut self, now: Timestamp) -> Option<GatewayEvent> {
        self.shortage.judge(now, self.asking.len())
    }

    /// Returns how many keys are being asked for.
    #[must_use]
    pub fn n_asking(&self) -> usize {
        self.asking.len()
    }

    /// Returns how long no key is asked for, because the last tries failed.
    #[must_use]
    pub const fn delay(&self, now: Timestamp) -> Span {
        self.asking.delay(now)
    }

    /// Returns when the next device is due.
    #[must_use]
    pub fn first_due(&self) -> Option<Timestamp> {
        self.agenda.first()
    }

    /// Returns when the next order can start, if only time is missing.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.asking.wake_at()
    }
}

/// Keys that are asked for at once: two requests of what a KME usually grants in one.
const IN_FLIGHT: usize = 256;
