//! The file identifier and the two headers (\[MS-VHDX\] 2.2.1, 2.2.2), little endian.

use uuid::Uuid;
use vdisk_core::{Error, ErrorKind, Result, Store, StoreExt};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc;
use crate::{KIB, MIB};

/// The first bytes of every VHDX file.
pub(crate) const IDENTIFIER: &[u8; 8] = b"vhdxfile";
/// Bytes of the creator text after the identifier: 256 UTF-16 units.
const CREATOR_BYTES: usize = 512;
/// Bytes of the area at the start of the file that no region, block or log may touch.
pub(crate) const AREA: u64 = MIB;
/// Where the headers stand.
pub(crate) const SLOTS: [u64; 2] = [64 * KIB, 128 * KIB];
/// Bytes of a header that its checksum covers.
const HEADER_BYTES: usize = 4096;
/// Largest log that is believed, bytes; openvmm has the same cap.
const MAX_LOG: u64 = 1 << 30;
const WHAT: &str = "VHDX header";

/// The header's fields as they stand in the file (2.2.2); the rest of its 4 KiB is reserved.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Disk {
    signature: [u8; 4],
    checksum: U32,
    sequence_number: U64,
    file_write_guid: [u8; 16],
    data_write_guid: [u8; 16],
    log_guid: [u8; 16],
    log_version: U16,
    version: U16,
    log_length: U32,
    log_offset: U64,
}
const _: () = assert!(size_of::<Disk>() == 80);

/// A header (2.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The header with the larger number is the current one.
    pub(crate) sequence: u64,
    /// Changes with the first change of any byte of the file.
    pub(crate) file_write: Uuid,
    /// Changes with the first change of what the guest sees.
    pub(crate) data_write: Uuid,
    /// The log entries that count; nil: none do.
    pub(crate) log: Uuid,
    /// Version of the log's format: 0.
    pub(crate) log_version: u16,
    /// Version of the file format: 1.
    pub(crate) version: u16,
    /// Bytes of the log.
    pub(crate) log_length: u32,
    /// Byte offset of the log.
    pub(crate) log_offset: u64,
}

impl Header {
    /// Where the log stands, bytes.
    pub(crate) fn log_range(&self) -> std::ops::Range<u64> {
        self.log_offset..self.log_offset.saturating_add(self.log_length.into())
    }

    fn parse(slot: &[u8]) -> Result<Self, String> {
        let (disk, _) = Disk::ref_from_prefix(slot).map_err(|_| "too short".to_owned())?;
        if &disk.signature != b"head" {
            return Err(format!("signature {:02x?}, expected \"head\"", disk.signature));
        }
        let (found, expected) = (disk.checksum.get(), crc::checksum(slot));
        if found != expected {
            return Err(format!("checksum {found:#010x}, expected {expected:#010x}"));
        }
        Ok(Self {
            sequence: disk.sequence_number.get(),
            file_write: Uuid::from_bytes_le(disk.file_write_guid),
            data_write: Uuid::from_bytes_le(disk.data_write_guid),
            log: Uuid::from_bytes_le(disk.log_guid),
            log_version: disk.log_version.get(),
            version: disk.version.get(),
            log_length: disk.log_length.get(),
            log_offset: disk.log_offset.get(),
        })
    }

