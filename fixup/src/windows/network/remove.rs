//! Taking an adapter away as a whole.

use vdisk_core::Result;

use super::super::{Data, Reason, Registry, devices};
use super::adapter::{Adapter, NET};
use super::nsi;
use crate::Plan;

/// Where services keep a key for each adapter, below their parameters.
const OWN_KEYS: [&str; 4] = ["Adapters", "NdisAdapters", "Interfaces", "DNSRegisteredAdapters"];
/// What a service is bound to: three lists, their entries in the same order.
const LINKAGE: [&str; 2] = ["Linkage", "Linkage\\Disabled"];
const LISTS: [&str; 3] = ["Bind", "Export", "Route"];
/// In SOFTWARE: adapters, and where networks were seen.
const CARDS: &str = "Microsoft\\Windows NT\\CurrentVersion\\NetworkCards";
const SEEN: &str = "Microsoft\\Windows NT\\CurrentVersion\\NetworkList\\Nla\\Cache\\Intranet";

/// Whether all that ties adapters to the rest of the network is in keys of their own, so that one
/// can be taken away: Windows 10 and later. Before that a value of an undocumented form holds the
/// adapters and what is bound to them by their place in it.
pub(super) fn can(system: &Registry, set: &str) -> Result<bool> {
    Ok(system.key(&format!("{set}\\Control\\NetworkSetup2\\Interfaces"))?.is_some())
}

/// Takes an adapter out of a control set.
pub(super) fn from_system(
    system: &mut Registry,
    set: &str,
    adapter: &Adapter,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let guid = &adapter.guid;
    bindings(system, set, adapter, reason, plan)?;
    for path in own_keys(system, set, adapter)? {
        system.delete_key(plan, reason, &path)?;
    }
    if let Some(luid) = &adapter.luid {
        for (path, row) in nsi::rows(system, set, luid)? {
            system.delete_value(plan, reason, &path, &row)?;
        }
    }
    for path in [
        format!("{set}\\Control\\NetworkSetup2\\Interfaces\\{guid}"),
        format!("{set}\\Control\\Network\\{NET}\\{guid}"),
    ] {
        system.delete_key(plan, reason, &path)?;
    }
    match &adapter.device {
        Some(device) => devices::remove(system, set, device, reason, plan),
        None => system.delete_key(plan, reason, &adapter.class).map(drop),
    }
}

/// Takes an adapter out of SOFTWARE.
pub(super) fn from_software(
    software: &mut Registry,
    adapter: &Adapter,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    for number in software.children(CARDS)? {
        let path = format!("{CARDS}\\{number}");
        if software.text(&path, "ServiceName")?.is_some_and(|guid| adapter.is_in(&guid)) {
            software.delete_key(plan, reason, &path)?;
        }
    }
    let mut places = vec![SEEN.to_owned()];
    places.extend(software.children(SEEN)?.iter().map(|name| format!("{SEEN}\\{name}")));
    for path in places {
        for name in software.value_names(&path)?.iter().filter(|name| adapter.is_in(name)) {
            software.delete_value(plan, reason, &path, name)?;
        }
    }
    Ok(())
}

/// Takes the adapter out of what services are bound to.
fn bindings(
    system: &mut Registry,
    set: &str,
    adapter: &Adapter,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let services = format!("{set}\\Services");
    let mut changed = Vec::new();
    for service in system.children(&services)? {
        for linkage in LINKAGE.map(|linkage| format!("{services}\\{service}\\{linkage}")) {
            if system.key(&linkage)?.is_none() {
                break;
            }
            for list in LISTS {
                let Some(value) = system.value(&linkage, list)? else { continue };
                let Some(mut texts) = value.as_multi_string()? else { continue };
                let before = texts.len();
                texts.retain(|text| !adapter.is_in(text));
                if texts.len() != before {
                    changed.push((linkage.clone(), list, texts));
                }
            }
        }
    }
    for (path, list, texts) in changed {
        system.set(plan, reason, &path, list, &Data::MultiSz(texts))?;
    }
    Ok(())
}

/// Keys of services that are for the adapter alone.
fn own_keys(system: &Registry, set: &str, adapter: &Adapter) -> Result<Vec<String>> {
    let services = format!("{set}\\Services");
    let mut found = Vec::new();
    for service in system.children(&services)? {
        let path = format!("{services}\\{service}");
        if adapter.is_in(&service) {
            found.push(path);
            continue;
        }
        for folder in OWN_KEYS.map(|folder| format!("{path}\\Parameters\\{folder}")) {
            let names = system.children(&folder)?.into_iter().filter(|name| adapter.is_in(name));
            found.extend(names.map(|name| format!("{folder}\\{name}")));
        }
    }
    Ok(found)
}
