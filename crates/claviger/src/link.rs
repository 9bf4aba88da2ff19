//! `claviger link`: what theory expects of a link, and what the link of a state folder has done.

pub(crate) mod attack;
mod background;
mod block_files;
mod chart;
mod lessons;
pub(crate) mod live_attack;
pub(crate) mod loss_range;
pub(crate) mod rate;
mod rate_table;
pub(crate) mod run;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use claviger_photonics::theory;
use claviger_roles::config::RawFibre;
use claviger_roles::init::Layout;
use claviger_units::{Bits, Decibels, Fraction, Span};

use crate::chosen_link::ChosenLink;
use crate::cli::link::LinkStatusArgs;
use crate::up::capacity::Capacity;
use crate::up::ledger_file;
use crate::up::run_file::RunFile;
use crate::{console, lock};

/// Prints theory, then history.
pub(crate) fn show(args: &LinkStatusArgs) -> Result<()> {
    let folder = &args.state.state;
    let own = own_link(folder)?.filter(|_| args.link.is_none());
    let link = match &own {
        Some(own) => configured(folder, own, args.loss_db)?,
        None => {
            let name = args.link.as_deref().unwrap_or("lab");
            ChosenLink::find(name, args.loss_db, &std::env::current_dir()?)?
        }
    };
    theory_lines(&link)?.iter().for_each(console::out);
    if let Some(own) = own {
        history(folder, &own)?.iter().for_each(console::out);
    }
    Ok(())
}

/// Finds the link that a state folder was configured for.
fn link_of(folder: &Path) -> Result<ChosenLink> {
    let own = own_link(folder)?.context("the state folder is incomplete")?;
    configured(folder, &own, None)
}

fn configured(folder: &Path, own: &RawFibre, loss: Option<Decibels>) -> Result<ChosenLink> {
    let own_loss = own.link.loss_db.map(Decibels::from_db).transpose()?;
    let fibre = Layout::below(folder).folder("fibre");
    ChosenLink::find(&own.link.preset, loss.or(own_loss), &fibre)
}

/// Returns what the fibre of a state folder was told.
fn own_link(folder: &Path) -> Result<Option<RawFibre>> {
    let layout = Layout::below(folder);
    if !layout.is_complete()? {
        return Ok(None);
    }
    let path = layout.config("fibre");
    let text =
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    toml::from_str(&text).map(Some).with_context(|| format!("{} is not understood", path.display()))
}

fn theory_lines(link: &ChosenLink) -> Result<Vec<String>> {
    let preset = &link.preset;
    let expected = theory::expected(preset);
    let rate = Capacity::of(preset, 1.0)?.rate();
    // After all that a block pays, so that the figures of the line agree.
    let yielded = Fraction::clamped(rate.as_bps() / expected.sifted.as_bps());
    let full = Span::from_secs_f64(1_000_000.0 / rate.as_bps());
    Ok(vec![
        format!("link      {} (simulated)", link.in_words()),
        format!(
            "theory    {rate} of key, which is {yielded} of {} of sifted bits; QBER {}, dropped above {}",
            expected.sifted,
            expected.qber,
            preset.abort_qber()
        ),
        format!(
            "          {:.2} photons a pulse; a buffer of 1 Mbit fills in {full}",
            expected.mean_photon_number
        ),
    ])
}

fn history(folder: &Path, own: &RawFibre) -> Result<Vec<String>> {
    let run = RunFile::load(folder)?.filter(|_| lock::is_held(folder));
    let mut lines = vec![match run {
        Some(run) => format!("running   process {}, {} devices", run.pid, run.devices),
        None => "running   not by `claviger up`".to_owned(),
    }];
    if own.link.seed.is_some() {
        lines.push("seeded    reproducible, never to be used".to_owned());
    }
    if let Ok(text) = fs::read_to_string(folder.join(ledger_file::NAME)) {
        lines.extend(ledger_lines(&text));
    }
    Ok(lines)
}

/// Sums up the ledger, column by name.
fn ledger_lines(text: &str) -> Vec<String> {
    let mut rows = text.lines();
    let header: Vec<&str> = rows.next().unwrap_or_default().split(',').collect();
    let rows: Vec<BTreeMap<&str, &str>> =
        rows.map(|row| header.iter().copied().zip(row.split(',')).collect()).collect();
    let Some(newest) = rows.last() else { return vec!["blocks    none yet".to_owned()] };
    let kept: Vec<_> = rows.iter().filter(|row| row.get("outcome") == Some(&"kept")).collect();
    let sum = |name| kept.iter().map(|row| number(row, name)).sum::<f64>();
    let secret = Bits::new(whole(sum("secret") - sum("reserve")));
    let rate = secret / Span::from_secs_f64(sum("end_s") - sum("begin_s"));
    let qber = Fraction::of(whole(sum("errors")), whole(sum("sifted")));
    let text = |name| newest.get(name).copied().unwrap_or("?");
    vec![
        format!(
            "blocks    {} kept, {} dropped: {} keys, {rate} of key (simulated), QBER {qber}",
            kept.len(),
            rows.len() - kept.len(),
            whole(sum("keys")),
        ),
        format!(
            "newest    block {} at {} s of link time: {}, {} keys, QBER {:.2} %",
            text("block"),
            text("end_s"),
            text("outcome"),
            text("keys"),
            100.0 * number(newest, "qber"),
        ),
    ]
}

fn number(row: &BTreeMap<&str, &str>, name: &str) -> f64 {
    row.get(name).and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sums of whole numbers; the cast saturates"
)]
fn whole(sum: f64) -> u64 {
    sum.round() as u64
}

#[cfg(test)]
mod tests {
    use claviger_distill::{BlockLedger, Outcome};
    use claviger_wire::classical::DropReason;

    use super::*;
    use crate::up::tally::tests::ledger;

    #[test]
    fn theory_is_told_in_numbers() {
        let lab = ChosenLink::find("lab", None, Path::new("/")).unwrap();
        let lines = theory_lines(&lab).unwrap();
        assert_eq!(lines[0], "link      lab, 4 dB (simulated)");
        assert_eq!(
            lines[1],
            "theory    1893 bit/s of key, which is 35.35 % of 5355 bit/s of sifted bits; QBER 1.50 %, dropped above 8.00 %"
        );
    }

    #[test]
    fn the_ledger_is_summed_up() {
        let dropped = ledger(2, Outcome::Dropped(DropReason::SampledQber));
        let dropped = BlockLedger { leaked: 0, sampled: 16, sample_errors: 5, keys: 0, ..dropped };
        let rows = [ledger(1, Outcome::Kept), dropped].map(|block| block.to_csv()).join("\n");
        let text = format!("{}\n{rows}\n", BlockLedger::CSV_HEADER);
        assert_eq!(
            ledger_lines(&text),
            [
                "blocks    1 kept, 1 dropped: 29 keys, 1886 bit/s of key (simulated), QBER 1.50 %",
                "newest    block 2 at 12.000 s of link time: dropped: sampled error rate above the threshold, 0 keys, QBER 31.25 %",
            ]
        );
        assert_eq!(ledger_lines(BlockLedger::CSV_HEADER), ["blocks    none yet"]);
    }
}
