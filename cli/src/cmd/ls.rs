//! `vdisk ls`

use std::io::{BufWriter, Write};

use serde::Serialize;
use serde_json::json;
use vdisk::{Error, ErrorKind, Result};
use vdisk_guest::fs::{FileKind, GuestFs, Stat};

use super::{Context, Outcome, guest};
use crate::args::LsArgs;
use crate::show::{self, broken_output};

/// Directories inside each other; more of them lead round in circles.
const DEEPEST: usize = 200;
/// Finished in part.
const IN_PART: u8 = 3;

pub(super) fn run(args: &LsArgs, context: &Context<'_>) -> Result<Outcome> {
    let (fs, path) = guest::open_at(&args.source, &args.location, context)?;
    let mut list = Lister { fs: &*fs, args, context, json: Vec::new(), failed: false };
    let resolved = fs.resolve(&path)?;
    let stat = fs.stat(&resolved)?;
    if stat.kind == FileKind::Directory {
        list.directory(&resolved, b"", 0)?;
    } else {
        let name = resolved.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        list.entry(name, stat.kind, &resolved)?;
    }
    let (entries, failed) = (list.json, list.failed);
    if context.json() {
        let info = fs.info();
        show::json(&json!({
            "schema": "vdisk.ls/1",
            "file-system": info.kind.name(),
            "label": info.label,
            "uuid": info.uuid,
            "state": info.state.name(),
            "size": info.total,
            "path": String::from_utf8_lossy(&path),
            "entries": entries,
        }))?;
    }
    Ok(if failed { Outcome::Code(IN_PART) } else { Outcome::Done })
}

struct Lister<'a> {
    fs: &'a dyn GuestFs,
    args: &'a LsArgs,
    context: &'a Context<'a>,
    json: Vec<Document>,
    failed: bool,
}

impl Lister<'_> {
    /// Lists a directory, and with `-R` those in it; `shown` is its name in the list.
    fn directory(&mut self, path: &[u8], shown: &[u8], depth: usize) -> Result<()> {
        if depth >= DEEPEST {
            return Err(Error::new(ErrorKind::Corrupt, "directories without end"));
        }
        let mut entries = self.fs.read_dir(path)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            self.context.cancel.check()?;
            let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
            let inner = [path, slash, &entry.name].concat();
            let name = if shown.is_empty() {
                entry.name.clone()
            } else {
                [shown, b"/", &entry.name].concat()
            };
            self.entry(&name, entry.kind, &inner)?;
            // A name that is a path would lead elsewhere.
            let is_name = !entry.name.contains(&b'/') && !matches!(&entry.name[..], b"." | b"..");
            if self.args.recursive
                && is_name
                && entry.kind == FileKind::Directory
                && self.stat(&inner).is_some_and(|stat| stat.kind == FileKind::Directory)
                && let Err(error) = self.directory(&inner, &name, depth + 1)
            {
                self.tell(error)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &[u8], kind: FileKind, path: &[u8]) -> Result<()> {
        let stat = if self.args.long || self.context.json() { self.stat(path) } else { None };
        let kind = stat.as_ref().map_or(kind, |stat| stat.kind);
        let target = match kind {
            FileKind::Symlink if stat.is_some() => self.fs.read_link(path).ok(),
            _ => None,
        };
        if self.context.json() {
            self.json.push(document(name, kind, stat.as_ref(), target.as_deref()));
            return Ok(());
        }
        let mut out = BufWriter::new(std::io::stdout().lock());
        if self.args.long {
            write!(out, "{} ", line(kind, stat.as_ref())).map_err(broken_output)?;
        }
        out.write_all(&printable(name)).map_err(broken_output)?;
        if let Some(target) = target {
            out.write_all(b" -> ").map_err(broken_output)?;
            out.write_all(&printable(&target)).map_err(broken_output)?;
        }
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(broken_output)
    }

    /// What is known of it; a failure is told, and the list goes on.
    fn stat(&mut self, path: &[u8]) -> Option<Stat> {
        self.fs.stat(path).map_err(|error| self.tell(error)).ok()
    }

    fn tell(&mut self, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Cancelled {
            return Err(error);
        }
        self.failed = true;
        self.context.note(&format!("error: {error}"));
        Ok(())
    }
}

/// Control characters of a name could steer a terminal.
fn printable(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if byte.is_ascii_control() { b'?' } else { *byte }).collect()
}

fn line(kind: FileKind, stat: Option<&Stat>) -> String {
    let letter = match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Special => 's',
    };
    let Some(stat) = stat else { return format!("{letter}?") };
    let rights = match (stat.unix, stat.attributes) {
        (Some(unix), _) => format!("{:04o} {:>5} {:>5}", unix.mode, unix.uid, unix.gid),
        (None, Some(attributes)) => format!("{attributes:#010x}      "),
        (None, None) => String::new(),
    };
    let time = stat.modified.and_then(when).unwrap_or_else(|| "-".to_owned());
    format!("{letter} {rights} {:>12} {time:>20}", stat.size)
}

/// An entry in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    name: String,
    /// The bytes, where the text cannot say them.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_bytes: Option<Vec<u8>>,
    kind: &'static str,
    #[serde(flatten)]
    stat: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// What is known of a file; missing where it could not be read.
#[derive(Debug, Serialize)]
struct Details {
    size: u64,
    modified: Option<String>,
    created: Option<String>,
    links: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<u32>,
}

fn document(name: &[u8], kind: FileKind, stat: Option<&Stat>, target: Option<&[u8]>) -> Document {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Document {
        name: text(name),
        name_bytes: std::str::from_utf8(name).is_err().then(|| name.to_vec()),
        kind: kind.name(),
        stat: stat.map(|stat| Details {
            size: stat.size,
            modified: stat.modified.and_then(when),
            created: stat.created.and_then(when),
            links: stat.links,
            mode: stat.unix.map(|unix| format!("{:04o}", unix.mode)),
            uid: stat.unix.map(|unix| unix.uid),
            gid: stat.unix.map(|unix| unix.gid),
            attributes: stat.attributes,
        }),
        target: target.map(text),
    }
}

/// The time in UTC, to the second.
fn when(time: std::time::SystemTime) -> Option<String> {
    let seconds = match time.duration_since(std::time::SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).ok()?,
        Err(before) => -i64::try_from(before.duration().as_secs()).ok()?,
    };
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}
