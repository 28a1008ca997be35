//! One error type for the whole toolkit: a stable kind, and the facts a person needs.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible call in vdisk.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is; stable, and the only thing a program should branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The content breaks a rule of its format.
    Corrupt,
    /// The file ends before something it must hold.
    Truncated,
    /// Understood, but not something vdisk does.
    Unsupported,
    /// No known format was recognised.
    UnknownFormat,
    /// Encrypted content.
    Encrypted,
    /// A parent or extent file is not there.
    ParentMissing,
    /// The parent found is not the one the child was made from.
    ParentMismatch,
    /// A chain leads back to a file that is already in it, or is too deep.
    ParentCycle,
    /// A file named by an image lies outside the folders it may be opened in.
    Confined,
    /// Refused for safety.
    Refused,
    /// Somebody else uses the file.
    InUse,
    /// The host failed to read or write.
    Io,
    /// The host has no room left.
    NoSpace,
    /// The host denied access.
    Denied,
    /// A file the user named is not there.
    NotFound,
    /// A wrong option or argument.
    Usage,
    /// An offset or length outside the disk.
    OutOfRange,
    /// Stopped by the user.
    Cancelled,
    /// A fault of vdisk itself.
    Internal,
}

impl ErrorKind {
    /// The kind's name as scripts see it: lower case, words joined by `-`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Truncated => "truncated",
            Self::Unsupported => "unsupported",
            Self::UnknownFormat => "unknown-format",
            Self::Encrypted => "encrypted",
            Self::ParentMissing => "parent-missing",
            Self::ParentMismatch => "parent-mismatch",
            Self::ParentCycle => "parent-cycle",
            Self::Confined => "confined",
            Self::Refused => "refused",
            Self::InUse => "in-use",
            Self::Io => "io",
            Self::NoSpace => "no-space",
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::Usage => "usage",
            Self::OutOfRange => "out-of-range",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// A failure: its kind, what went wrong, in which file and structure at which byte, and what to do.
/// Shown as `PATH: STRUCTURE at byte N: MESSAGE`, as much of it as is known.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug, thiserror::Error)]
#[error("{}{message}", place(.path.as_deref(), *.structure, *.offset))]
struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    structure: Option<&'static str>,
    offset: Option<u64>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `message` (lower case, no full stop).
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            structure: None,
            offset: None,
            hint: None,
            source: None,
        }))
    }

    /// `structure` (such as `"VHD footer"`) at byte `offset` of the file breaks its format's rules.
    #[must_use]
    pub fn corrupt(structure: &'static str, offset: u64, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message).at(structure, offset)
    }

    /// Something that is understood but not done, such as a format's rare variant.
    #[must_use]
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A wrong option or argument.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Refused for safety.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// A state that vdisk's own code must never reach.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
            .hint("this is a fault in vdisk; please report it with the command you ran")
    }

    /// A host error while doing `doing` (such as `"read the VHD footer"`).
    #[must_use]
    pub fn io(source: io::Error, doing: impl fmt::Display) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::Denied
            }
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => ErrorKind::NoSpace,
            io::ErrorKind::UnexpectedEof => ErrorKind::Truncated,
            io::ErrorKind::ResourceBusy => ErrorKind::InUse,
            _ => ErrorKind::Io,
        };
        let message = match kind {
            ErrorKind::Truncated => format!("could not {doing}: the file ends before it"),
            _ => format!("could not {doing}: {source}"),
        };
        let mut error = Self::new(kind, message);
        error.0.source = Some(Box::new(source));
        error
    }

    /// Adds the structure and the byte offset in the file.
    #[must_use]
    pub fn at(mut self, structure: &'static str, offset: u64) -> Self {
        self.0.structure = Some(structure);
        self.0.offset = Some(offset);
        self
    }

    /// Names the file, unless an inner call already did.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        if self.0.path.is_none() {
            self.0.path = Some(path.as_ref().to_owned());
        }
        self
    }

    /// Says what to do about it, unless an inner call already did.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if self.0.hint.is_none() {
            self.0.hint = Some(hint.into());
        }
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What went wrong, without file and place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The file it happened in.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The on-disk structure it happened in.
    #[must_use]
    pub fn structure(&self) -> Option<&'static str> {
        self.0.structure
    }

    /// The byte offset in the file.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

/// Where it happened, as the beginning of a message.
fn place(path: Option<&Path>, structure: Option<&str>, offset: Option<u64>) -> String {
    let path = path.map(|path| format!("{}: ", path.display())).unwrap_or_default();
    let at = match (structure, offset) {
        (Some(structure), Some(offset)) => format!("{structure} at byte {offset}: "),
        (Some(structure), None) => format!("{structure}: "),
        (None, Some(offset)) => format!("at byte {offset}: "),
        (None, None) => String::new(),
    };
    path + &at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_where_what_and_why() {
        let cause = io::Error::from(io::ErrorKind::UnexpectedEof);
        let error = Error::io(cause, "read it").at("VHD footer", 512).in_file("a.vhd");
        assert_eq!(
            error.to_string(),
            "a.vhd: VHD footer at byte 512: could not read it: the file ends before it"
        );
        assert_eq!(error.kind(), ErrorKind::Truncated);
        assert!(error.source().is_some_and(|source| source.is::<io::Error>()));
        assert_eq!(Error::usage("no").to_string(), "no");
    }
}
