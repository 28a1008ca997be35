//! Into a new image whose units are encoded: deflated on all cores, appended in order.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use vdisk_core::{Disk, Encoder, Error, ImageWriter, Result, zeros};

use super::{CopyOptions, Counts, Watch, buffer, read_window, total};
use crate::parallel::for_each;
use crate::readahead::ReadAhead;
use crate::windows::{Part, Piece, WINDOW, pieces};

pub(super) fn run(
    source: &dyn Disk,
    writer: &mut dyn ImageWriter,
    encoder: &dyn Encoder,
    options: &CopyOptions,
    watch: Watch<'_>,
    counts: &Counts,
) -> Result<()> {
    let unit = writer.unit();
    let unit_len =
        usize::try_from(unit).map_err(|_| Error::internal("a unit larger than memory"))?;
    let window = WINDOW.max(unit);
    let len = source.len();
    let writer = Mutex::new(writer);
    let extents = source.extents(0..len).map(|extent| {
        extent.map(|extent| (extent.start..extent.end(), Part::zero_or_data(extent.is_zero())))
    });
    // A unit that holds any data is stored whole, so windows grow to whole units. No two windows
    // share one: they are cut at multiples of the window, or by zeros that reach beyond it.
    let jobs =
        pieces(extents, window).map(|piece| piece.map(|piece| whole_units(piece, unit, len)));
    let ahead = ReadAhead::new(source);
    for_each(jobs, options.threads, watch.cancel, |piece, turn| {
        let (range, data) = match piece {
            Piece::Zero(range) => {
                watch.progress.advance(range.end - range.start);
                return Ok(());
            }
            Piece::Window { range, data } => (range, data),
        };
        ahead.reach(range.end);
        let mut bytes = buffer(range.end - range.start);
        read_window(source, &mut bytes, range.start, &data)?;
        let mut encoded = Vec::new();
        let mut written = 0;
        for (index, part) in bytes.chunks(unit_len).enumerate() {
            if !zeros::is_zero(part) {
                let mut out = Vec::new();
                encoder.encode(part, &mut out)?;
                encoded.push((range.start + index as u64 * unit, out));
                written += part.len() as u64;
            }
        }
        turn.take(|| {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            encoded.iter().try_for_each(|(start, out)| writer.append(*start, out))
        })?;
        counts.written.fetch_add(written, Ordering::Relaxed);
        counts.found_zero.fetch_add(total(&data).saturating_sub(written), Ordering::Relaxed);
        watch.progress.advance(range.end - range.start);
        Ok(())
    })
}

fn whole_units(piece: Piece, unit: u64, len: u64) -> Piece {
    match piece {
        Piece::Zero(range) => Piece::Zero(range),
        Piece::Window { range, data } => {
            let start = range.start / unit * unit;
            let end = range.end.next_multiple_of(unit).min(len);
            Piece::Window { range: start..end, data }
        }
    }
}
