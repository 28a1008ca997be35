//! The users of a Windows, and where their hives are.

use vdisk_core::Result;
use vdisk_guest::Place;
use vdisk_guest::fs::FileKind;

use super::sid::MachineSid;
use crate::windows::{Hives, files};
use crate::{Machine, Plan};

/// Where SYSTEM keeps what letters and paths Windows has given to partitions.
pub(super) const MOUNTED: &str = "MountedDevices";
const LIST: &str = "Microsoft\\Windows NT\\CurrentVersion\\ProfileList";
/// Where a profile keeps the hive of its classes.
const CLASSES: &str = "AppData/Local/Microsoft/Windows/UsrClass.dat";
/// Where it did so before Vista, in a folder that is a link from then on.
const OLD_CLASSES: &str = "Local Settings/Application Data/Microsoft/Windows/UsrClass.dat";
const OLD_LOCAL: &str = "Local Settings";
/// Where the apps of a profile keep theirs: a folder of folders, and the files in each.
const APPS: &str = "AppData/Local/Packages";
const APP_HIVES: [&str; 3] = [
    "Settings/settings.dat",
    "SystemAppData/Helium/User.dat",
    "SystemAppData/Helium/UserClasses.dat",
];

/// A user's profile.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    /// The user's SID, as the list of profiles names it.
    pub(super) sid: String,
    /// The volume it is on; none where that is not among those of this disk.
    pub(super) place: Option<Place>,
    /// Its folder there, with `/` between names.
    pub(super) folder: String,
}

impl Profile {
    /// The name of its folder, which mostly is the user's.
    pub(super) fn user(&self) -> &str {
        self.folder.rsplit('/').next().unwrap_or_default()
    }

    /// Whether the other one is in the same place.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        self.place == other.place && self.folder.eq_ignore_ascii_case(&other.folder)
    }

    /// Whether its user is an account of the machine itself.
    pub(super) fn is_of(&self, machine: &MachineSid) -> bool {
        MachineSid::parse(&self.sid).as_ref() == Some(machine)
    }

    /// The hives in it that are there.
    pub(super) fn hives(&self, machine: &mut Machine, plan: &mut Plan) -> Result<Vec<String>> {
        let Some(place) = &self.place else { return Ok(Vec::new()) };
        let fs = machine.volume(place)?.fs();
        let inside = |file: &str| format!("{}/{file}", self.folder);
        let mut all = vec![inside("NTUSER.DAT"), inside(CLASSES)];
        if files::is_folder(fs, &inside(OLD_LOCAL))? {
            all.push(inside(OLD_CLASSES));
        }
        let apps = inside(APPS);
        if fs.exists(apps.as_bytes())? {
            for app in fs.read_dir(apps.as_bytes())? {
                let app = format!("{apps}/{}", String::from_utf8_lossy(&app.name));
                if fs.stat(app.as_bytes())?.kind == FileKind::Symlink {
                    plan.warn(
                        "windows.sid.app",
                        format!(
                            "what the app of {app} keeps was moved to another drive, and may go \
                             on naming the old machine"
                        ),
                        "reset the app in the copy where it does not start",
                    );
                } else {
                    all.extend(APP_HIVES.map(|hive| format!("{app}/{hive}")));
                }
            }
        }
        let mut found = Vec::new();
        for path in all {
            if fs.exists(path.as_bytes())? {
                found.push(path);
            }
        }
        Ok(found)
    }
}

/// All profiles that SOFTWARE lists, and the one that new users get.
pub(super) fn list(machine: &mut Machine, hives: &mut Hives) -> Result<Vec<Profile>> {
    let software = hives.config(machine, "SOFTWARE")?;
    let mut named = Vec::new();
    for sid in software.children(LIST)? {
        let path = software.text(&format!("{LIST}\\{sid}"), "ProfileImagePath")?;
        named.extend(path.map(|path| (sid, path)));
    }
    let folder = software.text(LIST, "ProfilesDirectory")?;
    let default = software.text(LIST, "Default")?.or_else(|| {
        software
            .text(LIST, "DefaultUserProfile")
            .ok()
            .flatten()
            .zip(folder)
            .map(|(name, folder)| format!("{folder}\\{name}"))
    });
    named.extend(default.map(|path| ("default".to_owned(), path)));
    let mut profiles = Vec::new();
    for (sid, path) in named {
        let (place, folder) = located(machine, hives, &path)?;
        profiles.push(Profile { sid, place, folder });
    }
    Ok(profiles)
}

