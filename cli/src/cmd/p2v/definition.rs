//! The definition of the machine that the captured disks belong to.

use std::path::{Path, PathBuf};

use vdisk::{ErrorKind, Result};
use vdisk_define::{Mac, Sizing};
use vdisk_fixup::{Identity, Target};
use vdisk_p2v::MachineSize;

use super::source::{Named, Source};
use crate::args::{Others, P2vArgs, Source as SourceArgs};
use crate::cmd::Context;
use crate::cmd::define::Request;

/// Fails before anything is copied where the disks cannot start on the target.
pub(super) fn insist(sources: &[Source], args: &P2vArgs) -> Result<()> {
    let Some(target) = hypervisor(args) else { return Ok(()) };
    if sources.iter().any(Source::is_used) {
        return Ok(());
    }
    let images: Vec<PathBuf> = sources.iter().map(|source| source.name.clone()).collect();
    let sizing = sizing(sources, args);
    let request = Request {
        images: &images,
        source: &args.source,
        target,
        sizing,
        name: None,
        before_conversion: true,
    };
    match request.make() {
        // What else is wrong is told when the definition is made.
        Err(error) if error.kind() == ErrorKind::Refused => Err(error),
        _ => Ok(()),
    }
}

/// Writes the definition beside the first image; its files.
pub(super) fn make(
    sources: &[Source],
    jobs: &[Named],
    args: &P2vArgs,
    context: &Context<'_>,
) -> Result<Vec<PathBuf>> {
    let Some(target) = hypervisor(args) else { return Ok(Vec::new()) };
    let images: Vec<PathBuf> = jobs.iter().map(|job| job.path.clone()).collect();
    let source = SourceArgs {
        format: jobs.first().map(|job| job.format),
        force_share: false,
        others: Others { parent: None, parent_dir: Vec::new() },
    };
    let name = args.machine.name.clone();
    let sizing = sizing(sources, args);
    let request =
        Request { images: &images, source: &source, target, sizing, name, before_conversion: true };
    let made = request.make()?;
    if let Some((_, first)) = made.files.first() {
        first.remarks.iter().for_each(|remark| context.note(remark));
    }
    made.write(args.force)?;
    Ok(made.files.into_iter().map(|(path, _)| path).collect())
}

/// The target, where it is a hypervisor.
fn hypervisor(args: &P2vArgs) -> Option<Target> {
    args.target.filter(|target| *target != Target::Physical)
}

/// As asked for; of a machine that is this one, as large as it is, and with its network addresses
/// where it stays itself.
fn sizing(sources: &[Source], args: &P2vArgs) -> Sizing {
    let mut sizing = args.machine.sizing();
    if sources.iter().all(|source| source.device.is_none()) {
        return sizing;
    }
    let own = MachineSize::read(Path::new("/"));
    sizing.memory = sizing.memory.or(own.memory);
    sizing.processors = sizing.processors.or(own.processors);
    if sizing.macs.is_empty() && Identity::from(args.passage.identity) == Identity::Keep {
        sizing.macs = own.macs.into_iter().map(Mac).collect();
    }
    sizing
}
