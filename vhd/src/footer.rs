//! The footer: the 512 bytes that make a file a VHD.
//!
//! VHD 1.0, "Hard Disk Footer Format". All fields are big-endian.

use uuid::Uuid;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::geometry::Geometry;

/// Bytes of a footer.
pub(crate) const FOOTER: u64 = 512;
/// Bytes of the footer that Virtual PC wrote before 2004: the last reserved byte is missing.
pub(crate) const SHORT_FOOTER: u64 = 511;
/// The first bytes of every footer.
pub(crate) const COOKIE: &[u8; 8] = b"conectix";
/// *Data Offset* of a fixed disk, and of every dynamic header.
pub(crate) const NO_OFFSET: u64 = u64::MAX;

/// The footer as it stands in the file; names and order are the specification's.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFooter {
    cookie: [u8; 8],
    features: U32,
    file_format_version: U32,
    data_offset: U64,
    time_stamp: U32,
    creator_application: [u8; 4],
    creator_version: U32,
    creator_host_os: [u8; 4],
    original_size: U64,
    current_size: U64,
    cylinders: U16,
    heads: u8,
    sectors_per_track: u8,
    disk_type: U32,
    checksum: U32,
    unique_id: [u8; 16],
    saved_state: u8,
    reserved: [u8; 427],
}

const _: () = assert!(size_of::<RawFooter>() == 512);

/// Where the checksum field stands in a footer.
const CHECKSUM_AT: usize = 64;

/// The kinds of hard disk that are in use (*Disk Type*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskType {
    /// The guest's bytes, then the footer.
    Fixed,
    /// Blocks are stored once they are written.
    Dynamic,
    /// As dynamic, on a parent.
    Differencing,
}

impl DiskType {
    /// The name users see.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }
}

/// A footer whose cookie and checksum are right.
#[derive(Clone, Debug)]
pub(crate) struct Footer(RawFooter);

/// Why 512 bytes are no footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// The cookie is not there.
    Cookie,
    /// The checksum does not fit the content.
    Checksum { found: u32, expected: u32 },
}

impl Footer {
    /// A new footer as current Windows writes it.
    pub(crate) fn new(kind: DiskType, size: u64, unique_id: Uuid, time_stamp: u32) -> Self {
        let data_offset = if kind == DiskType::Fixed { NO_OFFSET } else { FOOTER };
        let mut footer = Self(RawFooter {
            cookie: *COOKIE,
            features: 2.into(),
            file_format_version: 0x0001_0000.into(),
            data_offset: data_offset.into(),
            time_stamp: time_stamp.into(),
            creator_application: [0; 4],
            creator_version: 0.into(),
            creator_host_os: *b"Wi2k",
            original_size: 0.into(),
            current_size: 0.into(),
            cylinders: 0.into(),
            heads: 0,
            sectors_per_track: 0,
            disk_type: kind.code().into(),
            checksum: 0.into(),
            unique_id: unique_id.into_bytes(),
            saved_state: 0,
            reserved: [0; 427],
        });
        footer.set_size(size);
        footer
    }

    /// Reads a footer, checking what makes it one: cookie and checksum.
    pub(crate) fn parse(bytes: &[u8; 512]) -> Result<Self, Damage> {
        let raw = RawFooter::read_from_bytes(bytes).map_err(|_| Damage::Cookie)?;
        if raw.cookie != *COOKIE {
            return Err(Damage::Cookie);
        }
        let (found, expected) = (raw.checksum.get(), checksum(bytes, CHECKSUM_AT));
        if found == expected { Ok(Self(raw)) } else { Err(Damage::Checksum { found, expected }) }
    }

    /// The bytes to write; the checksum is right.
    pub(crate) fn to_bytes(&self) -> [u8; 512] {
        let mut bytes: [u8; 512] = zerocopy::transmute!(self.0.clone());
        seal(&mut bytes, CHECKSUM_AT);
        bytes
    }

    /// Changes the size so that every reader sees just that: qemu would look at the geometry
    /// instead if the creator stayed `qemu` or `vpc `, and libvhdi looks at the original size.
    pub(crate) fn set_size(&mut self, size: u64) {
        let geometry = Geometry::of(size);
        self.0.original_size = size.into();
        self.0.current_size = size.into();
        self.0.cylinders = geometry.cylinders.into();
        self.0.heads = geometry.heads;
        self.0.sectors_per_track = geometry.sectors;
        self.0.creator_application = *b"win ";
        self.0.creator_version = 0x000A_0000.into();
    }

