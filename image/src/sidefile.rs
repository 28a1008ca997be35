//! What a repair overwrote, in a file beside the image: the way back.
//!
//! The file begins with text that says what it is, and goes on, at the next multiple of 4096 bytes,
//! with the bytes. Each line `piece FILE OFFSET LENGTH AT SHA256` stands for one stretch of file
//! number FILE that was overwritten: its LENGTH bytes as they were stand at byte AT behind the
//! text, and right behind them the LENGTH bytes that replaced them; SHA256 is over both. Lines
//! `file FILE BEFORE LEAST MOST NAME` tell the files' lengths before and on the way, and lines
//! `between FILE OFFSET SHA256` a sector as it is for a moment only, while the repair goes on. The
//! last line,
//! `sum SHA256`, is over all lines before it. Stretches of zeros are holes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use vdisk_core::zeros::is_zero;
use vdisk_core::{
    Error, ErrorKind, Files, Host, HostFile, Opener, Output, Recorder, Result, Store, StoreExt, hex,
};

mod passed;

use passed::{Between, SECTOR, between, lengths, sectors};

const FIRST_LINE: &str = "vdisk repair 1";
const ABOUT: &str =
    "What `vdisk check -r` overwrote. The way back: vdisk check --undo THIS-FILE IMAGE";
/// Where the bytes begin: at the next multiple of this.
const ALIGNMENT: u64 = 4096;
/// Longest text read.
const MOST_TEXT: u64 = 64 << 20;
/// Bytes handled at a time.
const STEP: u64 = 1 << 20;
const WHAT: &str = "repair's side file";

/// A file of the image, and its lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Changed {
    before: u64,
    /// The shortest and longest that it is until the repair is done.
    least: u64,
    most: u64,
    name: String,
}

/// A stretch that was overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    file: usize,
    range: Range<u64>,
    /// Where its bytes stand, from the first byte behind the text.
    at: u64,
    digest: String,
}

/// The text at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Index {
    files: Vec<Changed>,
    pieces: Vec<Piece>,
    between: BTreeSet<Between>,
}

/// Saves beside `image` what the changes recorded would overwrite; the side file is durable when
/// its path is returned.
///
/// # Errors
/// The host's.
pub(crate) fn save(
    host: &Arc<dyn Host>,
    image: &Path,
    recorders: &[Arc<Recorder>],
) -> Result<PathBuf> {
    let path = free_name(image)?;
    let output = Output::on(host.clone(), &path, false);
    output
        .and_then(|output| save_as(output, image, recorders))
        .map_err(|error| error.hint("to go without a side file, add --no-backup"))?;
    Ok(path)
}

fn save_as(mut output: Output, image: &Path, recorders: &[Arc<Recorder>]) -> Result<()> {
    let mut index = Index::default();
    let mut room = 0;
    for (file, recorder) in recorders.iter().enumerate() {
        let before = recorder.base().size()?;
        let name = name_for(image, recorder.name(), file)?;
        let (least, most) = lengths(before, recorder);
        index.files.push(Changed { before, least, most, name });
        index.between.extend(between(file, recorder)?);
        for range in sectors(recorder.touched()) {
            let range = range.start..range.end.min(before);
            if !range.is_empty() {
                let (at, len) = (room, range.end - range.start);
                room += 2 * len;
                index.pieces.push(Piece { file, range, at, digest: digest_text(Sha256::new()) });
            }
        }
    }
    // Digests are all of one length, so the text has its length before they are known.
    let start = (index.text().len() as u64).next_multiple_of(ALIGNMENT);
    let name = output.main_name().to_owned();
    let store = output.create(&name)?;
    store.resize(start + room)?;
    for piece in &mut index.pieces {
        let Some(recorder) = recorders.get(piece.file) else { continue };
        let mut digest = Sha256::new();
        let len = piece.range.end - piece.range.start;
        let sides: [&dyn Store; 2] = [&**recorder.base(), &**recorder];
        for (side, to) in sides.into_iter().zip([piece.at, piece.at + len]) {
            for_steps(len, |skip, step| {
                let bytes = read_padded(side, piece.range.start + skip, step)?;
                digest.update(&bytes);
                match is_zero(&bytes) {
                    true => Ok(()),
                    false => store.put(&bytes, start + to + skip, WHAT),
                }
            })?;
        }
        piece.digest = digest_text(digest);
    }
    store.put(index.text().as_bytes(), 0, WHAT)?;
    output.commit()
}

/// What a way back did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Undone {
    /// Stretches put back.
    pub(crate) pieces: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// Puts back into the files of an image what the side file `path` holds; with `dry_run` only sees
