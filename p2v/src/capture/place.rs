//! Where an image grows until it is finished.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use vdisk::{Error, ErrorKind, HostFile, Result};
use vdisk_core::move_into_place;

use crate::state;

const STATE: &str = "state.json";

/// The hidden folder of one capture, which nobody else works in.
#[derive(Debug)]
pub(super) struct Place {
    target: PathBuf,
    folder: PathBuf,
    name: OsString,
    _lock: HostFile,
}

impl Place {
    /// The folder for an image at `target`, made where it is not there yet.
    pub(super) fn enter(target: &Path, overwrite: bool, restart: bool) -> Result<Self> {
        let name = target.file_name();
        let name =
            name.ok_or_else(|| Error::usage("an image needs a file name").in_file(target))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".vdisk-p2v");
        let folder = target.with_file_name(hidden);
        let earlier = folder.join(STATE).exists();
        // A run that was cut off between two renames left some of the image's files in place.
        let leaving = earlier && !folder.join(name).exists();
        if target.exists() && !overwrite && !leaving {
            return Err(Error::refused("exists already")
                .in_file(target)
                .hint("name another output, or add --force to replace it"));
        }
        let lock = state::enter(&folder).map_err(|error| match error.kind() {
            ErrorKind::InUse => error.hint("another run of vdisk p2v writes to the same image"),
            _ => error,
        })?;
        let place = Self { target: target.to_owned(), folder, name: name.to_owned(), _lock: lock };
        if restart || !earlier {
            place.clear()?;
        }
        Ok(place)
    }

    /// Removes what an earlier run left.
    fn clear(&self) -> Result<()> {
        self.files()?.iter().chain([&self.folder.join(STATE)]).try_for_each(|file| {
            match fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io(error, "remove it").in_file(file))
                }
                _ => Ok(()),
            }
        })
    }

    /// Removes the folder of a capture that cannot begin.
    pub(super) fn give_up(&self) {
        // What stays behind does no harm, and the error to tell is another one.
        drop(fs::remove_dir_all(&self.folder));
    }

    /// The image as long as it is not finished.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    pub(super) fn load<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        state::load(&self.folder.join(STATE))
            .map_err(|error| error.hint("to begin anew, add --restart"))
    }

    pub(super) fn save(&self, state: &impl Serialize) -> Result<()> {
        state::save(&self.folder.join(STATE), state)
    }

    /// The image's files.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let failed = |error| Error::io(error, "list it").in_file(&self.folder);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name != STATE && name != state::LOCK {
                files.push(self.folder.join(name));
            }
        }
        Ok(files)
    }

    /// Gives the finished files their places, the `map` of bad sectors first and the image last,
    /// and removes the folder. Returns where the map is.
    pub(super) fn leave(self, map: Option<&str>) -> Result<Option<PathBuf>> {
        let map_path = self.target.with_file_name({
            let mut name = self.name.clone();
            name.push(".map");
            name
        });
        if let Some(map) = map {
            vdisk::write_file(&map_path, map.as_bytes(), true)?;
        }
        move_into_place(self.files()?, &self.target)?;
        fs::remove_dir_all(&self.folder)
            .map_err(|error| Error::io(error, "remove it").in_file(&self.folder))?;
        Ok(map.map(|_| map_path))
    }
}
