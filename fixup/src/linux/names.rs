//! Files that name devices: fstab, crypttab, and the words kernels are started with.

use vdisk_core::Result;
use vdisk_guest::inventory::Kernel;

use super::devices::{Devices, Reader};
use super::lines_that_differ;
use super::tree::Tree;
use crate::{Action, Plan, Target};

/// What the kernel and initramfs programs read.
const WORDS: &[&str] = &["root=", "resume=", "RESUME=", "swap="];

/// Files with words for the kernel.
pub(super) const COMMAND_LINES: &[&str] = &[
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/efi/EFI/*/grub.cfg",
    "/boot/grub/menu.lst",
    "/boot/grub/grub.conf",
    "/etc/default/grub",
    "/etc/default/grub.d/*.cfg",
    "/boot/loader/entries/*.conf",
    "/boot/efi/loader/entries/*.conf",
    "/efi/loader/entries/*.conf",
    "/boot/extlinux/extlinux.conf",
    "/etc/kernel/cmdline",
];

/// Settings that programs of the guest make the above from.
const OTHERS: &[&str] = &[
    "/etc/initramfs-tools/conf.d/*",
    "/etc/initramfs-tools/initramfs.conf",
    "/etc/dracut.conf.d/*",
];

/// Bytes of GRUB's environment block, which never change in number.
const ENVIRONMENT: usize = 1024;

/// Replaces names that come from the hardware.
///
/// # Errors
/// The volume's.
pub(super) fn adapt(
    tree: &mut Tree<'_>,
    devices: &Devices,
    kernels: &[Kernel],
    plan: &mut Plan,
) -> Result<()> {
    let starter = Reader::of_command_lines(kernels);
    for (path, id) in [("/etc/fstab", "linux.fstab"), ("/etc/crypttab", "linux.crypttab")] {
        rewrite(tree, path, id, plan, |text| devices.rewrite(text, &[""], Reader::Program))?;
    }
    for (patterns, reader) in [(COMMAND_LINES, starter), (OTHERS, Reader::Program)] {
        for pattern in patterns {
            for path in tree.glob(pattern)? {
                rewrite(tree, &path, "linux.boot-loader.device", plan, |text| {
                    devices.rewrite(text, WORDS, reader)
                })?;
            }
        }
    }
    for path in ["/boot/grub/grubenv", "/boot/grub2/grubenv"] {
        rewrite(tree, path, "linux.boot-loader.device", plan, |text| {
            let (new, unknown) = devices.rewrite(text, WORDS, starter);
            (environment(&new).unwrap_or_else(|| text.to_owned()), unknown)
        })?;
    }
    let by_name = "GRUB_DISABLE_LINUX_UUID=true";
    rewrite(tree, "/etc/default/grub", "linux.boot-loader.uuid", plan, |text| {
        let kept =
            |line: &str| if line.trim() == by_name { format!("#{line}") } else { line.to_owned() };
        (text.split_inclusive('\n').map(kept).collect(), Vec::new())
    })?;
    device_map(tree, plan)
}

/// GRUB's own list of disks: it is made anew where it is missing.
fn device_map(tree: &mut Tree<'_>, plan: &mut Plan) -> Result<()> {
    for path in ["/boot/grub/device.map", "/boot/grub2/device.map"] {
        let Some(text) = tree.text(path)? else { continue };
        tree.remove(path)?;
        plan.act(
            Action::new("linux.boot-loader.device-map", "remove the list of disks", path)
                .why("it names disks that will not be there; grub-install finds them itself")
                .before(text.trim()),
        );
    }
    Ok(())
}

/// Lets the kernel speak on the screen too, where the target has no serial line.
///
/// # Errors
/// The volume's.
pub(super) fn console(tree: &mut Tree<'_>, target: Target, plan: &mut Plan) -> Result<()> {
    if target == Target::Kvm {
        return Ok(());
    }
    for pattern in COMMAND_LINES {
        for path in tree.glob(pattern)? {
            let Some(old) = tree.text(&path)? else { continue };
            let new: String = old.split_inclusive('\n').map(with_screen).collect();
            if new == old {
                continue;
            }
            let (before, after) = lines_that_differ(&old, &new);
            tree.write(&path, new.as_bytes(), 0o644)?;
            plan.act(
                Action::new("linux.console", "add console=tty0", path)
                    .why("the guest speaks only on a serial line, which the target may not have")
                    .before(before)
                    .after(after),
            );
        }
    }
    Ok(())
}

/// The line with `console=tty0` before its first console, if it has only others.
fn with_screen(line: &str) -> String {
    let has_screen = line.contains("console=tty0") || line.contains("console=tty1");
    match line.find("console=tty").filter(|_| !has_screen && !line.trim_start().starts_with('#')) {
        Some(at) => {
            let (head, tail) = line.split_at(at);
            format!("{head}console=tty0 {tail}")
        }
        None => line.to_owned(),
    }
}

/// The block in its size: text, then `#`; none where it has become too long.
fn environment(text: &str) -> Option<String> {
    let lines = text.trim_end_matches('#');
    let rest = ENVIRONMENT.checked_sub(lines.len())?;
    Some(format!("{lines}{}", "#".repeat(rest)))
}

fn rewrite(
    tree: &mut Tree<'_>,
    path: &str,
    id: &str,
    plan: &mut Plan,
    change: impl FnOnce(&str) -> (String, Vec<String>),
) -> Result<()> {
    let Some(old) = tree.text(path)? else { return Ok(()) };
    let (new, unknown) = change(&old);
    for device in unknown {
        plan.warn(
            id,
            format!(
                "{path} names {device}, which is on none of the disks, or has no UUID that is \
                 known where it is read"
            ),
            "see that the guest finds it under this name on the new machine",
        );
    }
    if new == old {
        return Ok(());
    }
    tree.write(path, new.as_bytes(), 0o644)?;
    let (before, after) = lines_that_differ(&old, &new);
    plan.act(
        Action::new(id, "name devices by their identity", path)
            .why("the names come from the old hardware and may be others on the new one")
            .before(before)
            .after(after),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_added_once() {
        let line = with_screen("linux /v root=x console=ttyS0,115200\n");
        assert_eq!(line, "linux /v root=x console=tty0 console=ttyS0,115200\n");
        assert_eq!(with_screen(&line), line);
        assert_eq!(with_screen("linux /v quiet\n"), "linux /v quiet\n");
    }

    #[test]
    fn the_environment_keeps_its_size() {
        let block =
            format!("# GRUB Environment Block\nkernelopts=root=/dev/sda1\n{}", "#".repeat(900));
        assert_eq!(environment(&block).unwrap().len(), ENVIRONMENT);
        assert_eq!(environment(&"x".repeat(2000)), None);
    }
}
