//! MQTT topics of a device, and which of them it may use (`WIRE.md` §4, `PROTOCOL.md` P3).

use claviger_units::Eui64;

/// Returns the topic of a device's telemetry.
#[must_use]
pub fn up(eui: Eui64) -> String {
    format!("{ROOT}{eui}/up")
}

/// Returns the topic of a device's availability.
#[must_use]
pub fn state(eui: Eui64) -> String {
    format!("{ROOT}{eui}/state")
}

/// Returns the topic at which a device gets its key frames.
#[must_use]
pub fn key(eui: Eui64) -> String {
    format!("{ROOT}{eui}/key")
}

/// The filter of all telemetry.
pub const ALL_UP: &str = "claviger/v1/+/up";

/// Returns the device whose key frames have this topic.
#[must_use]
pub fn device_of_key(topic: &str) -> Option<Eui64> {
    let eui = topic.strip_prefix(ROOT)?.strip_suffix("/key")?.parse().ok()?;
    (key(eui) == topic).then_some(eui)
}

/// Returns the device whose telemetry has this topic.
#[must_use]
pub fn device_of_up(topic: &str) -> Option<Eui64> {
    let eui = topic.strip_prefix(ROOT)?.strip_suffix("/up")?.parse().ok()?;
    // Only the one spelling: upper-case digits would give one device several topics.
    (up(eui) == topic).then_some(eui)
}

/// Tells whether a device may publish here: only its own telemetry and availability.
#[must_use]
pub fn may_publish(eui: Eui64, topic: &str) -> bool {
    own_leaf(eui, topic).is_some_and(|leaf| matches!(leaf, "up" | "state"))
}

/// Tells whether a device may subscribe to this: only its own keys and commands, no wildcards.
#[must_use]
pub fn may_subscribe(eui: Eui64, filter: &str) -> bool {
    own_leaf(eui, filter).is_some_and(|leaf| matches!(leaf, "key" | "down"))
}

fn own_leaf(eui: Eui64, topic: &str) -> Option<&str> {
    topic.strip_prefix(ROOT)?.strip_prefix(&eui.to_string())?.strip_prefix('/')
}

const ROOT: &str = "claviger/v1/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_four_topics_and_no_more() {
        let eui: Eui64 = "02005efffe100001".parse().unwrap();
        let own = |leaf: &str| format!("claviger/v1/02005efffe100001/{leaf}");
        for (topic, publish, subscribe) in [
            (own("up"), true, false),
            (own("state"), true, false),
            (own("key"), false, true),
            (own("down"), false, true),
            (own("#"), false, false),
            (own("+"), false, false),
            (own("up/x"), false, false),
            ("claviger/v1/+/key".to_owned(), false, false),
            ("claviger/v1/02005efffe100002/up".to_owned(), false, false),
            ("claviger/v1/02005EFFFE100001/up".to_owned(), false, false),
            ("#".to_owned(), false, false),
        ] {
            assert_eq!(may_publish(eui, &topic), publish, "{topic}");
            assert_eq!(may_subscribe(eui, &topic), subscribe, "{topic}");
        }
    }

    #[test]
    fn telemetry_names_its_device_in_one_spelling() {
        let eui: Eui64 = "02005efffe100001".parse().unwrap();
        assert_eq!(device_of_up(&up(eui)), Some(eui));
        for topic in ["claviger/v1/02005EFFFE100001/up", "claviger/v1/x/up", "up", ""] {
            assert_eq!(device_of_up(topic), None, "{topic}");
        }
        assert_eq!(device_of_up(&state(eui)), None);
    }
}
