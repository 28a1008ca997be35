//! What the commands share that look into a guest.

use std::ffi::OsStr;
use std::sync::Arc;

use vdisk::{Error, ErrorKind, Result};
use vdisk_guest::Location;
use vdisk_guest::fs::{FsState, GuestFs, open};

use super::Context;
use crate::args::Source;

/// Opens the file system at `location`; the path in it.
pub(super) fn open_at(
    source: &Source,
    location: &OsStr,
    context: &Context<'_>,
) -> Result<(Box<dyn GuestFs>, Vec<u8>)> {
    let Location { image, volume, path } = Location::parse(location, |path| path.is_file())?;
    let disk = source.open_options().open(&image)?;
    let sector = disk.info().logical_sector.into();
    let found = volume.open(Arc::new(disk), sector).and_then(open);
    let fs = found.map_err(|error| error.in_file(&image))?.ok_or_else(|| {
        Error::new(ErrorKind::UnknownFormat, "no file system is recognised there")
            .in_file(&image)
            .hint("name the partition by its number: IMAGE:2:/path")
    })?;
    if fs.info().state != FsState::Clean {
        let state = fs.info().state.name();
        context.note(&format!("the file system was not closed in order ({state})"));
    }
    Ok((fs, path))
}
