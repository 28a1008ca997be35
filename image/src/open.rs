//! Opening an image with its whole chain.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vdisk_core::disk::{ZeroDisk, in_range};
use vdisk_core::{
    Access, Disk, Error, ErrorKind, Extent, ExtentKind, Extents, Format, Host, HostFile, Layer,
    LayerInfo, LayerKind, LayerMut, Opener, ParentHint, ParentRef, PathStyle, RealHost, Result,
    Store,
};

use crate::chain::Chain;
use crate::edit;
use crate::gate::{ExtentOpener, Gate, Search, folder_of};
use crate::journal;
use crate::locks::Session;
use crate::probe::{probe, probe_with};
use crate::raw::RawLayer;

/// How an image is opened, and which other files it may open.
///
/// ```no_run
/// use vdisk::{Disk, OpenOptions};
///
/// # fn main() -> vdisk::Result<()> {
/// let image = OpenOptions::new().parent_dir("/templates").open("child.vhdx")?;
/// let mut boot_sector = [0; 512];
/// image.read_at(&mut boot_sector, 0)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    format: Option<Format>,
    /// The format of a file that could be of two.
    in_doubt: Option<Format>,
    parent: Option<PathBuf>,
    parent_dirs: Vec<PathBuf>,
    max_depth: usize,
    with_parents: bool,
    host: Arc<dyn Host>,
    /// Open also an image whose edit waits to be finished.
    unfinished: bool,
    /// Read what another program may be writing.
    force_share: bool,
    allow_device: bool,
    /// The job that the files are locked for; each opening is one of its own without.
    session: Option<Arc<Session>>,
    /// A parent that has the second identity passes for one with the first.
    renewed: Option<(String, String)>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            format: None,
            in_doubt: None,
            parent: None,
            parent_dirs: Vec::new(),
            max_depth: 64,
            with_parents: true,
            host: Arc::new(RealHost),
            unfinished: false,
            force_share: false,
            allow_device: false,
            session: None,
            renewed: None,
        }
    }
}

impl OpenOptions {
    /// Probes the format; opens parents and extents only in the image's own folder tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the image as `format` instead of probing; the only way to open a raw file.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Names the image's parent outright, whatever the image says of its place. Its identity must
    /// still be the one the image recorded.
    #[must_use]
    pub fn parent(mut self, path: impl Into<PathBuf>) -> Self {
        self.parent = Some(path.into());
        self
    }

