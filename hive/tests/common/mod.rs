//! What the tests of hives share: the corpus, and the judges.
#![allow(dead_code)]

pub(crate) mod dump;
pub(crate) mod exercise;
pub(crate) mod model;

use std::path::Path;
use std::process::{Command, Stdio};

use vdisk_testkit::tools::{Tool, arg, must};

/// A hive of the corpus.
pub(crate) struct Sample {
    /// Its place in the corpus, without `.xz`.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// `.LOG1` and `.LOG2`.
    pub(crate) logs: Vec<Vec<u8>>,
    /// What the manifest's column of digests says: `recovered-bins:DIGEST`, `error`, or nothing.
    pub(crate) recovered: String,
}

impl Sample {
    pub(crate) fn logs(&self) -> Vec<&[u8]> {
        self.logs.iter().map(Vec::as_slice).collect()
    }
}

/// The hives of the corpus whose name has `part` in it.
pub(crate) fn corpus(part: &str) -> Option<Vec<Sample>> {
    let folder = vdisk_testkit::corpus::folder()?;
    let manifest = std::fs::read_to_string(folder.join("MANIFEST.tsv")).unwrap();
    let mut lines = manifest.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|found| *found == name).unwrap();
    let [file, format, digest] = ["file", "format", "virtual_sha256"].map(column);
    let rows: Vec<_> = lines.filter(|row| row[file].contains(part)).collect();
    let hives = rows.iter().filter(|row| row[format] == "hive");
    let samples = hives.map(|row| {
        let name = row[file].strip_suffix(".xz").unwrap();
        let logs = rows.iter().map(|row| row[file]);
        let logs = logs.filter(|log| log.starts_with(&format!("{name}.LOG")));
        Sample {
            name: name.to_owned(),
            bytes: unpack(&folder.join(row[file])),
            logs: logs.map(|log| unpack(&folder.join(log))).collect(),
            recovered: row.get(digest).copied().unwrap_or_default().to_owned(),
        }
    });
    Some(samples.collect())
}

fn unpack(path: &Path) -> Vec<u8> {
    let done = Command::new("xz").arg("-dc").arg(path).stdout(Stdio::piped()).output().unwrap();
    assert!(done.status.success(), "{}", path.display());
    done.stdout
}

/// The hive as `tool` reads it, in the form of [`dump::dump`].
pub(crate) fn judge(tool: Tool, bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/judge.py");
    must(tool.python(), &[script, tool.name(), arg(file.path())])
}

/// Asserts that `tool` reads what our dump says.
pub(crate) fn assert_agrees(tool: Tool, ours: &str, bytes: &[u8], context: &str) {
    let theirs = judge(tool, bytes);
    let all = tool == Tool::Regipy;
    let mut ours = ours.lines().filter(|line| all || !line.starts_with(['C', 'S']));
    let mut theirs = theirs.lines();
    for number in 0.. {
        let (our, their) = (ours.next(), theirs.next());
        assert_eq!(our, their, "{context}: line {number} differs from {tool:?}'s");
        if our.is_none() {
            break;
        }
    }
}
