//! Extent descriptions ("The Extents"): `ACCESS SECTORS TYPE ["FILE" [OFFSET …]]`.

/// Whether the guest may use an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtentAccess {
    /// `RW`.
    ReadWrite,
    /// `RDONLY`.
    ReadOnly,
    /// `NOACCESS`: reads as zeros here.
    None,
}

/// What an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtentType {
    /// `FLAT`, `VMFS`: the guest's bytes.
    Flat,
    /// `SPARSE`, `VMFSSPARSE`: hosted or COWD, which the file's first bytes tell apart.
    Sparse,
    /// `SESPARSE`.
    SeSparse,
    /// `ZERO`.
    Zero,
    /// `VMFSRDM`, `VMFSRAW`: a mapped device.
    Device,
}

/// One extent line.
#[derive(Clone, Debug)]
pub(crate) struct ExtentLine {
    /// The line's number in the descriptor, from 0.
    pub(crate) line: usize,
    /// Who may do what.
    pub(crate) access: ExtentAccess,
    /// Guest sectors, at least 1.
    pub(crate) sectors: u64,
    /// What it is.
    pub(crate) kind: ExtentType,
    /// The file, for all but `ZERO`.
    pub(crate) file: Option<String>,
    /// Sector in the file where a flat extent starts.
    pub(crate) offset: u64,
}

impl ExtentLine {
    /// Parses a line; `None` where it is none of an extent, what is wrong where it is a bad one.
    pub(crate) fn parse(text: &str, line: usize) -> Option<Result<Self, String>> {
        let (access, rest) = word(text)?;
        let access = match access.to_ascii_uppercase().as_str() {
            "RW" => ExtentAccess::ReadWrite,
            "RDONLY" => ExtentAccess::ReadOnly,
            "NOACCESS" => ExtentAccess::None,
            _ => return None,
        };
        Some(Self::parse_rest(access, rest, line))
    }

    fn parse_rest(access: ExtentAccess, rest: &str, line: usize) -> Result<Self, String> {
        let (sectors, rest) = word(rest).ok_or("an extent without a size")?;
        let sectors = match sectors.parse::<u64>() {
            Ok(count @ 1..) => count,
            _ => return Err(format!("an extent of {sectors:?} sectors")),
        };
        let (kind, rest) = word(rest).ok_or("an extent without a type")?;
        let kind = match kind.to_ascii_uppercase().as_str() {
            "FLAT" | "VMFS" => ExtentType::Flat,
            "SPARSE" | "VMFSSPARSE" => ExtentType::Sparse,
            "SESPARSE" => ExtentType::SeSparse,
            "ZERO" => ExtentType::Zero,
            "VMFSRDM" | "VMFSRAW" => ExtentType::Device,
            _ => return Err(format!("unknown extent type {kind:?}")),
        };
        if kind == ExtentType::Zero {
            return Ok(Self { line, access, sectors, kind, file: None, offset: 0 });
        }
        let (file, rest) = name(rest).ok_or("an extent without a file name")?;
        let offset = match word(rest) {
            Some((number, _)) if kind == ExtentType::Flat => number
                .parse()
                .map_err(|_| format!("an extent that starts at sector {number:?} of its file"))?,
            _ => 0,
        };
        Ok(Self { line, access, sectors, kind, file: Some(file.to_owned()), offset })
    }
}

/// The next word of a line, and the rest.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(word, _)| !word.is_empty())
}

/// The next file name of a line, in quotes or without, and the rest.
fn name(text: &str) -> Option<(&str, &str)> {
    match text.trim_start().strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').filter(|(name, _)| !name.is_empty()),
        None => word(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_shape() {
        let parse = |text| ExtentLine::parse(text, 0).unwrap().unwrap();
        let line = parse(r#"RW 63 FLAT "a name-pt.vmdk" 7 partitionUUID x"#);
        assert_eq!((line.sectors, line.offset), (63, 7));
        assert_eq!(line.file.as_deref(), Some("a name-pt.vmdk"));
        let line = parse(r#"RDONLY 10 flat "\\.\PhysicalDrive0" 63"#);
        assert_eq!(line.access, ExtentAccess::ReadOnly);
        assert_eq!(line.file.as_deref(), Some(r"\\.\PhysicalDrive0"));
        assert_eq!(parse("NOACCESS 5 ZERO").kind, ExtentType::Zero);
        assert_eq!(parse("RW 5 SESPARSE \"a\"").kind, ExtentType::SeSparse);
        assert!(ExtentLine::parse("CID=1", 0).is_none());
        for bad in
            ["RW", "RW x FLAT \"a\" 0", "RW 5", "RW 5 FLAT", "RW 5 FLAT \"", "RW 5 FLAT \"a\" -1"]
        {
            assert!(ExtentLine::parse(bad, 0).unwrap().is_err(), "{bad}");
        }
    }
}