    /// Allows files named by the image to be opened in one more folder tree.
    #[must_use]
    pub fn parent_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.parent_dirs.push(folder.into());
        self
    }

    /// Most layers of a chain; 64 unless told.
    #[must_use]
    pub fn max_depth(mut self, depth: usize) -> Self {
        self.max_depth = depth.max(1);
        self
    }

    /// Opens only the image itself: its information can be read, and of its content what does not
    /// stand in a parent.
    #[must_use]
    pub fn without_parents(mut self) -> Self {
        self.with_parents = false;
        self
    }

    /// Has all that is done to files and their names pass through `host`: to watch it, or to fail
    /// it.
    #[must_use]
    pub fn on(mut self, host: Arc<dyn Host>) -> Self {
        self.host = host;
        self
    }

    /// Reads images that another program has open for writing, which are refused without: what is
    /// read may be half changed. What is opened for writing is locked all the same.
    #[must_use]
    pub fn force_share(mut self, share: bool) -> Self {
        self.force_share = share;
        self
    }

    /// Opens block devices for writing, which are refused without.
    #[must_use]
    pub fn allow_device(mut self, allow: bool) -> Self {
        self.allow_device = allow;
        self
    }

    /// Opens also an image whose edit was cut off: for whoever finishes it.
    pub(crate) fn unfinished(mut self) -> Self {
        self.unfinished = true;
        self
    }

    /// Makes everything opened with these options from here on one job, which may open a file more
    /// than once.
    #[must_use]
    pub fn in_one_session(mut self) -> Self {
        self.session.get_or_insert_default();
        self
    }

    /// The host whose files these are.
    #[must_use]
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// Takes a parent of identity `new` where a child asks for `old`.
    pub(crate) fn renewed(mut self, old: &str, new: &str) -> Self {
        self.renewed = Some((old.to_owned(), new.to_owned()));
        self
    }

    /// Takes a file that could be of `format` or of another, for a guest may have written what
    /// tells, as of `format`: the parent of a child has the child's.
    pub(crate) fn in_doubt(mut self, format: Format) -> Self {
        self.in_doubt = Some(format);
        self
    }

    /// As these, for an image that is not the one whose format and parent are named.
    pub(crate) fn for_another(&self) -> Self {
        Self { format: None, parent: None, ..self.clone() }
    }

    /// Opens the image at `path` for reading, with its parents. Nothing is written to any file.
    ///
    /// # Errors
    /// Damage, a parent missing or mismatched, a file outside the allowed folders, the host's:
    /// see [`ErrorKind`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Image> {
        let path = path.as_ref();
        self.open_chain(path).map_err(|error| journal::explain(path, error))
    }

    /// As [`OpenOptions::open`], with the bare error.
    pub(crate) fn open_chain(&self, path: &Path) -> Result<Image> {
        let mut gate = self.gate(path, Access::Read)?;
        let top = self.open_top(path, &gate, Access::Read)?;
        let mut files = vec![top.file];
        let mut layers: Vec<Box<dyn Layer>> = vec![top.layer];
        if self.with_parents {
            self.open_parents(&mut files, &mut layers, &mut gate)?;
        }
        Ok(Image { chain: Chain::new(layers), files })
    }

    /// Opens the image and as many of its parents as open; for telling where a chain is broken.
    pub(crate) fn open_as_far_as_possible(&self, path: &Path) -> Result<Image> {
        let mut gate = self.gate(path, Access::Read)?;
        let top = self.open_top(path, &gate, Access::Read)?;
        let mut files = vec![top.file];
        let mut layers: Vec<Box<dyn Layer>> = vec![top.layer];
        // The error was met, and is told, by whoever tried to open the whole chain before.
        let _ = self.open_parents(&mut files, &mut layers, &mut gate);
        Ok(Image { chain: Chain::new(layers), files })
    }

    /// Opens the image at `path` for writing, and its parents for reading.
    ///
    /// # Errors
    /// As [`OpenOptions::open`]; [`ErrorKind::Unsupported`] for a variant that cannot be written;
    /// [`ErrorKind::Refused`] for a block device without [`OpenOptions::allow_device`].
    pub fn open_rw(&self, path: impl AsRef<Path>) -> Result<ImageMut> {
        let path = path.as_ref();
        self.open_chain_rw(path).map_err(|error| journal::explain(path, error))
    }

    /// Opens the image at `path` alone for writing.
    pub(crate) fn open_alone_rw(&self, path: &Path) -> Result<Box<dyn LayerMut>> {
        Ok(self.open_top(path, &self.gate(path, Access::Write)?, Access::Write)?.layer)
    }

    /// Opens the image called `name` for writing, alone, where an image at `path` may name it.
    pub(crate) fn open_named_rw(&self, path: &Path, name: &str) -> Result<Box<dyn LayerMut>> {
        let gate = self.gate(path, Access::Write)?;
        let hint = ParentHint { kind: "image", style: PathStyle::Native, path: name.to_owned() };
        let mut search = Search::default();
        let found = gate.find(&folder_of(path), &hint, Access::Write, &mut search, |file| {
            open_layer(file, Kind::Probed(self.in_doubt), &gate, Access::Write).map(Some)
        })?;
        found
            .map(|opened| opened.layer)
            .ok_or_else(|| search.failed("neighbour", name, path, "--parent-dir DIR"))
    }

    fn open_chain_rw(&self, path: &Path) -> Result<ImageMut> {
        let mut gate = self.gate(path, Access::Write)?;
        let top = self.open_top(path, &gate, Access::Write)?;
        let mut files = vec![top.file];
        let mut parents: Vec<Box<dyn Layer>> = Vec::new();
        if let Some(parent) = &top.layer.info().parent {
            let format = top.layer.info().format;
            let found = self.open_parent(parent, format, &files, &mut gate)?;
            files.push(found.file);
            parents.push(found.layer);
            self.open_parents(&mut files, &mut parents, &mut gate)?;
        }
        let below: Box<dyn Disk> =
            if parents.is_empty() { Box::new(ZeroDisk(0)) } else { Box::new(Chain::new(parents)) };
        Ok(ImageMut { top: top.layer, below, files })
    }

    /// The file at `path` for writing, locked.
    pub(crate) fn open_host_rw(&self, path: &Path) -> Result<HostFile> {
        let file = self.open_file(path, Access::Write)?;
        self.session.clone().unwrap_or_default().lock(&file, Access::Write)?;
        Ok(file)
    }

    /// Fails where the image at `path` cannot be opened for writing; where it can, the session of
    /// these options keeps others from it from here on.
    pub(crate) fn insist_writable(&self, path: &Path) -> Result<()> {
        self.open_rw(path).map(drop)
    }

    /// Gives `with` the file at `path` before anything is read into it: its format, its store, and
    /// what opens the files that it names.
    pub(crate) fn with_file<T>(
        &self,
        path: &Path,
        access: Access,
        with: impl FnOnce(Format, &Arc<dyn Store>, &dyn Opener) -> Result<T>,
    ) -> Result<T> {
        let gate = self.gate(path, access)?;
        let file = self.open_file(path, access)?;
        let format = self.format.or(file.is_device().then_some(Format::Raw));
        let store = gate.store(file, access)?;
        let format = format.map_or_else(|| probe(&*store), Ok)?;
        with(format, &store, &ExtentOpener { gate: &gate, image: path })
    }

    fn open_file(&self, path: &Path, access: Access) -> Result<HostFile> {
        match access {
            Access::Read => HostFile::open(path),
            Access::Write if is_device(path) && !self.allow_device => {
                Err(Error::refused("is a block device, and would be written to")
                    .in_file(path)
                    .hint("if that is meant, add --allow-device"))
            }
            Access::Write if is_device(path) => HostFile::open_device_exclusive(path),
            Access::Write => HostFile::open_rw(path),
        }
    }

    /// The format of the file at `path`, as far as it can be told.
    pub(crate) fn format_of(&self, path: &Path) -> Option<Format> {
        self.format.or_else(|| probe(&HostFile::open(path).ok()?).ok())
    }

    fn gate(&self, path: &Path, access: Access) -> Result<Gate> {
        let written = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let own = [folder_of(path), written.unwrap_or(Path::new(".")).to_owned()];
        let exist = own.into_iter().filter(|folder| folder.exists());
        let gate = Gate::new(exist.chain(self.parent_dirs.iter().cloned()))?;
        let gate = gate.on(self.host.clone());
        if self.force_share && access == Access::Read {
            return Ok(gate);
        }
        Ok(gate.with_locks(self.session.clone().unwrap_or_default()))
    }

    fn open_top(&self, path: &Path, gate: &Gate, access: Access) -> Result<Opened> {
        if !self.unfinished {
            edit::refuse_unfinished(path)?;
        }
        let file = self.open_file(path, access)?;
        // A device's content was written by a guest: its bytes never decide what it is.
        let format = self.format.or(file.is_device().then_some(Format::Raw));
        open_layer(file, format.map_or(Kind::Probed(self.in_doubt), Kind::Said), gate, access)
    }

    /// Opens parent after parent until a layer needs none.
    fn open_parents(
        &self,
        files: &mut Vec<LayerFile>,
        layers: &mut Vec<Box<dyn Layer>>,
        gate: &mut Gate,
    ) -> Result<()> {
        while let Some(child) = layers.last().map(|last| last.info())
            && let Some(parent) = &child.parent
        {
            let found = self.open_parent(parent, child.format, files, gate)?;
            files.push(found.file);
            layers.push(found.layer);
        }
        Ok(())
    }

    /// Opens the parent of the last of `files`, which is of `format`.
    fn open_parent(
        &self,
        parent: &ParentRef,
        format: Format,
        files: &[LayerFile],
        gate: &mut Gate,
    ) -> Result<Opened> {
        let Some(child) = files.last() else {
            return Err(Error::internal("a chain without a top"));
        };
        if files.len() >= self.max_depth {
            let message = format!("the chain is deeper than {} images", self.max_depth);
            return Err(Error::new(ErrorKind::ParentCycle, message).in_file(&child.path));
        }
        if let (Some(named), 1) = (&self.parent, files.len()) {
            let file = HostFile::open(named)?;
            gate.allow(folder_of(named))?;
            let mut suitor = self.suitor(parent, format, files);
            let accepted = suitor.try_file(file, gate)?;
            return accepted.ok_or_else(|| suitor.refusal(&child.path));
        }
        let mut search = Search::default();
        let mut suitor = self.suitor(parent, format, files);
        for hint in &parent.hints {
            let base = folder_of(&child.path);
            let found = gate
                .find(&base, hint, Access::Read, &mut search, |file| suitor.try_file(file, gate))?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        if suitor.refused.is_some() {
            return Err(suitor.refusal(&child.path));
        }
        let name = parent.hints.first().map_or("", |hint| hint.path.as_str());
        Err(search.failed("parent", name, &child.path, "--parent FILE"))
    }

    fn suitor<'a>(
        &'a self,
        parent: &'a ParentRef,
        format: Format,
        files: &'a [LayerFile],
    ) -> Suitor<'a> {
        Suitor { parent, format, files, renewed: self.renewed.as_ref(), refused: None }
    }
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.metadata().is_ok_and(|found| found.file_type().is_block_device())
}

