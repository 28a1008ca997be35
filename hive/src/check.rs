//! Checking a hive: every rule, with a stable code for each.
//!
//! What keeps a hive from being opened at all (its base block, bins, and the sizes of cells) is
//! reported by [`Hive::parse`] and so has no code here.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use vdisk_core::{Error, Findings, Severity};

use crate::bytes::index;
use crate::hive::Hive;
use crate::image::{Cell, Image, Marks, Offset};
use crate::key::MAX_DEPTH;
use crate::list::{Leaf, LeafKind, SubkeyList, value_list};
use crate::name::Name;
use crate::node::{Node, Shared, nk};
use crate::value::Value;

impl Hive {
    /// Walks all of the hive and tells every rule that is broken.
    ///
    /// Codes of corruptions: `hive-key`, `hive-key-parent`, `hive-key-depth`, `hive-subkey-list`,
    /// `hive-subkey-order`, `hive-subkey-hash`, `hive-class`, `hive-value-list`, `hive-value`,
    /// `hive-value-data`, `hive-security`, `hive-security-list`, `hive-security-count`,
    /// `hive-cell-missing`, `hive-cell-shared`.
    ///
    /// Of leaks: `hive-orphan-cell`, `hive-security-unused`.
    ///
    /// Of notes: `hive-dirty`, `hive-key-longest`, `hive-duplicate-value`, `hive-security-missing`,
    /// `hive-list-kind`.
    ///
    /// Whoever reads all of a hive that may be hostile does well to check it first: in a sound one no
    /// two keys share a list or data, so all of it together is no more than the file.
    #[must_use]
    pub fn check(&self) -> Findings {
        let mut checker = Checker::of(self);
        if self.base.is_dirty() {
            checker.note("hive-dirty", 4, "the hive was not written to the end");
        }
        checker.tree(self.root_at());
        checker.securities(self.root_at());
        checker.orphans();
        checker.findings
    }
}

struct Checker<'h> {
    hive: &'h Hive,
    image: &'h Image,
    findings: Findings,
    /// Cells that something refers to.
    used: Marks,
    /// How many keys use each security cell.
    users: BTreeMap<Offset, u32>,
    /// Entries of lists that may still be read. A sound hive has a cell for each of them; one where
    /// many keys share a list would take for ever.
    entries: usize,
}

impl<'h> Checker<'h> {
    fn of(hive: &'h Hive) -> Self {
        let (findings, used, users) = (Findings::new(), Marks::new(), BTreeMap::new());
        let entries = index(hive.image.bins_size) / 8;
        Self { hive, image: &hive.image, findings, used, users, entries }
    }

    fn note(&mut self, code: &'static str, at: u64, message: impl Into<String>) {
        self.findings.add(Severity::Note, code, at, message);
    }

    fn broken(&mut self, code: &'static str, error: &Error) {
        let message = error.message();
        let structure = error.structure().unwrap_or("hive");
        self.findings.corruption(code, error.offset(), format!("{structure}: {message}"));
    }

    /// Takes a cell for its one user; `false` where there is none, or it has a user already.
    fn take(&mut self, at: Offset, user: Offset) -> bool {
        if !self.image.starts.has(at) {
            let message = format!("the cell at byte {} leads to no allocated cell", user.in_file());
            self.findings.corruption("hive-cell-missing", at.in_file(), message);
            return false;
        }
        let new = self.used.set(at);
        if !new {
            let message = format!("is used a second time by the cell at byte {}", user.in_file());
            self.findings.corruption("hive-cell-shared", at.in_file(), message);
        }
        new
    }

    /// Counts the entries of a list that was read; `false` where there were more than the hive has
    /// cells.
    fn count(&mut self, entries: usize) -> bool {
        let left = self.entries.checked_sub(entries);
        self.entries = left.unwrap_or_default();
        left.is_some()
    }

