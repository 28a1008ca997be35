//! An index of a file as its entries in order, whatever tree they stand in.

use std::collections::BTreeSet;

use vdisk_core::Result;

use vdisk_guest::ntfs::{
    Content, INDEX_ALLOCATION, INDEX_ROOT, damaged, le16, le32, le64, opened, put, sealed,
};

use super::Ntfs;

const STRUCTURE: &str = "NTFS index";
/// Levels of a tree, at most.
const DEPTH: usize = 16;
/// Flags of an entry: it has a node below it; it is the last of its node.
const BELOW: usize = 1;
const LAST: usize = 2;
/// Where the header of a node stands: behind that of the root, and of a block.
const ROOT_HEADER: usize = 16;
const BLOCK_HEADER: usize = 24;
/// Where the key of an entry stands.
const KEY: usize = 16;

/// An index, read whole.
#[derive(Debug)]
pub(super) struct Index {
    allocation: Option<Content>,
    root: Content,
    nodes: Vec<Node>,
    /// The entries in order: their node, and where they begin in it.
    slots: Vec<(usize, usize)>,
}

#[derive(Debug)]
struct Node {
    /// Byte of the allocation; none for the root.
    place: Option<u64>,
    bytes: Vec<u8>,
    changed: bool,
}

impl Index {
    /// The index of this name of a file; none where it has none.
    pub(super) fn read(ntfs: &Ntfs, file: u64, name: &str) -> Result<Option<Self>> {
        let Some(root) = ntfs.attribute(file, INDEX_ROOT, name)? else { return Ok(None) };
        let allocation = ntfs.attribute(file, INDEX_ALLOCATION, name)?;
        let bytes = ntfs.content(&root)?;
        let blocks = allocation.as_ref().map(|found| ntfs.content(found)).transpose()?;
        let mut index = Self { allocation, root, nodes: Vec::new(), slots: Vec::new() };
        let mut seen = BTreeSet::new();
        let root = Node { place: None, bytes, changed: false };
        index.walk(ntfs, root, blocks.as_deref().unwrap_or_default(), &mut seen, 0)?;
        Ok(Some(index))
    }

    /// Keys and data of the entries, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.slots.iter().filter_map(|(node, at)| {
            let entry = self.nodes.get(*node)?.bytes.get(*at..)?;
            let key = entry.get(KEY..)?.get(..le16(entry, 10))?;
            Some((key, entry.get(le16(entry, 0)..)?.get(..le16(entry, 2))?))
        })
    }

    /// Puts other keys and data into the entries, in order: as many as there are, and each as long
    /// as what stands there. The tree keeps its shape.
    pub(super) fn refill(&mut self, entries: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let wrong = || damaged(STRUCTURE, 0, "its entries have other lengths than they should");
        if entries.len() != self.slots.len() {
            return Err(wrong());
        }
        for ((node, at), (key, data)) in self.slots.iter().zip(entries) {
            let node = self.nodes.get_mut(*node).ok_or_else(wrong)?;
            let entry = node.bytes.get_mut(*at..).ok_or_else(wrong)?;
            let place = le16(entry, 0);
            if le16(entry, 10) != key.len() || le16(entry, 2) != data.len() {
                return Err(wrong());
            }
            let before = entry.to_vec();
            put(entry, KEY, key).and_then(|()| put(entry, place, data)).ok_or_else(wrong)?;
            node.changed |= before != entry;
        }
        Ok(())
    }

    /// Writes the nodes that changed.
    pub(super) fn write(&self, ntfs: &Ntfs) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.changed) {
            match (node.place, &self.allocation) {
                (None, _) => ntfs.write_content(&self.root, 0, &node.bytes)?,
                (Some(at), Some(allocation)) => {
                    let bytes = sealed(&node.bytes)
                        .ok_or_else(|| damaged(STRUCTURE, at, "a block cannot be written"))?;
                    ntfs.write_content(allocation, at, &bytes)?;
                }
                (Some(_), None) => {}
            }
        }
        Ok(())
    }

    /// Adds the entries of a node and of those below it, in order.
    fn walk(
        &mut self,
        ntfs: &Ntfs,
        node: Node,
        blocks: &[u8],
        seen: &mut BTreeSet<u64>,
        depth: usize,
    ) -> Result<()> {
        let place = node.place.unwrap_or_default();
        let wrong = |what: &str| damaged(STRUCTURE, place, what);
        if depth > DEPTH || node.place.is_some_and(|place| !seen.insert(place)) {
            return Err(wrong("its nodes lead round in circles"));
        }
        let header = if node.place.is_some() { BLOCK_HEADER } else { ROOT_HEADER };
        let number =
            |at: usize| usize::try_from(le32(&node.bytes, header + at)).unwrap_or_default();
        let end = header.saturating_add(number(4));
        let mut at = header.saturating_add(number(0));
        let bytes = node.bytes.clone();
        let this = self.nodes.len();
        self.nodes.push(node);
        loop {
            let entry = bytes.get(..end).and_then(|bytes| bytes.get(at..));
            let entry = entry.ok_or_else(|| wrong("a node ends before its last entry"))?;
            let (len, flags) = (le16(entry, 8), le16(entry, 12));
            let whole = entry.get(..len).filter(|entry| entry.len() >= KEY);
            let entry = whole.ok_or_else(|| wrong("an entry is longer than its node"))?;
            if flags & BELOW != 0 {
                let place = self.below(ntfs, entry)?;
                let block = usize::try_from(place).ok().and_then(|at| blocks.get(at..));
                let block = block.and_then(|block| block.get(..ntfs.boot().index));
                let block = block.and_then(|block| opened(block.to_vec(), b"INDX"));
                let bytes = block.ok_or_else(|| wrong("a block is torn or none"))?;
                let node = Node { place: Some(place), bytes, changed: false };
                self.walk(ntfs, node, blocks, seen, depth + 1)?;
            }
            if flags & LAST != 0 {
                return Ok(());
            }
            self.slots.push((this, at));
            at += len;
        }
    }

    /// Where the node below an entry stands in the allocation.
    fn below(&self, ntfs: &Ntfs, entry: &[u8]) -> Result<u64> {
        // Blocks smaller than a cluster are counted in units of 512 bytes.
        let unit =
            if ntfs.boot().index as u64 >= ntfs.boot().cluster { ntfs.boot().cluster } else { 512 };
        let at = entry.len().checked_sub(8).filter(|at| *at >= KEY);
        let at = at.ok_or_else(|| damaged(STRUCTURE, 0, "an entry does not say what is below"))?;
        Ok(le64(entry, at).saturating_mul(unit))
    }
}
