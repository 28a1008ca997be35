//! Machines that start: QEMU without hardware help, a serial line that is written to a file, and a
//! time after which it is over.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::tools::{arg, must, required, skip};

/// What a machine starts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF, which remembers nothing: only the fallback loader is found.
    Uefi,
    /// OVMF with an entry for `\EFI\debian\grubx64.efi`, as the installer left it.
    UefiWithEntry,
}

/// What the disk is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// SATA.
    Ahci,
    /// NVM Express.
    Nvme,
    /// virtio, as a SCSI disk.
    VirtioScsi,
    /// virtio, as a block device.
    VirtioBlk,
    /// VMware's paravirtual SCSI.
    Pvscsi,
}

/// A machine to start a disk on.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    /// What it starts by.
    pub firmware: Firmware,
    /// What the disk is connected to.
    pub bus: Bus,
    /// QEMU's name of the network adapter.
    pub network: &'static str,
    /// The adapter's address.
    pub mac: &'static str,
}

/// OVMF as Debian has it.
const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Whether machines can be built and started here; says that it is left out where not.
#[must_use]
pub fn possible() -> bool {
    let runs = |program: &str| {
        let run = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        run.is_ok_and(|done| done.success())
    };
    let there = runs("qemu-system-x86_64")
        && runs("debootstrap")
        && Path::new(OVMF).exists()
        && std::fs::OpenOptions::new().write(true).open("/dev/loop-control").is_ok();
    if !there {
        skip("boot", "qemu-system-x86_64, debootstrap, OVMF and loop devices are needed");
    }
    there || required("boot")
}

/// The disk of a layout of `testdata/make-guest.sh`, built where it is not there yet.
#[must_use]
pub fn guest(layout: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let folder = target.unwrap_or_else(|| repository.join("target")).join("guests");
    must(arg(&repository.join("testdata/make-guest.sh")), &[arg(&folder), layout]);
    folder.join(format!("{layout}.raw"))
}

/// Starts a machine with these raw disks, which stay as they are, from the first, until the machine is switched off, says one
/// of `last_words`, or `limit` is over. What it wrote to its serial line, from which the screen's
/// control characters are taken.
#[must_use]
pub fn run(disks: &[&Path], hardware: &Hardware, last_words: &[&str], limit: Duration) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("serial");
    let mut machine = start(disks, hardware, folder.path(), &log);
    let end = Instant::now() + limit;
    loop {
        let said = plain(&std::fs::read(&log).unwrap_or_default());
        let over = machine.try_wait().expect("qemu").is_some();
        if over || Instant::now() > end || last_words.iter().any(|word| said.contains(word)) {
            machine.kill().expect("qemu ends");
            machine.wait().expect("qemu ends");
            return plain(&std::fs::read(&log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn start(disks: &[&Path], hardware: &Hardware, folder: &Path, log: &Path) -> Child {
    let network = format!("{},netdev=net,mac={},romfile=", hardware.network, hardware.mac);
    let serial = format!("file:{}", arg(log));
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-display", "none", "-monitor", "none", "-no-reboot"])
        .args(["-serial", &serial])
        .args(["-netdev", "user,id=net", "-device", &network]);
    if let Some(controller) = controller(hardware.bus) {
        qemu.args(["-device", controller]);
    }
    for (number, disk) in disks.iter().enumerate() {
        let drive = format!("if=none,id=disk{number},format=raw,snapshot=on,file={}", arg(disk));
        let mut device = device(hardware.bus, number);
        if disks.len() > 1 {
            device += &format!(",bootindex={}", number + 1);
        }
        qemu.args(["-drive", &drive, "-device", &device]);
    }
    if hardware.firmware != Firmware::Bios {
        let variables = folder.join("variables");
        std::fs::copy(OVMF_VARIABLES, &variables).expect("OVMF");
        qemu.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={OVMF}")])
            .args(["-drive", &format!("if=pflash,format=raw,file={}", arg(&variables))]);
    }
    if hardware.firmware == Firmware::UefiWithEntry {
        // The firmware's shell reads this from any disk: it stands for the entry.
        let entry = folder.join("entry");
        std::fs::create_dir(&entry).expect("a folder");
        let script: String =
            (0..3).map(|disk| format!("fs{disk}:\\EFI\\debian\\grubx64.efi\r\n")).collect();
        std::fs::write(entry.join("startup.nsh"), script).expect("a file");
        let drive = format!("if=none,id=entry,format=raw,readonly=on,file=fat:{}", arg(&entry));
        qemu.args(["-drive", &drive, "-device", "usb-ehci", "-device", "usb-storage,drive=entry"]);
    }
    qemu.stdin(Stdio::null()).spawn().expect("qemu-system-x86_64")
}

/// What disks are connected to, where the board has none.
fn controller(bus: Bus) -> Option<&'static str> {
    match bus {
        Bus::Ahci | Bus::Nvme | Bus::VirtioBlk => None,
        Bus::VirtioScsi => Some("virtio-scsi-pci"),
        Bus::Pvscsi => Some("pvscsi"),
    }
}

/// Disk number `number` on the bus.
fn device(bus: Bus, number: usize) -> String {
    match bus {
        Bus::Ahci => format!("ide-hd,drive=disk{number},bus=ide.{number}"),
        Bus::Nvme => format!("nvme,drive=disk{number},serial={}", number + 1),
        Bus::VirtioScsi | Bus::Pvscsi => format!("scsi-hd,drive=disk{number},scsi-id={number}"),
        Bus::VirtioBlk => format!("virtio-blk-pci,drive=disk{number}"),
    }
}

/// Without carriage returns and what moves a cursor.
fn plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(['\r', '\u{1b}'], "")
}
