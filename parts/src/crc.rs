//! CRC-32 as GPT (ISO 3309) and as LVM2 sum it.

use crc::{Algorithm, CRC_32_ISO_HDLC, Crc};

/// LVM2's `INITIAL_CRC`, over the same polynomial, without inverting the result.
const LVM: Algorithm<u32> =
    Algorithm { init: 0xf597_a6cf_u32.reverse_bits(), xorout: 0, ..CRC_32_ISO_HDLC };

/// The sum that GPT uses.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    const GPT: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    GPT.checksum(bytes)
}

/// The sum that LVM2 uses, over several pieces in order.
pub(crate) fn lvm_crc(pieces: &[&[u8]]) -> u32 {
    const CRC: Crc<u32> = Crc::<u32>::new(&LVM);
    let mut digest = CRC.digest();
    pieces.iter().for_each(|piece| digest.update(piece));
    digest.finalize()
}
