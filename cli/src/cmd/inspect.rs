//! `vdisk inspect`

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use vdisk::{Disk, Error, ErrorKind, Format, Image, Result};
use vdisk_guest::{Inventory, Shared, inspect_together, shared};

use self::page::page;
use super::{Context, Outcome};
use crate::args::{InspectArgs, Source};
use crate::show;

mod page;

/// Some of what was asked for could not be looked at.
const IN_PART: u8 = 3;

/// An image that was looked at.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Machine {
    filename: String,
    #[serde(flatten)]
    inventory: Inventory,
    /// Device and inode of its file, and of all files of its chain.
    #[serde(skip)]
    own: Option<(u64, u64)>,
    #[serde(skip)]
    chain: Vec<(u64, u64)>,
}

/// One image: its machine at the top of the document, where scripts look for it.
#[derive(Serialize)]
struct OneDocument<'a> {
    schema: &'static str,
    #[serde(flatten)]
    machine: &'a Machine,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    images: &'a [Machine],
    shared: &'a [Shared],
    failures: &'a [Failure],
}

/// An image that could not be opened.
#[derive(Serialize)]
struct Failure {
    filename: String,
    message: String,
}

const SCHEMA: &str = "vdisk.inspect/1";

pub(super) fn run(args: &InspectArgs, context: &Context<'_>) -> Result<Outcome> {
    if !args.with.is_empty() {
        return one_machine(args, context);
    }
    if let [only] = &args.images[..]
        && !only.is_dir()
    {
        let machine = look(only, &args.source)?;
        if context.json() {
            show::json(&OneDocument { schema: SCHEMA, machine: &machine })?;
        } else {
            show::text(&page(&machine.filename, &machine.inventory))?;
        }
        return Ok(outcome(&[machine], &[]));
    }
    let (mut machines, mut failed) = (Vec::new(), Vec::new());
    for found in images(&args.images, args.source.format)? {
        context.cancel.check()?;
        match look(&found.path, &args.source) {
            Ok(machine) => machines.push(machine),
            Err(error) => failed.push((found, error)),
        }
    }
    failed.retain(|(found, _)| !is_part(found, &machines));
    let failures: Vec<Failure> = failed.iter().map(Failure::of).collect();
    let shared = shared_by(&machines);
    if context.json() {
        let (images, shared, failures) = (&machines[..], &shared[..], &failures[..]);
        show::json(&Document { schema: SCHEMA, images, shared, failures })?;
    } else {
        let pages: Vec<String> =
            machines.iter().map(|one| page(&one.filename, &one.inventory)).collect();
        show::text(&(pages.join("\n") + &page::shared_table(&shared)))?;
        for failure in &failures {
            context.note(&format!("not looked at: {}", failure.message));
        }
        if !shared.is_empty() {
            context.note("warning: these machines share what should tell them apart");
        }
    }
    Ok(outcome(&machines, &failures))
}

/// Images that are the disks of one machine: what lies on several of them is whole.
fn one_machine(args: &InspectArgs, context: &Context<'_>) -> Result<Outcome> {
    let [first] = &args.images[..] else {
        return Err(Error::usage(
            "--with names the other disks of one machine, and here are several",
        ));
    };
    let paths: Vec<&PathBuf> = std::iter::once(first).chain(&args.with).collect();
    let mut disks: Vec<(Arc<dyn Disk>, u64)> = Vec::new();
    for path in &paths {
        let image = args.source.open_options().open(path)?;
        let sector_size = image.info().logical_sector.into();
        disks.push((Arc::new(image), sector_size));
    }
    let found = inspect_together(&disks)?;
    let named = found.into_iter().zip(paths).map(|(inventory, path)| Machine {
        filename: path.display().to_string(),
        inventory,
        own: None,
        chain: Vec::new(),
    });
    let images: Vec<Machine> = named.collect();
    if context.json() {
        let images = &images[..];
        show::json(&Document { schema: SCHEMA, images, shared: &[], failures: &[] })?;
    } else {
        let pages = images.iter().map(|one| page(&one.filename, &one.inventory));
        show::text(&pages.collect::<Vec<_>>().join("\n"))?;
    }
    Ok(outcome(&images, &[]))
}

fn look(path: &Path, source: &Source) -> Result<Machine> {
    let image = source.open_options().open(path)?;
    let own = image.files().first().map(|file| file.id);
    let chain = image.host_ids();
    let sector_size = u64::from(image.info().logical_sector);
    let disk: Arc<dyn Disk> = Arc::new(image);
    let inventory = vdisk_guest::inspect(disk, sector_size).map_err(|error| error.in_file(path))?;
    Ok(Machine { filename: path.display().to_string(), inventory, own, chain })
}

fn outcome(machines: &[Machine], failures: &[Failure]) -> Outcome {
    let sound = machines.iter().all(|machine| machine.inventory.problems.is_empty());
    if sound && failures.is_empty() { Outcome::Done } else { Outcome::Code(IN_PART) }
}

/// What is shared by machines of which none is a snapshot's parent of another: a chain is one
/// machine.
fn shared_by(machines: &[Machine]) -> Vec<Shared> {
    let is_parent = |one: &Machine| {
        machines.iter().any(|other| {
            other.own != one.own && one.own.is_some_and(|own| other.chain.contains(&own))
        })
    };
    let mut tops: Vec<&Machine> = Vec::new();
    for machine in machines.iter().filter(|one| !is_parent(one)) {
        if tops.iter().all(|known| known.own != machine.own) {
            tops.push(machine);
        }
    }
    let named: Vec<(&str, &Inventory)> =
        tops.iter().map(|one| (one.filename.as_str(), &one.inventory)).collect();
    shared(&named)
}

/// A file that is to be looked at.
struct Found {
    path: PathBuf,
    /// It was not named, but stands in a folder that was.
    in_folder: bool,
}

impl Failure {
    fn of((found, error): &(Found, Error)) -> Self {
        Self { filename: found.path.display().to_string(), message: error.to_string() }
    }
}

/// Whether what was found in a folder is an extent of an image that was looked at.
fn is_part(found: &Found, machines: &[Machine]) -> bool {
    let id = std::fs::metadata(&found.path).map(|there| (there.dev(), there.ino())).ok();
    found.in_folder && id.is_some_and(|id| machines.iter().any(|one| one.chain.contains(&id)))
}

/// The images named, and those in the folders named: there, what is no image is passed over.
fn images(named: &[PathBuf], format: Option<Format>) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for path in named {
        if !path.is_dir() {
            all.push(Found { path: path.clone(), in_folder: false });
            continue;
        }
        let listed = std::fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let listed = listed.map_err(|error| Error::io(error, "list it").in_file(path))?;
        let mut files: Vec<PathBuf> = listed.iter().map(std::fs::DirEntry::path).collect();
        files.retain(|file| file.is_file() && is_image(file, format));
        files.sort();
        if files.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "there is no image in this folder")
                .in_file(path)
                .hint("with -f raw, all of its files are taken for raw images"));
        }
        all.extend(files.into_iter().map(|path| Found { path, in_folder: true }));
    }
    Ok(all)
}

/// Whether a file in a folder is an image by its content, or is to be read as one. What is wrong
/// with an image is told when it is opened.
fn is_image(file: &Path, format: Option<Format>) -> bool {
    format.is_some()
        || !matches!(Image::open(file), Err(error) if error.kind() == ErrorKind::UnknownFormat)
}
