//! Whether the target's firmware finds a loader.

use vdisk_core::Result;
use vdisk_guest::Place;
use vdisk_guest::fs::{Edit, FileKind, Unix};
use vdisk_guest::inventory::BootMode;
use vdisk_parts::Role;

use super::tree::Tree;
use crate::{Action, Machine, Plan, Target};

/// A loader is some MiB.
const MOST_LOADER: u64 = 64 << 20;

/// Puts the loader where a firmware looks that remembers nothing of this disk.
///
/// # Errors
/// The volume's.
pub(super) fn adapt(
    tree: &mut Tree<'_>,
    arch: Option<&str>,
    target: Target,
    plan: &mut Plan,
) -> Result<()> {
    let disk = tree.machine().starts_from();
    let boot = tree.machine().inventories().nth(disk).map(|one| one.boot.clone());
    let boot = boot.unwrap_or_default();
    match (boot.mode, target) {
        (Some(BootMode::Uefi), Target::HyperVGen1) => plan.stop(
            "linux.firmware",
            "the guest starts by UEFI, which Hyper-V has in generation 2 only",
            "use --target hyper-v-gen2",
        ),
        (Some(BootMode::Bios), Target::HyperVGen2) => plan.stop(
            "linux.firmware",
            "the guest starts by BIOS, which Hyper-V has in generation 1 only",
            "use --target hyper-v-gen1",
        ),
        _ => {}
    }
    if boot.fallback_loader || !matches!(boot.mode, Some(BootMode::Uefi | BootMode::Both)) {
        return Ok(());
    }
    let suffix = match arch {
        Some("arm64") => "aa64",
        Some("x86") => "ia32",
        _ => "x64",
    };
    let table = tree.machine().table(disk)?;
    let esp = table.partitions.iter().find(|one| one.kind.role() == Some(Role::EfiSystem));
    if let (Some(esp), Some(loader)) = (esp, loader(&boot.loaders, suffix)) {
        let place = Place::OnDisk(disk, Box::new(Place::Partition(esp.number)));
        return copy(tree.machine_mut(), &place, &loader, suffix, plan);
    }
    plan.warn(
        "linux.firmware.fallback",
        "no loader is known that could start without an entry in the firmware",
        "add an entry on the new machine, or run grub-install --removable in the guest first",
    );
    Ok(())
}

/// The loader that is to be started: a shim, for it starts the others where signatures count.
fn loader(loaders: &[String], suffix: &str) -> Option<String> {
    // SUSE's shim is not named after the processor.
    let kinds = [format!("shim{suffix}"), "shim".into(), format!("grub{suffix}")];
    kinds.into_iter().chain([format!("systemd-boot{suffix}")]).find_map(|kind| {
        let name = format!("/{kind}.efi");
        loaders.iter().find(|path| path.to_ascii_lowercase().ends_with(&name)).cloned()
    })
}

fn copy(
    machine: &mut Machine,
    esp: &Place,
    loader: &str,
    suffix: &str,
    plan: &mut Plan,
) -> Result<()> {
    let name = machine.name_of(esp);
    let (folder, file) = loader.rsplit_once('/').unwrap_or_default();
    let fs = machine.volume(esp)?.fs();
    let mut copies =
        vec![(loader.to_owned(), format!("/EFI/BOOT/BOOT{}.EFI", suffix.to_uppercase()))];
    if file.to_ascii_lowercase().starts_with("shim") {
        // What a shim starts is looked for beside it.
        let named = [format!("grub{suffix}.efi"), format!("mm{suffix}.efi")];
        for beside in named.into_iter().chain(["grub.efi".into(), "MokManager.efi".into()]) {
            copies.push((format!("{folder}/{beside}"), format!("/EFI/BOOT/{beside}")));
        }
    }
    let unix = Unix { mode: 0o755, uid: 0, gid: 0 };
    let has_folder = fs.exists(b"/EFI/BOOT")?;
    if !has_folder {
        fs.apply(&Edit::CreateDir { path: b"/EFI/BOOT", unix })?;
    }
    for (from, to) in copies {
        if !fs.exists(from.as_bytes())? || fs.exists(to.as_bytes())? {
            continue;
        }
        if fs.stat(&fs.resolve(from.as_bytes())?)?.kind != FileKind::File {
            continue;
        }
        let content = fs.read(from.as_bytes(), MOST_LOADER)?;
        fs.apply(&Edit::Create { path: to.as_bytes(), content: &content, unix })?;
        plan.act(
            Action::new("linux.firmware.fallback", "copy the loader", format!("{name}: {to}"))
                .why("a new machine's firmware has no entry for it, and looks only there")
                .after(format!("as {from}")),
        );
    }
    Ok(())
}
