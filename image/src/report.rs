//! What the commands tell, as data: stable keys, sizes in bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use vdisk_core::{
    Disk, Error, ExtentKind, Fact, Finding, Findings, HostFile, Layer, Mend, Result, Severity,
    Store,
};

use crate::journal;
use crate::open::{Image, LayerFile, OpenOptions};
use crate::repair::ChangeReport;

/// What an image is: one object of `vdisk info --output json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Info {
    /// `vdisk.info/1`.
    pub schema: &'static str,
    /// The file, as named.
    pub filename: String,
    /// `raw`, `vhd`, `vhdx` or `vmdk`.
    pub format: &'static str,
    /// The format's variant.
    pub subformat: String,
    /// What the guest sees, bytes.
    pub virtual_size: u64,
    /// What all the image's files take on the host's disk, bytes.
    pub actual_size: u64,
    /// Block or grain, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Bytes.
    pub logical_sector_size: u32,
    /// Bytes.
    pub physical_sector_size: u32,
    /// The parent, as stored in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The parent, as found on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// What a child records to recognise this image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// What this image recorded of its parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_identity: Option<String>,
    /// A log waits to be replayed, or the image was not closed.
    pub dirty: bool,
    /// The format's own facts.
    pub format_specific: BTreeMap<&'static str, FactValue>,
    /// The image's other files: extents.
    pub children: Vec<Child>,
    /// A job on this image that was cut off, and the command that finishes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<String>,
    /// Why the chain ends here although the image needs a parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_error: Option<String>,
}

/// A format's own fact in JSON: a number, a truth value or text.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum FactValue {
    /// A number.
    Int(u64),
    /// Yes or no.
    Bool(bool),
    /// Text.
    Text(String),
}

impl From<&Fact> for FactValue {
    fn from(fact: &Fact) -> Self {
        match fact {
            Fact::Int(value) => Self::Int(*value),
            Fact::Bool(value) => Self::Bool(*value),
            Fact::Text(value) => Self::Text(value.clone()),
        }
    }
}

impl std::fmt::Display for FactValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::Bool(value) => f.write_str(if *value { "yes" } else { "no" }),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// An extent file of an image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Child {
    /// Its path.
    pub filename: String,
    /// What it takes on the host's disk, bytes.
    pub actual_size: u64,
}

/// Looks at the image at `path` and, as far as they can be opened, its parents: one [`Info`] for
/// each, top first. The last one says so where its parent could not be opened.
///
/// # Errors
/// Where the image itself cannot be opened.
pub fn info(path: &Path, options: &OpenOptions) -> Result<Vec<Info>> {
    match options.open(path) {
        Ok(image) => infos(&image, path, None),
        Err(error) => {
            // The image itself may still be readable when only its chain is broken.
            let found = options.open_as_far_as_possible(path);
            match found {
                Ok(image) if image.layers().last().is_some_and(|l| l.info().parent.is_some()) => {
                    infos(&image, path, Some(error))
                }
                _ => Err(error),
            }
        }
    }
}

fn infos(image: &Image, path: &Path, broken: Option<Error>) -> Result<Vec<Info>> {
    let mut infos = Vec::new();
    for (depth, (layer, file)) in image.layers().iter().zip(image.files()).enumerate() {
        let name = if depth == 0 { path } else { &file.path };
        let parent = image.files().get(depth + 1);
        infos.push(layer_info(&**layer, name, parent)?);
    }
    if let (Some(error), Some(last)) = (broken, infos.last_mut()) {
        last.backing_error = Some(match error.advice() {
            Some(advice) => format!("{error}; {advice}"),
            None => error.to_string(),
        });
    }
    Ok(infos)
}

fn layer_info(layer: &dyn Layer, name: &Path, parent: Option<&LayerFile>) -> Result<Info> {
    let info = layer.info();
    let mut children = Vec::new();
    let mut actual_size = 0;
    for (index, store) in layer.stores().iter().enumerate() {
        let size = allocated(&**store)?;
        actual_size += size;
        if index > 0 {
            children.push(Child { filename: text(store.name()), actual_size: size });
        }
    }
    let link = info.parent.as_ref();
    Ok(Info {
        schema: "vdisk.info/1",
        filename: text(name),
        format: info.format.name(),
        subformat: info.subformat.clone(),
        virtual_size: info.virtual_size,
        actual_size,
        cluster_size: info.block_size,
        logical_sector_size: info.logical_sector,
        physical_sector_size: info.physical_sector,
        backing_filename: link.and_then(|link| Some(link.hints.first()?.path.clone())),
        full_backing_filename: parent.map(|file| text(&file.path)),
        identity: info.identity.clone(),
        parent_identity: link.and_then(|link| link.identities.first().cloned()),
        dirty: info.dirty,
        format_specific: info.facts.iter().map(|(name, fact)| (*name, fact.into())).collect(),
        children,
        unfinished: journal::unfinished(name),
        backing_error: None,
    })
}

