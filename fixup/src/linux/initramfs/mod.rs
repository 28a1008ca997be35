//! The archives a kernel starts from: what is in them, and one more behind them.
//!
//! The kernel unpacks one archive after the other into the same file system, so what a later one
//! holds replaces what an earlier one held (Linux, `Documentation/driver-api/early-userspace/`
//! `buffer-format.rst`). That is how modules are added without unpacking or packing what is there.

mod cpio;
mod unpack;

use std::collections::BTreeMap;

use vdisk_core::{Error, ErrorKind, Result};

pub(crate) use cpio::Writer;

/// Names that are kept of all archives of one file, and bytes of names, links and texts.
const MOST_NAMES: usize = 1 << 19;
const MOST_KEPT: u64 = 64 << 20;
/// Bytes of a text that is kept.
const MOST_TEXT: u64 = 1 << 18;
/// Bytes of a link: the longest path of Linux.
const MOST_LINK: u64 = 4096;
/// Links that are followed in one path.
const MOST_LINKS: usize = 40;
/// What an archive is padded to before the next.
const ALIGNMENT: usize = 512;

/// What all archives of an initramfs leave behind.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    nodes: BTreeMap<String, Node>,
    texts: BTreeMap<String, Vec<u8>>,
    kept: u64,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File,
    Link(String),
    Other,
}

impl Contents {
    /// Reads all archives in `bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] and [`ErrorKind::Unsupported`].
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let mut this = Self::default();
        unpack::members(bytes, &mut |member, data| this.add(member, data))?;
        Ok(this)
    }

    fn add(&mut self, member: &cpio::Member, data: &mut dyn std::io::Read) -> Result<()> {
        let path = plain(&String::from_utf8_lossy(&member.name));
        let is_text = is_text(&path) && member.size <= MOST_TEXT;
        let is_link = member.mode & cpio::TYPE == cpio::LINK && member.size <= MOST_LINK;
        let content = if is_text || is_link { member.size } else { 0 };
        self.kept = self.kept.saturating_add(path.len() as u64).saturating_add(content);
        if self.nodes.len() >= MOST_NAMES || self.kept > MOST_KEPT {
            return Err(Error::refused("the initramfs holds more names and texts than are read"));
        }
        let node = match member.mode & cpio::TYPE {
            cpio::DIRECTORY => Node::Directory,
            cpio::FILE => {
                if is_text {
                    self.texts.insert(path.clone(), cpio::content(data)?);
                }
                Node::File
            }
            cpio::LINK if is_link => {
                Node::Link(String::from_utf8_lossy(&cpio::content(data)?).into_owned())
            }
            _ => Node::Other,
        };
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Whether the module is there for the kernel; `-` and `_` are the same in its name.
    pub(crate) fn has_module(&self, version: &str, name: &str) -> bool {
        let folder = format!("lib/modules/{version}/");
        self.nodes.iter().any(|(path, node)| {
            matches!(node, Node::File | Node::Link(_))
                && path.contains(&folder)
                && super::modules::name_of(path).is_some_and(|found| found == name)
        })
    }

    /// The names of kernels it holds modules for.
    pub(crate) fn versions(&self) -> Vec<&str> {
        let mut found: Vec<&str> = self
            .nodes
            .keys()
            .filter_map(|path| path.split_once("lib/modules/")?.1.split('/').next())
            .filter(|version| !version.is_empty())
            .collect();
        found.dedup();
        found
    }

    /// Whether something has this name.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(&self.resolve(path))
    }

    /// Whether something is in a directory, given with `/` at its end.
    pub(crate) fn has_below(&self, directory: &str) -> bool {
        self.nodes.keys().any(|path| path.starts_with(directory))
    }

    /// The content of a file that says how to start.
    pub(crate) fn text(&self, path: &str) -> Option<&[u8]> {
        self.texts.get(&self.resolve(path)).map(Vec::as_slice)
    }

    /// All files that say how to start.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.texts.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// The path without links, for what is to be put there: the kernel would replace a link by a
    /// directory of the same name, and all behind it would be gone.
    pub(crate) fn resolve(&self, path: &str) -> String {
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            if let Some(Node::Link(target)) = self.nodes.get(&done.join("/")) {
                links += 1;
                if links > MOST_LINKS {
                    break;
                }
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                rest.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        done.join("/")
    }

    /// Whether a directory has this path, without links.
    pub(crate) fn is_directory(&self, path: &str) -> bool {
        self.nodes.get(path) == Some(&Node::Directory)
    }
}

