//! Filling a new image the way the copy engine does, only simpler.

use vdisk_core::{ImageWriter, Result, StoreExt};

use crate::content::Content;

/// Writes `content` through `writer` and finishes it.
///
/// # Errors
/// The writer's.
pub fn fill(mut writer: Box<dyn ImageWriter>, content: &Content) -> Result<()> {
    assert_eq!(writer.virtual_size(), content.bytes().len() as u64);
    match writer.encoder() {
        Some(encoder) => {
            let unit = writer.unit();
            let mut out = Vec::new();
            for (index, piece) in content.bytes().chunks(unit as usize).enumerate() {
                if piece.iter().any(|byte| *byte != 0) {
                    encoder.encode(piece, &mut out)?;
                    writer.append(index as u64 * unit, &out)?;
                }
            }
        }
        None => {
            for range in content.data() {
                let mut at = range.start;
                while at < range.end {
                    let place = writer.place(at..range.end)?;
                    assert!(place.len > 0 && place.len <= range.end - at, "place of {}", place.len);
                    let piece = &content.bytes()[at as usize..(at + place.len) as usize];
                    place.store.put(piece, place.at, "guest data")?;
                    at += place.len;
                }
            }
        }
    }
    writer.finish()
}
