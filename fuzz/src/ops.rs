//! What changes chains in place, against plain vectors of bytes.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vdisk::{
    Change, CommitRequest, CompactRequest, Disk, Error, Format, Image, NewImage, OpenOptions,
    RebaseRequest, RepairRequest, Scope, Watch,
};
use vdisk_core::{MemStore, StoreExt};
use vdisk_testkit::exercise::{assert_error, patch};

use crate::chain::shared_memory;

/// Longest chain.
const DEPTH: usize = 4;

/// The first byte says which format, then each four bytes are an operation, until one changes a
/// file behind the back of the program: the rest are such changes, and one more command is run.
pub fn chain_ops(input: &[u8]) {
    let Some((&first, mut rest)) = input.split_first() else { return };
    let format = [Format::Vhd, Format::Vhdx, Format::Vmdk][usize::from(first % 3)];
    let mut chain = Chain::new(format);
    for _ in 0..24 {
        let Some((&[op, a, b, c], tail)) = rest.split_first_chunk::<4>() else { break };
        rest = tail;
        if op % 16 == 15 {
            return chain.damaged(a, b, rest);
        }
        chain.step(op % 16, [a, b, c]);
    }
    chain.assert_views();
}

struct Chain {
    format: Format,
    folder: TempDir,
    /// Base first, with what each reads like.
    images: Vec<(PathBuf, Vec<u8>)>,
    made: usize,
}

impl Chain {
    fn new(format: Format) -> Self {
        let folder = tempfile::tempdir_in(shared_memory()).expect("a folder");
        let mut chain = Self { format, folder, images: Vec::new(), made: 0 };
        let size = if format == Format::Vhdx { 2 << 20 } else { 300 << 10 };
        let path = chain.free_path();
        let mut new = NewImage::new(format, size);
        new.set_list(chain.list()).expect("options");
        vdisk::create(&path, &new, false).expect("a base");
        chain.images.push((path, vec![0; size as usize]));
        chain
    }

