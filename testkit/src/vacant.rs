//! What a layer need not store, found the slow and plain way: sector by sector.

use vdisk_core::disk::read_padded;
use vdisk_core::{Compaction, Disk, Layer, LayerKind, LayerMut, Vacant, Watch};

use crate::model::{assert_clean, assert_reads};

const SECTOR: u64 = 512;

/// The vacant ranges of `layer` on `below`, which reads as `content`.
#[must_use]
pub fn vacant(layer: &dyn Layer, below: &dyn Disk, content: &[u8]) -> Vacant {
    let child = layer.info().parent.is_some();
    let mut vacant = Vacant::default();
    for (start, sector) in (0..).step_by(SECTOR as usize).zip(content.chunks(SECTOR as usize)) {
        let end = start + sector.len() as u64;
        let mut under = vec![0; sector.len()];
        if child {
            read_padded(below, &mut under, start).expect("the parent reads");
        }
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        let said = layer.extent_at(start, end).expect("a sector has an extent").kind;
        if said == LayerKind::Hole || is_zero(sector) && is_zero(&under) {
            vacant.unsaid.push(start..end);
        }
        if child && is_zero(sector) {
            vacant.zeros.push(start..end);
        }
    }
    vacant
}

/// Compacts a layer that reads as `content` and asserts that it reads so afterwards, that just what
/// was planned was done, and that nothing is left to do.
pub fn compact(layer: &mut dyn LayerMut, below: &dyn Disk, content: &[u8], context: &str) {
    layer.flush().unwrap_or_else(|e| panic!("{context}: flush: {e}"));
    let length = |layer: &dyn Layer| -> u64 {
        layer.stores().iter().map(|store| store.len().expect("a length")).sum()
    };
    let before = length(layer);
    let vacant = vacant(layer, below, content);
    let plan = layer.plan_compact(&vacant).unwrap_or_else(|e| panic!("{context}: plan: {e}"));
    let done = layer
        .compact(&vacant, Watch::default())
        .unwrap_or_else(|e| panic!("{context}: compact: {e}"));
    assert_eq!((plan.released, plan.moved), (done.released, done.moved), "{context}: {plan:?}");
    assert_eq!(plan.cut, done.cut, "{context}: {plan:?} {done:?}");
    assert_eq!(before - done.cut, length(layer), "{context}: {done:?}");
    assert_reads(layer, below, content, context);
    assert_clean(layer, context);
    let again = layer.plan_compact(&vacant).unwrap_or_else(|e| panic!("{context}: plan: {e}"));
    // A store in memory cannot tell its holes.
    let again = Compaction { punched: 0, ..again };
    assert_eq!(again, Compaction::default(), "{context}: something is left to do");
}
