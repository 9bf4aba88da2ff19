//! A figure: its name, which stays for good, its value, and what to compare it with.

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Full,
    Quick,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
}

pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// How it was measured, and what it is to be compared with.
    pub(crate) remarks: Vec<String>,
}

impl Figure {
    pub(crate) fn print(&self, format: Format) {
        let Self { name, value, unit, remarks } = self;
        match format {
            Format::Json => {
                println!(r#"{{"figure": "{name}", "value": {value}, "unit": "{unit}"}}"#);
            }
            Format::Table => {
                let mut remarks = remarks.iter();
                let first = remarks.next().map_or("", String::as_str);
                println!("{name:<22} {value:>10.3} {unit:<7} {first}");
                for remark in remarks {
                    println!("{:<41} {remark}", "");
                }
            }
        }
    }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
