//! The bytes of every message, and what programs that nobody here wrote read in them.
//!
//! `golden.txt` holds each frame in hex and, indented, what Open vSwitch 3.1 prints of it. Written
//! anew by `CLAVIGER_BLESS=1 cargo test -p claviger-openflow --test golden`; read the difference.

mod examples;

use std::path::Path;
use std::process::Command;

use claviger_openflow::Envelope;

#[test]
fn every_frame_has_the_bytes_it_had() {
    let golden = golden();
    assert_eq!(golden.len(), examples::all().len());
    for ((frame, printed), example) in golden.iter().zip(examples::all()) {
        assert_eq!(&hex(&example.encode()), frame, "{printed}");
    }
}

/// Open vSwitch reads in every frame what was meant.
#[test]
fn open_vswitch_reads_them_with_ovs() {
    let read: Vec<_> =
        examples::all().iter().map(|example| ovs_prints(&example.encode())).collect();
    if std::env::var_os("CLAVIGER_BLESS").is_some() {
        let text =
            examples::all().iter().zip(&read).fold(String::new(), |text, (example, read)| {
                let indented =
                    read.lines().fold(String::new(), |all, line| all + "    " + line + "\n");
                text + &hex(&example.encode()) + "\n" + &indented
            });
        std::fs::write(path(), text).expect("the file can be written");
    }
    for (read, (frame, printed)) in read.iter().zip(golden()) {
        assert_eq!(read.trim_end(), printed.trim_end(), "{frame}");
    }
    for wrong in ["decode error", "bad ofp", "***"] {
        assert!(read.iter().all(|printed| !printed.contains(wrong)), "{wrong} in {read:?}");
    }
}

/// Wireshark's dissector finds OpenFlow 1.3 in every frame, and nothing malformed.
#[test]
fn wireshark_reads_them_with_tshark() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (text, capture) = (folder.path().join("frames.txt"), folder.path().join("frames.pcap"));
    let dump = examples::all().iter().fold(String::new(), |all, example| {
        let bytes: Vec<_> = example.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        all + "0000 " + &bytes.join(" ") + "\n\n"
    });
    std::fs::write(&text, dump).expect("the file can be written");
    output(Command::new("text2pcap").args(["-q", "-T", "6653,40000"]).arg(&text).arg(&capture));
    let read = output(
        Command::new("tshark")
            .args(["-r".as_ref(), capture.as_os_str()])
            .args([
                "-T",
                "fields",
                "-E",
                "occurrence=f",
                "-e",
                "openflow_v4.version",
                "-e",
                "openflow_v4.type",
            ])
            .args(["-e", "_ws.malformed"]),
    );
    for (line, example) in read.lines().zip(examples::all()) {
        let bytes = example.encode();
        if bytes[0] == 4 {
            let expected = format!("{}\t{}\t", bytes[0], bytes[1]);
            assert_eq!(line.replace("0x04", "4"), expected, "{example:?}");
        }
    }
    assert_eq!(read.lines().count(), examples::all().len());
}

/// Returns what `ovs-ofctl` prints of a frame.
fn ovs_prints(frame: &[u8]) -> String {
    // It takes names of ports from nowhere, and its exit code says nothing of the frame.
    output(Command::new("ovs-ofctl").args(["ofp-print", &hex(frame), "2"]))
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the output is text")
}

fn golden() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path()).expect("the file is there");
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("    "), all.last_mut()) {
            (Some(printed), Some((_, text))) => *text += &(printed.to_owned() + "\n"),
            _ => all.push((line.to_owned(), String::new())),
        }
    }
    all
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_frames_of_the_file_are_read_back() {
    for (frame, printed) in golden() {
        let bytes: Vec<u8> = (0..frame.len() / 2)
            .map(|n| u8::from_str_radix(&frame[2 * n..2 * n + 2], 16).expect("hex digits"))
            .collect();
        let read = Envelope::decode(&bytes);
        assert_eq!(read.map(|envelope| envelope.encode()), Ok(bytes), "{printed}");
    }
}
