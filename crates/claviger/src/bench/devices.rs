//! `claviger bench devices`: what a key takes on its way to a device, counted on live connections; and a
//! live fleet.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use claviger_energy::{Cost, Day, Profile, RadioInCrypto, Schedule};
use claviger_net::dkg::{self, Party};
use claviger_net::meter::Meter;
use claviger_net::pki::Authority;
use claviger_net::tls;
use claviger_roles::Folder;
use claviger_roles::init::{Layout, Ports};
use claviger_units::Span;
use serde_json::Value;
use tokio::process::Command;

use super::figure::{Bar, Figure};
use super::virtual_fleet::{FED, SHORT};
use super::{live, virtual_fleet};
use crate::cli::bench::BenchArgs;
use crate::console;

/// Measures and prints.
pub(crate) async fn run(args: &BenchArgs) -> Result<()> {
    let mut figures = Vec::new();
    figures.extend(paths().await?);
    let unsigned = (Party::unsigned(), Party::unsigned());
    let signing = (Party::signing()?, Party::signing()?);
    for (bytes, operations, (device, gateway)) in [
        ("dev_bytes_dkg", "dev_pk_ops_dkg", unsigned),
        ("dev_bytes_dkg_auth", "dev_pk_ops_dkg_auth", signing),
    ] {
        let (traffic, work) = dkg::measure(device, gateway).await?;
        figures.push(shown(bytes, as_f64(traffic.bytes()), "B"));
        figures.push(shown(operations, work.total().into(), ""));
    }
    let value = model_error_pct()?;
    let bar = Bar::AtMost(0.1);
    figures.push(Figure { name: "dev_model_error_pct", value, bar, unit: "%" });
    if !args.quick {
        figures.extend(paper_fleets().await?);
    }
    let length = Duration::from_secs(if args.quick { 180 } else { 1800 });
    let live = live::measure(DEVICES, length).await?;
    console::err(format_args!("{} wakes of {DEVICES} devices in {length:?}", live.wakes));
    for (name, value, most, unit) in [
        ("dev_live_missed", as_f64(live.missed), 0.0, ""),
        ("dev_live_p99_ms", live.p99_ms, 1000.0, "ms"),
        ("dev_storm_s", live.storm_s, 60.0, "s"),
        ("gateway_rss_mb", live.gateway_mb, 300.0, "MB"),
    ] {
        figures.push(Figure { name, value, bar: Bar::AtMost(most), unit });
    }
    figures.iter().for_each(|figure| console::out(figure.line(args.json)));
    Ok(())
}

/// Runs the paper's fleet, and one too large for its link, in virtual time; takes long.
async fn paper_fleets() -> Result<[Figure; 2]> {
    let fed = tokio::task::spawn_blocking(|| virtual_fleet::measure(8_500, FED)).await??;
    let short = tokio::task::spawn_blocking(|| virtual_fleet::measure(15_000, SHORT)).await??;
    let off = (short.missed_pct - short.expected_pct).abs();
    let most = Bar::AtMost;
    Ok([
        Figure { name: "dev_paper_fleet_missed", value: fed.missed, bar: most(0.0), unit: "" },
        Figure { name: "dev_paper_overload_pct", value: off, bar: most(1.0), unit: "pp" },
    ])
}

const fn shown(name: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { name, value, bar: Bar::Shown, unit }
}

