//! What `p2v` and `v2p` do to a guest on its way from one machine to another.

use vdisk::{ErrorKind, Result};
use vdisk_fixup::{Identity, Machine, MachineDisk, Plan, StripOptions, Target};

use super::Context;
use crate::args::{IdentityChoice, Passage};

/// Plans, in memory, what takes the guest on a machine's `disks` to `target`; `None` where there is
/// no guest. A plan that cannot be carried out is refused.
pub(super) fn planned(
    disks: Vec<MachineDisk>,
    args: &Passage,
    target: Target,
) -> Result<Option<(Machine, Plan)>> {
    let mut machine = Machine::of_disks(disks)?;
    if machine.inventories().all(|one| one.systems.is_empty()) {
        return Ok(None);
    }
    let mut plan = Plan::default();
    let strip = StripOptions {
        identity: args.identity.into(),
        keep: args.keep.iter().cloned().collect(),
        keep_network: args.old_place.keep_network.unwrap_or_default(),
        purge_ghosts: args.old_place.purge_ghosts,
        ..StripOptions::default()
    };
    let adapt = args.drivers.options(target);
    let done = vdisk_fixup::strip(&mut machine, &strip, &mut plan)
        .and_then(|()| vdisk_fixup::adapt(&mut machine, &adapt, &mut plan));
    match done {
        Err(error) if error.kind() == ErrorKind::UnknownFormat => Ok(None),
        done => done.map(|()| Some((machine, plan))),
    }
}

/// Says in a line what becomes of the machine's identity.
pub(super) fn tell_identity(args: &Passage, context: &Context<'_>) {
    let identity: Identity = args.identity.into();
    context.note(match identity {
        Identity::Keep => {
            "the machine keeps its identity (SID, machine-id, host keys): never let it and its \
             original run in one network; for a copy add --identity new"
        }
        Identity::New => {
            "the machine becomes another one: what was protected for its old identity (DPAPI, \
             domain membership, known host keys) is not taken along"
        }
        Identity::Sysprep => {
            "the machine becomes another one at its first start: sysprep runs, restarts it, and \
             asks at the console for what setup asks for"
        }
    });
}

/// As text that tells one choice of options from another.
pub(super) fn as_text(args: &Passage, target: Option<Target>) -> String {
    let identity = match args.identity {
        IdentityChoice::Keep => "keep",
        IdentityChoice::New => "new",
        IdentityChoice::Sysprep => "sysprep",
    };
    let target = target.map_or("none", Target::name);
    format!(
        "target {target}, identity {identity}, without {:?}, {:?}, network {:?}, ghosts {}",
        args.keep, args.drivers.drivers, args.old_place.keep_network, args.old_place.purge_ghosts
    )
}
