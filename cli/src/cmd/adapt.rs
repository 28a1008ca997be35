//! `vdisk adapt`

use vdisk::{Error, Result};
use vdisk_fixup::{AdaptOptions, Target};

use super::{Context, Outcome, fixup};
use crate::args::{AdaptArgs, DriverArgs};

pub(super) fn run(args: &AdaptArgs, context: &Context<'_>) -> Result<Outcome> {
    fixup::run("adapt", &args.fixup, context, |machine, plan| {
        let target = args.target.ok_or_else(|| Error::usage("the target is missing"))?;
        vdisk_fixup::adapt(machine, &args.drivers.options(target), plan)
    })
}

impl DriverArgs {
    /// The same as the library takes it.
    pub(super) fn options(&self, target: Target) -> AdaptOptions {
        let mut options = AdaptOptions::new(target);
        options.drivers.clone_from(&self.drivers);
        options.run_guest_tools = self.run_guest_tools;
        options
    }
}