/// All folders where profiles are, listed or not: Windows keeps what it has forgotten there.
pub(super) fn folders(machine: &mut Machine, hives: &mut Hives) -> Result<Vec<Profile>> {
    let software = hives.config(machine, "SOFTWARE")?;
    let Some(path) = software.text(LIST, "ProfilesDirectory")? else { return Ok(Vec::new()) };
    let (Some(place), folder) = located(machine, hives, &path)? else { return Ok(Vec::new()) };
    let fs = machine.volume(&place)?.fs();
    if !files::is_folder(fs, &folder)? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs.read_dir(folder.as_bytes())? {
        let folder = format!("{folder}/{}", String::from_utf8_lossy(&entry.name));
        // `All Users` and `Default User` are links.
        if files::is_folder(fs, &folder)? {
            found.push(Profile { sid: String::new(), place: Some(place.clone()), folder });
        }
    }
    Ok(found)
}

/// The volume and the folder there of a path as SOFTWARE tells it.
fn located(
    machine: &mut Machine,
    hives: &mut Hives,
    path: &str,
) -> Result<(Option<Place>, String)> {
    let software = hives.config(machine, "SOFTWARE")?;
    let key = "Microsoft\\Windows NT\\CurrentVersion";
    let system_root = software.text(key, "SystemRoot")?.unwrap_or_else(|| "C:\\Windows".into());
    let drive = system_root.get(..2).unwrap_or("C:");
    let path = expand(path, drive, &system_root);
    let (letter, rest) = path.split_at_checked(2).unwrap_or(("", &path));
    let folder = rest.replace('\\', "/");
    let folder = folder.trim_end_matches('/');
    let place = if letter.eq_ignore_ascii_case(drive) {
        Some(hives.root().clone())
    } else {
        mounted(machine, hives, letter)?
    };
    // Windows itself may stand elsewhere than its own drive says.
    let own = system_root.get(2..).unwrap_or_default().replace('\\', "/");
    let folder = match strip_prefix(folder, &own) {
        Some(rest) => format!("{}{rest}", hives.folder()),
        None => folder.to_owned(),
    };
    Ok((place, folder))
}

/// The partition that Windows gives a letter (`D:`) to.
fn mounted(machine: &mut Machine, hives: &mut Hives, letter: &str) -> Result<Option<Place>> {
    let system = hives.config(machine, "SYSTEM")?;
    let name = format!("\\DosDevices\\{}", letter.to_ascii_uppercase());
    let Some(value) = system.value(MOUNTED, &name)? else { return Ok(None) };
    let data = value.data()?.into_owned();
    let inventory = machine.inventory();
    let found = inventory.partitions.iter().find(|partition| {
        if let Some(guid) = data.strip_prefix(b"DMIO:ID:") {
            let guid = uuid::Uuid::from_slice_le(guid).ok().map(|guid| guid.to_string());
            return guid.is_some_and(|guid| {
                partition.uuid.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(&guid))
            });
        }
        let Some((signature, start)) = data.split_first_chunk::<4>() else { return false };
        let signature = format!("{:#010x}", u32::from_le_bytes(*signature));
        inventory.disk.disk_id.as_ref() == Some(&signature)
            && start == partition.start.to_le_bytes()
    });
    Ok(found.map(|partition| Place::Partition(partition.number)))
}

/// The path with the variables that profiles are named with.
fn expand(path: &str, drive: &str, system_root: &str) -> String {
    for (variable, value) in
        [("%SystemDrive%", drive), ("%SystemRoot%", system_root), ("%windir%", system_root)]
    {
        if let Some(rest) = strip_prefix(path, variable) {
            return format!("{value}{rest}");
        }
    }
    path.to_owned()
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn paths_are_expanded() {
        let expand = |path| expand(path, "C:", "C:\\Windows");
        assert_eq!(expand("%SystemDrive%\\Users\\a"), "C:\\Users\\a");
        assert_eq!(expand("%systemroot%\\system32"), "C:\\Windows\\system32");
        assert_eq!(expand("D:\\Users\\a"), "D:\\Users\\a");
    }
}
