//! Seeded disk content with holes, short and long runs.

use std::ops::Range;

/// The bytes of a disk and where it holds data; everything else is zero.
#[derive(Debug, Clone)]
pub struct Content {
    bytes: Vec<u8>,
    data: Vec<Range<u64>>,
}

impl Content {
    /// Content of `len` bytes made from `seed`: runs of random bytes, of text, of zeros that count
    /// as data, with holes between, at odd offsets. All of it may be hole, or data.
    #[must_use]
    pub fn random(len: u64, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut content = Self { bytes: vec![0; len as usize], data: Vec::new() };
        let fullness = rng.u32(0..=4);
        let mut at = 0;
        while at < len {
            let scale = [512, 4096, 65536, 1 << 20, 4 << 20][rng.usize(0..5)];
            let mut run = rng.u64(1..=scale);
            if rng.u32(0..4) > 0 {
                run = run.next_multiple_of(512);
            }
            let run = run.min(len - at);
            if rng.u32(0..4) < fullness {
                content.fill(at..at + run, &mut rng);
            }
            at += run;
        }
        content
    }

    /// Content of `len` bytes that is all data.
    #[must_use]
    pub fn full(len: u64, seed: u64) -> Self {
        let mut content = Self { bytes: vec![0; len as usize], data: Vec::new() };
        content.fill(0..len, &mut fastrand::Rng::with_seed(seed));
        content
    }

    /// Content of `len` zero bytes, all hole.
    #[must_use]
    pub fn empty(len: u64) -> Self {
        Self { bytes: vec![0; len as usize], data: Vec::new() }
    }

    fn fill(&mut self, range: Range<u64>, rng: &mut fastrand::Rng) {
        let bytes = &mut self.bytes[range.start as usize..range.end as usize];
        match rng.u32(0..4) {
            0 => {}
            1 => bytes.iter_mut().zip(b"vdisk ".iter().cycle()).for_each(|(b, text)| *b = *text),
            _ => rng.fill(bytes),
        }
        self.data.push(range);
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where data stands, in order, not merged; the rest is hole.
    #[must_use]
    pub fn data(&self) -> &[Range<u64>] {
        &self.data
    }
}
