//! The descriptor ("The Descriptor File"): the text that says what a disk consists of. Parsed
//! tolerantly, kept line by line so that a change touches nothing else.

use std::ops::Range;

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use vdisk_core::{Error, ParentHint, PathStyle, Result};

use crate::extent_line::ExtentLine;
use crate::unit::sectors;

/// Largest descriptor read, bytes.
pub(crate) const MOST_BYTES: u64 = 1 << 20;
/// Most extents of a disk.
pub(crate) const MOST_EXTENTS: usize = 4096;
/// `parentCID` of a disk without parent, and of nothing else.
pub(crate) const NO_PARENT: u32 = 0xFFFF_FFFF;
/// A CID that says "unset"; never generated.
pub(crate) const UNSET_CID: u32 = 0xFFFF_FFFE;

const STRUCTURE: &str = "VMDK descriptor";

/// A parsed descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    lines: Vec<Line>,
    encoding: &'static Encoding,
    /// The content id.
    pub(crate) cid: u32,
    /// The parent's content id; [`NO_PARENT`] where there is none.
    pub(crate) parent_cid: u32,
    /// `createType`, as written.
    pub(crate) create_type: String,
    /// The extents in guest order.
    pub(crate) extents: Vec<ExtentLine>,
}

/// A line as it stands in the file, with its line end.
#[derive(Clone, Debug)]
struct Line {
    bytes: Vec<u8>,
    /// Byte offset in the descriptor.
    at: u64,
}

impl Line {
    /// The bytes that end it.
    fn line_end(&self) -> &[u8] {
        let ends = [&b"\r\n"[..], b"\n"].into_iter().find(|end| self.bytes.ends_with(end));
        ends.unwrap_or_default()
    }
}

/// Bytes to be put into the descriptor in place.
pub(crate) type Patch = (u64, Vec<u8>);

