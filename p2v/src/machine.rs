//! How large the machine is that this runs on.

use std::fs;
use std::path::Path;

/// What a machine has; what could not be found out is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineSize {
    /// Memory, bytes: what the kernel was given, rounded up to what was built in.
    pub memory: Option<u64>,
    /// Processors, as the system counts them.
    pub processors: Option<u32>,
    /// The addresses of its network adapters that are hardware, in the order of their names.
    pub macs: Vec<[u8; 6]>,
}

/// Memory is built in pieces of this, and the firmware keeps less.
const MODULE: u64 = 512 << 20;

impl MachineSize {
    /// Of the machine whose `/proc` and `/sys` stand under `root`, which is `/` but for tests.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        Self { memory: memory(root), processors: processors(root), macs: macs(root) }
    }
}

fn memory(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)?.checked_next_multiple_of(MODULE)
}

/// The list has numbers and ranges of them, such as `0-3,8`.
fn processors(root: &Path) -> Option<u32> {
    let text = fs::read_to_string(root.join("sys/devices/system/cpu/present")).ok()?;
    let mut count: u32 = 0;
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

fn macs(root: &Path) -> Vec<[u8; 6]> {
    let Ok(adapters) = fs::read_dir(root.join("sys/class/net")) else { return Vec::new() };
    let mut folders: Vec<_> = adapters.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let hardware = folders.iter().filter(|folder| folder.join("device").exists());
    hardware.filter_map(|folder| mac(&fs::read_to_string(folder.join("address")).ok()?)).collect()
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    (parts.next().is_none() && bytes != [0; 6]).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_measured() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(MachineSize::read(root.path()), MachineSize::default());
        put("proc/meminfo", "MemTotal:       16303428 kB\nMemFree:  1 kB\n");
        put("sys/devices/system/cpu/present", "0-3,8\n");
        put("sys/class/net/lo/address", "00:00:00:00:00:00\n");
        put("sys/class/net/br0/address", "52:54:00:00:00:01\n");
        put("sys/class/net/eth0/address", "00:15:5d:01:02:af\n");
        put("sys/class/net/eth0/device/vendor", "0x8086\n");
        let found = MachineSize::read(root.path());
        assert_eq!(found.memory, Some(16 << 30));
        assert_eq!(found.processors, Some(5));
        assert_eq!(found.macs, [[0, 0x15, 0x5D, 1, 2, 0xAF]]);
        put("sys/devices/system/cpu/present", "3-1\n");
        assert_eq!(MachineSize::read(root.path()).processors, None);
    }
}
