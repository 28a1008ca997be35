//! Converts an image into any other format, showing how far it is, until done or interrupted.
//!
//! ```text
//! cargo run -p vdisk --example convert -- disk.vmdk disk.vhdx [key=value,...]
//! ```
//!
//! [`Progress`] is called from several threads at once; [`Cancel`] may be set from any. A
//! conversion that is stopped leaves nothing behind: here it stops once standard input says
//! `stop`.

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use vdisk::{
    Cancel, CopyOptions, Disk, Error, Image, NewImage, Progress, Result, Watch, format_of_name,
    human_size,
};

/// Shows every per cent on standard error.
#[derive(Default)]
struct Percent {
    total: AtomicU64,
    done: AtomicU64,
}

impl Progress for Percent {
    fn begin(&self, phase: &str, total: u64) {
        eprintln!("{phase}: {}", human_size(total));
        self.total.store(total, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let hundredth = (self.total.load(Ordering::Relaxed) / 100).max(1);
        if before / hundredth != (before + bytes) / hundredth {
            eprintln!("{} %", (before + bytes) / hundredth);
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (source, target, options) = match &args[..] {
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options.as_str()),
        _ => {
            eprintln!("usage: convert SOURCE TARGET [key=value,...]");
            return ExitCode::from(64);
        }
    };
    match convert(source, target, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn convert(source: &str, target: &str, options: &str) -> Result<()> {
    let image = Image::open(source)?;
    let format = format_of_name(target.as_ref())
        .ok_or_else(|| Error::usage("end the target's name in .img, .vhd, .vhdx or .vmdk"))?;
    let mut new = NewImage::new(format, image.len());
    new.set_sectors(image.info().logical_sector, image.info().physical_sector);
    new.set_list(options)?;
    new.round_up_size();

    let cancel = Cancel::default();
    let other = cancel.clone();
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lock().lines().map_while(std::io::Result::ok);
        if lines.any(|line| line == "stop") {
            other.cancel();
        }
    });
    let progress = Percent::default();
    let watch = Watch { progress: &progress, cancel: &cancel };
    let copy = CopyOptions::default();
    let report = vdisk::convert(&image, target.as_ref(), &new, false, &copy, watch)?;
    println!("{} of {} written", human_size(report.written), human_size(image.len()));
    Ok(())
}
