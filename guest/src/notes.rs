//! Damage met on the way: noted, so that the rest can still be told.

use std::cell::RefCell;

use vdisk_core::{Error, ErrorKind, Result};

/// As many as are kept of one volume: one damaged table can make every path fail.
const MOST: usize = 16;

/// What went wrong while something was looked at.
#[derive(Debug, Default)]
pub(crate) struct Notes(RefCell<Vec<String>>);

impl Notes {
    /// What came out, where it did.
    pub(crate) fn take<T>(&self, done: Result<T>) -> Option<T> {
        done.map_err(|error| self.add(error.to_string())).ok()
    }

    /// As [`Notes::take`]; what is just not there is nothing to note.
    pub(crate) fn found<T>(&self, done: Result<T>) -> Option<T> {
        done.map_err(|error| {
            if !is_absence(&error) {
                self.add(error.to_string());
            }
        })
        .ok()
    }

    pub(crate) fn add(&self, message: impl Into<String>) {
        let mut notes = self.0.borrow_mut();
        let message = message.into();
        if notes.len() < MOST && !notes.contains(&message) {
            notes.push(message);
        }
    }

    pub(crate) fn into_list(self) -> Vec<String> {
        self.0.into_inner()
    }
}

/// Nothing is there, or a link leads to another volume, or what should be a folder is none.
fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Usage)
}