impl Descriptor {
    /// Parses the text; what follows the first NUL is padding. Errors carry the byte offset in
    /// the descriptor.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where a needed key is missing or wrong,
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for another version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut at = 0;
        let lines: Vec<Line> = text
            .split_inclusive(|byte| *byte == b'\n')
            .map(|bytes| {
                let line = Line { bytes: bytes.to_vec(), at };
                at += bytes.len() as u64;
                line
            })
            .collect();
        let mut descriptor = Self {
            encoding: UTF_8,
            lines,
            cid: NO_PARENT,
            parent_cid: NO_PARENT,
            create_type: String::new(),
            extents: Vec::new(),
        };
        descriptor.encoding = descriptor.find_encoding(text);
        descriptor.read_header()?;
        descriptor.read_extents()?;
        Ok(descriptor)
    }

    /// The value of the first line `key=value`, whatever its case and quotes.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.find(key).map(|(_, value)| value)
    }

    /// A number of the disk data base.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// How often `key` is given.
    pub(crate) fn count(&self, key: &str) -> usize {
        self.lines
            .iter()
            .filter(|line| {
                self.pair(line).is_some_and(|(found, _)| found.eq_ignore_ascii_case(key))
            })
            .count()
    }

    /// Bytes of the text.
    pub(crate) fn len(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes.len() as u64).sum()
    }

    /// The text as it is to be written.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.bytes.iter().copied()).collect()
    }

    /// Where the parent may be.
    pub(crate) fn parent_hints(&self) -> Vec<ParentHint> {
        let hint = |path: String| ParentHint {
            kind: "parentFileNameHint",
            style: path_style(&path),
            path,
        };
        self.get("parentFileNameHint")
            .filter(|path| !path.is_empty())
            .map(hint)
            .into_iter()
            .collect()
    }

    /// `cid` as the content id can be: an old one of fewer digits keeps their number, so that
    /// nothing moves.
    pub(crate) fn fitting_cid(&self, cid: u32) -> u32 {
        let width = self.get("CID").map_or(8, |old| old.len());
        u32::from_str_radix(&cid_of_width(cid, width), 16).unwrap_or(cid)
    }

    /// Gives the content a new id and withdraws the change tracking file, which no longer tells
    /// the truth. The text keeps its length, so that nothing else moves: what changed is returned
    /// to be put in place.
    pub(crate) fn stamp(&mut self, cid: u32) -> Vec<Patch> {
        let mut patches = Vec::new();
        if let Some((index, old)) = self.find("CID") {
            let new = cid_of_width(cid, old.len());
            self.cid = u32::from_str_radix(&new, 16).unwrap_or(cid);
            patches.extend(self.replace(index, b"=", &old, &new));
        }
        let eight = format!("{:08x}", self.cid);
        if let Some((index, old)) = self.find("ddb.longContentID")
            && let Some(head) = old.get(..24)
            && old.len() == 32
        {
            patches.extend(self.replace(index, b"=", &old, &format!("{head}{eight}")));
        }
        if let Some((index, _)) = self.find("changeTrackPath")
            && let Some(line) = self.lines.get_mut(index)
        {
            let kept = line.bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
            for (at, byte) in line.bytes.iter_mut().enumerate().take(kept.map_or(0, |n| n + 1)) {
                *byte = if at == 0 { b'#' } else { b' ' };
            }
            patches.push((line.at, line.bytes.clone()));
        }
        patches
    }

    /// Sets the size of extent `index`; the text's length may change.
    pub(crate) fn set_extent_sectors(&mut self, index: usize, count: u64) {
        let Some(extent) = self.extents.get_mut(index) else { return };
        let old = extent.sectors.to_string();
        extent.sectors = count;
        let line = extent.line;
        self.replace(line, b"", &old, &count.to_string());
        self.renumber();
    }

    /// Sets the value of `key`, where it is there; the text's length may change.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        if let Some((index, old)) = self.find(key) {
            self.replace(index, b"=", &old, value);
            self.renumber();
        }
    }

    /// Names the parent. Each key keeps its line; a missing one gets a line behind the CID's. The
    /// text's length may change.
    ///
    /// # Errors
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where the path has letters that the
    /// descriptor's encoding lacks.
    pub(crate) fn set_parent(&mut self, cid: u32, path: &str) -> Result<()> {
        let (hint, _, lost) = self.encoding.encode(path);
        if lost {
            return Err(Error::unsupported(format!(
                "{path:?} cannot be written in {}, the encoding of the descriptor",
                self.encoding.name()
            ))
            .hint("choose a path of plain letters"));
        }
        let hint = [b"parentFileNameHint=\"", &*hint, b"\""].concat();
        self.set_line("parentFileNameHint", &hint);
        self.set_line("parentCID", format!("parentCID={cid:08x}").as_bytes());
        self.parent_cid = cid;
        self.renumber();
        Ok(())
    }

    /// Makes `text` the line of `key`, with the line end that was there.
    fn set_line(&mut self, key: &str, text: &[u8]) {
        let line = |end: &[u8]| Line { bytes: [text, end].concat(), at: 0 };
        match (self.find(key), self.find("CID")) {
            (Some((index, _)), _) => {
                if let Some(old) = self.lines.get_mut(index) {
                    *old = line(old.line_end());
                }
            }
            (None, Some((index, _))) => {
                let end = self.lines.get(index).map_or(&b"\n"[..], Line::line_end).to_vec();
                self.lines.insert(index + 1, line(&end));
                for extent in &mut self.extents {
                    extent.line += usize::from(extent.line > index);
                }
            }
            (None, None) => {}
        }
    }

    /// Replaces the first `old` after the first `after` of a line by `new`; the line as it is now,
    /// and where it stands.
    fn replace(&mut self, index: usize, after: &[u8], old: &str, new: &str) -> Option<Patch> {
        let line = self.lines.get_mut(index)?;
        let start = position(&line.bytes, after)?;
        let at = start + position(line.bytes.get(start..)?, old.as_bytes())?;
        line.bytes.splice(at..at + old.len(), new.bytes());
        Some((line.at, line.bytes.clone()))
    }

    fn renumber(&mut self) {
        let mut at = 0;
        for line in &mut self.lines {
            line.at = at;
            at += line.bytes.len() as u64;
        }
    }

    fn find_encoding(&self, text: &[u8]) -> &'static Encoding {
        let named = self.get("encoding").and_then(|name| Encoding::for_label(name.as_bytes()));
        match named {
            Some(encoding) if encoding.is_ascii_compatible() => encoding,
            _ if std::str::from_utf8(text).is_ok() => UTF_8,
            _ => WINDOWS_1252,
        }
    }

    fn read_header(&mut self) -> Result<()> {
        let version = self.get("version");
        match version.as_deref() {
            Some("1" | "2" | "3") | None => {}
            Some(other) => {
                return Err(Error::unsupported(format!("version {other:?} is not 1, 2 or 3"))
                    .at(STRUCTURE, self.offset_of("version")));
            }
        }
        self.create_type =
            self.get("createType").ok_or_else(|| missing("createType", self.len()))?;
        self.cid = self.content_id("CID")?.ok_or_else(|| missing("CID", self.len()))?;
        self.parent_cid = match self.content_id("parentCID")? {
            Some(cid) => cid,
            None if self.parent_hints().is_empty() => NO_PARENT,
            None => return Err(missing("parentCID", self.len())),
        };
        Ok(())
    }

    fn content_id(&self, key: &str) -> Result<Option<u32>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match u32::from_str_radix(&text, 16) {
            Ok(cid) if text.len() <= 8 && !text.starts_with('+') => Ok(Some(cid)),
            _ => Err(Error::corrupt(
                STRUCTURE,
                self.offset_of(key),
                format!("{key} is {text:?}, expected up to 8 hexadecimal digits"),
            )),
        }
    }

    fn read_extents(&mut self) -> Result<()> {
        let mut total = 0u64;
        for index in 0..self.lines.len() {
            let Some(line) = self.lines.get(index) else { break };
            let Some(extent) = ExtentLine::parse(&self.decode(&line.bytes), index) else {
                continue;
            };
            let wrong = |message: &str| Err(Error::corrupt(STRUCTURE, line.at, message));
            let extent = match extent {
                Ok(extent) => extent,
                Err(message) => return wrong(&message),
            };
            total = match total.checked_add(extent.sectors).filter(|sum| sectors(*sum).is_some()) {
                Some(total) => total,
                None => return wrong("the extents together are larger than any disk"),
            };
            if self.extents.len() == MOST_EXTENTS {
                return wrong("there are more than 4096 extents");
            }
            self.extents.push(extent);
        }
        if self.extents.is_empty() {
            return Err(Error::corrupt(STRUCTURE, self.len(), "it names no extent"));
        }
        Ok(())
    }

    fn find(&self, key: &str) -> Option<(usize, String)> {
        self.lines.iter().enumerate().find_map(|(index, line)| {
            let (found, value) = self.pair(line)?;
            found.eq_ignore_ascii_case(key).then_some((index, value))
        })
    }

    fn pair(&self, line: &Line) -> Option<(String, String)> {
        if !line.bytes.contains(&b'=') {
            return None;
        }
        let text = self.decode(&line.bytes);
        let text = text.trim().trim_start_matches('\u{feff}');
        if text.starts_with('#') {
            return None;
        }
        let (key, value) = text.split_once('=')?;
        let value = value.trim();
        let value = match value.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"').unwrap_or(rest),
            None => value,
        };
        Some((key.trim().to_owned(), value.to_owned()))
    }

    fn decode(&self, bytes: &[u8]) -> String {
        self.encoding.decode_without_bom_handling(bytes).0.into_owned()
    }

    /// Where line `index` stands.
    pub(crate) fn line_offset(&self, index: usize) -> u64 {
        self.lines.get(index).map_or(0, |line| line.at)
    }

    fn offset_of(&self, key: &str) -> u64 {
        self.find(key).map_or(0, |(index, _)| self.line_offset(index))
    }
}

