//! One block device as the kernel describes it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use vdisk::{Error, Result};

/// A device's folder in sysfs, and the root that it is under.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    root: PathBuf,
    folder: PathBuf,
    name: String,
}

/// The names of all block devices that are no partitions.
pub(super) fn block_devices(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("sys/block");
    let failed = |error| Error::io(error, "list the block devices").in_file(&folder);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// `MAJOR:MINOR` of the block device at `path`.
pub(super) fn device_number(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    let device = found.file_type().is_block_device().then(|| found.rdev())?;
    Some(format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
}

impl Entry {
    pub(super) fn of_disk(root: &Path, name: &str) -> Self {
        let folder = root.join("sys/block").join(name);
        Self { root: root.to_owned(), folder, name: name.to_owned() }
    }

    /// The device called `MAJOR:MINOR`.
    pub(super) fn of_number(root: &Path, number: &str) -> Option<Self> {
        let folder = fs::canonicalize(root.join("sys/dev/block").join(number)).ok()?;
        let name = folder.file_name()?.to_str()?.to_owned();
        Some(Self { root: root.to_owned(), folder, name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its node's path under `/dev`.
    pub(super) fn node(&self) -> String {
        self.name.replace('!', "/")
    }

    pub(super) fn device(&self) -> Option<String> {
        self.text("dev")
    }

    pub(super) fn size(&self) -> Option<u64> {
        // Whatever the device's sectors are, the kernel counts in 512 bytes here.
        self.number("size")?.checked_mul(512)
    }

    /// The partitions, by number.
    pub(super) fn partitions(&self) -> Vec<(u32, Self)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<(u32, Self)> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let part = Self { root: self.root.clone(), folder: entry.path(), name };
                Some((u32::try_from(part.number("partition")?).ok()?, part))
            })
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found
    }

    /// The devices that stand on this one, and how.
    pub(super) fn holders(&self) -> Vec<(Self, &'static str)> {
        let entries = fs::read_dir(self.folder.join("holders")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let holders = names.map(|name| Self::of_disk(&self.root, &name));
        holders.map(|holder| (holder.clone(), holder.layer())).collect()
    }

    /// What kind of device this is that stands on another.
    fn layer(&self) -> &'static str {
        let uuid = self.text("dm/uuid").unwrap_or_default();
        let kinds = [("LVM-", "lvm"), ("CRYPT-", "crypt"), ("mpath-", "multipath")];
        match kinds.iter().find(|(prefix, _)| uuid.starts_with(prefix)) {
            Some((_, layer)) => layer,
            None if self.folder.join("dm").exists() => "dm",
            None if self.folder.join("md").exists() => "raid",
            None => "device",
        }
    }

    pub(super) fn model(&self) -> Option<String> {
        let vendor = self.text("device/vendor").filter(|vendor| !vendor.starts_with("0x"));
        let words: Vec<String> =
            [vendor.filter(|vendor| vendor != "ATA"), self.text("device/model")]
                .into_iter()
                .flatten()
                .collect();
        let backing = || self.text("loop/backing_file").map(|file| format!("loop of {file}"));
        Some(words.join(" ")).filter(|words| !words.is_empty()).or_else(backing)
    }

    pub(super) fn serial(&self) -> Option<String> {
        ["serial", "device/serial"]
            .iter()
            .find_map(|name| self.text(name))
            .or_else(|| self.vital_serial())
            .or_else(|| self.udev_serial())
            .or_else(|| self.text("device/wwid"))
    }

    /// Page 0x80 of a SCSI device's vital product data: a header of 4 bytes, then the number
    /// (SPC-4, 7.8.16).
    fn vital_serial(&self) -> Option<String> {
        let page = fs::read(self.folder.join("device/vpd_pg80")).ok()?;
        let text = String::from_utf8_lossy(page.get(4..)?).into_owned();
        printable(&text)
    }

    fn udev_serial(&self) -> Option<String> {
        let path = self.root.join("run/udev/data").join(format!("b{}", self.device()?));
        let facts = fs::read_to_string(path).ok()?;
        let mut values = facts.lines().filter_map(|line| line.strip_prefix("E:ID_SERIAL_SHORT="));
        values.next().and_then(printable)
    }

    pub(super) fn by_id(&self) -> Vec<String> {
        let folder = self.root.join("dev/disk/by-id");
        let links = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = links
            .filter(|link| {
                let target = fs::read_link(link.path()).ok();
                target.is_some_and(|target| target.file_name() == Some(self.name.as_ref()))
            })
            .filter_map(|link| link.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The content of one of its files, without white space around it.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        printable(&fs::read_to_string(self.folder.join(file)).ok()?)
    }

    pub(super) fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.parse().ok()
    }
}

fn printable(text: &str) -> Option<String> {
    let clean: String = text.chars().filter(|one| !one.is_control()).collect();
    Some(clean.trim().to_owned()).filter(|text| !text.is_empty())
}
