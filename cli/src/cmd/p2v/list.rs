//! `vdisk p2v --list`

use std::fmt::Write;

use serde_json::json;
use vdisk::{Result, human_size};
use vdisk_p2v::{DiskInfo, Machine, Use};

use crate::cmd::{Context, Outcome};
use crate::show;

pub(super) fn run(machine: &Machine, context: &Context<'_>) -> Result<Outcome> {
    let disks = machine.disks()?;
    if context.json() {
        show::json(&json!({"schema": "vdisk.disks/1", "disks": disks}))?;
    } else {
        show::text(&disks.iter().map(page).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Outcome::Done)
}

/// A disk, for people.
pub(in crate::cmd) fn page(disk: &DiskInfo) -> String {
    let mut text = String::new();
    let kind = match disk.rotational {
        Some(true) => ", rotating",
        Some(false) => ", solid state",
        None => "",
    };
    let _ = writeln!(
        text,
        "{}  {} ({} bytes), {}, serial {}",
        disk.path.display(),
        human_size(disk.size),
        disk.size,
        disk.model.as_deref().unwrap_or("no model"),
        disk.serial.as_deref().unwrap_or("none"),
    );
    let _ = writeln!(
        text,
        "    sectors of {} bytes (physical {}){kind}{}{}{}",
        disk.logical_sector_size,
        disk.physical_sector_size,
        if disk.removable { ", removable" } else { "" },
        if disk.read_only { ", read-only" } else { "" },
        if disk.is_of_system() { ", this system runs from it" } else { "" },
    );
    for id in &disk.by_id {
        let _ = writeln!(text, "    by-id {id}");
    }
    if !disk.uses.is_empty() {
        let _ = writeln!(text, "    {}", uses(&disk.uses));
    }
    for part in &disk.partitions {
        let used = uses(&part.uses);
        let gap = if used.is_empty() { "" } else { ": " };
        let _ = writeln!(
            text,
            "    {}  {} at {}{gap}{used}",
            part.path.display(),
            human_size(part.size),
            part.start,
        );
    }
    text
}

fn uses(uses: &[Use]) -> String {
    uses.iter().map(Use::to_string).collect::<Vec<_>>().join(", ")
}
