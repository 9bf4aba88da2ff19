//! IDQ3P on the wire, seen by tshark: 29 bytes asked, 62 bytes answered (`WIRE.md` §1).

use std::process::Command;

use crate::bytes::{crc, from_hex};
use crate::network::Network;
use crate::parties::{App, PATIENCE};
use crate::place::{Place, utf8};
use crate::process::{Process, claviger, eventually, run};

/// Returns a word of what `claviger key extract` printed.
fn word<'a>(out: &'a str, name: &str) -> &'a str {
    let line = out.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap()
}

#[test]
fn an_extraction_is_one_datagram_each_way() {
    assert_eq!(crc(b"123456789"), 0xFC89_1918, "the check value of CRC-32/BZIP2");
    let place = Place::new();
    place.init(&["--simulated-speed", "10", "--danger-idq3p"]);
    let _network = Network::with_frozen_keys(&place, &[], 30);
    let (app, state) = (App::a(&place), place.state());
    let extract = |more: &[&str]| {
        run(&mut claviger(&[&["key", "extract", "--state", utf8(&state)], more].concat()))
    };

    let filter = format!("udp port {}", place.ports().idq3p_a.port());
    let fields = ["-T", "fields", "-e", "udp.dstport", "-e", "udp.payload"];
    let capture = ["-i", "lo", "-l", "-n", "-a", "duration:60", "-f", &filter];
    let command = &mut Command::new("tshark");
    let mut shark = Process::start(&place.logs(), "tshark", command.args(capture).args(fields));
    eventually("the capture", PATIENCE, || shark.err().contains("Capturing on").then_some(()));
    let stored = app.stored().unwrap();
    let mut extracted = 0;
    // Its first line may come a little before its first packet.
    let (seen, got) = eventually("both datagrams", PATIENCE, || {
        let got = extract(&[]);
        assert_eq!(got.code, Some(0), "{got:?}");
        extracted += 1;
        let key = word(&got.out, "key").to_owned();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while std::time::Instant::now() < deadline {
            let seen = shark.out();
            // The answer holds the key, which the request in the line before does not know.
            if let Some(n) = seen.lines().position(|line| line.contains(&key)).filter(|n| *n > 0) {
                let lines = seen.lines().skip(n - 1).take(2).map(str::to_owned);
                return Some((lines.collect::<Vec<_>>(), got));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        None
    });
    shark.terminate();
    assert_eq!(app.stored(), Some(stored - extracted), "each extraction spends one key");

    let payload = |line: &str| from_hex(line.split_whitespace().nth(1).unwrap());
    let (request, answer) = (payload(&seen[0]), payload(&seen[1]));
    assert_eq!((request.len(), answer.len()), (29, 62));
    assert_eq!((request[0], answer[0]), (0, 1), "the datagram types");
    assert_eq!(request[1..9], [0; 8], "id 0 asks for a new key");
    assert_eq!(request[10..14], answer[10..14], "the request id is echoed");
    assert_eq!((request[9], answer[9], answer[14]), (32, 32, 0), "32 bytes, and success");
    for datagram in [&request, &answer] {
        let (body, sum) = datagram.split_at(datagram.len() - 4);
        assert_eq!(sum, crc(body).to_be_bytes());
    }

    let id = word(&got.out, "id");
    let copy = extract(&["--site", "b", "--id", id]);
    assert_eq!(copy.code, Some(0), "{copy:?}");
    assert_eq!(word(&copy.out, "key"), word(&got.out, "key"));
    assert!(got.out.contains("simulated") && copy.out.contains("simulated"));
    let again = extract(&["--site", "b", "--id", id]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("taken already"), "{again:?}");
}

/// The dissector that stands in `tools/wireshark`, with Lua as tshark has it.
#[test]
fn the_dissector_reads_an_exchange_on_loopback() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10", "--danger-idq3p"]);
    let _network = Network::with_frozen_keys(&place, &[], 30);
    let state = place.state();
    let port = place.ports().idq3p_a.port();
    let file = place.logs().join("exchange.pcapng");
    let filter = format!("udp port {port}");
    let capture = ["-i", "lo", "-n", "-a", "duration:60", "-f", &filter, "-w", utf8(&file)];
    let mut shark = Process::start(&place.logs(), "capture", Command::new("tshark").args(capture));
    eventually("the capture", PATIENCE, || shark.err().contains("Capturing on").then_some(()));
    let dissector = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/wireshark/idq3p.lua");
    let port = format!("idq3p.port:{port}");
    let (script, fields) = (
        format!("lua_script:{dissector}"),
        [
            "idq3p.type",
            "idq3p.key_id",
            "idq3p.status",
            "idq3p.key",
            "idq3p.crc_good",
            "idq3p.request_in",
            "_ws.expert.message",
        ],
    );
    let read = || {
        let mut command = Command::new("tshark");
        command.args(["-X", &script, "-o", &port, "-r", utf8(&file), "-T", "fields"]);
        command.args(fields.iter().flat_map(|field| ["-e", field]));
        run(&mut command).out
    };
    // Its first line may come a little before its first packet.
    let (rows, key, id) = eventually("both datagrams, dissected", PATIENCE, || {
        let got = run(&mut claviger(&["key", "extract", "--state", utf8(&state)]));
        assert_eq!(got.code, Some(0), "{got:?}");
        let (key, id) = (word(&got.out, "key").to_owned(), word(&got.out, "id").to_owned());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while std::time::Instant::now() < deadline {
            let rows: Vec<String> = read().lines().map(str::to_owned).collect();
            if let Some(n) = rows.iter().position(|row| row.contains(&key)).filter(|n| *n > 0) {
                return Some((rows[n - 1..=n].to_vec(), key, id));
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        None
    });
    shark.terminate();
    let cells = |row: &str| row.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let (request, answer) = (cells(&rows[0]), cells(&rows[1]));
    assert_eq!(request[..5], ["0", "0x0000000000000000", "", "", "1"], "{rows:?}");
    assert_eq!(answer[..5], ["1", &id, "0", &key, "1"], "{rows:?}");
    assert!(answer[5].parse::<u32>().is_ok(), "the frame that asked is found: {rows:?}");
    assert_eq!((&*request[6], &*answer[6]), ("", ""), "nothing is wrong with either");
}