/// that it could. `top` is the image's own file, the others are opened through `opener`.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) where the side file is damaged,
/// [`Refused`](ErrorKind::Refused) where the image was changed since the repair; the host's.
pub(crate) fn undo(
    path: &Path,
    top: &Arc<dyn Store>,
    opener: &dyn Opener,
    dry_run: bool,
) -> Result<Undone> {
    let side = HostFile::open(path)?;
    let (index, start) = Index::read(&side)?;
    let mut stores = Vec::with_capacity(index.files.len());
    for (number, file) in index.files.iter().enumerate() {
        let access = if dry_run { vdisk_core::Access::Read } else { vdisk_core::Access::Write };
        stores.push(match number {
            0 => top.clone(),
            _ => opener.open(&file.name, "extent", access)?,
        });
    }
    // Nothing is written before everything was looked at.
    for piece in &index.pieces {
        piece.verify(&side, start, &stores, &index.between)?;
    }
    for (file, store) in index.files.iter().zip(&stores) {
        if !(file.least..=file.most).contains(&store.size()?) {
            return Err(changed_since(&**store, 0));
        }
    }
    for (file, store) in index.files.iter().zip(&stores).filter(|_| !dry_run) {
        if store.size()? < file.before {
            store.resize(file.before)?;
        }
    }
    let mut undone = Undone::default();
    // From the end to the start: what stands at the end of a file may have a copy at its start,
    // which a repair mends first, and so it goes last.
    let mut begun = None;
    for piece in index.pieces.iter().rev() {
        undone.pieces += 1;
        undone.bytes += piece.len();
        if dry_run {
            continue;
        }
        piece.put_back(&side, start, &stores)?;
        if begun.replace(piece.file) != Some(piece.file) {
            piece.store(&stores)?.flush()?;
        }
    }
    for (file, store) in index.files.iter().zip(&stores).filter(|_| !dry_run) {
        store.flush()?;
        store.resize(file.before)?;
        store.flush()?;
    }
    Ok(undone)
}

impl Piece {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn store<'a>(&self, stores: &'a [Arc<dyn Store>]) -> Result<&'a dyn Store> {
        let store = stores.get(self.file).map(|store| &**store);
        store.ok_or_else(|| Error::corrupt(WHAT, 0, "a piece of a file that is not listed"))
    }

    /// Sees that the saved bytes are whole and that each sector of the image is as it was before
    /// the repair, after, or in between: both the repair and a way back may have been cut off.
    fn verify(
        &self,
        side: &HostFile,
        start: u64,
        stores: &[Arc<dyn Store>],
        between: &BTreeSet<Between>,
    ) -> Result<()> {
        let store = self.store(stores)?;
        let (mut digest, len) = (Sha256::new(), self.len());
        for half in 0..2 {
            for_steps(len, |skip, step| {
                digest.update(read(side, start + self.at + half * len + skip, step)?);
                Ok(())
            })?;
        }
        if digest_text(digest) != self.digest {
            return Err(Error::corrupt(WHAT, start + self.at, "the bytes do not fit their digest")
                .in_file(side.path()));
        }
        for_steps(len, |skip, step| {
            let old = read(side, start + self.at + skip, step)?;
            let new = read(side, start + self.at + len + skip, step)?;
            let now = read_padded(store, self.range.start + skip, step)?;
            let len = usize::try_from(SECTOR).unwrap_or(usize::MAX);
            let sectors = old.chunks(len).zip(new.chunks(len)).zip(now.chunks(len));
            let places = (self.range.start + skip..).step_by(len);
            for (((old, new), now), at) in sectors.zip(places) {
                let passed = || {
                    // The last sector of the piece may be cut by the old end of the file.
                    let digest = Sha256::new_with_prefix(read_padded(store, at, SECTOR)?);
                    let digest = digest_text(digest);
                    Ok(between.contains(&Between { file: self.file, at, digest }))
                };
                if now != old && now != new && !passed()? {
                    return Err(changed_since(store, at));
                }
            }
            Ok(())
        })
    }

    fn put_back(&self, side: &HostFile, start: u64, stores: &[Arc<dyn Store>]) -> Result<()> {
        let store = self.store(stores)?;
        for_steps(self.len(), |skip, step| {
            let (old, at) = (read(side, start + self.at + skip, step)?, self.range.start + skip);
            let inside = at.saturating_add(step) <= store.size()?;
            match is_zero(&old) && inside {
                true => store.clear(at, step, WHAT),
                false => store.put(&old, at, WHAT),
            }
        })
    }
}

