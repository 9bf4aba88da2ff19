//! Manufacturer Usage Descriptions (RFC 8520): what a maker says that its devices need, as a policy of the
//! controller.
//!
//! A description names hosts by DNS names or by the part they play; the operator says which servers these
//! are. What a policy cannot express is refused, so that no device is let in with less than it needs, or
//! with more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::config::RawPolicy;

/// A description that was read.
#[derive(Clone, Debug)]
pub struct MudProfile {
    /// Where its maker keeps it.
    pub url: String,
    /// What kind of device it is for, in the maker's words.
    pub systeminfo: String,
    /// What its devices may reach.
    pub policy: RawPolicy,
}

/// Everything that is wrong with a description, or cannot be expressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct MudFaults(Vec<String>);

impl fmt::Display for MudFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the description cannot be imported:\n{}", self.0.join("\n"))
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "ietf-mud:mud")]
    mud: Mud,
    #[serde(rename = "ietf-access-control-list:acls")]
    acls: Acls,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mud {
    mud_version: u8,
    mud_url: String,
    #[serde(default)]
    systeminfo: String,
    from_device_policy: Policy,
    to_device_policy: Policy,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Policy {
    access_lists: AccessLists,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AccessLists {
    access_list: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Acls {
    acl: Vec<Acl>,
}

#[derive(Deserialize)]
struct Acl {
    name: String,
    aces: Aces,
}

#[derive(Deserialize)]
struct Aces {
    ace: Vec<Ace>,
}

#[derive(Deserialize)]
struct Ace {
    name: String,
    matches: Value,
    actions: Actions,
}

#[derive(Deserialize)]
struct Actions {
    forwarding: String,
}

/// Reads a description; `servers` says which `[server]` of the controller a DNS name, the URI of a
/// controller, or `my-controller` is.
pub fn read(text: &str, servers: &BTreeMap<String, String>) -> Result<MudProfile, MudFaults> {
    let file: File = serde_json::from_str(text)
        .map_err(|error| MudFaults(vec![format!("it is no description of RFC 8520: {error}")]))?;
    let mut faults = Vec::new();
    if file.mud.mud_version != 1 {
        faults.push(format!("version {} is not known, only 1 is", file.mud.mud_version));
    }
    let mut reaches = BTreeSet::new();
    for ace in entries(&file.acls, &file.mud.from_device_policy, &mut faults) {
        match reach(ace, servers) {
            Ok(reach) => reaches.extend(reach),
            Err(why) => faults.push(format!("{}: {why}", ace.name)),
        }
    }
    let mut answers = BTreeSet::new();
    for ace in entries(&file.acls, &file.mud.from_device_policy, &mut Vec::new()) {
        answers.extend(other_end(ace, FROM));
    }
    for ace in entries(&file.acls, &file.mud.to_device_policy, &mut faults) {
        let is_answer = other_end(ace, TO).is_some_and(|end| answers.contains(&end));
        if is_initiated(ace, "to-device") || !is_answer {
            let why = "a service calls devices by itself, which no policy allows";
            faults.push(format!("{}: {why}", ace.name));
        }
    }
    if faults.is_empty() && reaches.is_empty() {
        faults.push("its devices may reach nothing".to_owned());
    }
    if !faults.is_empty() {
        return Err(MudFaults(faults));
    }
    let policy = RawPolicy { reaches: reaches.into_iter().collect(), packets_per_s: Some(RATE) };
    Ok(MudProfile { url: file.mud.mud_url, systeminfo: file.mud.systeminfo, policy })
}

fn entries<'a>(acls: &'a Acls, policy: &Policy, faults: &mut Vec<String>) -> Vec<&'a Ace> {
    let mut entries = Vec::new();
    for Named { name } in &policy.access_lists.access_list {
        match acls.acl.iter().find(|acl| acl.name == *name) {
            Some(acl) => entries.extend(&acl.aces.ace),
            None => faults.push(format!("there is no access list {name}")),
        }
    }
    entries
}

/// Returns what an entry opens; nothing for the answers that are let through anyway.
fn reach(ace: &Ace, servers: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    if ace.actions.forwarding != "accept" {
        return Err("only entries that accept can be imported: all else is shut anyway".to_owned());
    }
    if is_initiated(ace, "to-device") {
        return Ok(None);
    }
    only_understood(&ace.matches)?;
    let whom = whom(&ace.matches)?;
    let unknown = || format!("say which server {whom} is: --server {whom}=NAME");
    let server = servers.get(&whom).ok_or_else(unknown)?;
    let ip =
        ["ipv4", "ipv6"].into_iter().find_map(|ip| ace.matches.get(ip)?.get("protocol")?.as_u64());
    let port = |name: &str| port_of(&ace.matches, name);
    match ip {
        Some(6) => Ok(Some(format!("{server} tcp {}", port("tcp")?))),
        Some(17) => Ok(Some(format!("{server} udp {}", port("udp")?))),
        Some(1 | 58) => Ok(Some(format!("{server} icmp"))),
        _ => Err("it has to name its protocol: 6 (TCP), 17 (UDP), 1 or 58 (ICMP)".to_owned()),
    }
}

/// What names the other end and its port in one direction.
type Direction = (&'static str, &'static str);
const FROM: Direction = ("ietf-acldns:dst-dnsname", "destination-port");
const TO: Direction = ("ietf-acldns:src-dnsname", "source-port");

/// Returns the other end of an entry, its protocol and its port, as texts.
fn other_end(ace: &Ace, (name, port): Direction) -> Option<[String; 3]> {
    let ip = ["ipv4", "ipv6"].into_iter().find_map(|ip| ace.matches.get(ip))?;
    let part = ace.matches.get("ietf-mud:mud").map(Value::to_string);
    let end = ip.get(name).map(Value::to_string).or(part)?;
    let protocol = ip.get("protocol")?.to_string();
    let port =
        ["tcp", "udp"].into_iter().find_map(|of| ace.matches.get(of)?.get(port)?.get("port"));
    Some([end, protocol, port.map(Value::to_string).unwrap_or_default()])
}

/// Refuses what narrows an entry in a way that no policy does: a device would get more than it needs.
fn only_understood(matches: &Value) -> Result<(), String> {
    let understood: &[(&str, &[&str])] = &[
        ("ipv4", &["ietf-acldns:dst-dnsname", "protocol"]),
        ("ipv6", &["ietf-acldns:dst-dnsname", "protocol"]),
        ("tcp", &["ietf-mud:direction-initiated", "destination-port"]),
        ("udp", &["destination-port"]),
        (
            "ietf-mud:mud",
            &[
                "controller",
                "my-controller",
                "local-networks",
                "same-manufacturer",
                "manufacturer",
                "model",
            ],
        ),
    ];
    for (part, of_it) in matches.as_object().into_iter().flatten() {
        let known = understood.iter().find(|(name, _)| name == part);
        let (_, keys) = known.ok_or_else(|| format!("no policy looks at {part}"))?;
        for key in of_it.as_object().into_iter().flatten().map(|(key, _)| key) {
            if !keys.contains(&key.as_str()) {
                return Err(format!("no policy looks at {key}"));
            }
        }
    }
    Ok(())
}

/// Packets a second that an imported policy allows; a description says nothing of it.
const RATE: u32 = 200;

fn is_initiated(ace: &Ace, direction: &str) -> bool {
    let initiated = ace.matches.get("tcp").and_then(|tcp| tcp.get("ietf-mud:direction-initiated"));
    initiated.and_then(Value::as_str) == Some(direction)
}

/// Returns the name of the other end.
fn whom(matches: &Value) -> Result<String, String> {
    for ip in ["ipv4", "ipv6"] {
        let name = matches.get(ip).and_then(|ip| ip.get("ietf-acldns:dst-dnsname"));
        if let Some(name) = name.and_then(Value::as_str) {
            return Ok(name.to_owned());
        }
    }
    let Some(part) = matches.get("ietf-mud:mud").and_then(Value::as_object) else {
        return Err("it opens everything: it has to name the other end".to_owned());
    };
    if let Some(uri) = part.get("controller").and_then(Value::as_str) {
        return Ok(uri.to_owned());
    }
    if part.contains_key("my-controller") {
        return Ok("my-controller".to_owned());
    }
    let named = part.keys().cloned().collect::<Vec<_>>().join(", ");
    Err(format!("{named} is no single server, and a policy reaches single servers only"))
}

fn port_of(matches: &Value, protocol: &str) -> Result<u16, String> {
    let single = "it has to name a single port (destination-port, operator eq)";
    let port = matches.get(protocol).and_then(|of| of.get("destination-port")).ok_or(single)?;
    let is_single = port.get("operator").is_none_or(|operator| operator == "eq");
    let number = port.get("port").and_then(Value::as_u64).filter(|_| is_single);
    number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| single.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sensor with a broker on the Internet and a gateway of the house.
    fn description(matches: &str) -> String {
        let list =
            |name: &str| format!(r#"{{"access-lists":{{"access-list":[{{"name":"{name}"}}]}}}}"#);
        format!(
            r#"{{"ietf-mud:mud":{{"mud-version":1,"mud-url":"https://maker.example/sensor.json",
            "last-update":"2026-01-01T00:00:00+00:00","is-supported":true,"systeminfo":"A sensor",
            "from-device-policy":{from},"to-device-policy":{to}}},
            "ietf-access-control-list:acls":{{"acl":[
            {{"name":"from","type":"ipv4-acl-type","aces":{{"ace":[
            {{"name":"broker","matches":{{"ipv4":{{"ietf-acldns:dst-dnsname":"mqtt.example","protocol":6}},
            "tcp":{{"ietf-mud:direction-initiated":"from-device","destination-port":{{"operator":"eq","port":8883}}}}}},
            "actions":{{"forwarding":"accept"}}}},
            {{"name":"other","matches":{matches},"actions":{{"forwarding":"accept"}}}}]}}}},
            {{"name":"to","type":"ipv4-acl-type","aces":{{"ace":[
            {{"name":"answers","matches":{{"ipv4":{{"ietf-acldns:src-dnsname":"mqtt.example","protocol":6}},
            "tcp":{{"ietf-mud:direction-initiated":"from-device","source-port":{{"operator":"eq","port":8883}}}}}},
            "actions":{{"forwarding":"accept"}}}}]}}}}]}}}}"#,
            from = list("from"),
            to = list("to")
        )
    }

    fn servers() -> BTreeMap<String, String> {
        let pairs = [("mqtt.example", "gateway"), ("my-controller", "house")];
        pairs.map(|(name, server)| (name.to_owned(), server.to_owned())).into()
    }

    #[test]
    fn a_description_becomes_a_policy_of_single_services() {
        let matches = r#"{"ietf-mud:mud":{"my-controller":[null]},"ipv4":{"protocol":17},
            "udp":{"destination-port":{"operator":"eq","port":5684}}}"#;
        let profile = read(&description(matches), &servers()).unwrap();
        assert_eq!(profile.url, "https://maker.example/sensor.json");
        assert_eq!(profile.systeminfo, "A sensor");
        assert_eq!(profile.policy.reaches, ["gateway tcp 8883", "house udp 5684"]);
    }

    #[test]
    fn what_a_policy_cannot_express_is_told_by_its_name_and_nothing_is_imported() {
        for (matches, told) in [
            (
                r#"{"ietf-mud:mud":{"local-networks":[null]},"ipv4":{"protocol":6}}"#,
                "local-networks",
            ),
            (r#"{"ipv4":{"protocol":6}}"#, "has to name the other end"),
            (
                r#"{"ipv4":{"ietf-acldns:dst-dnsname":"ntp.example","protocol":17}}"#,
                "--server ntp.example=NAME",
            ),
            (r#"{"ipv4":{"ietf-acldns:dst-dnsname":"mqtt.example"}}"#, "its protocol"),
            (
                r#"{"ipv4":{"ietf-acldns:dst-dnsname":"mqtt.example","protocol":6,"dscp":1},
                "tcp":{"destination-port":{"port":8883}}}"#,
                "no policy looks at dscp",
            ),
            (
                r#"{"ipv4":{"ietf-acldns:dst-dnsname":"mqtt.example","protocol":6},
                "tcp":{"source-port":{"port":1},"destination-port":{"port":8883}}}"#,
                "no policy looks at source-port",
            ),
            (
                r#"{"ipv4":{"ietf-acldns:dst-dnsname":"mqtt.example","protocol":1},"icmp":{"type":8}}"#,
                "no policy looks at icmp",
            ),
            (
                r#"{"ipv4":{"ietf-acldns:dst-dnsname":"mqtt.example","protocol":6},
                "tcp":{"destination-port":{"lower-port":1,"upper-port":9}}}"#,
                "a single port",
            ),
        ] {
            let refused = read(&description(matches), &servers()).unwrap_err().to_string();
            assert!(refused.contains("other: ") && refused.contains(told), "{told}: {refused}");
        }
        // What comes without a question is no answer, whatever it is carried by.
        let good = r#"{"ietf-mud:mud":{"my-controller":[null]},"ipv4":{"protocol":17},
            "udp":{"destination-port":{"operator":"eq","port":5684}}}"#;
        let pushed = description(good).replace("src-dnsname\":\"mqtt", "src-dnsname\":\"push");
        let refused = read(&pushed, &servers()).unwrap_err().to_string();
        assert!(refused.contains("answers: a service calls devices by itself"), "{refused}");
        let refused = read("{}", &servers()).unwrap_err().to_string();
        assert!(refused.contains("RFC 8520"), "{refused}");
    }
}
