//! What can be said on the command line, with the help that teaches it.

pub(crate) mod bench;
pub(crate) mod energy;
pub(crate) mod lab;
pub(crate) mod link;
pub(crate) mod sdn;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use claviger_device::KeyPath;
use claviger_roles::init::PARTIES;
use claviger_units::{Bits, Decibels, Eui64, Fraction, KeyId, SaeId, Site, Span};
use claviger_wire::fleet::MAX_PAD;

use self::bench::BenchCommand;
use self::energy::EnergyArgs;
use self::lab::LabCommand;
use self::link::{LinkCommand, LinkStatusArgs};
use self::sdn::SdnCommand;
use crate::duration;

/// Fresh quantum keys for every device of an IoT fleet, from the photon to the decrypted reading.
///
/// Without QKD hardware the light is simulated; everything after it is real: sockets, protocols,
/// ciphers, crashes. Keys of a simulated link are labelled `simulated` wherever they show.
#[derive(Debug, Parser)]
#[command(version, styles = STYLES, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Cli {
    /// Logs more: once what happens, twice every step.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Begin with:
  claviger up                       the whole chain on this machine, until you press q
  claviger up --for 90s             the same for 90 seconds; exit code 0 if all went well
While it runs, in another terminal:
  claviger key get                  a key at site A, by ETSI GS QKD 014
  claviger key get-by-id KEY_ID     its copy at site B
  claviger readings                 what the platform has decrypted";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole chain on this machine: light, keys at two sites, devices, readings
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// Make the folders of both sites: certificates, the link's initial secret, configurations
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Run one role in this process, as in the field
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Ask a key management entity for keys, as an application would
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show the readings that the platform has decrypted
    Readings(ReadingsArgs),
    /// Show the devices as the platform knows them; work out what a fresh key costs one
    #[command(args_conflicts_with_subcommands = true)]
    Devices {
        /// What to do instead of showing
        #[command(subcommand)]
        command: Option<DevicesCommand>,
        #[command(flatten)]
        show: DevicesArgs,
    },
    /// Show what theory expects of a link and what it has done; run, measure or attack one
    #[command(after_help = link::EXAMPLES)]
    #[command(args_conflicts_with_subcommands = true)]
    Link {
        /// What to do instead of showing
        #[command(subcommand)]
        command: Option<LinkCommand>,
        #[command(flatten)]
        status: LinkStatusArgs,
    },
    /// Show the network as its controller sees it; admit, dismiss and follow hosts
    #[command(subcommand)]
    #[command(after_help = sdn::EXAMPLES)]
    Sdn(SdnCommand),
    /// Measure this program on this machine, as `cargo xtask bench` does
    #[command(subcommand)]
    #[command(hide = true)]
    Bench(BenchCommand),
    /// Make the paper's figures, ask what a link feeds, build networks to try things on
    #[command(subcommand)]
    Lab(LabCommand),
    /// Mend a key management entity
    #[command(subcommand)]
    Kme(KmeCommand),
}

const UP_EXAMPLES: &str = "\
Examples:
  claviger up                                24 devices on the paper's lab link, until you press q
  claviger up --devices 50 --for 120s        a trial; exit code 0 if every device got its key
  claviger up --link city --renew 5m         the paper's second link, a key every five minutes
  claviger up --eve 0.3                      somebody listens from the start
  claviger up --spare-fibre city --eve 1     somebody listens to the first fibre: the controller
                                             moves the quantum channel to the second
  claviger up --seed 7 --for 60s             reproducible: the same clicks, errors and blocks
  claviger up --for 90s --json | tail -n 1   the summary as one JSON object

On a terminal: e turns the eavesdropper on and off, q quits. The log is STATE/claviger.log, the
ledger of all blocks STATE/ledger.csv, the addresses are in STATE/run.json.

Exit code: 0 if every device got a key from the link, every reading was decrypted and no invariant
was violated; 1 otherwise, with the reasons; 2 for wrong flags.";

