//! `claviger bench lab`: how long days of fleets and all figures take, and whether they repeat.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use claviger_device::Profile;
use claviger_fleet::Sharing;
use claviger_lab::fleet::{FleetConfig, Frames, run as run_fleet};
use claviger_lab::live::Compared;
use claviger_lab::replay::LinkLedger;
use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Span};

use super::figure::{Bar, Figure};
use crate::cli::bench::BenchArgs;
use crate::cli::lab::LabLiveArgs;
use crate::console;
use crate::lab::live::{MOST_OFF, both, worst};
use crate::lab::net::check_needs;
use crate::lab::processors;

/// Measures and prints.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let tell = |figure: &Figure| console::out(figure.line(args.json));
    for fleet in FLEETS.iter().filter(|fleet| !args.quick || fleet.frames == Frames::All) {
        fleet.measure()?.iter().for_each(tell);
    }
    let folder = std::env::temp_dir().join(format!("claviger-bench-lab-{}", std::process::id()));
    let measured = all_figures(args, &folder);
    drop(std::fs::remove_dir_all(&folder));
    measured?.iter().for_each(tell);
    if let Err(error) = check_needs() {
        let names = "lab_live_vs_virtual_pct and lab_fig2c_live_s are not measured";
        console::err(format_args!("{names}: {error:#}"));
        return Ok(());
    }
    let length = Span::from_secs(if args.quick { 180 } else { 600 });
    let compared = both(&LabLiveArgs { length, seed: 1, config: None, json: true })?;
    for Compared { name, live, foretold } in &compared {
        console::err(format_args!("{name}: live {live:.1}, virtual {foretold:.1}"));
    }
    let (value, bar) = (worst(&compared), Bar::AtMost(MOST_OFF));
    tell(&Figure { name: "lab_live_vs_virtual_pct", value, bar, unit: "%" });
    if !args.quick {
        // Last, as it needs Mininet, which nothing else here does.
        let begun = Instant::now();
        make_live(&folder)?;
        let value = begun.elapsed().as_secs_f64();
        tell(&Figure { name: "lab_fig2c_live_s", value, bar: Bar::Shown, unit: "s" });
    }
    Ok(())
}

/// A fleet whose day is timed.
struct Fleet {
    link: &'static str,
    n_devices: u32,
    buffer: Bits,
    frames: Frames,
    seconds: &'static str,
    most_s: f64,
    gigabytes: Option<&'static str>,
}

const FLEETS: [Fleet; 3] = [
    Fleet {
        link: "lab",
        n_devices: 9_000,
        buffer: Bits::new(1_000_000),
        frames: Frames::All,
        seconds: "lab_9000x24h_s",
        most_s: 60.0,
        gigabytes: None,
    },
    Fleet {
        link: "decoy-1ghz",
        n_devices: 100_000,
        buffer: Bits::new(16_000_000),
        frames: Frames::All,
        seconds: "lab_1e5x24h_s",
        most_s: 60.0,
        gigabytes: None,
    },
    Fleet {
        link: "decoy-1ghz",
        n_devices: 1_000_000,
        buffer: Bits::new(16_000_000),
        frames: Frames::Keys,
        seconds: "lab_1e6x24h_s",
        most_s: 600.0,
        gigabytes: Some("lab_1e6x24h_gb"),
    },
];

/// The day begins once everybody has had a first key; those hours are timed as well.
const SETTLE: Span = Span::from_secs(3600);
const DAY: Span = Span::from_secs(86_400);
const LINK_BLOCKS: usize = 10;

