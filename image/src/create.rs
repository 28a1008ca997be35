//! New images on the host: empty ones, children, and conversions.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use vdisk_core::{
    Access, Disk, Error, ErrorKind, Format, HostFile, LayerInfo, Opener, Output, ParentLink,
    Result, Store,
};

use crate::convert::{CopyOptions, CopyReport, Watch, copy, copy_differences, copy_into};
use crate::open::{Image, ImageMut, OpenOptions, open_as};
use crate::options::{NewImage, create_child as create_child_files};
use crate::siblings::refuse_children;

/// Creates the empty image `new` at `path`; with `overwrite` an existing file is replaced.
///
/// # Errors
/// [`Refused`](vdisk_core::ErrorKind::Refused) where the file exists;
/// [`Usage`](vdisk_core::ErrorKind::Usage) for options that cannot be; the host's.
pub fn create(path: &Path, new: &NewImage, overwrite: bool) -> Result<()> {
    let mut output = Output::new(path, overwrite)?;
    let writer = new.create(&mut output)?;
    output.refuse_used()?;
    writer.finish()?;
    output.commit()
}

/// Creates an empty differencing image of `format` at `path` on the image `parent_path`, which is
/// opened with `options` and not changed. `list` holds `key=value` options.
///
/// # Errors
/// As [`create`]; [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where the format cannot name
/// such a parent.
pub fn create_child(
    path: &Path,
    format: Format,
    parent_path: &Path,
    options: &OpenOptions,
    list: &[String],
    overwrite: bool,
) -> Result<()> {
    let parent = open_as_parent(parent_path, &options.clone().in_doubt(format))?;
    let link = parent_link(path, parent_path, parent.info())?;
    let mut output = Output::new(path, overwrite)?;
    create_child_files(&mut output, format, &link, list)?;
    refuse_inputs(&output, &parent)?;
    output.refuse_used()?;
    output.commit()
}

/// Writes the content of `source` into the new image `new` at `path`.
///
/// # Errors
/// As [`create`] and [`copy`]; [`Refused`](vdisk_core::ErrorKind::Refused) where the output is one
/// of the source's own files.
pub fn convert(
    source: &Image,
    path: &Path,
    new: &NewImage,
    overwrite: bool,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    refuse_source(path, source)?;
    let mut output = Output::new(path, overwrite)?;
    let writer = new.create(&mut output)?;
    refuse_inputs(&output, source)?;
    output.refuse_used()?;
    let report = copy(source, writer, options, watch)?;
    output.commit()?;
    Ok(report)
}

/// What a converted child is made on.
#[derive(Clone, Debug)]
pub struct ChildTarget<'a> {
    /// The child's format; its parent's.
    pub format: Format,
    /// The parent, not changed.
    pub parent: &'a Path,
    /// How the parent is opened.
    pub open: OpenOptions,
    /// `key=value` options of the child.
    pub options: &'a [String],
}

/// Writes what differs between `target`'s parent and `source` into a new differencing image at
/// `path`.
///
/// # Errors
/// As [`convert`]; [`Usage`](vdisk_core::ErrorKind::Usage) where source and parent differ in size.
pub fn convert_to_child(
    source: &Image,
    path: &Path,
    target: &ChildTarget<'_>,
    overwrite: bool,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    refuse_source(path, source)?;
    let parent = open_as_parent(target.parent, &target.open.clone().in_doubt(target.format))?;
    let link = parent_link(path, target.parent, parent.info())?;
    let mut output = Output::new(path, overwrite)?;
    create_child_files(&mut output, target.format, &link, target.options)?;
    refuse_inputs(&output, source)?;
    refuse_inputs(&output, &parent)?;
    output.refuse_used()?;
    let file = output.main_file().ok_or_else(|| Error::internal("a child without a file"))?;
    let mut child =
        ImageMut::on(open_as(target.format, file, &NoExtents, Access::Write)?, Box::new(parent));
    let report = copy_differences(source, &mut child, options, watch)?;
    child.close()?;
    output.commit()?;
    Ok(report)
}

/// A child of ours is one file.
struct NoExtents;

impl Opener for NoExtents {
    fn open(&self, name: &str, _what: &'static str, _access: Access) -> Result<Arc<dyn Store>> {
        Err(Error::internal(format!("a new child names the extent {name:?}")))
    }
}

/// How an existing image is written into.
#[derive(Clone, Debug, Default)]
pub struct IntoTarget {
    /// How it is opened.
    pub open: OpenOptions,
    /// It may be a block device.
    pub allow_device: bool,
    /// It reads as zeros already; else what the source leaves out is zeroed.
    pub known_zero: bool,
    /// Go on although other images are known to stand on it: they become invalid.
    pub force: bool,
}

/// Writes the content of `source` into the existing image at `path`.
///
/// # Errors
/// As [`copy_into`]; [`Refused`](vdisk_core::ErrorKind::Refused) where the target is one of the
/// source's own files, a device that was not allowed, or has children.
pub fn convert_into(
    source: &Image,
    path: &Path,
    into: &IntoTarget,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    refuse_source(path, source)?;
    if HostFile::open(path)?.is_device() && !into.allow_device {
        return Err(Error::refused("is a block device; all that is on it would be lost")
            .in_file(path)
            .hint("if that is meant, add --allow-device"));
    }
    let mut target = into.open.clone().allow_device(into.allow_device).open_rw(path)?;
    let inputs = source.host_ids();
    if target.host_ids().iter().any(|id| inputs.contains(id)) {
        return Err(is_input(path));
    }
    if !into.force {
        refuse_children(path, target.info(), target.files())?;
    }
    let report = copy_into(source, &mut target, into.known_zero, options, watch)?;
    target.close()?;
    Ok(report)
}

