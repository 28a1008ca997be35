//! Two disks side by side, cut where either changes.

use std::ops::Range;

use vdisk_core::{Disk, Extent, ExtentKind, Extents, Result};

/// A range of two disks in which neither changes its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) start: u64,
    pub(crate) len: u64,
    /// The two surely hold the same bytes: both zero, or the same place of the same host file.
    pub(crate) same: bool,
}

/// Walks `range` of both disks together; a disk that ends early goes on with zeros.
pub(crate) fn pairs<'a>(
    left: &'a dyn Disk,
    right: &'a dyn Disk,
    range: Range<u64>,
) -> impl Iterator<Item = Result<Pair>> + Send + 'a {
    let mut sides = [Side::new(left, range.clone()), Side::new(right, range.clone())];
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let [a, b] = &mut sides;
        let (a, b) = match (a.at(at, range.end), b.at(at, range.end)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(error), _) | (_, Err(error)) => {
                at = range.end;
                return Some(Err(error));
            }
        };
        let start = at;
        at = a.end().min(b.end());
        let same = same_bytes(left, &a, right, &b, start);
        Some(Ok(Pair { start, len: at - start, same }))
    })
}

struct Side<'a> {
    extents: Extents<'a>,
    current: Option<Extent>,
}

impl<'a> Side<'a> {
    fn new(disk: &'a dyn Disk, range: Range<u64>) -> Self {
        let end = range.end.min(disk.len());
        let extents = if range.start < end {
            disk.extents(range.start..end)
        } else {
            Box::new(std::iter::empty())
        };
        Self { extents, current: None }
    }

    fn at(&mut self, at: u64, end: u64) -> Result<Extent> {
        while self.current.is_none_or(|extent| extent.end() <= at) {
            self.current = Some(match self.extents.next() {
                Some(extent) => extent?,
                None => Extent {
                    start: at,
                    len: end - at,
                    depth: 0,
                    kind: ExtentKind::Zero { explicit: false },
                },
            });
        }
        Ok(self.current.unwrap_or(Extent {
            start: at,
            len: end - at,
            depth: 0,
            kind: ExtentKind::Opaque,
        }))
    }
}

fn same_bytes(left: &dyn Disk, a: &Extent, right: &dyn Disk, b: &Extent, at: u64) -> bool {
    let host = |disk: &dyn Disk, store| Some(disk.store(store)?.host()?.id());
    match (a.kind, b.kind) {
        (ExtentKind::Zero { .. }, ExtentKind::Zero { .. }) => true,
        (ExtentKind::Data { store: s, at: x }, ExtentKind::Data { store: t, at: y }) => {
            let (x, y) = (x + (at - a.start), y + (at - b.start));
            x == y && host(left, s).is_some_and(|id| host(right, t) == Some(id))
        }
        (ExtentKind::Compressed(g), ExtentKind::Compressed(h)) => {
            (g.at, g.start) == (h.at, h.start)
                && host(left, g.store).is_some_and(|id| host(right, h.store) == Some(id))
        }
        _ => false,
    }
}
