//! `claviger link` and what stands below it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use claviger_photonics::Attack;
use claviger_units::{Decibels, Fraction, Span};

use super::{StateArgs, fraction, loss, seed};
use crate::duration;
use crate::link::loss_range::LossRange;

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger link                       the link of ./claviger-state, else the theory of `lab`
  claviger link --link city           the theory of the paper's second link
  claviger link --link lab --loss-db 10
  claviger link run --for 1h          an hour of the link in seconds, with its ledger
  claviger link rate --loss-db 0..20  the rate over loss: theory, simulation, repeaterless bound
  claviger link attack blinding       what an attack does, and whether this link notices";

/// `claviger link`
#[derive(Debug, Args)]
pub(crate) struct LinkStatusArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// The theory of this link instead of the one in the state folder
    #[arg(long, value_name = LINKS)]
    pub(crate) link: Option<String>,
    /// Replaces the loss of the link, in decibels
    #[arg(long, value_name = "DB", allow_negative_numbers = true, value_parser = loss)]
    pub(crate) loss_db: Option<Decibels>,
}

const LINKS: &str = "lab|city|clavis2|lab-gllp|decoy-1ghz|FILE";

/// `claviger link`
#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// Run the whole link in virtual time, as fast as this machine can: light and distillation
    #[command(after_help = RUN_EXAMPLES)]
    Run(LinkRunArgs),
    /// Plot the rate of key over loss: theory, simulation with 95 % intervals, repeaterless bound
    #[command(after_help = RATE_EXAMPLES)]
    Rate(LinkRateArgs),
    /// Attack a link, and see whether it notices; without a name, list the attacks
    #[command(after_help = ATTACK_EXAMPLES)]
    Attack(LinkAttackArgs),
    /// Cut a fibre behind the optical switch of a system that runs (`claviger up --spare-fibre`)
    Cut(LinkCutArgs),
    /// Give both ends a fresh secret when the authentication reserve is used up: the last resort
    #[command(after_help = RESEED_EXAMPLE)]
    Reseed(ReseedArgs),
}

/// `claviger link cut`
#[derive(Clone, Debug, Args)]
pub(crate) struct LinkCutArgs {
    /// The fibre, as `claviger sdn channel` names it
    pub(crate) fibre: String,
    /// The state folder of the system that runs
    #[arg(long, value_name = "DIR", default_value = "./claviger-state")]
    pub(crate) on: PathBuf,
    /// How long it stays cut
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = duration::parse)]
    pub(crate) run_for: Span,
}

/// Which link the laboratory plays.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlayedLinkArgs {
    /// The link: a built-in preset, or a preset file
    #[arg(long, visible_alias = "preset", value_name = LINKS, default_value = "lab",
          help_heading = "Link")]
    pub(crate) link: String,
    /// Makes the run reproducible: the same clicks, errors and blocks [default: drawn afresh]
    #[arg(long, value_name = "N", help_heading = "Link", allow_negative_numbers = true,
          value_parser = seed)]
    pub(crate) seed: Option<u64>,
}

const RUN_EXAMPLES: &str = "\
Examples:
  claviger link run                                        ten minutes of the paper's lab link
  claviger link run --preset decoy-1ghz --for 30s          a modern link with finite-size security
  claviger link run --loss-db 7 --for 1h --csv blocks.csv --json blocks.jsonl
  claviger link run --eve 0.3 --for 1m                     somebody measures 30 % of the pulses
  claviger link run --seed 7 --for 1m                      the same clicks and blocks every time
  claviger link run --real-time --for 1m                   paced as real light would be

Both ends are real: they sift, correct, verify, amplify and authenticate. Light, time and the way
between them are simulated, and so is every rate: the keys are compared and destroyed. The summary
holds the rate of kept full blocks against theory at the efficiency just measured, with its 95 %
interval (Student over the blocks). Ctrl-C ends the run and prints the summary of what was done.

The file of --csv has one line for each block, that of --json one JSON object a line, with counts
by intensity.";