impl Fleet {
    /// A renewal every half hour, a reading every five minutes.
    fn measure(&self) -> Result<Vec<Figure>> {
        let preset = LinkPreset::named(self.link)?;
        let link = LinkLedger::record(&preset, 1, LINK_BLOCKS, |_| {})?;
        let profile = Profile {
            renew_period: Span::from_secs(1800),
            ..Profile::waking_every(Span::from_secs(300))
        };
        let begun = Instant::now();
        let day = run_fleet(
            &link,
            &FleetConfig {
                n_devices: self.n_devices,
                profile,
                sharing: Sharing::default(),
                capacity: self.buffer,
                hop: Span::from_millis(5),
                settle: SETTLE,
                span: DAY,
                frames: self.frames,
                seed: 1,
                threads: processors(),
            },
        )?;
        let took = begun.elapsed();
        console::err(format_args!(
            "{} devices on {} (simulated): {} renewals, {} wakes in vain, {} readings, {} key frames and {} readings sealed and opened",
            self.n_devices,
            self.link,
            day.renewals,
            day.missed,
            day.readings,
            day.sealed.key_frames,
            day.sealed.telemetry_frames
        ));
        let wanted = 48 * u64::from(self.n_devices);
        ensure!(day.renewals == wanted, "{} of {wanted} renewals: not the day meant", day.renewals);
        let mut figures = vec![Figure {
            name: self.seconds,
            value: took.as_secs_f64(),
            bar: Bar::AtMost(self.most_s),
            unit: "s",
        }];
        if let Some(name) = self.gigabytes {
            figures.push(Figure { name, value: most_memory()?, bar: Bar::AtMost(4.0), unit: "GB" });
        }
        Ok(figures)
    }
}

/// Returns the most memory that this process has had, in 10⁹ bytes.
fn most_memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading own memory")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse().ok());
    let kib: f64 = kib.context("the system does not tell the memory of a process")?;
    Ok(kib * 1024.0 / 1e9)
}

fn all_figures(args: &BenchArgs, folder: &Path) -> Result<Vec<Figure>> {
    let two = make_all(&folder.join("two"), 2, Extent::Quick)?;
    let one = make_all(&folder.join("elsewhere/one"), 1, Extent::Quick)?;
    console::err(format_args!("all figures, quick, on one thread: {:.1} s", one.as_secs_f64()));
    let same = are_equal(&folder.join("two"), &folder.join("elsewhere/one"))?;
    let mut figures = vec![
        Figure {
            name: "lab_all_quick_s",
            value: two.as_secs_f64(),
            bar: Bar::AtMost(180.0),
            unit: "s",
        },
        Figure {
            name: "lab_same_seed_same_bytes",
            value: f64::from(u8::from(same)),
            bar: Bar::AtLeast(1.0),
            unit: "",
        },
    ];
    if !args.quick {
        let whole = make_all(&folder.join("whole"), 2, Extent::Whole)?;
        let (value, bar) = (whole.as_secs_f64(), Bar::AtMost(1800.0));
        figures.push(Figure { name: "lab_all_s", value, bar, unit: "s" });
    }
    Ok(figures)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Quick,
    Whole,
}

/// Runs `claviger lab all` as a user does, with no ledger to begin with.
fn make_all(out: &Path, threads: u32, extent: Extent) -> Result<Duration> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = Command::new(program);
    // The live part takes the time that its configuration says: it is timed by itself.
    command.args(["lab", "all", "--live", "never", "--threads", &threads.to_string()]);
    command.arg("--out").arg(out);
    if extent == Extent::Quick {
        command.arg("--quick");
    }
    let begun = Instant::now();
    let status = command.stdout(Stdio::null()).status().context("starting `claviger lab all`")?;
    // 2: a figure that must be captured here could not be.
    ensure!(matches!(status.code(), Some(0 | 2)), "`claviger lab all` failed");
    Ok(begun.elapsed())
}

/// Runs `claviger lab fig2c` with its live part as a user does.
fn make_live(out: &Path) -> Result<()> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = Command::new(program);
    command.args(["lab", "fig2c", "--live", "always", "--out"]).arg(out).stdout(Stdio::null());
    let status = command.status().context("starting `claviger lab fig2c`")?;
    drop(std::fs::remove_dir_all(out));
    ensure!(status.success(), "`claviger lab fig2c --live always` failed");
    Ok(())
}

/// Tells whether two folders hold the same sheets, byte for byte, and at least one.
fn are_equal(one: &Path, other: &Path) -> Result<bool> {
    let mut n_sheets = 0;
    for entry in std::fs::read_dir(one).context("reading the figures")? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "csv") {
            n_sheets += 1;
            let name = path.file_name().context("a file has a name")?;
            if std::fs::read(&path)? != std::fs::read(other.join(name))? {
                console::err(format_args!("{} differs", name.to_string_lossy()));
                return Ok(false);
            }
        }
    }
    Ok(n_sheets > 0)
}
