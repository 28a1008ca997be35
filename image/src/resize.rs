//! Another virtual size for an image that nobody stands on.

use std::path::Path;

use vdisk_core::Result;

use crate::open::OpenOptions;
use crate::siblings::refuse_children;

/// How to resize.
#[derive(Clone, Copy, Debug)]
pub struct ResizeRequest {
    /// The new virtual size in bytes.
    pub size: u64,
    /// Only find out whether anything stands in the way.
    pub dry_run: bool,
    /// Go on although other images are known to stand on it: they become invalid.
    pub force: bool,
}

/// Gives the image at `path`, opened with `open`, another virtual size; what a smaller one cuts off
/// is lost. Asked for the size that it has, it finishes a run that was cut off.
///
/// # Errors
/// Those of opening the image for writing; [`Refused`](vdisk_core::ErrorKind::Refused) where
/// children of it were found;
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for a variant that keeps its size; the
/// host's.
pub fn resize(path: &Path, open: &OpenOptions, request: &ResizeRequest) -> Result<()> {
    if !request.force {
        let image = open.open(path)?;
        refuse_children(path, image.info(), image.files())?;
    }
    if request.dry_run {
        return Ok(());
    }
    let mut image = open.open_rw(path)?;
    image.resize(request.size)?;
    image.close()
}