/// Refuses an output that is, or would replace, a file of the source's chain.
fn refuse_source(path: &Path, source: &Image) -> Result<()> {
    refuse_input(path, &source.host_ids())
}

/// Fails where the file at `path` is one of `inputs`, told by device and inode: it must be neither
/// written to nor replaced.
///
/// # Errors
/// [`Refused`](vdisk_core::ErrorKind::Refused).
pub fn refuse_input(path: &Path, inputs: &[(u64, u64)]) -> Result<()> {
    match HostFile::open(path) {
        Ok(file) if inputs.contains(&file.id()) => Err(is_input(path)),
        _ => Ok(()),
    }
}

fn refuse_inputs(output: &Output, source: &Image) -> Result<()> {
    output.paths().iter().try_for_each(|path| refuse_source(path, source))
}

fn is_input(path: &Path) -> Error {
    Error::refused("is also an input, or in the chain of one")
        .in_file(path)
        .hint("write to another file")
}

/// Opens the image that a child shall stand on.
pub(crate) fn open_as_parent(path: &Path, options: &OpenOptions) -> Result<Image> {
    options.open(path).map_err(|error| match error.kind() {
        ErrorKind::UnknownFormat => Error::unsupported(
            "is not a VHD, VHDX or VMDK image, and a raw disk cannot be a parent: it has no \
             identity that a child could name",
        )
        .in_file(path)
        .hint("convert it to the child's format first"),
        _ => error,
    })
}

/// How the child at `path` names its parent.
pub(crate) fn parent_link(
    path: &Path,
    parent_path: &Path,
    parent: &LayerInfo,
) -> Result<ParentLink> {
    let failed = |e| Error::io(e, "find the parent's path").in_file(parent_path);
    let absolute = parent_path.canonicalize().map_err(failed)?;
    let modified = absolute.metadata().and_then(|found| found.modified()).map_err(failed)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let folder =
        folder.canonicalize().map_err(|e| Error::io(e, "find the folder").in_file(folder))?;
    let relative = relative_path(&folder, &absolute).ok_or_else(|| {
        Error::unsupported("the parent's path is not UTF-8, which the format needs")
            .in_file(parent_path)
    })?;
    Ok(ParentLink { info: parent.clone(), relative, absolute, modified })
}

/// The path from `folder` to `file` (both absolute and free of links), with `/` between its parts.
fn relative_path(folder: &Path, file: &Path) -> Option<String> {
    let mut from: Vec<Component<'_>> = folder.components().collect();
    let mut to: Vec<Component<'_>> = file.components().collect();
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    from.drain(..shared);
    to.drain(..shared);
    let up = from.iter().map(|_| Some(".."));
    let down = to.iter().map(|part| part.as_os_str().to_str());
    Some(up.chain(down).collect::<Option<Vec<_>>>()?.join("/"))
}

/// The bytes that an image made from an image, or an empty disk, takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Bytes of the output's files, holding what the source holds. An upper bound where units are
    /// compressed.
    pub required: u64,
    /// Bytes of the output's files when every byte of the disk was written.
    pub fully_allocated: u64,
}

/// Measures what `new` takes when it holds the content of `source`, or nothing. Allocated zeros of
/// the source count as data: its bytes are not read.
///
/// # Errors
/// Those of the source; [`Usage`](vdisk_core::ErrorKind::Usage) for options that cannot be.
pub fn measure(new: &NewImage, source: Option<&dyn Disk>) -> Result<Measure> {
    let unit = new.create(&mut vdisk_core::MemFiles::new("measure"))?.unit();
    let mut units = 0;
    if let Some(source) = source {
        let mut counted = 0;
        for extent in source.extents(0..source.len()) {
            let extent = extent?;
            if !extent.is_zero() {
                let (first, end) = (extent.start / unit, extent.end().div_ceil(unit));
                units += end.saturating_sub(first.max(counted));
                counted = end;
            }
        }
    }
    let all = new.virtual_size().div_ceil(unit);
    Ok(Measure { required: new.file_size(units)?, fully_allocated: new.file_size(all)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths() {
        for (folder, file, expected) in [
            ("/a/b", "/a/b/p.vhd", "p.vhd"),
            ("/a/b", "/a/p.vhd", "../p.vhd"),
            ("/a/b", "/a/c/d/p.vhd", "../c/d/p.vhd"),
            ("/", "/p.vhd", "p.vhd"),
        ] {
            assert_eq!(
                relative_path(Path::new(folder), Path::new(file)).as_deref(),
                Some(expected)
            );
        }
    }

    #[test]
    fn an_extent_of_the_target_is_not_taken_as_source() {
        let folder = tempfile::tempdir().unwrap();
        let (target, flat) = (folder.path().join("t.vmdk"), folder.path().join("flat"));
        std::fs::write(&flat, [7; 4096]).unwrap();
        let text = "# Disk DescriptorFile\nCID=1234abcd\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
                    RW 4 FLAT \"flat\" 2\nRW 4 ZERO\n";
        std::fs::write(&target, text).unwrap();
        let source = OpenOptions::new().format(Format::Raw).open(&flat).unwrap();
        let options = CopyOptions::default();
        let into = IntoTarget::default();
        let error = convert_into(&source, &target, &into, &options, Watch::default()).unwrap_err();
        assert_eq!(error.kind(), vdisk_core::ErrorKind::InUse);
        assert_eq!(std::fs::read(&flat).unwrap(), [7; 4096]);
    }
}
