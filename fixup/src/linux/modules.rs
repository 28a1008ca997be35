//! The modules of a kernel: where they are, and which others each of them needs.

use std::collections::{BTreeMap, BTreeSet};

/// What `modules.dep` and `modules.builtin` tell (depmod(8), kbuild).
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// By name: the file, from the folder of the modules on, and the files it needs.
    files: BTreeMap<String, (String, Vec<String>)>,
    built_in: BTreeSet<String>,
}

impl Modules {
    /// Reads both texts.
    pub(crate) fn parse(dep: &str, built_in: &str) -> Self {
        let files = dep.lines().filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let path = below(path.trim());
            let needs = needs.split_whitespace().map(|path| below(path).to_owned());
            Some((name_of(path)?, (path.to_owned(), needs.collect())))
        });
        Self { files: files.collect(), built_in: built_in.lines().filter_map(name_of).collect() }
    }

    /// Whether the kernel has it, in itself or as a file.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.is_built_in(name) || self.files.contains_key(name)
    }

    /// Whether it is part of the kernel.
    pub(crate) fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(name)
    }

    /// The files of these modules and of all they need, what is needed first; from the folder of
    /// the modules on.
    pub(crate) fn closure<'a>(&'a self, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let mut listed = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            let Some((path, needs)) = self.files.get(name) else { continue };
            // Each line has all that is needed, the nearest first.
            for path in needs.iter().rev().chain([path]) {
                if seen.insert(path.as_str()) {
                    listed.push(path.as_str());
                }
            }
        }
        listed
    }
}

/// The name of the module in a file: without folders and endings, `_` for `-`.
pub(crate) fn name_of(path: &str) -> Option<String> {
    let file = path.trim().rsplit('/').next()?;
    let stem = [".ko", ".ko.xz", ".ko.gz", ".ko.zst"].iter().find_map(|end| file.strip_suffix(end));
    stem.filter(|stem| !stem.is_empty()).map(|stem| stem.replace('-', "_"))
}

/// Old versions of depmod write whole paths.
fn below(path: &str) -> &str {
    match path.strip_prefix("/lib/modules/").and_then(|rest| rest.split_once('/')) {
        Some((_, below)) => below,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let dep = "kernel/a/virtio.ko.xz:\nkernel/a/virtio-ring.ko.xz:kernel/a/virtio.ko.xz\n\
                   kernel/b/virtio_scsi.ko.xz: kernel/a/virtio-ring.ko.xz kernel/a/virtio.ko.xz\n\
                   /lib/modules/2.6/kernel/old.ko: /lib/modules/2.6/kernel/a/virtio.ko.xz\n";
        let modules = Modules::parse(dep, "kernel/drivers/scsi/sd_mod.ko\n");
        assert_eq!(
            modules.closure(["virtio_scsi", "virtio_ring", "sd_mod", "old"]),
            [
                "kernel/a/virtio.ko.xz",
                "kernel/a/virtio-ring.ko.xz",
                "kernel/b/virtio_scsi.ko.xz",
                "kernel/old.ko",
            ]
        );
        assert!(modules.has("sd_mod") && modules.is_built_in("sd_mod"));
        assert!(!modules.has("nvme"));
    }
}