    fn list(&self) -> &'static str {
        match self.format {
            Format::Vhd => "block_size=16k",
            Format::Vhdx => "block_size=1M",
            _ => "",
        }
    }

    fn free_path(&mut self) -> PathBuf {
        self.made += 1;
        let folder = self.folder.path().canonicalize().expect("a folder");
        folder.join(format!("{}.{}", self.made, self.format))
    }

    fn top(&self) -> usize {
        self.images.len() - 1
    }

    fn step(&mut self, op: u8, args: [u8; 3]) {
        let [a, b, c] = args.map(usize::from);
        let top = self.top();
        let done = match op {
            0 if self.images.len() < DEPTH => self.add_child(),
            0..=3 => self.write(a, b, c),
            4 => self.zero(a, b, c),
            5 | 6 if top > 0 => self.commit(a % top),
            7 | 8 if top > 0 => self.rebase(a, b),
            9 => compact(&self.images[a % (top + 1)].0),
            10 => self.edit(a, b, c),
            11 => mend(&self.images[a % (top + 1)].0, b % 2 == 0),
            12 => self.replace_base_link(),
            _ => Ok(()),
        };
        done.unwrap_or_else(|error| panic!("{op} {args:?}: {error}"));
        self.assert_view(self.top());
    }

    fn add_child(&mut self) -> Result<(), Error> {
        let path = self.free_path();
        let list = match self.format {
            Format::Vmdk => Vec::new(),
            _ => vec![self.list().to_owned()],
        };
        let (parent, view) = self.images.last().expect("a base").clone();
        vdisk::create_child(&path, self.format, &parent, &OpenOptions::new(), &list, false)?;
        self.images.push((path, view));
        Ok(())
    }

    /// A range of the disk.
    fn range(&self, a: usize, b: usize, c: usize) -> std::ops::Range<usize> {
        let len = self.images[0].1.len();
        let start = len / 256 * a + b * 3;
        start..(start + 1 + c * [1, 97, 1031][b % 3]).min(len)
    }

    fn write(&mut self, a: usize, b: usize, c: usize) -> Result<(), Error> {
        let range = self.range(a, b, c);
        let (path, view) = self.images.last_mut().expect("a base");
        view[range.clone()].fill(c as u8);
        let mut image = OpenOptions::new().open_rw(path.as_path())?;
        image.write_at(&view[range.clone()], range.start as u64)?;
        image.close()
    }

    fn zero(&mut self, a: usize, b: usize, c: usize) -> Result<(), Error> {
        let range = self.range(a, b, c);
        let (path, view) = self.images.last_mut().expect("a base");
        view[range.clone()].fill(0);
        let mut image = OpenOptions::new().open_rw(path.as_path())?;
        image.zero(range.start as u64..range.end as u64)?;
        image.close()
    }

    /// What is between goes: its parent has changed.
    fn commit(&mut self, target: usize) -> Result<(), Error> {
        let top = self.top();
        let into = Some(self.images[target].0.as_path());
        let request = CommitRequest { into, threads: 1, ..CommitRequest::default() };
        let path = &self.images[top].0;
        vdisk::commit(path, &OpenOptions::new(), &request, Watch::default())?;
        self.images[target].1 = self.images[top].1.clone();
        self.drop_between(target);
        Ok(())
    }

    fn rebase(&mut self, a: usize, b: usize) -> Result<(), Error> {
        let (top, parent) = (self.top(), a % self.top());
        let link_only = parent + 1 == top && b % 2 == 1;
        let request =
            RebaseRequest { threads: 1, link_only, ..RebaseRequest::new(&self.images[parent].0) };
        vdisk::rebase(&self.images[top].0, &OpenOptions::new(), &request, Watch::default())?;
        self.drop_between(parent);
        Ok(())
    }

    /// Removes the images between `below` and the top.
    fn drop_between(&mut self, below: usize) {
        let top = self.top();
        for (path, _) in self.images.drain(below + 1..top) {
            std::fs::remove_file(path).expect("it is ours");
        }
    }

    fn edit(&mut self, a: usize, b: usize, c: usize) -> Result<(), Error> {
        let ranges = [self.range(a, b, c), self.range(c, a, b)];
        let (path, view) = self.images.last_mut().expect("a base");
        for range in &ranges {
            view[range.clone()].fill(b as u8);
        }
        let changes =
            ranges.map(|range| Change { offset: range.start as u64, bytes: view[range].to_vec() });
        vdisk::edit(path, &OpenOptions::new(), &changes, false).map(drop)
    }

    /// The base gets another name, and its child learns it.
    fn replace_base_link(&mut self) -> Result<(), Error> {
        let path = self.free_path();
        std::fs::rename(&self.images[0].0, &path).expect("a new name");
        self.images[0].0 = path;
        let Some((child, _)) = self.images.get(1) else { return Ok(()) };
        let parent = &self.images[0].0;
        let request = RebaseRequest { threads: 1, link_only: true, ..RebaseRequest::new(parent) };
        vdisk::rebase(child, &OpenOptions::new(), &request, Watch::default()).map(drop)
    }

    /// One of the files is changed, and a command run: it may fail, with words, and leaves alone
    /// what is not its own.
    fn damaged(&self, which: u8, command: u8, changes: &[u8]) {
        let top = self.top();
        let hit = usize::from(which) % self.images.len();
        let store = MemStore::from_bytes("x", &std::fs::read(&self.images[hit].0).expect("ours"));
        let anchors = match self.format {
            Format::Vhd => vec![0, 16, 512, 528, 1088, 1536],
            Format::Vhdx => vec![64 << 10, 128 << 10, 192 << 10, 2 << 20, 3 << 20],
            _ => vec![0, 12, 44, 56, 512, 21 * 512, 22 * 512, 26 * 512],
        };
        patch(&store, &anchors, changes);
        match self.format {
            Format::Vhd => crate::seal::vhd(&store),
            Format::Vhdx => crate::seal::vhdx(&store),
            _ => {}
        }
        if store.size().expect("memory") > 16 << 20 {
            return;
        }
        std::fs::write(&self.images[hit].0, store.to_bytes()).expect("room");
        let files: Vec<Vec<u8>> =
            self.images.iter().map(|(path, _)| std::fs::read(path).expect("ours")).collect();
        let path = &self.images[top].0;
        let open = OpenOptions::new();
        // The files that the command may write to.
        let (done, own) = match command % 6 {
            0 if top > 0 => {
                let request = CommitRequest { threads: 1, ..CommitRequest::default() };
                (vdisk::commit(path, &open, &request, Watch::default()).map(drop), top - 1)
            }
            1 if top > 1 => {
                let parent = &self.images[0].0;
                let request = RebaseRequest { threads: 1, ..RebaseRequest::new(parent) };
                (vdisk::rebase(path, &open, &request, Watch::default()).map(drop), top)
            }
            2 => (compact(path), top),
            3 => {
                let change = Change { offset: 1000, bytes: vec![9; 7000] };
                (vdisk::edit(path, &open, &[change], true).map(drop), top)
            }
            4 => (mend(path, false), top),
            _ => (Image::open(path).map(drop), top + 1),
        };
        if let Err(error) = done {
            assert_error(&error);
        }
        for ((path, _), before) in self.images.iter().zip(&files).take(own) {
            assert!(std::fs::read(path).expect("ours") == *before, "{}", path.display());
        }
    }

    fn assert_views(&self) {
        (0..=self.top()).for_each(|index| self.assert_view(index));
    }

    fn assert_view(&self, index: usize) {
        let (path, view) = &self.images[index];
        let image = Image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(image.len(), view.len() as u64);
        let mut bytes = vec![0xEE; view.len()];
        image.read_at(&mut bytes, 0).expect("a sound image");
        assert!(bytes == *view, "{} reads otherwise", path.display());
    }
}

fn compact(path: &Path) -> Result<(), Error> {
    let request = CompactRequest { threads: 1, ..CompactRequest::default() };
    vdisk::compact(path, &OpenOptions::new(), &request, Watch::default()).map(drop)
}

fn mend(path: &Path, sound: bool) -> Result<(), Error> {
    let request = RepairRequest { scope: Scope::All, dry_run: false, backup: false };
    let report = vdisk::repair(path, &OpenOptions::new(), request)?;
    assert!(!sound || report.corruptions == 0, "{:?}", report.findings);
    Ok(())
}