struct Opened {
    layer: Box<dyn LayerMut>,
    file: LayerFile,
}

/// How the format of a file is known.
#[derive(Clone, Copy)]
enum Kind {
    /// It was said.
    Said(Format),
    /// By its content; where that could be of two formats, it is this one.
    Probed(Option<Format>),
}

fn open_layer(file: HostFile, kind: Kind, gate: &Gate, access: Access) -> Result<Opened> {
    let known = LayerFile { path: file.path().to_owned(), id: file.id() };
    let store = gate.store(file, access)?;
    let format = match kind {
        Kind::Said(format) => format,
        Kind::Probed(in_doubt) => probe_with(&*store, in_doubt)?,
    };
    tracing::debug!(path = %known.path.display(), %format, ?access, "opening a layer");
    let opener = ExtentOpener { gate, image: &known.path };
    let layer = open_as(format, store, &opener, access)?;
    Ok(Opened { layer, file: known })
}

/// Opens `store` as an image of `format`; extents that it names through `opener`.
pub(crate) fn open_as(
    format: Format,
    store: Arc<dyn Store>,
    opener: &dyn Opener,
    access: Access,
) -> Result<Box<dyn LayerMut>> {
    Ok(match format {
        Format::Raw => Box::new(RawLayer::open(store, access == Access::Write)?),
        Format::Vhd => {
            let options = vdisk_vhd::OpenOptions { access, ..Default::default() };
            Box::new(vdisk_vhd::open(store, &options)?)
        }
        Format::Vhdx => {
            let options = vdisk_vhdx::OpenOptions { access, ..Default::default() };
            Box::new(vdisk_vhdx::open(store, &options)?)
        }
        Format::Vmdk => {
            let options = vdisk_vmdk::OpenOptions { access, ..Default::default() };
            Box::new(vdisk_vmdk::open(store, opener, &options)?)
        }
    })
}

