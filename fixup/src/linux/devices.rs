//! Names of devices: which of them stay when the hardware changes, and what to say instead.

use vdisk_guest::Place;
use vdisk_guest::inventory::{FilesystemFacts, Inventory, Mount};

/// What the volumes of the disk are called.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    volumes: Vec<Volume>,
    /// What this disk is called by the guest: `/dev/sda`, `/dev/disk/by-id/ata-X`.
    disks: Vec<String>,
}

#[derive(Debug)]
struct Volume {
    place: Place,
    partition_uuid: Option<String>,
    uuid: Option<String>,
    label: Option<String>,
}

impl Devices {
    /// Of the disk of a guest whose root is at `root`.
    ///
    /// A guest says `/dev/sda1` of a partition, and only its order says of which disk. The disk of
    /// the line for `/` is this one, if the number is that of the root's partition; where that line
    /// has a name that stays, the first disk of each kind is.
    pub(crate) fn of(inventory: &Inventory, mounts: &[Mount], root: &Place) -> Self {
        let volume = |place, partition_uuid: Option<&String>, facts: Option<&FilesystemFacts>| {
            let uuid = facts.and_then(|facts| facts.uuid.clone());
            let label = facts.and_then(|facts| facts.label.clone());
            Volume { place, partition_uuid: partition_uuid.cloned(), uuid, label }
        };
        let mut volumes = Vec::new();
        for one in &inventory.partitions {
            let place = Place::Partition(one.number);
            volumes.push(volume(place, one.uuid.as_ref(), one.filesystem.as_ref()));
        }
        for one in &inventory.volumes {
            volumes.push(volume(one.place(), None, one.filesystem.as_ref()));
        }
        Self { volumes, disks: disks(mounts, root) }
    }

    /// The volume a device of fstab(5) is.
    pub(crate) fn place(&self, device: &str) -> Option<Place> {
        let by = |value: &str, of: fn(&Volume) -> Option<&String>| {
            let is = |one: &&Volume| of(one).is_some_and(|have| have.eq_ignore_ascii_case(value));
            self.volumes.iter().find(is).map(|one| one.place.clone())
        };
        let device = device.trim_matches('"');
        let tagged = |tag: &str, folder: &str| {
            let value = device.strip_prefix(tag).or_else(|| device.strip_prefix(folder));
            value.map(|value| value.trim_matches('"'))
        };
        if let Some(value) = tagged("UUID=", "/dev/disk/by-uuid/") {
            return by(value, |one| one.uuid.as_ref());
        }
        if let Some(value) = tagged("LABEL=", "/dev/disk/by-label/") {
            return by(value, |one| one.label.as_ref());
        }
        if let Some(value) = tagged("PARTUUID=", "/dev/disk/by-partuuid/") {
            return by(value, |one| one.partition_uuid.as_ref());
        }
        if let Some((group, name)) = logical(device) {
            let place = Place::Logical(group, name);
            return self.volumes.iter().find(|one| one.place == place).map(|_| place);
        }
        let (disk, number) = split(device)?;
        let place = Place::Partition(number);
        let known = self.disks.iter().any(|known| known == disk);
        (known && self.volumes.iter().any(|one| one.place == place)).then_some(place)
    }

    /// What to say for a name that comes from the hardware; none for a name that stays, and for
    /// one that is of no volume of this disk or has no identity.
    pub(crate) fn instead(&self, device: &str) -> Option<String> {
        if !is_of_hardware(device) {
            return None;
        }
        let place = self.place(device)?;
        let uuid = self.volumes.iter().find(|one| one.place == place)?.uuid.as_ref()?;
        Some(format!("UUID={uuid}"))
    }

    /// All words in a text that are names from the hardware, each with what to say instead, if
    /// that is known. `starts` are what may stand before such a name: `root=`, or nothing.
    pub(crate) fn rewrite(&self, text: &str, starts: &[&str]) -> (String, Vec<String>) {
        let mut done = String::with_capacity(text.len());
        let mut unknown = Vec::new();
        for line in text.split_inclusive('\n') {
            if line.trim_start().starts_with('#') {
                done.push_str(line);
                continue;
            }
            for word in line.split_inclusive(is_edge) {
                let edge = word.len()
                    - word.chars().last().filter(|c| is_edge(*c)).map_or(0, char::len_utf8);
                let (body, end) = word.split_at(edge);
                match device_in(body, starts)
                    .map(|(start, device)| (start, device, self.instead(device)))
                {
                    Some((start, _, Some(instead))) => {
                        done.push_str(start);
                        done.push_str(&instead);
                    }
                    Some((_, device, None)) => {
                        unknown.push(device.to_owned());
                        done.push_str(body);
                    }
                    None => done.push_str(body),
                }
                done.push_str(end);
            }
        }
        (done, unknown)
    }
}

/// A word that ends with a name from the hardware: what stands before the name, and the name.
/// Settings hold words of their own: `kernelopts=root=/dev/sda1`.
fn device_in<'w>(word: &'w str, starts: &[&str]) -> Option<(&'w str, &'w str)> {
    let (start, device) = word.split_at_checked(word.find("/dev/")?)?;
    let fits = |known: &&str| {
        let before = start.strip_suffix(*known);
        before
            .is_some_and(|before| before.is_empty() || (before.ends_with('=') && !known.is_empty()))
    };
    (starts.iter().any(fits) && is_of_hardware(device)).then_some((start, device))
}

/// Whether words end there, in all files that are rewritten.
fn is_edge(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | ';' | ',')
}

