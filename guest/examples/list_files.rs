//! Lists the files of a partition inside any image, such as a VHDX with its parents:
//! `cargo run -p vdisk-guest --example list_files child.vhdx 2`

use std::sync::Arc;

use vdisk::{Disk, Error, Image, Result};
use vdisk_guest::fs::{FileKind, GuestFs, open};
use vdisk_parts::Table;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, image, number] = &args[..] else {
        return Err(Error::usage("usage: list_files IMAGE PARTITION"));
    };
    let disk: Arc<dyn Disk> = Arc::new(Image::open(image)?);
    let table = Table::read(&*disk, 512)?;
    let wanted = table.partitions.iter().find(|one| one.number.to_string() == *number);
    let partition = wanted.ok_or_else(|| Error::usage("there is no such partition"))?;
    match open(Arc::new(partition.open(disk.clone())?))? {
        Some(guest) => list(&*guest, b"/"),
        None => Err(Error::unsupported("no file system that is read here")),
    }
}

fn list(guest: &dyn GuestFs, folder: &[u8]) -> Result<()> {
    for entry in guest.read_dir(folder)? {
        let path = [folder.strip_suffix(b"/").unwrap_or(folder), b"/", &entry.name].concat();
        println!("{}", String::from_utf8_lossy(&path));
        if entry.kind == FileKind::Directory {
            list(guest, &path)?;
        }
    }
    Ok(())
}