    /// The 4 KiB as they go into a slot, reserved bytes zero.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let disk = Disk {
            signature: *b"head",
            checksum: U32::ZERO,
            sequence_number: self.sequence.into(),
            file_write_guid: self.file_write.to_bytes_le(),
            data_write_guid: self.data_write.to_bytes_le(),
            log_guid: self.log.to_bytes_le(),
            log_version: self.log_version.into(),
            version: self.version.into(),
            log_length: self.log_length.into(),
            log_offset: self.log_offset.into(),
        };
        let mut slot = disk.as_bytes().to_vec();
        slot.resize(HEADER_BYTES, 0);
        crc::seal(&mut slot);
        slot
    }

    /// Refuses what breaks 2.2.2, given the file's length.
    fn check(&self, at: u64, file_len: u64) -> Result<()> {
        if self.version != 1 {
            return Err(Error::unsupported(format!(
                "file format version {}, expected 1",
                self.version
            ))
            .at(WHAT, at));
        }
        if self.log_version != 0 && !self.log.is_nil() {
            return Err(Error::unsupported(format!(
                "a log of version {} waits to be replayed, expected version 0",
                self.log_version
            ))
            .at(WHAT, at));
        }
        let (offset, length) = (self.log_offset, u64::from(self.log_length));
        let bad = |message: String| Err(Error::corrupt(WHAT, at, message));
        if length == 0 {
            return match self.log.is_nil() {
                true => Ok(()),
                false => bad("a log GUID but a log of length 0".to_owned()),
            };
        }
        if length % MIB != 0 || length > MAX_LOG {
            return bad(format!("log length {length}, expected a multiple of 1 MiB up to 1 GiB"));
        }
        if offset % MIB != 0 || offset < AREA {
            return bad(format!("log offset {offset}, expected a multiple of 1 MiB, not 0"));
        }
        match offset.checked_add(length) {
            Some(end) if end <= file_len => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Truncated,
                format!("log of {length} bytes at {offset}, but the file has {file_len} bytes"),
            )
            .at(WHAT, at)),
        }
    }
}

/// The two header slots, as read.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// Each slot's header, or why it is none.
    pub(crate) slots: [Result<Header, String>; 2],
    identical: bool,
}

impl Slots {
    /// Reads both; a slot that cannot be read is not valid.
    pub(crate) fn read(store: &dyn Store) -> Self {
        let raw = SLOTS.map(|at| {
            let mut slot = vec![0; HEADER_BYTES];
            store.read_exact_at(&mut slot, at).map(|()| slot)
        });
        let identical = matches!(&raw, [Ok(first), Ok(second)] if first == second);
        let slots = raw.map(|slot| match slot {
            Ok(slot) => Header::parse(&slot),
            Err(error) => Err(format!("cannot be read: {error}")),
        });
        Self { slots, identical }
    }

    /// The current header and the slot it stands in: the only valid one, or the one with the
    /// larger sequence number. Equal numbers are only accepted in identical headers, which
    /// Disk2VHD writes.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where there is none, or its fields break the rules.
    pub(crate) fn current(&self, file_len: u64) -> Result<Current> {
        let (slot, header) = match &self.slots {
            [Ok(first), Ok(second)] if first.sequence == second.sequence => {
                if !self.identical {
                    return Err(Error::corrupt(
                        WHAT,
                        64 * KIB,
                        format!("both headers differ but have sequence number {}", first.sequence),
                    ));
                }
                (0, first)
            }
            [Ok(first), Ok(second)] if first.sequence < second.sequence => (1, second),
            [Ok(first), _] => (0, first),
            [_, Ok(second)] => (1, second),
            [Err(first), Err(second)] => {
                return Err(Error::corrupt(
                    WHAT,
                    64 * KIB,
                    format!("neither header is valid: first {first}; second {second}"),
                ));
            }
        };
        header.check(slot_offset(slot), file_len)?;
        let valid = self.slots.each_ref().map(Result::is_ok);
        Ok(Current { header: header.clone(), slot, valid })
    }
}

/// The current header and the slot it stands in.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    /// The header.
    pub(crate) header: Header,
    /// 0 or 1.
    pub(crate) slot: usize,
    /// Which slots hold a valid header.
    pub(crate) valid: [bool; 2],
}

impl Current {
    /// Writes the header with its changes to both slots, one after the other (2.2.2.1): at every
    /// moment one slot holds a valid header, and afterwards both say the same.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn write(&mut self, file: &dyn Store) -> Result<()> {
        for _ in SLOTS {
            let sequence = self.header.sequence.checked_add(1);
            self.header.sequence = sequence.ok_or_else(|| {
                Error::corrupt(WHAT, slot_offset(self.slot), "the sequence numbers are used up")
            })?;
            self.slot = 1 - self.slot.min(1);
            file.put(&self.header.encode(), slot_offset(self.slot), WHAT)?;
            file.flush()?;
        }
        self.valid = [true; 2];
        Ok(())
    }
}

/// The byte offset of slot 0 or 1.
pub(crate) fn slot_offset(slot: usize) -> u64 {
    if slot == 0 { 64 * KIB } else { 128 * KIB }
}

