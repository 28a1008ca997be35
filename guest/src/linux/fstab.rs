//! `/etc/fstab`: which volumes a Linux wants, and how it names them.

use crate::inventory::{DeviceStyle, Mount};

/// The lines of fstab(5).
pub(crate) fn mounts(text: &str) -> Vec<Mount> {
    text.lines().filter_map(mount).collect()
}

/// What is mounted at `place`; the last line counts, as for mount(8).
pub(crate) fn mounts_at<'a>(mounts: &'a [Mount], place: &str) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.mount_point == place)
}

fn mount(line: &str) -> Option<Mount> {
    let mut fields = line.split_whitespace().map(plain);
    let device = fields.next().filter(|device| !device.starts_with('#'))?;
    let mount_point = fields.next()?;
    Some(Mount {
        style: style(&device),
        device,
        mount_point,
        filesystem: fields.next().unwrap_or_default(),
    })
}

/// Spaces and the like are written as `\040`.
fn plain(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                text.push(char::from(code));
                text += part.get(3..).unwrap_or_default();
            }
            None => {
                text.push('\\');
                text += part;
            }
        }
    }
    text
}

fn style(device: &str) -> DeviceStyle {
    use DeviceStyle::{Hardware, KernelName, Label, Lvm, Other, PartUuid, Uuid};
    const PREFIXES: [(&str, DeviceStyle); 15] = [
        ("UUID=", Uuid),
        ("LABEL=", Label),
        ("PARTUUID=", PartUuid),
        ("PARTLABEL=", PartUuid),
        ("/dev/disk/by-uuid/", Uuid),
        ("/dev/disk/by-label/", Label),
        ("/dev/disk/by-partuuid/", PartUuid),
        ("/dev/disk/by-partlabel/", PartUuid),
        ("/dev/disk/", Hardware),
        ("/dev/mapper/", Lvm),
        ("/dev/sd", KernelName),
        ("/dev/vd", KernelName),
        ("/dev/hd", KernelName),
        ("/dev/xvd", KernelName),
        ("/dev/nvme", KernelName),
    ];
    if let Some((_, style)) = PREFIXES.iter().find(|(prefix, _)| device.starts_with(prefix)) {
        return *style;
    }
    match device.strip_prefix("/dev/") {
        Some(rest) if rest.contains('/') => Lvm,
        _ => Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_mount_does() {
        let found = mounts(
            "# a comment\n\nUUID=1-2 / ext4 rw 0 1\n/dev/sda1\t/my\\040data xfs\n/dev/vg/root /a\n\
             tmpfs /tmp tmpfs\n/dev/disk/by-id/ata-X-part1 /b ext3\nalone\n",
        );
        let told: Vec<_> =
            found.iter().map(|mount| (mount.mount_point.as_str(), mount.style)).collect();
        assert_eq!(
            told,
            [
                ("/", DeviceStyle::Uuid),
                ("/my data", DeviceStyle::KernelName),
                ("/a", DeviceStyle::Lvm),
                ("/tmp", DeviceStyle::Other),
                ("/b", DeviceStyle::Hardware),
            ]
        );
        assert_eq!(mounts_at(&found, "/b").unwrap().filesystem, "ext3");
        assert_eq!(plain("a\\b\\9\\1"), "a\\b\\9\\1");
    }
}
