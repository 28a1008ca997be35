//! Recognising the format by content.

use vdisk_core::{Result, Store, StoreExt};

use crate::descriptor::{MOST_BYTES, first_line};
use crate::unit::to_usize;
use crate::{cowd, header, sesparse};

/// Bytes of a descriptor looked at: its first lines.
const LOOK: u64 = 4096;

/// Whether `store` holds a VMDK descriptor, a sparse file, or a bare extent (which
/// [`open`](crate::open) refuses with advice). A flat extent shows nothing.
///
/// # Errors
/// The host's.
pub fn probe(store: &dyn Store) -> Result<bool> {
    let size = store.size()?;
    let mut head = vec![0; to_usize(size.min(LOOK))];
    store.fetch(&mut head, 0, "VMDK magic number")?;
    let magic = [&header::MAGIC[..], &header::UNFINISHED_MAGIC, &cowd::MAGIC, &sesparse::MAGIC];
    if head.len() >= 512 && magic.iter().any(|magic| head.starts_with(magic)) {
        return Ok(true);
    }
    Ok(size <= MOST_BYTES && is_descriptor(&head))
}

/// Whether text starts like a descriptor: with its title, or with a version after comments.
fn is_descriptor(head: &[u8]) -> bool {
    let head = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head).trim_ascii_start();
    let title: &[u8] = b"# Disk DescriptorFile";
    if head.get(..title.len()).is_some_and(|start| start.eq_ignore_ascii_case(title)) {
        return true;
    }
    let Some(line) = first_line(head).and_then(|range| head.get(range)) else { return false };
    let mut parts = line.splitn(2, |byte| *byte == b'=');
    let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    key.trim_ascii().eq_ignore_ascii_case(b"version") && matches!(value.trim_ascii(), [b'1'..=b'9'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::MemStore;

    #[test]
    fn knows_descriptors_and_magic_numbers() {
        let yes: [&[u8]; 5] = [
            b"# Disk DescriptorFile\nversion=1\n",
            b"# disk descriptorfile\r\n",
            b"\n# made by hand\nversion = 3\nCID=1\n",
            &[b"KDMV".as_slice(), &[0; 508]].concat(),
            &[b"COWD".as_slice(), &[0; 508]].concat(),
        ];
        let no: [&[u8]; 6] =
            [b"", b"K", b"KDMV", b"version of events", b"version=1.2\n", b"# only a comment\n"];
        for (bytes, expected) in yes.iter().map(|b| (b, true)).chain(no.iter().map(|b| (b, false)))
        {
            let store = MemStore::from_bytes("x", bytes);
            assert_eq!(probe(&store).unwrap(), expected, "{:?}", bytes.get(..20));
        }
    }
}
