//! Results and errors, for people and for programs.

use std::error::Error as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;
use vdisk::{Error, ErrorKind, Result};

use crate::args::{Global, OutputForm};

/// How a command ended that ran to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// Ended with an exit code of the command's own.
    Code(u8),
}

impl Outcome {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Code(code) => code,
        }
    }
}

/// Writes one JSON document to standard output.
pub(crate) fn json(document: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)
        .map_err(std::io::Error::from)
        .and_then(|()| writeln!(out))
        .map_err(broken_output)
}

/// Writes text for people to standard output.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(broken_output)
}

/// Marks a closed standard output, which is no error of ours.
pub(crate) fn broken_output(error: std::io::Error) -> Error {
    Error::io(error, "write to standard output")
}

fn is_closed_pipe(error: &Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Tells how the command ended and gives the exit code.
pub(crate) fn finish(done: std::result::Result<Outcome, (Error, u8)>, global: &Global) -> ExitCode {
    match done {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err((error, _)) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err((error, code)) => {
            tell(&error, global);
            ExitCode::from(code)
        }
    }
}

/// Wrong arguments: clap's own words, our exit code.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    drop(error.print());
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // The arguments could not be understood as a whole, so whether JSON was asked for is looked up.
    let words: Vec<String> = std::env::args().collect();
    let asked = |pair: &[String]| matches!(pair, [a, b] if a == "--output" && b == "json");
    if words.windows(2).any(asked) || words.iter().any(|word| word == "--output=json") {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        drop(json(&error_document(&Error::usage(message).hint("see vdisk --help"))));
    }
    ExitCode::from(64)
}

/// After a panic, which has told on standard error where it happened.
pub(crate) fn fault() -> ExitCode {
    let words = "vdisk: this is a fault in vdisk; please report it with the command you ran";
    drop(writeln!(std::io::stderr().lock(), "{words}"));
    ExitCode::from(70)
}

fn error_document(error: &Error) -> serde_json::Value {
    json!({
        "schema": "vdisk.error/1",
        "error": {
            "kind": error.kind().name(),
            "message": error.message(),
            "path": error.path().map(|path| path.display().to_string()),
            "structure": error.structure(),
            "offset": error.offset(),
            "hint": error.advice(),
        }
    })
}

fn tell(error: &Error, global: &Global) {
    if global.output == OutputForm::Json {
        drop(json(&error_document(error)));
    }
    let mut out = std::io::stderr().lock();
    let (red, plain) = if colour() { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
    drop(writeln!(out, "vdisk: {red}error{plain}: {error}"));
    if global.verbose > 0 {
        let mut cause = error.source();
        while let Some(next) = cause {
            drop(writeln!(out, "vdisk: because: {next}"));
            cause = next.source();
        }
    }
    if let Some(advice) = error.advice() {
        drop(writeln!(out, "vdisk: hint: {advice}"));
    }
}

/// A remark on standard error.
pub(crate) fn note(global: &Global, text: &str) {
    if !global.quiet {
        drop(writeln!(std::io::stderr().lock(), "vdisk: {text}"));
    }
}

/// Whether standard error is coloured.
pub(crate) fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// The exit code of a failure of that kind.
pub(crate) fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Corrupt | ErrorKind::Truncated => 4,
        ErrorKind::Unsupported | ErrorKind::Encrypted => 5,
        ErrorKind::ParentMissing
        | ErrorKind::ParentMismatch
        | ErrorKind::ParentCycle
        | ErrorKind::Confined => 6,
        ErrorKind::Refused | ErrorKind::InUse => 7,
        ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::Denied | ErrorKind::NotFound => 8,
        ErrorKind::Usage => 64,
        ErrorKind::Internal => 70,
        ErrorKind::Cancelled => 130,
        _ => 1,
    }
}
