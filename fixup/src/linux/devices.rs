//! Names of devices: which of them stay when the hardware changes, and what to say instead.

use vdisk_guest::Place;
use vdisk_guest::inventory::{FilesystemFacts, Kernel, Mount};

use crate::Machine;

/// What the volumes of the machine are called.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    volumes: Vec<Volume>,
    /// What the guest calls its disks, such as `/dev/sda`, `/dev/disk/by-id/ata-X`, and which of
    /// them that is.
    disks: Vec<(String, usize)>,
    /// The disk whose places need no number.
    home: usize,
}

#[derive(Debug)]
struct Volume {
    place: Place,
    partition_uuid: Option<String>,
    uuid: Option<String>,
    label: Option<String>,
    /// What stands there.
    kind: Option<&'static str>,
}

/// Who reads the name of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A program, of the guest or of its initramfs.
    Program,
    /// The kernel itself, which looks into no file system for a UUID.
    Kernel,
    /// One that knows no UUIDs at all.
    OldKernel,
}

impl Reader {
    /// Who reads the words that these kernels, newest first, are started with. Programs know what
    /// kernels know; the newest kernel is the one that starts.
    pub(crate) fn of_command_lines(kernels: &[Kernel]) -> Self {
        let kernels: Vec<&Kernel> = kernels.iter().filter(|one| one.image.is_some()).collect();
        let is_alone = |one: &&&Kernel| one.initramfs.is_none();
        let mut alone = kernels.iter().filter(is_alone).peekable();
        if alone.peek().is_none() {
            Self::Program
        } else if alone.all(|one| knows_partitions(&one.version)) {
            Self::Kernel
        } else if kernels.first().is_some_and(|one| is_alone(&one)) {
            Self::OldKernel
        } else {
            Self::Program
        }
    }
}

/// Whether a kernel knows `PARTUUID=` on every kind of partition table: since 3.8.
fn knows_partitions(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (3, 8),
        _ => true,
    }
}

impl Devices {
    /// Of a machine whose guest, on the disk at hand, has its root at `root`.
    pub(crate) fn of(machine: &Machine, mounts: &[Mount], root: &Place) -> Self {
        let home = machine.at_hand();
        let volume = |place, partition_uuid: Option<&String>, facts: Option<&FilesystemFacts>| {
            let uuid = facts.and_then(|facts| facts.uuid.clone());
            let label = facts.and_then(|facts| facts.label.clone());
            let kind = facts.map(|facts| facts.kind);
            Volume { place, partition_uuid: partition_uuid.cloned(), uuid, label, kind }
        };
        let mut volumes = Vec::new();
        for (disk, inventory) in machine.inventories().enumerate() {
            for one in &inventory.partitions {
                let place = numbered(disk, home, Place::Partition(one.number));
                volumes.push(volume(place, one.uuid.as_ref(), one.filesystem.as_ref()));
            }
            for one in &inventory.volumes {
                let place = numbered(disk, home, one.place());
                volumes.push(volume(place, None, one.filesystem.as_ref()));
            }
        }
        // Of what two disks have in common, the guest's own is meant.
        volumes.sort_by_key(|one| matches!(one.place, Place::OnDisk(..)));
        let given = (0..machine.count())
            .flat_map(|disk| machine.names(disk).iter().map(move |name| (name.clone(), disk)));
        let given: Vec<(String, usize)> = given.collect();
        let mut devices = Self { volumes, disks: given.clone(), home };
        let known = Known { home, count: machine.count(), mounts };
        devices.disks.extend(known.disks(root));
        if machine.count() > 1 && !mounts.iter().all(|mount| devices.agrees(mount)) {
            // In this order the disks are not what the guest says of them.
            devices.disks.retain(|(_, disk)| *disk == home);
            devices.disks.extend(given);
        }
        devices
    }

