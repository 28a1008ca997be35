//! Another identity by the tool that Microsoft supports, run at the first start.
//!
//! `Setup\CmdLine` would start it too, before anybody can log on. But in that state Windows takes
//! itself for being set up, which sysprep refuses to run in, and a failure would leave a machine
//! that lets nobody in. So it is the first-boot script, which leaves the machine as it was where
//! sysprep fails.

use vdisk_core::Result;

use super::{caution, ids, keys};
use crate::windows::{Guest, Hives, Reason, Registry, firstboot};
use crate::{Machine, Plan, StripOptions};

const ID: &str = "windows.sysprep";
const SCRIPT: &str = include_str!("../firstboot/sysprep.ps1");
/// `GeneralizationState` where sysprep may run.
const READY: u32 = 7;
/// `ImageState` of a Windows in use; one that is generalized already; the beginning of the latter.
const COMPLETE: &str = "IMAGE_STATE_COMPLETE";
const GENERALIZED: &str = "IMAGE_STATE_GENERALIZE_RESEAL_TO_";
/// The first build with apps for each user, which sysprep stumbles over.
const APPS: u32 = 9200;

/// Has sysprep run at the first start; takes away the ids that it does not know of.
pub(super) fn prepare(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let state = "Microsoft\\Windows\\CurrentVersion\\Setup\\State";
    let state = hives.config(machine, "SOFTWARE")?.text(state, "ImageState")?;
    let state = state.unwrap_or_else(|| COMPLETE.to_owned());
    if state.starts_with(GENERALIZED) {
        plan.warn(ID, "sysprep has run already: it becomes another machine at its next start", "");
        return Ok(());
    }
    program(machine, guest, plan)?;
    let system = hives.config(machine, "SYSTEM")?;
    let set = system.control_sets()?.into_iter().next().unwrap_or_default();
    refusals(system, &set, &state, options, plan)?;
    if !plan.refusals.is_empty() {
        return Ok(());
    }
    losses(system, &set, machine, guest, options, plan)?;
    let reason = Reason {
        id: ID,
        what: "have sysprep run at the first start",
        why: "Windows makes itself another machine: SID, names, activation, devices",
    };
    if !options.keeps(ID) {
        firstboot::install(machine, hives, guest, reason, SCRIPT, plan)?;
    }
    ids::take_away(machine, hives, options, plan)?;
    keys::files(machine, hives, options, plan)
}

/// Refuses a Windows that has no sysprep, or nothing to start it with.
fn program(machine: &mut Machine, guest: &Guest, plan: &mut Plan) -> Result<()> {
    if guest.version.is_nt5() {
        plan.stop(
            ID,
            format!("{} has no sysprep in the box", guest.product),
            "unpack \\SUPPORT\\TOOLS\\DEPLOY.CAB of its disc to C:\\Sysprep in the guest and run \
             sysprep -reseal there, or take --identity new",
        );
        return Ok(());
    }
    let path = format!("{}/System32/Sysprep/sysprep.exe", guest.folder);
    if !machine.volume(&guest.root)?.fs().exists(path.as_bytes())? {
        let hint = "repair it in the guest with: sfc /scannow; or take --identity new";
        plan.stop(ID, format!("{path} is not there"), hint);
    }
    if let Some(why) = firstboot::hindrance(machine, guest)? {
        let hint = "run it in the guest: sysprep /generalize /oobe; or take --identity new";
        plan.stop(ID, format!("sysprep cannot be run at the first start: {why}"), hint);
    }
    Ok(())
}

/// What sysprep itself is known to refuse, or what would not survive it.
fn refusals(
    system: &Registry,
    set: &str,
    state: &str,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    if caution::is_domain_controller(system, set)? {
        plan.stop(
            "windows.sysprep.domain-controller",
            "sysprep does not run on a domain controller",
            "move it with --identity keep, and never run the original beside it",
        );
        return Ok(());
    }
    let mut doubts = Vec::new();
    if system.key("Setup\\Upgrade")?.is_some() {
        doubts.push("it was upgraded from another Windows (Setup\\Upgrade)".to_owned());
    }
    let generalization = system.number("Setup\\Status\\SysprepStatus", "GeneralizationState")?;
    if let Some(number) = generalization.filter(|number| *number != READY) {
        doubts.push(format!("an earlier run of sysprep failed (GeneralizationState {number})"));
    }
    if state != COMPLETE {
        doubts.push(format!("its setup has not ended ({state})"));
    }
    for (service, role) in caution::roles(system, set)? {
        doubts.push(format!("it is {role} ({service}), which does not survive sysprep"));
    }
    for doubt in doubts {
        if options.force {
            plan.warn("windows.sysprep.state", doubt, "");
        } else {
            let hint = "take --identity new or keep, or go on with --force";
            plan.stop("windows.sysprep.state", doubt, hint);
        }
    }
    Ok(())
}

/// What sysprep takes along, told before anything is done.
fn losses(
    system: &Registry,
    set: &str,
    machine: &Machine,
    guest: &Guest,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    plan.warn(
        ID,
        "at the first start Windows works for some minutes, restarts, and asks at the console for \
         what setup asks for; until then its services do not answer",
        "where it fails, it stays as it is: see \\Windows\\vdisk\\firstboot.log and \
         \\Windows\\System32\\Sysprep\\Panther\\setuperr.log",
    );
    plan.warn(
        "windows.sysprep.losses",
        "what is lost: settings of the network, devices, restore points, event logs, the \
         computer's name, activation (one rearm is used up; how many are left is not written \
         where it can be read), and what is protected for the old SID: EFS, DPAPI of local accounts",
        "",
    );
    let windows = machine.inventory().systems.iter().find_map(|one| one.windows.as_ref());
    let domain = windows.and_then(|windows| windows.domain.as_ref()).filter(|one| one.joined);
    if let Some(domain) = domain {
        let name = domain.dns_name.as_ref().or(domain.name.as_ref()).map_or("?", String::as_str);
        plan.warn(
            "windows.sysprep.domain-member",
            format!("sysprep takes it out of the domain {name}"),
            "join it again, under its new name",
        );
    }
    if caution::is_cloud_joined(system, set)? {
        plan.warn(
            "windows.sysprep.cloud-joined",
            "it is joined to Entra ID (Azure AD), which sysprep does not undo",
            "run in the guest before it is copied: dsregcmd /leave",
        );
    }
    let is_client = guest.role == Some(vdisk_guest::inventory::Role::Workstation);
    if is_client && guest.version.build >= APPS {
        plan.warn(
            "windows.sysprep.apps",
            "apps from the Store that a user installed for himself alone make sysprep fail",
            "remove them in the guest first: Remove-AppxPackage",
        );
    }
    if options.hostname.is_some() {
        plan.warn(
            "windows.hostname",
            "sysprep gives the computer a name of its own: --hostname is of no use with it",
            "name it when it asks, or in an answer file",
        );
    }
    Ok(())
}
