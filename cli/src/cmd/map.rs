//! `vdisk map`

use std::io::{BufWriter, Write};

use vdisk::{MapEntry, Result};

use super::{Context, Outcome};
use crate::args::MapArgs;
use crate::show::broken_output;

pub(super) fn run(args: &MapArgs, context: &Context<'_>) -> Result<Outcome> {
    let image = args.source.open_options().open(&args.image)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if context.json() {
        // Written as it is found: a map can be longer than memory. Damage found in the middle would
        // leave half a document, so the map is gone through once before.
        vdisk::map(&image, |_| context.cancel.check())?;
        let mut separator = "[\n  ";
        vdisk::map(&image, |entry| {
            context.cancel.check()?;
            out.write_all(separator.as_bytes()).map_err(broken_output)?;
            separator = ",\n  ";
            serde_json::to_writer(&mut out, entry).map_err(|error| broken_output(error.into()))
        })?;
        let end = if separator == "[\n  " { "[]\n" } else { "\n]\n" };
        out.write_all(end.as_bytes()).map_err(broken_output)?;
    } else {
        writeln!(out, "{:>18} {:>18}  {:<10} {:>5}  place", "start", "length", "kind", "depth")
            .map_err(broken_output)?;
        vdisk::map(&image, |entry| {
            context.cancel.check()?;
            writeln!(out, "{}", line(entry)).map_err(broken_output)
        })?;
    }
    out.flush().map_err(broken_output)?;
    Ok(Outcome::Done)
}

fn line(entry: &MapEntry) -> String {
    let kind = match entry {
        MapEntry { compressed: true, .. } => "compressed",
        MapEntry { data: true, .. } => "data",
        MapEntry { present: true, .. } => "zero",
        _ => "unwritten",
    };
    let place = match (&entry.filename, entry.offset) {
        (Some(name), Some(offset)) => format!("{name}@{offset}"),
        _ => "-".to_owned(),
    };
    format!("{:>18} {:>18}  {kind:<10} {:>5}  {place}", entry.start, entry.length, entry.depth)
}
