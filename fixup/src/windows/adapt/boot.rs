//! Switching on the drivers that the target's disks need.

use vdisk_core::Result;

use super::super::guest::{Guest, Nt};
use super::super::{Data, Hives, Reason, Registry};
use super::nt5;
use super::table::{ANY_DISK, Controller, Device, controllers};
use crate::{Machine, Plan, Target};

/// `Start` of what the loader loads.
const BOOT_START: u32 = 0;

/// Switches on every driver that is there for a controller of the target; refuses where none is.
pub(super) fn enable(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    target: Target,
    plan: &mut Plan,
) -> Result<()> {
    let sets = hives.config(machine, "SYSTEM")?.control_sets()?;
    if guest.version.is_nt5() {
        nt5::complete(machine, hives, guest, &sets, plan)?;
    }
    let mut starts_from = Vec::new();
    for controller in controllers(target) {
        let mut there = Vec::new();
        let mut whole = true;
        for driver in controller.drivers(guest.version) {
            let found = is_there(machine, hives, guest, &sets, driver.service)?;
            whole &= found || !driver.needed;
            there.extend(found.then_some(driver.service));
        }
        if whole && !there.is_empty() {
            starts_from.push(controller.name);
            let why = format!("{} may have its disk on {}", target.name(), controller.name);
            let system = hives.config(machine, "SYSTEM")?;
            for set in &sets {
                for service in &there {
                    start_at_boot(system, &format!("{set}\\Services\\{service}"), &why, plan)?;
                }
                if guest.version < Nt::EIGHT {
                    bind(system, set, &devices(guest, controller, &there), &why, plan)?;
                }
            }
        }
    }
    tell(guest, target, &starts_from, plan);
    Ok(())
}

/// Whether a service has its key in all control sets, and its file.
fn is_there(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    sets: &[String],
    service: &str,
) -> Result<bool> {
    for file in nt5::imports(guest, service) {
        if !machine.volume(&guest.root)?.fs().exists(file.as_bytes())? {
            return Ok(false);
        }
    }
    for set in sets {
        let path = format!("{set}\\Services\\{service}");
        let system = hives.config(machine, "SYSTEM")?;
        if system.number(&path, "Start")?.is_none() {
            return Ok(false);
        }
        let image = system.text(&path, "ImagePath")?.unwrap_or_default();
        let file = guest.image(&image, service);
        if !machine.volume(&guest.root)?.fs().exists(file.as_bytes())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The devices of a controller and the drivers they take, as far as these are there.
fn devices(guest: &Guest, controller: &Controller, there: &[&str]) -> Vec<Device> {
    let found = controller.devices.iter().map(|device| match device.service {
        // Server 2003 brings another driver for the same device.
        "LSI_SCSI" if guest.version.is_nt5() => Device { service: "symmpi", ..*device },
        _ => *device,
    });
    let mut found: Vec<Device> = found.filter(|one| there.contains(&one.service)).collect();
    found.push(ANY_DISK);
    found
}

/// Windows 7 and before look up the driver of a device they start from in a table of their own.
fn bind(
    system: &mut Registry,
    set: &str,
    devices: &[Device],
    why: &str,
    plan: &mut Plan,
) -> Result<()> {
    let reason = Reason {
        id: "windows.driver.critical-device",
        what: "tell the loader which driver a device takes",
        why,
    };
    for device in devices {
        let path = format!("{set}\\Control\\CriticalDeviceDatabase\\{}", device.id);
        for (name, text) in [("ClassGUID", device.class), ("Service", device.service)] {
            let now = system.text(&path, name)?;
            if !now.is_some_and(|now| now.eq_ignore_ascii_case(text)) {
                system.set(plan, reason, &path, name, &Data::Sz(text.into()))?;
            }
        }
    }
    Ok(())
}

/// Has the loader load the service at `path`, and takes off what Windows 8 and later keep unused
/// drivers from starting with.
pub(in super::super) fn start_at_boot(
    system: &mut Registry,
    path: &str,
    why: &str,
    plan: &mut Plan,
) -> Result<()> {
    let reason = Reason { id: "windows.driver.start", what: "start the driver at boot", why };
    system.set(plan, reason, path, "Start", &Data::Dword(BOOT_START))?;
    let over = format!("{path}\\StartOverride");
    let Some(key) = system.key(&over)? else { return Ok(()) };
    let names: Result<Vec<String>> = key.values()?.map(|one| Ok(one?.name().to_string())).collect();
    for name in names? {
        system.set(plan, reason, &over, &name, &Data::Dword(BOOT_START))?;
    }
    Ok(())
}

/// Says what the disk can be attached to, or that there is nothing.
fn tell(guest: &Guest, target: Target, starts_from: &[&str], plan: &mut Plan) {
    let Guest { product, version, .. } = guest;
    let best = controllers(target).first().map_or("", |one| one.name);
    if starts_from.is_empty() {
        let names: Vec<&str> = controllers(target).iter().map(|one| one.name).collect();
        plan.stop(
            "windows.driver.none",
            format!(
                "{product} ({version}) has a driver for no disk controller of {}: {}",
                target.name(),
                names.join(", ")
            ),
            by_hand(guest, target),
        );
    } else if !starts_from.contains(&best) {
        plan.warn(
            "windows.driver.controller",
            format!("it starts only from: {}; it has no driver for {best}", starts_from.join(", ")),
            format!(
                "attach its disk to one of those, or name a folder with drivers for {best} \
                     with --drivers"
            ),
        );
    }
}

fn by_hand(guest: &Guest, target: Target) -> String {
    let folder = &guest.folder;
    match target {
        _ if guest.version.is_nt5() => format!(
            "take intelide.sys, pciide.sys, pciidex.sys and atapi.sys out of \
             {folder}/Driver Cache/i386/driver.cab (or sp2.cab, sp3.cab) into \
             {folder}/System32/drivers, and adapt it again"
        ),
        Target::Kvm | Target::Vmware | Target::VirtualBox | Target::Physical => {
            "name a folder with unpacked drivers for it with --drivers".into()
        }
        Target::HyperVGen1 | Target::HyperVGen2 => {
            "install Hyper-V's integration services in the guest first".into()
        }
    }
}
