//! Putting checksums right after changes, wherever a structure that has one still stands.

use vdisk_core::{MemStore, Store};

fn read(store: &MemStore, at: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    store.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn one_complement(store: &MemStore, at: u64, len: usize, cookie: &[u8], field: usize) {
    let Some(mut bytes) = read(store, at, len).filter(|found| found.starts_with(cookie)) else {
        return;
    };
    bytes[field..field + 4].fill(0);
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    store.write_all_at(&(!sum).to_be_bytes(), at + field as u64).expect("memory");
}

/// The footers and the dynamic header of a VHD.
pub fn vhd(store: &MemStore) {
    let len = store.len().expect("memory");
    let footers = [Some(0), len.checked_sub(512)];
    for at in footers.into_iter().flatten() {
        one_complement(store, at, 512, b"conectix", 64);
        if let Some(place) = read(store, at, 24) {
            let header = u64::from_be_bytes(place[16..24].try_into().expect("eight"));
            one_complement(store, header, 1024, b"cxsparse", 36);
        }
    }
}

fn crc(store: &MemStore, at: u64, len: usize, signature: &[u8]) {
    let Some(mut bytes) = read(store, at, len).filter(|found| found.starts_with(signature)) else {
        return;
    };
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(&bytes);
    store.write_all_at(&sum.to_le_bytes(), at + 4).expect("memory");
}

/// The headers, region tables and log entries of a VHDX.
pub fn vhdx(store: &MemStore) {
    const KIB: u64 = 1 << 10;
    for at in [192 * KIB, 256 * KIB] {
        crc(store, at, 64 << 10, b"regi");
    }
    for at in [64 * KIB, 128 * KIB] {
        crc(store, at, 4096, b"head");
        let Some(header) = read(store, at, 80) else { continue };
        let len = u32::from_le_bytes(header[68..72].try_into().expect("four"));
        let log = u64::from_le_bytes(header[72..80].try_into().expect("eight"));
        for sector in 0..u64::from(len / 4096).min(64) {
            let Some(at) = log.checked_add(sector * 4096) else { continue };
            let Some(start) = read(store, at, 12) else { continue };
            let length = u32::from_le_bytes(start[8..12].try_into().expect("four")) as usize;
            if (64..=256 << 10).contains(&length) {
                crc(store, at, length, b"loge");
            }
        }
    }
}