/// `claviger link run`
#[derive(Debug, Args)]
pub(crate) struct LinkRunArgs {
    #[command(flatten)]
    pub(crate) played: PlayedLinkArgs,
    /// Replaces the loss of the link, in decibels
    #[arg(long, value_name = "DB", help_heading = "Link", allow_negative_numbers = true,
          value_parser = loss)]
    pub(crate) loss_db: Option<Decibels>,
    /// Share of the pulses that an eavesdropper intercepts and resends, 0 to 1 [default: 0]
    #[arg(long, value_name = "FRACTION", help_heading = "Link", allow_negative_numbers = true,
          value_parser = fraction)]
    pub(crate) eve: Option<Fraction>,
    /// How much link time to run, such as 90s, 10m or 24h
    #[arg(long = "for", value_name = "TIME", default_value = "10m", allow_hyphen_values = true,
          value_parser = duration::parse)]
    pub(crate) run_for: Span,
    /// Runs no faster than real light would
    #[arg(long)]
    pub(crate) real_time: bool,
    /// Writes the ledger of the blocks there as CSV
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    pub(crate) csv: Option<PathBuf>,
    /// Writes the ledger of the blocks there as JSON lines
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    pub(crate) json: Option<PathBuf>,
}

const RATE_EXAMPLES: &str = "\
Examples:
  claviger link rate --loss-db 0..20                       the paper's hardware over loss
  claviger link rate --link decoy-1ghz --loss-db 0..30 --step 2 --svg rate.svg
  claviger link rate --loss-db 4 --blocks 50 --seed 7      one point, well measured
  claviger link rate --loss-db 0..20 --blocks 0            theory alone

Theory is that of the preset's own claim, with its block length and all that a block pays. Simulated
points are real distillation of simulated light, over kept full blocks, with 95 % intervals (Student
over the blocks). The bound is that of every link without repeaters (PLOB), at this pulse rate;
without loss there is none. Points run in parallel; Ctrl-C prints what is done.";

/// `claviger link rate`
#[derive(Debug, Args)]
pub(crate) struct LinkRateArgs {
    #[command(flatten)]
    pub(crate) played: PlayedLinkArgs,
    /// The losses: from..to, both included, or one, in decibels
    #[arg(long, value_name = "FROM..TO", default_value = "0..20", allow_hyphen_values = true)]
    pub(crate) loss_db: LossRange,
    /// From one loss to the next, in decibels
    #[arg(long, value_name = "DB", default_value = "1", allow_negative_numbers = true,
          value_parser = step)]
    pub(crate) step: Decibels,
    /// How many full blocks to keep at each loss; 0 asks theory alone
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub(crate) blocks: u16,
    /// Writes the table there as CSV
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    pub(crate) csv: Option<PathBuf>,
    /// Draws the curves there as SVG
    #[arg(long, value_name = "FILE", help_heading = "Files")]
    pub(crate) svg: Option<PathBuf>,
}

const ATTACK_EXAMPLES: &str = "\
Examples:
  claviger link attack                                     what attacks there are
  claviger link attack intercept-resend                    alone: the figures, and the verdict
  claviger link attack photon-number-splitting --link decoy-1ghz
  claviger link attack added-loss --strength 3             decibels; all others take a share, 0 to 1
  claviger link attack blinding --on ./claviger-state --for 30s

Alone it plays the light under attack and compares what it counts with what theory predicts; then
the real link runs in peace, under attack, and in peace again, and the verdict says whether it
noticed, by what, and what would have.

With --on it attacks a system that runs (`claviger up`, or the role `fibre`): the attack lies in
`attack.toml` in the folder of the fibre until --for is over or Ctrl-C, and blocks are shown as they
end. Left behind, the file has no effect after its time.";

