//! Who made a driver, by the version resource of its file.

/// `CompanyName` of a program: the text that follows that key in its version resource (UTF-16,
/// filled up to four bytes). None where there is no such key.
pub(super) fn company(program: &[u8]) -> Option<String> {
    let key: Vec<u8> = "CompanyName\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let at = program.windows(key.len()).position(|piece| piece == key)?;
    let units = program.get(at + key.len()..)?.chunks_exact(2);
    let units = units.filter_map(|pair| pair.first_chunk().copied().map(u16::from_le_bytes));
    let text: Vec<u16> =
        units.skip_while(|unit| *unit == 0).take_while(|unit| *unit != 0).take(128).collect();
    let text = String::from_utf16(&text).ok()?;
    (!text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_company_is_read() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let program =
            [b"MZ..".to_vec(), utf16("CompanyName\0\0Intel Corporation\0Other\0")].concat();
        assert_eq!(company(&program).as_deref(), Some("Intel Corporation"));
        assert_eq!(company(&program[..30]), None);
        assert_eq!(company(b"MZ"), None);
    }
}