/// Refuses files that do not start with the identifier.
pub(crate) fn check_identifier(store: &dyn Store) -> Result<()> {
    let mut found = [0; 8];
    store.fetch(&mut found, 0, "VHDX file identifier")?;
    if &found == IDENTIFIER {
        return Ok(());
    }
    Err(Error::corrupt(
        "VHDX file identifier",
        0,
        format!("found {found:02x?}, expected \"vhdxfile\""),
    ))
}

/// The creator text, as far as it can be read.
pub(crate) fn read_creator(store: &dyn Store) -> String {
    let mut raw = [0; CREATOR_BYTES];
    if store.read_exact_at(&mut raw, 8).is_err() {
        return String::new();
    }
    let units = raw.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    let text: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&text)
}

/// The identifier and the creator text, cut to what has room with a closing NUL.
pub(crate) fn encode_identifier(creator: &str) -> Vec<u8> {
    let mut bytes = IDENTIFIER.to_vec();
    let mut room = CREATOR_BYTES / 2 - 1;
    for letter in creator.chars() {
        let mut units = [0; 2];
        let units = letter.encode_utf16(&mut units);
        if units.len() > room {
            break;
        }
        room -= units.len();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    }
    bytes.resize(IDENTIFIER.len() + CREATOR_BYTES, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::MemStore;

    fn header(sequence: u64) -> Header {
        Header {
            sequence,
            file_write: Uuid::from_u128(1),
            data_write: Uuid::from_u128(2),
            log: Uuid::nil(),
            log_version: 0,
            version: 1,
            log_length: 1 << 20,
            log_offset: 1 << 20,
        }
    }

    fn current(first: &Header, second: &Header) -> Result<(usize, u64)> {
        let store = MemStore::new("t");
        store.set_len(8 << 20).unwrap();
        store.write_all_at(&first.encode(), SLOTS[0]).unwrap();
        store.write_all_at(&second.encode(), SLOTS[1]).unwrap();
        let slots = Slots::read(&store);
        slots.current(8 << 20).map(|current| (current.slot, current.header.sequence))
    }

    #[test]
    fn the_larger_sequence_number_wins() {
        assert_eq!(current(&header(1), &header(2)).unwrap(), (1, 2));
        assert_eq!(current(&header(9), &header(2)).unwrap(), (0, 9));
        assert_eq!(current(&header(3), &header(3)).unwrap(), (0, 3));
        let mut other = header(3);
        other.file_write = Uuid::from_u128(7);
        assert_eq!(current(&header(3), &other).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_change_reaches_both_slots() {
        let store = MemStore::new("t");
        store.set_len(8 << 20).unwrap();
        let mut current = Current { header: header(7), slot: 1, valid: [true; 2] };
        current.write(&store).unwrap();
        let slots = Slots::read(&store);
        let sequences = slots.slots.each_ref().map(|slot| slot.as_ref().unwrap().sequence);
        assert_eq!((sequences, current.slot), ([8, 9], 1));
        current.header.sequence = u64::MAX;
        assert!(current.write(&store).is_err());
    }

    #[test]
    fn log_fields_are_checked() {
        for (offset, length) in [(0, 1 << 20), (1 << 20, 4096), (1 << 20, 8 << 20), (5, 1 << 20)] {
            let mut bad = header(2);
            (bad.log_offset, bad.log_length) = (offset, length);
            assert!(current(&header(1), &bad).is_err(), "{offset} {length}");
        }
        let mut none = header(2);
        none.log_length = 0;
        assert!(current(&header(1), &none).is_ok());
        none.log = Uuid::from_u128(5);
        assert!(current(&header(1), &none).is_err());
    }

    #[test]
    fn the_creator_survives_and_never_overflows() {
        let store = MemStore::from_bytes("t", &encode_identifier("vdisk 1.0"));
        assert_eq!(read_creator(&store), "vdisk 1.0");
        let long = encode_identifier(&"𝄞".repeat(300));
        assert_eq!(long.len(), 520);
        assert_eq!(read_creator(&MemStore::from_bytes("t", &long)), "𝄞".repeat(127));
    }
}
