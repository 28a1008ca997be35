//! Network adapters that a Windows knows.

use vdisk_core::Result;

use super::super::devices::{self, Device};
use super::super::{Reason, Registry};
use crate::{Plan, StripOptions};

/// The class of network adapters.
pub(super) const NET: &str = "{4D36E972-E325-11CE-BFC1-08002BE10318}";

/// Buses that cards hang on, be they of metal or a hypervisor's. What programs make (`ROOT`, `SWD`,
/// `SW`, `BTH`, children of Wi-Fi cards) moves with Windows.
const HARDWARE: [&str; 11] = [
    "PCI", "PCMCIA", "USB", "SD", "ISAPNP", "VMBUS", "XEN", "XENBUS", "XENVIF", "B06BDRV", "EBDRV",
];

/// Adapters made of others, by the beginning of their `ComponentId` behind its bus.
const TEAMS: [(&str, &str); 6] = [
    ("ms_implat", "a team of network cards"),
    ("vms_", "a virtual switch of Hyper-V"),
    ("ms_bridge", "a bridge of network cards"),
    ("iansminiport", "a team of Intel's network cards"),
    ("brcm_blf", "a team of Broadcom's network cards"),
    ("cpqteam", "a team of HP's network cards"),
];

/// A network adapter.
#[derive(Clone, Debug)]
pub(super) struct Adapter {
    /// Its GUID in braces, as its driver's key has it.
    pub(super) guid: String,
    /// Its driver's key, from the hive's root on.
    pub(super) class: String,
    /// The device; none where nothing in `Enum` has that driver.
    pub(super) device: Option<Device>,
    /// What it is, for people.
    pub(super) description: String,
    /// Its name among the network connections.
    pub(super) connection: Option<String>,
    /// What NDIS knows it by, as eight bytes in hex.
    pub(super) luid: Option<String>,
    component: String,
}

impl Adapter {
    /// The device, where it is a card of the machine.
    pub(super) fn card(&self) -> Option<&Device> {
        self.device.as_ref().filter(|device| device.is_on(&HARDWARE))
    }

    /// What it is, where it is made of other adapters.
    fn team(&self) -> Option<&'static str> {
        let component = self.component.rsplit('\\').next().unwrap_or_default();
        let found = TEAMS.iter().find(|(start, _)| devices::starts_with(component, start));
        found.map(|(_, what)| *what)
    }

    /// Its name for people.
    pub(super) fn name(&self) -> &str {
        self.connection.as_deref().unwrap_or(&self.description)
    }

    /// Whether `text` names it.
    pub(super) fn is_in(&self, text: &str) -> bool {
        text.to_ascii_lowercase().contains(&self.guid.to_ascii_lowercase())
    }
}

/// All adapters of a control set.
pub(super) fn list(system: &Registry, set: &str) -> Result<Vec<Adapter>> {
    let all = devices::list(system, set)?;
    let class = format!("{set}\\Control\\Class\\{NET}");
    let mut found = Vec::new();
    for number in system.children(&class)? {
        let path = format!("{class}\\{number}");
        let Some(guid) = system.text(&path, "NetCfgInstanceId")?.filter(|one| is_guid(one)) else {
            continue;
        };
        let driver = format!("{NET}\\{number}");
        let has_it = |one: &&Device| {
            one.driver.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(&driver))
        };
        let connection = format!("{set}\\Control\\Network\\{NET}\\{guid}\\Connection");
        found.push(Adapter {
            device: all.iter().find(has_it).cloned(),
            description: system.text(&path, "DriverDesc")?.unwrap_or_else(|| guid.clone()),
            connection: system.text(&connection, "Name")?,
            luid: luid(system, &path)?,
            component: system.text(&path, "ComponentId")?.unwrap_or_default(),
            class: path,
            guid,
        });
    }
    Ok(found)
}

/// Names what is made of cards that stay behind.
pub(super) fn warn_of_teams(adapters: &[Adapter], plan: &mut Plan) {
    for (adapter, what) in adapters.iter().filter_map(|one| one.team().map(|what| (one, what))) {
        plan.warn(
            "windows.network.team",
            format!("{} is {what} ({})", adapter.name(), adapter.description),
            "it stays, without the cards it was made of: take it apart in the guest, before the \
             move or after it",
        );
    }
}

/// Forgets addresses of cards that were set by hand.
pub(super) fn forget_addresses(
    system: &mut Registry,
    set: &str,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let reason = Reason {
        id: "windows.network.address",
        what: "forget an address of a network card",
        why: "two cards with one address cannot be in one network",
    };
    if options.keeps(reason.id) {
        return Ok(());
    }
    let class = format!("{set}\\Control\\Class\\{NET}");
    for path in system.children(&class)?.iter().map(|number| format!("{class}\\{number}")) {
        let address = system.text(&path, "NetworkAddress")?;
        if address.is_some_and(|address| !address.is_empty()) {
            system.delete_value(plan, reason, &path, "NetworkAddress")?;
        }
    }
    Ok(())
}

/// Braces, 32 hexadecimal digits, four hyphens.
fn is_guid(text: &str) -> bool {
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inner.is_some_and(|inner| inner.len() == 36 && uuid::Uuid::try_parse(inner).is_ok())
}

/// `NET_LUID`: three bytes of nothing, three of an index, two of the type of interface.
fn luid(system: &Registry, class: &str) -> Result<Option<String>> {
    let index = system.number(class, "NetLuidIndex")?;
    let kind = system.number(class, "*IfType")?;
    let (Some(index), Some(kind)) = (index, kind) else { return Ok(None) };
    let ([a, b, c, 0], [d, e, 0, 0]) = (index.to_le_bytes(), kind.to_le_bytes()) else {
        return Ok(None);
    };
    Ok(Some(format!("000000{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_told_from_what_is_none() {
        assert!(is_guid("{698E50A9-4F58-4D86-B61D-F42E58DCACF6}"));
        for bad in ["", "{}", "{1}", "698E50A9-4F58-4D86-B61D-F42E58DCACF6", "{..\\..}"] {
            assert!(!is_guid(bad), "{bad}");
        }
    }
}
