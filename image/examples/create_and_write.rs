//! Makes a disk, writes to it in place, makes a snapshot of it and writes to that.
//!
//! ```text
//! cargo run -p vdisk --example create_and_write -- FOLDER
//! ```
//!
//! What was written survives a power cut once `flush` or `close` has returned. The parent of a
//! snapshot is only ever read.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vdisk::{Disk, Format, Image, NewImage, OpenOptions, Result};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: create_and_write FOLDER");
        return ExitCode::from(64);
    };
    match work(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn work(folder: &Path) -> Result<()> {
    let (disk, snapshot) = (folder.join("disk.vhdx"), folder.join("snapshot.vhdx"));
    let mut new = NewImage::new(Format::Vhdx, 10 << 30);
    new.set("block_size", "1M")?;
    vdisk::create(&disk, &new, false)?;

    let mut image = OpenOptions::new().open_rw(&disk)?;
    image.write_at(b"written first", 5 << 30)?;
    image.flush()?;
    image.resize(12 << 30)?;
    image.write_at(b"at the new end", (12 << 30) - 14)?;
    image.close()?;

    let open = OpenOptions::new();
    vdisk::create_child(&snapshot, Format::Vhdx, &disk, &open, &[], false)?;
    let mut image = open.open_rw(&snapshot)?;
    image.write_at(b"changed", 5 << 30)?;
    image.zero((12 << 30) - 14..12 << 30)?;
    image.close()?;

    for path in [&disk, &snapshot] {
        let image = Image::open(path)?;
        let mut bytes = [0; 13];
        image.read_at(&mut bytes, 5 << 30)?;
        println!("{}: {:?}", path.display(), String::from_utf8_lossy(&bytes));
        let data = image.extents(0..image.len()).filter(|e| e.as_ref().is_ok_and(|e| !e.is_zero()));
        println!("  {} bytes, {} extents with data", image.len(), data.count());
    }
    Ok(())
}
