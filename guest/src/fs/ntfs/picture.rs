//! A volume as `rust-fs-ntfs` is shown it for a change.
//!
//! The crate (0.10.2) takes the strides of update sequences for as long as sectors, which is wrong
//! where those have 4096 bytes: so the boot sector it sees counts in sectors of 512 bytes. And it
//! follows paths through every directory on the way, also those whose index it cannot read: so the
//! root directory it sees holds just the directories in which something changes, by short names.
//! All other bytes are the volume's own, and what is shown differently is never written.

use std::ops::Range;
use std::sync::Arc;

use fs_core::{BlockDevice, BlockRead};
use vdisk_core::{Error, Result};

use crate::fs::device::Device;
use crate::ntfs::{
    Boot, FILE_NAME, INDEX_ROOT, Ntfs, ROOT, Record, STANDARD_INFORMATION, pieces, put, sealed,
};

/// Bytes of the sectors that the crate is shown.
const SECTOR: u64 = 512;
/// `COLLATION_FILE_NAME`.
const BY_NAME: u32 = 1;
/// `FILE_ATTRIBUTE_*` of a directory, as index entries have it.
const IS_DIRECTORY: u32 = 0x1000_0000;
/// Bytes of the heads of an attribute in the record, of the root's value, of an entry.
const ATTRIBUTE_HEAD: usize = 24;
const NODE: usize = 16;
const KEY: usize = 16;
/// Bytes of `$FILE_NAME` before the name.
const NAME: usize = 0x42;
/// The flag of an entry that ends its node.
const LAST: u16 = 2;

/// The device behind the picture.
#[derive(Debug)]
pub(super) struct Picture {
    device: Arc<Device>,
    /// Bytes of the volume that are shown differently.
    shown: Vec<Shown>,
}

#[derive(Debug)]
struct Shown {
    start: u64,
    bytes: Vec<u8>,
}

impl Shown {
    fn range(&self) -> Range<u64> {
        self.start..self.start + self.bytes.len() as u64
    }

    /// Puts what is shown into `buf`, which begins at byte `offset` of the volume.
    fn lay_over(&self, buf: &mut [u8], offset: u64) {
        let shown = self.range();
        let (from, to) = (shown.start.max(offset), shown.end.min(offset + buf.len() as u64));
        if from < to {
            let [here, there, len] = [from - shown.start, from - offset, to - from]
                .map(|number| usize::try_from(number).unwrap_or(usize::MAX));
            let bytes = self.bytes.get(here..).and_then(|bytes| bytes.get(..len));
            put(buf, there, bytes.unwrap_or_default());
        }
    }
}

impl Picture {
    /// The volume that `reader` reads; where there are `directories`, as all that its root holds: they
    /// are called `0`, `1` and so on.
    pub(super) fn new(
        device: Arc<Device>,
        reader: &Ntfs<Arc<Device>>,
        directories: &[Record],
    ) -> Result<Self> {
        let mut shown = Vec::new();
        shown.extend(boot_sector(&device, reader.boot())?);
        if !directories.is_empty() {
            let root = root_with(&reader.record(ROOT)?, directories);
            let root = root.and_then(|record| sealed(&record)).ok_or_else(|| {
                Error::internal("a root directory does not fit into its file record")
            })?;
            let offset = ROOT * root.len() as u64;
            let mut rest = &root[..];
            for piece in pieces(reader.mft(), offset, root.len() as u64)? {
                let len = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
                let (bytes, later) = rest.split_at(len.min(rest.len()));
                shown.push(Shown { start: piece.start, bytes: bytes.to_vec() });
                rest = later;
            }
        }
        Ok(Self { device, shown })
    }
}

/// The boot sector to show; `None` where it is the volume's own.
fn boot_sector(device: &Device, boot: &Boot) -> Result<Option<Shown>> {
    if boot.sector <= SECTOR {
        return Ok(None);
    }
    let mut bytes = vec![0; Boot::LEN];
    device.fetch(&mut bytes, 0)?;
    let per_cluster = boot.cluster / SECTOR;
    // More than 128 as the negative power of two.
    let coded = match u8::try_from(per_cluster) {
        Ok(count @ 0..=128) => count,
        _ => u8::try_from(256 - per_cluster.ilog2()).unwrap_or_default(),
    };
    put(&mut bytes, 0x0B, &512_u16.to_le_bytes());
    put(&mut bytes, 0x0D, &[coded]);
    put(&mut bytes, 0x28, &boot.clusters.saturating_mul(per_cluster).to_le_bytes());
    Ok(Some(Shown { start: 0, bytes }))
}

