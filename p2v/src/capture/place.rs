//! Where an image grows until it is finished.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use vdisk::{Error, ErrorKind, Result, refuse_input};
use vdisk_core::{move_into_place, refuse_taken, refuse_used};

use crate::state::{self, JobFolder};

const STATE: &str = "state.json";

/// The hidden folder of one capture, which nobody else works in.
#[derive(Debug)]
pub(super) struct Place {
    target: PathBuf,
    name: OsString,
    /// What stands at the image's place may be replaced.
    overwrite: bool,
    folder: JobFolder,
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
        let hidden = target.with_file_name(hidden);
        let earlier = hidden.join(STATE).exists();
        // A run that was cut off between two renames left some of the image's files in place.
        let leaving = earlier && !hidden.join(name).exists();
        if !leaving {
            refuse_taken(target, overwrite)?;
        }
        // An earlier run that is gone on with may have put its own there.
        if !earlier || restart {
            refuse_taken(&target.with_file_name(map_of(name)), overwrite)?;
        }
        let folder = JobFolder::enter(&hidden).map_err(|error| match error.kind() {
            ErrorKind::InUse => error.hint("another run of vdisk p2v writes to the same image"),
            _ => error,
        })?;
        let place = Self { target: target.to_owned(), name: name.to_owned(), overwrite, folder };
        if restart || !earlier {
            place.clear()?;
        }
        Ok(place)
    }

    /// Removes what an earlier run left.
    fn clear(&self) -> Result<()> {
        self.files()?.iter().chain([&self.path(STATE)]).try_for_each(|file| {
            match fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io(error, "remove it").in_file(file))
                }
                _ => Ok(()),
            }
        })
    }

    /// Fails where a file of the image would take the place of one of `inputs`, told by device and
    /// inode, of one in use, or of anything that may not be replaced.
    pub(super) fn refuse_clashes(&self, inputs: &[(u64, u64)]) -> Result<()> {
        for file in self.files()? {
            let path = self.target.with_file_name(file.file_name().unwrap_or_default());
            refuse_input(&path, inputs)?;
            refuse_taken(&path, self.overwrite)?;
            refuse_used(&path)?;
        }
        Ok(())
    }

    /// Removes the folder of a capture that cannot begin.
    pub(super) fn give_up(&self) {
        // What stays behind does no harm, and the error to tell is another one.
        drop(fs::remove_dir_all(self.folder.path()));
    }

    /// The image as long as it is not finished.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn load<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        state::load(&self.path(STATE)).map_err(|error| error.hint("to begin anew, add --restart"))
    }

    pub(super) fn save(&self, state: &impl Serialize) -> Result<()> {
        state::save(&self.path(STATE), state)
    }

    /// The image's files.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let folder = self.folder.path();
        let failed = |error| Error::io(error, "list it").in_file(folder);
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name != STATE && name != state::LOCK {
                files.push(folder.join(name));
            }
        }
        Ok(files)
    }

    /// Gives the finished files and the `map` of bad sectors their places, the image last, and
    /// removes the folder. Returns where the map is. Fails as [`Place::refuse_clashes`].
    pub(super) fn leave(self, map: Option<&str>, inputs: &[(u64, u64)]) -> Result<Option<PathBuf>> {
        let map_name = map_of(&self.name);
        let map_path = self.target.with_file_name(&map_name);
        // A run that was cut off may have put it there already.
        let missing = |map: &&str| fs::read(&map_path).ok().as_deref() != Some(map.as_bytes());
        if let Some(map) = map.filter(missing) {
            vdisk::write_file(&self.folder.path().join(&map_name), map.as_bytes(), true)?;
        }
        self.refuse_clashes(inputs)?;
        move_into_place(self.files()?, &self.target, self.overwrite)?;
        self.folder.leave(&[STATE])?;
        Ok(map.map(|_| map_path))
    }
}

/// What the map of an image's bad sectors is called.
fn map_of(image: &std::ffi::OsStr) -> OsString {
    let mut name = image.to_owned();
    name.push(".map");
    name
}