    /// Whether what stands on the device is what the guest mounts from it.
    fn agrees(&self, mount: &Mount) -> bool {
        let Some((disk, number)) = parts(&mount.device) else { return true };
        let Some((_, disk)) = self.disks.iter().find(|(name, _)| name == disk) else { return true };
        let place = number.map_or(Place::Disk, Place::Partition);
        let place = numbered(*disk, self.home, place);
        let Some(volume) = self.volumes.iter().find(|one| one.place == place) else { return false };
        let family = |kind: &str| match kind {
            "ext2" | "ext3" | "ext4" => "ext".to_owned(),
            "vfat" | "msdos" | "fat12" | "fat16" | "fat32" => "fat".to_owned(),
            kind => kind.to_owned(),
        };
        let wanted = mount.filesystem.as_str();
        matches!(wanted, "" | "auto" | "none")
            || volume.kind.is_none_or(|kind| family(kind) == family(wanted))
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
        let (disk, number) = parts(device)?;
        let (_, disk) = self.disks.iter().find(|(known, _)| known == disk)?;
        let place = number.map_or(Place::Disk, Place::Partition);
        let place = numbered(*disk, self.home, place);
        self.volumes.iter().any(|one| one.place == place).then_some(place)
    }

    /// What to say to `reader` for a name that comes from the hardware; none for a name that stays,
    /// and for one that is of no volume here or has no identity of its own.
    pub(crate) fn instead(&self, device: &str, reader: Reader) -> Option<String> {
        if !is_of_hardware(device) {
            return None;
        }
        let place = self.place(device)?;
        let (tag, of): (_, fn(&Volume) -> Option<&String>) = match reader {
            Reader::Program => ("UUID", |one| one.uuid.as_ref()),
            Reader::Kernel => ("PARTUUID", |one| one.partition_uuid.as_ref()),
            Reader::OldKernel => return None,
        };
        let uuid = self.volumes.iter().find(|one| one.place == place).and_then(of)?;
        // A copy of the disk in the same machine has the same.
        let of_one = self.volumes.iter().filter(|one| of(one) == Some(uuid)).count() == 1;
        of_one.then(|| format!("{tag}={uuid}"))
    }

    /// All words in a text that are names from the hardware, each with what to say instead, if
    /// that is known. `starts` are what may stand before such a name: `root=`, or nothing.
    pub(crate) fn rewrite(
        &self,
        text: &str,
        starts: &[&str],
        reader: Reader,
    ) -> (String, Vec<String>) {
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
                    .map(|(start, device)| (start, device, self.instead(device, reader)))
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

/// The place as the machine takes it, whose disk number `home` is at hand.
fn numbered(disk: usize, home: usize, place: Place) -> Place {
    match place {
        Place::Disk | Place::Partition(_) if disk != home => Place::OnDisk(disk, Box::new(place)),
        place => place,
    }
}

/// What is known of the names of disks.
struct Known<'m> {
    home: usize,
    count: usize,
    mounts: &'m [Mount],
}

impl Known<'_> {
    /// The names of the disks, by what the guest mounts.
    ///
    /// A guest says `/dev/sda1` of a partition, and only its order says of which disk. The disk of
    /// the line for `/` is the one at hand, if the number is that of the root's partition. Others
    /// are told by their order, if that disk's order is what its name says. Where the line for `/`
    /// has a name that stays, the first disk of each kind is the first disk.
    fn disks(&self, root: &Place) -> Vec<(String, usize)> {
        let root_line = self.named().find(|mount| mount.mount_point == "/");
        let root_line = root_line.and_then(|mount| parts(&mount.device));
        let is_root = |number: Option<u32>| number.map_or(Place::Disk, Place::Partition) == *root;
        match root_line {
            Some((disk, number)) if is_root(number) => {
                let mut disks = vec![(disk.to_owned(), self.home)];
                disks.extend(self.others(disk));
                disks
            }
            Some(_) => Vec::new(),
            None if self.count > 1 => self.by_order(),
            None => {
                let mut disks: Vec<String> =
                    KINDS.iter().filter_map(|kind| called(kind, 0)).collect();
                let by_path: Vec<&str> = self
                    .named()
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
                disks.into_iter().map(|name| (name, self.home)).collect()
            }
        }
    }