/// The root's record with an index of just these directories, all of it in the record.
fn root_with(root: &Record, directories: &[Record]) -> Option<Vec<u8>> {
    let attributes = root.attributes();
    let mut bytes = root.bytes.get(..attributes.first()?.at)?.to_vec();
    let kept = [STANDARD_INFORMATION, FILE_NAME];
    for attribute in attributes.iter().filter(|one| kept.contains(&one.kind)) {
        bytes.extend(root.bytes.get(attribute.at..)?.get(..attribute.len)?);
    }
    bytes.extend(index_attribute(root, directories)?);
    bytes.extend([0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
    let used = u32::try_from(bytes.len()).ok()?;
    put(&mut bytes, 0x18, &used.to_le_bytes())?;
    (bytes.len() <= root.bytes.len()).then_some(())?;
    bytes.resize(root.bytes.len(), 0);
    Some(bytes)
}

/// The attribute `$INDEX_ROOT` named `$I30`.
fn index_attribute(root: &Record, directories: &[Record]) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    for (number, directory) in directories.iter().enumerate() {
        entries.extend(entry(root, directory, &number.to_string())?);
    }
    let end = u16::try_from(KEY).ok()?;
    entries.extend([[0; 8], [0; 8]].concat());
    let last = entries.len() - KEY;
    put(&mut entries, last + 8, &end.to_le_bytes())?;
    put(&mut entries, last + 12, &LAST.to_le_bytes())?;

    let len = u32::try_from(NODE + entries.len()).ok()?;
    let mut value = Vec::new();
    // What is indexed, how it is sorted, the size of blocks that there are none of.
    for number in [FILE_NAME, BY_NAME, 4096, 1, u32::try_from(NODE).ok()?, len, len, 0] {
        value.extend(number.to_le_bytes());
    }
    value.extend(entries);

    let name: Vec<u8> = "$I30".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let start = ATTRIBUTE_HEAD + name.len();
    let mut bytes = vec![0; ATTRIBUTE_HEAD];
    bytes.extend(&name);
    bytes.extend(&value);
    let all = u32::try_from(bytes.len()).ok()?;
    put(&mut bytes, 0, &INDEX_ROOT.to_le_bytes())?;
    put(&mut bytes, 4, &all.to_le_bytes())?;
    put(&mut bytes, 9, &[u8::try_from(name.len() / 2).ok()?, u8::try_from(ATTRIBUTE_HEAD).ok()?])?;
    put(&mut bytes, 14, &0xFFFE_u16.to_le_bytes())?;
    put(&mut bytes, 16, &u32::try_from(value.len()).ok()?.to_le_bytes())?;
    put(&mut bytes, 20, &u16::try_from(start).ok()?.to_le_bytes())?;
    Some(bytes)
}

/// The entry of a directory in the root.
fn entry(root: &Record, directory: &Record, name: &str) -> Option<Vec<u8>> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let key = NAME + name.len();
    let mut bytes = vec![0; (KEY + key).next_multiple_of(8)];
    let len = bytes.len();
    put(&mut bytes, 0, &reference(directory)?)?;
    put(&mut bytes, 8, &u16::try_from(len).ok()?.to_le_bytes())?;
    put(&mut bytes, 10, &u16::try_from(key).ok()?.to_le_bytes())?;
    put(&mut bytes, KEY, &reference(root)?)?;
    put(&mut bytes, KEY + 0x38, &IS_DIRECTORY.to_le_bytes())?;
    put(&mut bytes, KEY + 0x40, &[u8::try_from(name.len() / 2).ok()?])?;
    put(&mut bytes, KEY + NAME, &name)?;
    Some(bytes)
}

/// How others refer to a record.
fn reference(record: &Record) -> Option<[u8; 8]> {
    let sequence = u64::try_from(record.sequence()).ok()?;
    Some((record.number | sequence << 48).to_le_bytes())
}

impl BlockRead for Picture {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        if !buf.is_empty() {
            self.device.note(self.device.fetch(buf, offset))?;
        }
        self.shown.iter().for_each(|shown| shown.lay_over(buf, offset));
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.device.len()
    }
}

impl BlockDevice for Picture {
    fn write_at(&self, offset: u64, buf: &[u8]) -> fs_core::Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let met = |shown: &Shown| shown.range().start < end && offset < shown.range().end;
        if self.shown.iter().any(met) {
            return self.device.note(Err(Error::internal("a picture of a volume was written to")));
        }
        BlockDevice::write_at(&*self.device, offset, buf)
    }

    fn is_writable(&self) -> bool {
        self.device.is_writable()
    }
}
