//! Four lines to copy: foreign programs that look into the running network.

use std::path::Path;

use claviger_roles::init::Ports;

/// Returns what each line shows, and the line; `program` is what this program was called as.
pub(crate) fn to_copy(state: &Path, ports: &Ports, program: &str) -> [(&'static str, String); 4] {
    let curl = |app: &str| {
        let file = |name: &str| quoted(&state.join(app).join(name).to_string_lossy());
        let (ca, pem, key) = (file("ca.pem"), file("identity.pem"), file("identity.key"));
        format!("curl --cacert {ca} --cert {pem} --key {key}")
    };
    let api = |port: u16, path: &str| format!("'https://localhost:{port}/api/v1/keys/{path}'");
    let gateway = |name: &str| quoted(&state.join("site-a/gateway").join(name).to_string_lossy());
    let (mqtt, udp) = (ports.gateway_mqtt.port(), ports.idq3p_a.port());
    let at_a = format!("{} {}", curl("site-a/app"), api(ports.kme_a.port(), "app-b/enc_keys"));
    let at_b = format!(
        "{} {}",
        curl("site-b/app"),
        api(ports.kme_b.port(), "app-a/dec_keys?key_ID=KEY_ID")
    );
    let telemetry = format!(
        "mosquitto_sub -h localhost -p {mqtt} --cafile {} -u viewer -P \"$(cat {})\" -t 'claviger/v1/#' -F '%t %l bytes %x'",
        gateway("ca.pem"),
        gateway("viewer.password"),
    );
    let by_udp = format!(
        "tshark -i lo -c 2 -x -f 'udp port {udp}' & sleep 2; {} key extract --state {}",
        quoted(program),
        quoted(&state.to_string_lossy()),
    );
    [
        ("a key at site A:", at_a),
        ("its copy at site B, once, for the KEY_ID of the answer:", at_b),
        ("what the gateway sees of the telemetry:", telemetry),
        ("a key by UDP, and its two packets:", by_udp),
    ]
}

/// Puts a text into quotes where a shell would take it apart.
fn quoted(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(safe) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_can_be_copied() {
        let ports = Ports::from_base(14_000).unwrap();
        let lines = to_copy(Path::new("./claviger-state"), &ports, "target/release/claviger");
        let lines = lines.map(|(_, line)| line);
        assert_eq!(
            lines,
            [
                "curl --cacert ./claviger-state/site-a/app/ca.pem --cert ./claviger-state/site-a/app/identity.pem --key ./claviger-state/site-a/app/identity.key 'https://localhost:14000/api/v1/keys/app-b/enc_keys'",
                "curl --cacert ./claviger-state/site-b/app/ca.pem --cert ./claviger-state/site-b/app/identity.pem --key ./claviger-state/site-b/app/identity.key 'https://localhost:14001/api/v1/keys/app-a/dec_keys?key_ID=KEY_ID'",
                "mosquitto_sub -h localhost -p 14005 --cafile ./claviger-state/site-a/gateway/ca.pem -u viewer -P \"$(cat ./claviger-state/site-a/gateway/viewer.password)\" -t 'claviger/v1/#' -F '%t %l bytes %x'",
                "tshark -i lo -c 2 -x -f 'udp port 14002' & sleep 2; target/release/claviger key extract --state ./claviger-state",
            ]
        );
    }

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("/tmp/x-1"), "/tmp/x-1");
    }
}
