//! What Windows remembers of media and devices that stay behind.

use vdisk_core::Result;

use super::devices::{self, Device, starts_with};
use super::{Hives, Reason, Registry};
use crate::{Machine, Plan, StripOptions};

const MOUNTED: &str = "MountedDevices";
const MOUNTED_ID: &str = "windows.mounted-devices";

/// What a path of a removable medium begins with, in `MountedDevices`, behind `\??\` or `_??_`.
/// Fixed disks are told by their ids there, and dynamic ones by a path that is not here.
const MEDIA: [(&str, &str); 6] = [
    ("USBSTOR#", "a USB stick or disk"),
    ("STORAGE#RemovableMedia#", "a removable medium"),
    ("IDE#CdRom", "a CD drive"),
    ("SCSI#CdRom", "a CD drive"),
    ("FDC#", "a floppy drive"),
    ("SD#", "a memory card"),
];

/// Devices that go where it is asked for.
struct Ghost {
    id: &'static str,
    is_one: fn(&Device) -> bool,
    why: &'static str,
}

const USB_STORAGE: &str = "windows.ghost.usbstor";
const GHOSTS: [Ghost; 2] = [
    Ghost {
        id: USB_STORAGE,
        is_one: is_usb_storage,
        why: "a USB stick or disk that it has seen stays behind",
    },
    Ghost {
        id: "windows.ghost.display",
        is_one: is_screen,
        why: "a screen that it has seen stays behind",
    },
];

/// Has Windows forget them.
pub(super) fn strip(
    machine: &mut Machine,
    hives: &mut Hives,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let system = hives.config(machine, "SYSTEM")?;
    if !options.keeps(MOUNTED_ID) {
        media(system, plan)?;
    }
    if !options.purge_ghosts {
        return Ok(());
    }
    for set in system.control_sets()? {
        let portable = system.number(&format!("{set}\\Control"), "PortableOperatingSystem")?;
        for Ghost { id, is_one, why } in GHOSTS.iter().filter(|ghost| !options.keeps(ghost.id)) {
            if portable == Some(1) && *id == USB_STORAGE {
                let message = "it is made to start from a USB disk: those that it knows stay known";
                plan.warn(id, message, "");
                continue;
            }
            let reason = Reason { id, what: "forget a device", why };
            let all = devices::list(system, &set)?;
            for device in all.iter().filter(|device| is_one(device)) {
                devices::remove(system, &set, device, reason, plan)?;
            }
        }
    }
    Ok(())
}

/// Letters and paths of media. The letter of a fixed disk stays, whatever disk it is: services may
/// be on it.
fn media(system: &mut Registry, plan: &mut Plan) -> Result<()> {
    let Some(key) = system.key(MOUNTED)? else { return Ok(()) };
    let mut found = Vec::new();
    for value in key.values()? {
        let value = value?;
        let data = value.data()?;
        let units = data.chunks_exact(2).filter_map(|pair| pair.first_chunk().copied());
        let text = String::from_utf16_lossy(&units.map(u16::from_le_bytes).collect::<Vec<_>>());
        let path = ["\\??\\", "_??_"].iter().find_map(|head| text.strip_prefix(head));
        let kind = path.and_then(|path| MEDIA.iter().find(|(start, _)| starts_with(path, start)));
        found.extend(kind.map(|(_, kind)| (value.name().to_string(), *kind)));
    }
    for (name, kind) in found {
        let why = format!("it is of {kind} at its old place, which stays behind");
        let reason = Reason { id: MOUNTED_ID, what: "forget where a medium was", why: &why };
        system.delete_value(plan, reason, MOUNTED, &name)?;
    }
    Ok(())
}

/// The stick as a disk, as a device of the bus, and its volumes in whatever list they are.
fn is_usb_storage(device: &Device) -> bool {
    let is_bridge = |service: &String| {
        ["USBSTOR", "UASPStor"].iter().any(|one| one.eq_ignore_ascii_case(service))
    };
    device.is_on(&["USBSTOR"])
        || (device.is_on(&["USB"]) && device.service.as_ref().is_some_and(is_bridge))
        || device.instance.to_ascii_uppercase().contains("_??_USBSTOR#")
}

fn is_screen(device: &Device) -> bool {
    device.is_on(&["DISPLAY"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(bus: &str, instance: &str, service: &str) -> Device {
        Device {
            bus: bus.into(),
            model: "x".into(),
            instance: instance.into(),
            driver: None,
            service: Some(service.into()),
        }
    }

    #[test]
    fn usb_storage_is_told_in_all_its_places() {
        for (bus, instance, service) in [
            ("USBSTOR", "AA&0", "disk"),
            ("USB", "AA", "USBSTOR"),
            ("usb", "AA", "UaspStor"),
            ("STORAGE", "_??_USBSTOR#Disk&Ven_HP#AA&0#{53f56307}", "volsnap"),
            ("WpdBusEnumRoot", "2&37c186b&0&STORAGE#VOLUME#_??_USBSTOR#DISK#", ""),
        ] {
            assert!(is_usb_storage(&device(bus, instance, service)), "{bus} {instance}");
        }
        for (bus, instance, service) in
            [("USB", "1", "usbhub"), ("SCSI", "1", "disk"), ("STORAGE", "{1}#0", "volsnap")]
        {
            assert!(!is_usb_storage(&device(bus, instance, service)), "{bus} {instance}");
        }
    }
}
