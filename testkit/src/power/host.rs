//! The state after a cut, on the host.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vdisk_core::{HostFile, MemStore, Store};

/// Makes the files of `folder` and below what a cut left of them: `files`, by absolute path. Of
/// those that are not among them, hidden ones and side files are removed: vdisk made them.
///
/// # Panics
/// Where the host fails.
pub fn put_on_host(folder: &Path, files: &BTreeMap<PathBuf, MemStore>) {
    for path in notes_in(folder) {
        if !files.contains_key(&path) {
            fs::remove_file(path).expect("a file that can be removed");
        }
    }
    for (path, store) in files {
        write(path, store).expect("a folder that can be written to");
    }
}

fn notes_in(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.canonicalize().expect("a folder");
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let notes = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with('.') || name.contains(".vdisk-")
    });
    notes.map(|entry| entry.path()).collect()
}

fn write(path: &Path, store: &MemStore) -> io::Result<()> {
    fs::write(path, [])?;
    let file = HostFile::open_rw(path).map_err(io::Error::other)?;
    let len = store.len()?;
    file.set_len(len)?;
    let mut at = 0;
    while at < len {
        let run = store.run_at(at, len)?;
        if !run.hole {
            let mut bytes = vec![0; run.len as usize];
            store.read_exact_at(&mut bytes, at)?;
            file.write_all_at(&bytes, at)?;
        }
        at += run.len;
    }
    Ok(())
}