    fn tree(&mut self, root: Offset) {
        self.take(root, root);
        let mut open = vec![(root, 0)];
        while let Some((at, depth)) = open.pop() {
            if self.entries == 0 {
                let message = "lists name more cells than there are; not all of them were checked";
                return self.findings.corruption("hive-cell-shared", at.in_file(), message);
            }
            let node = match Node::parse(self.image, at) {
                Ok(node) => node,
                Err(error) => {
                    self.broken("hive-key", &error);
                    continue;
                }
            };
            self.class(&node);
            self.values(&node);
            self.security(&node);
            let subkeys = self.subkeys(&node);
            if depth >= MAX_DEPTH && !subkeys.is_empty() {
                let message = format!("has sub-keys below a depth of {MAX_DEPTH}");
                self.findings.corruption("hive-key-depth", at.in_file(), message);
                continue;
            }
            open.extend(subkeys.into_iter().map(|key| (key, depth + 1)));
        }
    }

    fn class(&mut self, node: &Node<'h>) {
        match node.class_bytes(self.image) {
            Ok([]) => {}
            Ok(_) => drop(node.class.map(|at| self.take(at, node.at))),
            Err(error) => self.broken("hive-class", &error),
        }
    }

    /// Checks the list of sub-keys; those that no other key has.
    fn subkeys(&mut self, node: &Node<'h>) -> Vec<Offset> {
        let list = match SubkeyList::read(self.image, node.list, node.subkeys) {
            Ok(list) => list,
            Err(error) => {
                let at = error.offset().unwrap_or(node.at.in_file());
                self.broken("hive-subkey-list", &error.at("registry sub-key list", at));
                return Vec::new();
            }
        };
        let mut cells = list.root.into_iter().chain(list.leaves.iter().map(|leaf| leaf.at));
        let taken = cells.all(|at| self.take(at, node.at));
        if !self.count(list.len()) || !taken {
            return Vec::new();
        }
        let mut keys = Vec::new();
        let mut before: Option<Name> = None;
        let mut longest = 0;
        for leaf in &list.leaves {
            self.kind(leaf);
            for entry in &leaf.entries {
                if !self.take(entry.key, leaf.at) {
                    continue;
                }
                keys.push(entry.key);
                let Ok(key) = Node::parse(self.image, entry.key) else { continue };
                if key.parent != node.at.0 {
                    let at = Offset(key.parent).in_file();
                    let message = format!("names the key at byte {at} as its parent, not its own");
                    self.findings.corruption("hive-key-parent", key.at.in_file(), message);
                }
                let name = key.name();
                if before.is_some_and(|before| before.order(&name) != Ordering::Less) {
                    let message = format!("\"{name}\" is not behind the name before it");
                    self.findings.corruption("hive-subkey-order", leaf.at.in_file(), message);
                }
                let found_by = leaf.kind.key_of(&name);
                // A hint that begins with zero says that the key itself must be looked at.
                let unhinted = leaf.kind == LeafKind::Hint && entry.found_by.starts_with(&[0]);
                if leaf.kind != LeafKind::Plain && entry.found_by != found_by && !unhinted {
                    let message = format!(
                        "keeps {:02x?} for \"{name}\", which gives {found_by:02x?}",
                        entry.found_by
                    );
                    self.findings.corruption("hive-subkey-hash", leaf.at.in_file(), message);
                }
                longest = longest.max(name.units().len() * 2);
                before = Some(name);
            }
        }
        // The upper half of the field holds other flags.
        self.longest(node, nk::LONGEST_NAME, 0xffff, longest);
        keys
    }

    fn kind(&mut self, leaf: &Leaf) {
        if leaf.kind == LeafKind::Hash && self.hive.base.minor < 5 {
            let message = format!("a hashed list in a hive of version 1.{}", self.hive.base.minor);
            self.note("hive-list-kind", leaf.at.in_file(), message);
        }
    }