const INIT_EXAMPLES: &str = "\
Example, each role as a process of its own:
  claviger init --state demo
  claviger run fibre    --config demo/fibre/config.toml &
  claviger run qkd      --config demo/site-a/qkd/config.toml &
  claviger run qkd      --config demo/site-b/qkd/config.toml &
  claviger run kme      --config demo/site-a/kme/config.toml &
  claviger run kme      --config demo/site-b/kme/config.toml &
  claviger run platform --config demo/site-b/platform/config.toml &
  claviger run gateway  --config demo/site-a/gateway/config.toml &
  claviger run controller --config demo/site-b/controller/config.toml &
  claviger run lan        --config demo/site-a/switch/config.toml &
  claviger run devices  --config demo/devices/config.toml &

In the field site-a/ and site-b/ are carried to their sites. Each role opens only its own folder.";

const RUN_EXAMPLES: &str = "\
Example:
  claviger run kme --config claviger-state/site-a/kme/config.toml

`claviger init` writes the configurations. Roles start in any order and find each other again after
any loss. A line on the standard output says when the role is ready; log lines go to the standard
error; SIGTERM and Ctrl-C stop it cleanly.";

/// `claviger up`
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// How long to run, such as 90s, 5m or 2h; without it until interrupted
    #[arg(long = "for", value_name = "TIME", allow_hyphen_values = true,
          value_parser = duration::parse)]
    pub(crate) run_for: Option<Span>,
    /// Print one JSON object on the standard output at the end, all else on the standard error
    #[arg(long)]
    pub(crate) json: bool,
}

/// `claviger init`
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Lets every program of this machine extract keys by IDQ3P, as `claviger up` does
    #[arg(long)]
    pub(crate) danger_idq3p: bool,
    /// A further name or address in the certificate of a party, such as gateway=10.0.0.1; may be repeated
    #[arg(long = "name", value_name = "PARTY=HOST", value_parser = party_name)]
    pub(crate) names: Vec<(String, String)>,
}

/// What a network is made of.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// How many devices to emulate
    #[arg(long, value_name = "N", default_value_t = 24, help_heading = "Fleet",
          allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) devices: u32,
    /// How often each device wakes, sends a reading and gets a fresh key
    #[arg(long, value_name = "TIME", default_value = "60s", help_heading = "Fleet",
          allow_hyphen_values = true, value_parser = renewal)]
    pub(crate) renew: Span,
    /// How keys come to the devices, who take these in turn: `https`, `psk12`, `psk13_ke`, `psk13_dhe`,
    /// `oscore`, `push`, `pad`
    #[arg(
        long,
        value_name = "PATH,…",
        default_value = "push",
        help_heading = "Fleet",
        value_delimiter = ','
    )]
    pub(crate) keys_by: Vec<KeyPath>,
    /// How many keys a pad has, for devices of the path `pad` [default: 336, a week of one every half hour]
    #[arg(long, value_name = "N", help_heading = "Fleet", value_parser = pad_keys)]
    pub(crate) pad_keys: Option<u32>,
    /// The link: the paper's `lab` (8.4 km, 4 dB) or `city` (7 dB), or a preset file
    #[arg(long, value_name = "lab|city|FILE", default_value = "lab", help_heading = "Link")]
    pub(crate) link: String,
    /// Replaces the loss of the link, in decibels
    #[arg(long, value_name = "DB", help_heading = "Link", allow_negative_numbers = true,
          value_parser = loss)]
    pub(crate) loss_db: Option<Decibels>,
    /// A second fibre, with the loss of this preset: the quantum channel goes through an optical
    /// switch, and the controller moves it there when an eavesdropper or no light is noticed
    #[arg(long, value_name = "lab|city|FILE", help_heading = "Link", conflicts_with = "seed")]
    pub(crate) spare_fibre: Option<String>,
    /// Share of the pulses that an eavesdropper intercepts from the start, 0 to 1 [default: 0]
    #[arg(long, value_name = "FRACTION", help_heading = "Link", allow_negative_numbers = true,
          value_parser = fraction)]
    pub(crate) eve: Option<Fraction>,
    /// Makes the run reproducible; its keys are then never to be used
    #[arg(long, value_name = "N", help_heading = "Link", allow_negative_numbers = true,
          value_parser = seed)]
    pub(crate) seed: Option<u64>,
    /// Runs the simulated light this many times faster than real light
    #[arg(long, value_name = "N", default_value_t = 1.0, help_heading = "Link",
          allow_negative_numbers = true, value_parser = speed)]
    pub(crate) simulated_speed: f64,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// The first of 22 ports on loopback
    #[arg(long, value_name = "PORT", default_value_t = 14_000, help_heading = "Place",
          allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=65_514))]
    pub(crate) port_base: u16,
}

