//! Taking a port, or saying why it cannot be had.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another program has the port: stop it, or take another port.
    #[error(
        "{transport} {port} is occupied on {host}: stop the other program or choose another with --port-base"
    )]
    Occupied {
        /// What was asked for.
        transport: Transport,
        /// The port.
        port: u16,
        /// The address of this machine.
        host: IpAddr,
    },
    /// Ports below 1024 need a privilege: choose a higher one.
    #[error(
        "{transport} {port} needs a privilege on {host}: choose one above 1023 with --port-base"
    )]
    Forbidden {
        /// What was asked for.
        transport: Transport,
        /// The port.
        port: u16,
        /// The address of this machine.
        host: IpAddr,
    },
    /// No interface of this machine has the address: correct it.
    #[error("{host} is not an address of this machine: choose one that `ip address` lists")]
    NotHere {
        /// The address.
        host: IpAddr,
    },
    /// The system refused for another reason, given as the source.
    #[error("cannot listen on {transport} {port} of {host}")]
    Failed {
        /// What was asked for.
        transport: Transport,
        /// The port.
        port: u16,
        /// The address of this machine.
        host: IpAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// What kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A stream.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "port",
            Self::Udp => "UDP port",
        })
    }
}

/// Listens for connections; port 0 takes any free one.
pub async fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|e| refusal(Transport::Tcp, address, e))
}

/// Listens for datagrams; port 0 takes any free one.
pub async fn udp(address: SocketAddr) -> Result<UdpSocket, ListenError> {
    UdpSocket::bind(address).await.map_err(|e| refusal(Transport::Udp, address, e))
}

fn refusal(transport: Transport, address: SocketAddr, source: io::Error) -> ListenError {
    let (host, port) = (address.ip(), address.port());
    match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::Occupied { transport, port, host },
        io::ErrorKind::PermissionDenied => ListenError::Forbidden { transport, port, host },
        io::ErrorKind::AddrNotAvailable => ListenError::NotHere { host },
        _ => ListenError::Failed { transport, port, host, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_occupied_port_is_named_with_its_remedy() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let first = tcp(any).await.unwrap();
        let address = first.local_addr().unwrap();
        let remedy =
            "is occupied on 127.0.0.1: stop the other program or choose another with --port-base";
        let refused = tcp(address).await.unwrap_err().to_string();
        assert_eq!(refused, format!("port {} {remedy}", address.port()));

        let first = udp(any).await.unwrap();
        let address = first.local_addr().unwrap();
        let refused = udp(address).await.unwrap_err().to_string();
        assert_eq!(refused, format!("UDP port {} {remedy}", address.port()));
    }

    #[tokio::test]
    async fn a_foreign_address_is_named() {
        // 192.0.2.0/24 is reserved for documentation (RFC 5737).
        let refused = tcp("192.0.2.1:0".parse().unwrap()).await.unwrap_err();
        assert!(matches!(refused, ListenError::NotHere { .. }), "{refused}");
    }
}
