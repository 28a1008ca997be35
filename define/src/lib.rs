//! The definition of a virtual machine for disks that are ready: what the hypervisor is to build
//! around them.
//!
//! # Design
//!
//! [`Vm`] is one model of a machine: firmware, memory, processors, disks on a controller, network
//! adapters. [`Vm::for_guest`] decides it from what [`inspect`](vdisk_guest::inspect()) found: the
//! firmware the disk starts with, controllers the guest has boot drivers for, memory that is never
//! below the guest's minimum. Then each hypervisor has a file that writes it down:
//!
//! | file | writes |
//! | --- | --- |
//! | `vm.rs` | the model, and how it is decided |
//! | `guest.rs` | what a guest needs: its least memory, the devices it has drivers for |
//! | `hyper_v.rs` | a PowerShell script (`New-VM` …) |
//! | `vmware.rs`, `ovf.rs` | a `.vmx`, and an OVF descriptor |
//! | `libvirt.rs` | a libvirt domain in XML, for KVM |
//! | `virtualbox.rs` | a shell script of `VBoxManage` calls |
//!
//! # Invariants
//!
//! * Names and paths are quoted for the language they are written in: whatever a file or guest is
//!   called, the definition says that name and nothing else.
//! * A definition names disks as it is told to. libvirt wants paths from the root; the others take
//!   names relative to the definition, so that it can be moved together with the disks.
//! * No definition starts a machine.
//!
//! # What is not here
//!
//! Changing the guest so that it starts there (`vdisk-fixup`), running a hypervisor, uploading.
//!
//! # Sources
//!
//! The reference of the Hyper-V PowerShell module; VMware's `.vmx` keys as its products write them;
//! DMTF DSP0243 (OVF 1.1); libvirt's domain XML format; the manual of VBoxManage.
//!
//! # Example
//!
//! ```
//! use vdisk_define::{Firmware, Hypervisor, Vm, VmDisk, define};
//!
//! let mut vm = Vm::new("web 1", Firmware::Uefi);
//! vm.disks.push(VmDisk::new("web.vhdx", 40 << 30));
//! let files = define(&vm, Hypervisor::HyperV)?;
//! assert!(files[0].text.contains("New-VM"));
//! # Ok::<(), vdisk_core::Error>(())
//! ```

mod guest;
mod hyper_v;
mod libvirt;
mod ovf;
mod virtualbox;
mod vm;
mod vmware;

pub use guest::{Bus, Nic};
pub use vm::{Firmware, Hypervisor, Mac, Sizing, Vm, VmDisk, VmNic};

use vdisk_core::Result;

/// A file of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// What its name ends in, such as `ps1`.
    pub extension: &'static str,
    /// What is in it, to be written as UTF-8; PowerShell's begins with a byte order mark.
    pub text: String,
    /// What its reader should know.
    pub remarks: Vec<String>,
}

/// The definition of `vm` for `hypervisor`, in one file or more.
///
/// # Errors
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where the hypervisor cannot express it.
pub fn define(vm: &Vm, hypervisor: Hypervisor) -> Result<Vec<Definition>> {
    Ok(match hypervisor {
        Hypervisor::HyperV => vec![hyper_v::script(vm)?],
        Hypervisor::Vmware => {
            let mut files = vec![vmware::vmx(vm)?];
            files.extend(ovf::descriptor(vm));
            files
        }
        Hypervisor::Kvm => vec![libvirt::domain(vm)?],
        Hypervisor::VirtualBox => vec![virtualbox::script(vm)?],
    })
}
