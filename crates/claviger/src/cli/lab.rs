//! `claviger lab` and what stands below it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use claviger_netlab::{HostLinks, Impairment, Topology};
use claviger_units::{Decibels, Span};

use crate::duration;

/// Seeds that follow one another stay numbers.
const MOST_SEED: u64 = 1 << 53;

/// `claviger lab`
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// The paper's Fig. 2a: radio duty cycle over a day
    #[command(after_help = FIGURE_EXAMPLES)]
    Fig2a(LabFigureArgs),
    /// The paper's Fig. 2b: battery life
    #[command(after_help = FIGURE_EXAMPLES)]
    Fig2b(LabFigureArgs),
    /// The paper's Fig. 2c: latency and packet loss over a day
    #[command(after_help = FIGURE_EXAMPLES)]
    Fig2c(LabFigureArgs),
    /// The paper's Fig. 2d: keys in half an hour over the loss
    #[command(after_help = FIGURE_EXAMPLES)]
    Fig2d(LabFigureArgs),
    /// The paper's Fig. 2e: a key over UDP, captured and dissected; needs tshark, and the right to capture
    Fig2e(LabCaptureArgs),
    /// Every figure, on one page
    #[command(after_help = FIGURE_EXAMPLES)]
    All(LabFigureArgs),
    /// Whether a link feeds a fleet: by theory, and by a day in virtual time
    #[command(after_help = CAPACITY_EXAMPLES)]
    Capacity(LabCapacityArgs),
    /// Any grid of links, fleets, hardware and ways to a key
    #[command(after_help = SWEEP_EXAMPLES)]
    Sweep(LabSweepArgs),
    /// A fleet on an emulated network beside what virtual time foretells of it; needs root
    #[command(after_help = LIVE_EXAMPLES)]
    Live(LabLiveArgs),
    /// What `live` starts inside the network
    #[command(hide = true)]
    Observe(LabObserveArgs),
    /// Networks of Linux namespaces with Open vSwitch and this controller; needs root
    #[command(subcommand)]
    #[command(after_help = NET_EXAMPLES)]
    Net(LabNetCommand),
    /// A tree of Mininet under this controller: every host pings every other; needs root
    #[command(after_help = MININET_EXAMPLES)]
    Mininet(LabMininetArgs),
    /// What `mininet` starts in the private namespaces
    #[command(hide = true)]
    MininetInside(LabMininetArgs),
    /// What `--dkg` starts beside the gateway
    #[command(hide = true)]
    DkgPeer(LabDkgPeerArgs),
}

const FIGURE_EXAMPLES: &str = "\
Examples:
  claviger lab all --quick                  every figure with few repetitions, in about a minute
  claviger lab all --out figures            with all repetitions: CSV, SVG, and figures/report.html
  claviger lab fig2a --config mine.toml     with your own fleet, hardware and radio
  claviger lab fig2d --seed 100             other light
  claviger lab fig2c --live always          with minutes on namespaces and on Mininet; needs root

Configurations are in crates/lab/figures; each value there has its source. The same configuration and
seed give the same numbers, on any number of threads, but for what is measured. Links that were distilled
are kept in OUT/ledgers and taken from there.

With all repetitions, `all` and `fig2c` also measure a live fleet on two networks for five minutes each, which
needs root, Open vSwitch and Mininet: 12 minutes, or --live never. Exit code: 0, 2 if that or fig2e could not be
made here and all else was, 1 if nothing was made.";

/// `claviger lab fig2a` and its like
#[derive(Clone, Debug, Args)]
pub(crate) struct LabFigureArgs {
    /// Fewer repetitions, as the configuration says under `quick`
    #[arg(long)]
    pub(crate) quick: bool,
    /// The first seed; the repetitions have those that follow
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(..=MOST_SEED))]
    pub(crate) seed: u64,
    /// Where the files go
    #[arg(long, value_name = "FOLDER", default_value = "lab-out")]
    pub(crate) out: PathBuf,
    /// A configuration in place of the figure's own
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where ledgers of links are kept and looked for, `ledgers` in the folder of the files by default
    #[arg(long, value_name = "FOLDER")]
    pub(crate) ledgers: Option<PathBuf>,
    /// How many threads run, as many as there are processors by default
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// The live part of Fig. 2c: auto runs it unless --quick, where it can be; always and never say so; a file
    /// is the fig2c-devices.csv of an earlier run
    #[arg(long, value_name = "WHEN|FILE", default_value = "auto")]
    pub(crate) live: LabLive,
}

