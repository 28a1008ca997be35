//! Sector bitmaps: which sectors of a block are present.
//!
//! VHD 1.0, "Data Blocks". The most significant bit of a byte is its first sector. A sector that
//! is not present reads as zero in a dynamic disk, and as the parent's in a differencing one.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use vdisk_core::{Result, Store, StoreExt};

use crate::shape::{Shape, to_usize};

const WHAT: &str = "VHD sector bitmap";
/// Memory for bitmaps that were read.
const CACHE_BYTES: usize = 4 << 20;
/// Bitmaps kept at most, however small.
const CACHE_ENTRIES: usize = 4096;
/// Blocks whose bitmaps the host is asked for at once. They stand a block apart, so nothing else
/// reads them ahead: 8 GiB whose data the file system shares, not in memory, took 7 s one by one.
const AHEAD: u32 = 64;

/// The bitmap of one block.
#[derive(Clone, Debug)]
pub(crate) enum Bits {
    /// Every sector is present.
    Full,
    /// As the bytes say.
    Map(Arc<[u8]>),
}

impl Bits {
    /// Whether sector `from` is present, and up to which sector that goes on, at most to `to`.
    pub(crate) fn run(&self, from: usize, to: usize) -> (bool, usize) {
        match self {
            Self::Full => (true, to),
            Self::Map(bytes) => run(bytes, from, to),
        }
    }
}

/// See [`Bits::run`].
fn run(bytes: &[u8], from: usize, to: usize) -> (bool, usize) {
    let bit = |sector: usize| {
        bytes.get(sector / 8).is_some_and(|byte| byte & (0x80 >> (sector % 8)) != 0)
    };
    let present = bit(from);
    let whole = if present { 0xFF } else { 0x00 };
    let mut at = from + 1;
    while at < to {
        if at.is_multiple_of(8) && bytes.get(at / 8) == Some(&whole) {
            at += 8;
        } else if bit(at) == present {
            at += 1;
        } else {
            break;
        }
    }
    (present, at.min(to))
}

/// The bitmaps of an image: a bounded cache of those read, and all that wait to be written.
#[derive(Debug)]
pub(crate) struct Bitmaps {
    store: Arc<dyn Store>,
    shape: Shape,
    cache: Mutex<LruCache<u32, Bits>>,
    /// The blocks whose bitmaps the host was asked for last.
    asked: Mutex<Range<u32>>,
    /// By block: where in the file, and the bytes.
    dirty: BTreeMap<u32, (u64, Arc<[u8]>)>,
}

impl Bitmaps {
    /// The bitmaps of blocks of `shape` in `store`.
    pub(crate) fn new(store: Arc<dyn Store>, shape: Shape) -> Self {
        let entries = (CACHE_BYTES / to_usize(shape.bitmap).max(1)).clamp(16, CACHE_ENTRIES);
        let entries = NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        let cache = Mutex::new(LruCache::new(entries));
        Self { store, shape, cache, asked: Mutex::default(), dirty: BTreeMap::new() }
    }

    /// The bitmap of `block`, which stands at byte `at`.
    pub(crate) fn get(&self, block: u32, at: u64) -> Result<Bits> {
        if let Some((_, bytes)) = self.dirty.get(&block) {
            return Ok(Bits::Map(bytes.clone()));
        }
        if let Some(bits) = self.lock().get(&block) {
            return Ok(bits.clone());
        }
        let bits = self.read(at)?;
        self.lock().put(block, bits.clone());
        Ok(bits)
    }

    /// The blocks whose bitmaps the host should be asked for, as that of `block` is about to be read:
    /// none where somebody reads here and there.
    pub(crate) fn wanted(&self, block: u32) -> Range<u32> {
        let cache = self.lock();
        let before = block.checked_sub(1);
        if cache.contains(&block) || !before.is_some_and(|before| cache.contains(&before)) {
            return 0..0;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = asked.contains(&block);
        if known && asked.end - block > AHEAD / 2 {
            return 0..0;
        }
        let first = if known { asked.end } else { block };
        *asked = block..block.saturating_add(AHEAD);
        first..asked.end
    }

    /// The bitmap at byte `at`, not cached: for walks through all of them.
    pub(crate) fn read(&self, at: u64) -> Result<Bits> {
        let mut bytes = vec![0; to_usize(self.shape.bitmap)];
        self.store.fetch(&mut bytes, at, WHAT)?;
        let full = run(&bytes, 0, self.shape.sectors()) == (true, self.shape.sectors());
        Ok(if full { Bits::Full } else { Bits::Map(bytes.into()) })
    }

    /// Sets whole bitmap bytes of `block`; they wait to be written.
    pub(crate) fn set_bytes(&mut self, block: u32, at: u64, range: Range<usize>) -> Result<()> {
        let Bits::Map(mut bytes) = self.get(block, at)? else { return Ok(()) };
        let present = bytes.get(range.clone()).is_some_and(|part| part.iter().all(|b| *b == 0xFF));
        if present {
            return Ok(());
        }
        // The cache must not keep the old bits, nor make the change below copy them.
        self.lock().pop(&block);
        self.dirty.remove(&block);
        if let Some(part) = Arc::make_mut(&mut bytes).get_mut(range) {
            part.fill(0xFF);
        }
        self.dirty.insert(block, (at, bytes));
        Ok(())
    }

    /// Bytes of memory that wait to be written.
    pub(crate) fn waiting(&self) -> u64 {
        self.dirty.len() as u64 * self.shape.bitmap
    }

    /// Writes what waits.
    pub(crate) fn write(&mut self) -> Result<()> {
        while let Some(entry) = self.dirty.first_entry() {
            let (at, bytes) = entry.get();
            self.store.put(bytes, *at, WHAT)?;
            entry.remove();
        }
        Ok(())
    }

    /// Forgets what was read, after blocks were given up.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u32, Bits>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::MemStore;

    #[test]
    fn who_reads_forwards_is_read_ahead_for_once() {
        let shape = Shape::new(1 << 21).unwrap();
        let bitmaps = Bitmaps::new(Arc::new(MemStore::from_bytes("b", &[0xFF; 512])), shape);
        let read = |block| {
            let wanted = bitmaps.wanted(block);
            bitmaps.get(block, 0).unwrap();
            wanted
        };
        for block in [900, 7, 300, 100, 0] {
            assert!(read(block).is_empty(), "block {block}");
        }
        let mut next = 1;
        for block in 1..90 {
            let wanted = read(block);
            assert!(wanted.is_empty() || wanted.start == next, "block {block}: {wanted:?}");
            next = next.max(wanted.end);
            assert!(next > block, "block {block} was not asked for");
        }
        assert!((1..90).all(|block| read(block).is_empty()), "they are in memory");
    }

    #[test]
    fn runs_agree_with_single_bits() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let bytes: Vec<u8> =
                (0..16).map(|_| *rng.choice(&[0, 0xFF, 0x0F, 0x81]).unwrap()).collect();
            let bit = |n: usize| bytes[n / 8] & (0x80 >> (n % 8)) != 0;
            let (from, to) = (rng.usize(0..100), rng.usize(101..=128));
            let end = (from..to).find(|n| bit(*n) != bit(from)).unwrap_or(to);
            assert_eq!(run(&bytes, from, to), (bit(from), end), "{from}..{to} {bytes:02x?}");
        }
    }
}