/// Where everything lies.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// The folder of keys, certificates, configurations and logs
    #[arg(long, value_name = "DIR", default_value = "./claviger-state", help_heading = "Place")]
    pub(crate) state: PathBuf,
}

/// `claviger run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The role
    pub(crate) role: Role,
    /// Its configuration; the role opens only files in the folder where this lies
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// What a process can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The light itself, simulated: loss, detectors, eavesdropper
    Fibre,
    /// Alice or Bob: makes keys of light
    Qkd,
    /// A site's key management entity: keeps keys and hands them out
    Kme,
    /// The devices' door: key service and MQTT broker
    Gateway,
    /// Provisions devices, decrypts and keeps readings
    Platform,
    /// The controller of the network: finds switches and hosts, lets each reach what it may
    Controller,
    /// An emulated network: switches under the controller, and the cables of emulated devices
    Lan,
    /// Emulated devices
    Devices,
}

/// `claviger key`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Get one key by IDQ3P: UDP, 29 bytes asked, 62 bytes answered, no authentication
    Extract(ExtractArgs),
    /// Get new keys by ETSI GS QKD 014 (`enc_keys`)
    Get(GetArgs),
    /// Get the copies of keys that the other application was given (`dec_keys`)
    GetById(GetByIdArgs),
    /// Ask how many keys are there (`status`)
    Status(StatusArgs),
}

/// `claviger key extract`
#[derive(Debug, Args)]
pub(crate) struct ExtractArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// At which site of the state folder to ask
    #[arg(long, value_enum, default_value = "a")]
    pub(crate) site: SiteName,
    /// Asks there instead of at the address in the state folder
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<SocketAddr>,
    /// The key whose copy is wanted, as the other site's answer named it; without it a new key
    #[arg(long, value_name = "ID", allow_negative_numbers = true, value_parser = idq3p_id)]
    pub(crate) id: Option<NonZeroU64>,
    /// The number of the requesting device, 1 to 12
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u8).range(1..=12))]
    pub(crate) device: u8,
    /// Bytes of the key
    #[arg(long, value_name = "N", default_value_t = 32, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) length: u8,
}

/// Whom to ask by ETSI GS QKD 014, and as whom.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// The folder with `identity.pem`, `identity.key` and `ca.pem` [default: the site's `app`]
    #[arg(long, value_name = "DIR")]
    pub(crate) identity: Option<PathBuf>,
    /// The key management entity [default: the site's, from the state folder]
    #[arg(long, value_name = "https://HOST:PORT", value_parser = url)]
    pub(crate) url: Option<String>,
    /// Prints the answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `claviger key get`
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// At which site of the state folder to ask
    #[arg(long, value_enum, default_value = "a")]
    pub(crate) site: SiteName,
    /// The application that gets the other copy [default: the other site's `app`]
    #[arg(long, value_name = "SAE_ID")]
    pub(crate) slave: Option<SaeId>,
    /// How many keys
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) number: u32,
    /// Bits of each key
    #[arg(long, value_name = "BITS", default_value = "256", allow_negative_numbers = true,
          value_parser = bits)]
    pub(crate) size: Bits,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `claviger key get-by-id`
