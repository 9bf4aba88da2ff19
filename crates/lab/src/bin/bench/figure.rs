//! A figure: its name, which stays for good, its value, and what to compare it with.

use rustix::time::{ClockId, clock_gettime};

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

/// Returns the processor time that the work takes this thread: what else runs does not count.
pub(crate) fn processor_seconds(work: impl FnOnce()) -> f64 {
    let begun = processor_time();
    work();
    (processor_time() - begun) as f64 / 1e9
}

/// Returns the processor time of this thread, in nanoseconds: others here do not count.
pub(crate) fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (s, ns) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    s.unwrap_or(0) * 1_000_000_000 + ns.unwrap_or(0)
}
