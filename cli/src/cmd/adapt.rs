//! `vdisk adapt`

use vdisk::{Error, Result};
use vdisk_fixup::AdaptOptions;

use super::{Context, Outcome, fixup};
use crate::args::AdaptArgs;

pub(super) fn run(args: &AdaptArgs, context: &Context<'_>) -> Result<Outcome> {
    fixup::run("adapt", &args.fixup, context, |machine, plan| {
        let target = args.target.ok_or_else(|| Error::usage("the target is missing"))?;
        let mut options = AdaptOptions::new(target);
        options.drivers.clone_from(&args.drivers);
        options.run_guest_tools = args.run_guest_tools;
        vdisk_fixup::adapt(machine, &options, plan)
    })
}