/// Whether a live part is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LabLive {
    /// Unless all is to be quick.
    Auto,
    /// Yes, and it is an error if it cannot be.
    Always,
    /// No.
    Never,
    /// It was: this is what was counted.
    Earlier(PathBuf),
}

impl From<&str> for LabLive {
    fn from(text: &str) -> Self {
        match text {
            "auto" => Self::Auto,
            "always" => Self::Always,
            "never" => Self::Never,
            _ => Self::Earlier(text.into()),
        }
    }
}

/// `claviger lab fig2e`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabCaptureArgs {
    /// Where the files go
    #[arg(long, value_name = "FOLDER", default_value = "lab-out")]
    pub(crate) out: PathBuf,
}

impl LabCaptureArgs {
    /// Returns what the other figures are asked for with.
    pub(crate) fn into_figure(self) -> LabFigureArgs {
        let (config, ledgers, threads) = (None, None, None);
        let live = LabLive::Never;
        LabFigureArgs { quick: false, seed: 0, out: self.out, config, ledgers, threads, live }
    }
}

const CAPACITY_EXAMPLES: &str = "\
Examples:
  claviger lab capacity --devices 13000 --renew 30m              the paper's fleet on the paper's link
  claviger lab capacity --link city --devices 13000 --renew 30m  its other fibre: too few keys
  claviger lab capacity --link decoy-1ghz --devices 1000000 --renew 30m --wake 5m --buffer-bits 16000000

Exit code: 0 if every wake for a key found one, 1 if not. The link is simulated.";

/// `claviger lab capacity`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabCapacityArgs {
    #[command(flatten)]
    pub(crate) link: LabFedLinkArgs,
    /// How many devices
    #[arg(long, value_name = "N")]
    pub(crate) devices: u32,
    /// How often each wants a fresh key
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = duration::parse)]
    pub(crate) renew: Span,
    /// How often each wakes with a reading, as often as it wants a key by default
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) wake: Option<Span>,
    /// The key buffer
    #[arg(long, value_name = "BITS", default_value_t = 1_000_000)]
    pub(crate) buffer_bits: u64,
    /// Lets readings wait once a key is older than this; devices go on with the old key by default
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    pub(crate) fail_closed: Option<Span>,
    /// For how long the fleet is looked at
    #[arg(long = "for", value_name = "TIME", default_value = "1d", value_parser = duration::parse)]
    pub(crate) length: Span,
    /// How many full blocks of the link are distilled; a longer time draws from these
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) blocks: usize,
    /// From what everything random is made
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(..=MOST_SEED))]
    pub(crate) seed: u64,
    /// Prints a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which link feeds the fleet.
#[derive(Clone, Debug, Args)]
pub(crate) struct LabFedLinkArgs {
    /// The link: a built-in preset, or a preset file
    #[arg(long, value_name = "NAME|FILE", default_value = "lab")]
    pub(crate) link: String,
    /// Replaces the loss of the link, in decibels
    #[arg(long, value_name = "DB", allow_negative_numbers = true, value_parser = crate::cli::loss)]
    pub(crate) loss_db: Option<Decibels>,
}

const SWEEP_EXAMPLES: &str = "\
A grid, in TOML; every list is a parameter, and every combination is run:
  link = [\"lab\", \"decoy-1ghz\"]
  loss_db = [4.0, 7.0]              # left out: the link's own
  devices = [1000, 10_000]
  renew_s = [1800]
  wake_s = [300, 1800]
  buffer_bits = [1_000_000]
  max_age_s = [0]                   # readings wait once a key is older; 0: go on with it
  way = [\"push\", \"https\"]
  against = \"dkg\"
  profile = [\"fipy\"]
  packet_loss = [0.0, 0.01]
  hours = 24.0
  seeds = 5
  link_blocks = 20
  [radio]
  retransmission_s = 1.0
  reading_packets = 12
  reading_bytes = 900
  reading_half_round_trips = 9

The sheet is OUT/NAME.csv, once all is there; what was run before an interruption is not run again.
A point that cannot be says so in its row.";

/// `claviger lab sweep`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabSweepArgs {
    /// The grid
    pub(crate) grid: PathBuf,
    /// Where the files go
    #[arg(long, value_name = "FOLDER", default_value = "lab-out")]
    pub(crate) out: PathBuf,
    /// The first seed of each point
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(..=MOST_SEED))]
    pub(crate) seed: u64,
}

