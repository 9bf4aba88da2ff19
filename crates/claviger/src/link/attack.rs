//! `claviger link attack`: what an attack does to a link, alone or on a system that runs.

use anyhow::Result;
use claviger_lab::attack::{AttackFigure, Verdict, judge, measure};
use claviger_lab::rate::filling_time;
use claviger_photonics::{Attack, Eve};
use claviger_units::Span;

use super::lessons::{self, Blocks};
use super::{background, live_attack};
use crate::chosen_link::ChosenLink;
use crate::cli::link::{AttackName, LinkAttackArgs};
use crate::console;
use crate::up::capacity::Capacity;

/// Lists the attacks, or plays one.
pub(crate) async fn run(args: &LinkAttackArgs) -> Result<()> {
    let attack = match args.name {
        None | Some(AttackName::List) => {
            catalogue().iter().for_each(console::out);
            return Ok(());
        }
        Some(AttackName::One(attack)) => attack,
    };
    let strength = args.strength.unwrap_or(attack.full());
    let checked = attack.strength(strength)?;
    if let Some(folder) = &args.on {
        let length = args.attack_for.unwrap_or(Span::from_secs(60));
        return live_attack::run(folder, attack, strength, length).await;
    }
    let link = ChosenLink::find(&args.played.link, args.loss_db, &std::env::current_dir()?)?;
    // In peace the link must give key, or nothing can be told.
    Capacity::of(&link.preset, 1.0)?;
    let eve = Eve::ABSENT.with(attack, checked);
    alone(attack, strength, &eve, &link, args)
}

fn catalogue() -> Vec<String> {
    let mut lines = Vec::new();
    for attack in Attack::ALL {
        lines.push(attack.to_string());
        lines.push(lessons::broken(&format!("    {}", lessons::what(attack)), 4));
        lines.push(lessons::broken(&format!("    remedy: {}", lessons::remedy(attack)), 12));
    }
    lines
        .push("try one with `claviger link attack NAME`; see `claviger link attack --help`".into());
    lines
}

/// Clicks that the figures are counted from: enough to see an error of half a percent.
const CLICKS: u32 = 200_000;
/// Over how many full blocks a link is attacked where nobody says for how long.
const BLOCKS: f64 = 4.0;

fn alone(
    attack: Attack,
    strength: f64,
    eve: &Eve,
    link: &ChosenLink,
    args: &LinkAttackArgs,
) -> Result<()> {
    let seed = background::seed_or_fresh(args.played.seed);
    console::out(format_args!(
        "{attack} {strength} on {} (simulated); --seed {seed} plays it again",
        link.in_words()
    ));
    console::out(lessons::broken(lessons::what(attack), 0));
    console::out("");
    let figures = measure(&link.preset, eve, CLICKS, seed)?;
    table(&figures).iter().for_each(console::out);
    let fills = filling_time(&link.preset).as_secs_f64();
    let attacked = args.attack_for.unwrap_or(Span::from_secs_f64(BLOCKS * fills));
    console::err(format_args!(
        "the real link runs in peace, for {attacked} of link time under attack, and in peace again"
    ));
    let Verdict { kept, dropped, after } = judge(&link.preset, eve, attacked, seed)?;
    console::out("");
    let blocks = Blocks { kept, dropped };
    lessons::tell(&lessons::verdict(attack, &link.preset, &blocks, &figures));
    console::out(match after {
        0 => "after     no key yet in the blocks that followed: the link has not recovered",
        _ => "after     the attack was over, and the link gave keys again by itself",
    });
    Ok(())
}

fn table(figures: &[AttackFigure]) -> Vec<String> {
    let head = format!("{:<32}{:>14}{:>14}{:>8}", "figure", "predicted", "measured", "σ");
    let row = |figure: &AttackFigure| {
        let with_unit = |value: f64| match figure.unit {
            "%" => format!("{value:.3} %"),
            unit => format!("{value:.0} {unit}"),
        };
        format!(
            "{:<32}{:>14}{:>14}{:>8.1}",
            figure.name,
            with_unit(figure.predicted),
            with_unit(figure.measured),
            figure.sigma
        )
    };
    std::iter::once(head).chain(figures.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_has_every_attack_with_its_remedy() {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = words(&catalogue().join("\n"));
        for attack in Attack::ALL {
            assert!(text.contains(attack.name()) && text.contains(&words(lessons::remedy(attack))));
        }
    }

    #[test]
    fn figures_stand_in_columns() {
        let figure = |name, unit| AttackFigure {
            name,
            predicted: 33.333,
            measured: 33.4,
            unit,
            sigma: 0.25,
        };
        assert_eq!(
            table(&[figure("QBER", "%"), figure("clicks", "1/s")]),
            [
                "figure                               predicted      measured       σ",
                "QBER                                  33.333 %      33.400 %     0.2",
                "clicks                                  33 1/s        33 1/s     0.2",
            ]
        );
    }
}
