//! `vdisk strip`

use vdisk::Result;
use vdisk_fixup::{Identity, StripOptions};

use super::{Context, Outcome, fixup};
use crate::args::{IdentityChoice, StripArgs};

pub(super) fn run(args: &StripArgs, context: &Context<'_>) -> Result<Outcome> {
    let options = StripOptions {
        identity: args.identity.into(),
        keep: args.keep.iter().cloned().collect(),
        hostname: args.hostname.clone(),
        keep_network: args.old_place.keep_network.unwrap_or_default(),
        purge_ghosts: args.old_place.purge_ghosts,
        force: args.fixup.force,
    };
    fixup::run("strip", &args.fixup, context, |machine, plan| {
        vdisk_fixup::strip(machine, &options, plan)
    })
}

impl From<IdentityChoice> for Identity {
    fn from(choice: IdentityChoice) -> Self {
        match choice {
            IdentityChoice::Keep => Self::Keep,
            IdentityChoice::New => Self::New,
            IdentityChoice::Sysprep => Self::Sysprep,
        }
    }
}
