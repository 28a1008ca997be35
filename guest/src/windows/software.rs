//! The hive `SOFTWARE`.

use vdisk_hive::Hive;

use super::registry::Node;
use crate::inventory::{System, Windows};
use crate::notes::Notes;

/// The first build that is called Windows 11, although `ProductName` still says 10.
const WINDOWS_11: u32 = 22_000;

pub(super) fn read(hive: &Hive, system: &mut System, windows: &mut Windows, notes: &Notes) {
    let Some(root) = Node::root(hive, notes) else { return };
    system.identity.machine_guid =
        root.open("Microsoft\\Cryptography").and_then(|key| key.text("MachineGuid"));
    let Some(key) = root.open("Microsoft\\Windows NT\\CurrentVersion") else {
        notes.add("SOFTWARE does not tell the version of Windows");
        return;
    };
    let build = key.text("CurrentBuildNumber").or_else(|| key.text("CurrentBuild"));
    windows.build = build.and_then(|text| text.parse().ok());
    windows.edition = key.text("EditionID");
    windows.release = key.text("DisplayVersion").or_else(|| key.text("ReleaseId"));
    windows.service_pack = key.text("CSDVersion");
    windows.installation_type = key.text("InstallationType");
    system.version = version(&key, windows.build);
    system.product = key.text("ProductName").map(|name| product(name, windows.build));
}

/// `MAJOR.MINOR.BUILD.REVISION`, as far as it is known.
fn version(key: &Node<'_>, build: Option<u32>) -> Option<String> {
    // From Windows 10 on `CurrentVersion` stays at 6.3, and these are the truth.
    let numbers = ["CurrentMajorVersionNumber", "CurrentMinorVersionNumber"];
    let mut version = match numbers.map(|name| key.number(name)) {
        [Some(major), Some(minor)] => format!("{major}.{minor}"),
        _ => key.text("CurrentVersion")?,
    };
    for part in [build, key.number("UBR")] {
        let Some(part) = part else { break };
        version += &format!(".{part}");
    }
    Some(version)
}

fn product(name: String, build: Option<u32>) -> String {
    match name.strip_prefix("Windows 10") {
        Some(rest) if build >= Some(WINDOWS_11) => format!("Windows 11{rest}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::product;

    #[test]
    fn windows_11_calls_itself_10() {
        let name = |name: &str, build| product(name.into(), build);
        assert_eq!(name("Windows 10 Pro", Some(22_631)), "Windows 11 Pro");
        assert_eq!(name("Windows 10 Pro", Some(19_045)), "Windows 10 Pro");
        assert_eq!(name("Windows 10 Pro", None), "Windows 10 Pro");
        assert_eq!(
            name("Windows Server 2025 Standard", Some(26_100)),
            "Windows Server 2025 Standard"
        );
    }
}
