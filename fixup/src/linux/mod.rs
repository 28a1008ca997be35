//! Linux: Debian, Ubuntu, RHEL, Fedora, Alma, SUSE and their families.
//!
//! | file | does |
//! | --- | --- |
//! | `tree.rs` | the guest's files, on whatever volumes they are |
//! | `identity.rs`, `rules.rs` | `strip`: what makes the machine unique, as a table and by hand |
//! | `ssh.rs` | host keys generated anew |
//! | `pins.rs` | network settings tied to an adapter's address |
//! | `kernels.rs` | `adapt`: modules for each kernel's initramfs |
//! | `initramfs/` | cpio archives: reading all of them, writing one more |
//! | `tools.rs` | the guest's own programs make an initramfs, where nothing else can |
//! | `modules.rs`, `needs.rs` | what a kernel has, and what a target needs |
//! | `devices.rs`, `names.rs` | `/dev/sda1` and its like become `UUID=` |
//! | `network.rs`, `adapters.rs` | adapters keep the names they are configured by |
//! | `firmware.rs` | the loader that a firmware without memory finds |

mod adapters;
mod devices;
mod firmware;
mod identity;
mod initramfs;
mod kernels;
mod modules;
mod names;
mod needs;
mod network;
mod pins;
mod rules;
mod ssh;
mod tools;
mod tree;

use vdisk_core::Result;

use crate::{AdaptOptions, Machine, Plan, StripOptions};
use tree::Tree;

/// Strips the Linux that is guest number `index` of the machine's inventory.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub fn strip(
    machine: &mut Machine,
    index: usize,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let kernels = machine.system(index)?.linux.iter().flat_map(|linux| &linux.kernels);
    let initramfs: Vec<String> =
        kernels.filter_map(|one| Some(one.initramfs.as_ref()?.path.clone())).collect();
    let mut tree = Tree::open(machine, index)?;
    identity::strip(&mut tree, &initramfs, options, plan);
    Ok(())
}

/// Adapts the Linux that is guest number `index` of the machine's inventory.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub fn adapt(
    machine: &mut Machine,
    index: usize,
    options: &AdaptOptions,
    plan: &mut Plan,
) -> Result<()> {
    let system = machine.system(index)?.clone();
    let root = machine.root(index)?;
    let Some(linux) = &system.linux else { return Ok(()) };
    let devices = devices::Devices::of(machine, &linux.mounts, &root);
    let mut tree = Tree::open(machine, index)?;
    let mut step = |id: &str, plan: &mut Plan, work: Work<'_>| {
        if let Err(error) = work(&mut tree, plan) {
            plan.stop_for(id, &error);
        }
    };
    step("linux.firmware", plan, &mut |tree, plan| {
        firmware::adapt(tree, system.arch, options.target, plan)
    });
    step("linux.device-names", plan, &mut |tree, plan| {
        names::adapt(tree, &devices, &linux.kernels, plan)
    });
    step("linux.initramfs", plan, &mut |tree, plan| {
        kernels::adapt(tree, &system, &devices, options, plan)
    });
    step("linux.network", plan, &mut |tree, plan| {
        network::adapt(tree, index, options.target, plan)
    });
    step("linux.console", plan, &mut |tree, plan| names::console(tree, options.target, plan));
    Ok(())
}

/// One part of the work.
type Work<'w> = &'w mut dyn FnMut(&mut Tree<'_>, &mut Plan) -> Result<()>;

/// What a text says that is changed, for plans: the lines that differ.
fn lines_that_differ(old: &str, new: &str) -> (String, String) {
    let only = |a: &str, b: &str| {
        let others: std::collections::BTreeSet<&str> = b.lines().collect();
        let mut lines: Vec<&str> = a.lines().filter(|line| !others.contains(line)).collect();
        lines.truncate(MOST_LINES);
        lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n")
    };
    (only(old, new), only(new, old))
}

/// The first of these paths, and how many more there are.
fn some(paths: &[String]) -> String {
    let (shown, more) = paths.split_at(paths.len().min(MOST_SHOWN));
    match more.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Paths that a warning shows.
const MOST_SHOWN: usize = 10;
/// Lines a plan shows of one file.
const MOST_LINES: usize = 20;
