//! `vdisk define`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use vdisk::{Disk, Error, Result};
use vdisk_define::{Definition, Firmware, Hypervisor, Sizing, Vm, VmDisk, define};
use vdisk_fixup::Target;
use vdisk_guest::Inventory;

use super::{Context, Outcome};
use crate::args::{DefineArgs, MachineArgs, Source};
use crate::show;

pub(super) fn run(args: &DefineArgs, context: &Context<'_>) -> Result<Outcome> {
    let request = Request {
        images: &args.images,
        source: &args.source,
        target: args.target,
        sizing: args.machine.sizing(),
        name: args.machine.name.clone(),
        before_conversion: false,
    };
    let made = request.make()?;
    for remark in made.iter().flat_map(|(_, definition)| &definition.remarks) {
        context.note(remark);
    }
    if !args.dry_run {
        made.iter().try_for_each(|(path, one)| write(path, one, args.force))?;
    }
    if context.json() {
        let files = made.iter().map(|(path, definition)| {
            json!({"filename": path.display().to_string(), "text": definition.text})
        });
        show::json(&json!({
            "schema": "vdisk.define/1",
            "target": args.target.name(),
            "written": !args.dry_run,
            "files": files.collect::<Vec<_>>(),
        }))?;
    } else if args.dry_run {
        for (path, definition) in &made {
            show::text(&format!("# {}\n{}", path.display(), definition.text))?;
        }
    } else {
        for (path, _) in &made {
            show::text(&format!("{}\n", path.display()))?;
        }
    }
    Ok(Outcome::Done)
}

/// What a definition is to be made for.
pub(super) struct Request<'a> {
    pub(super) images: &'a [PathBuf],
    pub(super) source: &'a Source,
    pub(super) target: Target,
    pub(super) sizing: Sizing,
    pub(super) name: Option<String>,
    /// An image in a format that the hypervisor does not run is named as it will be called once it
    /// is converted.
    pub(super) before_conversion: bool,
}

/// A disk, and the size of its sectors.
type Looked = (Arc<dyn Disk>, u64);

impl Request<'_> {
    /// The definition's files, beside the first image.
    pub(super) fn make(&self) -> Result<Vec<(PathBuf, Definition)>> {
        let hypervisor = hypervisor(self.target)?;
        let first = self.images.first().ok_or_else(|| Error::usage("no image is named"))?;
        let (mut named, mut disks) = (Vec::new(), Vec::new());
        for path in self.images {
            let (disk, name) = self.look(path, first, hypervisor)?;
            disks.push(disk);
            named.push(name);
        }
        let found = vdisk_guest::inspect_together(&disks).map_err(|error| match self.images {
            [only] => error.in_file(only),
            _ => error,
        })?;
        let system = found.iter().position(|one| !one.systems.is_empty()).unwrap_or_default();
        let inventory = found.into_iter().nth(system);
        let inventory = inventory.ok_or_else(|| Error::usage("no image is named"))?;
        let name = self.name.clone().unwrap_or_else(|| name_of(&inventory, first));
        let mut vm = Vm::for_guest(&name, &inventory, hypervisor, &self.sizing)
            .map_err(|error| error.in_file(first))?;
        self.check_generation(vm.firmware, first)?;
        vm.disks = named;
        if self.before_conversion {
            name_converted(&mut vm, hypervisor);
        }
        let files = define(&vm, hypervisor)?;
        Ok(files.into_iter().map(|one| (first.with_extension(one.extension), one)).collect())
    }

    fn look(&self, path: &Path, first: &Path, hypervisor: Hypervisor) -> Result<(Looked, VmDisk)> {
        let image = self.source.open_options().open(path)?;
        let format = image.info().format.name().to_owned();
        let sector_size = u64::from(image.info().logical_sector);
        let disk: Arc<dyn Disk> = Arc::new(image);
        let size = disk.len();
        let mut named = VmDisk::new(file_name(path, first, hypervisor)?, size);
        named.format = format;
        Ok(((disk, sector_size), named))
    }

    fn check_generation(&self, firmware: Firmware, image: &Path) -> Result<()> {
        let (wanted, hint) = match self.target {
            Target::HyperVGen1 => (Firmware::Bios, "hyper-v-gen2"),
            Target::HyperVGen2 => (Firmware::Uefi, "hyper-v-gen1"),
            _ => return Ok(()),
        };
        if firmware == wanted {
            return Ok(());
        }
        let starts = if firmware == Firmware::Uefi { "UEFI" } else { "a BIOS" };
        Err(Error::refused(format!("the disk starts with {starts}, which this generation is not"))
            .in_file(image)
            .hint(format!("the target for it is {hint}")))
    }
}

/// The file as the definition names it: libvirt wants a path from the root.
fn file_name(path: &Path, first: &Path, hypervisor: Hypervisor) -> Result<String> {
    let whole = path.canonicalize().map_err(|error| Error::io(error, "find it").in_file(path))?;
    let beside = path.parent() == first.parent();
    let name = match path.file_name() {
        Some(name) if beside && hypervisor != Hypervisor::Kvm => PathBuf::from(name),
        _ => whole,
    };
    let text = name.into_os_string().into_string();
    text.map_err(|name: OsString| {
        Error::usage("the name is not UTF-8, so no definition can hold it")
            .in_file(PathBuf::from(name))
    })
}

/// Names disks as they will be called once they are what the hypervisor runs.
fn name_converted(vm: &mut Vm, hypervisor: Hypervisor) {
    for disk in vm.disks.iter_mut().filter(|disk| !hypervisor.takes(&disk.format)) {
        hypervisor.preferred().clone_into(&mut disk.format);
        let ending = if disk.format == "raw" { "img" } else { &disk.format };
        let there = std::mem::take(&mut disk.file);
        disk.file = Path::new(&there).with_extension(ending).to_string_lossy().into_owned();
        vm.remarks.push(format!(
            "warning: the machine cannot run {there}; its definition names {}, so make that with: \
             vdisk convert -O {} {there} {}",
            disk.file, disk.format, disk.file
        ));
    }
}

fn name_of(inventory: &Inventory, image: &Path) -> String {
    let hostname = inventory.systems.first().and_then(|system| system.hostname.clone());
    hostname.unwrap_or_else(|| image.file_stem().unwrap_or_default().to_string_lossy().into_owned())
}

fn hypervisor(target: Target) -> Result<Hypervisor> {
    Ok(match target {
        Target::HyperVGen1 | Target::HyperVGen2 => Hypervisor::HyperV,
        Target::Kvm => Hypervisor::Kvm,
        Target::Vmware => Hypervisor::Vmware,
        Target::VirtualBox => Hypervisor::VirtualBox,
        Target::Physical => {
            return Err(Error::usage("a physical machine has no definition")
                .hint("write the image to its disk: vdisk v2p"));
        }
    })
}

/// Writes a definition, whole or not at all.
pub(super) fn write(path: &Path, definition: &Definition, force: bool) -> Result<()> {
    vdisk::write_file(path, definition.text.as_bytes(), force)
}

impl MachineArgs {
    /// The same as the library takes it.
    pub(super) fn sizing(&self) -> Sizing {
        Sizing {
            memory: self.memory,
            processors: self.cpus,
            macs: self.mac.clone(),
            network_boot: self.pxe,
        }
    }
}
