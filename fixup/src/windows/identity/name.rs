//! The computer's name, in all its places.

use vdisk_core::{Error, Result};

use crate::windows::{Data, Hives, Reason, Registry};
use crate::{Machine, Plan, StripOptions};

const ID: &str = "windows.hostname";
/// Characters of a name, at most: NetBIOS has no more.
const MOST: usize = 15;

/// Gives the computer another name.
pub(super) fn change(
    machine: &mut Machine,
    hives: &mut Hives,
    hostname: &str,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    if options.keeps(ID) {
        return Ok(());
    }
    if !is_name(hostname) {
        return Err(Error::usage(format!("{hostname} is no name for a computer")).hint(
            "it needs 1 to 15 letters, digits and hyphens, not at its ends, and not digits alone",
        ));
    }
    let upper = hostname.to_ascii_uppercase();
    let reason = Reason {
        id: ID,
        what: "give the computer another name",
        why: "two machines of one name cannot be in one network",
    };
    let system = hives.config(machine, "SYSTEM")?;
    for set in system.control_sets()? {
        for key in ["ComputerName", "ActiveComputerName"] {
            let path = format!("{set}\\Control\\ComputerName\\{key}");
            replace(system, plan, reason, &path, "ComputerName", &upper)?;
        }
        let path = format!("{set}\\Services\\Tcpip\\Parameters");
        replace(system, plan, reason, &path, "Hostname", hostname)?;
        replace(system, plan, reason, &path, "NV Hostname", hostname)?;
    }
    let security = hives.config(machine, "SECURITY")?;
    if let Some(value) = security.value("Policy\\PolAcDmN", "")? {
        let name = Data::Raw(value.kind(), counted(&upper));
        security.set(plan, reason, "Policy\\PolAcDmN", "", &name)?;
    }
    Ok(())
}

/// Sets a text that is there.
fn replace(
    registry: &mut Registry,
    plan: &mut Plan,
    reason: Reason<'_>,
    path: &str,
    name: &str,
    text: &str,
) -> Result<()> {
    if registry.text(path, name)?.is_some() {
        registry.set(plan, reason, path, name, &Data::Sz(text.to_owned()))?;
    }
    Ok(())
}

/// A text as the local security policy keeps it: its length and the room it has, both in bytes,
/// where it begins, the text, a NUL.
fn counted(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let room = u16::try_from(units.len()).unwrap_or(u16::MAX);
    let lengths = [room - 2, room].map(u16::to_le_bytes);
    [lengths.as_flattened(), &8_u32.to_le_bytes(), &units].concat()
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=MOST).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_netbios() {
        for good in ["a", "DESKTOP-M964FJN", "x-1"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "1234", "a.b", "a b", "\u{e9}", "0123456789abcdef"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn counted_as_windows_does() {
        let seen = counted("DESKTOP-M964FJN");
        assert_eq!(seen[..8], [0x1e, 0, 0x20, 0, 8, 0, 0, 0]);
        assert_eq!(seen.len(), 8 + 0x20);
    }
}