/// `claviger link attack`
#[derive(Debug, Args)]
pub(crate) struct LinkAttackArgs {
    /// The attack, or `list`
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<AttackName>,
    /// A share between 0 and 1, or decibels of added loss [default: the full attack; 3 dB]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number)]
    pub(crate) strength: Option<f64>,
    /// How long she attacks: link time alone, wall time with --on [default: as long as four blocks
    /// fill; 60s with --on]
    #[arg(long = "for", value_name = "TIME", allow_hyphen_values = true,
          value_parser = duration::parse)]
    pub(crate) attack_for: Option<Span>,
    #[command(flatten)]
    pub(crate) played: PlayedLinkArgs,
    /// Replaces the loss of the link, in decibels
    #[arg(long, value_name = "DB", help_heading = "Link", allow_negative_numbers = true,
          value_parser = loss)]
    pub(crate) loss_db: Option<Decibels>,
    /// Attacks the system that runs on this state folder
    #[arg(long, value_name = "DIR", help_heading = "Place",
          conflicts_with_all = ["link", "loss_db", "seed"])]
    pub(crate) on: Option<PathBuf>,
}

/// What to attack with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttackName {
    /// Nothing: show what there is.
    List,
    /// This.
    One(Attack),
}

impl std::str::FromStr for AttackName {
    type Err = claviger_photonics::eve::UnknownAttack;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "list" { Ok(Self::List) } else { text.parse().map(Self::One) }
    }
}

const RESEED_EXAMPLE: &str = "\
The two ends authenticate each other with pads that the link itself puts back. Where many blocks
failed in a row the reserve can run out; then the link stops and says so. Both ends need the same
fresh secret, brought by a way you trust, with both QKD nodes stopped:
  claviger link reseed fresh.secret
  claviger link reseed fresh.secret --config claviger-state/site-a/qkd/config.toml
  claviger link reseed fresh.secret --config claviger-state/site-b/qkd/config.toml
  shred -u fresh.secret";

/// `claviger link reseed`
#[derive(Debug, Args)]
pub(crate) struct ReseedArgs {
    /// The file of the secret: made if no configuration is given, else read
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The configuration of the QKD node that takes the secret
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "must be a number, such as 0.5".to_owned())
}

fn step(text: &str) -> Result<Decibels, String> {
    let fits = |db: &Decibels| (0.01..=60.0).contains(&db.as_db());
    let step = loss(text).ok().filter(fits);
    step.ok_or_else(|| "must be a number of decibels between 0.01 and 60, such as 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn parsed(line: &str) -> Result<LinkCommand, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::Link { command, .. } = cli.command else { panic!("not link: {line}") };
        Ok(command.unwrap())
    }

    #[test]
    fn the_preset_is_called_either_way() {
        for line in ["claviger link run --preset city --for 1m", "claviger link run --link city"] {
            let LinkCommand::Run(args) = parsed(line).unwrap() else { panic!("not run") };
            assert_eq!((args.played.link.as_str(), args.played.seed), ("city", None));
        }
    }

    #[test]
    fn a_list_is_an_attack_on_nobody() {
        for (line, name) in [
            ("claviger link attack", None),
            ("claviger link attack list", Some(AttackName::List)),
            ("claviger link attack blinding", Some(AttackName::One(Attack::Blinding))),
        ] {
            let LinkCommand::Attack(args) = parsed(line).unwrap() else { panic!("not attack") };
            assert_eq!(args.name, name);
        }
    }

    #[test]
    fn wrong_values_are_refused_with_what_would_be_right() {
        for (line, right) in [
            ("link run --for 10", "such as 90s, 5m"),
            ("link run --eve 2", "between 0 and 1"),
            ("link run --loss-db -1", "0 or more"),
            ("link rate --loss-db 20..0", "0..20"),
            ("link rate --loss-db 0-20", "such as 4, or 0..20"),
            ("link rate --step 0", "between 0.01 and 60"),
            ("link rate --blocks -1", "0..=10000"),
            ("link attack pns", "photon-number-splitting, blinding"),
            ("link attack blinding --strength much", "such as 0.5"),
            ("link attack blinding --on x --seed 7", "cannot be used with"),
        ] {
            let error = parsed(&format!("claviger {line}")).unwrap_err();
            assert!(error.contains(right), "{line}: {error}");
        }
    }
}