/// One path of keys, under the names of its figures: the handshake where there is one with what it should
/// take, all bytes, operations with public keys and how many of those there may be.
struct Counted {
    path: &'static str,
    handshake: Option<(&'static str, f64)>,
    bytes: &'static str,
    operations: (&'static str, Option<f64>),
}

const PATHS: [Counted; 7] = [
    Counted {
        path: "https",
        handshake: Some(("dev_handshake_https", 989.0)),
        bytes: "dev_bytes_https",
        operations: ("dev_pk_ops_https", None),
    },
    Counted {
        path: "psk12",
        handshake: Some(("dev_handshake_psk12", 537.0)),
        bytes: "dev_bytes_psk12",
        operations: ("dev_pk_ops_psk12", Some(0.0)),
    },
    Counted {
        path: "psk13_ke",
        handshake: Some(("dev_handshake_psk13_ke", 534.0)),
        bytes: "dev_bytes_psk13_ke",
        operations: ("dev_pk_ops_psk13_ke", Some(0.0)),
    },
    Counted {
        path: "psk13_dhe",
        handshake: Some(("dev_handshake_psk13_dhe", 639.0)),
        bytes: "dev_bytes_psk13_dhe",
        operations: ("dev_pk_ops_psk13_dhe", None),
    },
    Counted {
        path: "oscore",
        handshake: None,
        bytes: "dev_bytes_oscore",
        operations: ("dev_pk_ops_oscore", Some(0.0)),
    },
    Counted {
        path: "push",
        handshake: None,
        bytes: "dev_bytes_push",
        operations: ("dev_pk_ops_push", Some(0.0)),
    },
    Counted {
        path: "pad",
        handshake: None,
        bytes: "dev_bytes_pad",
        operations: ("dev_pk_ops_pad", Some(0.0)),
    },
];

/// Runs a network of this program with devices on every path, and reads what they counted.
async fn paths() -> Result<Vec<Figure>> {
    let state = tempfile::tempdir().context("making a folder for the network")?;
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut network = Command::new(program);
    network.arg("up").arg("--state").arg(state.path()).args(NETWORK).kill_on_drop(true);
    network.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    network.stderr(std::process::Stdio::null());
    let running = network.spawn().context("the network cannot be started")?;
    // Meanwhile a stranger asks, with the key exchange that this program prefers between servers.
    let hybrid = tokio::spawn(hybrid_handshake(state.path().to_owned()));
    let output = running.wait_with_output().await?;
    let text = String::from_utf8(output.stdout).context("the network speaks no text")?;
    let summary = text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let summary = summary.context("the network printed no summary")?;
    ensure!(summary["ok"] == true, "the network was not well: {}", summary["reasons"]);
    let counted = summary["paths"].as_array().context("the network counted no paths")?;
    let mut figures = Vec::new();
    for Counted { path, handshake, bytes, operations } in PATHS {
        let found = counted.iter().find(|counted| counted["path"] == path);
        let found = found.with_context(|| format!("no key came by {path}"))?;
        let number = |key: &str| found[key].as_f64().context("a figure is no number");
        if let Some((name, expected)) = handshake {
            // Smaller is better: only what is more than a twentieth too much misses it.
            let (value, bar) = (number("handshake_bytes")?, Bar::AtMost(1.05 * expected));
            figures.push(Figure { name, value, bar, unit: "B" });
        }
        figures.push(shown(bytes, number("bytes")?, "B"));
        let (name, most) = operations;
        let bar = most.map_or(Bar::Shown, Bar::AtMost);
        figures.push(Figure { name, value: number("public_key_operations")?, bar, unit: "" });
    }
    figures.push(shown("dev_handshake_https_mlkem", hybrid.await??, "B"));
    Ok(figures)
}

/// Counts a handshake with X25519MLKEM768 at the gateway's key service.
async fn hybrid_handshake(state: std::path::PathBuf) -> Result<f64> {
    let ports = Ports::from_base(PORT_BASE).context("the ports do not fit")?;
    let folder = Layout::below(&state).folder("devices");
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(authority) = authority(&folder) else { continue };
        let (config, meter) = (tls::client_anonymous(&authority), Meter::new());
        let port = ports.gateway_keys.port();
        if tls::connect_metered("localhost", port, config, meter.clone()).await.is_ok() {
            return Ok(as_f64(meter.traffic().bytes()));
        }
    }
    anyhow::bail!("the gateway's key service does not answer")
}

fn authority(folder: &Path) -> Option<Authority> {
    Folder::new(folder.to_owned()).identity().ok().map(|(_, authority)| authority)
}

/// Holds the model against numbers that were computed elsewhere from the same assumptions; returns the
/// largest difference in percent.
fn model_error_pct() -> Result<f64> {
    let mut worst: f64 = 0.0;
    let mut compare = |found: f64, expected: &str| -> Result<()> {
        let expected: f64 = expected.parse()?;
        worst = worst.max(100.0 * (found - expected).abs() / expected.abs().max(1e-3));
        Ok(())
    };
    for row in rows(include_str!("../../../../vectors/vectors_energy_cells.csv")) {
        let [way, ecc, crypto, awake, air, _, on_mc, off_mc, on_mj, off_mj] = row[..] else {
            anyhow::bail!("a row of the reference has other columns: {row:?}")
        };
        let profile = profile(ecc)?;
        let cost = Cost::of(way.parse()?, &profile);
        compare(cost.public_key_s + cost.symmetric_s, crypto)?;
        compare(cost.awake_s, awake)?;
        compare(cost.air_s, air)?;
        compare(cost.charge_on_mc, on_mc)?;
        compare(cost.charge_off_mc, off_mc)?;
        compare(cost.energy_mj(RadioInCrypto::On, &profile), on_mj)?;
        compare(cost.energy_mj(RadioInCrypto::Off, &profile), off_mj)?;
    }
    for row in rows(include_str!("../../../../vectors/vectors_energy_day.csv")) {
        let [way, baseline, ecc, period, renewals, awake_pct, off_pct, on_pct] = row[..] else {
            anyhow::bail!("a row of the reference has other columns: {row:?}")
        };
        let renew = Span::from_secs(86_400 / renewals.parse::<u64>()?);
        let schedule = Schedule::new(Span::from_secs(period.parse()?), renew)?;
        let profile = profile(ecc)?;
        let day = Day::of(way.parse()?, &profile, schedule)?;
        let baseline = Day::of(baseline.parse()?, &profile, schedule)?;
        compare(100.0 * day.awake_change(&baseline), awake_pct)?;
        compare(100.0 * day.life_gain(&baseline, RadioInCrypto::Off), off_pct)?;
        compare(100.0 * day.life_gain(&baseline, RadioInCrypto::On), on_pct)?;
    }
    Ok(worst)
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().skip(1).map(|line| line.split(',').collect())
}

fn profile(ecc: &str) -> Result<Profile> {
    Ok(Profile::named(if ecc == "wolfssl2019" { "reference" } else { "reference-fast-ecc" })?)
}

#[expect(clippy::cast_precision_loss, reason = "bytes and wakes lie far below 2^53")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

const PORT_BASE: u16 = 15_900;
const NETWORK: [&str; 15] = [
    "--port-base",
    "15900",
    "--devices",
    "14",
    "--renew",
    "8s",
    "--keys-by",
    "https,psk12,psk13_ke,psk13_dhe,oscore,push,pad",
    "--pad-keys",
    "8",
    "--simulated-speed",
    "20",
    "--for",
    "45s",
    "--json",
];
/// Devices of the paper's fleet.
const DEVICES: u32 = 13_218;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_agrees_with_the_reference() {
        assert!(model_error_pct().unwrap() < 1e-6);
    }
}
