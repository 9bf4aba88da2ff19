//! `claviger bench sdn`: the controller of this program, as a process of its own, under load.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use claviger_roles::config::{RawController, RawPolicy, RawServer};
use claviger_wire::sdn::{Admission, Admissions, Event};
use tokio::process::Command;

use super::figure::{Bar, Figure};
use super::fleet;
use super::load::{self, GATEWAY, Load, Outcome, mac_of};
use crate::cli::bench::BenchArgs;
use crate::console;
use crate::lab::own_controller::{OwnController, Settings};
use crate::sdn::Controller;

/// Measures and prints.
pub(crate) async fn run(args: &BenchArgs) -> Result<()> {
    let mut figures = Vec::new();
    let length = Duration::from_secs(if args.quick { 2 } else { 10 });
    let many = Load { switches: 16, outstanding: 64, hosts_per_switch: 500, length };
    let outcome = under(many).await?;
    let rate = rate(&outcome);
    figures.push(Figure {
        name: "sdn_setups_per_s",
        value: rate,
        bar: Bar::AtLeast(50_000.0),
        unit: "/s",
    });
    let one = Load { switches: 1, outstanding: 1, hosts_per_switch: 500, length };
    let outcome = under(one).await?;
    for (name, share, most) in
        [("sdn_latency_p50_ms", 0.5, 0.15), ("sdn_latency_p99_ms", 0.99, 1.0)]
    {
        let value = quantile(&outcome.latencies, share) * 1e3;
        figures.push(Figure { name, value, bar: Bar::AtMost(most), unit: "ms" });
    }
    if !args.quick {
        let bar = Bar::AtMost(60.0);
        let value = fleet::measure(13_000).await?;
        figures.push(Figure { name: "sdn_fleet13000_s", value, bar, unit: "s" });
    }
    figures.extend(in_namespaces(args.quick).await?);
    figures.iter().for_each(|figure| console::out(figure.line(args.json)));
    Ok(())
}

/// Plays a load against a controller of its own.
async fn under(load: Load) -> Result<Outcome> {
    let own =
        OwnController::start(&std::env::temp_dir(), PORT_BASE, 0, Settings::NONE, |raw, _| {
            fit(raw);
        })
        .await?;
    let operator = Controller::of(own.state())?;
    let hosts = (1..=load.switches)
        .flat_map(|switch| (0..load.hosts_per_switch).map(move |host| mac_of(switch, host)));
    let admissions: Vec<_> = hosts
        .map(|mac| Admission {
            mac: mac.to_string(),
            policy: "sensor".to_owned(),
            place: None,
            addresses: Vec::new(),
            fixed: false,
        })
        .collect();
    for page in admissions.chunks(250) {
        operator.admit(&Admissions { admit: page.to_vec(), replace: false }).await?;
    }
    let n_links = load.switches as usize - 1;
    let ready = async || {
        for _ in 0..400 {
            let up = operator.switches().await?.iter().filter(|switch| switch.up).count();
            if up == load.switches as usize && operator.links().await?.len() == n_links {
                // Ports that lead nowhere are decided a moment later.
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the switches of the load are not found")
    };
    load::play(own.ports().openflow, load, ready).await
}

fn fit(raw: &mut RawController) {
    let server = RawServer {
        mac: GATEWAY.into(),
        addresses: vec!["10.190.255.255".into()],
        reaches: Vec::new(),
    };
    raw.server = BTreeMap::from([("gateway".to_owned(), server)]);
    let reaches = vec!["gateway tcp 8883".into(), "gateway tcp 8443".into()];
    let sensor = RawPolicy { reaches, packets_per_s: Some(200) };
    raw.policy = BTreeMap::from([("sensor".to_owned(), sensor)]);
}

fn rate(outcome: &Outcome) -> f64 {
    // Far below 2^53.
    let setups = u32::try_from(outcome.setups).map_or(f64::INFINITY, f64::from);
    setups / outcome.elapsed.as_secs_f64()
}

fn quantile(sorted: &[Duration], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, reason = "an index below the length")]
    #[expect(clippy::cast_sign_loss, reason = "a share is positive")]
    #[expect(clippy::cast_precision_loss, reason = "a number of samples")]
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, Duration::as_secs_f64)
}