/// What a store takes on the host's disk; an overlay over a file takes what the file takes.
fn allocated(store: &dyn Store) -> Result<u64> {
    let failed = |e| Error::io(e, "find its size").in_file(store.name());
    match store.host() {
        Some(file) => file.allocated().map_err(failed),
        None => match HostFile::open(store.name()) {
            Ok(file) => file.allocated().map_err(failed),
            Err(_) => store.len().map_err(failed),
        },
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// One entry of `vdisk map`: where a run of guest bytes comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MapEntry {
    /// First guest byte.
    pub start: u64,
    /// Guest bytes.
    pub length: u64,
    /// The layer that decides: 0 is the image itself.
    pub depth: usize,
    /// Some layer says what it is; `false` for what nobody ever wrote.
    pub present: bool,
    /// Surely reads as zeros.
    pub zero: bool,
    /// Bytes stand in a file.
    pub data: bool,
    /// They stand there deflated.
    pub compressed: bool,
    /// Where in `filename` the bytes stand as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The host file that holds them as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

impl MapEntry {
    fn continues(&self, next: &Self) -> bool {
        let alike = self.start + self.length == next.start
            && (self.depth, self.present, self.zero, self.data, self.compressed)
                == (next.depth, next.present, next.zero, next.data, next.compressed);
        let places = match (self.offset, next.offset) {
            (Some(a), Some(b)) => a + self.length == b,
            (None, None) => true,
            _ => false,
        };
        alike && places && self.filename == next.filename
    }
}

/// The map of a disk, entry by entry, runs that continue each other joined. Gives each entry to
/// `each` as it is found, so that a map of any length needs no memory.
///
/// # Errors
/// Those of the disk and of `each`.
pub fn map(disk: &dyn Disk, mut each: impl FnMut(&MapEntry) -> Result<()>) -> Result<()> {
    let mut pending: Option<MapEntry> = None;
    for extent in disk.extents(0..disk.len()) {
        let extent = extent?;
        let mut entry = MapEntry {
            start: extent.start,
            length: extent.len,
            depth: extent.depth,
            present: true,
            zero: false,
            data: true,
            compressed: false,
            offset: None,
            filename: None,
        };
        match extent.kind {
            ExtentKind::Data { store, at } => {
                entry.offset = Some(at);
                entry.filename = disk.store(store).map(|store| text(store.name()));
            }
            ExtentKind::Zero { explicit } => {
                (entry.present, entry.zero, entry.data) = (explicit, true, false);
            }
            ExtentKind::Compressed(_) => entry.compressed = true,
            _ => {}
        }
        match &mut pending {
            Some(last) if last.continues(&entry) => last.length += entry.length,
            _ => {
                if let Some(done) = pending.replace(entry) {
                    each(&done)?;
                }
            }
        }
    }
    pending.as_ref().map_or(Ok(()), each)
}

/// What a check found: `vdisk check --output json`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// `vdisk.check/1`.
    pub schema: &'static str,
    /// The file, as named.
    pub filename: String,
    /// Its format.
    pub format: &'static str,
    /// Broken rules.
    pub corruptions: u64,
    /// Structures that nothing refers to.
    pub leaks: u64,
    /// Findings mended.
    pub repaired: u64,
    /// The findings; at most [`Findings::KEPT`].
    pub findings: Vec<FindingReport>,
    /// What was mended, or with a dry run would be; absent where that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repairs: Option<Vec<MendReport>>,
    /// What of the files that changed, or would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<ChangeReport>>,
    /// The file that holds what was overwritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Nothing was changed, although a repair was asked for.
    #[serde(rename = "dry-run", skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// One thing that was mended.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MendReport {
    /// The code of the finding that it takes away.
    pub code: &'static str,
    /// Byte offset in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What was done.
    pub message: String,
}

impl From<&Mend> for MendReport {
    fn from(mend: &Mend) -> Self {
        Self { code: mend.code, offset: mend.offset, message: mend.what.clone() }
    }
}

/// One finding of a check.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FindingReport {
    /// Stable name of the rule.
    pub code: &'static str,
    /// `corruption`, `leak` or `note`.
    pub severity: &'static str,
    /// Byte offset in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong.
    pub message: String,
}

impl From<&Finding> for FindingReport {
    fn from(finding: &Finding) -> Self {
        Self {
            code: finding.code,
            severity: finding.severity.name(),
            offset: finding.offset,
            message: finding.message.clone(),
        }
    }
}

impl CheckReport {
    pub(crate) fn new(path: &Path, format: &'static str, findings: &Findings) -> Self {
        Self {
            schema: "vdisk.check/1",
            filename: text(path),
            format,
            corruptions: findings.count(Severity::Corruption),
            leaks: findings.count(Severity::Leak),
            repaired: 0,
            findings: findings.list().iter().map(FindingReport::from).collect(),
            repairs: None,
            changes: None,
            backup: None,
            dry_run: false,
        }
    }
}
