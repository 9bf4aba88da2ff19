//! What roles tell whoever runs them: for the live view, the summary, and the log.

use claviger_device::KeyPath;
use claviger_distill::BlockLedger;
use claviger_net::handshake::PublicKeyWork;
use claviger_net::meter::Traffic;
use claviger_security::EpsilonLedger;
use claviger_units::{Eui64, Fraction, Site};
use tokio::sync::mpsc;

/// Something that an operator wants to see. Never holds a key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Report {
    /// A role is ready to work.
    Ready(&'static str),
    /// The error rate of the bits sampled so far of the block that is being filled (from Alice).
    Sampled {
        /// Differing over sampled.
        qber: Fraction,
        /// Bits sampled.
        sampled: u64,
    },
    /// What is done to the light by `attack.toml`, in words, or that nothing is any more (from the
    /// fibre).
    Attack(Option<String>),
    /// A block ended (from Alice).
    Block(Box<BlockLedger>),
    /// The state of the link in one line (from Alice).
    Link(String),
    /// How many pads the authentication reserve holds.
    Reserve {
        /// Whose.
        site: Site,
        /// Pads of 128 bits, both directions.
        pads: u64,
    },
    /// What the promises of all blocks of the link's life may fail by (from Alice).
    Epsilon(EpsilonLedger),
    /// The quantum channel goes through another fibre from now on (from the controller).
    Channel {
        /// The fibre that it takes.
        fibre: String,
        /// What has happened, in words.
        why: String,
    },
    /// Discovery in the network has nothing new to tell (from the controller).
    Settled {
        /// Switches that are up.
        switches: usize,
        /// Links between them.
        links: usize,
        /// Hosts, servers included.
        hosts: usize,
    },
    /// First keys were ordered for all new devices together (from the platform).
    Ordered {
        /// The number of the order.
        number: u64,
        /// For so many devices.
        keys: usize,
    },
    /// The frame of a device's next key may leave the gateway (from the gateway).
    Prepared {
        /// The device.
        eui: Eui64,
        /// The epoch of the key.
        epoch: u32,
    },
    /// How many keys a site's buffer holds.
    Buffer {
        /// Whose.
        site: Site,
        /// Keys of both owners that nobody was handed.
        available: u64,
        /// Keys that fit.
        capacity: u64,
    },
    /// Keys left a site's key management entity.
    Delivered {
        /// Whose.
        site: Site,
        /// How many.
        keys: u64,
        /// To whom and through what, in words.
        to: String,
    },
    /// A device put a fresh key from the link into its flash.
    Keyed {
        /// Which.
        eui: Eui64,
        /// Under which number.
        epoch: u32,
    },
    /// A device asked for a key, or was pushed one, on a connection that was counted.
    Exchanged(Exchanged),
    /// A device sent a reading that it had not sent before.
    Sent {
        /// Which.
        eui: Eui64,
    },
    /// A reading of a device was acknowledged to it.
    Acknowledged {
        /// Which.
        eui: Eui64,
    },
    /// The platform decrypted and stored a reading.
    Decrypted {
        /// Whose.
        eui: Eui64,
        /// Under which epoch.
        epoch: u32,
        /// Its number under that epoch.
        counter: u32,
        /// The reading in words.
        reading: String,
    },
    /// Something happened in the network (from the controller).
    Network {
        /// What kind of event, in kebab case.
        kind: &'static str,
        /// In words.
        text: String,
    },
    /// Something was refused; nothing was spent.
    Refused {
        /// Where.
        role: &'static str,
        /// What and why.
        why: String,
    },
    /// A store is not what it was: its role holds back until an operator mends that.
    Halted {
        /// Where.
        role: &'static str,
        /// What is wrong, and the remedy.
        why: String,
    },
    /// An invariant of the design is broken.
    Violation {
        /// Where.
        role: &'static str,
        /// Which.
        what: String,
    },
}

/// One exchange about a key, counted on the connection itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// The device.
    pub eui: Eui64,
    /// By which path.
    pub path: KeyPath,
    /// Whether a key frame came.
    pub is_renewal: bool,
    /// What the handshake took, where the exchange has one of its own.
    pub handshake: Traffic,
    /// All of it, the handshake included.
    pub traffic: Traffic,
    /// The public-key work of the device, from the handshake that was negotiated.
    pub work: PublicKeyWork,
}

/// Where reports go.
#[derive(Clone, Debug)]
pub struct Reporter(mpsc::UnboundedSender<Report>);

impl Reporter {
    /// Makes a reporter and the end at which its reports arrive.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Report>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Tells something; nobody may be listening any more.
    pub fn tell(&self, report: Report) {
        drop(self.0.send(report));
    }

    /// Tells and logs a refusal.
    pub fn refused(&self, role: &'static str, why: impl std::fmt::Display) {
        let why = why.to_string();
        tracing::warn!(role, %why, "refused");
        self.tell(Report::Refused { role, why });
    }

    /// Tells and logs what an operator must mend.
    pub fn halted(&self, role: &'static str, why: impl std::fmt::Display) {
        let why = why.to_string();
        tracing::error!(role, %why, "halted");
        self.tell(Report::Halted { role, why });
    }

    /// Tells and logs a broken invariant.
    pub fn violation(&self, role: &'static str, what: impl std::fmt::Display) {
        let what = what.to_string();
        tracing::error!(role, %what, "invariant violated");
        self.tell(Report::Violation { role, what });
    }
}
