//! How a volume was left.

use fs_ntfs::logfile::{self, LogfileState};
use vdisk_core::{ErrorKind, Result};

use super::Ntfs;
use crate::fs::FsState;
use crate::ntfs::{DATA, Stream, VOLUME_INFORMATION, damaged, le16};

/// The journal, and where the volume's flags are.
const LOG: u64 = 2;
const VOLUME: u64 = 3;
/// Where the flags stand in `$VOLUME_INFORMATION`, and the one that Windows sets while it writes.
const FLAGS: usize = 10;
const DIRTY: usize = 1;
/// Bytes of `$VOLUME_INFORMATION`.
const INFORMATION: usize = 64;
/// Bytes of the head of a hibernation file.
const HEAD: usize = 4096;
/// Bytes of the journal that are looked at in one go.
const LOG_PIECE: usize = 1 << 20;

impl Ntfs {
    pub(super) fn state(&self) -> Result<FsState> {
        if self.is_hibernated()? {
            return Ok(FsState::Hibernated);
        }
        if self.log_state()?.needs_replay() {
            return Ok(FsState::Journal);
        }
        let record = self.reader.record(VOLUME)?;
        let told = self.reader.stream(&record, VOLUME_INFORMATION, "")?;
        let told = told.map(|told| self.reader.whole_stream(&told, INFORMATION)).transpose()?;
        let told = told.filter(|told| told.len() >= FLAGS + 2).ok_or_else(|| {
            let at = self.reader.record_place(VOLUME);
            damaged("NTFS $Volume", at, "it does not tell how the volume was left")
        })?;
        Ok(if le16(&told, FLAGS) & DIRTY != 0 { FsState::Dirty } else { FsState::Clean })
    }

    /// Whether a Windows may go on from its hibernation file: one that nobody has begun with; one
    /// whose resume was begun, which Windows offers to try again; one that leads to another disk's.
    /// One that is too short counts too, as for ntfs-3g.
    fn is_hibernated(&self) -> Result<bool> {
        let number = match self.number(b"/hiberfil.sys") {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            number => number?,
        };
        let mut head = [0; HEAD];
        let len = match &self.file(number)?.data {
            Some(data) => self.reader.read_stream(data, 0, &mut head)?,
            None => 0,
        };
        let begins = |mark: &[u8; 4]| {
            head.first_chunk::<4>().is_some_and(|there| there.eq_ignore_ascii_case(mark))
        };
        Ok(len < HEAD || [b"hibr", b"rstr", b"link"].into_iter().any(begins))
    }

    /// What the journal holds.
    fn log_state(&self) -> Result<LogfileState> {
        let record = self.reader.record(LOG)?;
        let log = self.reader.stream(&record, DATA, "")?;
        let log = log.unwrap_or_else(|| Stream::Resident(Vec::new()));
        let mut failure = None;
        let mut read = |at: u64, len: usize| {
            let mut bytes = vec![0; len.min(LOG_PIECE)];
            let there = self.reader.read_stream(&log, at, &mut bytes);
            (there.map_err(|error| failure = Some(error)).ok()? == len).then_some(bytes)
        };
        let state = log_state(log.size(), &mut read);
        failure.map_or(Ok(state), Err)
    }
}

/// What a journal of so many bytes holds.
fn log_state(size: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> LogfileState {
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).unwrap_or(LOG_PIECE).min(LOG_PIECE);
        match read(at, len) {
            Some(bytes) if is_blank(&bytes) => at += len as u64,
            _ => return logfile::state_of_nonempty(read),
        }
    }
    LogfileState::Empty
}

/// Whether nothing was ever written there; in pieces, which are compared faster than bytes.
fn is_blank(bytes: &[u8]) -> bool {
    const BLANK: [u8; 4096] = [0xff; 4096];
    bytes.chunks(BLANK.len()).all(|piece| BLANK.starts_with(piece))
}
