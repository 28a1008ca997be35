//! Rows of the network stack's own tables (`Control\Nsi`), which are named by the adapter.
//!
//! Below the GUID of a module (IPv4, IPv6, NDIS) and the number of a table stand values whose names
//! are the rows' keys in hex. In all of them an adapter is its `NET_LUID`, at a multiple of eight
//! bytes: alone in tables of interfaces, before an address in those of addresses, behind the
//! destination in those of routes.

use std::net::Ipv6Addr;

use vdisk_core::Result;

use super::super::Registry;

/// The modules: IPv4, IPv6, NDIS.
const MODULES: [&str; 3] = [
    "{eb004a00-9b1a-11d4-9123-0050047759bc}",
    "{eb004a01-9b1a-11d4-9123-0050047759bc}",
    "{eb004a11-9b1a-11d4-9123-0050047759bc}",
];
/// The table of addresses.
const ADDRESSES: &str = "10";
/// Hexadecimal digits of a `NET_LUID`.
const DIGITS: usize = 16;

/// Key and value of each row of the adapter.
pub(super) fn rows(system: &Registry, set: &str, luid: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for module in MODULES.map(|module| format!("{set}\\Control\\Nsi\\{module}")) {
        for table in system.children(&module)? {
            let path = format!("{module}\\{table}");
            let rows = system.value_names(&path)?.into_iter().filter(|row| is_of(row, luid));
            found.extend(rows.map(|row| (path.clone(), row)));
        }
    }
    Ok(found)
}

/// Addresses of IPv6 that were set by hand: those are kept here alone, behind the adapter in the
/// keys of a table.
pub(super) fn addresses6(system: &Registry, set: &str, luid: &str) -> Result<Vec<Ipv6Addr>> {
    let table = format!("{set}\\Control\\Nsi\\{}\\{ADDRESSES}", MODULES[1]);
    let rows = system.value_names(&table)?;
    Ok(rows.iter().filter_map(|row| address6(row, luid)).collect())
}

fn address6(row: &str, luid: &str) -> Option<Ipv6Addr> {
    let (head, rest) = row.split_at_checked(DIGITS)?;
    let address = rest.get(..2 * DIGITS).filter(|_| head.eq_ignore_ascii_case(luid))?;
    u128::from_str_radix(address, 16).ok().map(Ipv6Addr::from)
}

/// Whether a row is one of an address or a route, and not of the adapter itself.
pub(super) fn is_address(row: &str) -> bool {
    row.len() > DIGITS
}

fn is_of(row: &str, luid: &str) -> bool {
    row.as_bytes().chunks(DIGITS).any(|part| part.eq_ignore_ascii_case(luid.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a Windows 7 has them.
    const LUID: &str = "0000000700000600";

    #[test]
    fn rows_are_told_by_their_adapter() {
        let route = "00000000000000000000000000000000000000000000000000000007000006000000000700000600\
                     0a033a0100000000";
        assert!(is_of(LUID, LUID) && !is_address(LUID));
        assert!(is_of("00000007000006000a033a0500000000", LUID));
        assert!(is_of(route, LUID) && is_address(route));
        assert!(!is_of("00000006000006000a033a0500000000", LUID));
        assert!(!is_of("0000000000070000060000", LUID), "not at a multiple of eight bytes");
    }

    #[test]
    fn addresses_are_read_from_rows() {
        let row = format!("{LUID}fd000000000000000000000000000001");
        assert_eq!(address6(&row, LUID), Some("fd00::1".parse().unwrap()));
        assert_eq!(address6(&row, "0000000800000600"), None);
        for bad in [LUID, "", "x", &row[..40], &row.replace("fd", "zz"), "\u{e9}\u{e9}"] {
            assert_eq!(address6(bad, LUID), None, "{bad}");
        }
    }
}
