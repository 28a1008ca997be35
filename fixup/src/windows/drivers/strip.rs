//! Taking a Windows off the hardware it ran on.

use std::collections::BTreeMap;

use vdisk_core::Result;

use super::super::guest::{Guest, Nt};
use super::super::{Data, Hives, Reason, Registry, files};
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

/// Network cards.
const NET: &str = "{4D36E972-E325-11CE-BFC1-08002BE10318}";

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
        network(system, set, options, plan)?;
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
    let devices = devices(system, set)?;
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
            buses: devices.get(&name.to_lowercase()).cloned().unwrap_or_default(),
            name,
        });
    }
    Ok(found)
}

/// By service, the buses of all devices that it is for.
fn devices(system: &Registry, set: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Some(root) = system.key(&format!("{set}\\Enum"))? else { return Ok(found) };
    for bus in root.subkeys()? {
        let bus = bus?;
        for device in bus.subkeys()? {
            for instance in device?.subkeys()? {
                let service = instance?.value("Service")?;
                let service = service.map_or(Ok(None), |value| value.as_string())?;
                let Some(service) = service else { continue };
                found.entry(service.to_lowercase()).or_default().push(bus.name().to_string());
            }
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

/// Addresses of network cards that were set by hand, and fixed addresses in the network.
fn network(
    system: &mut Registry,
    set: &str,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let id = "windows.network.address";
    let why = "two cards with one address cannot be in one network";
    let reason = Reason { id, what: "forget an address of a network card", why };
    let class = format!("{set}\\Control\\Class\\{NET}");
    for name in system.children(&class)? {
        let path = format!("{class}\\{name}");
        let address = system.text(&path, "NetworkAddress")?;
        if address.is_some_and(|address| !address.is_empty()) && !options.keeps(id) {
            system.delete_value(plan, reason, &path, "NetworkAddress")?;
        }
    }
    let interfaces = format!("{set}\\Services\\Tcpip\\Parameters\\Interfaces");
    for name in system.children(&interfaces)? {
        let path = format!("{interfaces}\\{name}");
        let values = ["IPAddress", "SubnetMask", "DefaultGateway", "NameServer"];
        let mut told = Vec::new();
        for value in values {
            let texts = system.texts(&path, value)?;
            let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
            if !texts.is_empty() {
                told.push(format!("{value} {}", texts.join(" ")));
            }
        }
        let fixed = system.number(&path, "EnableDHCP")? == Some(0);
        if fixed && told.iter().any(|one| !one.starts_with("IPAddress 0.0.0.0")) {
            let message = format!("a network card has fixed settings: {}", told.join(", "));
            plan.warn(
                "windows.network.fixed",
                message,
                "the new card is another one for Windows, and asks a DHCP server: set them again",
            );
        }
    }
    Ok(())
}
