//! Taking a Windows off the hardware it ran on.

use std::collections::BTreeMap;

use vdisk_core::Result;

use super::super::guest::{Guest, Nt};
use super::super::{Data, Hives, Reason, Registry, devices, files};
use super::company::company;
use super::filters;
use super::known::{AGENTS, HARDWARE_FILTERS, IN_BOX, PROCESSORS, TOOLS, has};
use crate::{Machine, Plan, StripOptions};

/// `Start`: by the loader, with the system, by itself; never.
const SYSTEM_START: u32 = 1;
const AUTO_START: u32 = 2;
const DISABLED: u32 = 4;
/// `Type` of drivers of devices.
const KERNEL_DRIVER: u32 = 1;

/// Switches off what belongs to the old machine.
pub(in super::super) fn strip(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let sets = hives.config(machine, "SYSTEM")?.control_sets()?;
    for set in &sets {
        let services = services(hives.config(machine, "SYSTEM")?, set)?;
        let mut wanted = Vec::new();
        for service in &services {
            let reason = known(service, guest);
            let reason = match reason {
                None => vanished(machine, hives, guest, service)?,
                known => known,
            };
            wanted.extend(reason.map(|reason| (service.name.as_str(), reason)));
        }
        let system = hives.config(machine, "SYSTEM")?;
        for (name, (id, why)) in wanted {
            if !options.keeps(id) {
                switch_off(system, set, name, id, &why, plan)?;
            }
        }
        for filter in filters::foreign(system, set)? {
            let message = format!("{filter} stands in the way of all disks, and is not of Windows");
            plan.warn("windows.filter", message, "see whether it works without the old machine");
        }
    }
    Ok(())
}

/// A service that starts without being asked for by a device.
struct Service {
    name: String,
    kind: u32,
    start: u32,
    image: String,
    /// INF files it was installed by; Windows 8 and later.
    owners: Vec<String>,
    /// Buses of the devices that it drives, or drove.
    buses: Vec<String>,
}

fn services(system: &Registry, set: &str) -> Result<Vec<Service>> {
    let buses = buses(system, set)?;
    let mut found = Vec::new();
    let Some(all) = system.key(&format!("{set}\\Services"))? else { return Ok(found) };
    for key in all.subkeys()? {
        let key = key?;
        let number = |name: &str| key.value(name)?.map_or(Ok(None), |value| value.as_u32());
        let (Some(kind), Some(start)) = (number("Type")?, number("Start")?) else { continue };
        if start > AUTO_START && !has(&PROCESSORS, &key.name().to_string()) {
            continue;
        }
        let name = key.name().to_string();
        let image = key.value("ImagePath")?.map_or(Ok(None), |value| value.as_string())?;
        let owners = key.value("Owners")?.map_or(Ok(None), |value| value.as_multi_string())?;
        found.push(Service {
            kind,
            start,
            image: image.unwrap_or_default(),
            owners: owners.unwrap_or_default(),
            buses: buses.get(&name.to_lowercase()).cloned().unwrap_or_default(),
            name,
        });
    }
    Ok(found)
}

/// By service, the buses of all devices that it is for.
fn buses(system: &Registry, set: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for device in devices::list(system, set)? {
        if let Some(service) = device.service {
            found.entry(service.to_lowercase()).or_default().push(device.bus);
        }
    }
    Ok(found)
}

type Why = (&'static str, String);

/// By name.
fn known(service: &Service, guest: &Guest) -> Option<Why> {
    let name = service.name.as_str();
    let of = |lists: &[(&'static str, &[&str])]| {
        lists.iter().find(|(_, names)| has(names, name)).map(|(maker, _)| *maker)
    };
    if let Some(maker) = of(&TOOLS) {
        return Some(("windows.tools", format!("it belongs to {maker}, which the guest leaves")));
    }
    if let Some(maker) = of(&AGENTS) {
        return Some(("windows.agent", format!("it watches hardware of {maker}")));
    }
    if let Some((_, what)) = HARDWARE_FILTERS.iter().find(|(one, _)| one.eq_ignore_ascii_case(name))
    {
        return Some(("windows.driver.hardware", format!("it is {what}, which stays behind")));
    }
    (has(&PROCESSORS, name) && guest.version < Nt::SEVEN && service.start < DISABLED).then(|| {
        let why = "it stops this Windows on other processors and under hypervisors (0x7E, 0xCE)";
        ("windows.driver.processor", why.to_owned())
    })
}

/// By what it drives: a driver that Windows did not bring along, which the loader or the kernel
/// starts, and all whose devices are cards or chips of the old machine.
fn vanished(
    machine: &mut Machine,
    hives: &Hives,
    guest: &Guest,
    service: &Service,
) -> Result<Option<Why>> {
    let is_hardware = |bus: &String| bus.eq_ignore_ascii_case("PCI");
    let bound = !service.buses.is_empty() && service.buses.iter().all(is_hardware);
    if service.kind != KERNEL_DRIVER || service.start > SYSTEM_START || !bound {
        return Ok(None);
    }
    let is_oem = |inf: &String| inf.to_ascii_lowercase().starts_with("oem");
    let maker = match service.owners.as_slice() {
        [] if has(&IN_BOX, &service.name) => return Ok(None),
        [] => {
            let path = guest.image(&service.image, &service.name);
            // What cannot be read, such as a file of CompactOS, is left alone.
            let program = files::read(machine.volume(hives.root())?.fs(), &path).ok().flatten();
            match program.as_deref().and_then(company) {
                Some(maker) if !maker.contains("Microsoft") => maker,
                _ => return Ok(None),
            }
        }
        owners if owners.iter().all(is_oem) => format!("the package {}", owners.join(", ")),
        _ => return Ok(None),
    };
    let why = format!("it comes from {maker}, and drives only cards of the old machine");
    Ok(Some(("windows.driver.hardware", why)))
}

fn switch_off(
    system: &mut Registry,
    set: &str,
    name: &str,
    id: &str,
    why: &str,
    plan: &mut Plan,
) -> Result<()> {
    filters::take_out(system, set, name, plan)?;
    let reason = Reason { id, what: "switch a service off", why };
    let path = format!("{set}\\Services\\{name}");
    system.set(plan, reason, &path, "Start", &Data::Dword(DISABLED)).map(drop)
}
