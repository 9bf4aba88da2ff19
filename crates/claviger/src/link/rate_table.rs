//! The rate over loss as a table for people, and as CSV.

use claviger_lab::rate::RatePoint;
use claviger_lab::summary::RunSummary;
use claviger_photonics::LinkPreset;
use claviger_units::{BitRate, Span};

use super::lessons::reasons;
use crate::figures::grouped;

/// One loss.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RateRow {
    /// What theory says.
    pub(crate) point: RatePoint,
    /// What the real link has shown.
    pub(crate) run: Option<RunSummary>,
}

/// The names of the columns of [`RateRow::to_csv`].
pub(crate) const CSV_HEADER: &str = "link,claim,loss_db,theory_sifted_bit_s,theory_qber,\
theory_bit_s,simulated_bit_s,margin_95_bit_s,full_blocks,dropped_blocks,measured_qber,measured_f,\
theory_at_measured_f_bit_s,repeaterless_bit_s,seed,simulated";

/// Says what is worked out.
pub(crate) fn heading(name: &str, preset: &LinkPreset, blocks: u16, seed: u64) -> String {
    let theory = format!("{name}: bit/s of key over loss, claim {}", preset.security().claim());
    match blocks {
        0 => format!("{theory}; theory alone"),
        _ => format!(
            "{theory}; simulated: {blocks} full blocks distilled at each loss; --seed {seed} plays \
             it again"
        ),
    }
}

/// Draws the table, with the reason where there is no key.
pub(crate) fn lines(rows: &[RateRow]) -> Vec<String> {
    let head = format!(
        "{:>8}{:>13}{:>9}{:>12}{:>14}{:>9}{:>9}{:>16}",
        "loss", "sifted", "QBER", "theory", "simulated", "± 95 %", "off", "repeaterless"
    );
    let mut lines = vec![head];
    lines.extend(rows.iter().map(ToString::to_string));
    lines.extend(rows.iter().filter_map(RateRow::trouble));
    if let Some(why) = rows.iter().find_map(|row| row.point.key.err()) {
        lines.push(why.to_string());
    }
    lines
}

impl std::fmt::Display for RateRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let none = || "–".to_owned();
        let point = &self.point;
        let estimate = self.run.as_ref().and_then(|run| run.rate);
        let theory = point.key.map_or_else(|_| "no key".to_owned(), whole);
        let simulated = estimate.map_or_else(none, |estimate| whole(estimate.rate));
        let margin = estimate.and_then(|estimate| estimate.margin).map_or_else(none, whole);
        let off = estimate.zip(point.key.ok()).map_or_else(none, |(estimate, theory)| {
            format!("{:+.1} %", 100.0 * (estimate.rate.as_bps() / theory.as_bps() - 1.0))
        });
        let bound =
            if point.bound.as_bps().is_finite() { whole(point.bound) } else { "none".into() };
        let (loss, sifted, qber) =
            (point.loss.to_string(), whole(point.sifted), point.qber.to_string());
        write!(
            f,
            "{loss:>8}{sifted:>13}{qber:>9}{theory:>12}{simulated:>14}{margin:>9}{off:>9}{bound:>16}"
        )
    }
}

impl RateRow {
    /// Says why a link that was played shows no rate, though theory has one.
    fn trouble(&self) -> Option<String> {
        let run = self.run.as_ref().filter(|run| run.rate.is_none() && run.n_dropped() > 0)?;
        let loss = self.point.loss;
        Some(format!("at {loss} no full block was kept: {}", reasons(&run.dropped)))
    }

    /// Returns the row as one line of CSV; what was not measured is empty.
    pub(crate) fn to_csv(&self, preset: &LinkPreset, seed: u64) -> String {
        let Self { point, run } = self;
        let estimate = run.as_ref().and_then(|run| run.rate);
        let number = |value: Option<f64>| value.map(|n| format!("{n:.3}")).unwrap_or_default();
        let measured = |value: Option<f64>| value.map(|n| format!("{n:.6}")).unwrap_or_default();
        let bps = |rate: Option<BitRate>| number(rate.map(BitRate::as_bps));
        let count = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        let qber = run.as_ref().and_then(|run| run.qber);
        let f = run.as_ref().and_then(|run| run.efficiency);
        [
            preset.name().replace([',', '\n', '"'], " "),
            preset.security().claim().to_string(),
            point.loss.as_db().to_string(),
            bps(Some(point.sifted)),
            measured(Some(point.qber.as_f64())),
            bps(point.key.ok()),
            bps(estimate.map(|estimate| estimate.rate)),
            bps(estimate.and_then(|estimate| estimate.margin)),
            count(estimate.map(|estimate| estimate.blocks)),
            count(run.as_ref().map(RunSummary::n_dropped)),
            measured(qber.map(claviger_units::Fraction::as_f64)),
            number(f.map(claviger_security::entropy::Efficiency::ratio)),
            bps(run.as_ref().filter(|run| run.efficiency.is_some()).map(|run| run.theory)),
            bps(Some(point.bound)),
            seed.to_string(),
            "true".to_owned(),
        ]
        .join(",")
    }
}

/// Whole bits in a second, in groups of three digits.
fn whole(rate: BitRate) -> String {
    grouped((BitRate::from_bps(rate.as_bps() + 0.5) * Span::from_secs(1)).count())
}

#[cfg(test)]
mod tests {
    use claviger_distill::Outcome;
    use claviger_units::Decibels;
    use claviger_wire::classical::DropReason;

    use super::*;
    use crate::up::tally::tests::ledger;

    fn row(db: f64) -> RateRow {
        let preset = LinkPreset::named("lab").unwrap();
        RateRow { point: RatePoint::of(&preset, Decibels::from_db(db).unwrap()), run: None }
    }

    #[test]
    fn theory_alone_is_a_table_with_the_reason_where_there_is_no_key() {
        let lines = lines(&[row(0.0), row(4.0), row(30.0)]);
        assert_eq!(
            lines[..3],
            [
                "    loss       sifted     QBER      theory     simulated   ± 95 %      off    repeaterless",
                "    0 dB         5867   1.48 %        2963             –        –        –            none",
                "    4 dB         5355   1.50 %        1893             –        –        –       2 633 287",
            ]
        );
        assert!(lines[3].starts_with("   30 dB") && lines[3].contains("no key"), "{lines:?}");
        assert!(lines[4].starts_with("no key comes of a link with 30 dB"), "{lines:?}");
    }

    #[test]
    fn a_loss_at_which_every_block_was_dropped_says_why() {
        let preset = LinkPreset::named("lab").unwrap();
        let dropped = ledger(1, Outcome::Dropped(DropReason::Acceptance));
        let run = Some(RunSummary::of(&preset, &[dropped.clone(), dropped]));
        let told = RateRow { run, ..row(4.0) }.trouble().unwrap();
        assert!(told.starts_with("at 4 dB no full block was kept: 2 × "), "{told}");
        assert_eq!(row(4.0).trouble(), None);
    }

    #[test]
    fn a_row_has_a_field_for_every_column() {
        let preset = LinkPreset::named("lab").unwrap();
        let line = row(4.0).to_csv(&preset, 7);
        assert_eq!(line.split(',').count(), CSV_HEADER.split(',').count());
        assert!(
            line.starts_with("lab,era-heuristic,4,5354.") && line.ends_with(",7,true"),
            "{line}"
        );
        assert!(row(0.0).to_csv(&preset, 7).contains(",inf,"), "no bound without loss");
    }
}
