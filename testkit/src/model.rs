//! Driving a layer against a plain vector of bytes.

use vdisk_core::layer::read;
use vdisk_core::{Disk, Findings, Layer, LayerKind, LayerMut, Result, Severity};

use crate::VecDisk;

/// A writable image under test.
pub struct Subject<'a> {
    /// Opens it for writing, as it stands in its store; called again after each close.
    pub open: Box<dyn FnMut() -> Result<Box<dyn LayerMut>> + 'a>,
    /// What its parents hold; as long as the disk, or shorter. Empty for a layer without parent.
    pub below: VecDisk,
    /// Whether the virtual size may be changed, in steps of this many bytes.
    pub resize_step: Option<u64>,
    /// Largest size to grow to, bytes.
    pub max_size: u64,
    /// Allocation unit, bytes; operations gather around its edges.
    pub unit: u64,
}

/// Asserts that every byte of `layer` on `below` reads as `expected`, that its extents tile the
/// disk, and that zero and data extents hold what they claim.
pub fn assert_reads(layer: &dyn Layer, below: &dyn Disk, expected: &[u8], context: &str) {
    let size = layer.info().virtual_size;
    assert_eq!(size, expected.len() as u64, "{context}: virtual size");
    let mut at = 0;
    while at < size {
        let extent =
            layer.extent_at(at, size).unwrap_or_else(|e| panic!("{context}: map {at}: {e}"));
        assert_eq!(extent.start, at, "{context}: extents must tile");
        assert!(extent.len > 0 && extent.len <= size - at, "{context}: {extent:?}");
        let mut buf = vec![0xEE; extent.len as usize];
        read(layer, below, &mut buf, at)
            .unwrap_or_else(|e| panic!("{context}: read {extent:?}: {e}"));
        let want = &expected[at as usize..(at + extent.len) as usize];
        if let Some(first) = buf.iter().zip(want).position(|(a, b)| a != b) {
            panic!("{context}: byte {} differs, in {extent:?}", at + first as u64);
        }
        if let LayerKind::Zero { .. } = extent.kind {
            assert!(want.iter().all(|byte| *byte == 0), "{context}: {extent:?} is not zero");
        }
        at += extent.len;
    }
}

/// Asserts that a check finds nothing worse than a note.
pub fn assert_clean(layer: &dyn Layer, context: &str) {
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap_or_else(|e| panic!("{context}: check: {e}"));
    for severity in [Severity::Corruption, Severity::Leak] {
        assert_eq!(findings.count(severity), 0, "{context}: {:?}", findings.list());
    }
}

/// Runs `steps` random operations made from `seed`, comparing after each.
pub fn drive(mut subject: Subject<'_>, seed: u64, steps: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut layer = (subject.open)().unwrap_or_else(|e| panic!("seed {seed}: open: {e}"));
    let mut size = layer.info().virtual_size;
    let mut model = subject.below.0.clone();
    model.resize(size as usize, 0);

    for step in 0..steps {
        let context = format!("seed {seed} step {step}");
        let fail = |what: &str, e: vdisk_core::Error| -> ! { panic!("{context}: {what}: {e}") };
        match rng.u32(0..100) {
            0..45 => {
                let range = random_range(&mut rng, size, subject.unit);
                let mut bytes = vec![0; (range.end - range.start) as usize];
                match rng.u32(0..5) {
                    0 => {}
                    1 => bytes.fill(rng.u8(..)),
                    _ => rng.fill(&mut bytes),
                }
                layer
                    .write(&bytes, range.start, &subject.below)
                    .unwrap_or_else(|e| fail("write", e));
                model[range.start as usize..range.end as usize].copy_from_slice(&bytes);
            }
            45..60 => {
                let range = random_range(&mut rng, size, subject.unit);
                layer.zero(range.clone(), &subject.below).unwrap_or_else(|e| fail("zero", e));
                model[range.start as usize..range.end as usize].fill(0);
            }
            60..85 => {
                let range = random_range(&mut rng, size, subject.unit);
                let mut buf = vec![0; (range.end - range.start) as usize];
                read(&*layer, &subject.below, &mut buf, range.start)
                    .unwrap_or_else(|e| fail("read", e));
                assert!(
                    buf == model[range.start as usize..range.end as usize],
                    "{context}: {range:?}"
                );
            }
            85..87 => crate::vacant::compact(&mut *layer, &subject.below, &model, &context),
            87..90 => layer.flush().unwrap_or_else(|e| fail("flush", e)),
            90..94 => {
                if let Some(unit) = subject.resize_step {
                    let new = rng.u64(1..=subject.max_size.div_ceil(unit)) * unit;
                    layer.resize(new).unwrap_or_else(|e| fail("resize", e));
                    model.resize(new as usize, 0);
                    size = new;
                    // What a shrink cut off must never come back: the parents' bytes included.
                    subject.below.0.truncate(new as usize);
                }
            }
            _ => {
                layer.close().unwrap_or_else(|e| fail("close", e));
                drop(layer);
                layer = (subject.open)().unwrap_or_else(|e| fail("reopen", e));
                assert_reads(&*layer, &subject.below, &model, &context);
                assert_clean(&*layer, &context);
            }
        }
    }
    layer.close().unwrap_or_else(|e| panic!("seed {seed}: close: {e}"));
    drop(layer);
    let layer = (subject.open)().unwrap_or_else(|e| panic!("seed {seed}: reopen: {e}"));
    assert_reads(&*layer, &subject.below, &model, &format!("seed {seed}, at the end"));
    assert_clean(&*layer, &format!("seed {seed}, at the end"));
}

/// A range of the disk that likes the edges of units and of the disk.
pub(crate) fn random_range(rng: &mut fastrand::Rng, size: u64, unit: u64) -> std::ops::Range<u64> {
    let near = |rng: &mut fastrand::Rng| {
        let base = match rng.u32(0..4) {
            0 => rng.u64(0..=size),
            1 => size,
            _ => rng.u64(0..=size / unit) * unit,
        };
        let shift = [0, 0, 1, 512, 4096][rng.usize(0..5)];
        if rng.bool() { base.saturating_sub(shift) } else { base + shift }.min(size)
    };
    let (a, b) = (near(rng), near(rng));
    let (start, mut end) = (a.min(b), a.max(b));
    if rng.u32(0..3) > 0 {
        end = end.min(start + rng.u64(1..=3 * unit.min(1 << 20)));
    }
    start..end
}
