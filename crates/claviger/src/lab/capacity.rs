//! `claviger lab capacity`: whether a link feeds a fleet, by theory and by a day in virtual time.

use std::process::ExitCode;

use anyhow::Result;
use claviger_lab::capacity::{Answer, Holds, Question};
use claviger_lab::fleet::FleetDay;
use claviger_lab::replay::LinkLedger;
use claviger_units::{Bits, Fraction, Span};

use crate::chosen_link::ChosenLink;
use crate::cli::lab::LabCapacityArgs;
use crate::console;
use crate::duration::in_words;
use crate::figures::grouped;
use crate::progress::Progress;

/// Answers; exit code 0 if the link feeds the fleet, 1 if it does not.
pub(super) fn run(args: &LabCapacityArgs) -> Result<ExitCode> {
    let link = ChosenLink::find(&args.link.link, args.link.loss_db, &std::env::current_dir()?)?;
    let question = Question {
        preset: link.preset,
        devices: args.devices,
        wake: args.wake.unwrap_or(args.renew),
        renew: args.renew,
        max_age: args.fail_closed,
        buffer: Bits::new(args.buffer_bits),
        span: args.length,
    };
    let mut progress = Progress::start();
    let ledger = LinkLedger::record(&question.preset, args.seed, args.blocks, |n| {
        let done = Fraction::of(n as u64, args.blocks as u64);
        progress.tell(done, || format!("{n} of {} blocks distilled", args.blocks));
    })?;
    drop(progress);
    let mut progress = Progress::start();
    let mut tell = |done| {
        let what = || format!("{} devices in virtual time", grouped(args.devices.into()));
        progress.tell(Fraction::clamped(done), what);
    };
    let answer = question.ask(&ledger, args.seed, super::processors(), &mut tell)?;
    drop(progress);
    match args.json {
        true => console::out(json(&question, &answer)),
        false => lines(&question, &answer, args.blocks).into_iter().for_each(console::out),
    }
    Ok(if answer.holds() == Holds::Yes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lines(question: &Question, answer: &Answer, n_blocks: usize) -> Vec<String> {
    let Answer { theory, made, wanted, day, .. } = answer;
    let Question { preset, devices, wake, span, .. } = question;
    let rate = |keys: f64| format!("{keys:.3} keys/s ({:.0} bit/s)", 256.0 * keys);
    let mut lines = vec![
        format!(
            "link      {} with {}, simulated: {} by theory, {} over {n_blocks} distilled blocks",
            preset.name(),
            preset.loss(),
            rate(*theory),
            rate(*made)
        ),
        format!(
            "fleet     {} devices, a reading every {}, a key every {}: {}, {:.1} % of the link",
            grouped((*devices).into()),
            in_words(*wake),
            in_words(question.period()),
            rate(*wanted),
            100.0 * wanted / made
        ),
        format!(
            "{:9} {} wakes for a key in virtual time, {} found none ({:.2} %); the oldest key was {:.1} min old",
            in_words(*span),
            grouped(day.renewals + day.missed),
            grouped(day.missed),
            100.0 * day.missed_share(),
            day.oldest_key.as_secs_f64() / 60.0
        ),
        match day.all_keyed {
            Some(after) => {
                format!("start     all had a first key after {:.1} min", after.as_secs_f64() / 60.0)
            }
            None => "start     some device never had a first key".to_owned(),
        },
    ];
    if day.withheld > 0 {
        lines.push(format!(
            "readings  {} waited for a key that was too old, {} were given up",
            grouped(day.withheld),
            grouped(day.dropped)
        ));
    }
    lines.push(format!("verdict   {}", verdict(question, answer)));
    lines
}

fn verdict(question: &Question, answer: &Answer) -> String {
    let Answer { made, wanted, day, .. } = answer;
    match answer.holds() {
        Holds::Yes => {
            let most = made * question.period().as_secs_f64();
            format!("it holds; about {most:.0} devices would be the most at this period")
        }
        Holds::TooFewKeys => {
            let period = Span::from_secs_f64(f64::from(question.devices) / made);
            format!(
                "too few keys, {:.1} % are missing: renew every {:.1} min or more rarely, or take {:.0} devices or fewer",
                100.0 * (1.0 - made / wanted),
                period.as_secs_f64() / 60.0,
                made * question.period().as_secs_f64()
            )
        }
        Holds::TooSmallBuffer => format!(
            "{} keys were destroyed for want of room while {} wakes found none: take a larger buffer",
            grouped(day.keys_displaced),
            grouped(day.missed)
        ),
        Holds::AskedTooEarly => format!(
            "devices ask every {}, in the wake nearest to a key's end, and the gateway prepares the next one later: let --renew be a whole number of wakes",
            in_words(question.period())
        ),
        Holds::KeysTooOld => format!(
            "every key comes in time, but {} readings waited for a fresher one: let --fail-closed be longer than --renew",
            grouped(day.withheld)
        ),
        Holds::NothingSeen => {
            "nobody asked for a key in this time: look for longer with --for".into()
        }
        Holds::NotYet => {
            "first keys did not come in time: look for longer, or take a faster link".into()
        }
    }
}

fn json(question: &Question, answer: &Answer) -> String {
    let Answer { theory, made, wanted, day, .. } = answer;
    let FleetDay { renewals, missed, keys_made, keys_displaced, withheld, dropped, .. } = day;
    let value = serde_json::json!({
        "link": question.preset.name(),
        "loss_db": question.preset.loss().as_db(),
        "simulated": true,
        "devices": question.devices,
        "renew_s": question.renew.as_secs_f64(),
        "period_s": question.period().as_secs_f64(),
        "wake_s": question.wake.as_secs_f64(),
        "buffer_bits": question.buffer.count(),
        "keys_per_s_theory": theory,
        "keys_per_s_distilled": made,
        "keys_per_s_wanted": wanted,
        "renewals": renewals,
        "missed": missed,
        "missed_share": day.missed_share(),
        "keys_made": keys_made,
        "keys_displaced": keys_displaced,
        "readings_withheld": withheld,
        "readings_dropped": dropped,
        "oldest_key_s": day.oldest_key.as_secs_f64(),
        "all_keyed_s": day.all_keyed.map(Span::as_secs_f64),
        "outcome": answer.holds().words(),
    });
    value.to_string()
}
