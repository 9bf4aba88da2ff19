//! The cards of one network namespace, by rtnetlink.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use claviger_units::MacAddr;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio::runtime::Runtime;

use crate::lab::{LabError, system};

/// The cards of the namespace in which this thread worked when they were opened.
pub(crate) struct Cards {
    runtime: Runtime,
    handle: Handle,
}

impl Cards {
    /// Opens the cards of this thread's namespace.
    pub(crate) fn open() -> Result<Self, LabError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(system("speaking to the kernel"))?;
        let entered = runtime.enter();
        let connected = rtnetlink::new_connection().map_err(system("speaking to the kernel"));
        let (connection, handle, _) = connected?;
        drop(entered);
        drop(runtime.spawn(connection));
        Ok(Self { runtime, handle })
    }

    /// Lays a cable between two new cards, of which the near one is up. The far one may be put into
    /// another namespace; the kernel cannot switch it on before the cable is there.
    ///
    /// A card of a host has a fixed address, which is that of `near`.
    pub(crate) fn add_cable(
        &self,
        near: (&str, Option<MacAddr>),
        far: (&str, Option<&File>),
    ) -> Result<(), LabError> {
        let ((near, mac), (far, elsewhere)) = (near, far);
        let mut end = LinkMessageBuilder::<LinkUnspec>::new().name(far);
        if let Some(namespace) = elsewhere {
            end = end.setns_by_fd(namespace.as_raw_fd());
        }
        let mut cable = LinkVeth::new(near, far).up();
        if let Some(mac) = mac {
            cable = cable.address(mac.as_bytes().to_vec());
        }
        let cable = cable.set_info_data(InfoData::Veth(InfoVeth::Peer(end.build()))).build();
        let adding = self.handle.link().add(cable).execute();
        self.runtime.block_on(adding).map_err(kernel(&format!("laying the cable {near} to {far}")))
    }

    /// Switches a card on.
    pub(crate) fn bring_up(&self, name: &str) -> Result<(), LabError> {
        self.change(LinkUnspec::new_with_name(name).up().build(), name)
    }

    /// Gives a card a hardware address, be it the one that it has.
    pub(crate) fn set_mac(&self, name: &str, mac: MacAddr) -> Result<(), LabError> {
        let change = LinkUnspec::new_with_name(name).address(mac.as_bytes().to_vec()).build();
        self.change(change, name)
    }

    /// Gives a card of this thread's namespace an address.
    pub(crate) fn add_address(
        &self,
        name: &str,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), LabError> {
        let what = format!("giving {name} the address {address}/{prefix}");
        let index = if_nametoindex(name).map_err(std::io::Error::from).map_err(system(&what))?;
        let adding = self.handle.address().add(index, address.into(), prefix).execute();
        self.runtime.block_on(adding).map_err(kernel(&what))
    }

    fn change(&self, change: LinkMessage, name: &str) -> Result<(), LabError> {
        let changing = self.handle.link().change(change).execute();
        self.runtime.block_on(changing).map_err(kernel(&format!("changing the card {name}")))
    }
}

fn kernel(what: &str) -> impl FnOnce(rtnetlink::Error) -> LabError {
    let what = what.to_owned();
    move |source| LabError::Kernel { what, source }
}
