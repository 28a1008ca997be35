//! Another machine SID, in everything at once: hives, files' descriptors, names, tasks.

use std::collections::BTreeSet;

use vdisk_core::{Error, Result};
use vdisk_guest::Place;
use vdisk_guest::fs::FileKind;
use vdisk_guest::windows::Sid;

use super::profiles::Profile;
use super::sid::MachineSid;
use super::swap::Swap;
use super::{caution, cautiously, profiles, tasks, volumes};
use crate::windows::hives::{is_log, logs_name};
use crate::windows::{Hives, files};
use crate::{Action, Machine, Plan, StripOptions};

const ID: &str = "windows.sid";
/// The way out where a profile is not found.
const NEW_PROFILE: &str = "its user gets a new, empty one: --force";
/// Hives of the system besides those that are always there.
const MORE: [&str; 6] = [
    "System32/config/BBI",
    "System32/config/DRIVERS",
    "System32/config/COMPONENTS",
    "System32/config/ELAM",
    "appcompat/Programs/Amcache.hve",
    "System32/config/systemprofile/NTUSER.DAT",
];
/// Copies that Windows keeps of its hives.
const COPIES: [&str; 2] = ["System32/config/RegBack", "repair"];
/// Bytes of a hive that is looked at for mentions.
const MOST: u64 = 512 << 20;

/// Gives the machine another SID; what stands in the way is a refusal.
pub(super) fn change(
    machine: &mut Machine,
    hives: &mut Hives,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    if options.keeps(ID) {
        return Ok(());
    }
    let old = read(machine, hives)?;
    let users = profiles::list(machine, hives)?;
    let swap = Swap::new(old, old.other(&taken(machine, hives, &users)?)?);
    let own: Vec<&Profile> = users.iter().filter(|user| user.is_of(&old)).collect();
    caution::losses(machine, &own, plan);
    let action = Action::new(ID, "give the machine another SID", "the whole machine")
        .why("a copy with the same SID is the same machine to Windows")
        .before(old.to_string())
        .after(swap.new.to_string());
    plan.act(action);
    tasks::change(machine, hives, &swap, options, plan)?;
    for name in ["SAM", "SECURITY", "SYSTEM", "SOFTWARE", "DEFAULT"] {
        let path = format!("{}/System32/config/{name}", hives.folder());
        let root = hives.root().clone();
        if machine.volume(&root)?.fs().exists(path.as_bytes())? {
            hive(machine, hives, &root, &path, &swap, plan)?;
        }
    }
    others(machine, hives, &users, &swap, options, plan)?;
    volumes::change(machine, &swap, options, plan)
}

/// The machine's SID by SAM, which SECURITY must agree with.
fn read(machine: &mut Machine, hives: &mut Hives) -> Result<MachineSid> {
    let unknown = |what: &str| {
        Error::refused(format!("{what} does not tell the machine's SID"))
            .hint("see what is found and what is wrong with: vdisk inspect")
    };
    let sam = hives.config(machine, "SAM")?;
    let domain = sam.value("SAM\\Domains\\Account", "V")?;
    let domain = domain.map(|value| value.data()).transpose()?;
    let sid = domain.and_then(|bytes| MachineSid::at_end(&bytes)).ok_or_else(|| unknown("SAM"))?;
    let security = hives.config(machine, "SECURITY")?;
    let policy = security.value("Policy\\PolAcDmS", "")?;
    let policy = policy.map(|value| value.data()).transpose()?;
    let other = policy.and_then(|bytes| MachineSid::at_end(&bytes));
    let other = other.ok_or_else(|| unknown("SECURITY"))?;
    if other != sid {
        return Err(Error::refused(format!(
            "SAM gives the machine's SID as {sid}, SECURITY as {other}: the hives are not of one \
             machine or one moment"
        ))
        .hint("take both from one image, or let Windows start once"));
    }
    Ok(sid)
}

/// SIDs that stand in the guest already.
fn taken(
    machine: &mut Machine,
    hives: &mut Hives,
    users: &[Profile],
) -> Result<BTreeSet<MachineSid>> {
    let mut taken: BTreeSet<_> =
        users.iter().filter_map(|user| MachineSid::parse(&user.sid)).collect();
    let security = hives.config(machine, "SECURITY")?;
    if let Some(value) = security.value("Policy\\PolPrDmS", "")? {
        taken.extend(Sid::parse(&value.data()?).and_then(|sid| MachineSid::of(&sid)));
    }
    Ok(taken)
}

