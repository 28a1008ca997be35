//! Opens an image of any format and shows its first sectors.
//!
//! ```text
//! cargo run -p vdisk --example read_at -- disk.vhdx
//! ```
//!
//! [`Image::open`] finds the format by the content, and the parents of a snapshot by what the
//! image says of them, in its own folder only. A raw disk is never guessed: say so with
//! `OpenOptions::new().format(Format::Raw)`.

use std::process::ExitCode;

use vdisk::{Disk, Image, Result};

/// Bytes shown.
const SHOWN: u64 = 1024;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: read_at IMAGE");
        return ExitCode::from(64);
    };
    match show(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            // Most errors know what to do about them.
            if let Some(advice) = error.advice() {
                eprintln!("{advice}");
            }
            ExitCode::FAILURE
        }
    }
}

fn show(path: &std::path::Path) -> Result<()> {
    let image = Image::open(path)?;
    let info = image.info();
    println!("{} ({}), {} bytes", info.format, info.subformat, image.len());
    let mut bytes = vec![0; usize::try_from(image.len().min(SHOWN)).unwrap_or_default()];
    image.read_at(&mut bytes, 0)?;
    for (line, row) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = row
            .iter()
            .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' })
            .collect();
        println!("{:08x}  {:47}  {text}", line * 16, hex.join(" "));
    }
    Ok(())
}
