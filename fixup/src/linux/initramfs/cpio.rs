//! cpio archives of the "newc" kind: what a kernel unpacks.
//!
//! A member is a header of 110 ASCII bytes, a name with a zero behind it, and data; name and data
//! are padded to four bytes, counted from the archive's start (cpio(5)).

use std::io::Read;

use vdisk_core::{Error, ErrorKind, Result};

pub(crate) const TYPE: u32 = 0o170_000;
pub(crate) const DIRECTORY: u32 = 0o040_000;
pub(crate) const FILE: u32 = 0o100_000;
pub(crate) const LINK: u32 = 0o120_000;

const HEADER: usize = 110;
const END: &[u8] = b"TRAILER!!!";
/// The longest path of Linux.
const MOST_NAME: u64 = 4096;

/// What the header of a member says.
#[derive(Debug)]
pub(crate) struct Member {
    /// The path, without a first `/` as a rule.
    pub(crate) name: Vec<u8>,
    /// Kind and permissions, as `st_mode`.
    pub(crate) mode: u32,
    /// Bytes of data.
    pub(crate) size: u64,
}

/// What is told of each member, with its data, which need not be read.
pub(super) type Visit<'v> = dyn FnMut(&Member, &mut dyn Read) -> Result<()> + 'v;

/// Reads one archive up to its end.
///
/// # Errors
/// [`ErrorKind::Corrupt`]; the visitor's.
pub(super) fn archive(reader: &mut dyn Read, visit: &mut Visit<'_>) -> Result<()> {
    loop {
        let Some(member) = header(reader)? else { return Ok(()) };
        let mut data = reader.take(member.size);
        visit(&member, &mut data)?;
        std::io::copy(&mut data, &mut std::io::sink()).map_err(unreadable)?;
        if data.limit() > 0 {
            return Err(damaged("it ends inside a member"));
        }
        skip(reader, padding(member.size))?;
    }
}

/// The next header and name; none for the one that ends the archive.
fn header(reader: &mut dyn Read) -> Result<Option<Member>> {
    let mut bytes = [0; HEADER];
    reader.read_exact(&mut bytes).map_err(unreadable)?;
    if !bytes.starts_with(b"070701") && !bytes.starts_with(b"070702") {
        return Err(damaged("no header where one should be"));
    }
    let field = |index: usize| -> Result<u32> {
        let start = 6 + index * 8;
        let digits = bytes.get(start..start + 8).unwrap_or_default();
        let text = std::str::from_utf8(digits).unwrap_or_default();
        u32::from_str_radix(text, 16).map_err(|_| damaged("a header with a bad number"))
    };
    let (mode, size, name_size) = (field(1)?, field(6)?, u64::from(field(11)?));
    if name_size == 0 || name_size > MOST_NAME {
        return Err(damaged("a name of an impossible length"));
    }
    let mut name = Vec::new();
    reader.take(name_size).read_to_end(&mut name).map_err(unreadable)?;
    if name.len() as u64 != name_size || name.pop() != Some(0) {
        return Err(damaged("a name without an end"));
    }
    skip(reader, padding(HEADER as u64 + name_size))?;
    Ok((name != END).then_some(Member { name, mode, size: size.into() }))
}

/// All bytes of a member's data, whose size was looked at.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub(super) fn content(data: &mut dyn Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn skip(reader: &mut dyn Read, len: u64) -> Result<()> {
    std::io::copy(&mut reader.take(len), &mut std::io::sink()).map(drop).map_err(unreadable)
}

fn padding(len: u64) -> u64 {
    len.wrapping_neg() % 4
}

pub(super) fn unreadable(why: std::io::Error) -> Error {
    damaged(&why.to_string())
}

pub(super) fn damaged(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the initramfs is damaged: {why}"))
}

/// An archive that is being made.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    members: u32,
}

impl Writer {
    /// A directory that everybody may enter.
    pub(crate) fn directory(&mut self, path: &str) {
        self.member(path, DIRECTORY | 0o755, b"");
    }

    /// A file with these permissions.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, data: &[u8]) {
        self.member(path, FILE | permissions, data);
    }

    /// A link.
    #[cfg(test)]
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.member(path, LINK | 0o777, target.as_bytes());
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, b"");
        self.bytes
    }

    fn member(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.members += 1;
        let links = if mode & TYPE == DIRECTORY { 2 } else { 1 };
        let fields = [
            self.members as usize,
            mode as usize,
            0, // owner
            0, // group
            links,
            0, // time
            data.len(),
            0, // device it is on
            0,
            0, // device it is
            0,
            path.len() + 1,
            0, // check sum, which this kind has not
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
