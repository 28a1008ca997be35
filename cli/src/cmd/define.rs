//! `vdisk define`

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use vdisk::{Disk, Error, Format, Image, Result, refuse_input};
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
    for remark in made.files.iter().flat_map(|(_, definition)| &definition.remarks) {
        context.note(remark);
    }
    if !args.dry_run {
        made.write(args.force)?;
    }
    if context.json() {
        let files = made.files.iter().map(|(path, definition)| {
            json!({"filename": path.display().to_string(), "text": definition.text})
        });
        show::json(&json!({
            "schema": "vdisk.define/1",
            "target": args.target.name(),
            "written": !args.dry_run,
            "files": files.collect::<Vec<_>>(),
        }))?;
    } else if args.dry_run {
        for (path, definition) in &made.files {
            let text = definition.text.trim_start_matches('\u{FEFF}');
            show::text(&format!("# {}\n{text}", path.display()))?;
        }
    } else {
        for (path, _) in &made.files {
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

/// A definition's files, and what none of them may replace.
pub(super) struct Made {
    pub(super) files: Vec<(PathBuf, Definition)>,
    /// Device and inode of each file of the images.
    inputs: Vec<(u64, u64)>,
}

impl Made {
    /// Writes each file, whole or not at all.
    pub(super) fn write(&self, force: bool) -> Result<()> {
        self.files.iter().try_for_each(|(path, definition)| {
            refuse_input(path, &self.inputs)?;
            vdisk::write_file(path, definition.text.as_bytes(), force)
        })
    }
}

impl Request<'_> {
    /// The definition's files, beside the first image.
    pub(super) fn make(&self) -> Result<Made> {
        let hypervisor = hypervisor(self.target)?;
        let first = self.images.first().ok_or_else(|| Error::usage("no image is named"))?;
        let open = |path: &PathBuf| self.source.open_options().open(path);
        let images: Vec<Arc<Image>> =
            self.images.iter().map(|path| open(path).map(Arc::new)).collect::<Result<_>>()?;
        let disks: Vec<(Arc<dyn Disk>, u64)> = images
            .iter()
            .map(|image| (image.clone() as Arc<dyn Disk>, image.info().logical_sector.into()))
            .collect();
        let found = vdisk_guest::inspect_together(&disks).map_err(|error| match self.images {
            [only] => error.in_file(only),
            _ => error,
        })?;
        self.insist_on_first(&found)?;
        let sizing = Sizing { firmware: self.generation(), ..self.sizing.clone() };
        let mut vm = Vm::for_guest(&self.name(&found, first)?, &found, hypervisor, &sizing)
            .map_err(|error| error.in_file(first))?;
        self.check_generation(vm.firmware, first)?;
        for ((path, image), found) in self.images.iter().zip(&images).zip(&found) {
            let (disk, remark) = described(path, first, image, found, hypervisor)?;
            vm.disks.push(disk);
            vm.remarks.extend(remark);
        }
        // Before a capture these are the sources, whose images get names of their own.
        match self.before_conversion {
            true => name_converted(&mut vm, hypervisor),
            false => refuse_same_names(&vm)?,
        }
        let files = define(&vm, hypervisor)?.into_iter();
        Ok(Made {
            files: files.map(|one| (first.with_extension(one.extension), one)).collect(),
            inputs: images.iter().flat_map(|image| image.host_ids()).collect(),
        })
    }

    /// Fails where another disk than the first is what starts: hypervisors start the first.
    fn insist_on_first(&self, found: &[Inventory]) -> Result<()> {
        let starts = found.iter().position(|one| one.boot.mode.is_some()).unwrap_or_default();
        let (Some(first), Some(starts)) = (self.images.first(), self.images.get(starts)) else {
            return Ok(());
        };
        if first == starts {
            return Ok(());
        }
        Err(Error::refused("the machine would start from it, and nothing on it can be started")
            .in_file(first)
            .hint(format!("name the disk first that starts: {}", starts.display())))
    }

    /// As asked for, or as the guest calls itself, or as the image is called.
    fn name(&self, found: &[Inventory], image: &Path) -> Result<String> {
        if let Some(name) = &self.name {
            return match name.contains(char::is_control) {
                true => Err(Error::usage("a machine's name cannot hold control characters")),
                false => Ok(name.clone()),
            };
        }
        let system = found.iter().find_map(|one| one.systems.first());
        let own = system.and_then(|system| system.hostname.as_deref()).unwrap_or_default();
        let own = own.replace(char::is_control, "");
        let stem = || image.file_stem().unwrap_or_default().to_string_lossy();
        Ok(if own.trim().is_empty() { stem().into_owned() } else { own })
    }

    /// The firmware that the target stands for.
    fn generation(&self) -> Option<Firmware> {
        match self.target {
            Target::HyperVGen1 => Some(Firmware::Bios),
            Target::HyperVGen2 => Some(Firmware::Uefi),
            _ => None,
        }
    }

    fn check_generation(&self, firmware: Firmware, image: &Path) -> Result<()> {
        if self.generation().is_none_or(|wanted| wanted == firmware) {
            return Ok(());
        }
        let (starts, hint) = match firmware {
            Firmware::Uefi => ("UEFI", "hyper-v-gen2"),
            Firmware::Bios => ("a BIOS", "hyper-v-gen1"),
        };
        Err(Error::refused(format!("the disk starts with {starts}, which this generation is not"))
            .in_file(image)
            .hint(format!("the target for it is {hint}")))
    }
}

/// An image as a disk of the machine, and what is to be done for it to be found.
fn described(
    path: &Path,
    first: &Path,
    image: &Image,
    found: &Inventory,
    hypervisor: Hypervisor,
) -> Result<(VmDisk, Option<String>)> {
    let (format, sector) = (image.info().format, u64::from(image.info().logical_sector));
    let sector_size = found.disk.sector_size;
    // A raw image has the sectors that it is given.
    if sector != sector_size && format != Format::Raw && found.disk.partition_table != "none" {
        return Err(Error::refused(format!(
            "its partition table counts in sectors of {sector_size} bytes, and the image has \
             {sector}: nothing on it would be found"
        ))
        .in_file(path)
        .hint(format!(
            "convert it with its own sectors: vdisk convert -O vhdx -o \
             logical_sector_size={sector_size}"
        )));
    }
    let (file, remark) = file_name(path, first, hypervisor)?;
    let mut disk = VmDisk::new(file, image.len());
    format.name().clone_into(&mut disk.format);
    disk.sector_size = sector_size;
    Ok((disk, remark))
}

/// The file as the definition names it: libvirt wants a path from the root, others one beside the
/// definition, which may be used on another host.
fn file_name(
    path: &Path,
    first: &Path,
    hypervisor: Hypervisor,
) -> Result<(String, Option<String>)> {
    let whole = path.canonicalize().map_err(|error| Error::io(error, "find it").in_file(path))?;
    // A link's own name, not the one of what it leads to.
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let is_beside = folder(path)? == folder(first)?;
    let (name, is_moved) = match hypervisor {
        Hypervisor::Kvm => (whole, false),
        _ if is_beside => (name, false),
        // It runs where the disks are.
        Hypervisor::VirtualBox => (whole, false),
        Hypervisor::HyperV | Hypervisor::Vmware => (name, true),
    };
    let text = name.into_os_string().into_string().map_err(|name: OsString| {
        Error::usage("the name is not UTF-8, so no definition can hold it")
            .in_file(PathBuf::from(name))
    })?;
    if text.contains(char::is_control) {
        return Err(Error::usage("the name holds control characters, which no definition can")
            .in_file(path));
    }
    let remark = is_moved.then(|| format!("put {} beside the definition", path.display()));
    Ok((text, remark))
}

/// The folder that a file is in.
fn folder(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    folder.canonicalize().map_err(|error| Error::io(error, "find it").in_file(folder))
}

/// Fails where two disks would be one file.
fn refuse_same_names(vm: &Vm) -> Result<()> {
    let mut names = BTreeSet::new();
    match vm.disks.iter().find(|disk| !names.insert(&disk.file)) {
        Some(disk) => Err(Error::refused("two disks of the machine would have this name")
            .in_file(&disk.file)
            .hint("give one of the images another name")),
        None => Ok(()),
    }
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

impl MachineArgs {
    /// The same as the library takes it.
    pub(super) fn sizing(&self) -> Sizing {
        Sizing {
            memory: self.memory,
            processors: self.cpus,
            macs: self.mac.clone(),
            network_boot: self.pxe,
            firmware: None,
        }
    }
}
