//! Network settings that are tied to an adapter's hardware address.

use vdisk_core::Result;

use super::lines_that_differ;
use super::tree::Tree;
use crate::{Action, Plan};

/// What one kind of file becomes.
type Untie = fn(&str) -> String;

const SETTINGS: [(&str, Untie); 6] = [
    ("/etc/systemd/network/*.network", networkd),
    ("/etc/sysconfig/network-scripts/ifcfg-*", ifcfg),
    ("/etc/sysconfig/network/ifcfg-*", ifcfg),
    ("/etc/NetworkManager/system-connections/*", network_manager),
    ("/etc/netplan/*.yaml", netplan),
    ("/etc/netplan/*.yml", netplan),
];

/// Unties them.
///
/// # Errors
/// The volume's.
pub(super) fn remove(tree: &mut Tree<'_>, plan: &mut Plan) -> Result<()> {
    for (pattern, untie) in SETTINGS {
        for path in tree.glob(pattern)? {
            let Some(old) = tree.text(&path)? else { continue };
            let new = untie(&old);
            if new == old {
                continue;
            }
            tree.write(&path, new.as_bytes(), 0o600)?;
            let (before, after) = lines_that_differ(&old, &new);
            plan.act(
                Action::new("linux.net.mac-pin", "untie it from the adapter's address", path)
                    .why("the new adapter has another address, and would stay without settings")
                    .before(before)
                    .after(after),
            );
        }
    }
    Ok(())
}

/// The address goes; where it was all there was, any wired adapter fits.
fn networkd(text: &str) -> String {
    const ADDRESSES: [&str; 2] = ["MACAddress=", "PermanentMACAddress="];
    let is_address = |line: &str| ADDRESSES.iter().any(|key| line.trim().starts_with(key));
    let mut others = 0;
    let mut in_match = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_match = line == "[Match]";
        } else if in_match && line.contains('=') && !line.starts_with('#') && !is_address(line) {
            others += 1;
        }
    }
    let mut in_match = false;
    let mut said = others > 0;
    let mut new = String::new();
    for line in text.split_inclusive('\n') {
        if line.trim().starts_with('[') {
            in_match = line.trim() == "[Match]";
        }
        if !(in_match && is_address(line)) {
            new.push_str(line);
        } else if !said {
            new.push_str("Name=en* eth*\n");
            said = true;
        }
    }
    new
}

fn ifcfg(text: &str) -> String {
    without(text, |line| line.starts_with("HWADDR="))
}

fn network_manager(text: &str) -> String {
    without(text, |line| line.starts_with("mac-address="))
}

fn without(text: &str, goes: impl Fn(&str) -> bool) -> String {
    text.split_inclusive('\n').filter(|line| !goes(line.trim())).collect()
}

/// Below `match:` the address becomes a pattern of names; elsewhere it sets one, and stays.
fn netplan(text: &str) -> String {
    let mut in_match: Option<usize> = None;
    let mut new = String::new();
    for line in text.split_inclusive('\n') {
        let body = line.trim();
        let depth = line.len() - line.trim_start().len();
        if !body.is_empty() && in_match.is_some_and(|start| depth <= start) {
            in_match = None;
        }
        if body == "match:" {
            in_match = Some(depth);
        }
        if in_match.is_some() && body.starts_with("macaddress:") {
            new.push_str(line.get(..depth).unwrap_or_default());
            new.push_str("name: \"e*\"\n");
        } else {
            new.push_str(line);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_and_what_else_is_said_stays() {
        let both = "[Match]\nMACAddress=52:54:00:12:34:56\nName=lan0\n[Link]\nMACAddress=x\n";
        assert_eq!(networkd(both), "[Match]\nName=lan0\n[Link]\nMACAddress=x\n");
        let alone = "[Match]\nMACAddress=52:54:00:12:34:56\n\n[Network]\nDHCP=yes\n";
        assert_eq!(networkd(alone), "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n");
        assert_eq!(ifcfg("DEVICE=a\nHWADDR=\"b\"\n"), "DEVICE=a\n");
        let yaml = "ethernets:\n  lan:\n    match:\n      macaddress: a\n    set-name: lan\n    macaddress: b\n";
        assert_eq!(
            netplan(yaml),
            "ethernets:\n  lan:\n    match:\n      name: \"e*\"\n    set-name: lan\n    macaddress: b\n"
        );
        for (untie, text) in [(networkd as Untie, both), (networkd, alone), (netplan, yaml)] {
            assert_eq!(untie(&untie(text)), untie(text));
        }
    }
}
