//! `claviger lab fig2e`: a key over UDP, captured on loopback and dissected by tshark.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use claviger_lab::figures::Made;
use claviger_lab::figures::exchange::{Datagram, Field, make as draw};
use claviger_roles::init::Ports;
use claviger_wire::idq3p::REQUEST_LEN;

use super::bound;
use super::shelf::write_whole;
use crate::console;

/// The dissector, as it also stands in the repository.
const DISSECTOR: &str = include_str!("../../../../tools/wireshark/idq3p.lua");
/// How long is waited for the first key, and for the capture.
const PATIENCE: Duration = Duration::from_secs(60);

/// Captures an exchange, leaves the capture and its dissection in `out`, and draws it.
pub(super) fn make(out: &Path) -> Result<Made> {
    let version = tshark_version()?;
    let place = tempfile::tempdir().context("a folder for the capture cannot be made")?;
    let script = place.path().join("idq3p.lua");
    write_whole(&script, DISSECTOR)?;
    let (program, base) = (std::env::current_exe()?, free_ports()?);
    let state = place.path().join("state");
    let log = |name: &str| File::create(place.path().join(name)).context("a log cannot be made");
    let mut up = bound(&program);
    up.arg("up").args(["--for", "2m", "--devices", "1", "--simulated-speed", "10"]);
    up.arg("--state").arg(&state).args(["--port-base", &base.to_string()]);
    let _up = Running::start(up.stdout(log("up.out")?).stderr(log("up.err")?))?;
    console::err("fig2e: a link, both sites and a device are started to be captured");
    let ports = Ports::from_base(base).context("the row of ports is too high")?;
    let port = ports.idq3p_a.port();
    let extract = || {
        let mut extract = Command::new(&program);
        extract.args(["key", "extract", "--state"]).arg(&state);
        extract.stdin(Stdio::null()).output().context("`claviger key extract` does not start")
    };
    await_some("the first key", || Ok(extract()?.status.success().then_some(())))?;

    let pcap = place.path().join("all.pcapng");
    let mut capture = bound("tshark");
    capture.args(["-i", "lo", "-n", "-a", "duration:90", "-f", &format!("udp port {port}"), "-w"]);
    let mut shark = Running::start(capture.arg(&pcap).stderr(log("tshark.err")?))?;
    await_some("tshark's capture", || {
        let said = std::fs::read_to_string(place.path().join("tshark.err"))?;
        ensure!(
            shark.0.try_wait()?.is_none(),
            "tshark cannot capture on the loopback interface (run as root, or allow it by `dpkg-reconfigure wireshark-common`): {}",
            said.lines().last().unwrap_or("it says nothing")
        );
        Ok(said.contains("Capturing on").then_some(()))
    })?;
    let tshark = Tshark { script, port, pcap };
    let frames = await_some("both packets", || {
        let Output { stdout, status, .. } = extract()?;
        ensure!(status.success(), "no key was given while the capture ran");
        let said = String::from_utf8_lossy(&stdout).into_owned();
        let key = said.lines().find_map(|line| line.strip_prefix("key"));
        tshark.frames_with(key.context("`claviger key extract` tells no key")?.trim())
    })?;
    drop(shark);
    tshark.keep(frames, out)?;
    let exchange = [tshark.datagram(frames[0])?, tshark.datagram(frames[1])?];
    Ok(draw(&exchange, &version))
}

fn tshark_version() -> Result<String> {
    let remedy = "tshark is not installed: apt install tshark";
    let output = Command::new("tshark").arg("--version").output().context(remedy)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<_> = text.split_whitespace().take(3).collect();
    Ok(words.join(" ").trim_end_matches('.').replace("TShark (Wireshark)", "tshark"))
}

/// tshark over a capture.
struct Tshark {
    script: PathBuf,
    port: u16,
    pcap: PathBuf,
}

