//! Which format is it? By content, never by name.

use vdisk_core::{Error, ErrorKind, Format, Result, Store, StoreExt};
use vdisk_vhd::{FixedEnd, fixed_end};

/// The format of the image in `store`. Raw is never guessed: a guest can write any header at the
/// start of its own raw disk, so "raw" is for the caller to say. The start of a fixed VHD is its
/// guest's as well, and its footer stands at the end: a file that ends like one and starts like
/// another format is refused.
///
/// # Errors
/// [`ErrorKind::UnknownFormat`] where no format is recognised; [`ErrorKind::Refused`] where two
/// are; [`ErrorKind::Unsupported`] for a format that is recognised and not handled; the host's.
pub fn probe(store: &dyn Store) -> Result<Format> {
    probe_with(store, None)
}

/// As [`probe`]; where a file starts like one format and ends like another, it is `in_doubt` if
/// that is one of them.
pub(crate) fn probe_with(store: &dyn Store, in_doubt: Option<Format>) -> Result<Format> {
    let end = fixed_end(store)?;
    let found = match by_start(store)? {
        Some(format) if end == FixedEnd::None => Ok(format),
        Some(format) => in_doubt
            .filter(|one| [format, Format::Vhd].contains(one))
            .ok_or_else(|| ambiguous(format)),
        None if vdisk_vhd::probe(store)? => Ok(Format::Vhd),
        // Its identity is asked for anyway, and the error is then about its size.
        None if end == FixedEnd::Shorter && in_doubt == Some(Format::Vhd) => Ok(Format::Vhd),
        None => Err(unknown(store, end)?),
    };
    found.map_err(|error| error.in_file(store.name()))
}

/// The format that a file starts like, of those that nothing at its end could tell.
fn by_start(store: &dyn Store) -> Result<Option<Format>> {
    if vdisk_vhdx::probe(store)? {
        return Ok(Some(Format::Vhdx));
    }
    Ok(vdisk_vmdk::probe(store)?.then_some(Format::Vmdk))
}

fn ambiguous(format: Format) -> Error {
    let (name, upper) = (format.name(), format.name().to_uppercase());
    Error::refused(format!(
        "starts like a {upper} image and ends like a fixed VHD, of which a guest writes the start"
    ))
    .hint(format!(
        "if it was made as a VHD, add -f vhd; only if it surely was made as a {upper}, -f {name}"
    ))
}

fn unknown(store: &dyn Store, end: FixedEnd) -> Result<Error> {
    const QCOW: &[u8] = b"QFI\xfb";
    const VDI: &[u8] = &[0x7F, 0x10, 0xDA, 0xBE];
    let len = store.size()?;
    if len == 0 {
        return Ok(Error::new(ErrorKind::UnknownFormat, "is empty"));
    }
    if end == FixedEnd::Shorter {
        let message = "ends like a fixed VHD whose change of size was cut off";
        return Ok(Error::new(ErrorKind::UnknownFormat, message).hint(
            "add -f vhd, and give it its size again with vdisk resize (--force where images stand \
             on it); only if it surely is a raw disk, -f raw",
        ));
    }
    let mut head = [0; 0x44];
    let there = usize::try_from(len).unwrap_or(head.len()).min(head.len());
    let (head_there, _) = head.split_at_mut(there);
    store.fetch(head_there, 0, "start of the file")?;
    if head.starts_with(QCOW) || head.ends_with(VDI) {
        let name = if head.starts_with(QCOW) { "qcow2" } else { "VDI" };
        return Ok(Error::unsupported(format!("is a {name} image"))
            .hint("convert it with qemu-img first; or add -f raw to read the file as it is"));
    }
    Ok(Error::new(ErrorKind::UnknownFormat, "is not a VHD, VHDX or VMDK image")
        .hint("if it is a raw disk, say so with -f raw"))
}
