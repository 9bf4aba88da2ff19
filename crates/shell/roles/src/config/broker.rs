//! A broker of another maker, in place of an embedded one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Faults;

/// An MQTT 5 broker such as mosquitto or EMQX, and how to log in there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawBroker {
    /// `HOST:PORT`; the host is a name in the broker's certificate.
    pub address: String,
    /// The user to log in as, and the name of the session.
    pub user: String,
    /// The file with the password, seen from this file's folder.
    #[serde(default = "password")]
    pub password_file: PathBuf,
    /// The certificate of the authority that has signed the broker's, seen from this file's folder.
    #[serde(default = "authority")]
    pub ca: PathBuf,
    /// Without TLS: only for a broker on this machine.
    #[serde(default)]
    pub danger_in_clear: bool,
}

/// A checked broker.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// A name in its certificate.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// The file with the password.
    pub password_file: PathBuf,
    /// The certificate of its authority; `None` without TLS.
    pub ca: Option<PathBuf>,
}

impl RawBroker {
    pub(super) fn check(
        self,
        faults: &mut Faults,
        section: &str,
        folder: &Path,
    ) -> Option<BrokerConfig> {
        let key = |name: &str| format!("{section}.{name}");
        let parts = self.address.rsplit_once(':');
        let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let Some((host, port)) = parts.filter(|(host, port)| !host.is_empty() && *port > 0) else {
            let right = "must be HOST:PORT, such as broker.example:8883";
            faults.note(&key("address"), format_args!("\"{}\"", self.address), right);
            return None;
        };
        if self.user.is_empty() {
            faults.note(&key("user"), "\"\"", "must be a user of the broker");
            return None;
        }
        let is_here = host == "localhost"
            || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        if self.danger_in_clear && !is_here {
            let right = "is only for a broker on this machine: use TLS";
            faults.note(&key("danger_in_clear"), true, right);
            return None;
        }
        Some(BrokerConfig {
            host: host.to_owned(),
            port,
            user: self.user,
            password_file: folder.join(self.password_file),
            ca: (!self.danger_in_clear).then(|| folder.join(self.ca)),
        })
    }
}

fn password() -> PathBuf {
    "broker.password".into()
}

fn authority() -> PathBuf {
    "ca.pem".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<BrokerConfig, String> {
        let mut faults = Faults::default();
        let raw: RawBroker = toml::from_str(text).unwrap();
        raw.check(&mut faults, "broker", Path::new("/x")).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn a_broker_has_a_name_a_port_and_a_user() {
        let broker = checked("address = 'b.example:8883'\nuser = 'gateway'").unwrap();
        assert_eq!((&*broker.host, broker.port, &*broker.user), ("b.example", 8883, "gateway"));
        assert_eq!(broker.password_file, Path::new("/x/broker.password"));
        assert_eq!(broker.ca.as_deref(), Some(Path::new("/x/ca.pem")));
        let here = checked("address = '127.0.0.1:1883'\nuser = 'g'\ndanger_in_clear = true");
        assert_eq!(here.unwrap().ca, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, parts) in [
            ("address = 'b.example'\nuser = 'g'", ["broker.address", "HOST:PORT"]),
            ("address = ':1'\nuser = 'g'", ["broker.address", "HOST:PORT"]),
            ("address = 'b:1'\nuser = ''", ["broker.user", "a user of the broker"]),
            ("address = 'b:1'\nuser = 'g'\ndanger_in_clear = true", ["danger_in_clear", "use TLS"]),
        ] {
            let told = checked(text).unwrap_err();
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
    }
}
