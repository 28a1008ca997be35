//! What Windows knows its drivers by: `DriverDatabase` from Windows 8 on, before that
//! `CriticalDeviceDatabase`.

use uuid::Uuid;
use vdisk_core::{Error, Result};

use super::super::inf::{AddReg, Header, Install, Root, Service};
use super::super::{Data, Reason, Registry};
use super::package::Package;
use crate::Plan;

/// An entry as all of Windows' own have it for a device that an INF file drives.
const DEVICE: [u8; 4] = [0x01, 0xff, 0x00, 0x00];

/// A driver that is being made known.
pub(super) struct Known<'a> {
    pub(super) package: &'a Package,
    pub(super) install: &'a Install,
    pub(super) service: &'a Service,
    /// Hardware ids.
    pub(super) ids: &'a [String],
    /// Its package as the driver store would name it.
    pub(super) label: &'a str,
}

/// Values of an `AddReg` below `key`.
pub(super) fn add(
    system: &mut Registry,
    key: &str,
    values: &[AddReg],
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    for value in values.iter().filter(|value| value.root == Root::Relative) {
        let Some(data) = &value.data else { continue };
        let below = value.key.trim_matches('\\');
        let key = if below.is_empty() { key.to_owned() } else { format!("{key}\\{below}") };
        system.set(plan, reason, &key, &value.name, data)?;
    }
    Ok(())
}

/// Windows 8 and later.
pub(super) fn in_database(
    system: &mut Registry,
    known: &Known<'_>,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let Known { package, install, service, ids, label } = *known;
    let mut set = |key: &str, name: &str, data: Data| {
        let key = format!("DriverDatabase\\{key}");
        system.set(plan, reason, &key, name, &data).map(drop)
    };
    let file = format!("DriverInfFiles\\{}", package.name);
    set(&file, "", Data::MultiSz(vec![label.into()]))?;
    set(&file, "Active", Data::Sz(label.into()))?;
    set(&file, "Configurations", Data::MultiSz(vec![install.section.clone()]))?;
    let entry = format!("DriverPackages\\{label}");
    set(&entry, "", Data::Sz(package.name.clone()))?;
    set(&entry, "Version", Data::binary(version(&package.header)?))?;
    if let Some(provider) = &package.header.provider {
        set(&entry, "Provider", Data::Sz(provider.clone()))?;
    }
    let configuration = format!("{entry}\\Configurations\\{}", install.section);
    set(&configuration, "ConfigFlags", Data::Dword(0))?;
    set(&configuration, "Service", Data::Sz(service.name.clone()))?;
    for id in ids {
        set(&format!("DeviceIds\\{id}"), &package.name, Data::binary(DEVICE))?;
        let descriptor = format!("{entry}\\Descriptors\\{id}");
        set(&descriptor, "Configuration", Data::Sz(install.section.clone()))?;
    }
    let configuration = format!("DriverDatabase\\{configuration}");
    let of_service = format!("{configuration}\\Services\\{}", service.name);
    add(system, &of_service, &service.registry, reason, plan)?;
    add(system, &format!("{configuration}\\Device"), &install.hardware, reason, plan)
}

/// Windows 7 and before.
pub(super) fn as_critical(
    system: &mut Registry,
    set: &str,
    known: &Known<'_>,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let class = known.package.header.class_guid.clone().unwrap_or_default();
    for id in known.ids {
        let device = id.replace('\\', "#");
        let key = format!("{set}\\Control\\CriticalDeviceDatabase\\{device}");
        system.set(plan, reason, &key, "ClassGUID", &Data::Sz(class.clone()))?;
        system.set(plan, reason, &key, "Service", &Data::Sz(known.service.name.clone()))?;
    }
    Ok(())
}

/// The 48 bytes of a package: a mark, its class, date and version. The mark is the one of packages
/// that virt-v2v puts there; Windows' own begin with `ff`.
fn version(header: &Header) -> Result<Vec<u8>> {
    let class = header.class_guid.as_deref().unwrap_or_default();
    let class = Uuid::parse_str(class.trim_matches(['{', '}']))
        .map_err(|_| Error::refused(format!("{class} is no class of devices")))?;
    let date = header.date.map_or(0, filetime);
    let mut bytes = vec![0x00, 0xff, 0x09, 0x00, 0, 0, 0, 0];
    bytes.extend(class.to_bytes_le());
    bytes.extend(date.to_le_bytes());
    for number in header.version.unwrap_or_default().iter().rev() {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend([0; 8]);
    Ok(bytes)
}

/// Midnight of a day as Windows counts, steps of 100 ns since 1601.
fn filetime((year, month, day): (u16, u8, u8)) -> u64 {
    let (year, month, day) = (u64::from(year), u64::from(month), u64::from(day));
    // Years that begin in March, so that the odd day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    // The same of the first day of 1601.
    const FIRST: u64 = 1600 * 365 + 1600 / 4 - 1600 / 100 + 1600 / 400 + (153 * 10 + 2) / 5 + 1;
    days.saturating_sub(FIRST) * 24 * 60 * 60 * 10_000_000
}

/// The values of a service key.
pub(super) fn service_values(service: &Service) -> Vec<(&'static str, Data)> {
    let path = format!("System32\\drivers\\{}", service.binary);
    let mut values = vec![
        ("Type", Data::Dword(service.kind)),
        ("Start", Data::Dword(0)),
        ("ErrorControl", Data::Dword(service.error_control)),
        ("ImagePath", Data::ExpandSz(path)),
    ];
    let texts = [("Group", &service.group), ("DisplayName", &service.display_name)];
    for (name, text) in texts {
        values.extend(text.clone().map(|text| (name, Data::Sz(text))));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_as_windows_writes_it() {
        let header = Header {
            class_guid: Some("{4D36E97B-E325-11CE-BFC1-08002BE10318}".into()),
            date: Some((2006, 6, 21)),
            version: Some([10, 0, 19041, 1]),
            ..Header::default()
        };
        // storvsc's in a SYSTEM of Windows 10, but for its first byte.
        let hex =
            "ffff0900000000007be9364d25e3ce11bfc108002be1031800808ca3c594c6010100614a00000a00";
        let seen: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .chain([0; 8])
            .collect();
        let ours = version(&header).unwrap();
        assert_eq!(ours[1..], seen[1..]);
        assert_eq!(ours.len(), 48);
        assert!(version(&Header::default()).is_err());
    }
}
