//! Which network adapter has which name: what the guest's settings tell by their addresses.

use std::collections::BTreeMap;

use vdisk_core::Result;

use super::tree::Tree;

/// Addresses by the names of their adapters.
pub(super) type Adapters = BTreeMap<String, String>;

/// The adapters that the settings tell by their addresses.
///
/// # Errors
/// The volume's.
pub(super) fn known(tree: &mut Tree<'_>) -> Result<Adapters> {
    let mut known = Adapters::new();
    for (pattern, read) in SETTINGS {
        for path in tree.glob(pattern)? {
            let Some(text) = tree.text(&path)? else { continue };
            for (name, address) in read(&path, &text) {
                if let Some(address) = address_in(&address) {
                    known.entry(name).or_insert(address);
                }
            }
        }
    }
    Ok(of_one_each(known))
}

/// Those whose address is no other's: one for two names tells nothing.
fn of_one_each(mut known: Adapters) -> Adapters {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for address in known.values() {
        *counts.entry(address.clone()).or_default() += 1;
    }
    known.retain(|_, address| counts.get(address) == Some(&1));
    known
}

/// Names and addresses in the text at a path.
type Read = fn(&str, &str) -> Vec<(String, String)>;

const SETTINGS: [(&str, Read); 8] = [
    ("/etc/systemd/network/*.link", sections),
    ("/etc/udev/rules.d/*.rules", rules),
    ("/etc/sysconfig/network-scripts/ifcfg-*", ifcfg),
    ("/etc/sysconfig/network/ifcfg-*", ifcfg),
    ("/etc/systemd/network/*.network", sections),
    ("/etc/NetworkManager/system-connections/*", sections),
    ("/etc/netplan/*.yaml", netplan),
    ("/etc/netplan/*.yml", netplan),
];

/// Files of `KEY=value` in sections: a name and an address, if it has one of each. Of a link the
/// name is what is set, not what is matched; of a network the address is what is matched.
fn sections(path: &str, text: &str) -> Vec<(String, String)> {
    let (names, addresses): (&[&str], &[&str]) = match path.rsplit_once('.') {
        Some((_, "link")) => {
            (&["[Link]Name"], &["[Match]MACAddress", "[Match]PermanentMACAddress"])
        }
        Some((_, "network")) => {
            (&["[Match]Name"], &["[Match]MACAddress", "[Match]PermanentMACAddress"])
        }
        _ => (
            &["[connection]interface-name"],
            &["[ethernet]mac-address", "[802-3-ethernet]mac-address"],
        ),
    };
    let mut section = "";
    let (mut name, mut address) = (None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = format!("{section}{}", key.trim());
        if names.contains(&key.as_str()) {
            name = Some(value.trim().to_owned());
        } else if addresses.contains(&key.as_str()) {
            address = Some(value.trim().to_owned());
        }
    }
    name.zip(address).into_iter().collect()
}

/// udev(7): `ATTR{address}=="…"`, `NAME="…"`.
fn rules(_: &str, text: &str) -> Vec<(String, String)> {
    let between = |line: &str, key: &str| {
        let (value, _) = line.split_once(key)?.1.split_once('"')?;
        Some(value.to_owned())
    };
    let rules = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    rules
        .filter_map(|line| {
            let address = between(line, "ATTR{address}==\"")
                .or_else(|| between(line, "ATTRS{address}==\""))?;
            Some((between(line, " NAME=\"").or_else(|| between(line, ",NAME=\""))?, address))
        })
        .collect()
}

fn ifcfg(path: &str, text: &str) -> Vec<(String, String)> {
    let value = |key: &str| {
        let found = text.lines().find_map(|line| line.trim().strip_prefix(key))?;
        Some(found.trim_matches(['"', '\'']).to_owned())
    };
    let of_file = || path.rsplit_once("ifcfg-").map(|(_, name)| name.to_owned());
    let name = value("DEVICE=").or_else(of_file);
    name.zip(value("HWADDR=")).into_iter().collect()
}

/// Below a key of `ethernets:`, `macaddress:` inside `match:`, and `set-name:`.
pub(super) fn netplan(_: &str, text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut in_match, mut address) = (None, None);
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let (body, depth) = (line.trim(), line.len() - line.trim_start().len());
        let plain = |value: &str| value.trim().trim_matches(['"', '\'']).to_owned();
        if in_match.is_some_and(|start| depth <= start) {
            in_match = None;
        }
        if body == "match:" {
            (in_match, address) = (Some(depth), None);
        } else if let Some(value) = body.strip_prefix("macaddress:").filter(|_| in_match.is_some())
        {
            address = Some(plain(value));
        } else if let Some(value) = body.strip_prefix("set-name:") {
            found.extend(Some(plain(value)).zip(address.take()));
        }
    }
    found
}

/// Six bytes, in lower case.
fn address_in(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let parts: Vec<&str> = text.split(':').collect();
    let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(is_byte)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_two_names_tell_nothing_however_many_there_are() {
        let pair = |number: u32| (format!("n{number}"), format!("{:06}", number.max(2)));
        let known = of_one_each((0..200_000).map(pair).collect());
        assert_eq!(known.len(), 199_997);
        assert!(!known.contains_key("n2") && known.contains_key("n3"));
    }

    #[test]
    fn names_and_addresses_are_found_in_all_kinds_of_settings() {
        let one = |name: &str| vec![(name.to_owned(), "52:54:00:AA:bb:01".to_owned())];
        let rule = "# by hand\nSUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:AA:bb:01\", \
                    ATTR{type}==\"1\", KERNEL==\"eth*\", NAME=\"eth0\"\n";
        assert_eq!(rules("", rule), one("eth0"));
        let link = "[Match]\nMACAddress=52:54:00:AA:bb:01\nName=x\n\n[Link]\nName=lan0\n";
        assert_eq!(sections("/a/b.link", link), one("lan0"));
        let network = "[Match]\nMACAddress=52:54:00:AA:bb:01\nName=lan0\n[Link]\nMACAddress=x\n";
        assert_eq!(sections("/a/b.network", network), one("lan0"));
        let key = "[connection]\ninterface-name=ens3\n[ethernet]\nmac-address=52:54:00:AA:bb:01\n";
        assert_eq!(sections("/a/b.nmconnection", key), one("ens3"));
        assert_eq!(ifcfg("/x/ifcfg-em1", "HWADDR=\"52:54:00:AA:bb:01\"\n"), one("em1"));
        let yaml = "  ethernets:\n    a:\n      match:\n        macaddress: \"52:54:00:AA:bb:01\"\n      \
                    set-name: lan1\n    b:\n      macaddress: 1\n      set-name: lan2\n";
        assert_eq!(netplan("", yaml), one("lan1"));
        assert_eq!(address_in("52:54:00:AA:bb:01").unwrap(), "52:54:00:aa:bb:01");
        assert_eq!(address_in("52:54:00:AA:bb"), None);
    }
}
