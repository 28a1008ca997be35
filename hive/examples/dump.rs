//! Prints all of a hive, its logs replayed: `dump HIVE [LOG]...`
#![allow(clippy::indexing_slicing)]

#[path = "../tests/common/dump.rs"]
mod dump;

use std::error::Error;

use vdisk_hive::Hive;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let hive = std::fs::read(args.next().ok_or("usage: dump HIVE [LOG]...")?)?;
    let logs = args.map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let hive = if logs.is_empty() {
        Hive::parse(hive)?
    } else {
        let logs: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
        let (hive, recovery) = Hive::recover(hive, &logs)?;
        eprintln!("{recovery:?}");
        hive
    };
    print!("{}", dump::dump(&hive)?);
    Ok(())
}
