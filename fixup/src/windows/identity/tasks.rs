//! Scheduled tasks: files that name users, whose hashes the registry keeps.

use sha2::{Digest, Sha256};
use vdisk_core::Result;
use vdisk_guest::fs::{Edit, FileKind, GuestFs};

use super::swap::Swap;
use crate::windows::{Data, Hives, Reason, files};
use crate::{Action, Machine, Plan, StripOptions};

const CACHE: &str = "Microsoft\\Windows NT\\CurrentVersion\\Schedule\\TaskCache";
/// Bytes of a task's file, at most.
const MOST: u64 = 4 << 20;
/// Folders below one another, at most.
const DEPTH: usize = 32;

/// Puts the new SID into the files of tasks, and the new hashes into SOFTWARE. A task whose hash
/// is not understood stays as it is: Windows takes one that does not fit for tampered with.
pub(super) fn change(
    machine: &mut Machine,
    hives: &mut Hives,
    swap: &Swap,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    if options.keeps("windows.sid.task") {
        return Ok(());
    }
    let (root, folder) = (hives.root().clone(), format!("{}/System32/Tasks", hives.folder()));
    let fs = machine.volume(&root)?.fs();
    let mut found = Vec::new();
    if fs.exists(folder.as_bytes())? {
        list(fs, &folder, DEPTH, &mut found)?;
    }
    let mut packed = 0;
    for path in found {
        if files::is_packed(machine.volume(&root)?.fs(), &path)? {
            packed += 1;
            continue;
        }
        let before = machine.volume(&root)?.fs().read(path.as_bytes(), MOST)?;
        let Some(after) = swap.applied(&before) else { continue };
        if !rehash(
            machine,
            hives,
            path.get(folder.len()..).unwrap_or_default(),
            [&before, &after],
            plan,
        )? {
            plan.warn(
                "windows.sid.task",
                format!("the task {path} goes on naming the old machine: its hash is not known"),
                "make it anew in the guest",
            );
            continue;
        }
        let edit = Edit::Write { path: path.as_bytes(), offset: 0, data: &after };
        machine.volume(&root)?.fs().apply(&edit)?;
        let action = Action::new("windows.sid.task", "put the new SID into a task", &path)
            .why("it names the user it runs for by SID")
            .before(swap.old.to_string())
            .after(swap.new.to_string());
        plan.act(action);
    }
    if packed > 0 {
        plan.warn(
            "windows.sid.task",
            format!(
                "{packed} tasks are compressed (CompactOS), and were not looked at: mostly they \
                 are as they came with Windows, and name nobody"
            ),
            "uncompress them in the guest first with: compact /u /exe",
        );
    }
    Ok(())
}

/// Sets the hash of a task's file in the cache; whether the old one was understood. Tasks of XP,
/// and those that are not in the cache, have none.
fn rehash(
    machine: &mut Machine,
    hives: &mut Hives,
    task: &str,
    [before, after]: [&[u8]; 2],
    plan: &mut Plan,
) -> Result<bool> {
    let software = hives.config(machine, "SOFTWARE")?;
    let tree = format!("{CACHE}\\Tree{}", task.replace('/', "\\"));
    let Some(id) = software.text(&tree, "Id")? else { return Ok(true) };
    let key = format!("{CACHE}\\Tasks\\{id}");
    let Some(value) = software.value(&key, "Hash")? else { return Ok(true) };
    if *value.data()? != *Sha256::digest(before) {
        return Ok(false);
    }
    let reason = Reason {
        id: "windows.sid.task",
        what: "give a task the hash of its new file",
        why: "Windows does not run a task whose file has another hash",
    };
    let hash = Data::binary(Sha256::digest(after).to_vec());
    software.set(plan, reason, &key, "Hash", &hash)?;
    Ok(true)
}

fn list(fs: &dyn GuestFs, folder: &str, depth: usize, found: &mut Vec<String>) -> Result<()> {
    for entry in fs.read_dir(folder.as_bytes())? {
        let Ok(name) = String::from_utf8(entry.name) else { continue };
        let path = format!("{folder}/{name}");
        match entry.kind {
            FileKind::Directory if depth > 0 => list(fs, &path, depth - 1, found)?,
            FileKind::File => found.push(path),
            _ => {}
        }
    }
    Ok(())
}
