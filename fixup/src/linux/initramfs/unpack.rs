//! One archive after the other, plain or packed, with zeros between them.

use std::io::{BufRead, BufReader, Read};

use vdisk_core::{Error, Result};

use super::cpio::{self, Visit, damaged, unreadable};

/// Bytes that are unpacked of one initramfs, at most.
const MOST_UNPACKED: u64 = 4 << 30;
/// Memory a packed archive may ask for.
const MOST_WINDOW: u32 = 128 << 20;

/// Tells `visit` of every member of all archives in `bytes`, in the kernel's order.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt);
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for a packer that is not known; the
/// visitor's.
pub(super) fn members(bytes: &[u8], visit: &mut Visit<'_>) -> Result<()> {
    let mut rest = bytes;
    let mut left = MOST_UNPACKED;
    loop {
        match next_byte(&mut rest)? {
            None => return Ok(()),
            Some(b'0') => cpio::archive(&mut rest, visit)?,
            Some(_) => {
                let unpacked = unpacker(&mut rest)?.take(left);
                let mut unpacked = BufReader::new(unpacked);
                archives(&mut unpacked, visit)?;
                left = unpacked.get_ref().limit();
                if left == 0 {
                    return Err(Error::refused("the initramfs unpacks to more than 4 GiB"));
                }
            }
        }
    }
}

/// The archives that were packed together.
fn archives(reader: &mut dyn BufRead, visit: &mut Visit<'_>) -> Result<()> {
    loop {
        match next_byte(reader)? {
            None => return Ok(()),
            Some(b'0') => cpio::archive(&mut *reader, visit)?,
            Some(_) => return Err(damaged("something else behind an archive")),
        }
    }
}

/// The next byte that is not zero; it is not taken.
fn next_byte(reader: &mut (impl BufRead + ?Sized)) -> Result<Option<u8>> {
    loop {
        let have = reader.fill_buf().map_err(unreadable)?;
        if have.is_empty() {
            return Ok(None);
        }
        let zeros = have.iter().take_while(|byte| **byte == 0).count();
        let found = have.get(zeros).copied();
        reader.consume(zeros);
        if found.is_some() {
            return Ok(found);
        }
    }
}

/// What unpacks the packed archive at the start of `rest`, and leaves there what comes behind it.
fn unpacker<'r, 'b: 'r>(rest: &'r mut &'b [u8]) -> Result<Box<dyn Read + 'r>> {
    let head = *rest;
    let memory = MOST_WINDOW / 1024;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::GzDecoder::new(rest)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(rest, false, memory))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(
            ruzstd::decoding::StreamingDecoder::new(rest)
                .map_err(|why| damaged(&why.to_string()))?,
        ),
        [0x02, 0x21, 0x4c, 0x18, ..] => Box::new(Lz4::new(rest)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::BzDecoder::new(rest)),
        // The first kind's reader takes more than its own bytes, so what follows would be lost.
        [0x5d, 0, 0, ..] => return Err(not_read("LZMA")),
        [0x89, b'L', b'Z', b'O', ..] => return Err(not_read("LZO")),
        _ => return Err(damaged("something that is no archive")),
    })
}

fn not_read(packer: &str) -> Error {
    Error::unsupported(format!("the initramfs is packed with {packer}, which is not read"))
}

const LZ4_MAGIC: u32 = 0x184c_2102;
/// Bytes of each block but the last.
const LZ4_BLOCK: usize = 8 << 20;

/// LZ4's legacy format, which the kernel reads: blocks, each with its packed size before it, and
/// no end of their own.
struct Lz4<'r, 'b> {
    rest: &'r mut &'b [u8],
    block: Vec<u8>,
    at: usize,
}

impl<'r, 'b> Lz4<'r, 'b> {
    fn new(rest: &'r mut &'b [u8]) -> Self {
        Self { rest, block: Vec::new(), at: 0 }
    }

    /// The next block; false where there is none.
    fn advance(&mut self) -> std::io::Result<bool> {
        let bad = || std::io::Error::other("a bad block of LZ4");
        loop {
            let Some((size, behind)) = self.rest.split_first_chunk::<4>() else {
                return Ok(false);
            };
            let size = u32::from_le_bytes(*size);
            if size == 0 {
                return Ok(false);
            }
            *self.rest = behind;
            if size == LZ4_MAGIC {
                continue;
            }
            let size = usize::try_from(size).map_err(|_| bad())?;
            let (packed, behind) = behind.split_at_checked(size).ok_or_else(bad)?;
            *self.rest = behind;
            self.block.resize(LZ4_BLOCK, 0);
            let len = lz4_flex::block::decompress_into(packed, &mut self.block);
            self.block.truncate(len.map_err(std::io::Error::other)?);
            self.at = 0;
            return Ok(true);
        }
    }
}

impl Read for Lz4<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.at >= self.block.len() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let have = self.block.get(self.at..).unwrap_or_default();
        let len = have.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), have.get(..len)) {
            to.copy_from_slice(from);
        }
        self.at += len;
        Ok(len)
    }
}
