//! The ports of a network on one machine.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Serialize;

/// Where the roles listen, all on loopback.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ports {
    /// ETSI GS QKD 014 at site A.
    pub kme_a: SocketAddr,
    /// ETSI GS QKD 014 at site B.
    pub kme_b: SocketAddr,
    /// IDQ3P at site A, UDP.
    pub idq3p_a: SocketAddr,
    /// IDQ3P at site B, UDP.
    pub idq3p_b: SocketAddr,
    /// The gateway's key service, HTTPS.
    pub gateway_keys: SocketAddr,
    /// The gateway's broker, MQTT over TLS.
    pub gateway_mqtt: SocketAddr,
    /// The gateway's key service for pre-shared keys, HTTPS.
    pub gateway_psk: SocketAddr,
    /// The gateway's broker for pre-shared keys, MQTT over TLS.
    pub gateway_mqtt_psk: SocketAddr,
    /// The gateway's key service by CoAP, UDP.
    pub gateway_coap: SocketAddr,
    /// The platform's service, HTTPS.
    pub platform: SocketAddr,
    /// The platform's broker, MQTT over TLS.
    pub platform_mqtt: SocketAddr,
    /// Records between gateway and platform.
    pub platform_records: SocketAddr,
    /// Records between the key management entities.
    pub kme_records: SocketAddr,
    /// The classical channel.
    pub classical: SocketAddr,
    /// Blocks from the QKD node at A.
    pub node_a: SocketAddr,
    /// Blocks from the QKD node at B.
    pub node_b: SocketAddr,
    /// The light on Alice's side.
    pub light_a: SocketAddr,
    /// The light on Bob's side.
    pub light_b: SocketAddr,
    /// Switches of the network, OpenFlow in clear.
    pub openflow: SocketAddr,
    /// Switches of the network, OpenFlow over TLS.
    pub openflow_tls: SocketAddr,
    /// The controller's service, HTTPS.
    pub controller: SocketAddr,
    /// The cables of emulated devices.
    pub lan: SocketAddr,
}

impl Ports {
    /// How many ports are used, from the base on.
    pub const COUNT: u16 = 22;

    /// Numbers the ports from `base` on; `None` where they would pass 65535.
    #[must_use]
    pub fn from_base(base: u16) -> Option<Self> {
        base.checked_add(Self::COUNT - 1)?;
        let at = |n: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, base + n));
        Some(Self {
            kme_a: at(0),
            kme_b: at(1),
            idq3p_a: at(2),
            idq3p_b: at(3),
            gateway_keys: at(4),
            gateway_mqtt: at(5),
            platform: at(6),
            platform_mqtt: at(7),
            platform_records: at(8),
            kme_records: at(9),
            classical: at(10),
            node_a: at(11),
            node_b: at(12),
            light_a: at(13),
            light_b: at(14),
            openflow: at(15),
            openflow_tls: at(16),
            controller: at(17),
            lan: at(18),
            gateway_psk: at(19),
            gateway_mqtt_psk: at(20),
            gateway_coap: at(21),
        })
    }

    /// Returns where connections are listened for.
    #[must_use]
    pub const fn tcp(&self) -> [SocketAddr; 19] {
        [
            self.kme_a,
            self.kme_b,
            self.gateway_keys,
            self.gateway_mqtt,
            self.platform,
            self.platform_mqtt,
            self.platform_records,
            self.kme_records,
            self.classical,
            self.node_a,
            self.node_b,
            self.light_a,
            self.light_b,
            self.openflow,
            self.openflow_tls,
            self.controller,
            self.lan,
            self.gateway_psk,
            self.gateway_mqtt_psk,
        ]
    }

    /// Returns where datagrams are listened for.
    #[must_use]
    pub const fn udp(&self) -> [SocketAddr; 3] {
        [self.idq3p_a, self.idq3p_b, self.gateway_coap]
    }
}
