//! What a controller has to tell.

use core::net::IpAddr;

use claviger_openflow::DatapathId;
use claviger_units::{MacAddr, Span};

use crate::Place;

/// A connection to a switch, as the shell numbers them; a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What has happened in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A switch has told all of itself; what its tables lack is under way.
    SwitchUp {
        /// The switch.
        datapath: DatapathId,
        /// What its operator calls it, or what it is.
        description: String,
    },
    /// A switch is out of reach. Its tables go on as they are.
    SwitchDown {
        /// The switch.
        datapath: DatapathId,
        /// Why, as far as it is known.
        why: Farewell,
    },
    /// A connection never became a switch.
    ConnectionRefused {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        why: Farewell,
    },
    /// Two switches are joined.
    LinkUp(Place, Place),
    /// They are no longer.
    LinkDown(Place, Place),
    /// A frame of discovery that nobody of us has sent, or that is old, or that came in where a
    /// device is: somebody pretends a link.
    LinkForged {
        /// Where it came in.
        at: Place,
    },
    /// A card that is not admitted has been heard.
    HostAppeared {
        /// The card.
        mac: MacAddr,
        /// Where.
        place: Place,
    },
    /// A card that is not admitted has been heard at another port, or an admitted one has moved as it
    /// may.
    HostMoved {
        /// The card.
        mac: MacAddr,
        /// Where it was.
        from: Place,
        /// Where it is.
        to: Place,
    },
    /// Nothing was heard of a card for long, or its port is unplugged.
    HostExpired {
        /// The card.
        mac: MacAddr,
        /// Where it was.
        place: Place,
    },
    /// A host has an address.
    AddressLearned {
        /// The host.
        mac: MacAddr,
        /// Its address.
        address: IpAddr,
    },
    /// A host says that it has the address of another, which keeps it.
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: MacAddr,
        /// Who says so too.
        claimant: MacAddr,
    },
    /// An admitted host has been seen for the first time, and belongs to that port from now on.
    Bound {
        /// The host.
        mac: MacAddr,
        /// Its port.
        place: Place,
    },
    /// An admitted card was heard at another port than its own. What comes from there is dropped.
    Spoofed {
        /// The card.
        mac: MacAddr,
        /// Where it belongs.
        bound: Place,
        /// Where it was heard.
        seen: Place,
    },
    /// Packets with the address of another card have been dropped.
    SpoofDropped {
        /// The card.
        mac: MacAddr,
        /// At which switch they came in.
        datapath: DatapathId,
        /// How many.
        packets: u64,
    },
    /// A host that is no DHCP server answers as one; nobody hears it.
    RogueDhcp {
        /// The host.
        mac: MacAddr,
        /// Where it is.
        place: Place,
    },
    /// More unknown cards are at a port than are kept apart; the others are not listed.
    Crowded {
        /// The port.
        place: Place,
    },
    /// A switch has refused something; its tables are read again.
    Rejected {
        /// The switch.
        datapath: DatapathId,
        /// What it says.
        error: String,
    },
    /// The tables of a switch were not as they should be, and are again.
    Reconciled {
        /// The switch.
        datapath: DatapathId,
        /// How many entries and meters were changed.
        n_changes: usize,
    },
    /// Another controller has become master of a switch: this one only watches from now on.
    Superseded {
        /// The switch that said so.
        datapath: DatapathId,
    },
    /// The quantum channel goes through another fibre from now on.
    ChannelMoved {
        /// The fibre that it has left.
        from: String,
        /// The fibre that it takes.
        to: String,
        /// Why.
        alarm: ChannelAlarm,
    },
    /// Something is wrong with the fibre of the quantum channel, and no other has light.
    ChannelStays {
        /// The fibre.
        fibre: String,
        /// What is wrong.
        alarm: ChannelAlarm,
    },
    /// Nothing new has been found for a while, and nothing is being looked for.
    Settled {
        /// Switches that are up.
        n_switches: usize,
        /// Links between them.
        n_links: usize,
        /// Hosts, known and unknown.
        n_hosts: usize,
    },
}

/// Why a switch is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Farewell {
    /// It closed the connection, or the network did.
    #[error("the connection was closed")]
    Closed,
    /// It says nothing any more: look at the network between, and at the switch.
    #[error("nothing was heard for {0}")]
    Silent(Span),
    /// It did not tell what it is in time.
    #[error("it did not introduce itself within {0}")]
    Handshake(Span),
    /// It does not confirm what it was told.
    #[error("it answered no barrier within {0}")]
    NoBarrier(Span),
    /// It does not speak OpenFlow 1.3: set its bridge to `protocols=OpenFlow13`.
    #[error("it does not speak OpenFlow 1.3; set protocols=OpenFlow13 on the bridge")]
    Version,
    /// It sends what no switch may: replace it.
    #[error("what it sent cannot be understood: {0}")]
    Garbage(#[from] claviger_openflow::DecodeError),
    /// It tells of more flow entries than any switch has: replace it.
    #[error(
        "it tells of more than {0} flow entries, or as many ports and meters as none has, and does not end"
    )]
    Endless(usize),
    /// Another switch of the same name is there and answers: give one of them another datapath id.
    #[error("datapath {0} is connected already, and answers; give one of the two another id")]
    Duplicate(DatapathId),
    /// It is an auxiliary connection, which this controller has no use for.
    #[error("it is an auxiliary connection; only main connections are taken")]
    Auxiliary,
    /// It says that another controller is its master: end that one, or this.
    #[error("it says that another controller is its master; end one of the two")]
    Overruled,
    /// Another connection of the same switch has taken its place.
    #[error("the switch has connected again")]
    Replaced,
}

/// Why the quantum channel leaves a fibre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelAlarm {
    /// A block was dropped because of its error rate: somebody may be listening.
    Qber,
    /// The receiver sees no light.
    LossOfLight,
    /// The optical switch sees no light in the fibre.
    FibreDark,
    /// An operator wants it.
    Operator,
}
