//! Other images that stand on one that is about to change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vdisk_core::{Error, Format, LayerInfo, Result};

use crate::gate::folder_of;
use crate::open::{LayerFile, OpenOptions};
use crate::options::format_of_name;

/// Most images looked at in one folder: a check that saves the careless need not search an archive.
const MOST: usize = 10_000;

/// The images in the folders of `chain` that name one of `parents` as theirs, themselves not in
/// the chain. Only names that end as images do are looked at, and what does not open is passed
/// over: this is a search, not a proof.
pub(crate) fn standing_on<'a>(
    parents: impl IntoIterator<Item = &'a LayerInfo>,
    chain: &[LayerFile],
) -> Vec<PathBuf> {
    let parents: Vec<&LayerInfo> = parents.into_iter().collect();
    let identities: Vec<&str> =
        parents.iter().filter_map(|info| info.identity.as_deref()).collect();
    let Some(format) = parents.first().map(|info| info.format).filter(|_| !identities.is_empty())
    else {
        return Vec::new();
    };
    // A child has its parent's format, whatever its guest writes where its file ends.
    let open = OpenOptions::new().force_share(true).in_doubt(format);
    let folders: BTreeSet<PathBuf> = chain.iter().map(|file| folder_of(&file.path)).collect();
    let mut found = Vec::new();
    for path in folders.iter().flat_map(|folder| images_in(folder)) {
        let Ok(image) = open.clone().without_parents().open(&path) else { continue };
        let own = image.files().iter().any(|file| chain.iter().any(|known| known.id == file.id));
        let named = image.info().parent.iter().flat_map(|parent| &parent.identities);
        let stands = |one: &String| identities.iter().any(|known| known.eq_ignore_ascii_case(one));
        if !own && named.into_iter().any(stands) && !stands_elsewhere(&path, &open, chain) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether the parent of the image at `path` is there and not in `chain`: another file of the same
/// identity, as copies have it.
fn stands_elsewhere(path: &Path, open: &OpenOptions, chain: &[LayerFile]) -> bool {
    let Ok(image) = open.open_as_far_as_possible(path) else { return false };
    image.files().get(1).is_some_and(|parent| chain.iter().all(|known| known.id != parent.id))
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
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let named = |path: &PathBuf| format_of_name(path).is_some_and(|format| format != Format::Raw);
    paths.filter(named).filter(|path| path.is_file()).take(MOST).collect()
}
