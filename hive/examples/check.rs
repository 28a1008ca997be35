//! Prints what a check of a hive finds: `check HIVE`

use std::error::Error;

use vdisk_hive::Hive;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: check HIVE")?;
    let findings = Hive::parse(std::fs::read(path)?)?.check();
    for found in findings.list() {
        let (severity, at) = (found.severity.name(), found.offset.unwrap_or_default());
        println!("{severity} {} at byte {at}: {}", found.code, found.message);
    }
    Ok(())
}
