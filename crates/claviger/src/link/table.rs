//! Blocks as a table for people, from a ledger or from a line of its CSV.

use std::collections::BTreeMap;

use claviger_distill::{BlockLedger, Outcome};
use claviger_units::{BitRate, Bits, Fraction, Span};

use crate::figures::grouped;

/// The heads of the columns.
pub(crate) const HEADER: &str =
    " block  link time   sifted     QBER      f   keys  rate (simulated)  outcome";

/// One block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BlockLine {
    block: u64,
    end: Span,
    sifted: u64,
    qber: Fraction,
    efficiency: Option<f64>,
    keys: u64,
    /// Of key, of a block that was kept.
    rate: Option<BitRate>,
    /// `kept`, or why it was dropped.
    pub(crate) outcome: String,
}

impl From<&BlockLedger> for BlockLine {
    fn from(ledger: &BlockLedger) -> Self {
        let secret = u64::from(ledger.secret.saturating_sub(ledger.reserve));
        let time = ledger.end.as_micros().saturating_sub(ledger.begin.as_micros());
        let rate = Bits::new(secret) / Span::from_micros(time);
        Self {
            block: ledger.block,
            end: ledger.end,
            sifted: ledger.sifted.into(),
            qber: ledger.qber(),
            efficiency: ledger.efficiency(),
            keys: ledger.keys.into(),
            rate: (ledger.outcome == Outcome::Kept).then_some(rate),
            outcome: ledger.outcome.to_string(),
        }
    }
}

impl BlockLine {
    /// Reads a line of CSV, column by name; `None` of what is no whole line of a ledger.
    pub(crate) fn from_csv(header: &str, line: &str) -> Option<Self> {
        let row: BTreeMap<&str, &str> = header.split(',').zip(line.split(',')).collect();
        let text = |name| row.get(name).copied();
        let number = |name| text(name)?.parse::<f64>().ok();
        let count = |name| text(name)?.parse::<u64>().ok();
        let secret = count("secret")?.saturating_sub(count("reserve")?);
        let rate = Bits::new(secret) / Span::from_secs_f64(number("end_s")? - number("begin_s")?);
        let outcome = text("outcome")?.to_owned();
        Some(Self {
            block: count("block")?,
            end: Span::from_secs_f64(number("end_s")?),
            sifted: count("sifted")?,
            qber: Fraction::clamped(number("qber")?),
            efficiency: number("f"),
            keys: count("keys")?,
            rate: (outcome == "kept").then_some(rate),
            outcome,
        })
    }

    /// Tells whether the block gave keys.
    pub(crate) const fn is_kept(&self) -> bool {
        self.rate.is_some()
    }
}

impl std::fmt::Display for BlockLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let none = || "–".to_owned();
        let efficiency = self.efficiency.map_or_else(none, |ratio| format!("{ratio:.3}"));
        let rate = self.rate.map_or_else(none, |rate| rate.to_string());
        write!(
            f,
            "{:6} {:8.2} s {:>8} {:>8} {efficiency:>6} {:>6}  {rate:>16}  {}",
            self.block,
            self.end.as_secs_f64(),
            grouped(self.sifted),
            self.qber.to_string(),
            grouped(self.keys),
            self.outcome,
        )
    }
}

#[cfg(test)]
mod tests {
    use claviger_wire::classical::DropReason;

    use super::*;
    use crate::up::tally::tests::ledger;

    #[test]
    fn a_kept_block_and_a_dropped_one() {
        let kept = BlockLine::from(&ledger(1, Outcome::Kept));
        let dropped = ledger(2, Outcome::Dropped(DropReason::SampledQber));
        let dropped = BlockLine::from(&BlockLedger {
            leaked: 0,
            sampled: 80,
            sample_errors: 20,
            keys: 0,
            ..dropped
        });
        assert_eq!(
            [HEADER, &kept.to_string(), &dropped.to_string()],
            [
                " block  link time   sifted     QBER      f   keys  rate (simulated)  outcome",
                "     1     8.00 s   20 000   1.50 %  1.157     29        1886 bit/s  kept",
                "     2    12.00 s   20 000  25.00 %      –      0                 –  dropped: sampled error rate above the threshold",
            ]
        );
    }

    #[test]
    fn a_line_of_csv_tells_the_same() {
        let ledger = ledger(1, Outcome::Kept);
        let line = BlockLine::from_csv(BlockLedger::CSV_HEADER, &ledger.to_csv()).unwrap();
        assert_eq!(line.to_string(), BlockLine::from(&ledger).to_string());
        assert!(line.is_kept());
        assert_eq!(BlockLine::from_csv(BlockLedger::CSV_HEADER, "1,2,3"), None);
    }
}