/// Swaps in one hive, and notes it.
fn hive(
    machine: &mut Machine,
    hives: &mut Hives,
    place: &Place,
    path: &str,
    swap: &Swap,
    plan: &mut Plan,
) -> Result<()> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let counts = hives.file(machine, place, path, name)?.swap(swap)?;
    if !counts.is_none() {
        let action = Action::new("windows.sid.hive", "put the new SID into a hive", path)
            .why("it names the machine or its accounts")
            .before(format!("the old SID in {counts}"))
            .after(format!("the new SID in {counts}"));
        plan.act(action);
    }
    Ok(())
}

/// A hive besides those that are always there.
struct Other {
    place: Place,
    path: String,
    /// Whether Windows would load it; one that it would not cannot stand in the way.
    is_used: bool,
}

/// Hives of users, and others that are there on some systems: only those that name the machine
/// are opened, and each of them is written before the next one.
fn others(
    machine: &mut Machine,
    hives: &mut Hives,
    users: &[Profile],
    swap: &Swap,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let (root, folder) = (hives.root().clone(), hives.folder().to_owned());
    let mut all: Vec<Other> = Vec::new();
    let used = |place: &Place, path| Other { place: place.clone(), path, is_used: true };
    for user in users {
        let is_own = user.is_of(&swap.old);
        match &user.place {
            Some(place) => {
                cautiously(plan, "windows.sid.profile", options.force || !is_own, |plan| {
                    let found = user.hives(machine, plan).map_err(not_found)?;
                    all.extend(found.into_iter().map(|path| used(place, path)));
                    Ok(())
                })?;
            }
            None if is_own => {
                let what = format!(
                    "the profile of {} is in {}, on no volume of this disk",
                    user.sid, user.folder
                );
                let error = Error::refused(what).hint(NEW_PROFILE);
                cautiously(plan, "windows.sid.profile", options.force, |_| Err(error))?;
            }
            None => {}
        }
    }
    let fs = machine.volume(&root)?.fs();
    for copies in COPIES.map(|copies| format!("{folder}/{copies}")) {
        if fs.exists(copies.as_bytes())? {
            for file in fs.read_dir(copies.as_bytes())? {
                if file.kind != FileKind::File {
                    continue;
                }
                let name = String::from_utf8_lossy(&file.name).into_owned();
                // Logs begin like hives, and go with theirs.
                if !is_log(&name) {
                    all.push(used(&root, format!("{copies}/{name}")));
                }
            }
        }
    }
    all.extend(MORE.map(|path| used(&root, format!("{folder}/{path}"))));
    let is_listed = |stray: &Profile| users.iter().any(|user| user.is_at(stray));
    let strays = profiles::folders(machine, hives)?.into_iter();
    for stray in strays.filter(|stray| !is_listed(stray)) {
        let place = stray.place.as_ref().unwrap_or(&root);
        cautiously(plan, "windows.sid.profile", true, |plan| {
            let found = stray.hives(machine, plan)?.into_iter();
            all.extend(found.map(|path| Other { is_used: false, ..used(place, path) }));
            Ok(())
        })?;
    }
    all.sort_by_key(|one| (one.path.to_ascii_lowercase(), format!("{:?}", one.place)));
    // Of two the first stays, which is the one that is in use.
    all.dedup_by(|two, one| one.place == two.place && one.path.eq_ignore_ascii_case(&two.path));
    for one in all {
        let id = "windows.sid.hive";
        cautiously(plan, id, options.force || !one.is_used, |plan| {
            other(machine, hives, &one.place, &one.path, swap, plan)
        })?;
    }
    Ok(())
}

/// The error with the way out, where it tells none.
fn not_found(error: Error) -> Error {
    if error.advice().is_some() { error } else { error.hint(NEW_PROFILE) }
}

fn other(
    machine: &mut Machine,
    hives: &Hives,
    place: &Place,
    path: &str,
    swap: &Swap,
    plan: &mut Plan,
) -> Result<()> {
    let fs = machine.volume(place)?.fs();
    if !fs.exists(path.as_bytes())? {
        return Ok(());
    }
    if files::is_packed(fs, path)? {
        plan.warn(
            "windows.sid.hive",
            format!("{path} is compressed (CompactOS), and was not looked at"),
            "uncompress it in the guest first with: compact /u /exe",
        );
        return Ok(());
    }
    if !names(fs, path, swap)? {
        return Ok(());
    }
    let mut own = Hives::new(hives.root().clone(), hives.folder());
    hive(machine, &mut own, place, path, swap, plan)?;
    own.finish(machine, plan)
}

/// Whether a hive or its logs name the machine at all.
fn names(fs: &dyn vdisk_guest::fs::GuestFs, path: &str, swap: &Swap) -> Result<bool> {
    let bytes = fs.read(path.as_bytes(), MOST)?;
    if !vdisk_hive::is_hive(&bytes) {
        return Ok(false);
    }
    Ok(swap.count(&bytes) > 0 || logs_name(fs, path, swap)?)
}
