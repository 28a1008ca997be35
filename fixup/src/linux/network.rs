//! The network adapter keeps the name by which the guest configures it.

use std::collections::BTreeSet;

use vdisk_core::Result;

use super::needs::Needs;
use super::tree::Tree;
use crate::{Action, Plan, Target};

/// Read before systemd's own, of which the first that fits counts (systemd.link(5)).
const LINK: &str = "/etc/systemd/network/10-vdisk.link";
const UDEV: [&str; 3] = [
    "/usr/lib/systemd/systemd-udevd",
    "/lib/systemd/systemd-udevd",
    "/usr/lib/udev/net-setup-link",
];

/// Gives the adapter of the target the name that the guest's settings are for.
///
/// # Errors
/// The volume's.
pub(super) fn adapt(tree: &mut Tree<'_>, target: Target, plan: &mut Plan) -> Result<()> {
    let names = configured(tree)?;
    let mut names = names.into_iter();
    let (Some(name), rest) = (names.next(), names.collect::<Vec<_>>()) else { return Ok(()) };
    if !rest.is_empty() {
        plan.warn(
            "linux.network.name",
            format!("{name}, {} are configured by name", rest.join(", ")),
            "see that the adapters of the new machine get the names they had",
        );
        return Ok(());
    }
    let mut has_udev = false;
    for path in UDEV {
        has_udev |= tree.has(path)?;
    }
    if !has_udev {
        if name != "eth0" {
            let message = format!("{name} is configured, and the adapter may get another name");
            plan.warn("linux.network.name", message, "");
        }
        return Ok(());
    }
    let drivers = Needs::of(target).network.join(" ");
    let link = format!("[Match]\nDriver={drivers}\n\n[Link]\nName={name}\n");
    let old = tree.text(LINK)?;
    if old.as_deref() == Some(link.as_str()) {
        return Ok(());
    }
    tree.write(LINK, link.as_bytes(), 0o644)?;
    let mut action = Action::new("linux.network.name", format!("keep the name {name}"), LINK)
        .why("the guest configures its network by this name, which the new adapter would not get")
        .after(link.trim());
    action.before = old;
    plan.act(action);
    Ok(())
}

/// The names of adapters in all kinds of settings.
fn configured(tree: &mut Tree<'_>) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (pattern, read) in SETTINGS {
        for path in tree.glob(pattern)? {
            let Some(text) = tree.text(&path)? else { continue };
            names.extend(read(&path, &text).into_iter().filter(|name| is_adapter(name)));
        }
    }
    Ok(names)
}

/// The names in the text at a path.
type Read = fn(&str, &str) -> Vec<String>;

const SETTINGS: [(&str, Read); 8] = [
    ("/etc/systemd/network/*.network", networkd),
    ("/etc/network/interfaces", debian),
    ("/etc/network/interfaces.d/*", debian),
    ("/etc/sysconfig/network-scripts/ifcfg-*", ifcfg),
    ("/etc/sysconfig/network/ifcfg-*", ifcfg),
    ("/etc/NetworkManager/system-connections/*", network_manager),
    ("/etc/netplan/*.yaml", netplan),
    ("/etc/netplan/*.yml", netplan),
];

fn networkd(_: &str, text: &str) -> Vec<String> {
    let mut in_match = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_match = line == "[Match]";
        } else if let Some(value) = line.strip_prefix("Name=").filter(|_| in_match) {
            names.extend(value.split_whitespace().map(str::to_owned));
        }
    }
    names
}

fn debian(_: &str, text: &str) -> Vec<String> {
    let name = |line: &str| {
        Some(line.trim().strip_prefix("iface ")?.split_whitespace().next()?.to_owned())
    };
    text.lines().filter_map(name).collect()
}

fn ifcfg(path: &str, text: &str) -> Vec<String> {
    let set = text.lines().find_map(|line| line.trim().strip_prefix("DEVICE="));
    let name = set.map(|value| value.trim_matches(['"', '\'']).to_owned());
    let of_file = || path.rsplit_once("ifcfg-").map(|(_, name)| name.to_owned());
    name.or_else(of_file).into_iter().collect()
}

fn network_manager(_: &str, text: &str) -> Vec<String> {
    let is_wired =
        text.lines().any(|line| matches!(line.trim(), "type=ethernet" | "type=802-3-ethernet"));
    let name = |line: &str| Some(line.trim().strip_prefix("interface-name=")?.to_owned());
    text.lines().filter(|_| is_wired).filter_map(name).collect()
}

/// The keys below `ethernets:`, but for those that only stand for what a `match:` finds.
fn netplan(_: &str, text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let (mut section, mut keys) = (None, None);
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let body = line.trim();
        let depth = line.len() - line.trim_start().len();
        if body.is_empty() {
            continue;
        }
        if body == "ethernets:" {
            (section, keys) = (Some(depth), None);
            continue;
        }
        let Some(start) = section else { continue };
        if depth <= start {
            section = None;
            continue;
        }
        let key_depth = *keys.get_or_insert(depth);
        if depth == key_depth {
            names.extend(
                body.split_once(':').map(|(key, _)| key.trim_matches(['"', '\'']).to_owned()),
            );
        } else if body.starts_with("match:") {
            names.pop();
        } else if let Some(name) = body.strip_prefix("set-name:") {
            names.push(name.trim().trim_matches(['"', '\'']).to_owned());
        }
    }
    names
}

/// Whether the name is of one real adapter.
fn is_adapter(name: &str) -> bool {
    const VIRTUAL: [&str; 14] = [
        "lo", "bond", "team", "br", "virbr", "docker", "vlan", "veth", "tun", "tap", "wl", "wg",
        "ww", "dummy",
    ];
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let is_virtual = |kind: &str| match kind {
        "lo" => name == "lo",
        kind => name.starts_with(kind),
    };
    // IFNAMSIZ of Linux is 16, with a zero.
    !name.is_empty()
        && name.len() < 16
        && name.chars().all(plain)
        && !VIRTUAL.iter().any(|kind| is_virtual(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(read: Read, text: &str) -> Vec<String> {
        read("/x/ifcfg-em1", text).into_iter().filter(|name| is_adapter(name)).collect()
    }

    #[test]
    fn names_are_found_in_all_kinds_of_settings() {
        assert_eq!(names(networkd, "[Match]\nName=lan0\n[Network]\nName=x\n"), ["lan0"]);
        assert!(names(networkd, "[Match]\nName=en*\n").is_empty());
        assert_eq!(
            names(debian, "auto lo\niface lo inet x\n iface enp0s3 inet dhcp\n"),
            ["enp0s3"]
        );
        assert!(names(debian, "iface eth0.5 inet dhcp\niface br0 inet static\n").is_empty());
        assert_eq!(names(ifcfg, "DEVICE=\"eth0\"\n"), ["eth0"]);
        assert_eq!(names(ifcfg, "BOOTPROTO=dhcp\n"), ["em1"]);
        let keyfile = "[connection]\ntype=ethernet\ninterface-name=ens3\n";
        assert_eq!(names(network_manager, keyfile), ["ens3"]);
        let yaml = "network:\n  version: 2\n  ethernets:\n    ens18:\n      dhcp4: true\n    any:\n      \
                    match:\n        macaddress: x\n      set-name: lan1\n  bonds:\n    b0: {}\n";
        assert_eq!(names(netplan, yaml), ["ens18", "lan1"]);
    }
}