/// Looks at files that may be the parent.
struct Suitor<'a> {
    parent: &'a ParentRef,
    /// The child's format.
    format: Format,
    files: &'a [LayerFile],
    renewed: Option<&'a (String, String)>,
    refused: Option<Error>,
}

impl Suitor<'_> {
    /// The layer in `file`, if it is the parent the child was made from.
    fn try_file(&mut self, file: HostFile, gate: &Gate) -> Result<Option<Opened>> {
        let path = file.path().to_owned();
        if self.files.iter().any(|known| known.id == file.id()) {
            let error = Error::new(
                ErrorKind::ParentCycle,
                format!("its parent {} is already in its chain", path.display()),
            );
            self.refuse(error.hint("name the right parent with --parent FILE"));
            return Ok(None);
        }
        let opened = match open_layer(file, Kind::Probed(Some(self.format)), gate, Access::Read) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::UnknownFormat => {
                self.refuse(self.mismatch(&path, "no image of a known format"));
                return Ok(None);
            }
            Err(error) => {
                self.refuse(error);
                return Ok(None);
            }
        };
        let identity = opened.layer.info().identity.clone().unwrap_or_else(|| "none".to_owned());
        if self.parent.identities.is_empty() || self.expects(&identity) {
            return Ok(Some(opened));
        }
        self.refuse(self.mismatch(&path, &format!("identity {identity}")));
        Ok(None)
    }

    fn expects(&self, identity: &str) -> bool {
        let mut expected = self.parent.identities.iter();
        expected.any(|one| {
            let renewed = self.renewed.filter(|(old, _)| old.eq_ignore_ascii_case(one));
            one.eq_ignore_ascii_case(identity)
                || renewed.is_some_and(|(_, new)| new.eq_ignore_ascii_case(identity))
        })
    }

    fn mismatch(&self, path: &Path, found: &str) -> Error {
        let expected = self.parent.identities.join(" or ");
        let message = format!(
            "its parent should have identity {expected}, but {} has {found}",
            path.display()
        );
        Error::new(ErrorKind::ParentMismatch, message).hint(
            "the parent was changed or replaced after the child was made; find the right one and \
             name it with --parent FILE; if this is it and its content is what it was, record \
             that with: vdisk rebase -u -b PARENT CHILD",
        )
    }

    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }

    fn refusal(self, child: &Path) -> Error {
        let error = self.refused.unwrap_or_else(|| Error::internal("no file was refused"));
        error.in_file(child)
    }
}

