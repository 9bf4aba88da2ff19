//! Measures the link: `bench link [--quick] [--json]`.
//!
//! Every figure keeps its name for good. With `--json` one object a line, else a table with the
//! bars of the project beside it.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]
#![expect(clippy::cast_precision_loss, reason = "counts of bits stay far below 2^53")]

mod amplification;
mod cascade;
mod figure;
mod light;
mod link;

use anyhow::{Result, bail, ensure};

use crate::figure::{Format, Length};

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (mut area, mut length, mut format) = (None, Length::Full, Format::Table);
    for argument in &arguments {
        match argument.as_str() {
            "--quick" => length = Length::Quick,
            "--json" => format = Format::Json,
            "link" if area.is_none() => area = Some(()),
            other => bail!("bench knows `link`, --quick and --json, not `{other}`"),
        }
    }
    ensure!(area.is_some(), "name what to measure: bench link [--quick] [--json]");
    if format == Format::Table {
        println!("{:<22} {:>10} {:<7} remarks", "figure", "value", "unit");
    }
    let measures = [
        link::rates,
        light::speed,
        light::attacks,
        cascade::efficiencies,
        cascade::speeds,
        amplification::speeds,
        link::lab_day,
    ];
    for measure in measures {
        measure(length)?.iter().for_each(|figure| figure.print(format));
    }
    Ok(())
}

/// Every figure is drawn from this seed.
const SEED: u64 = 1;
