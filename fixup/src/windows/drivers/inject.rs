//! Putting packages into a guest.

use std::collections::BTreeMap;

use vdisk_core::{Error, Result};
use vdisk_guest::inventory::Role;

use super::super::guest::{Arch, Guest, Nt};
use super::super::inf::{Install, Os, Service};
use super::super::{Data, Hives, Reason, files};
use super::database::{Known, add, as_critical, in_database, service_values};
use super::package::{Package, find};
use crate::{AdaptOptions, Machine, Plan};

/// `ServiceType` of drivers of devices.
const KERNEL_DRIVER: u32 = 1;

type Files = BTreeMap<String, Vec<u8>>;

/// Puts in what the folders of the host have for this Windows.
pub(in super::super) fn inject(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    options: &AdaptOptions,
    plan: &mut Plan,
) -> Result<()> {
    let server = guest.role.is_some_and(|role| role != Role::Workstation);
    let os = Os { version: guest.version, arch: guest.arch, server };
    let packages = find(&options.drivers, os, plan)?;
    if packages.is_empty() && !options.drivers.is_empty() {
        plan.warn(
            "windows.driver.folder",
            format!("no driver for {} ({}) is in the folders", guest.product, guest.arch.name()),
            "look for a folder of the right version and processor",
        );
    }
    for package in packages {
        let files = match package.files(os) {
            Ok(files) => files,
            Err(error) => {
                plan.warn("windows.driver.incomplete", error.to_string(), "it is left out");
                continue;
            }
        };
        warn_of_signature(guest, &package, &files, plan);
        if !package.drives_disks()
            || disk_driver(machine, hives, guest, &package, os, &files, plan)?
        {
            place(machine, hives, guest, &package, &files, plan)?;
        }
    }
    Ok(())
}

/// Where Windows finds the package when it meets the device.
fn place(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    package: &Package,
    files: &Files,
    plan: &mut Plan,
) -> Result<()> {
    let why = format!("Windows installs {} from there when it meets the device", package.name);
    let reason = Reason { id: "windows.driver.package", what: "put in a driver's file", why: &why };
    let fs = machine.volume(&guest.root)?.fs();
    for (name, content) in files {
        let path = format!("{}/Drivers/vdisk/{}/{name}", guest.folder, package.stem());
        files::put(fs, &path, content, reason, plan)?;
    }
    let software = hives.config(machine, "SOFTWARE")?;
    let (key, name) = ("Microsoft\\Windows\\CurrentVersion", "DevicePath");
    let folder = format!("%SystemRoot%\\Drivers\\vdisk\\{}", package.stem());
    let now = software.text(key, name)?.filter(|now| !now.is_empty());
    let now = now.unwrap_or_else(|| "%SystemRoot%\\inf".into());
    if now.split(';').any(|one| one.eq_ignore_ascii_case(&folder)) {
        return Ok(());
    }
    let reason = Reason { id: "windows.driver.path", what: "look for drivers there", ..reason };
    software.set(plan, reason, key, name, &Data::ExpandSz(format!("{now};{folder}"))).map(drop)
}

/// Has the loader load it, and Windows know it before it is installed; whether the package is of
/// use, which it is not where the guest has a driver of that name already.
fn disk_driver(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    package: &Package,
    os: Os,
    files: &Files,
    plan: &mut Plan,
) -> Result<bool> {
    let mut used = true;
    for (install, ids) in installs(package, os) {
        let drives = |one: &&Service| one.drives && one.kind == KERNEL_DRIVER;
        let Some(service) = install.services.iter().find(drives) else { continue };
        let binary = files.iter().find(|(name, _)| name.eq_ignore_ascii_case(&service.binary));
        let Some((_, binary)) = binary else {
            let message = format!("{} does not bring {}", package.shown(), service.binary);
            plan.warn("windows.driver.incomplete", message, "it is left out");
            return Ok(false);
        };
        is_for(binary, guest.arch).map_err(|error| error.in_file(package.shown()))?;
        if has_its_own(machine, hives, guest, service, binary)? {
            let message = format!("it has another {} already, which is kept", service.name);
            plan.warn("windows.driver.kept", message, "remove that one first if it is too old");
            used = false;
            continue;
        }
        let why = format!("{} drives disks, and Windows does not bring it along", service.name);
        let reason =
            Reason { id: "windows.driver.inject", what: "put in a disk driver", why: &why };
        let path = format!("{}/System32/drivers/{}", guest.folder, service.binary);
        files::put(machine.volume(&guest.root)?.fs(), &path, binary, reason, plan)?;
        let label = format!("{}_{}_0000000000000000", package.name, guest.arch.name());
        let known = Known { package, install: &install, service, ids: &ids, label: &label };
        register(machine, hives, guest, &known, reason, plan)?;
    }
    Ok(used)
}