    fn longest(&mut self, node: &Node<'h>, field: usize, mask: u32, longest: usize) {
        let told = self.image.cell(Node::STRUCTURE, node.at);
        let told = told.and_then(|cell: Cell<'_>| cell.u32(Node::STRUCTURE, field));
        if told.is_ok_and(|told| index(told & mask) < longest) {
            let message = format!("the field at {field} is below the {longest} bytes there are");
            self.note("hive-key-longest", node.at.in_file(), message);
        }
    }

    fn values(&mut self, node: &Node<'h>) {
        let list = match value_list(self.image, node.value_list, node.values) {
            Ok(list) => list,
            Err(error) => {
                let at = error.offset().unwrap_or(node.at.in_file());
                return self.broken("hive-value-list", &error.at("registry value list", at));
            }
        };
        let taken = list.is_empty() || node.value_list.is_some_and(|at| self.take(at, node.at));
        if !self.count(list.len()) || !taken {
            return;
        }
        let mut names = BTreeSet::new();
        let (mut longest_name, mut longest_data) = (0, 0);
        for at in list {
            if !self.take(at, node.at) {
                continue;
            }
            let value = match Value::load(self.image, at) {
                Ok(value) => value,
                Err(error) => {
                    self.broken("hive-value", &error);
                    continue;
                }
            };
            match value.data_cells() {
                Ok(cells) => {
                    let taken = cells.iter().all(|cell| self.take(*cell, at));
                    if let (true, Err(error)) = (taken, value.data().map(drop)) {
                        self.broken("hive-value-data", &error);
                    }
                    if !self.count(cells.len()) {
                        return;
                    }
                }
                Err(error) => self.broken("hive-value-data", &error),
            }
            let name = value.name();
            longest_name = longest_name.max(name.units().len() * 2);
            longest_data = longest_data.max(index(value.len()));
            if !names.insert(name.to_upper()) {
                let message = format!("\"{name}\" is there twice");
                self.note("hive-duplicate-value", at.in_file(), message);
            }
        }
        self.longest(node, nk::LONGEST_VALUE_NAME, u32::MAX, longest_name);
        self.longest(node, nk::LONGEST_VALUE_DATA, u32::MAX, longest_data);
    }

    fn security(&mut self, node: &Node<'h>) {
        match node.security {
            Some(at) => *self.users.entry(at).or_default() += 1,
            None => self.note("hive-security-missing", node.at.in_file(), "has no descriptor"),
        }
    }

    /// The ring of security cells, against the keys that use them.
    fn securities(&mut self, root: Offset) {
        let users = std::mem::take(&mut self.users);
        let first = Node::parse(self.image, root).ok().and_then(|node| node.security);
        let ring = match first.map(|first| Shared::ring(self.image, first)) {
            Some(Ok(ring)) => ring,
            Some(Err(error)) => return self.broken("hive-security-list", &error),
            None => Vec::new(),
        };
        let mut known = BTreeSet::new();
        let mut previous = ring.last().map(|last| last.at);
        for shared in &ring {
            let at = shared.at;
            known.insert(at);
            self.take(at, previous.unwrap_or(at));
            if Some(shared.previous) != previous {
                let message = "does not name the one before it";
                self.findings.corruption("hive-security-list", at.in_file(), message);
            }
            previous = Some(at);
            let (told, true_count) = (shared.references, users.get(&at).copied().unwrap_or(0));
            let message = format!("counts {told} keys, and {true_count} use it");
            match told.cmp(&true_count) {
                Ordering::Less => {
                    self.findings.corruption("hive-security-count", at.in_file(), message);
                }
                Ordering::Greater => {
                    let (severity, code) = (Severity::Leak, "hive-security-unused");
                    self.findings.add(severity, code, at.in_file(), message);
                }
                Ordering::Equal => {}
            }
        }
        for at in users.keys().filter(|at| !known.contains(at)) {
            let message = "is used by keys, and is no security cell of the ring";
            self.findings.corruption("hive-security", at.in_file(), message);
        }
    }

    fn orphans(&mut self) {
        let mut orphans = Vec::new();
        let walked = self.image.each_cell(|cell| {
            if cell.allocated && !self.used.has(cell.at) {
                orphans.push(cell);
            }
        });
        if let Err(error) = walked {
            self.broken("hive-key", &error);
        }
        for cell in orphans {
            let message = format!("{} bytes are allocated, and nothing refers to them", cell.size);
            self.findings.add(Severity::Leak, "hive-orphan-cell", cell.at.in_file(), message);
        }
    }
}