/// Where `part` first stands in `bytes`.
fn position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() { Some(0) } else { bytes.windows(part.len()).position(|w| w == part) }
}

fn missing(key: &str, at: u64) -> Error {
    Error::corrupt(STRUCTURE, at, format!("it has no {key}"))
}

/// `cid` in as many digits as the place for it has, so that the text need not move.
fn cid_of_width(cid: u32, width: usize) -> String {
    let mut digits = format!("{cid:08x}");
    let width = width.clamp(1, 8);
    let tail = digits.split_off(8 - width);
    // qemu writes ids without leading zeros; a shorter id must stay one.
    if width < 8 && tail.starts_with('0') {
        format!("1{}", tail.get(1..).unwrap_or_default())
    } else {
        tail
    }
}

/// How a path is written, by its look.
fn path_style(path: &str) -> PathStyle {
    let drive =
        matches!(path.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
    match path {
        _ if drive || path.starts_with(r"\\") => PathStyle::WindowsAbsolute,
        _ if path.contains('\\') => PathStyle::WindowsRelative,
        _ => PathStyle::Native,
    }
}

/// The range of the first line that is no comment and not blank: where a descriptor must say its
/// version.
pub(crate) fn first_line(text: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let trimmed = line.trim_ascii();
        if !trimmed.is_empty() && !trimmed.starts_with(b"#") {
            return Some(at..at + line.len());
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=0172e8a4\n\
        parentCID=ffffffff\nisNativeSnapshot=\"no\"\ncreateType=\"vmfs\"\n\n\
        # Extent description\nRW 4096 VMFS \"a b-flat.vmdk\"\n\n\
        # Change Tracking File\nchangeTrackPath=\"a-ctk.vmdk\"\n\n\
        # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n\
        ddb.longContentID = \"c493b057f416b9534001df440172e8a4\"\nddb.unknown.key = \"x=y\"\n";

    #[test]
    fn reads_a_real_one_in_any_case_and_line_end() {
        let odd = REAL
            .replace('\n', "\r\n")
            .replace("CID=", "cid = ")
            .replace("createType", "CREATETYPE")
            .replace("RW 4096 VMFS", "  rw\t4096  vmfs ");
        for text in [REAL, &odd] {
            let descriptor = Descriptor::parse(text.as_bytes()).unwrap();
            assert_eq!(descriptor.cid, 0x0172_e8a4);
            assert_eq!(descriptor.parent_cid, NO_PARENT);
            assert_eq!(descriptor.create_type, "vmfs");
            assert_eq!(descriptor.extents[0].file.as_deref(), Some("a b-flat.vmdk"));
            assert_eq!(descriptor.get("ddb.unknown.key").as_deref(), Some("x=y"));
            assert_eq!(descriptor.to_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn a_stamp_changes_ids_in_place_and_nothing_else() {
        let mut descriptor = Descriptor::parse(REAL.as_bytes()).unwrap();
        let patches = descriptor.stamp(0xdead_beef);
        let mut patched = REAL.as_bytes().to_vec();
        for (at, bytes) in &patches {
            patched[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(patched, descriptor.to_bytes());
        let text = String::from_utf8(patched).unwrap();
        let expected = REAL
            .replace("CID=0172e8a4", "CID=deadbeef")
            .replace("df440172e8a4", "df44deadbeef")
            .replace("changeTrackPath=\"a-ctk.vmdk\"", &format!("#{}", " ".repeat(27)));
        assert_eq!(text, expected);
        assert_eq!(descriptor.cid, 0xdead_beef);
    }

    #[test]
    fn a_short_cid_stays_short() {
        let text = REAL.replace("CID=0172e8a4", "CID=172e8a4");
        let mut descriptor = Descriptor::parse(text.as_bytes()).unwrap();
        descriptor.stamp(0x1000_0005);
        assert_eq!(descriptor.cid, 0x0100_0005);
        assert_eq!(descriptor.get("CID").as_deref(), Some("1000005"));
        assert_eq!(descriptor.len(), text.len() as u64);
    }

    #[test]
    fn resizing_rewrites_the_extent_line() {
        let mut descriptor = Descriptor::parse(REAL.as_bytes()).unwrap();
        descriptor.set_extent_sectors(0, 123_456);
        descriptor.set("ddb.adapterType", "ide");
        let again = Descriptor::parse(&descriptor.to_bytes()).unwrap();
        assert_eq!(again.extents[0].sectors, 123_456);
        assert_eq!(again.get("ddb.adapterType").as_deref(), Some("ide"));
        assert!(String::from_utf8(descriptor.to_bytes()).unwrap().contains("RW 123456 VMFS \"a b"));
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        for (from, to) in [
            ("CID=0172e8a4\n", ""),
            ("CID=0172e8a4", "CID=0172e8a4a"),
            ("CID=0172e8a4", "CID=xyz"),
            ("createType=\"vmfs\"\n", ""),
            ("RW 4096 VMFS \"a b-flat.vmdk\"", ""),
            ("RW 4096 VMFS", "RW 0 VMFS"),
            ("RW 4096 VMFS", "RW -5 VMFS"),
            ("RW 4096 VMFS", "RW 18446744073709551615 VMFS"),
            ("RW 4096 VMFS", "RW 4096 WHATEVER"),
            ("version=1", "version=4"),
        ] {
            let error = Descriptor::parse(REAL.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.offset().is_some(), "{error}");
        }
    }

    #[test]
    fn names_are_decoded_in_their_encoding() {
        let text = REAL.replace("UTF-8", "GBK").replace("a b-flat", "\u{1}");
        let bytes: Vec<u8> = text
            .bytes()
            .flat_map(|byte| if byte == 1 { b"\xc4\xe3\xba\xc3".to_vec() } else { vec![byte] })
            .collect();
        let descriptor = Descriptor::parse(&bytes).unwrap();
        assert_eq!(descriptor.extents[0].file.as_deref(), Some("你好.vmdk"));
        assert_eq!(descriptor.to_bytes(), bytes);
    }

    #[test]
    fn styles_of_paths() {
        for (path, style) in [
            (r"C:\vm\a.vmdk", PathStyle::WindowsAbsolute),
            (r"\\host\share\a.vmdk", PathStyle::WindowsAbsolute),
            (r"..\a.vmdk", PathStyle::WindowsRelative),
            ("/vmfs/volumes/x/a.vmdk", PathStyle::Native),
            ("a.vmdk", PathStyle::Native),
        ] {
            assert_eq!(path_style(path), style, "{path}");
        }
    }
}
