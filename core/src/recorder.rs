//! A store that keeps what is written to it, in order, instead of doing it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::store::{Run, Store, StoreExt};

/// A change of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These bytes were written at byte `at`.
    Write {
        /// Byte offset.
        at: u64,
        /// What was written.
        bytes: Arc<[u8]>,
    },
    /// A range was made to read as zeros, its space given back where the host can.
    Zero(Range<u64>),
    /// The store was made this many bytes long.
    SetLen(u64),
    /// Everything before is durable before anything after begins.
    Sync,
}

impl Change {
    /// Makes this change in `store`.
    ///
    /// # Errors
    /// The host's.
    pub fn apply(&self, store: &dyn Store) -> Result<()> {
        const WHAT: &str = "repair";
        match self {
            Self::Write { at, bytes } => store.put(bytes, *at, WHAT),
            Self::Zero(range) => store.clear(range.start, range.end - range.start, WHAT),
            Self::SetLen(len) => store.resize(*len),
            Self::Sync => store.flush(),
        }
    }
}

/// A store over another one that is only read: code that changes files can be run on it to learn
/// what it would change, and the result be looked at before a byte of the file moves.
///
/// Memory is what was written; zeroed ranges take none.
#[derive(Debug)]
pub struct Recorder {
    base: Arc<dyn Store>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    changes: Vec<Change>,
    len: u64,
    /// Disjoint pieces that cover the base, by first byte.
    pieces: BTreeMap<u64, Piece>,
}

#[derive(Clone, Debug)]
struct Piece {
    end: u64,
    /// What was written, and which of its bytes is the piece's first; `None`: zeros.
    bytes: Option<(Arc<[u8]>, usize)>,
}

impl Recorder {
    /// Over `base`, with nothing changed.
    ///
    /// # Errors
    /// The host's.
    pub fn new(base: Arc<dyn Store>) -> Result<Self> {
        let state = State { len: base.size()?, ..State::default() };
        Ok(Self { base, state: Mutex::new(state) })
    }

    /// The store that is only read.
    #[must_use]
    pub fn base(&self) -> &Arc<dyn Store> {
        &self.base
    }

    /// What was changed, in order.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        self.lock().changes.clone()
    }

    /// Whether a byte of `range` was written or zeroed.
    #[must_use]
    pub fn touches(&self, range: &Range<u64>) -> bool {
        let state = self.lock();
        let before = state.pieces.range(..range.end).next_back();
        before.is_some_and(|(_, piece)| piece.end > range.start)
    }

    /// All that was written, zeroed or cut off, in order, neighbours joined.
    #[must_use]
    pub fn touched(&self) -> Vec<Range<u64>> {
        let mut touched: Vec<Range<u64>> = Vec::new();
        for (start, piece) in &self.lock().pieces {
            match touched.last_mut() {
                Some(last) if last.end == *start => last.end = piece.end,
                _ => touched.push(*start..piece.end),
            }
        }
        touched
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from the base, with zeros beyond its end.
    fn read_base(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let there = self.base.len()?.saturating_sub(offset).min(buf.len() as u64);
        let (inside, beyond) = buf.split_at_mut(usize::try_from(there).unwrap_or(buf.len()));
        beyond.fill(0);
        if inside.is_empty() { Ok(()) } else { self.base.read_exact_at(inside, offset) }
    }
}

impl State {
    /// Puts `piece` over whatever covered its range.
    fn cover(&mut self, start: u64, piece: Piece) {
        if start >= piece.end {
            return;
        }
        let first = self.pieces.range(..start).next_back().map_or(start, |(at, _)| *at);
        let over: Vec<u64> = self.pieces.range(first..piece.end).map(|(at, _)| *at).collect();
        for at in over {
            let Some(old) = self.pieces.remove(&at) else { continue };
            if at < start {
                self.pieces.insert(at, Piece { end: old.end.min(start), ..old.clone() });
            }
            if old.end > piece.end {
                let start = at.max(piece.end);
                self.pieces.insert(start, old.from(start - at));
            }
        }
        self.pieces.insert(start, piece);
    }
}

impl Piece {
    /// The part from byte `skip` on.
    fn from(&self, skip: u64) -> Self {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let bytes = self.bytes.as_ref();
        Self { end: self.end, bytes: bytes.map(|(all, at)| (all.clone(), at + skip)) }
    }
}

