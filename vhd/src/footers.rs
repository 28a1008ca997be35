//! Finding the footer: at the end of the file, or its copy at the start.
//!
//! A fixed disk has one footer, at the end. Other disks have a copy at byte 0, which is written
//! once and so survives a power cut while the file grows and its end has no footer.

use std::cmp::Ordering;

use vdisk_core::{Error, Result, Store, StoreExt};

use crate::footer::{Damage, DiskType, FOOTER, Footer, SHORT_FOOTER};
use crate::header;

/// What was found where a footer may stand.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Byte offset in the file.
    pub(crate) at: u64,
    /// Bytes there: 512, or 511 of an old footer.
    pub(crate) len: u64,
    /// The footer, or what is wrong with it.
    pub(crate) found: Result<Footer, Damage>,
}

/// Both places, and the choice between them.
#[derive(Clone, Debug)]
pub(crate) struct Footers {
    /// At the end of the file.
    pub(crate) tail: Place,
    /// At byte 0; means nothing where the disk is fixed.
    pub(crate) copy: Place,
    /// Bytes of the file.
    pub(crate) file_len: u64,
}

/// Which footer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The one at the end of the file.
    Tail,
    /// The copy at its start.
    Copy,
}

impl Footers {
    /// Looks at both places; `None` in a file too short for a footer.
    pub(crate) fn find(store: &dyn Store) -> Result<Option<Self>> {
        let file_len = store.size()?;
        if file_len < SHORT_FOOTER {
            return Ok(None);
        }
        let copy = read(store, 0, FOOTER.min(file_len))?;
        let tail = match file_len.checked_sub(FOOTER) {
            Some(at) => read(store, at, FOOTER)?,
            None => copy.clone(),
        };
        // A 511-byte footer is only looked for where no other is.
        if matches!(tail.found, Err(Damage::Cookie)) {
            let short = read(store, file_len - SHORT_FOOTER, SHORT_FOOTER)?;
            if !matches!(short.found, Err(Damage::Cookie)) {
                return Ok(Some(Self { tail: short, copy, file_len }));
            }
        }
        Ok(Some(Self { tail, copy, file_len }))
    }

    /// The footer that counts.
    ///
    /// The guest owns byte 0 of a fixed disk, and after a power cut it may own the last bytes of
    /// a growing one. So a fixed footer at the end that fits the file outweighs whatever stands
    /// at 0, and a footer at the end that is not of the same image as the copy counts for nothing.
    pub(crate) fn choose(&self) -> Option<(&Footer, Source)> {
        let tail = self.tail.found.as_ref().ok();
        let copy =
            self.copy.found.as_ref().ok().filter(|copy| copy.disk_type() != Ok(DiskType::Fixed));
        match (tail, copy) {
            (Some(tail), None) => Some((tail, Source::Tail)),
            (Some(tail), Some(copy)) if self.is_fixed() || tail.same_image(copy) => {
                Some((tail, Source::Tail))
            }
            (_, Some(copy)) => Some((copy, Source::Copy)),
            (None, None) => None,
        }
    }

    /// Whether the file ends with the footer of a fixed disk of just the file's length.
    pub(crate) fn is_fixed(&self) -> bool {
        self.tail.found.as_ref().is_ok_and(|footer| {
            footer.disk_type() == Ok(DiskType::Fixed) && footer.current_size() == self.tail.at
        })
    }

    /// Why there is no footer to choose.
    pub(crate) fn error(&self) -> Error {
        for place in [&self.tail, &self.copy] {
            if let Err(Damage::Checksum { found, expected }) = place.found {
                return Error::corrupt(
                    "VHD footer",
                    place.at,
                    format!("its checksum is {found:#010x}, its content gives {expected:#010x}"),
                )
                .hint("neither the footer nor a copy of it is whole; take the file from a backup");
            }
        }
        Error::corrupt("VHD footer", self.tail.at, "no footer: \"conectix\" is not there")
            .hint("no VHD, or one that was cut short; a fixed VHD without its footer reads as raw")
    }
}

/// Reads what may be a footer; the byte that an old one lacks is zero.
fn read(store: &dyn Store, at: u64, len: u64) -> Result<Place> {
    let mut bytes = [0; 512];
    let wanted = usize::try_from(len).unwrap_or(bytes.len());
    if let Some(there) = bytes.get_mut(..wanted) {
        store.fetch(there, at, "VHD footer")?;
    }
    Ok(Place { at, len, found: Footer::parse(&bytes) })
}

/// What the end of a file says of a fixed disk, whose start is its guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedEnd {
    /// Nothing: there is no footer, or that of another kind of disk.
    None,
    /// The footer of a fixed disk of just the file's length.
    Fits,
    /// The footer of a fixed disk of fewer bytes: its change of size may have been cut off.
    Shorter,
    /// A footer that is damaged, or of a fixed disk of more bytes.
    Damaged,
}

/// What the end of the file says of a fixed disk.
///
/// # Errors
/// The host's.
pub fn fixed_end(store: &dyn Store) -> Result<FixedEnd> {
    let Some(Footers { tail, .. }) = Footers::find(store)? else { return Ok(FixedEnd::None) };
    Ok(match &tail.found {
        Err(Damage::Cookie) => FixedEnd::None,
        Err(Damage::Checksum { .. }) => FixedEnd::Damaged,
        Ok(footer) if footer.disk_type() != Ok(DiskType::Fixed) => FixedEnd::None,
        Ok(footer) => match footer.current_size().cmp(&tail.at) {
            Ordering::Equal => FixedEnd::Fits,
            Ordering::Less => FixedEnd::Shorter,
            Ordering::Greater => FixedEnd::Damaged,
        },
    })
}

/// Whether the file is a VHD, by its content: a footer copy (intact or not) at byte 0, or at the
/// end an intact footer of a fixed disk that fits the file, or one that leads to a dynamic header.
///
/// A raw disk that happens to end with a VHD footer which does not fit stays raw.
///
/// # Errors
/// The host's.
pub fn probe(store: &dyn Store) -> Result<bool> {
    let Some(footers) = Footers::find(store)? else { return Ok(false) };
    if !matches!(footers.copy.found, Err(Damage::Cookie)) || footers.is_fixed() {
        return Ok(true);
    }
    let Ok(tail) = &footers.tail.found else { return Ok(false) };
    let sparse = matches!(tail.disk_type(), Ok(DiskType::Dynamic | DiskType::Differencing));
    if !sparse || tail.data_offset() > footers.file_len.saturating_sub(FOOTER) {
        return Ok(false);
    }
    let mut cookie = [0; 8];
    store.fetch(&mut cookie, tail.data_offset(), "VHD dynamic header")?;
    Ok(cookie == *header::COOKIE)
}