fn register(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    known: &Known<'_>,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let system = hives.config(machine, "SYSTEM")?;
    let service = known.service;
    for set in system.control_sets()? {
        let key = format!("{set}\\Services\\{}", service.name);
        for (name, data) in service_values(service) {
            system.set(plan, reason, &key, name, &data)?;
        }
        add(system, &key, &service.registry, reason, plan)?;
        if guest.version >= Nt::EIGHT {
            let owner = Data::MultiSz(vec![known.package.name.clone()]);
            system.set(plan, reason, &key, "Owners", &owner)?;
        } else {
            as_critical(system, &set, known, reason, plan)?;
        }
    }
    if guest.version >= Nt::EIGHT { in_database(system, known, reason, plan) } else { Ok(()) }
}

/// What is installed for the models, once for each section, with all hardware ids that lead there.
fn installs(package: &Package, os: Os) -> Vec<(Install, Vec<String>)> {
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for model in &package.models {
        ids.entry(model.section.to_lowercase()).or_default().extend(model.ids.iter().cloned());
    }
    let install = |(section, mut ids): (String, Vec<String>)| {
        let mut seen = std::collections::BTreeSet::new();
        ids.retain(|id| seen.insert(id.to_lowercase()));
        Some((package.inf.install(&section, os)?, ids))
    };
    ids.into_iter().filter_map(install).collect()
}

/// Whether the guest has a service of that name with a file of other content.
fn has_its_own(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    service: &Service,
    binary: &[u8],
) -> Result<bool> {
    let system = hives.config(machine, "SYSTEM")?;
    for set in system.control_sets()? {
        let key = format!("{set}\\Services\\{}", service.name);
        if system.number(&key, "Start")?.is_none() {
            continue;
        }
        let image = system.text(&key, "ImagePath")?.unwrap_or_default();
        let path = guest.image(&image, &service.name);
        let fs = machine.volume(&guest.root)?.fs();
        // What cannot be read is taken for another one.
        let packed = fs.exists(path.as_bytes())? && files::is_packed(fs, &path)?;
        return Ok(packed || files::read(fs, &path)?.is_some_and(|there| there != binary));
    }
    Ok(false)
}

/// Refuses a driver for another processor, by its header (PE/COFF 3.3).
fn is_for(binary: &[u8], arch: Arch) -> Result<()> {
    let machine = || {
        let at = binary.get(0x3c..)?.first_chunk::<4>()?;
        let header = binary.get(usize::try_from(u32::from_le_bytes(*at)).ok()?..)?;
        let [b'P', b'E', 0, 0, low, high] = *header.first_chunk()? else { return None };
        Some(u16::from_le_bytes([low, high]))
    };
    let wanted = match arch {
        Arch::X86 => 0x014c,
        Arch::Amd64 => 0x8664,
        Arch::Arm64 => 0xaa64,
    };
    match machine() {
        Some(machine) if machine == wanted => Ok(()),
        Some(_) => Err(Error::refused("the driver is for another processor than the guest's")
            .hint("name the folder of the right processor with --drivers")),
        None => {
            Err(Error::refused("the driver is no program of Windows")
                .hint("unpack the drivers first"))
        }
    }
}

fn warn_of_signature(guest: &Guest, package: &Package, files: &Files, plan: &mut Plan) {
    let catalog = package.header.catalog.as_ref();
    let signed = catalog.is_some_and(|name| files.contains_key(name));
    if !signed && guest.arch != Arch::X86 {
        plan.warn(
            "windows.driver.signature",
            format!("{} comes without its signature (catalog)", package.shown()),
            "Windows of 64 bits does not load it unless the driver itself is signed",
        );
    }
}