const LIVE_EXAMPLES: &str = "\
Examples:
  claviger lab live --for 10m         50 devices on hosts of their own; keys, bytes and latency both ways
  claviger lab live --for 3m --json

The scenario is crates/lab/figures/live.toml. Exit code 0 if no number is further off than 5 %.";

/// `claviger lab live`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabLiveArgs {
    /// For how long the fleet is observed, once every device has been read
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = duration::parse)]
    pub(crate) length: Span,
    /// From what everything random of the virtual run is made
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(..=MOST_SEED))]
    pub(crate) seed: u64,
    /// A scenario in place of the one that comes with this program
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `claviger lab observe`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabObserveArgs {
    /// For how long
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    pub(crate) length: Span,
    /// How long to wait before
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) settle: Span,
    /// Where the numbers go
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// `claviger lab dkg-peer`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabDkgPeerArgs {
    /// Where it listens
    pub(crate) address: SocketAddr,
}

const MININET_EXAMPLES: &str = "\
Examples:
  claviger lab mininet tree,2,8          9 switches, 64 hosts, 4032 pairs; exit code 0 if none is lost
  claviger lab mininet tree,3,10 --policy sensor   1000 hosts: each pings the first, and reaches no other
  claviger lab mininet tree,2,8 --fleet  gateway, platform and 62 devices as hosts; 0 if each is read
  claviger lab mininet tree,2,3 --fleet --link wifi -- sh -c 'sleep 60; cat $CLAVIGER_STATE/links.json'
  claviger lab mininet tree,2,3 --cli    Mininet's own prompt

Open vSwitch runs its userspace datapath, in private namespaces that go with the command: your own
switches and other Mininets are not touched, and `mn -c` is never needed.";

/// `claviger lab mininet`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabMininetArgs {
    /// The tree: tree,DEPTH,FANOUT
    pub(crate) topology: Topology,
    /// What the hosts may reach: `sensor` lets each reach the first host, and no other
    #[arg(long, value_enum, default_value = "open")]
    pub(crate) policy: LabPolicy,
    #[command(flatten)]
    pub(crate) link: LabLinkArgs,
    #[command(flatten)]
    pub(crate) fleet: LabFleetArgs,
    /// Opens Mininet's prompt instead of pinging; with --fleet, once every device has been read
    #[arg(long)]
    pub(crate) cli: bool,
    /// Where the inner process notes that Mininet hangs
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) hung: Option<PathBuf>,
    /// A command to run instead of pinging, with the same variables as in `claviger lab net run`; its exit
    /// code is this program's
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "cli")]
    pub(crate) command: Vec<OsString>,
}

/// The whole of Claviger on the hosts of a network.
#[derive(Clone, Debug, Args)]
pub(crate) struct LabFleetArgs {
    /// Runs the whole of Claviger on the hosts: gw, with Mininet the first host, is the gateway, the last
    /// one the platform, all others are devices, admitted by their labels
    #[arg(long = "fleet", conflicts_with = "policy")]
    pub(crate) is_wanted: bool,
    /// How often each device wakes, with a reading and a key
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse,
          requires = "is_wanted")]
    pub(crate) wake: Span,
    /// Lets every other device make a key itself in each wake, by ECDH with the gateway's host (DKG), in place
    /// of asking for one: the baseline of Fig. 2c
    #[arg(long, requires = "is_wanted")]
    pub(crate) dkg: bool,
}

impl LabFleetArgs {
    /// Returns these arguments as words.
    pub(crate) fn words(&self) -> Vec<String> {
        if !self.is_wanted {
            return Vec::new();
        }
        let wake = format!("{}s", self.wake.as_secs_f64());
        let mut words = vec!["--fleet".to_owned(), "--wake".to_owned(), wake];
        words.extend(self.dkg.then(|| "--dkg".to_owned()));
        words
    }
}

const NET_EXAMPLES: &str = "\
Examples:
  claviger lab net run tree,2,8                            a shell inside; gw and h1 to h64 are hosts
  claviger lab net run tree,2,8 -- ip netns exec h1 ping -c 3 10.67.0.1
  claviger lab net run ring,4 --policy sensor --tls -- ./my-experiment.sh
  claviger lab net run tree,1,3 --link 802.15.4 -- ip netns exec h1 ping -c 20 10.67.0.1
  claviger lab net run tree,2,8 --fleet --link wifi -- sh -c '$CLAVIGER readings --state $CLAVIGER_STATE'
  claviger lab net up tree,2,3 && claviger lab net exec -- ip netns exec h1 ping -c 3 10.67.0.1
  claviger lab net down

