//! Where a guest goes, and what is asked for.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The machine a guest is to start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Hyper-V, generation 1: BIOS, emulated IDE.
    HyperVGen1,
    /// Hyper-V, generation 2: UEFI, synthetic SCSI, no emulated devices.
    HyperVGen2,
    /// QEMU and KVM with virtio devices.
    Kvm,
    /// VMware ESXi and Workstation.
    Vmware,
    /// Oracle VirtualBox.
    VirtualBox,
    /// A physical machine.
    Physical,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::HyperVGen1,
        Self::HyperVGen2,
        Self::Kvm,
        Self::Vmware,
        Self::VirtualBox,
        Self::Physical,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HyperVGen1 => "hyper-v-gen1",
            Self::HyperVGen2 => "hyper-v-gen2",
            Self::Kvm => "kvm",
            Self::Vmware => "vmware",
            Self::VirtualBox => "virtualbox",
            Self::Physical => "physical",
        }
    }

    /// The target of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }
}

/// Whether the guest stays the machine it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// A move: the machine stays itself.
    Keep,
    /// A copy that lives beside the original.
    #[default]
    New,
    /// Such a copy, made another machine by Windows itself at its first start.
    Sysprep,
}

/// Which fixed network settings the new card of a Windows gets at its first start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepNetwork {
    /// None: they are only told.
    #[default]
    No,
    /// Those of the old card; of several, those of the only one with a default gateway.
    Only,
    /// Those of the card that had this address.
    Of(Ipv4Addr),
}

/// What [`strip`](crate::strip()) is asked for.
#[derive(Clone, Debug, Default)]
pub struct StripOptions {
    /// Whether the guest becomes another machine.
    pub identity: Identity,
    /// Rules to leave out, by the id of their actions or the part of it before a dot.
    pub keep: BTreeSet<String>,
    /// The new name in the network, where one is wanted.
    pub hostname: Option<String>,
    /// Which fixed network settings go over to the new card.
    pub keep_network: KeepNetwork,
    /// Whether Windows forgets removable disks and screens that it has seen.
    pub purge_ghosts: bool,
    /// Go on where only caution says no.
    pub force: bool,
}

impl StripOptions {
    /// Whether the rule `id` is to be left out.
    #[must_use]
    pub fn keeps(&self, id: &str) -> bool {
        self.keep.iter().any(|kept| {
            id.strip_prefix(kept.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

/// What [`adapt`](crate::adapt()) is asked for.
#[derive(Clone, Debug)]
pub struct AdaptOptions {
    /// Where the guest goes.
    pub target: Target,
    /// Folders of the host with unpacked drivers.
    pub drivers: Vec<PathBuf>,
    /// The guest's own tools may be run, in a sandbox on a copy of it, where only they can make what
    /// is needed (Linux, as root).
    pub run_guest_tools: bool,
}

impl AdaptOptions {
    /// For `target`, without drivers of one's own.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, drivers: Vec::new(), run_guest_tools: false }
    }
}
