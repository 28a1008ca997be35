//! What the fuzz targets do with their inputs.
//!
//! An input is seldom a file: it is a list of changes (see [`patch`]) to a small image that our
//! own functions made. So inputs stay short, and the fuzzer works on the structures. Its first
//! byte says whether checksums are put right afterwards, which on half of the inputs they are.
//!
//! ```text
//! byte 0     bit 0: put checksums right; the rest: which image
//! bytes 1-6  where to read and write
//! then       changes
//! ```

mod chain;
mod hive;
mod images;
mod ops;
mod parts;
mod repair;
mod report;
mod seal;
mod volumes;
mod windows;

use std::sync::{Arc, OnceLock};

use vdisk_core::{Files, LayerMut, MemFiles, MemStore, Result, Store, StoreExt};
use vdisk_testkit::exercise::{Driven, drive_input, exercise, patch};

pub use chain::chain;
pub use hive::{hive_edit, hive_log, hive_open};
use images::{Base, open_vhd, open_vhdx, open_vmdk};
pub use ops::chain_ops;
pub use parts::{lvm, parts};
pub use repair::repair;
pub use report::report;
pub use volumes::{fs_btrfs, fs_ext, fs_fat, fs_ntfs, fs_xfs, make_ntfs};
pub use windows::{bcd, inf};

/// What an input says before its changes.
struct Head<'a> {
    seal: bool,
    image: usize,
    seeds: [u64; 3],
    rest: &'a [u8],
}

impl<'a> Head<'a> {
    fn parse(input: &'a [u8]) -> Option<Self> {
        let (&[first, a, b, c, d, e, f], rest) = input.split_first_chunk::<7>()?;
        // Spread over all 64 bits, the upper ones for lengths.
        let seed = |x: u8, y: u8| {
            u64::from(u16::from_le_bytes([x, y])).wrapping_mul(0x0000_9E37_79B9_7F4A)
        };
        let seeds = [seed(a, b), seed(c, d), seed(e, f)];
        Some(Self { seal: first & 1 != 0, image: usize::from(first >> 1), seeds, rest })
    }
}

/// VHD: fixed, dynamic and differencing images with changes.
pub fn vhd_open(input: &[u8]) {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    let bases = BASES.get_or_init(images::vhd);
    open_patched(input, bases, seal::vhd, &|store, _, access| open_vhd(store, access));
}

/// VHDX: dynamic and differencing images with changes anywhere but in the log.
pub fn vhdx_open(input: &[u8]) {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    let bases = BASES.get_or_init(images::vhdx);
    open_patched(input, bases, seal::vhdx, &|store, _, access| open_vhdx(store, access));
}

/// VHDX: images whose log waits to be replayed, with changes in it.
pub fn vhdx_log(input: &[u8]) {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    let bases = BASES.get_or_init(images::vhdx_with_log);
    open_patched(input, bases, seal::vhdx, &|store, _, access| open_vhdx(store, access));
}

/// VMDK: sparse, stream, COWD and seSparse images with changes.
pub fn vmdk_open(input: &[u8]) {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    open_patched(input, BASES.get_or_init(images::vmdk), |_| (), &open_vmdk);
}

/// VMDK: the input is the descriptor (behind its first line, where bit 0 is set), beside files
/// called `a`, `b` and `s` (a sparse extent).
pub fn vmdk_descriptor(input: &[u8]) {
    let Some(head) = Head::parse(input) else { return };
    let mut files = MemFiles::new("disk.vmdk");
    let main = files.create("disk.vmdk").expect("memory");
    let first: &[u8] = if head.seal {
        b"# Disk DescriptorFile\nversion=1\nCID=1234abcd\nparentCID=ffffffff\n"
    } else {
        b""
    };
    main.put(&[first, head.rest].concat(), 0, "descriptor").expect("memory");
    for (name, bytes) in images::extents() {
        files.create(name).expect("memory").put(bytes, 0, "extent").expect("memory");
    }
    exercise(&files, &open_vmdk, head.seeds);
}

fn open_patched(
    input: &[u8],
    bases: &[Base],
    seal: impl Fn(&MemStore),
    open: vdisk_testkit::exercise::Open<'_>,
) {
    let Some(head) = Head::parse(input) else { return };
    let Some(base) = bases.get(head.image % bases.len().max(1)) else { return };
    let files = base.files();
    let store = files.get(&base.changed).expect("it was made");
    patch(&store, &base.anchors, head.rest);
    if head.seal {
        seal(&store);
    }
    exercise(&files, open, head.seeds);
}

/// Sound images of every format, written to as the input says, cut and reopened, against a plain
/// vector of bytes.
pub fn write_reopen(input: &[u8]) {
    static BASES: OnceLock<Vec<(Base, images::Kind)>> = OnceLock::new();
    let bases = BASES.get_or_init(images::writable);
    let Some((&first, rest)) = input.split_first() else { return };
    let Some((base, kind)) = bases.get(usize::from(first) % bases.len().max(1)) else { return };
    let files = base.files();
    let open = move || -> Result<Box<dyn LayerMut>> {
        let store: Arc<dyn Store> = files.get(files.main_name()).expect("it was made");
        (kind.open)(store, &files, vdisk_core::Access::Write)
    };
    let below = vdisk_testkit::VecDisk(kind.below.clone());
    drive_input(Driven { open: Box::new(open), below, resize: kind.resize }, rest);
}
