//! What several machines have in common and should not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::inventory::Inventory;

/// Something that should tell machines apart, and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Shared {
    /// What it is, such as `machine-sid`.
    pub what: &'static str,
    /// The value that they share.
    pub value: String,
    /// Where it was found: the names given to [`shared`].
    pub images: Vec<String>,
    /// What comes of it where all of them run, or stand in one machine.
    pub effect: &'static str,
}

/// The things that should tell machines apart, the gravest first, and what comes of sharing them.
const THINGS: [(&str, &str); 7] = [
    (
        "machine-sid",
        "Windows 11 24H2, Server 2025 and later do not authenticate to a machine with the same SID",
    ),
    ("machine-guid", "software licences and agents take them for one machine"),
    (
        "machine-id",
        "they may be given one network address by DHCP, and agents take them for one machine",
    ),
    ("hostname", "only one of them can be reached by this name"),
    (
        "disk-id",
        "where both disks are in one machine, Windows takes one offline or gives it another \
         identity, so that it does not start any more",
    ),
    ("partition-uuid", "where both disks are in one machine, the wrong one may be mounted"),
    ("filesystem-uuid", "where both disks are in one machine, the wrong one may be mounted"),
];

/// What two or more of `machines` share, each given with its name. Images of one machine's chain
/// are not to be given together: they share everything.
#[must_use]
pub fn shared(machines: &[(&str, &Inventory)]) -> Vec<Shared> {
    // By rank, and by the value without regard to case; with the value as it was met first.
    let mut found: BTreeMap<(usize, String), (String, BTreeSet<usize>)> = BTreeMap::new();
    for (place, (_, inventory)) in machines.iter().enumerate() {
        for (what, value) in identities(inventory) {
            let rank = THINGS.iter().position(|(thing, _)| *thing == what).unwrap_or_default();
            let entry = found.entry((rank, value.to_ascii_lowercase()));
            entry.or_insert_with(|| (value, BTreeSet::new())).1.insert(place);
        }
    }
    let both = found.into_iter().filter(|(_, (_, places))| places.len() > 1);
    both.filter_map(|((rank, _), (value, places))| {
        let (what, effect) = *THINGS.get(rank)?;
        let names = places.iter().filter_map(|place| machines.get(*place));
        let images = names.map(|(name, _)| (*name).to_owned()).collect();
        Some(Shared { what, value, images, effect })
    })
    .collect()
}

fn identities(inventory: &Inventory) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut add = |what, value: Option<&String>| {
        all.extend(value.map(|value| (what, value.clone())));
    };
    // A signature of zero means that none was set.
    add("disk-id", inventory.disk.disk_id.as_ref().filter(|id| *id != "0x00000000"));
    for partition in &inventory.partitions {
        // An MBR's are made of its signature.
        if inventory.disk.partition_table == "gpt" {
            add("partition-uuid", partition.uuid.as_ref());
        }
    }
    let of_partitions = inventory.partitions.iter().map(|one| &one.filesystem);
    let of_volumes = inventory.volumes.iter().map(|one| &one.filesystem);
    for filesystem in of_partitions.chain(of_volumes).flatten() {
        add("filesystem-uuid", filesystem.uuid.as_ref());
    }
    for system in &inventory.systems {
        add("hostname", system.hostname.as_ref().filter(|name| *name != "localhost"));
        add("machine-sid", system.identity.machine_sid.as_ref());
        add("machine-guid", system.identity.machine_guid.as_ref());
        add("machine-id", system.identity.machine_id.as_ref());
    }
    all
}