impl Tshark {
    fn read(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("tshark");
        command.arg("-X").arg(format!("lua_script:{}", self.script.display()));
        command.arg("-o").arg(format!("idq3p.port:{}", self.port)).arg("-n");
        command.arg("-r").arg(&self.pcap).args(words).stdin(Stdio::null());
        let Output { status, stdout, stderr } =
            command.output().context("tshark does not start")?;
        // It may say so while the file is being written; what was read until then counts.
        let is_cut_short = String::from_utf8_lossy(&stderr).contains("cut short");
        ensure!(
            status.success() || is_cut_short,
            "tshark cannot read the capture: {}",
            String::from_utf8_lossy(&stderr).trim()
        );
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Finds the response that holds a key, and the request that it answers.
    fn frames_with(&self, key: &str) -> Result<Option<[u64; 2]>> {
        let fields =
            ["-T", "fields", "-e", "frame.number", "-e", "idq3p.request_in", "-e", "idq3p.key"];
        let rows = self.read(&fields)?;
        let found = rows.lines().find_map(|row| {
            let [frame, request, held] = row.split('\t').collect::<Vec<_>>()[..] else {
                return None;
            };
            let held = held.replace(':', "");
            (held == key).then(|| Some([request.parse().ok()?, frame.parse().ok()?]))?
        });
        Ok(found)
    }

    /// Leaves both packets, and all that is shown of them.
    fn keep(&self, [request, response]: [u64; 2], out: &Path) -> Result<()> {
        let filter = format!("frame.number == {request} || frame.number == {response}");
        let partial = out.join("fig2e.pcapng.partial");
        let file = partial.to_str().context("the folder's name is no text")?;
        self.read(&["-Y", &filter, "-w", file])?;
        std::fs::rename(&partial, out.join("fig2e.pcapng"))
            .context("the capture cannot be put into its place")?;
        write_whole(&out.join("fig2e.txt"), &self.read(&["-Y", &filter, "-V"])?)
    }

    /// Reads where each field lies and what is shown of it.
    fn datagram(&self, frame: u64) -> Result<Datagram> {
        let filter = format!("frame.number == {frame}");
        let packet = self.read(&["-Y", &filter, "-T", "pdml"])?;
        let payload = attribute_of(&packet, "udp.payload", "value").context("no payload")?;
        let payload = bytes_of(&payload).context("the payload is no hexadecimal text")?;
        let begin: usize = attribute_of(&packet, "udp.payload", "pos")
            .and_then(|pos| pos.parse().ok())
            .context("the payload has no place")?;
        let mut fields: Vec<Field> = packet
            .lines()
            .filter(|line| line.trim_start().starts_with("<field name=\"idq3p."))
            .filter(|line| attribute(line, "hide").is_none())
            .filter_map(|line| {
                let (offset, length) = (attribute(line, "pos")?, attribute(line, "size")?);
                let (offset, length): (usize, usize) = (offset.parse().ok()?, length.parse().ok()?);
                let shown = attribute(line, "showname")?;
                let (name, shown) = shown.split_once(": ")?;
                let offset = offset.checked_sub(begin)?;
                let fits = length > 0 && offset + length <= payload.len();
                let (name, shown) = (name.to_owned(), shown.to_owned());
                fits.then_some(Field { name, offset, length, shown })
            })
            .collect();
        fields.sort_by_key(|field| field.offset);
        // What the dissector tells of a field beside it has no bytes of its own.
        fields.dedup_by_key(|field| field.offset);
        let covered: usize = fields.iter().map(|field| field.length).sum();
        ensure!(covered == payload.len(), "tshark shows {covered} of {} bytes", payload.len());
        let kind = if payload.len() == REQUEST_LEN { "Request" } else { "Response" };
        Ok(Datagram { kind: kind.to_owned(), payload, fields })
    }
}

/// Returns an attribute of the field called `name`, in tshark's PDML.
fn attribute_of(packet: &str, name: &str, key: &str) -> Option<String> {
    let begin = format!("<field name=\"{name}\"");
    let line = packet.lines().find(|line| line.trim_start().starts_with(&begin))?;
    attribute(line, key)
}

fn attribute(line: &str, key: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!(" {key}=\""))?;
    let (value, _) = rest.split_once('"')?;
    Some(
        value
            .replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let pairs = (0..digits.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

/// A program that ends with this.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::null()).spawn();
        Ok(Self(started.with_context(|| format!("{name} does not start"))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn await_some<T>(what: &str, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = attempt()? {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("{what} did not come within {} s", PATIENCE.as_secs())
}

/// Finds a base above which a row of ports is free just now.
fn free_ports() -> Result<u16> {
    let is_free = |port: u16| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    };
    // Below the range from which the system takes ports by itself, and another row for each process.
    let n_rows = 4000 / Ports::COUNT;
    let first = u16::try_from(std::process::id() % u32::from(n_rows)).unwrap_or(0);
    let bases = (0..n_rows).map(|n| 20_000 + (first + n) % n_rows * Ports::COUNT);
    let mut bases = bases.into_iter();
    bases
        .find(|base| (*base..*base + Ports::COUNT).all(is_free))
        .context("no row of ports is free between 20000 and 24000")
}
