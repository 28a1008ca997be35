//! Lists where the bytes of a disk come from: which layer of the chain, which file, which byte.
//!
//! ```text
//! cargo run -p vdisk --example list_extents -- child.vhdx [FOLDER OF THE PARENTS]
//! ```
//!
//! The list is made as it is read: a disk of 64 TiB takes no more memory than one of a megabyte.

use std::process::ExitCode;

use vdisk::{Disk, ExtentKind, OpenOptions, Result};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(path) = args.next() else {
        eprintln!("usage: list_extents IMAGE [FOLDER]");
        return ExitCode::from(64);
    };
    let mut options = OpenOptions::new();
    if let Some(folder) = args.next() {
        // Without this, parents outside the image's own folder are refused.
        options = options.parent_dir(folder);
    }
    match list(&options, path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}; {}", error.advice().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn list(options: &OpenOptions, path: &std::path::Path) -> Result<()> {
    let image = options.open(path)?;
    for (depth, file) in image.files().iter().enumerate() {
        println!("layer {depth}: {}", file.path.display());
    }
    let mut data = 0;
    for extent in image.extents(0..image.len()) {
        let extent = extent?;
        let what = match extent.kind {
            ExtentKind::Data { store, at } => {
                let file = image.store(store).map(|store| store.name().display().to_string());
                format!("byte {at} of {}", file.unwrap_or_default())
            }
            ExtentKind::Compressed(grain) => format!("deflated at byte {}", grain.at),
            ExtentKind::Zero { explicit: true } => "zeros".to_owned(),
            _ => "never written".to_owned(),
        };
        if !extent.is_zero() {
            data += extent.len;
        }
        println!("{:>16} {:>16}  layer {}: {what}", extent.start, extent.len, extent.depth);
    }
    println!("{data} of {} bytes hold data", image.len());
    Ok(())
}