/// A file that is a layer of an open chain.
#[derive(Clone, Debug)]
pub struct LayerFile {
    /// The path it was opened by.
    pub path: PathBuf,
    /// Device and inode.
    pub id: (u64, u64),
}

/// An image open for reading, with its whole chain: a [`Disk`].
#[derive(Debug)]
pub struct Image {
    chain: Chain,
    files: Vec<LayerFile>,
}

impl Image {
    /// Opens the image at `path` with [`OpenOptions`] as they are.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().open(path)
    }

    /// What the image itself (the top layer) is.
    #[must_use]
    pub fn info(&self) -> &LayerInfo {
        self.top().info()
    }

    /// The top layer.
    #[must_use]
    #[allow(clippy::missing_panics_doc, clippy::indexing_slicing)] // an image has a top layer
    pub fn top(&self) -> &dyn Layer {
        &*self.chain.layers()[0]
    }

    /// All layers, top first.
    #[must_use]
    pub fn layers(&self) -> &[Box<dyn Layer>] {
        self.chain.layers()
    }

    /// The file the user (or a child) named for each layer, top first.
    #[must_use]
    pub fn files(&self) -> &[LayerFile] {
        &self.files
    }

    /// Takes the layers out, top first.
    pub(crate) fn into_layers(self) -> Vec<Box<dyn Layer>> {
        self.chain.into_layers()
    }

    /// Device and inode of every file of the chain, extents included.
    #[must_use]
    pub fn host_ids(&self) -> Vec<(u64, u64)> {
        let extents = self.chain.layers().iter().flat_map(|layer| layer.stores());
        let extents = extents.filter_map(|store| store.host().map(HostFile::id));
        self.files.iter().map(|file| file.id).chain(extents).collect()
    }
}

impl Disk for Image {
    fn len(&self) -> u64 {
        self.chain.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.chain.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        self.chain.extent_at(offset, end)
    }

    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        self.chain.extents(range)
    }

    fn store(&self, id: usize) -> Option<&Arc<dyn Store>> {
        self.chain.store(id)
    }
}

