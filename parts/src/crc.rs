//! CRC-32 as GPT sums it (ISO 3309).

use crc::{CRC_32_ISO_HDLC, Crc};

/// The sum that GPT uses.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    const GPT: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    GPT.checksum(bytes)
}
