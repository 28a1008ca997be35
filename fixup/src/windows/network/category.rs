//! Whether a network was private, which opens more of the firewall than a public one.

use vdisk_core::Result;

use super::super::Registry;
use super::adapter::Adapter;

const LIST: &str = "Microsoft\\Windows NT\\CurrentVersion\\NetworkList";
/// `Category` of a profile: private.
const PRIVATE: u32 = 1;

/// Whether the network that an adapter was last seen in is a private one. Windows notes for each
/// adapter the gateway it had, and knows networks by their gateways.
pub(super) fn was_private(software: &Registry, adapter: &Adapter) -> Result<bool> {
    let cache = format!("{LIST}\\Nla\\Cache\\Intranet");
    let Some(gateway) = software.value(&cache, &adapter.guid)? else { return Ok(false) };
    let gateway = gateway.data()?;
    for kind in ["Managed", "Unmanaged"] {
        let signatures = format!("{LIST}\\Signatures\\{kind}");
        for name in software.children(&signatures)? {
            let path = format!("{signatures}\\{name}");
            let Some(mac) = software.value(&path, "DefaultGatewayMac")? else { continue };
            let Some(profile) = software.text(&path, "ProfileGuid")? else { continue };
            if mac.data()? != gateway {
                continue;
            }
            let profile = format!("{LIST}\\Profiles\\{profile}");
            if software.number(&profile, "Category")? == Some(PRIVATE) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
