//! Durations as people write them: `90s`, `5m`, `2h`, `1500ms`.

use claviger_units::Span;

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    /// The number or the unit is missing or unknown: write both.
    #[error(
        "`{0}` is no duration: write a number and ms, s, m, h or d, such as 90s, 5m, 2h or 1500ms"
    )]
    Malformed(String),
    /// Too short or too long to be meant.
    #[error("`{0}` is out of range: a duration lies between 1ms and 3650d")]
    Range(String),
}

/// Reads a duration.
pub(crate) fn parse(text: &str) -> Result<Span, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let end = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(malformed)?;
    let (number, unit) = text.split_at(end);
    let digits = number.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let number: f64 = number.parse().ok().filter(|_| digits).ok_or_else(malformed)?;
    let secs = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(malformed()),
    };
    let span = Span::from_secs_f64(number * secs);
    let fits = (Span::from_millis(1)..=Span::from_secs(3650 * 86_400)).contains(&span);
    if fits { Ok(span) } else { Err(DurationError::Range(text.to_owned())) }
}

/// Writes a duration in the largest unit that it is a whole number of.
pub(crate) fn in_words(span: Span) -> String {
    const MINUTE: u64 = 60_000_000;
    const UNITS: [(u64, &str); 4] =
        [(60 * MINUTE, "h"), (MINUTE, "min"), (1_000_000, "s"), (1_000, "ms")];
    let micros = span.as_micros();
    // One minute reads better as 60 s.
    let fits =
        |unit| micros >= unit && micros.is_multiple_of(unit) && (micros, unit) != (MINUTE, MINUTE);
    match UNITS.iter().find(|(unit, _)| fits(*unit)) {
        Some((unit, name)) => format!("{} {name}", micros / unit),
        None => format!("{} s", span.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("90s", 90_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("2h", 7_200_000),
            ("1500ms", 1_500),
            ("1.5s", 1_500),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse(text), Ok(Span::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_examples() {
        for text in ["", "90", "s", "-5s", "1e3s", "5 s", "5S", "1h30m", ".s", "1.2.3s"] {
            assert!(matches!(parse(text), Err(DurationError::Malformed(_))), "{text}");
        }
        for text in ["0s", "0.1ms", "99999999h"] {
            assert!(matches!(parse(text), Err(DurationError::Range(_))), "{text}");
        }
        let error = parse("90").unwrap_err().to_string();
        assert!(error.contains("`90`") && error.contains("such as 90s, 5m, 2h"), "{error}");
    }

    #[test]
    fn durations_are_written_in_whole_units() {
        for (millis, words) in [
            (60_000, "60 s"),
            (1_800_000, "30 min"),
            (7_200_000, "2 h"),
            (90_000, "90 s"),
            (1_500, "1500 ms"),
            (1_000, "1 s"),
            (3_600_000, "1 h"),
        ] {
            assert_eq!(in_words(Span::from_millis(millis)), words);
        }
    }
}
