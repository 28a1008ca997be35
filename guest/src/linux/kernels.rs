//! Kernels, their modules, and the archives they start from.

use std::cmp::Ordering;

use crate::fs::FileKind;
use crate::inventory::{Initramfs, Kernel};
use crate::tree::Tree;

/// The directory that is `/boot` once all is mounted.
pub(super) struct BootFolder<'a> {
    pub(super) tree: Tree<'a>,
    /// Where it stands there: `/boot`, or empty where it is a volume of its own.
    pub(super) path: &'static str,
}

/// As many as are told; a system that has more never removed one.
const MOST: usize = 64;

/// The kernels, newest first: by their modules and by the files in `/boot`.
pub(super) fn kernels(tree: &Tree<'_>, boot: &BootFolder<'_>) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    let modules = ["/usr/lib/modules", "/lib/modules"].map(|path| tree.list(path));
    for (version, _) in
        modules.into_iter().flatten().filter(|(_, kind)| *kind == FileKind::Directory)
    {
        entry(&mut kernels, &version).modules = true;
    }
    let names: Vec<String> =
        boot.tree.list(boot.path_or_root()).into_iter().map(|one| one.0).collect();
    for name in &names {
        let Some(version) = version_of_kernel(name) else { continue };
        let kernel = entry(&mut kernels, version);
        // What starts is rather the one without an ending.
        if kernel.image.is_none() || name.ends_with(version) {
            kernel.image = Some(format!("/boot/{name}"));
        }
    }
    kernels.sort_by(|a, b| by_version(&b.version, &a.version));
    kernels.truncate(MOST);
    for kernel in &mut kernels {
        let name = initramfs_names(&kernel.version).into_iter().find(|name| names.contains(name));
        kernel.initramfs = name.and_then(|name| initramfs(boot, &name));
    }
    kernels
}

impl BootFolder<'_> {
    fn path_or_root(&self) -> &'static str {
        if self.path.is_empty() { "/" } else { self.path }
    }
}

fn entry<'k>(kernels: &'k mut Vec<Kernel>, version: &str) -> &'k mut Kernel {
    let place = kernels.iter().position(|kernel| kernel.version == version);
    let place = place.unwrap_or_else(|| {
        kernels.push(Kernel { version: version.to_owned(), ..Kernel::default() });
        kernels.len() - 1
    });
    // The place was just found or made.
    #[allow(clippy::indexing_slicing)]
    &mut kernels[place]
}

/// What is put behind the version of a kernel's other copy: SUSE's `vmlinux-` for crash dumps is
/// packed, Ubuntu's for Secure Boot was signed.
const ENDINGS: [&str; 4] = [".gz", ".xz", ".zst", ".efi.signed"];

/// `vmlinuz-6.1.0-18-amd64`; on other machines `vmlinux-`, `Image-`. Arch's `vmlinuz-linux` names
/// no version.
fn version_of_kernel(name: &str) -> Option<&str> {
    let version = ["vmlinuz-", "vmlinux-", "Image-", "kernel-"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    Some(ENDINGS.iter().find_map(|ending| version.strip_suffix(ending)).unwrap_or(version))
}

/// What the makers of archives call them.
fn initramfs_names(version: &str) -> [String; 5] {
    [
        format!("initrd.img-{version}"),
        format!("initramfs-{version}.img"),
        format!("initrd-{version}"),
        format!("initramfs-{version}"),
        format!("initrd-{version}.img"),
    ]
}

fn initramfs(boot: &BootFolder<'_>, name: &str) -> Option<Initramfs> {
    let path = format!("{}/{name}", boot.path);
    let size = boot.tree.stat(&path)?.size;
    let compression = compression(&|offset, len| boot.tree.bytes(&path, offset, len));
    Some(Initramfs { path: format!("/boot/{name}"), size, compression })
}

/// Members of archives that stand before the packed part, at most: microcode and ACPI tables.
const MEMBERS: usize = 1024;

/// How the last part of an initramfs is packed. What is packed comes last: before it stand plain
/// `newc` archives, which are walked over by their headers (the kernel's
/// `driver-api/early-userspace/buffer-format`).
fn compression(read: &dyn Fn(u64, usize) -> Option<Vec<u8>>) -> Option<&'static str> {
    let mut at = 0;
    let mut plain = false;
    for _ in 0..MEMBERS {
        let head = read(at, 4096)?;
        let padding = head.iter().take_while(|byte| **byte == 0).count();
        let rest = head.get(padding..)?;
        if rest.is_empty() {
            // Only padding: the end, or a gap before the next archive.
            if head.len() < 4096 {
                return plain.then_some("none");
            }
            at += 4096;
            continue;
        }
        at += padding as u64;
        match member_size(rest) {
            Some(size) => {
                plain = true;
                at = at.checked_add(size)?;
            }
            None => return packing(rest).or(plain.then_some("none")),
        }
    }
    None
}

