//! Network adapters keep the names by which the guest configures them.

use std::collections::BTreeSet;

use vdisk_core::Result;

use super::adapters::{self, Adapters};
use super::needs::Needs;
use super::tree::Tree;
use crate::{Action, Plan, Target};

/// Read before systemd's own, of which the first that fits counts (systemd.link(5)).
const LINK: &str = "/etc/systemd/network/10-vdisk";
/// Adapters of one machine.
const MOST_ADAPTERS: usize = 64;
const UDEV: [&str; 3] = [
    "/usr/lib/systemd/systemd-udevd",
    "/lib/systemd/systemd-udevd",
    "/usr/lib/udev/net-setup-link",
];

/// Gives the adapters of the target the names that the settings of guest number `index` are for.
///
/// # Errors
/// The volume's.
pub(super) fn adapt(
    tree: &mut Tree<'_>,
    index: usize,
    target: Target,
    plan: &mut Plan,
) -> Result<()> {
    let names = configured(tree)?;
    if names.len() > MOST_ADAPTERS {
        plan.warn(
            "linux.network.name",
            format!("{} adapters are configured by name: none of them is kept", names.len()),
            "see that the adapters of the new machine get the names they had",
        );
        return Ok(());
    }
    let mut known = Adapters::new();
    if names.len() > 1 {
        // Some of what the settings told `strip` may have taken out of them.
        let mut before = tree.machine().before()?;
        known = adapters::known(&mut Tree::open(&mut before, index)?)?;
    }
    let mut has_udev = false;
    for path in UDEV {
        has_udev |= tree.has(path)?;
    }
    let drivers = Needs::of(target).network.join(" ");
    let links = match links(&names, &known, &drivers) {
        Some(links) if has_udev => links,
        // The kernel's own name for the only one.
        _ if names.is_empty() || names.iter().eq(["eth0"]) => return Ok(()),
        _ => {
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            plan.warn(
                "linux.network.name",
                format!("{names} is configured by name, and no new adapter may get it"),
                "see that the adapters of the new machine get the names they had",
            );
            return Ok(());
        }
    };
    if names.len() > 1 {
        let addresses = names.iter().filter_map(|name| known.get(name));
        let addresses: Vec<String> = addresses.map(|one| format!("--mac {one}")).collect();
        let (message, hint) = if addresses.len() < names.len() {
            let message =
                "several adapters get their names in the order in which the kernel finds them";
            (message, "see that each is in the network it was in".to_owned())
        } else {
            let message =
                "several adapters are told by their addresses, which the new machine must have";
            (message, format!("give it these: vdisk define {}", addresses.join(" ")))
        };
        plan.warn("linux.network.name", message, hint);
    }
    for (path, text, what) in links {
        let old = tree.text(&path)?;
        if old.as_deref() == Some(text.as_str()) {
            continue;
        }
        tree.write(&path, text.as_bytes(), 0o644)?;
        let mut action = Action::new("linux.network.name", what, path)
            .why("the guest configures its network by name, and new adapters would get others")
            .after(text.trim());
        action.before = old;
        plan.act(action);
    }
    Ok(())
}

/// A file, what is in it, and what that does.
type Link = (String, String, String);

/// What tells udev the names; none where nothing does. One adapter is told by its driver, several
/// by the addresses they had; `eth0` and so on are the kernel's own names.
fn links(names: &BTreeSet<String>, known: &Adapters, drivers: &str) -> Option<Vec<Link>> {
    let mut all = names.iter();
    let first = all.next()?;
    if all.next().is_none() {
        let text = format!("[Match]\nDriver={drivers}\n\n[Link]\nName={first}\n");
        return Some(vec![(format!("{LINK}.link"), text, format!("keep the name {first}"))]);
    }
    if names.iter().all(|name| known.contains_key(name)) {
        let link = |name: &String| {
            let address = known.get(name)?;
            let text = format!("[Match]\nMACAddress={address}\n\n[Link]\nName={name}\n");
            Some((format!("{LINK}-{name}.link"), text, format!("keep the name {name}")))
        };
        return Some(names.iter().filter_map(link).collect());
    }
    let of_kernel = (0..names.len()).all(|number| names.contains(&format!("eth{number}")));
    let text = format!("[Match]\nDriver={drivers}\n\n[Link]\nNamePolicy=\n");
    of_kernel.then(|| vec![(format!("{LINK}.link"), text, "keep the kernel's names".to_owned())])
}

