//! Network settings that are tied to an adapter's hardware address.

use vdisk_core::Result;

use super::tree::Tree;
use super::{adapters, lines_that_differ, network, some};
use crate::{Action, Plan};

/// What one kind of file becomes.
type Untie = fn(&str) -> Untied;

/// A text without addresses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Untied {
    text: String,
    /// How many of its settings fit any adapter now.
    open: usize,
    /// How many of those name none.
    nameless: usize,
}

const SETTINGS: [(&str, Untie); 6] = [
    ("/etc/systemd/network/*.network", networkd),
    ("/etc/sysconfig/network-scripts/ifcfg-*", ifcfg),
    ("/etc/sysconfig/network/ifcfg-*", ifcfg),
    ("/etc/NetworkManager/system-connections/*", network_manager),
    ("/etc/netplan/*.yaml", netplan),
    ("/etc/netplan/*.yml", netplan),
];

/// Unties them, but for what would fit several adapters then.
///
/// # Errors
/// The volume's.
pub(super) fn remove(tree: &mut Tree<'_>, plan: &mut Plan) -> Result<()> {
    let mut adapters = network::configured(tree)?.len();
    let mut files = Vec::new();
    for (pattern, untie) in SETTINGS {
        for path in tree.glob(pattern)? {
            let Some(old) = tree.text(&path)? else { continue };
            let new = untie(&old);
            adapters = adapters.saturating_add(new.nameless);
            if new.text != old {
                files.push((path, old, new));
            }
        }
    }
    let (left, files): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(_, _, new)| adapters > 1 && new.open > 0);
    if !left.is_empty() {
        let paths: Vec<String> = left.into_iter().map(|(path, ..)| path).collect();
        plan.warn(
            "linux.net.mac-pin",
            format!("only their addresses tell which adapters {} are for", some(&paths)),
            "give the adapters of the new machine the addresses they had (vdisk define --mac), or \
             change these files in the guest",
        );
    }
    for (path, old, new) in files {
        tree.write(&path, new.text.as_bytes(), 0o600)?;
        let (before, after) = lines_that_differ(&old, &new.text);
        plan.act(
            Action::new("linux.net.mac-pin", "untie it from the adapter's address", path)
                .why("the new adapter has another address, and would stay without settings")
                .before(before)
                .after(after),
        );
    }
    Ok(())
}

/// The address goes; where it was all there was, any wired adapter fits.
fn networkd(text: &str) -> Untied {
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
    let mut new = Untied::default();
    for line in text.split_inclusive('\n') {
        if line.trim().starts_with('[') {
            in_match = line.trim() == "[Match]";
        }
        if !(in_match && is_address(line)) {
            new.text.push_str(line);
        } else if !said {
            new.text.push_str("Name=en* eth*\n");
            (new.open, new.nameless) = (1, 1);
            said = true;
        }
    }
    new
}

fn ifcfg(text: &str) -> Untied {
    Untied { text: without(text, |line| line.starts_with("HWADDR=")), ..Untied::default() }
}

fn network_manager(text: &str) -> Untied {
    let new = without(text, |line| line.starts_with("mac-address="));
    let has_name = text.lines().any(|line| line.trim().starts_with("interface-name="));
    let is_open = new != text && network::is_wired(text) && !has_name;
    Untied { text: new, open: usize::from(is_open), nameless: usize::from(is_open) }
}

fn without(text: &str, goes: impl Fn(&str) -> bool) -> String {
    text.split_inclusive('\n').filter(|line| !goes(line.trim())).collect()
}

/// Below `match:` the address becomes a pattern of names; elsewhere it sets one, and stays.
fn netplan(text: &str) -> Untied {
    let mut in_match: Option<usize> = None;
    let (mut new, mut open) = (String::new(), 0_usize);
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
            open += 1;
        } else {
            new.push_str(line);
        }
    }
    let named = adapters::netplan("", text).len();
    Untied { text: new, open, nameless: open.saturating_sub(named) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_and_what_else_is_said_stays() {
        let both = "[Match]\nMACAddress=52:54:00:12:34:56\nName=lan0\n[Link]\nMACAddress=x\n";
        assert_eq!(networkd(both).text, "[Match]\nName=lan0\n[Link]\nMACAddress=x\n");
        let alone = "[Match]\nMACAddress=52:54:00:12:34:56\n\n[Network]\nDHCP=yes\n";
        assert_eq!(networkd(alone).text, "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n");
        assert_eq!(ifcfg("DEVICE=a\nHWADDR=\"b\"\n").text, "DEVICE=a\n");
        let yaml = "ethernets:\n  lan:\n    match:\n      macaddress: a\n    set-name: lan\n    macaddress: b\n";
        assert_eq!(
            netplan(yaml).text,
            "ethernets:\n  lan:\n    match:\n      name: \"e*\"\n    set-name: lan\n    macaddress: b\n"
        );
        assert_eq!((networkd(both).open, networkd(alone).open, netplan(yaml).open), (0, 1, 1));
        assert_eq!((networkd(alone).nameless, netplan(yaml).nameless), (1, 0));
        let key = "[connection]\ntype=ethernet\n[ethernet]\nmac-address=a\n";
        assert_eq!(network_manager(key).open, 1);
        assert_eq!(network_manager(&format!("{key}interface-name=b\n")).open, 0);
        for (untie, text) in [(networkd as Untie, both), (networkd, alone), (netplan, yaml)] {
            let text = untie(text).text;
            assert_eq!(untie(&text), Untied { text, ..Untied::default() });
        }
    }
}