impl Index {
    fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n{ABOUT}\n");
        for (number, Changed { before, least, most, name }) in self.files.iter().enumerate() {
            text += &format!("file {number} {before} {least} {most} {name}\n");
        }
        for Piece { file, range, at, digest } in &self.pieces {
            let len = range.end - range.start;
            text += &format!("piece {file} {} {len} {at} {digest}\n", range.start);
        }
        for Between { file, at, digest } in &self.between {
            text += &format!("between {file} {at} {digest}\n");
        }
        let sum = digest_text(Sha256::new_with_prefix(text.as_bytes()));
        format!("{text}sum {sum}\n")
    }

    /// The text, and where the bytes begin.
    fn read(side: &HostFile) -> Result<(Self, u64)> {
        let no_side_file =
            || Error::refused("is no side file of a repair, or a damaged one").in_file(side.path());
        let size = side.size()?;
        let bytes = read(side, 0, size.min(MOST_TEXT))?;
        let mark = b"\nsum ";
        let sum = bytes.windows(mark.len()).position(|part| part == mark);
        // The line's 64 digits and its end.
        let end = sum.map(|at| at + mark.len() + 65).filter(|end| *end <= bytes.len());
        let text = bytes.get(..end.ok_or_else(no_side_file)?).unwrap_or_default();
        let index =
            std::str::from_utf8(text).ok().and_then(Self::parse).ok_or_else(no_side_file)?;
        let start = (text.len() as u64).next_multiple_of(ALIGNMENT);
        if index.text().as_bytes() != text {
            return Err(no_side_file());
        }
        let fits = |piece: &Piece| {
            let end = piece.len().checked_mul(2)?.checked_add(piece.at)?.checked_add(start)?;
            (end <= size && piece.file < index.files.len()).then_some(())
        };
        if index.pieces.iter().any(|piece| fits(piece).is_none()) || index.files.is_empty() {
            return Err(no_side_file());
        }
        Ok((index, start))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next() == Some(FIRST_LINE)).then_some(())?;
        lines.next()?;
        let mut index = Self::default();
        for line in lines {
            let (kind, rest) = line.split_once(' ')?;
            match kind {
                "file" => {
                    let mut words = rest.splitn(5, ' ').skip(1);
                    let [before, least, most] =
                        [words.next()?, words.next()?, words.next()?].map(str::parse::<u64>);
                    let (before, least, most) = (before.ok()?, least.ok()?, most.ok()?);
                    let name = words.next()?.to_owned();
                    index.files.push(Changed { before, least, most, name });
                }
                "piece" => {
                    let mut words = rest.split(' ');
                    let file = words.next()?.parse().ok()?;
                    let [start, len, at] =
                        [words.next()?, words.next()?, words.next()?].map(str::parse::<u64>);
                    let (start, len, at) = (start.ok()?, len.ok()?, at.ok()?);
                    let range = start..start.checked_add(len)?;
                    let digest = words.next()?.to_owned();
                    index.pieces.push(Piece { file, range, at, digest });
                }
                "between" => {
                    let mut words = rest.split(' ');
                    let (file, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                    let digest = words.next()?.to_owned();
                    index.between.insert(Between { file, at, digest });
                }
                "sum" => return Some(index),
                _ => return None,
            }
        }
        None
    }
}

fn changed_since(store: &dyn Store, at: u64) -> Error {
    Error::new(ErrorKind::Refused, "the image was changed after the repair")
        .at("image", at)
        .in_file(store.name())
        .hint("putting the old bytes back now would mix two states; nothing was changed")
}

/// `IMAGE.vdisk-repair-N` with the first N that is free.
fn free_name(image: &Path) -> Result<PathBuf> {
    for number in 1..10_000 {
        let mut name = image.file_name().unwrap_or_default().to_owned();
        name.push(format!(".vdisk-repair-{number}"));
        let path = image.with_file_name(name);
        if path.symlink_metadata().is_err() {
            return Ok(path);
        }
    }
    Err(Error::refused("there are too many side files of earlier repairs")
        .in_file(image)
        .hint("move IMAGE.vdisk-repair-* away"))
}

/// How the side file calls a file of the image: as seen from the image's folder, if it lies there.
fn name_for(image: &Path, file: &Path, number: usize) -> Result<String> {
    let folder = crate::gate::folder_of(image);
    let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let name = match number {
        0 => Path::new(image.file_name().unwrap_or_default()),
        _ => real.strip_prefix(&folder).unwrap_or(&real),
    };
    let text = name.to_str().filter(|name| !name.contains('\n'));
    text.map(str::to_owned).ok_or_else(|| {
        Error::unsupported("its name has a line break or is not UTF-8, so no side file can tell it")
            .in_file(file)
            .hint("rename it, or go without a side file: --no-backup")
    })
}

/// Calls `each(offset, length)` for pieces of `len` bytes.
fn for_steps(len: u64, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
    let mut done = 0;
    while done < len {
        let step = STEP.min(len - done);
        each(done, step)?;
        done += step;
    }
    Ok(())
}

fn read(store: &dyn Store, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    store.fetch(&mut bytes, at, WHAT)?;
    Ok(bytes)
}

/// Reads, with zeros where the store ends.
fn read_padded(store: &dyn Store, at: u64, len: u64) -> Result<Vec<u8>> {
    let there = store.size()?.saturating_sub(at).min(len);
    let mut bytes = if there > 0 { read(store, at, there)? } else { Vec::new() };
    bytes.resize(usize::try_from(len).unwrap_or_default(), 0);
    Ok(bytes)
}

fn digest_text(digest: Sha256) -> String {
    hex(&digest.finalize())
}
