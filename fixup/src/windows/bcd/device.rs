//! Devices in elements of boot configuration data.
//!
//! A partition is told by 72 bytes: u32 kind 6, u32 flags, u32 length 0x48, u32 zero; the
//! partition (its GUID, or its first byte as u64 and 8 zeros); u32 kind of device 0, u32 kind of
//! table (0 GPT, 1 MBR); the disk (its GUID, or its signature as u32 and 12 zeros); 16 zeros. It
//! stands alone in an element, or inside a device of another kind, such as the RAM disk of the
//! recovery environment. All numbers are little-endian.

use std::fmt;

use uuid::Uuid;

/// Kind 6, flags 0, length 0x48.
const HEAD: [u8; 16] = [6, 0, 0, 0, 0, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0];
/// Bytes of such a device.
const LEN: usize = 0x48;

/// Which partition of which disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartitionId {
    /// On a GPT disk.
    Gpt {
        /// The disk's GUID.
        disk: Uuid,
        /// The partition's own GUID.
        partition: Uuid,
    },
    /// On an MBR disk.
    Mbr {
        /// The disk's signature.
        signature: u32,
        /// The partition's first byte on the disk.
        start: u64,
    },
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt { disk, partition } => write!(f, "partition {partition} of disk {disk}"),
            Self::Mbr { signature, start } => {
                write!(f, "partition at byte {start} of disk {signature:#010x}")
            }
        }
    }
}

impl PartitionId {
    /// All partitions that an element's bytes name, with the place of each.
    #[must_use]
    pub fn find(element: &[u8]) -> Vec<(usize, Self)> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(block) = element.get(at..).and_then(|rest| rest.get(..LEN)) {
            match Self::parse(block) {
                Some(id) => {
                    found.push((at, id));
                    at += LEN;
                }
                None => at += 1,
            }
        }
        found
    }

    /// The element with other partitions where `other` gives one; none where it gives none, and
    /// where the bytes could be read in two ways.
    pub fn replace(element: &[u8], other: impl Fn(Self) -> Option<Self>) -> Option<Vec<u8>> {
        let found = Self::find(element);
        let wanted: Vec<(usize, Self)> =
            found.iter().map(|(at, id)| (*at, other(*id).unwrap_or(*id))).collect();
        if wanted == found {
            return None;
        }
        let mut bytes = element.to_vec();
        let changed = wanted.iter().zip(&found).filter(|(new, old)| new != old);
        for ((at, id), _) in changed {
            bytes.get_mut(*at..*at + LEN)?.copy_from_slice(&id.block());
        }
        (Self::find(&bytes) == wanted).then_some(bytes)
    }

    fn parse(block: &[u8]) -> Option<Self> {
        let rest = block.strip_prefix(&HEAD)?;
        let (partition, rest) = rest.split_first_chunk::<16>()?;
        let (device, rest) = rest.split_first_chunk::<4>()?;
        let (table, rest) = rest.split_first_chunk::<4>()?;
        let (disk, _) = rest.split_first_chunk::<16>()?;
        if u32::from_le_bytes(*device) != 0 {
            return None;
        }
        match u32::from_le_bytes(*table) {
            0 => Some(Self::Gpt {
                disk: Uuid::from_bytes_le(*disk),
                partition: Uuid::from_bytes_le(*partition),
            }),
            1 => Some(Self::Mbr {
                signature: disk.first_chunk().copied().map(u32::from_le_bytes)?,
                start: partition.first_chunk().copied().map(u64::from_le_bytes)?,
            }),
            _ => None,
        }
    }

    fn block(self) -> [u8; LEN] {
        let mut block = [0; LEN];
        let mut bytes = HEAD.to_vec();
        match self {
            Self::Gpt { disk, partition } => {
                bytes.extend(partition.to_bytes_le());
                bytes.extend([0; 8]);
                bytes.extend(disk.to_bytes_le());
            }
            Self::Mbr { signature, start } => {
                bytes.extend(start.to_le_bytes());
                bytes.extend([0; 12]);
                bytes.extend(1_u32.to_le_bytes());
                bytes.extend(signature.to_le_bytes());
            }
        }
        for (place, byte) in block.iter_mut().zip(bytes) {
            *place = byte;
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    /// An element of a real BCD, of Windows 10 on a GPT disk.
    fn seen() -> Vec<u8> {
        [
            vec![0; 16],
            bytes("06000000000000004800000000000000"),
            bytes("382c0f8eeae4ba47b7fc9d8c74dccf0b0000000000000000"),
            bytes("a994230b5e097d488d48719ecd4d78ca"),
            vec![0; 16],
        ]
        .concat()
    }

    #[test]
    fn a_partition_is_found_and_replaced() {
        let element = seen();
        let [(16, gpt)] = PartitionId::find(&element)[..] else { panic!() };
        assert_eq!(
            gpt.to_string(),
            "partition 8e0f2c38-e4ea-47ba-b7fc-9d8c74dccf0b of disk \
             0b2394a9-095e-487d-8d48-719ecd4d78ca"
        );
        assert_eq!(PartitionId::replace(&element, |_| None), None);
        assert_eq!(PartitionId::replace(&element, Some), None);
        let mbr = PartitionId::Mbr { signature: 0xb3eb_a8f1, start: 0x15f0_0000 };
        let changed = PartitionId::replace(&element, |_| Some(mbr)).unwrap();
        assert_eq!(changed.len(), element.len());
        assert_eq!(PartitionId::find(&changed), [(16, mbr)]);
        // The published form of an MBR disk's.
        let rest = bytes("0000f0150000000000000000000000000000000001000000f1a8ebb3");
        assert_eq!(changed[32..60], rest);
        assert_eq!(PartitionId::replace(&changed, |_| Some(gpt)).unwrap(), element);
    }

    #[test]
    fn one_inside_another_is_found() {
        let outer = [vec![7; 0x44], seen()[16..].to_vec(), b"\\\0x\0".to_vec()].concat();
        assert_eq!(PartitionId::find(&outer).len(), 1);
        assert_eq!(PartitionId::find(&outer)[0].0, 0x44);
        assert_eq!(PartitionId::find(&seen()[..80]), []);
        // One that is none until the one inside it is replaced.
        let element = [HEAD.to_vec(), vec![0; 6], seen()[16..].to_vec(), vec![0; 16]].concat();
        assert_eq!(PartitionId::find(&element)[0].0, 22);
        let other = PartitionId::Mbr { signature: 7, start: 1 << 20 };
        assert_eq!(PartitionId::replace(&element, |_| Some(other)), None);
    }
}