    /// *Disk Type*, or its code where it is none in use.
    pub(crate) fn disk_type(&self) -> Result<DiskType, u32> {
        match self.0.disk_type.get() {
            2 => Ok(DiskType::Fixed),
            3 => Ok(DiskType::Dynamic),
            4 => Ok(DiskType::Differencing),
            other => Err(other),
        }
    }

    /// *Features*, bit flags.
    pub(crate) fn features(&self) -> u32 {
        self.0.features.get()
    }

    /// *File Format Version*: major and minor number.
    pub(crate) fn version(&self) -> (u32, u32) {
        split(self.0.file_format_version)
    }

    /// *Data Offset*: byte offset of the dynamic header.
    pub(crate) fn data_offset(&self) -> u64 {
        self.0.data_offset.get()
    }

    /// Changes *Data Offset*.
    pub(crate) fn set_data_offset(&mut self, at: u64) {
        self.0.data_offset = at.into();
    }

    /// *Time Stamp*: when the image was made.
    pub(crate) fn time_stamp(&self) -> u32 {
        self.0.time_stamp.get()
    }

    /// *Creator Application*.
    pub(crate) fn creator_application(&self) -> [u8; 4] {
        self.0.creator_application
    }

    /// *Creator Version*: major and minor number.
    pub(crate) fn creator_version(&self) -> (u32, u32) {
        split(self.0.creator_version)
    }

    /// *Creator Host OS*.
    pub(crate) fn creator_host_os(&self) -> [u8; 4] {
        self.0.creator_host_os
    }

    /// *Original Size*, bytes.
    pub(crate) fn original_size(&self) -> u64 {
        self.0.original_size.get()
    }

    /// *Current Size*, bytes.
    pub(crate) fn current_size(&self) -> u64 {
        self.0.current_size.get()
    }

    /// *Disk Geometry*.
    pub(crate) fn geometry(&self) -> Geometry {
        Geometry {
            cylinders: self.0.cylinders.get(),
            heads: self.0.heads,
            sectors: self.0.sectors_per_track,
        }
    }

    /// *Unique Id*.
    pub(crate) fn unique_id(&self) -> Uuid {
        Uuid::from_bytes(self.0.unique_id)
    }

    /// *Saved State*: the machine that uses the disk sleeps.
    pub(crate) fn saved_state(&self) -> bool {
        self.0.saved_state != 0
    }

    /// Whether all reserved bytes are zero.
    pub(crate) fn reserved_is_zero(&self) -> bool {
        self.0.reserved.iter().all(|byte| *byte == 0)
    }

    /// Whether `other` describes the same structures of the same image; sizes may differ.
    pub(crate) fn same_image(&self, other: &Self) -> bool {
        self.0.disk_type == other.0.disk_type
            && self.0.data_offset == other.0.data_offset
            && self.0.unique_id == other.0.unique_id
    }
}

fn split(version: U32) -> (u32, u32) {
    (version.get() >> 16, version.get() & 0xFFFF)
}

/// The one's complement of the sum of all bytes, without the four of the checksum field `at`.
pub(crate) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let field = at..at + 4;
    let counted = bytes.iter().enumerate().filter(|(index, _)| !field.contains(index));
    !counted.map(|(_, byte)| u32::from(*byte)).fold(0, u32::wrapping_add)
}

/// Puts the right checksum into the field `at`.
pub(crate) fn seal(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes, at).to_be_bytes();
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_footer_parses_and_every_flip_is_noticed() {
        let footer = Footer::new(DiskType::Dynamic, 10 << 20, Uuid::from_u128(7), 99);
        let bytes = footer.to_bytes();
        let parsed = Footer::parse(&bytes).unwrap();
        assert_eq!(parsed.disk_type(), Ok(DiskType::Dynamic));
        assert_eq!(parsed.current_size(), 10 << 20);
        assert_eq!(parsed.data_offset(), 512);
        assert_eq!(parsed.creator_version(), (10, 0));
        for at in 0..512 {
            let mut bad = bytes;
            bad[at] ^= 1;
            let damage = Footer::parse(&bad).unwrap_err();
            assert_eq!(damage == Damage::Cookie, at < 8);
        }
    }
}
