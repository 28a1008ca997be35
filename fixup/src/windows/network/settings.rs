//! What was set by hand for a network adapter.

use std::net::Ipv4Addr;

use vdisk_core::Result;

use super::super::Registry;

/// Servers of NetBIOS names (WINS) of an adapter.
pub(super) const WINS: &str = "NameServerList";
/// Characters of a DNS name, at most.
const MOST: usize = 253;

/// Settings of one adapter, each of them checked to be what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// Addresses with their masks; empty where a DHCP server gives them.
    pub(super) addresses: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Gateways with their metrics; 0 is left to Windows.
    pub(super) gateways: Vec<(Ipv4Addr, u16)>,
    /// DNS servers.
    pub(super) servers: Vec<Ipv4Addr>,
    /// The connection's DNS suffix.
    pub(super) suffix: Option<String>,
    /// WINS servers.
    pub(super) wins: Vec<Ipv4Addr>,
    /// NetBIOS over TCP/IP: 0 as the DHCP server says, 1 on, 2 off.
    pub(super) netbios: u32,
    /// Values that are not what they should be.
    pub(super) odd: Vec<String>,
}

/// Where TCP/IP keeps its interfaces.
pub(super) fn interfaces(set: &str) -> String {
    format!("{set}\\Services\\Tcpip\\Parameters\\Interfaces")
}

/// Where NetBIOS keeps what is set for an interface.
pub(super) fn netbios(set: &str, guid: &str) -> String {
    format!("{set}\\Services\\NetBT\\Parameters\\Interfaces\\Tcpip_{guid}")
}

impl Settings {
    /// Those of the adapter with that GUID.
    pub(super) fn read(system: &Registry, set: &str, guid: &str) -> Result<Self> {
        let path = format!("{}\\{guid}", interfaces(set));
        let netbios = netbios(set, guid);
        let mut found = Self::default();
        if system.number(&path, "EnableDHCP")? == Some(0) {
            let addresses = found.parse(system.texts(&path, "IPAddress")?, "IPAddress");
            let masks = found.parse(system.texts(&path, "SubnetMask")?, "SubnetMask");
            let gateways = found.parse(system.texts(&path, "DefaultGateway")?, "DefaultGateway");
            if addresses.len() != masks.len() {
                found.odd.push("SubnetMask".to_owned());
            }
            let metrics = system.texts(&path, "DefaultGatewayMetric")?;
            let metric = |at: usize| match metrics.len() == gateways.len() {
                true => metrics.get(at).and_then(|text| text.parse().ok()).unwrap_or(0),
                false => 0,
            };
            found.gateways =
                gateways.iter().enumerate().map(|(at, one)| (*one, metric(at))).collect();
            found.gateways.retain(|(gateway, _)| !gateway.is_unspecified());
            let masks = masks.into_iter().chain(std::iter::repeat(Ipv4Addr::UNSPECIFIED));
            found.addresses = addresses.into_iter().zip(masks).collect();
            found.addresses.retain(|(address, _)| !address.is_unspecified());
        }
        let servers = system.text(&path, "NameServer")?.unwrap_or_default();
        let servers = servers.split([',', ' ']).map(str::to_owned).collect();
        found.servers = found.parse(servers, "NameServer");
        found.suffix = system.text(&path, "Domain")?.filter(|text| !text.is_empty());
        if found.suffix.as_ref().is_some_and(|text| !is_domain(text)) {
            found.suffix = None;
            found.odd.push("Domain".to_owned());
        }
        found.wins = found.parse(system.texts(&netbios, WINS)?, WINS);
        found.netbios = system.number(&netbios, "NetbiosOptions")?.filter(|n| *n <= 2).unwrap_or(0);
        Ok(found)
    }

    /// Whether anything is fixed that a DHCP server would give.
    pub(super) fn is_fixed(&self) -> bool {
        !self.addresses.is_empty() || !self.servers.is_empty() || !self.odd.is_empty()
    }

    /// The addresses in `texts`; what is none is noted as odd.
    fn parse(&mut self, texts: Vec<String>, name: &str) -> Vec<Ipv4Addr> {
        let mut all = Vec::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(address) => all.push(address),
                Err(_) => self.odd.push(name.to_owned()),
            }
        }
        all
    }

    /// For people, in one line.
    pub(super) fn show(&self) -> String {
        let mut parts = Vec::new();
        for (address, mask) in &self.addresses {
            parts.push(format!("address {address} mask {mask}"));
        }
        for (gateway, metric) in &self.gateways {
            let metric = if *metric == 0 { String::new() } else { format!(" metric {metric}") };
            parts.push(format!("gateway {gateway}{metric}"));
        }
        parts.extend(self.servers.iter().map(|server| format!("DNS server {server}")));
        parts.extend(self.suffix.iter().map(|suffix| format!("DNS suffix {suffix}")));
        parts.extend(self.wins.iter().map(|server| format!("WINS server {server}")));
        match self.netbios {
            1 => parts.push("NetBIOS on".to_owned()),
            2 => parts.push("NetBIOS off".to_owned()),
            _ => {}
        }
        parts.extend(self.odd.iter().map(|name| format!("{name} cannot be read")));
        parts.join(", ")
    }
}

/// Letters, digits, hyphens, underscores and dots, as names in DNS are written.
fn is_domain(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.len() <= MOST && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_dns_hold_no_code() {
        assert!(is_domain("shieldbase.local") && is_domain("_x-1"));
        for bad in ["a'b", "a;b", "a b", "$(x)", "\u{2019}", "a\nb", "\"", "a`b"] {
            assert!(!is_domain(bad), "{bad:?}");
        }
    }
}
