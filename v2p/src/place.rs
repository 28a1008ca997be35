//! What a write leaves for the next run to go on with.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vdisk::{Change, Error, ErrorKind, Result};
use vdisk_core::hex;
use vdisk_p2v::state::{self, JobFolder};

use crate::fit::Shrunk;

const STATE: &str = "state.json";
const CHANGES: &str = "changes";
const SCRATCH: &str = "scratch.img";

/// How far a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// It is known what the disk will be; bytes are being written.
    Writing,
    /// The host's programs change the disk: what is on it is not what was written any more.
    Growing,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct State {
    pub(crate) schema: String,
    pub(crate) phase: Phase,
    /// Of which image, onto which disk, with which options.
    pub(crate) job: String,
    /// Up to which byte the disk is written.
    pub(crate) done: u64,
    /// What is written over the image: offset and length of each change in the file `changes`.
    pub(crate) changes: Vec<(u64, u64)>,
    /// Of that file.
    pub(crate) digest: String,
    pub(crate) shrunk: Option<Shrunk>,
    pub(crate) grow: Option<u32>,
    pub(crate) steps: Vec<String>,
}

/// The folder of one write, which nobody else works in.
#[derive(Debug)]
pub(crate) struct Place {
    folder: JobFolder,
}

impl Place {
    pub(crate) fn enter(folder: &Path) -> Result<Self> {
        let folder = JobFolder::enter(folder).map_err(|error| match error.kind() {
            ErrorKind::InUse => error.hint("another run of vdisk v2p writes to the same disk"),
            _ => error.hint("name a folder that can be written to with --state DIR"),
        })?;
        Ok(Self { folder })
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder.path().join(SCRATCH)
    }

    /// What an earlier run of the same job left, if all of it is there.
    pub(crate) fn load(&self, schema: &str, job: &str) -> Option<(State, Vec<Change>)> {
        let state: State = state::load(&self.folder.path().join(STATE)).ok()??;
        if state.schema != schema || state.job != job {
            return None;
        }
        let bytes = fs::read(self.folder.path().join(CHANGES)).ok()?;
        if digest(&bytes) != state.digest || state.shrunk.is_some() && !self.scratch().exists() {
            return None;
        }
        let mut rest = bytes.as_slice();
        let mut changes = Vec::new();
        for (offset, len) in &state.changes {
            let (now, later) = rest.split_at_checked(usize::try_from(*len).ok()?)?;
            changes.push(Change { offset: *offset, bytes: now.to_vec() });
            rest = later;
        }
        Some((state, changes))
    }

    /// Keeps what is written over the image, for the next run.
    pub(crate) fn keep(&self, changes: &[Change], state: &mut State) -> Result<()> {
        let path = self.folder.path().join(CHANGES);
        let bytes: Vec<u8> = changes.iter().flat_map(|one| one.bytes.iter().copied()).collect();
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&path)?;
            file.write_all(&bytes)?;
            file.sync_all()
        };
        write().map_err(|error| Error::io(error, "write it").in_file(&path))?;
        state.changes = changes.iter().map(|one| (one.offset, one.bytes.len() as u64)).collect();
        state.digest = digest(&bytes);
        self.save(state)
    }

    pub(crate) fn save(&self, state: &State) -> Result<()> {
        state::save(&self.folder.path().join(STATE), state)
    }

    /// Removes all of it.
    pub(crate) fn leave(self) -> Result<()> {
        self.folder.leave(&[STATE, CHANGES, SCRATCH])
    }
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