/// The names of this disk, by what the guest mounts.
fn disks(mounts: &[Mount], root: &Place) -> Vec<String> {
    let of_hardware = |mount: &&Mount| is_of_hardware(&mount.device);
    let named = mounts.iter().filter(of_hardware);
    let root_line = named.clone().find(|mount| mount.mount_point == "/");
    match (root_line.and_then(|mount| split(&mount.device)), root) {
        (Some((disk, number)), Place::Partition(root)) if number == *root => vec![disk.to_owned()],
        (Some(_), _) => Vec::new(),
        (None, _) => {
            let mut disks: Vec<String> = FIRST.iter().map(|name| (*name).to_owned()).collect();
            let by_path: Vec<&str> = named
                .filter_map(|mount| split(&mount.device))
                .map(|(disk, _)| disk)
                .filter(|disk| disk.starts_with(BY))
                .collect();
            // Several such names may be of several disks.
            if let Some((first, rest)) = by_path.split_first()
                && rest.iter().all(|other| other == first)
            {
                disks.push((*first).to_owned());
            }
            disks
        }
    }
}

const BY: &str = "/dev/disk/by-";
/// The first disk of each kind.
const FIRST: [&str; 6] =
    ["/dev/sda", "/dev/hda", "/dev/vda", "/dev/xvda", "/dev/nvme0n1", "/dev/mmcblk0"];
const KINDS: [&str; 6] = ["/dev/sd", "/dev/hd", "/dev/vd", "/dev/xvd", "/dev/nvme", "/dev/mmcblk"];
/// Names that stay, of those that udev makes.
const LASTING: [&str; 4] = ["uuid/", "label/", "partuuid/", "partlabel/"];

/// Whether the name comes from the hardware: from its order, its model, its place.
pub(crate) fn is_of_hardware(device: &str) -> bool {
    match device.strip_prefix(BY) {
        Some(rest) => !LASTING.iter().any(|lasting| rest.starts_with(lasting)),
        None => KINDS.iter().any(|kind| device.starts_with(kind)),
    }
}

/// The disk's name and the number of the partition.
fn split(device: &str) -> Option<(&str, u32)> {
    let digits = device.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (disk, number) = device.split_at_checked(device.len() - digits)?;
    let number = number.parse().ok()?;
    let disk = if disk.starts_with(BY) {
        disk.strip_suffix("-part")?
    } else if disk.starts_with("/dev/nvme") || disk.starts_with("/dev/mmcblk") {
        disk.strip_suffix('p')?
    } else {
        disk
    };
    is_of_hardware(disk).then_some((disk, number))
}

/// Group and name of `/dev/mapper/GROUP-NAME` and `/dev/GROUP/NAME`.
fn logical(device: &str) -> Option<(String, String)> {
    let rest = device.strip_prefix("/dev/")?;
    if let Some(mapped) = rest.strip_prefix("mapper/") {
        // A dash in a name is doubled, one between the two is not.
        let hidden = mapped.replace("--", "\0");
        let (group, name) = hidden.split_once('-')?;
        return Some((group.replace('\0', "-"), name.replace('\0', "-")));
    }
    let (group, name) = rest.split_once('/')?;
    (group != "disk" && !name.contains('/')).then(|| (group.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(disk: &str) -> Devices {
        let volume = |number, uuid: &str| Volume {
            place: Place::Partition(number),
            partition_uuid: None,
            uuid: Some(uuid.to_owned()),
            label: None,
        };
        Devices {
            volumes: vec![volume(1, "AAAA"), volume(2, "BBBB")],
            disks: vec![disk.to_owned()],
        }
    }

    #[test]
    fn names_of_the_hardware_become_identities() {
        let sda = devices("/dev/sda");
        let text = "linux /vmlinuz root=/dev/sda2 resume=/dev/sda1 x=/dev/sda1 root=/dev/sdb1\n# root=/dev/sda1\n";
        let (new, unknown) = sda.rewrite(text, &["root=", "resume="]);
        assert_eq!(
            new,
            "linux /vmlinuz root=UUID=BBBB resume=UUID=AAAA x=/dev/sda1 root=/dev/sdb1\n# root=/dev/sda1\n"
        );
        assert_eq!(unknown, ["/dev/sdb1"]);
        assert_eq!(sda.rewrite(&new, &["root=", "resume="]).0, new);
        let quoted = sda.rewrite("A=\"root=/dev/sda1\"\n", &["root="]).0;
        assert_eq!(quoted, "A=\"root=UUID=AAAA\"\n");
        assert_eq!(devices("/dev/nvme0n1").instead("/dev/nvme0n1p2").unwrap(), "UUID=BBBB");
        let by_id = devices("/dev/disk/by-id/ata-A_1");
        assert_eq!(by_id.instead("/dev/disk/by-id/ata-A_1-part1").unwrap(), "UUID=AAAA");
        assert_eq!(by_id.instead("/dev/disk/by-uuid/BBBB"), None);
        assert_eq!(sda.instead("UUID=AAAA"), None);
        assert_eq!(sda.place("UUID=bbbb"), Some(Place::Partition(2)));
    }

    #[test]
    fn names_of_logical_volumes_are_taken_apart() {
        let both = Some(("my-vg".to_owned(), "root".to_owned()));
        assert_eq!(logical("/dev/mapper/my--vg-root"), both);
        assert_eq!(logical("/dev/my-vg/root"), both);
        assert_eq!(logical("/dev/disk/by-id"), None);
    }
}
