//! Reads a value of the SYSTEM hive inside any image, or sets it to a number:
//! `cargo run -p vdisk-guest --example registry_value disk.vhdx 2 'Select' Current [NUMBER]`

use std::sync::Arc;
use std::time::SystemTime;

use vdisk::{Change, Disk, Error, Image, OpenOptions, Result, edit};
use vdisk_core::CowDisk;
use vdisk_guest::Place;
use vdisk_guest::fs::{Edit, GuestFs, open, open_mut};
use vdisk_hive::{Editor, FileTime, Hive, ValueKind};
use vdisk_parts::Table;

const SYSTEM: &[u8] = b"/Windows/System32/config/SYSTEM";
const MOST: u64 = 256 << 20;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [image, partition, key, name, rest @ ..] = &args[..] else {
        return Err(Error::usage("usage: registry_value IMAGE PARTITION KEY VALUE [NUMBER]"));
    };
    let number = |text: &String| text.parse().map_err(|_| Error::usage("a number is wanted"));
    let partition: u32 = number(partition)?;
    let disk: Arc<dyn Disk> = Arc::new(Image::open(image)?);
    match rest {
        [] => {
            let volume = Place::Partition(partition).open(disk, 512)?;
            let guest = open(volume)?.ok_or_else(|| Error::unsupported("no file system"))?;
            println!("{:?}", value(&hive(&*guest)?, key, name)?);
            Ok(())
        }
        [value, ..] => set(image, disk, partition, key, name, number(value)?),
    }
}

/// The hive with what waits in its logs.
fn hive(guest: &dyn GuestFs) -> Result<Hive> {
    let logs = [".LOG1", ".LOG2", ".LOG"].map(|ending| [SYSTEM, ending.as_bytes()].concat());
    let logs: Vec<Vec<u8>> = logs.iter().filter_map(|log| guest.read(log, MOST).ok()).collect();
    let logs: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
    Ok(Hive::recover(guest.read(SYSTEM, MOST)?, &logs)?.0)
}

fn value(hive: &Hive, key: &str, name: &str) -> Result<Option<u32>> {
    let Some(key) = hive.open(key)? else { return Ok(None) };
    key.value(name)?.map_or(Ok(None), |value| value.as_u32())
}

/// All in memory first; then the image changes as a whole or not at all.
fn set(
    image: &str,
    disk: Arc<dyn Disk>,
    partition: u32,
    key: &str,
    name: &str,
    number: u32,
) -> Result<()> {
    let table = Table::read(&*disk, 512)?;
    let wanted = table.partitions.iter().find(|one| one.number == partition);
    let start = wanted.map_or(0, |one| one.start);
    let volume = Place::Partition(partition).open(disk, 512)?;
    let tried = Arc::new(CowDisk::new(volume, MOST));
    let mut guest = open_mut(tried.clone())?.ok_or_else(|| Error::unsupported("no file system"))?;
    let mut editor = Editor::new(hive(&*guest)?, FileTime::from(SystemTime::now()))?;
    let key = editor.hive().open(key)?.ok_or_else(|| Error::usage("there is no such key"))?.id();
    editor.set_value(key, name, ValueKind::DWORD, &number.to_le_bytes())?;
    guest.apply(&Edit::Replace { path: SYSTEM, content: &editor.finish()? })?;
    drop(guest);
    let moved = |change: Change| Change { offset: start + change.offset, ..change };
    let changes: Vec<Change> = tried.changes()?.into_iter().map(moved).collect();
    drop(tried);
    let report = edit(image.as_ref(), &OpenOptions::new(), &changes, false)?;
    println!("{} bytes changed", report.bytes);
    Ok(())
}
