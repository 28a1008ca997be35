//! Windows XP and Server 2003: what they do not have until a device has asked for it.

use vdisk_core::Result;

use super::super::guest::Guest;
use super::super::{Data, Hives, Reason};
use crate::{Machine, Plan};

/// A driver of IDE disks, and what its service's key says.
struct Service {
    name: &'static str,
    group: &'static str,
    /// Files besides its own that it does not load without.
    imports: &'static [&'static str],
}

const SERVICES: [Service; 3] = [
    Service { name: "intelide", group: "System Bus Extender", imports: &["pciidex"] },
    Service { name: "pciide", group: "System Bus Extender", imports: &["pciidex"] },
    Service { name: "atapi", group: "SCSI miniport", imports: &[] },
];
/// `Type` of drivers of devices.
const KERNEL_DRIVER: u32 = 1;

/// Makes the services of drivers whose files are there and whose keys are not.
pub(super) fn complete(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    sets: &[String],
    plan: &mut Plan,
) -> Result<()> {
    for service in &SERVICES {
        let mut whole = true;
        for file in [service.name].iter().chain(service.imports) {
            whole &= machine.volume(&guest.root)?.fs().exists(driver(guest, file).as_bytes())?;
        }
        if !whole {
            continue;
        }
        let reason = Reason {
            id: "windows.driver.service",
            what: "make the service of a driver",
            why: "its file is there, and no device asked for it on the old machine",
        };
        let system = hives.config(machine, "SYSTEM")?;
        for set in sets {
            let path = format!("{set}\\Services\\{}", service.name);
            if system.number(&path, "Start")?.is_some() {
                continue;
            }
            let image = format!("System32\\DRIVERS\\{}.sys", service.name);
            for (name, data) in [
                ("Type", Data::Dword(KERNEL_DRIVER)),
                ("Start", Data::Dword(0)),
                ("ErrorControl", Data::Dword(1)),
                ("Group", Data::Sz(service.group.into())),
                ("ImagePath", Data::ExpandSz(image)),
            ] {
                system.set(plan, reason, &path, name, &data)?;
            }
        }
    }
    Ok(())
}

/// Files that a driver does not load without; later versions bring them along.
pub(super) fn imports(guest: &Guest, service: &str) -> Vec<String> {
    let known = SERVICES.iter().find(|one| guest.version.is_nt5() && one.name == service);
    let imports = known.map(|one| one.imports).unwrap_or_default();
    imports.iter().map(|file| driver(guest, file)).collect()
}

fn driver(guest: &Guest, name: &str) -> String {
    guest.image("", name)
}
