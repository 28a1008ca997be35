//! Filters: drivers that put themselves over or below those of devices.

use vdisk_core::Result;

use super::super::{Data, Reason, Registry};
use crate::Plan;

const LISTS: [&str; 2] = ["UpperFilters", "LowerFilters"];

/// Classes between Windows and its volumes: disks, volumes, controllers.
const DISKS: [&str; 4] = [
    "{4D36E967-E325-11CE-BFC1-08002BE10318}",
    "{71A27CDD-812A-11D0-BEC7-08002BE2092F}",
    "{4D36E96A-E325-11CE-BFC1-08002BE10318}",
    "{4D36E97B-E325-11CE-BFC1-08002BE10318}",
];
/// What Windows itself has there.
const OWN: [&str; 9] = [
    "PartMgr",
    "EhStorClass",
    "fvevol",
    "rdyboost",
    "iorate",
    "volsnap",
    "ecache",
    "storqosflt",
    "wcnfs",
];

/// Takes `service` out of every list of filters of a control set: of classes, of devices, and of
/// the loader's table. What names a filter that does not start fails to start too.
pub(super) fn take_out(
    system: &mut Registry,
    set: &str,
    service: &str,
    plan: &mut Plan,
) -> Result<()> {
    let why = format!("{service} is switched off, and a device whose filter is missing fails");
    let reason = Reason { id: "windows.driver.filter", what: "take a filter out", why: &why };
    for (path, list) in lists_with(system, set, service)? {
        let mut texts = system.texts(&path, list)?;
        texts.retain(|one| !one.eq_ignore_ascii_case(service));
        if texts.is_empty() {
            system.delete_value(plan, reason, &path, list)?;
        } else {
            system.set(plan, reason, &path, list, &Data::MultiSz(texts))?;
        }
    }
    Ok(())
}

/// Filters over disks that are not of Windows, by class and list.
pub(super) fn foreign(system: &Registry, set: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for class in DISKS {
        for list in LISTS {
            for name in system.texts(&format!("{set}\\Control\\Class\\{class}"), list)? {
                if !super::known::has(&OWN, &name) && !found.contains(&name) {
                    found.push(name);
                }
            }
        }
    }
    Ok(found)
}

/// The keys and lists that name a filter.
fn lists_with(system: &Registry, set: &str, service: &str) -> Result<Vec<(String, &'static str)>> {
    let mut found = Vec::new();
    for (root, depth) in
        [("Control\\Class", 1), ("Control\\CriticalDeviceDatabase", 1), ("Enum", 3)]
    {
        let path = format!("{set}\\{root}");
        if let Some(key) = system.key(&path)? {
            below(&key, &path, depth, service, &mut found)?;
        }
    }
    Ok(found)
}

fn below(
    key: &vdisk_hive::Key<'_>,
    path: &str,
    depth: u32,
    service: &str,
    found: &mut Vec<(String, &'static str)>,
) -> Result<()> {
    if depth == 0 {
        for list in LISTS {
            let Some(value) = key.value(list)? else { continue };
            let texts = value.as_multi_string()?.or(value.as_string()?.map(|text| vec![text]));
            if texts.unwrap_or_default().iter().any(|one| one.eq_ignore_ascii_case(service)) {
                found.push((path.to_owned(), list));
            }
        }
        return Ok(());
    }
    for child in key.subkeys()? {
        let child = child?;
        below(&child, &format!("{path}\\{}", child.name()), depth - 1, service, found)?;
    }
    Ok(())
}
