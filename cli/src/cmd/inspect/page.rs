//! What was found, for people.

use std::fmt::{Display, Write};

use vdisk::human_size;
use vdisk_guest::Shared;
use vdisk_guest::inventory::{
    FilesystemFacts, Inventory, Kernel, Linux, Problem, Role, State, System, Windows,
};

/// All of one disk.
pub(super) fn page(filename: &str, inventory: &Inventory) -> String {
    let mut page = Page::default();
    page.line("image", filename);
    let disk = &inventory.disk;
    page.line("size", both(disk.virtual_size));
    let id = disk.disk_id.as_ref().map(|id| format!(", {id}")).unwrap_or_default();
    page.line(
        "table",
        format!("{}{id}, sectors of {} bytes", disk.partition_table, disk.sector_size),
    );
    page.line("boot", boot(inventory));
    for partition in &inventory.partitions {
        let kind = partition.type_name.unwrap_or(&partition.kind);
        let name = partition.name.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
        let active = if partition.active { ", active" } else { "" };
        page.line(
            &format!("partition {}", partition.number),
            format!(
                "{} at {}: {kind}{name}{active}{}",
                human_size(partition.length),
                partition.start,
                filesystem(partition.filesystem.as_ref())
            ),
        );
    }
    for volume in &inventory.volumes {
        let size = volume.length.map(human_size).unwrap_or_default();
        let filesystem = filesystem(volume.filesystem.as_ref());
        page.line(&format!("volume {}", volume.name), format!("{size}{filesystem}"));
    }
    for system in &inventory.systems {
        page.system(system);
    }
    for Problem { volume, message, .. } in &inventory.problems {
        page.line("problem", format!("{volume}: {message}"));
    }
    page.text
}

/// What several machines share; empty where they share nothing.
pub(super) fn shared_table(shared: &[Shared]) -> String {
    if shared.is_empty() {
        return String::new();
    }
    let mut page = Page::default();
    page.text += "\nshared, and should not be:\n";
    for one in shared {
        page.line(&format!("  {}", one.what), &one.value);
        page.line("    of", one.images.join(", "));
        page.line("    effect", one.effect);
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, name: &str, value: impl Display) {
        // Writing to a string cannot fail. What a guest wrote must not steer a terminal.
        let value = value.to_string().replace(char::is_control, "\u{fffd}");
        let _ = writeln!(self.text, "{name}: {value}");
    }

    fn some(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.line(name, value);
        }
    }

    fn list(&mut self, name: &str, values: &[impl AsRef<str>]) {
        if !values.is_empty() {
            let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
            self.line(name, values.join(", "));
        }
    }

    fn system(&mut self, system: &System) {
        let unknown = || format!("unknown {:?}", system.family);
        self.line("system", system.product.clone().unwrap_or_else(unknown));
        self.some("  version", system.version.as_ref());
        self.some("  machine", system.arch);
        self.some("  name", system.hostname.as_ref());
        self.some("  on partition", system.root_partition);
        self.some("  on volume", system.root_volume.as_ref());
        self.some("  time zone", system.time_zone.as_ref());
        self.some("  machine SID", system.identity.machine_sid.as_ref());
        self.some("  machine GUID", system.identity.machine_guid.as_ref());
        self.some("  machine id", system.identity.machine_id.as_ref());
        if let Some(windows) = &system.windows {
            self.windows(windows);
        }
        if let Some(linux) = &system.linux {
            self.linux(linux);
        }
        self.list("  boot drivers", &system.drivers.boot);
        for filters in &system.drivers.filters {
            let names = [&filters.upper[..], &filters.lower[..]].concat();
            self.list(&format!("  {} filters", filters.class), &names);
        }
        for tools in &system.drivers.hypervisor_tools {
            self.list(&format!("  tools for {}", tools.hypervisor), &tools.parts);
        }
    }

    fn windows(&mut self, windows: &Windows) {
        self.some("  edition", windows.edition.as_ref());
        self.some("  release", windows.release.as_ref().or(windows.service_pack.as_ref()));
        self.some(
            "  role",
            windows.role.map(|role| match role {
                Role::Workstation => "workstation",
                Role::Server => "server",
                Role::DomainController => "domain controller",
            }),
        );
        if let Some(domain) = &windows.domain {
            let name = domain.dns_name.as_ref().or(domain.name.as_ref());
            let kind = if domain.joined { "  domain" } else { "  workgroup" };
            self.some(kind, name);
        }
        self.some("  last ran on", windows.hardware.as_ref());
        self.some("  fast startup", windows.fast_startup.map(|on| if on { "on" } else { "off" }));
        for interface in &windows.interfaces {
            let name = interface.name.as_ref().unwrap_or(&interface.id);
            let adapter = interface.adapter.as_deref().unwrap_or("no adapter");
            let way = match interface.dhcp {
                Some(true) => ", by DHCP",
                Some(false) => ", fixed",
                None => "",
            };
            let addresses = interface.addresses.join(", ");
            self.line("  network", format!("{name} ({adapter}) {addresses}{way}"));
        }
    }

    fn linux(&mut self, linux: &Linux) {
        self.some("  root subvolume", linux.root_subvolume.as_ref());
        for kernel in &linux.kernels {
            self.line("  kernel", self::kernel(kernel));
        }
        self.list("  initramfs by", &linux.initramfs_makers);
        self.list("  boot loader", &linux.boot_loaders);
        for mount in &linux.mounts {
            let style = format!("{:?}", mount.style).to_lowercase();
            self.line("  mounts", format!("{} at {} ({style})", mount.device, mount.mount_point));
        }
        if linux.cloud_init {
            self.line("  cloud-init", "yes");
        }
    }
}

fn boot(inventory: &Inventory) -> String {
    let boot = &inventory.boot;
    let mode = boot.mode.map_or("nothing that starts", |mode| mode.name());
    if boot.loaders.is_empty() {
        return mode.to_owned();
    }
    let fallback = if boot.fallback_loader { "" } else { ", without the fallback loader" };
    format!("{mode}: {}{fallback}", boot.loaders.join(", "))
}

fn filesystem(facts: Option<&FilesystemFacts>) -> String {
    let Some(facts) = facts else { return String::new() };
    let mut text = format!(", {}", facts.kind);
    if let Some(label) = facts.label.as_ref().filter(|label| !label.is_empty()) {
        text += &format!(" \"{label}\"");
    }
    if let Some(state) = facts.state {
        text += &format!(", {}", state.name());
        if state == State::Dirty && facts.journal_pending {
            text += " (its journal was not replayed)";
        }
    }
    if let Some(used) = facts.used {
        text += &format!(", {} used", human_size(used));
    }
    text
}

fn kernel(kernel: &Kernel) -> String {
    let mut text = kernel.version.clone();
    if let Some(initramfs) = &kernel.initramfs {
        let packing = initramfs.compression.unwrap_or("unknown packing");
        text += &format!(", initramfs {} ({packing})", human_size(initramfs.size));
    }
    if !kernel.modules {
        text += ", without modules";
    }
    text
}

fn both(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", human_size(bytes))
}