/// An image open for writing. Writes go to the image itself, never to its parents.
///
/// What was written survives a power cut once [`ImageMut::flush`] returned; [`ImageMut::close`]
/// leaves the file as its format wants a closed image to be.
#[derive(Debug)]
pub struct ImageMut {
    top: Box<dyn LayerMut>,
    below: Box<dyn Disk>,
    files: Vec<LayerFile>,
}

impl ImageMut {
    /// A layer that is already open, on what its parents hold.
    pub(crate) fn on(top: Box<dyn LayerMut>, below: Box<dyn Disk>) -> Self {
        Self { top, below, files: Vec::new() }
    }

    /// What the image is.
    #[must_use]
    pub fn info(&self) -> &LayerInfo {
        self.top.info()
    }

    /// The file of each layer, top first.
    #[must_use]
    pub fn files(&self) -> &[LayerFile] {
        &self.files
    }

    /// Device and inode of every file that may be written to, and of the parents' main files.
    pub(crate) fn host_ids(&self) -> Vec<(u64, u64)> {
        let written = self.top.stores().iter().filter_map(|store| store.host().map(HostFile::id));
        self.files.iter().map(|file| file.id).chain(written).collect()
    }

    /// What the parents hold.
    #[must_use]
    pub fn below(&self) -> &dyn Disk {
        &*self.below
    }

    /// The image itself and what its parents hold, to write to one while reading the other.
    pub(crate) fn split(&mut self) -> (&mut dyn LayerMut, &dyn Disk) {
        (&mut *self.top, &*self.below)
    }

    /// Writes `data` at guest byte `offset`.
    ///
    /// # Errors
    /// As [`LayerMut::write`].
    pub fn write_at(&mut self, data: &[u8], offset: u64) -> Result<()> {
        self.top.write(data, offset, &*self.below)
    }

    /// Makes a guest range read as zeros.
    ///
    /// # Errors
    /// As [`LayerMut::zero`].
    pub fn zero(&mut self, range: Range<u64>) -> Result<()> {
        self.top.zero(range, &*self.below)
    }

    /// Changes the virtual size in bytes.
    ///
    /// # Errors
    /// As [`LayerMut::resize`].
    pub fn resize(&mut self, virtual_size: u64) -> Result<()> {
        self.top.resize(virtual_size)
    }

    /// Returns once everything written before survives a power cut.
    ///
    /// # Errors
    /// As [`LayerMut::flush`].
    pub fn flush(&mut self) -> Result<()> {
        self.top.flush()
    }

    /// Flushes and closes the image cleanly.
    ///
    /// # Errors
    /// As [`LayerMut::close`].
    pub fn close(mut self) -> Result<()> {
        self.top.close()
    }
}

impl Disk for ImageMut {
    fn len(&self) -> u64 {
        self.top.info().virtual_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        vdisk_core::layer::read(&*self.top, &*self.below, buf, offset)
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        in_range(offset, end - offset, self.len())?;
        let found = self.top.extent_at(offset, end)?;
        let opaque = |depth, len| Extent { start: offset, len, depth, kind: ExtentKind::Opaque };
        let zero = |len, explicit| Extent { kind: ExtentKind::Zero { explicit }, ..opaque(0, len) };
        match found.kind {
            LayerKind::Zero { explicit } => Ok(zero(found.len, explicit)),
            LayerKind::Hole if offset >= self.below.len() => Ok(zero(found.len, false)),
            LayerKind::Hole => {
                let end = (offset + found.len).min(self.below.len());
                let below = self.below.extent_at(offset, end)?;
                Ok(match below.kind {
                    ExtentKind::Zero { .. } => Extent { depth: below.depth + 1, ..below },
                    _ => opaque(below.depth + 1, below.len),
                })
            }
            // Where data stands may change with the next write, so nobody is told.
            LayerKind::Data { .. } | LayerKind::Compressed(_) => Ok(opaque(0, found.len)),
        }
    }
}