Inside, $CLAVIGER is this program, $CLAVIGER_STATE the folder for its --state, so that
`$CLAVIGER sdn hosts --state $CLAVIGER_STATE` works, $CLAVIGER_CONTROLLER the controller's process, and
the tools of Open vSwitch find the switches. With --link, $CLAVIGER_STATE/links.json counts, each second,
the frames of every host's link.
When the command ends, however it ends, everything is gone.";

/// `claviger lab net`
#[derive(Debug, Subcommand)]
pub(crate) enum LabNetCommand {
    /// Build a network, run a command inside, and take everything down
    Run(LabNetArgs),
    /// Build a network that stands until it is taken down
    Up(LabNetUpArgs),
    /// Run a command inside a network that stands
    Exec(LabNetExecArgs),
    /// Take a network down that stands
    Down(LabNetNameArgs),
    /// What `run` starts in the private namespaces
    #[command(hide = true)]
    Inside(LabNetArgs),
}

/// `claviger lab net run`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabNetArgs {
    /// The shape: tree,DEPTH,FANOUT as Mininet has it, or ring,SWITCHES
    pub(crate) topology: Topology,
    /// What the hosts may reach once they are found
    #[arg(long, value_enum, default_value = "open")]
    pub(crate) policy: LabPolicy,
    /// Lets switches reach the controller by TLS
    #[arg(long)]
    pub(crate) tls: bool,
    /// Lets hosts say nothing until they are asked: the controller has to look for them
    #[arg(long)]
    pub(crate) silent: bool,
    #[command(flatten)]
    pub(crate) link: LabLinkArgs,
    #[command(flatten)]
    pub(crate) fleet: LabFleetArgs,
    /// The command, a shell by default; its exit code is this program's
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// `claviger lab net up`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabNetUpArgs {
    /// The shape: tree,DEPTH,FANOUT as Mininet has it, or ring,SWITCHES
    pub(crate) topology: Topology,
    #[command(flatten)]
    pub(crate) name: LabNetNameOption,
    /// Takes the network down by itself after so long
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse)]
    pub(crate) length: Option<Span>,
    /// What the hosts may reach once they are found
    #[arg(long, value_enum, default_value = "open")]
    pub(crate) policy: LabPolicy,
    /// Lets switches reach the controller by TLS
    #[arg(long)]
    pub(crate) tls: bool,
    #[command(flatten)]
    pub(crate) link: LabLinkArgs,
}

/// What is between hosts and their switches.
#[derive(Clone, Debug, Args)]
pub(crate) struct LabLinkArgs {
    /// What joins hosts to their switches: fibre, wifi, 802.15.4, or such as
    /// delay=5ms,jitter=1ms,loss=1%,rate=250k (each way); a cable without
    #[arg(long = "link", value_name = "LINK")]
    pub(crate) impairment: Option<Impairment>,
    /// With the same seed the same frames are lost
    #[arg(long, value_name = "N", default_value = "1", requires = "impairment")]
    pub(crate) link_seed: u64,
}

impl LabLinkArgs {
    /// Returns what the links of hosts are, where they are worse than cables.
    pub(crate) fn of_hosts(&self) -> Option<HostLinks> {
        let seed = self.link_seed;
        self.impairment.map(|impairment| HostLinks { impairment, seed })
    }

    /// Returns these arguments as words.
    pub(crate) fn words(&self) -> Vec<String> {
        let Some(impairment) = self.impairment else { return Vec::new() };
        vec![
            "--link".to_owned(),
            impairment.to_string(),
            "--link-seed".to_owned(),
            self.link_seed.to_string(),
        ]
    }
}

/// `--name NAME`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabNetNameOption {
    /// What the network is called
    #[arg(long, default_value = "lab")]
    pub(crate) name: String,
}

/// `claviger lab net exec`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabNetExecArgs {
    #[command(flatten)]
    pub(crate) name: LabNetNameArgs,
    /// The command; its exit code is this program's
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// `claviger lab net down`
#[derive(Clone, Debug, Args)]
pub(crate) struct LabNetNameArgs {
    /// What the network is called
    #[arg(default_value = "lab")]
    pub(crate) name: String,
}

/// How hosts of a lab are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LabPolicy {
    /// Every host reaches every other
    Open,
    /// Every host reaches the gateway: TCP 8443 and 8883, and ping
    Sensor,
    /// Nobody is admitted, until you do it
    None,
}