/// Bytes of a `newc` member with its name, content and padding.
fn member_size(head: &[u8]) -> Option<u64> {
    if !head.starts_with(b"070701") && !head.starts_with(b"070702") {
        return None;
    }
    let field = |at: usize| {
        let digits = std::str::from_utf8(head.get(at..at + 8)?).ok()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let (content, name) = (field(54)?, field(94)?);
    Some((110 + name).next_multiple_of(4) + content.next_multiple_of(4))
}

fn packing(head: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 8] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"BZh", "bzip2"),
        (b"\x89LZO", "lzo"),
        (b"\x5d\0\0", "lzma"),
    ];
    MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

/// Runs of digits count as numbers.
fn by_version(a: &str, b: &str) -> Ordering {
    parts(a).cmp(&parts(b))
}

/// Numbers and what stands between them; numbers are the greater.
fn parts(version: &str) -> Vec<(Option<u64>, &str)> {
    let mut rest = version;
    let mut parts = Vec::new();
    while let Some(first) = rest.chars().next() {
        let digit = first.is_ascii_digit();
        let end = rest.find(|letter: char| letter.is_ascii_digit() != digit).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        parts.push(if digit { (part.parse().ok(), "") } else { (None, part) });
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_are_greater() {
        let mut versions = ["6.1.0-9-amd64", "5.15.0", "6.1.0-18-amd64", "6.10.1"];
        versions.sort_by(|a, b| by_version(a, b));
        assert_eq!(versions, ["5.15.0", "6.1.0-9-amd64", "6.1.0-18-amd64", "6.10.1"]);
    }

    #[test]
    fn copies_of_a_kernel_are_one() {
        for (name, version) in [
            ("vmlinuz-6.4.0-150600.23-default", "6.4.0-150600.23-default"),
            ("vmlinux-6.4.0-150600.23-default.gz", "6.4.0-150600.23-default"),
            ("vmlinux-6.4.0-1-default.xz", "6.4.0-1-default"),
            ("vmlinuz-4.4.0-21-generic.efi.signed", "4.4.0-21-generic"),
        ] {
            assert_eq!(version_of_kernel(name), Some(version));
        }
        assert_eq!(version_of_kernel("System.map-6.1"), None);
    }

    fn member(name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = b"070701".to_vec();
        for field in 0..13 {
            let value = match field {
                6 => content.len(),
                11 => name.len() + 1,
                _ => 0,
            };
            bytes.extend(format!("{value:08X}").bytes());
        }
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn found(bytes: &[u8]) -> Option<&'static str> {
        compression(&|offset, len| {
            let rest = bytes.get(usize::try_from(offset).ok()?..)?;
            Some(rest[..rest.len().min(len)].to_vec())
        })
    }

    #[test]
    fn the_packed_part_comes_after_plain_archives() {
        let early =
            [member("kernel/x86/microcode/x.bin", &[7; 5001]), member("TRAILER!!!", &[])].concat();
        let padded = [&early[..], &[0; 9000]].concat();
        assert_eq!(found(&[&padded[..], b"\x28\xb5\x2f\xfd..."].concat()), Some("zstd"));
        assert_eq!(found(&early), Some("none"));
        assert_eq!(found(&padded), Some("none"));
        assert_eq!(found(b"\x1f\x8b\x08"), Some("gzip"));
        assert_eq!(found(b"junk"), None);
        assert_eq!(found(&[0; 10_000]), None);
        assert_eq!(found(&[]), None);
        // A size that leads out of the file, and one that would wrap.
        assert_eq!(found(&b"070701FFFFFFFF".repeat(9)), None);
    }
}