/// The bytes to put behind an initramfs of `len` bytes: padding, and the packed archive.
///
/// # Errors
/// [`ErrorKind::Internal`] if packing fails.
pub(crate) fn addition(len: u64, archive: &[u8]) -> Result<Vec<u8>> {
    let over = usize::try_from(len % ALIGNMENT as u64).unwrap_or_default();
    let mut bytes = vec![0; (ALIGNMENT - over) % ALIGNMENT];
    // LZ4's legacy format has no end of its own: a size of zero is where its reader stops.
    if bytes.len() < size_of::<u32>() {
        bytes.resize(bytes.len() + ALIGNMENT, 0);
    }
    let mut packer = flate2::write::GzEncoder::new(bytes, flate2::Compression::default());
    std::io::Write::write_all(&mut packer, archive)
        .and_then(|()| packer.finish())
        .map_err(|why| Error::new(ErrorKind::Internal, why.to_string()))
}

/// Files whose words matter for starting.
fn is_text(path: &str) -> bool {
    ["conf/", "etc/cmdline.d/", "etc/conf.d/", "cryptroot/"].iter().any(|at| path.starts_with(at))
        || matches!(
            path,
            "etc/crypttab" | "etc/fstab" | "config" | "etc/lvm/devices/system.devices"
        )
}

fn plain(path: &str) -> String {
    path.trim_start_matches("./").trim_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut writer = Writer::default();
        for folder in ["usr", "usr/lib", "conf"] {
            writer.directory(folder);
        }
        writer.link("lib", "usr/lib");
        writer.file("usr/lib/modules/6.1/kernel/ahci.ko.xz", 0o644, b"elf");
        writer.file("conf/modules", 0o644, b"ahci\n");
        writer.finish()
    }

    #[test]
    fn archives_behind_each_other_are_one_tree() {
        let first = archive();
        let mut bytes = first.clone();
        let mut writer = Writer::default();
        writer.file("usr/lib/modules/6.1/kernel/virtio-scsi.ko", 0o644, b"more");
        writer.file("conf/modules", 0o644, b"virtio_scsi\n");
        bytes.extend(addition(bytes.len() as u64, &writer.finish()).unwrap());
        let found = Contents::read(&bytes).unwrap();
        assert!(found.has_module("6.1", "ahci"));
        assert!(found.has_module("6.1", "virtio_scsi"));
        assert!(!found.has_module("6.2", "ahci"));
        assert_eq!(found.text("conf/modules"), Some(&b"virtio_scsi\n"[..]));
        assert_eq!(found.resolve("lib/modules/6.1"), "usr/lib/modules/6.1");
        assert_eq!(found.versions(), ["6.1"]);
        assert!(!Contents::read(&first).unwrap().has_module("6.1", "virtio_scsi"));
    }

    #[test]
    fn every_way_to_pack_is_read() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        for (program, args) in [
            ("gzip", &["-n"][..]),
            ("xz", &["--check=crc32"][..]),
            ("zstd", &["-q", "-19"][..]),
            ("lz4", &["-l"][..]),
            ("bzip2", &[][..]),
        ] {
            let child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn();
            let Ok(mut child) = child else {
                vdisk_testkit::tools::skip(program, "it packs archives");
                continue;
            };
            child.stdin.take().unwrap().write_all(&archive()).unwrap();
            let mut bytes = child.wait_with_output().unwrap().stdout;
            let packed = bytes.len();
            let mut writer = Writer::default();
            writer.file("second", 0o644, b"");
            bytes.extend(addition(bytes.len() as u64, &writer.finish()).unwrap());
            let found = Contents::read(&bytes).unwrap_or_else(|e| panic!("{program}: {e}"));
            assert!(found.has_module("6.1", "ahci"), "{program}");
            assert!(found.has("second"), "{program}");
            // What is damaged or cut off is told, and never panics.
            for end in 0..packed {
                let _ = Contents::read(&bytes[..end]);
            }
            for at in 0..packed {
                bytes[at] ^= 0x55;
                let _ = Contents::read(&bytes);
                bytes[at] ^= 0x55;
            }
        }
    }

    #[test]
    fn links_and_texts_take_bounded_memory() {
        let mut writer = Writer::default();
        let text = vec![b'x'; 1 << 18];
        for number in 0..300 {
            writer.file(&format!("conf/{number}"), 0o644, &text);
        }
        let error = Contents::read(&writer.finish()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }

    #[test]
    fn links_in_circles_end() {
        let mut writer = Writer::default();
        writer.link("a", "b");
        writer.link("b", "a");
        let found = Contents::read(&writer.finish()).unwrap();
        assert!(!found.resolve("a/c").is_empty());
    }
}