impl Store for Recorder {
    fn name(&self) -> &Path {
        self.base.name()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.lock();
        let end = match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= state.len => end,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        self.read_base(buf, offset)?;
        let first = state.pieces.range(..=offset).next_back().map_or(offset, |(at, _)| *at);
        for (start, piece) in state.pieces.range(first..end) {
            let (from, to) = (offset.max(*start), end.min(piece.end));
            let at = |base: u64, place: u64| usize::try_from(place - base).unwrap_or(usize::MAX);
            if from >= to {
                continue;
            }
            let Some(target) = buf.get_mut(at(offset, from)..at(offset, to)) else { continue };
            match &piece.bytes {
                None => target.fill(0),
                Some((all, skip)) => {
                    let skip = skip + at(*start, from);
                    if let Some(source) = all.get(skip..skip + target.len()) {
                        target.copy_from_slice(source);
                    }
                }
            }
        }
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= i64::MAX as u64);
        let end = end.ok_or(io::ErrorKind::FileTooLarge)?;
        let bytes: Arc<[u8]> = buf.into();
        let mut state = self.lock();
        state.changes.push(Change::Write { at: offset, bytes: bytes.clone() });
        state.cover(offset, Piece { end, bytes: Some((bytes, 0)) });
        state.len = state.len.max(end);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        if len == state.len {
            return Ok(());
        }
        state.changes.push(Change::SetLen(len));
        // What is cut off does not come back when the store grows again.
        let end = state.len;
        state.cover(len, Piece { end, bytes: None });
        state.len = len;
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        let end = offset.checked_add(len).filter(|end| *end <= state.len);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        state.changes.push(Change::Zero(offset..end));
        state.cover(offset, Piece { end, bytes: None });
        Ok(())
    }

    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        let state = self.lock();
        let before = state.pieces.range(..=offset).next_back();
        if let Some((_, piece)) = before.filter(|(_, piece)| piece.end > offset) {
            return Ok(Run { len: piece.end.min(end) - offset, hole: piece.bytes.is_none() });
        }
        let next = state.pieces.range(offset..).next().map_or(end, |(at, _)| (*at).min(end));
        match self.base.len()?.saturating_sub(offset) {
            0 => Ok(Run { len: next - offset, hole: true }),
            there => self.base.run_at(offset, next.min(offset.saturating_add(there))),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.changes.last().is_some_and(|last| *last != Change::Sync) {
            state.changes.push(Change::Sync);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemStore;

    /// What is recorded reads like what is done, and done later it is the same.
    #[test]
    fn recorded_and_done_are_the_same() {
        for seed in 0..200 {
            let mut rng = Lcg(seed);
            let bytes: Vec<u8> = (0..5000).map(|_| rng.below(255) as u8 + 1).collect();
            let (base, done) =
                (MemStore::from_bytes("t", &bytes), MemStore::from_bytes("t", &bytes));
            let recorder = Recorder::new(Arc::new(base)).unwrap();
            for _ in 0..rng.below(12) {
                let (at, len) = (rng.below(6000), rng.below(1500));
                match rng.below(4) {
                    0 => {
                        let end = done.len().unwrap().min(at + len);
                        let at = at.min(end);
                        assert!(
                            recorder.zero(at, end - at).is_ok() && done.zero(at, end - at).is_ok()
                        );
                    }
                    1 => assert!(recorder.set_len(at).is_ok() && done.set_len(at).is_ok()),
                    _ => {
                        let data = vec![rng.below(256) as u8; len as usize];
                        assert!(recorder.write_all_at(&data, at).is_ok());
                        assert!(done.write_all_at(&data, at).is_ok());
                    }
                }
            }
            let len = done.len().unwrap();
            assert_eq!(recorder.len().unwrap(), len);
            for _ in 0..20 {
                let at = rng.below(len + 1);
                let mut found = vec![1; rng.below(len - at + 1) as usize];
                let mut expected = found.clone();
                recorder.read_exact_at(&mut found, at).unwrap();
                done.read_exact_at(&mut expected, at).unwrap();
                assert_eq!(found, expected, "seed {seed}, {at}");
                if !found.is_empty() {
                    let run = recorder.run_at(at, at + found.len() as u64).unwrap();
                    assert!(run.len >= 1 && run.len <= found.len() as u64);
                    let zeros = found[..run.len as usize].iter().all(|byte| *byte == 0);
                    assert!(!run.hole || zeros, "seed {seed}, {at}");
                }
            }
            let later = MemStore::from_bytes("t", &bytes);
            for change in recorder.changes() {
                change.apply(&later).unwrap();
            }
            assert_eq!(later.to_bytes(), done.to_bytes(), "seed {seed}");
        }
    }

    #[test]
    fn the_base_stays_and_what_is_touched_is_known() {
        let base = Arc::new(MemStore::from_bytes("t", &[7; 4096]));
        let recorder = Recorder::new(base.clone()).unwrap();
        recorder.sync().unwrap();
        recorder.put(&[1; 10], 100, "t").unwrap();
        recorder.sync().unwrap();
        recorder.sync().unwrap();
        recorder.resize(50).unwrap();
        assert_eq!(base.to_bytes(), [7; 4096]);
        assert_eq!(recorder.changes().len(), 3, "{:?}", recorder.changes());
        assert!(recorder.touches(&(105..106)) && recorder.touches(&(50..51)));
        assert!(!recorder.touches(&(0..50)));
        assert_eq!(recorder.touched(), vec![50..4096]);
        assert!(recorder.read_exact_at(&mut [0; 10], 45).is_err());
        assert!(recorder.zero(45, 10).is_err());
    }

    struct Lcg(u64);

    impl Lcg {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % end
        }
    }
}
