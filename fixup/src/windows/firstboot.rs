//! One thing that Windows does by itself at its first start, for what cannot be done offline.
//!
//! A script in a folder of its own, and a service that starts it and is gone after that. The
//! service is `cmd.exe`, which is no service: it starts the script and ends, and Windows, which
//! waits for it to report, takes no offence (`ErrorControl` 0). The script deletes the service and
//! renames itself before anything else, so that whatever happens it runs once. What it did stands
//! in a log beside it. It needs nothing but PowerShell 2, which Windows 7 and Server 2008 R2 were
//! the first to have in the box.

use vdisk_core::{Error, Result};

use super::guest::{Guest, Nt};
use super::{Data, Hives, Reason, Registry, files};
use crate::{Machine, Plan};

/// The service, and the folder below that of Windows.
const SERVICE: &str = "vdisk-firstboot";
const FOLDER: &str = "vdisk";
/// What every script begins with.
const HEAD: &str = include_str!("firstboot/head.ps1");
const POWERSHELL: &str = "System32/WindowsPowerShell/v1.0/powershell.exe";
/// `Type`: a process of its own. `Start`: by itself. `ErrorControl`: a failure is ignored.
const SERVICE_VALUES: [(&str, u32); 3] = [("Type", 0x10), ("Start", 2), ("ErrorControl", 0)];

/// Why nothing can be done at the first start; none where it can.
///
/// # Errors
/// The disk's.
pub(super) fn hindrance(machine: &mut Machine, guest: &Guest) -> Result<Option<&'static str>> {
    if guest.version < Nt::SEVEN {
        return Ok(Some("before Windows 7 there was no PowerShell in the box"));
    }
    let path = format!("{}/{POWERSHELL}", guest.folder);
    let there = machine.volume(&guest.root)?.fs().exists(path.as_bytes())?;
    Ok((!there).then_some("there is no PowerShell in it"))
}

/// Whether something waits for the first start already.
///
/// # Errors
/// Damage of the hive.
pub(super) fn waits(system: &Registry, set: &str) -> Result<bool> {
    Ok(system.key(&service(set))?.is_some())
}

/// Has Windows run `body` once at its first start, by PowerShell, as `LocalSystem`.
///
/// # Errors
/// [`Refused`](vdisk_core::ErrorKind::Refused) where something else waits already; as
/// [`Registry::set`] and [`files::put`].
pub(super) fn install(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    reason: Reason<'_>,
    body: &str,
    plan: &mut Plan,
) -> Result<()> {
    let script = format!("{HEAD}\n{body}").replace('\n', "\r\n");
    let path = format!("{}/{FOLDER}/firstboot.ps1", guest.folder);
    let fs = machine.volume(&guest.root)?.fs();
    if files::read(fs, &path)?.is_some_and(|old| old != script.as_bytes()) {
        return Err(Error::refused(format!("something else waits for the first start: {path}"))
            .hint("let the guest start once, or take the earlier run back with --undo"));
    }
    files::put(fs, &path, script.as_bytes(), reason, plan)?;
    let command = format!(
        "%SystemRoot%\\System32\\cmd.exe /d /c start \"\" /b \"%SystemRoot%\\{}\" -NoProfile \
         -NonInteractive -ExecutionPolicy Bypass -File \"%SystemRoot%\\{FOLDER}\\firstboot.ps1\"",
        POWERSHELL.replace('/', "\\")
    );
    let system = hives.config(machine, "SYSTEM")?;
    for key in system.control_sets()?.iter().map(|set| service(set)) {
        for (name, number) in SERVICE_VALUES {
            system.set(plan, reason, &key, name, &Data::Dword(number))?;
        }
        system.set(plan, reason, &key, "ImagePath", &Data::ExpandSz(command.clone()))?;
        system.set(plan, reason, &key, "ObjectName", &Data::Sz("LocalSystem".into()))?;
    }
    forbidden(hives.config(machine, "SOFTWARE")?, plan)
}

/// Warns where a policy keeps all scripts from running.
fn forbidden(software: &Registry, plan: &mut Plan) -> Result<()> {
    let key = "Policies\\Microsoft\\Windows\\PowerShell";
    let policy = software.text(key, "ExecutionPolicy")?.unwrap_or_default();
    let strict = ["AllSigned", "Restricted"].iter().any(|one| one.eq_ignore_ascii_case(&policy));
    if strict || software.number(key, "EnableScripts")? == Some(0) {
        plan.warn(
            "windows.firstboot.policy",
            "a group policy keeps PowerShell from running scripts that are not signed: what waits \
             for the first start will not be done",
            "lift the policy in the guest first",
        );
    }
    Ok(())
}

fn service(set: &str) -> String {
    format!("{set}\\Services\\{SERVICE}")
}
