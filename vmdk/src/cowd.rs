//! ESX Server sparse extent (`COWD`; extent type VMFSSPARSE): the snapshots of VMFS before
//! seSparse. Read only: ESXi alone writes them.

use std::sync::Arc;

use vdisk_core::{Error, Result, Store, StoreExt};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::tables::{Coding, GrainTables, Shape};
use crate::unit::{SECTOR, round_up};

/// `COWD`.
pub(crate) const MAGIC: [u8; 4] = *b"COWD";

const STRUCTURE: &str = "VMDK COWD header";
/// Entries of a grain table.
const GTES: u64 = 4096;
/// Largest grain taken, in sectors.
const MOST_GRAIN: u32 = 2048;

/// The header's fields that matter, little-endian, in sectors. The rest of its 2048 bytes names
/// a parent or a geometry, which the descriptor says better.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U32,
    flags: U32,
    sectors: U32,
    grain_size: U32,
    gd_offset: U32,
    gd_entries: U32,
    free_sector: U32,
}

const _: () = assert!(size_of::<RawHeader>() == 32);

/// Opens the tables of a COWD file for an extent of `len` guest bytes.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where the header breaks its rules.
pub(crate) fn open(store: Arc<dyn Store>, len: u64) -> Result<GrainTables> {
    let mut bytes = [0; 32];
    store.fetch(&mut bytes, 0, STRUCTURE)?;
    let raw: RawHeader = zerocopy::transmute!(bytes);
    let corrupt =
        |at, message: String| Err(Error::corrupt(STRUCTURE, at, message).in_file(store.name()));
    if raw.magic != MAGIC {
        return corrupt(0, "the magic number COWD is missing".into());
    }
    if raw.version.get() != 1 {
        return Err(Error::unsupported(format!("version {} is not 1", raw.version))
            .at(STRUCTURE, 4)
            .in_file(store.name()));
    }
    let grain = raw.grain_size.get();
    if !grain.is_power_of_two() || grain > MOST_GRAIN {
        return corrupt(16, format!("a grain of {grain} sectors"));
    }
    let capacity = u64::from(raw.sectors.get()) * SECTOR;
    if capacity < len {
        return corrupt(12, format!("it holds {capacity} bytes, the descriptor says {len}"));
    }
    let directory = u64::from(raw.gd_offset.get()) * SECTOR;
    let directory_bytes = u64::from(raw.gd_entries.get()) * 4;
    let shape = Shape {
        coding: Coding::Sectors { zero_grain: false },
        per_table: GTES,
        grain: u64::from(grain) * SECTOR,
        stored: u64::from(grain) * SECTOR,
        len,
        floor: round_up(directory + directory_bytes, SECTOR),
    };
    if directory == 0 || directory_bytes < shape.directory_bytes() {
        return corrupt(
            24,
            format!(
                "a grain directory of {} entries at sector {} cannot cover {len} bytes",
                raw.gd_entries, raw.gd_offset
            ),
        );
    }
    GrainTables::open(store, shape, directory, [0..4 * SECTOR, 0..0])
}
