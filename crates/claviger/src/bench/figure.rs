//! A figure, and what it should be.

/// A figure that was measured.
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) bar: Bar,
    pub(super) unit: &'static str,
}

/// What a figure should be.
pub(super) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// There is nothing that it has to be.
    Shown,
}

impl Figure {
    /// Writes it as one line.
    pub(super) fn line(&self, json: bool) -> String {
        let Self { name, value, ref bar, unit } = *self;
        if json {
            return format!(r#"{{"figure": "{name}", "value": {value}, "unit": "{unit}"}}"#);
        }
        let (words, is_met) = match *bar {
            Bar::AtLeast(bar) => (format!("at least {bar}"), value >= bar),
            Bar::AtMost(bar) => (format!("at most {bar}"), value <= bar),
            Bar::Shown => (String::new(), true),
        };
        let verdict = if is_met { "" } else { "  MISSED" };
        format!("{name:24} {value:12.3} {unit:3}  {words}{verdict}").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bar_is_told() {
        let line = |value, bar| Figure { name: "x", value, bar, unit: "s" }.line(false);
        for (value, bar, is_missed) in [
            (1.0, Bar::AtLeast(2.0), true),
            (1.0, Bar::AtMost(2.0), false),
            (1.0, Bar::Shown, false),
        ] {
            let line = line(value, bar);
            assert_eq!(line.ends_with("MISSED"), is_missed, "{line}");
        }
        let json = Figure { name: "x", value: 1.5, bar: Bar::Shown, unit: "s" }.line(true);
        assert_eq!(json, r#"{"figure": "x", "value": 1.5, "unit": "s"}"#);
    }
}
