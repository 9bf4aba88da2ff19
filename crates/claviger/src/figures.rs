//! Numbers as people read them.

use claviger_security::EpsilonLedger;
use claviger_units::{Fraction, Span};

/// Writes a number with a space before each three digits, from 10 000 on.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    if number < 10_000 {
        return digits;
    }
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Writes a time as minutes and seconds, with hours where there are any.
pub(crate) fn clock(span: Span) -> String {
    let secs = span.as_micros() / 1_000_000;
    match secs / 3600 {
        0 => format!("{:02}:{:02}", secs / 60, secs % 60),
        hours => format!("{hours}:{:02}:{:02}", secs / 60 % 60, secs % 60),
    }
}

/// Writes the ε of blocks; `of_what` says in words which these are.
pub(crate) fn epsilon(ledger: &EpsilonLedger, of_what: &str) -> String {
    let (sums, blocks) = (ledger.sums(), ledger.blocks());
    let plural = if blocks == 1 { "" } else { "s" };
    let over = format!("{} block{plural}{of_what}", grouped(blocks));
    let (secrecy, others) = (sums.secrecy.as_f64(), sums.others.as_f64());
    if sums.secrecy == Fraction::ZERO {
        return format!(
            "correctness and authentication {others:.1e} summed over {over}; of secrecy this \
             claim states none"
        );
    }
    format!(
        "{:.1e} summed over {over}: secrecy {secrecy:.1e}, correctness and authentication \
         {others:.1e}",
        secrecy + others
    )
}

/// Returns how many of `cells` a fraction fills; what is not nothing fills at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a terminal has few cells"
)]
pub(crate) fn cells(fraction: Fraction, cells: usize) -> usize {
    let filled = (fraction.as_f64() * cells as f64).round() as usize;
    if fraction > Fraction::ZERO { filled.max(1) } else { filled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_from_ten_thousand_on() {
        for (number, text) in
            [(0, "0"), (1893, "1893"), (13_310, "13 310"), (1_000_000, "1 000 000")]
        {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn times_have_hours_only_where_there_are_any() {
        assert_eq!(clock(Span::from_millis(83_900)), "01:23");
        assert_eq!(clock(Span::from_secs(3_723)), "1:02:03");
    }

    #[test]
    fn a_little_is_seen() {
        assert_eq!([0.0, 0.001, 0.5, 1.0].map(|f| cells(Fraction::clamped(f), 10)), [0, 1, 5, 10]);
    }
}