    /// The names of the other disks, where the root's is known.
    fn others(&self, root: &str) -> Vec<(String, usize)> {
        let kind = KINDS.iter().find(|kind| called(kind, self.home).as_deref() == Some(root));
        let others = (0..self.count).filter(|disk| *disk != self.home);
        if let Some(kind) = kind {
            return others.filter_map(|disk| Some((called(kind, disk)?, disk))).collect();
        }
        // There is one other disk, and one other name.
        let mut names: Vec<&str> =
            self.named().filter_map(|one| parts(&one.device)).map(|one| one.0).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| *name != root);
        match (&names[..], &others.collect::<Vec<_>>()[..]) {
            ([name], [disk]) => vec![((*name).to_owned(), *disk)],
            _ => Vec::new(),
        }
    }

    /// The names of all disks, if all that are named are of one kind.
    fn by_order(&self) -> Vec<(String, usize)> {
        let mut kinds: Vec<&str> = KINDS.to_vec();
        for mount in self.named().filter(|mount| !mount.device.starts_with(BY)) {
            kinds.retain(|kind| mount.device.starts_with(kind));
        }
        let of = |disk| kinds.iter().filter_map(move |kind| Some((called(kind, disk)?, disk)));
        (0..self.count).flat_map(of).collect()
    }

    fn named(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(|mount| is_of_hardware(&mount.device))
    }
}

const BY: &str = "/dev/disk/by-";
const KINDS: [&str; 6] = ["/dev/sd", "/dev/hd", "/dev/vd", "/dev/xvd", "/dev/nvme", "/dev/mmcblk"];

/// What the kernel calls disk number `disk` of a kind.
fn called(kind: &str, disk: usize) -> Option<String> {
    match kind {
        "/dev/nvme" => Some(format!("{kind}{disk}n1")),
        "/dev/mmcblk" => Some(format!("{kind}{disk}")),
        _ => ('a'..='z').nth(disk).map(|letter| format!("{kind}{letter}")),
    }
}

/// Names that stay, of those that udev makes.
const LASTING: [&str; 4] = ["uuid/", "label/", "partuuid/", "partlabel/"];

/// Whether the name comes from the hardware: from its order, its model, its place.
pub(crate) fn is_of_hardware(device: &str) -> bool {
    match device.strip_prefix(BY) {
        Some(rest) => !LASTING.iter().any(|lasting| rest.starts_with(lasting)),
        None => KINDS.iter().any(|kind| device.starts_with(kind)),
    }
}

