//! The checksum of VHDX structures (\[MS-VHDX\] 2.2.2): CRC-32C with its own field taken as zero.

/// Byte offset of the checksum in every structure that has one.
const FIELD: usize = 4;
/// Bytes of the checksum.
const WIDTH: usize = 4;

/// A CRC-32C over a structure that arrives in pieces; the first piece holds the checksum field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crc(u32);

impl Crc {
    /// Starts with the first piece, whose bytes 4..8 count as zero.
    pub(crate) fn first(piece: &[u8]) -> Self {
        let (before, rest) = piece.split_at_checked(FIELD).unwrap_or((piece, &[]));
        let after = rest.get(WIDTH..).unwrap_or_default();
        let crc = crc32c::crc32c(before);
        let crc = crc32c::crc32c_append(crc, &[0; WIDTH]);
        Self(crc32c::crc32c_append(crc, after))
    }

    /// Goes on with the next piece.
    pub(crate) fn then(self, piece: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, piece))
    }

    /// The checksum.
    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

/// The checksum of a whole structure.
pub(crate) fn checksum(structure: &[u8]) -> u32 {
    Crc::first(structure).value()
}

/// Puts the checksum of a whole structure into it.
pub(crate) fn seal(structure: &mut [u8]) {
    let value = checksum(structure).to_le_bytes();
    if let Some(field) = structure.get_mut(FIELD..FIELD + WIDTH) {
        field.copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_counts_as_zero_and_pieces_add_up() {
        let mut structure = [7u8; 100];
        seal(&mut structure);
        let sealed = structure;
        assert_eq!(checksum(&sealed), u32::from_le_bytes(sealed[4..8].try_into().unwrap()));
        let pieces = Crc::first(&sealed[..40]).then(&sealed[40..]);
        assert_eq!(pieces.value(), checksum(&sealed));
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(checksum(&[0; 32]), 0x8A91_36AA);
    }
}