#[derive(Debug, Args)]
pub(crate) struct GetByIdArgs {
    /// The ids that the other application was given
    #[arg(required = true, value_name = "KEY_ID")]
    pub(crate) ids: Vec<KeyId>,
    /// At which site of the state folder to ask
    #[arg(long, value_enum, default_value = "b")]
    pub(crate) site: SiteName,
    /// The application that was given the keys first [default: the other site's `app`]
    #[arg(long, value_name = "SAE_ID")]
    pub(crate) master: Option<SaeId>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `claviger key status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// At which site of the state folder to ask
    #[arg(long, value_enum, default_value = "a")]
    pub(crate) site: SiteName,
    /// The application that would get the other copy [default: the other site's `app`]
    #[arg(long, value_name = "SAE_ID")]
    pub(crate) slave: Option<SaeId>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// One of the two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SiteName {
    /// The IoT network
    A,
    /// The data centre
    B,
}

impl From<SiteName> for Site {
    fn from(name: SiteName) -> Self {
        match name {
            SiteName::A => Self::A,
            SiteName::B => Self::B,
        }
    }
}

/// `claviger readings`
#[derive(Debug, Args)]
pub(crate) struct ReadingsArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Only readings of this device
    #[arg(long, value_name = "EUI")]
    pub(crate) device: Option<Eui64>,
    /// How many of the newest to show
    #[arg(long, value_name = "N", default_value = "20", allow_negative_numbers = true,
          value_parser = last)]
    pub(crate) last: usize,
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `claviger devices COMMAND`
#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// Work out what a fresh key costs a device, all ways side by side
    #[command(after_help = energy::EXAMPLES)]
    Energy(EnergyArgs),
    /// Order a pad for a device, keys that it takes home by cable; or show its pads
    #[command(after_help = PAD_EXAMPLES)]
    Pad(PadArgs),
}

const PAD_EXAMPLES: &str = "\
Examples:
  Order a year of a key every half hour:
    claviger devices pad 02005efffe100001 --keys 17520
  Show how much of it is drawn; the device can be docked once all is:
    claviger devices pad 02005efffe100001";

/// `claviger devices pad`
#[derive(Debug, Args)]
pub(crate) struct PadArgs {
    /// The device, 16 hexadecimal digits
    #[arg(value_name = "EUI")]
    pub(crate) eui: Eui64,
    /// How many keys the new pad gets; without it, the pads are shown
    #[arg(long, value_name = "N")]
    pub(crate) keys: Option<u32>,
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `claviger devices`
#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `claviger kme`
#[derive(Debug, Subcommand)]
pub(crate) enum KmeCommand {
    /// Erase all keys of one site and begin anew, after a restored backup: do it at both sites
    #[command(after_help = RESET_EXAMPLE)]
    Reset(ResetArgs),
}

const RESET_EXAMPLE: &str = "\
When a site's key store was restored from an old copy, the two sites no longer agree on which keys
were handed out, and both refuse to serve: a key might be used twice. Stop both entities and then:
  claviger kme reset --config claviger-state/site-a/kme/config.toml
  claviger kme reset --config claviger-state/site-b/kme/config.toml
It costs the keys in the buffers, which the link makes again.";

/// `claviger kme reset`
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// The configuration of the site's key management entity, which must not be running
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// Seconds to years, as the configurations of the roles have it.
fn renewal(text: &str) -> Result<Span, String> {
    let span = duration::parse(text).map_err(|error| error.to_string())?;
    let fits = (Span::from_millis(100)..=Span::from_secs(31_536_000)).contains(&span);
    fits.then_some(span).ok_or_else(|| "must lie between 100ms and 365d".to_owned())
}

fn loss(text: &str) -> Result<Decibels, String> {
    let db = text.parse().or(Err("must be a number of decibels, such as 4 or 7.5"))?;
    Decibels::from_db(db).map_err(|error| error.to_string())
}

/// Reads how many keys a pad has.
fn pad_keys(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_PAD).contains(number));
    number
        .ok_or_else(|| format!("a pad has from 1 to {MAX_PAD} keys, a year of one every half hour"))
}

fn party_name(text: &str) -> Result<(String, String), String> {
    let parties = || PARTIES.iter().map(|(_, name)| *name);
    let (party, host) = text.split_once('=').ok_or("write PARTY=HOST, such as gateway=10.0.0.1")?;
    if !parties().any(|name| name == party) {
        let known: Vec<_> = parties().collect();
        return Err(format!("there is no party {party}: choose one of {}", known.join(", ")));
    }
    Ok((party.to_owned(), host.to_owned()))
}

fn fraction(text: &str) -> Result<Fraction, String> {
    let value = text.parse().or(Err("must be a number between 0 and 1"))?;
    Fraction::try_new(value).map_err(|error| error.to_string())
}

fn speed(text: &str) -> Result<f64, String> {
    let fits = |speed: &f64| (0.01..=10_000.0).contains(speed);
    let speed = text.parse().ok().filter(fits);
    speed.ok_or_else(|| "must be a number between 0.01 and 10000".to_owned())
}

fn seed(text: &str) -> Result<u64, String> {
    let right = || format!("must be a whole number between 0 and {}", u64::MAX);
    text.parse().ok().ok_or_else(right)
}

fn last(text: &str) -> Result<usize, String> {
    let last = text.parse().ok().filter(|last| *last > 0);
    last.ok_or_else(|| "must be a whole number above 0".to_owned())
}

fn url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
    let fits = host.is_some_and(|host| !host.is_empty() && !host.contains('/'));
    let right = || "must be https://HOST:PORT, such as https://localhost:14000".to_owned();
    fits.then(|| text.trim_end_matches('/').to_owned()).ok_or_else(right)
}

fn bits(text: &str) -> Result<Bits, String> {
    text.parse().map(Bits::new).or(Err("must be a number of bits, such as 256".to_owned()))
}

fn idq3p_id(text: &str) -> Result<NonZeroU64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let wrong = || "must be a number above 0, such as 4711 or 0x0123456789abcdef".to_owned();
    parsed.ok().and_then(NonZeroU64::new).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let cli = Cli::parse_from(["claviger", "up"]);
        let Command::Up(up) = cli.command else { panic!("not up") };
        assert_eq!((up.network.devices, up.network.renew), (24, Span::from_secs(60)));
        assert_eq!((up.network.link.as_str(), up.network.loss_db), ("lab", None));
        assert_eq!((up.run_for, up.network.eve, up.network.seed), (None, None, None));
        assert_eq!(up.network.state.state, PathBuf::from("./claviger-state"));
        assert!((up.network.simulated_speed - 1.0).abs() < 1e-12 && !up.json);
    }

    #[test]
    fn wrong_values_are_refused_with_what_would_be_right() {
        for (arguments, right) in [
            (["--for", "90"], "such as 90s, 5m"),
            (["--renew", "1ms"], "between 100ms and 365d"),
            (["--eve", "1.5"], "between 0 and 1"),
            (["--eve", "-1"], "between 0 and 1"),
            (["--loss-db", "-3"], "0 or more"),
            (["--loss-db", "NaN"], "0 or more"),
            (["--simulated-speed", "0"], "between 0.01 and 10000"),
            (["--devices", "0"], "1..=100000"),
            (["--devices", "-1"], "1..=100000"),
            (["--for", "-5s"], "such as 90s, 5m"),
            (["--renew", "-5s"], "such as 90s, 5m"),
            (["--seed", "-1"], "a whole number between 0 and 18446744073709551615"),
            (["--seed", "seven"], "a whole number between 0 and 18446744073709551615"),
            (["--port-base", "-1"], "1..=65514"),
            (["--port-base", "65530"], "1..=65514"),
        ] {
            let line = ["claviger", "up"].into_iter().chain(arguments);
            let error = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains(right), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn wrong_values_of_other_commands_are_refused_alike() {
        for (arguments, right) in [
            (["readings", "--last", "-1"], "a whole number above 0"),
            (["readings", "--last", "0"], "a whole number above 0"),
            (["key get", "--number", "0"], "1.."),
            (["key get", "--number", "-1"], "1.."),
            (["key get", "--size", "-1"], "a number of bits"),
            (["key get", "--url", "http://x"], "must be https://HOST:PORT"),
            (["key status", "--url", "https://x/api"], "must be https://HOST:PORT"),
            (["key extract", "--device", "-1"], "1..=12"),
            (["key extract", "--length", "-1"], "1..=32"),
            (["key extract", "--id", "-1"], "a number above 0"),
        ] {
            let words = arguments[0].split(' ').chain(arguments[1..].iter().copied());
            let error = Cli::try_parse_from(std::iter::once("claviger").chain(words)).unwrap_err();
            assert!(error.to_string().contains(right), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn an_idq3p_id_is_decimal_or_hexadecimal() {
        assert_eq!(idq3p_id("4711").unwrap().get(), 4711);
        assert_eq!(idq3p_id("0x00ff").unwrap().get(), 255);
        assert!(idq3p_id("0").is_err() && idq3p_id("0x").is_err() && idq3p_id("x").is_err());
    }
}