/// The disk's name, and the number of the partition, if it is one.
fn parts(device: &str) -> Option<(&str, Option<u32>)> {
    match split(device) {
        Some((disk, number)) => Some((disk, Some(number))),
        None => is_of_hardware(device).then_some((device, None)),
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
        let volume = |place, uuid: &str| Volume {
            place,
            partition_uuid: None,
            uuid: Some(uuid.to_owned()),
            label: None,
            kind: Some("ext4"),
        };
        let other = |place| Place::OnDisk(1, Box::new(place));
        Devices {
            volumes: vec![
                volume(Place::Partition(1), "AAAA"),
                volume(Place::Partition(2), "BBBB"),
                volume(other(Place::Partition(1)), "CCCC"),
                volume(other(Place::Disk), "DDDD"),
            ],
            disks: vec![(disk.to_owned(), 0), ("/dev/sdx".to_owned(), 1)],
            home: 0,
        }
    }

    #[test]
    fn names_of_the_hardware_become_identities() {
        let sda = devices("/dev/sda");
        let text = "linux /vmlinuz root=/dev/sda2 resume=/dev/sda1 x=/dev/sda1 root=/dev/sdb1\n# root=/dev/sda1\n";
        let (new, unknown) = sda.rewrite(text, &["root=", "resume="], Reader::Program);
        assert_eq!(
            new,
            "linux /vmlinuz root=UUID=BBBB resume=UUID=AAAA x=/dev/sda1 root=/dev/sdb1\n# root=/dev/sda1\n"
        );
        assert_eq!(unknown, ["/dev/sdb1"]);
        assert_eq!(sda.rewrite(&new, &["root=", "resume="], Reader::Program).0, new);
        let quoted = sda.rewrite("A=\"root=/dev/sda1\"\n", &["root="], Reader::Program).0;
        assert_eq!(quoted, "A=\"root=UUID=AAAA\"\n");
        assert_eq!(
            devices("/dev/nvme0n1").instead("/dev/nvme0n1p2", Reader::Program).unwrap(),
            "UUID=BBBB"
        );
        let by_id = devices("/dev/disk/by-id/ata-A_1");
        assert_eq!(
            by_id.instead("/dev/disk/by-id/ata-A_1-part1", Reader::Program).unwrap(),
            "UUID=AAAA"
        );
        assert_eq!(by_id.instead("/dev/disk/by-uuid/BBBB", Reader::Program), None);
        assert_eq!(sda.instead("UUID=AAAA", Reader::Program), None);
        assert_eq!(sda.place("UUID=bbbb"), Some(Place::Partition(2)));
        assert_eq!(sda.instead("/dev/sdx1", Reader::Program).unwrap(), "UUID=CCCC");
        assert_eq!(sda.instead("/dev/sdx", Reader::Program).unwrap(), "UUID=DDDD");
        assert_eq!(sda.instead("/dev/sda3", Reader::Program), None);
        let mut copied = devices("/dev/sda");
        copied.volumes[2].uuid = Some("AAAA".to_owned());
        assert_eq!(copied.instead("/dev/sda1", Reader::Program), None);
    }

    #[test]
    fn a_kernel_alone_knows_partitions_only() {
        let mut sda = devices("/dev/sda");
        sda.volumes[0].partition_uuid = Some("12345678-01".to_owned());
        let instead = |device, reader| sda.instead(device, reader);
        assert_eq!(instead("/dev/sda1", Reader::Kernel).unwrap(), "PARTUUID=12345678-01");
        assert_eq!(instead("/dev/sda2", Reader::Kernel), None);
        assert_eq!(instead("/dev/sda1", Reader::OldKernel), None);
        let kernel = |version: &str, has_image: bool| {
            let mut kernel = Kernel::default();
            kernel.version = version.to_owned();
            kernel.image = has_image.then(String::new);
            kernel
        };
        let reader = Reader::of_command_lines;
        assert_eq!(reader(&[kernel("6.1", false)]), Reader::Program);
        assert_eq!(reader(&[kernel("6.1", true), kernel("linux", true)]), Reader::Kernel);
        assert_eq!(reader(&[kernel("6.1", true), kernel("2.6.32-5", true)]), Reader::OldKernel);
        assert_eq!(reader(&[kernel("3.8.0", true)]), Reader::Kernel);
    }

    fn mount(device: &str, mount_point: &str) -> Mount {
        Mount::of_fstab(&format!("{device} {mount_point} ext4")).remove(0)
    }

    #[test]
    fn disks_are_told_by_their_order_where_it_is_certain() {
        let disks = |home, count, mounts: &[(&str, &str)], root| {
            let mounts: Vec<Mount> =
                mounts.iter().map(|(device, point)| mount(device, point)).collect();
            let found = Known { home, count, mounts: &mounts }.disks(&root);
            let found = found.into_iter().map(|(name, disk)| format!("{name}={disk}"));
            found.collect::<Vec<_>>().join(" ")
        };
        let root = || Place::Partition(1);
        // One disk, called whatever its order was.
        assert_eq!(disks(0, 1, &[("/dev/sdc1", "/")], root()), "/dev/sdc=0");
        assert_eq!(disks(0, 1, &[("/dev/sdc2", "/")], root()), "");
        // The root's name fits its place among the disks, or not.
        assert_eq!(disks(0, 2, &[("/dev/sda1", "/")], root()), "/dev/sda=0 /dev/sdb=1");
        assert_eq!(
            disks(1, 2, &[("/dev/nvme1n1p1", "/")], root()),
            "/dev/nvme1n1=1 /dev/nvme0n1=0"
        );
        assert_eq!(disks(0, 3, &[("/dev/sdb1", "/"), ("/dev/sda1", "/a")], root()), "/dev/sdb=0");
        // One disk is left, and one name.
        let two = [("/dev/nvme0n1p1", "/"), ("/dev/disk/by-id/x-part1", "/a")];
        assert_eq!(disks(1, 2, &two, root()), "/dev/nvme0n1=1 /dev/disk/by-id/x=0");
        // The root has a name that stays.
        let lasting = [("UUID=1", "/"), ("/dev/vdb1", "/a")];
        assert_eq!(disks(0, 2, &lasting, root()), "/dev/vda=0 /dev/vdb=1");
        let mixed = [("UUID=1", "/"), ("/dev/vdb1", "/a"), ("/dev/sda1", "/b")];
        assert_eq!(disks(0, 2, &mixed, root()), "");
    }

    #[test]
    fn names_of_logical_volumes_are_taken_apart() {
        let both = Some(("my-vg".to_owned(), "root".to_owned()));
        assert_eq!(logical("/dev/mapper/my--vg-root"), both);
        assert_eq!(logical("/dev/my-vg/root"), both);
        assert_eq!(logical("/dev/disk/by-id"), None);
    }
}
