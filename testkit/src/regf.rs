//! Registry hives and logs made by hand, and their checksums put right after changes: written anew
//! from the specification, so that the crate under test is not its own judge.

use std::ops::Range;

const BASE: usize = 4096;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A hive of version 1.`minor` that holds nothing but its root, `ROOT`, with a security descriptor
/// of 20 bytes. One bin; the sequence is 7.
#[must_use]
pub fn empty_hive(minor: u8) -> Vec<u8> {
    let mut bytes = vec![0; BASE + 4096];
    put(&mut bytes, 0, b"regf\x07\0\0\0\x07");
    put(&mut bytes, 20, &[1, 0, 0, 0, minor]);
    put(&mut bytes, 32, &[1, 0, 0, 0, 0x20]);
    put(&mut bytes, 40, &4096_u32.to_le_bytes());
    let bin = &mut bytes[BASE..];
    put(bin, 0, b"hbin\0\0\0\0\0\x10");
    // The root, 88 bytes; its descriptor, 48; the rest is free.
    let key = 0x24;
    put(bin, 0x20, &(-88_i32).to_le_bytes());
    put(bin, key, b"nk\x2c\0");
    for none in [16, 28, 32, 40, 48] {
        put(bin, key + none, &[0xff; 4]);
    }
    put(bin, key + 44, &[0x78]);
    put(bin, key + 72, &[4]);
    put(bin, key + 76, b"ROOT");
    put(bin, 0x78, &(-48_i32).to_le_bytes());
    put(bin, 0x7c, b"sk\0\0\x78\0\0\0\x78\0\0\0\x01\0\0\0\x14\0\0\0\x01");
    put(bin, 0xa8, &(4096_u32 - 0xa8).to_le_bytes());
    seal_header(&mut bytes);
    bytes
}

/// Makes a hive dirty: its primary sequence number runs ahead by one.
pub fn make_dirty(hive: &mut [u8]) {
    let sequence = word(hive, 4).wrapping_add(1);
    put(hive, 4, &sequence.to_le_bytes());
    seal_header(hive);
}

/// Puts the checksum of a hive or log right, where it has all of a header.
pub fn seal_header(bytes: &mut [u8]) {
    if bytes.len() < 512 {
        return;
    }
    let sum = (0..508).step_by(4).fold(0, |sum, at| sum ^ word(bytes, at));
    let sum = match sum {
        0 => 1,
        u32::MAX => u32::MAX - 1,
        sum => sum,
    };
    put(bytes, 508, &sum.to_le_bytes());
}

/// A log of the old generation that turns `before` into `after`.
#[must_use]
pub fn old_log(before: &[u8], after: &[u8]) -> Vec<u8> {
    let bins = word(after, 40) as usize;
    let mut log = header(before, after, word(before, 4), 1);
    let mut bitmap = vec![0_u8; bins / 512 / 8];
    let mut pages = Vec::new();
    for page in differing(before, after, bins, 512) {
        bitmap[page.start / 512 / 8] |= 1 << (page.start / 512 % 8);
        pages.extend_from_slice(&after[BASE + page.start..BASE + page.end]);
    }
    log.extend_from_slice(b"DIRT");
    log.extend_from_slice(&bitmap);
    log.resize(log.len().next_multiple_of(512), 0);
    log.extend_from_slice(&pages);
    log
}

/// A log of the new generation whose entries, numbered from `sequence`, turn each of `states` into
/// the next.
#[must_use]
pub fn new_log(states: &[Vec<u8>], sequence: u32) -> Vec<u8> {
    let mut log = header(&states[0], &states[0], sequence, 6);
    for (number, (before, after)) in (0..).zip(states.iter().zip(&states[1..])) {
        let bins = word(after, 40);
        let pages: Vec<_> = differing(before, after, bins as usize, 4096);
        let start = log.len();
        let count = pages.len() as u32;
        log.extend_from_slice(b"HvLE");
        for field in [0, 0, sequence.wrapping_add(number), bins, count, 0, 0, 0, 0] {
            log.extend_from_slice(&field.to_le_bytes());
        }
        for page in &pages {
            log.extend_from_slice(&(page.start as u32).to_le_bytes());
            log.extend_from_slice(&(page.len() as u32).to_le_bytes());
        }
        for page in pages {
            log.extend_from_slice(&after[BASE + page.start..BASE + page.end]);
        }
        log.resize(start + (log.len() - start).next_multiple_of(512), 0);
        let size = (log.len() - start) as u32;
        put(&mut log, start + 4, &size.to_le_bytes());
    }
    seal_log(&mut log);
    log
}

fn header(before: &[u8], after: &[u8], sequence: u32, kind: u8) -> Vec<u8> {
    let mut header = before[..512].to_vec();
    put(&mut header, 4, &sequence.to_le_bytes());
    put(&mut header, 8, &sequence.to_le_bytes());
    put(&mut header, 28, &[kind]);
    put(&mut header, 40, &after[40..44]);
    seal_header(&mut header);
    header
}

/// Pages of `size` bytes of the bins that are not the same.
fn differing(before: &[u8], after: &[u8], bins: usize, size: usize) -> Vec<Range<usize>> {
    let pages = (0..bins).step_by(size).map(|at| at..at + size);
    let page = |bytes: &[u8], page: &Range<usize>| {
        bytes.get(BASE + page.start..BASE + page.end).map(<[u8]>::to_vec)
    };
    pages.filter(|range| page(before, range) != page(after, range)).collect()
}

/// Puts the checksum of a log right, and the hashes of all entries that can be found by their
/// sizes.
pub fn seal_log(log: &mut [u8]) {
    seal_header(log);
    let mut at = 512;
    while at + 40 <= log.len() && log[at..].starts_with(b"HvLE") {
        let size = word(log, at + 4) as usize;
        if size < 40 || size > log.len() - at {
            break;
        }
        let body = marvin32(&log[at + 40..at + size]);
        put(log, at + 24, &body.to_le_bytes());
        let head = marvin32(&log[at..at + 32]);
        put(log, at + 32, &head.to_le_bytes());
        at += size;
    }
}

/// Marvin32 with the registry's seed.
fn marvin32(bytes: &[u8]) -> u64 {
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(4) + 4, 0);
    let seed = 0x82EF_4D88_7A4E_55C5_u64;
    let (mut low, mut high) = (seed as u32, (seed >> 32) as u32);
    for at in (0..padded.len()).step_by(4) {
        low = low.wrapping_add(word(&padded, at));
        high ^= low;
        low = low.rotate_left(20).wrapping_add(high);
        high = high.rotate_left(9) ^ low;
        low = low.rotate_left(27).wrapping_add(high);
        high = high.rotate_left(19);
    }
    u64::from(high) << 32 | u64::from(low)
}
