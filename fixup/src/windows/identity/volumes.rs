//! The machine's SID on NTFS volumes: descriptors of files, and names.

use vdisk_core::{Error, Result};
use vdisk_guest::Place;
use vdisk_guest::fs::Edit;

use super::swap::Swap;
use super::{caution, cautiously};
use crate::windows::ntfs::{Ntfs, files, secure};
use crate::{Action, Machine, Plan, StripOptions};

/// Swaps on every NTFS volume of the disk.
pub(super) fn change(
    machine: &mut Machine,
    swap: &Swap,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    for place in machine.places() {
        let name = place.to_string();
        let work = |plan: &mut Plan| match kind(machine, &place) {
            Some("ntfs") => volume(machine, &place, &name, swap, options, plan),
            Some("bitlocker") => Err(Error::refused(format!(
                "{name} is encrypted (BitLocker): its files would go on naming the old machine"
            ))
            .hint("decrypt it in the guest first, with: manage-bde -off")),
            _ => Ok(()),
        };
        cautiously(plan, "windows.sid.volume", options.force, work)?;
    }
    Ok(())
}

fn volume(
    machine: &mut Machine,
    place: &Place,
    name: &str,
    swap: &Swap,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let volume = machine.volume(place)?;
    let found = files::find(&Ntfs::open(volume.disk().clone())?, swap)?;
    if let Some(example) = &found.encrypted_file {
        caution::encrypted(name, (found.encrypted, example), options, plan);
    }
    if !options.keeps("windows.sid.name") {
        for files::Rename { from, to } in &found.names {
            let (old, new) = (from.as_bytes(), to.as_bytes());
            volume.fs().apply(&Edit::Rename { from: old, to: new })?;
            let action = Action::new("windows.sid.name", "rename what is named by a SID", from)
                .why("Windows finds it by the SID of its user")
                .before(from)
                .after(to);
            plan.act(action);
        }
    }
    if options.keeps("windows.sid.acl") {
        let message = format!("files of {name} go on naming the old machine's accounts");
        plan.warn("windows.sid.acl", message, "");
        return Ok(());
    }
    let ntfs = Ntfs::open(volume.disk().clone())?;
    let shared = secure::rewrite(&ntfs, swap)?;
    let (own, unused) = files::rewrite(&ntfs, swap)?;
    volume.reopen()?;
    if shared + own + unused == 0 {
        return Ok(());
    }
    let what = format!("{shared} shared descriptors, {own} of single files, {unused} old names");
    let action = Action::new("windows.sid.acl", "put the new SID into descriptors of files", name)
        .why("files name their owners and whom they are open to by SID")
        .before(format!("the old SID in {what}"))
        .after(format!("the new SID in {what}"));
    plan.act(action);
    Ok(())
}

fn kind(machine: &Machine, place: &Place) -> Option<&'static str> {
    let inventory = machine.inventory();
    let filesystem = match place {
        Place::Partition(number) => {
            let partition = inventory.partitions.iter().find(|one| one.number == *number);
            partition?.filesystem.as_ref()
        }
        _ => inventory.volumes.iter().find(|one| one.place() == *place)?.filesystem.as_ref(),
    };
    Some(filesystem?.kind)
}
