//! Names: units of UTF-16 on the volume, bytes in our interface.
//!
//! The bytes are UTF-8. NTFS allows surrogates without their partner, which UTF-8 does not have;
//! they stand in three bytes as its scheme has it for their number (WTF-8), as ntfs-3g shows them.

/// The bytes of a name.
#[must_use]
pub fn from_units(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(one) => bytes.extend(one.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let [high, low] = lone.unpaired_surrogate().to_be_bytes();
                bytes.extend([0xED, 0x80 | high << 2 & 0x3C | low >> 6, 0x80 | low & 0x3F]);
            }
        }
    }
    bytes
}

/// The units of a name; `None` where it is none that [`from_units`] gives.
#[must_use]
pub fn to_units(name: &[u8]) -> Option<Vec<u16>> {
    let (mut units, mut rest) = (Vec::new(), name);
    while let [first, ..] = rest {
        if let [0xED, high @ 0xA0..=0xBF, low @ 0x80..=0xBF, later @ ..] = rest {
            units.push(0xD000 | u16::from(high & 0x3F) << 6 | u16::from(low & 0x3F));
            rest = later;
            continue;
        }
        let len = match first {
            0..0x80 => 1,
            0x80..0xE0 => 2,
            0xE0..0xF0 => 3,
            0xF0.. => 4,
        };
        let (one, later) = rest.split_at_checked(len)?;
        units.extend(std::str::from_utf8(one).ok()?.encode_utf16());
        rest = later;
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_comes_back() {
        for unit in 0..=u16::MAX {
            let name = [0x61, unit, 0x62];
            assert_eq!(to_units(&from_units(&name)).as_deref(), Some(&name[..]), "{unit:x}");
        }
        let name: Vec<u16> = "Größe 𝄞.txt".encode_utf16().collect();
        assert_eq!(from_units(&name), "Größe 𝄞.txt".as_bytes());
        assert_eq!(to_units("Größe 𝄞.txt".as_bytes()), Some(name));
    }

    #[test]
    fn other_bytes_are_no_names() {
        for name in [&b"\x80"[..], b"\xC3", b"a\xFF", b"\xED\xA0", b"\xF0\x9D\x84", b"\xC0\x80"] {
            assert_eq!(to_units(name), None, "{name:x?}");
        }
    }
}