/// The names of adapters in all kinds of settings, but for those of interfaces that other settings
/// make: bridges, bonds, VLANs.
pub(super) fn configured(tree: &mut Tree<'_>) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (pattern, read) in SETTINGS {
        for path in tree.glob(pattern)? {
            let Some(text) = tree.text(&path)? else { continue };
            names.extend(read(&path, &text).into_iter().filter(|name| is_adapter(name)));
        }
    }
    for path in tree.glob("/etc/systemd/network/*.netdev")? {
        let Some(text) = tree.text(&path)? else { continue };
        for made in names_in("[NetDev]", &text) {
            names.remove(&made);
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
    names_in("[Match]", text)
}

/// What `Name=` says in one section of systemd's files.
fn names_in(section: &str, text: &str) -> Vec<String> {
    let mut is_there = false;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_there = line == section;
        } else if let Some(value) = line.strip_prefix("Name=").filter(|_| is_there) {
            names.extend(value.split_whitespace().map(str::to_owned));
        }
    }
    names
}

/// The names after `iface`, but for those whose options make them of others (bridge-utils-interfaces(5)
/// and its like).
fn debian(_: &str, text: &str) -> Vec<String> {
    const MADE_BY: [&str; 6] = [
        "bridge_ports",
        "bridge-ports",
        "bond_slaves",
        "bond-slaves",
        "vlan_raw_device",
        "vlan-raw-device",
    ];
    let (mut names, mut made): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("iface") => names.extend(words.next().map(str::to_owned)),
            Some(word) if MADE_BY.contains(&word) => made.extend(names.last().cloned()),
            _ => {}
        }
    }
    names.retain(|name| !made.contains(name));
    names
}

/// The name that is set, or the file's, but for one that is made of others: as Red Hat says it, or
/// SUSE (ifcfg-bonding(5) and its like).
fn ifcfg(path: &str, text: &str) -> Vec<String> {
    const MADE: [&str; 8] = [
        "type=bond",
        "type=bridge",
        "type=team",
        "type=vlan",
        "devicetype=team",
        "vlan=yes",
        "bonding_master=yes",
        "bridge=yes",
    ];
    let is_made = |line: &str| {
        let line = line.trim().replace(['"', '\''], "").to_ascii_lowercase();
        let below = line.strip_prefix("etherdevice=");
        MADE.contains(&line.as_str()) || below.is_some_and(|device| !device.is_empty())
    };
    if text.lines().any(is_made) {
        return Vec::new();
    }
    let set = text.lines().find_map(|line| line.trim().strip_prefix("DEVICE="));
    let name = set.map(|value| value.trim_matches(['"', '\'']).to_owned());
    let of_file = || path.rsplit_once("ifcfg-").map(|(_, name)| name.to_owned());
    name.or_else(of_file).into_iter().collect()
}

/// Whether the keyfile is of an adapter with a wire.
pub(super) fn is_wired(text: &str) -> bool {
    text.lines().any(|line| matches!(line.trim(), "type=ethernet" | "type=802-3-ethernet"))
}

fn network_manager(_: &str, text: &str) -> Vec<String> {
    let is_wired = is_wired(text);
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
        for made in [
            "TYPE=Bridge\n",
            "TYPE=\"Bond\"\n",
            "TYPE=Vlan\n",
            "DEVICETYPE=Team\n",
            "VLAN=yes\n",
            "BONDING_MASTER='yes'\n",
            "BRIDGE='yes'\n",
            "ETHERDEVICE='eth0'\n",
        ] {
            assert!(names(ifcfg, made).is_empty(), "{made}");
        }
        for real in ["TYPE=Ethernet\nBRIDGE=lan\n", "DEVICETYPE=TeamPort\n", "BRIDGE='no'\n"] {
            assert_eq!(names(ifcfg, real), ["em1"], "{real}");
        }
        let bridge = "iface eth0 inet manual\niface lan inet dhcp\n  bridge_ports eth0\niface lan inet6 auto\n";
        assert_eq!(names(debian, bridge), ["eth0"]);
        let keyfile = "[connection]\ntype=ethernet\ninterface-name=ens3\n";
        assert_eq!(names(network_manager, keyfile), ["ens3"]);
        let yaml = "network:\n  version: 2\n  ethernets:\n    ens18:\n      dhcp4: true\n    any:\n      \
                    match:\n        macaddress: x\n      set-name: lan1\n  bonds:\n    b0: {}\n";
        assert_eq!(names(netplan, yaml), ["ens18", "lan1"]);
    }
}
