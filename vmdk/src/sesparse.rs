//! Space-efficient sparse extent (extent type SESPARSE): the snapshots of VMFS 6 and of disks
//! beyond 2 TiB. Undocumented; the layout is known from reading files. Read only.

use std::sync::Arc;

use vdisk_core::{Error, Result, Store, StoreExt};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::tables::{Coding, GrainTables, Shape};
use crate::unit::{SECTOR, sectors};

/// The constant header's magic number.
pub(crate) const MAGIC: [u8; 8] = 0xCAFE_BABE_u64.to_le_bytes();

const CONSTANT: &str = "VMDK seSparse constant header";
const VOLATILE: &str = "VMDK seSparse volatile header";
const VERSION: u64 = 0x0000_0002_0000_0001;
const VOLATILE_MAGIC: u64 = 0xCAFE_CAFE;

/// The constant header, little-endian, offsets and sizes in sectors.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ConstantHeader {
    magic: [u8; 8],
    version: U64,
    capacity: U64,
    grain_size: U64,
    grain_table_size: U64,
    flags: U64,
    reserved: [U64; 4],
    volatile_header: [U64; 2],
    journal_header: [U64; 2],
    journal: [U64; 2],
    directory: [U64; 2],
    tables: [U64; 2],
    free_bitmap: [U64; 2],
    backmap: [U64; 2],
    grains: [U64; 2],
}

const _: () = assert!(size_of::<ConstantHeader>() == 26 * 8);

/// The volatile header's fields, little-endian.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct VolatileHeader {
    magic: U64,
    free_table: U64,
    next_transaction: U64,
    replay_journal: U64,
}

/// Opens the tables of a seSparse file for an extent of `len` guest bytes.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where a header breaks its rules;
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where a journal waits to be replayed.
pub(crate) fn open(store: Arc<dyn Store>, len: u64) -> Result<GrainTables> {
    let mut bytes = [0; size_of::<ConstantHeader>()];
    store.fetch(&mut bytes, 0, CONSTANT)?;
    let raw: ConstantHeader = zerocopy::transmute!(bytes);
    let corrupt =
        |at, message: String| Err(Error::corrupt(CONSTANT, at, message).in_file(store.name()));
    if raw.magic != MAGIC {
        return corrupt(0, "the magic number is missing".into());
    }
    if raw.version.get() != VERSION {
        return Err(Error::unsupported(format!("version {:#x}", raw.version.get()))
            .at(CONSTANT, 8)
            .in_file(store.name()));
    }
    if raw.grain_size.get() != 8 || raw.grain_table_size.get() != 64 {
        return corrupt(
            24,
            format!(
                "grains of {} and tables of {} sectors, expected 8 and 64",
                raw.grain_size, raw.grain_table_size
            ),
        );
    }
    if sectors(raw.capacity.get()).is_none_or(|capacity| capacity < len) {
        return corrupt(16, format!("{} sectors cannot hold {len} bytes", raw.capacity));
    }
    refuse_waiting_journal(&*store, &raw)?;

    let [directory, tables, grains] =
        [raw.directory, raw.tables, raw.grains].map(|[at, _]| sectors(at.get()));
    let (Some(directory), Some(tables_at), Some(grains_at)) = (directory, tables, grains) else {
        return corrupt(128, "an offset lies beyond any file".into());
    };
    let shape = Shape {
        coding: Coding::SeSparse { tables_at, grains_at },
        per_table: 4096,
        grain: 4096,
        stored: 4096,
        len,
        floor: grains_at,
    };
    let room = sectors(raw.directory[1].get()).unwrap_or_default();
    if directory == 0 || tables_at == 0 || grains_at == 0 || room < shape.directory_bytes() {
        return corrupt(128, format!("a grain directory of {room} bytes cannot cover {len}"));
    }
    GrainTables::open(store, shape, directory, [0..SECTOR, 0..0])
}

fn refuse_waiting_journal(store: &dyn Store, raw: &ConstantHeader) -> Result<()> {
    let at = sectors(raw.volatile_header[0].get()).unwrap_or(u64::MAX);
    let mut bytes = [0; size_of::<VolatileHeader>()];
    store.fetch(&mut bytes, at, VOLATILE)?;
    let header: VolatileHeader = zerocopy::transmute!(bytes);
    if header.magic.get() != VOLATILE_MAGIC {
        return Err(
            Error::corrupt(VOLATILE, at, "the magic number is missing").in_file(store.name())
        );
    }
    if header.replay_journal.get() != 0 {
        return Err(Error::unsupported("the journal waits to be replayed")
            .at(VOLATILE, at + 24)
            .in_file(store.name())
            .hint("open and close the snapshot once on ESXi, which replays it"));
    }
    Ok(())
}
