//! Other images that stand on one that is about to change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vdisk_core::{Error, Format, LayerInfo, Result};

use crate::gate::folder_of;
use crate::open::{LayerFile, OpenOptions};
use crate::options::format_of_name;

/// Most files looked at in one folder: a check that saves the careless need not search an archive.
const MOST: usize = 10_000;

/// The images in the folders of `chain` that name one of `parents` as theirs, themselves not in
/// the chain. Only names that end as images do are looked at, and what does not open is passed
/// over: this is a search, not a proof.
pub(crate) fn standing_on<'a>(
    parents: impl IntoIterator<Item = &'a LayerInfo>,
    chain: &[LayerFile],
) -> Vec<PathBuf> {
    let identities: Vec<&str> =
        parents.into_iter().filter_map(|info| info.identity.as_deref()).collect();
    if identities.is_empty() {
        return Vec::new();
    }
    let folders: BTreeSet<PathBuf> = chain.iter().map(|file| folder_of(&file.path)).collect();
    let mut found = Vec::new();
    for path in folders.iter().flat_map(|folder| images_in(folder)) {
        let alone = OpenOptions::new().without_parents().force_share(true).open(&path);
        let Ok(image) = alone else { continue };
        let own = image.files().iter().any(|file| chain.iter().any(|known| known.id == file.id));
        let named = image.info().parent.iter().flat_map(|parent| &parent.identities);
        let stands = |one: &String| identities.iter().any(|known| known.eq_ignore_ascii_case(one));
        if !own && named.into_iter().any(stands) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Fails where images stand on the one at `path`, the top of `chain`, whose content or size is about
/// to change.
pub(crate) fn refuse_children(path: &Path, info: &LayerInfo, chain: &[LayerFile]) -> Result<()> {
    let Some(child) = standing_on([info], chain).into_iter().next() else { return Ok(()) };
    Err(Error::refused(format!("{} stands on it and would become invalid", child.display()))
        .in_file(path)
        .hint("work on that image instead, or on a copy; if it is not needed, add --force"))
}

fn images_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let paths = entries.take(MOST).filter_map(|entry| Some(entry.ok()?.path()));
    let named = |path: &PathBuf| format_of_name(path).is_some_and(|format| format != Format::Raw);
    paths.filter(named).filter(|path| path.is_file()).collect()
}
