//! The hive `SYSTEM`.

use vdisk_hive::Hive;

use super::{network, registry::Node, services};
use crate::inventory::{Role, System, Windows};
use crate::notes::Notes;

pub(super) fn read(hive: &Hive, system: &mut System, windows: &mut Windows, notes: &Notes) {
    let Some(root) = Node::root(hive, notes) else { return };
    let Some(set) = root.control_set() else {
        notes.add("SYSTEM has no control set that could be in use");
        return;
    };
    system.hostname = hostname(&set);
    system.time_zone = time_zone(&set);
    system.arch = arch(&set);
    system.drivers = services::drivers(&set);
    windows.role = role(&set);
    windows.fast_startup = fast_startup(&set);
    windows.hardware = hardware(&root, &set);
    windows.interfaces = network::interfaces(&set);
}

/// The DNS name where there is one, since the other is cut at 15 characters.
fn hostname(set: &Node<'_>) -> Option<String> {
    let tcpip = set.open("Services\\Tcpip\\Parameters");
    tcpip
        .and_then(|key| key.text("NV Hostname").or_else(|| key.text("Hostname")))
        .or_else(|| set.open("Control\\ComputerName\\ComputerName")?.text("ComputerName"))
}

/// The key's name from Vista on; before it, the name in the system's language.
fn time_zone(set: &Node<'_>) -> Option<String> {
    let key = set.open("Control\\TimeZoneInformation")?;
    key.text("TimeZoneKeyName").or_else(|| key.text("StandardName"))
}

fn arch(set: &Node<'_>) -> Option<&'static str> {
    let key = set.open("Control\\Session Manager\\Environment")?;
    match key.text("PROCESSOR_ARCHITECTURE")?.to_ascii_lowercase().as_str() {
        "x86" => Some("x86"),
        "amd64" => Some("x86_64"),
        "arm64" => Some("arm64"),
        "ia64" => Some("ia64"),
        _ => None,
    }
}

fn role(set: &Node<'_>) -> Option<Role> {
    match set.open("Control\\ProductOptions")?.text("ProductType")?.as_str() {
        "WinNT" => Some(Role::Workstation),
        "ServerNT" => Some(Role::Server),
        "LanmanNT" => Some(Role::DomainController),
        _ => None,
    }
}

/// Windows 8 and later; on where the value is absent is not known, so that is told as unknown.
fn fast_startup(set: &Node<'_>) -> Option<bool> {
    let key = set.open("Control\\Session Manager\\Power")?;
    key.number("HiberbootEnabled").map(|value| value != 0)
}

/// As the firmware told it when the system started last: manufacturer and product.
fn hardware(root: &Node<'_>, set: &Node<'_>) -> Option<String> {
    let of_last_start = || {
        let all = root.open("HardwareConfig")?;
        all.open(&all.text("LastConfig")?)
    };
    let key = set.open("Control\\SystemInformation").or_else(of_last_start)?;
    let words = ["SystemManufacturer", "SystemProductName"].map(|name| key.text(name));
    let words: Vec<String> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(" "))
}