/// What is measured on Open vSwitch, in namespaces; nothing where these cannot be had, and it says so.
async fn in_namespaces(quick: bool) -> Result<Vec<Figure>> {
    let missing = claviger_netlab::missing();
    if !missing.is_empty() {
        for one in missing {
            console::err(format_args!("not measured on Open vSwitch, {one}"));
        }
        return Ok(Vec::new());
    }
    let mut figures = Vec::new();
    let events = r#""$CLAVIGER" sdn events --json --state "$CLAVIGER_STATE" >&2"#;
    let discovery = discovery(&lab("tree,2,8", &["--silent"], events).await?)?;
    figures.push(Figure {
        name: "sdn_discovery_s",
        value: discovery,
        bar: Bar::AtMost(2.0),
        unit: "s",
    });
    let told = lab("ring,4", &[], REROUTE).await?;
    let lost = between(&told, "lost ", " ms")?;
    figures.push(Figure {
        name: "sdn_reroute_ms",
        value: lost,
        bar: Bar::AtMost(1000.0),
        unit: "ms",
    });
    for (name, most) in [("sdn_rules_per_device", 4.0), ("sdn_rules_per_transit", 1.0)] {
        let value = between(&told, &format!("{name} "), " rules")?;
        figures.push(Figure { name, value, bar: Bar::AtMost(most), unit: "" });
    }
    if !quick {
        let told = lab("tree,3,10", &[], "true").await?;
        let built = between(&told, "up in ", " s")?;
        let admitted =
            between(&told, "hosts found in ", " s")? + between(&told, "admitted in ", " s")?;
        figures.push(Figure {
            name: "sdn_lab1000_up_s",
            value: built,
            bar: Bar::AtMost(20.0),
            unit: "s",
        });
        let bar = Bar::AtMost(5.0);
        figures.push(Figure { name: "sdn_lab1000_admitted_s", value: admitted, bar, unit: "s" });
        figures.extend(under_mininet().await?);
    }
    Ok(figures)
}

/// Lets a thousand hosts of Mininet ping the one that they may reach.
async fn under_mininet() -> Result<Option<Figure>> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = Command::new(program);
    command.args(["lab", "mininet", "tree,3,10", "--policy", "sensor"]);
    let ended = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let ended = ended.context("starting Mininet")?;
    let told = String::from_utf8_lossy(&ended.stdout);
    let why = String::from_utf8_lossy(&ended.stderr);
    if why.contains("there is no Mininet") {
        console::err("not measured in Mininet, as there is none");
        return Ok(None);
    }
    let lost = told.lines().find_map(|line| line.split_once(" of 999 permitted pings lost"));
    let (lost, _) = lost.with_context(|| format!("Mininet failed: {told}{why}"))?;
    let value = lost.trim().parse().context("a number of pings")?;
    let bar = Bar::AtMost(0.0);
    Ok(Some(Figure { name: "sdn_mininet1000_lost", value, bar, unit: "" }))
}

/// Returns how long it took from the first switch to the last link or host, by the controller's events.
fn discovery(told: &str) -> Result<f64> {
    let events = told.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
    let events: Vec<_> = events.collect();
    let found = |event: &&Event| ["link-up", "host-appeared", "host-bound"].contains(&&*event.kind);
    let (first, last) =
        (events.iter().find(|event| event.kind == "switch-up"), events.iter().rfind(found));
    let (first, last) = first.zip(last).context("the lab tells no discovery")?;
    Ok(last.at_s - first.at_s)
}

/// Cuts a cable under a packet every 10 ms, both ways round the ring, and keeps the longer gap.
const REROUTE: &str = r#"
worst=0
for cable in c1 c4; do
    ip netns exec h3 ping -c2 -W2 10.67.0.1 >/dev/null
    ip netns exec h3 ping -i 0.01 -c 300 -W 1 10.67.0.1 > "$CLAVIGER_STATE/ping" 2>&1 &
    sleep 1; ip link set $cable-a down; wait
    got=$(sed -nE 's/.*transmitted, ([0-9]+) received.*/\1/p' "$CLAVIGER_STATE/ping")
    lost=$((10 * (300 - got))); [ $lost -gt $worst ] && worst=$lost
    ip link set $cable-a up; sleep 3
done
echo "lost $worst ms" >&2
edge=$(ovs-ofctl -O OpenFlow13 dump-flows s3 | grep -c 0xc10302005e100003)
transit=$(ovs-ofctl -O OpenFlow13 dump-flows s2 | grep -c 0xc10302005e100003)
other=$(ovs-ofctl -O OpenFlow13 dump-flows s4 | grep -c 0xc10302005e100003)
echo "sdn_rules_per_device $edge rules, sdn_rules_per_transit $((transit > other ? transit : other)) rules" >&2
"#;

/// Runs a script in a lab, and returns what was said on the standard error.
async fn lab(topology: &str, more: &[&str], script: &str) -> Result<String> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = Command::new(program);
    command.args(["lab", "net", "run", topology, "--policy", "sensor"]).args(more);
    command.args(["--", "bash", "-c", script]).stdin(Stdio::null()).kill_on_drop(true);
    let ended = command.output().await.context("starting a lab")?;
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    anyhow::ensure!(ended.status.success(), "the lab {topology} failed: {told}");
    Ok(told)
}

fn between(text: &str, before: &str, after: &str) -> Result<f64> {
    let found = text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
    let number = found.and_then(|(number, _)| number.trim().parse().ok());
    number.with_context(|| format!("the lab does not say `{before}…{after}`: {text}"))
}

/// Where nothing else of this program listens by default.
const PORT_BASE: u16 = 15_900;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert!((quantile(&samples, 0.5) - 0.051).abs() < 1e-9);
        assert!((quantile(&samples, 0.99) - 0.1).abs() < 1e-9);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn numbers_are_read_out_of_what_a_lab_says() {
        let told = "tree,2,8: 9 switches; up in 1.51 s, hosts found in 0.63 s";
        assert!((between(told, "up in ", " s").unwrap() - 1.51).abs() < 1e-9);
        assert!(between(told, "lost ", " ms").is_err());
    }
}
