//! Network connections.

use super::registry::Node;
use crate::inventory::Interface;

/// The class of network adapters.
const CLASS: &str = "{4D36E972-E325-11CE-BFC1-08002BE10318}";

/// Connections that TCP/IP is bound to, with the adapter each belongs to.
pub(super) fn interfaces(set: &Node<'_>) -> Vec<Interface> {
    let bound = set.open("Services\\Tcpip\\Parameters\\Interfaces");
    let names = set.open(&format!("Control\\Network\\{CLASS}"));
    let adapters = adapters(set);
    let read = |key: &Node<'_>| {
        let id = key.name();
        // What has no name is the loopback or a tunnel.
        let connection = names?.open(&id)?.open("Connection")?;
        let adapter = adapters.iter().find(|(of, _)| of.eq_ignore_ascii_case(&id));
        let dhcp = key.number("EnableDHCP").map(|value| value != 0);
        let addresses = if dhcp == Some(true) { "DhcpIPAddress" } else { "IPAddress" };
        Some(Interface {
            name: connection.text("Name"),
            adapter: adapter.map(|(_, name)| name.clone()),
            dhcp,
            addresses: key.texts(addresses).into_iter().filter(|one| one != "0.0.0.0").collect(),
            id,
        })
    };
    bound.map(|key| key.children().iter().filter_map(read).collect()).unwrap_or_default()
}

/// Which connection each adapter has, and what the adapter is.
fn adapters(set: &Node<'_>) -> Vec<(String, String)> {
    let class = set.open(&format!("Control\\Class\\{CLASS}"));
    let read = |key: &Node<'_>| Some((key.text("NetCfgInstanceId")?, key.text("DriverDesc")?));
    class.map(|key| key.children().iter().filter_map(read).collect()).unwrap_or_default()
}
