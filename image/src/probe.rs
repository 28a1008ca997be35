//! Which format is it? By content, never by name.

use vdisk_core::{Error, ErrorKind, Format, Result, Store, StoreExt};

/// The format of the image in `store`. Raw is never guessed: a guest can write any header at the
/// start of its own raw disk, so "raw" is for the caller to say.
///
/// # Errors
/// [`ErrorKind::UnknownFormat`] where no format is recognised; [`ErrorKind::Unsupported`] for a
/// format that is recognised and not handled; the host's.
pub fn probe(store: &dyn Store) -> Result<Format> {
    if vdisk_vhdx::probe(store)? {
        return Ok(Format::Vhdx);
    }
    if vdisk_vmdk::probe(store)? {
        return Ok(Format::Vmdk);
    }
    if vdisk_vhd::probe(store)? {
        return Ok(Format::Vhd);
    }
    Err(unknown(store)?.in_file(store.name()))
}

fn unknown(store: &dyn Store) -> Result<Error> {
    const QCOW: &[u8] = b"QFI\xfb";
    const VDI: &[u8] = &[0x7F, 0x10, 0xDA, 0xBE];
    let len = store.size()?;
    if len == 0 {
        return Ok(Error::new(ErrorKind::UnknownFormat, "is empty"));
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
