//! Scenarios of one image: random operations on every variant that can be written.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use vdisk::{RawLayer, RawWriter};
use vdisk_core::{
    Access, ImageWriter, Layer, LayerMut, MemFiles, MemStore, Opener, ParentLink, Result, Store,
};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::exercise::Open;
use vdisk_testkit::fill::fill;
use vdisk_testkit::power::{Session, Sizes, Subject};
use vdisk_vhd as vhd;
use vdisk_vhdx as vhdx;
use vdisk_vmdk as vmdk;

use super::judges::{ask, ask_to_replay};
use super::{Scenario, Tally};

/// States of a round.
const STATES: usize = 120;

/// One scenario for each variant.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |name: &str, make: fn(&mut Rng) -> Subject<'static>| {
        let name = name.to_owned();
        all.push(Scenario { name, round: Box::new(move |seed, tally| round(make, seed, tally)) });
    };
    add("raw", raw);
    add("vhd-fixed", |rng| vhd_of(vhd::Subformat::Fixed, rng));
    add("vhd-dynamic", |rng| vhd_of(vhd::Subformat::Dynamic, rng));
    add("vhd-table", vhd_growing);
    add("vhd-child", vhd_child);
    add("vhdx-fixed", |rng| vhdx_of(true, 512, rng));
    add("vhdx-dynamic", |rng| vhdx_of(false, 512, rng));
    add("vhdx-dynamic-4k", |rng| vhdx_of(false, 4096, rng));
    add("vhdx-child", |rng| vhdx_child(512, rng));
    add("vhdx-child-4k", |rng| vhdx_child(4096, rng));
    add("vmdk-sparse", |rng| vmdk_of(vmdk::Subformat::MonolithicSparse, rng));
    add("vmdk-flat", |rng| vmdk_of(vmdk::Subformat::MonolithicFlat, rng));
    add("vmdk-split-sparse", |rng| vmdk_of(vmdk::Subformat::TwoGbMaxExtentSparse, rng));
    add("vmdk-split-flat", |rng| vmdk_of(vmdk::Subformat::TwoGbMaxExtentFlat, rng));
    add("vmdk-child", vmdk_child);
    all
}

fn round(make: fn(&mut Rng) -> Subject<'static>, seed: u64, tally: &mut Tally) {
    let subject = make(&mut Rng::with_seed(seed));
    let session = Session::record(&subject, seed);
    let mut number = 0;
    session.states(seed, STATES, |cut, context, files, rng| {
        if tally.wants(number) {
            // Nobody else reads a child without its parent.
            let asks = subject.below.0.is_empty() && tally.asks(number);
            let before = files.all();
            let judge = || {
                if asks {
                    ask_to_replay(files, subject.open, context);
                }
                let judged = session.judge(&subject, cut, files, rng, context);
                if asks {
                    ask(files, subject.open, context);
                }
                judged
            };
            tally.state(number, judge, |folder| keep(&before, folder));
        }
        number += 1;
    });
}

fn keep(files: &[(String, Arc<MemStore>)], folder: &Path) {
    for (name, store) in files {
        std::fs::write(folder.join(name), store.to_bytes()).expect("room for the files");
    }
}

/// An image that keeps its size.
fn subject(files: MemFiles, open: Open<'static>, unit: u64) -> Subject<'static> {
    Subject {
        files,
        open,
        below: VecDisk(Vec::new()),
        unit,
        sector: 512,
        sizes: None,
        links: Vec::new(),
        first: &[],
        steps: 30,
        until_written: &[],
    }
}

fn filled(
    name: &str,
    content: &Content,
    create: impl FnOnce(&mut MemFiles) -> Result<Box<dyn ImageWriter>>,
) -> MemFiles {
    let mut files = MemFiles::new(name);
    create(&mut files).and_then(|writer| fill(writer, content)).expect("a new image");
    files
}

/// Two ways to name the one parent.
fn links(parent: &dyn Layer, name: &str) -> Vec<ParentLink> {
    let places = [name.to_owned(), format!("a folder with a long name/of another/{name}")];
    let link = |relative: String| ParentLink {
        info: parent.info().clone(),
        absolute: Path::new("/images").join(&relative),
        relative,
        modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000),
    };
    places.map(link).to_vec()
}

/// A size of whole sectors of `sector` bytes, up to `most`.
fn size(rng: &mut Rng, sector: u64, most: u64) -> u64 {
    rng.u64(1..=most / sector) * sector
}

fn content(rng: &mut Rng, size: u64) -> Content {
    match rng.bool() {
        true => Content::random(size, rng.u64(..)),
        false => Content::full(size, rng.u64(..)),
    }
}

fn raw(rng: &mut Rng) -> Subject<'static> {
    let size = size(rng, 512, 200 << 10);
    let content = content(rng, size);
    let files = filled("a.img", &content, |files| Ok(Box::new(RawWriter::create(files, size)?)));
    let sizes = Some(Sizes { step: 512, most: 300 << 10, often: false });
    Subject { sizes, ..subject(files, &open_raw, 4096) }
}

fn open_raw(store: Arc<dyn Store>, _: &dyn Opener, access: Access) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(RawLayer::open(store, access == Access::Write)?))
}

fn open_vhd(store: Arc<dyn Store>, _: &dyn Opener, access: Access) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(vhd::open(store, &vhd::OpenOptions { access, ..Default::default() })?))
}

/// Faults that a VHD, which has no log, shows until it is written to.
const VHD_FAULTS: &[&str] = &["vhd-footer-copies-differ", "vhd-footer-missing"];

fn vhd_files(subformat: vhd::Subformat, block_size: u32, content: &Content) -> MemFiles {
    let size = content.bytes().len() as u64;
    let options = vhd::CreateOptions { subformat, block_size, ..vhd::CreateOptions::new(size) };
    filled("a.vhd", content, |files| vhd::create(files, &options))
}

fn vhd_of(subformat: vhd::Subformat, rng: &mut Rng) -> Subject<'static> {
    let size = size(rng, 512, 250 << 10);
    let block = 4096 << rng.u32(0..5);
    let files = vhd_files(subformat, block, &content(rng, size));
    let sizes = Some(Sizes { step: 512, most: 300 << 10, often: false });
    let until_written = VHD_FAULTS;
    Subject { sizes, until_written, ..subject(files, &open_vhd, block.into()) }
}

/// A table that outgrows its place.
fn vhd_growing(rng: &mut Rng) -> Subject<'static> {
    let files = vhd_files(vhd::Subformat::Dynamic, 4096, &content(rng, 100 * 4096));
    let sizes = Some(Sizes { step: 512, most: 6000 * 512, often: true });
    Subject { sizes, until_written: VHD_FAULTS, ..subject(files, &open_vhd, 4096) }
}

fn vhd_child(rng: &mut Rng) -> Subject<'static> {
    let size = size(rng, 512, 250 << 10);
    let below = content(rng, size);
    let base = vhd_files(vhd::Subformat::Dynamic, 65536, &below);
    let base = base.get("a.vhd").expect("a file");
    let base = vhd::open(base, &vhd::OpenOptions::default()).expect("a sound image");
    let links = links(&base, "base.vhd");
    let block_size = 4096 << rng.u32(0..5);
    let mut files = MemFiles::new("child.vhd");
    let options = vhd::ChildOptions { block_size, ..vhd::ChildOptions::new(&links[0]) };
    vhd::create_child(&mut files, &options).expect("a child");
    Subject {
        below: VecDisk(below.bytes().to_vec()),
        links,
        until_written: VHD_FAULTS,
        ..subject(files, &open_vhd, block_size.into())
    }
}

fn open_vhdx(store: Arc<dyn Store>, _: &dyn Opener, access: Access) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(vhdx::open(store, &vhdx::OpenOptions { access, ..Default::default() })?))
}

const MIB: u64 = 1 << 20;

fn vhdx_files(fixed: bool, sector: u32, content: &Content) -> MemFiles {
    let options = vhdx::CreateOptions {
        fixed,
        block_size: MIB,
        logical_sector: sector,
        physical_sector: 4096,
        ..vhdx::CreateOptions::new(content.bytes().len() as u64)
    };
    filled("a.vhdx", content, |files| vhdx::create(files, &options))
}

fn vhdx_of(fixed: bool, sector: u32, rng: &mut Rng) -> Subject<'static> {
    let size = size(rng, sector.into(), 4 * MIB);
    let files = vhdx_files(fixed, sector, &content(rng, size));
    let sizes = Some(Sizes { step: MIB / 2, most: 5 * MIB, often: false });
    Subject { sizes, sector: sector.into(), steps: 16, ..subject(files, &open_vhdx, MIB) }
}

fn vhdx_child(sector: u32, rng: &mut Rng) -> Subject<'static> {
    let size = size(rng, sector.into(), 3 * MIB);
    let below = content(rng, size);
    let base = vhdx_files(false, sector, &below).get("a.vhdx").expect("a file");
    let base = vhdx::open(base, &vhdx::OpenOptions::default()).expect("a sound image");
    let links = links(&base, "base.vhdx");
    let mut files = MemFiles::new("child.vhdx");
    let options = vhdx::ChildOptions { block_size: MIB, ..vhdx::ChildOptions::new(&links[0]) };
    vhdx::create_child(&mut files, &options).expect("a child");
    Subject {
        below: VecDisk(below.bytes().to_vec()),
        links,
        sector: sector.into(),
        steps: 16,
        ..subject(files, &open_vhdx, MIB)
    }
}

fn open_vmdk(
    store: Arc<dyn Store>,
    opener: &dyn Opener,
    access: Access,
) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(vmdk::open(store, opener, &vmdk::OpenOptions { access, ..Default::default() })?))
}

fn vmdk_files(subformat: vmdk::Subformat, grain_size: u64, content: &Content) -> MemFiles {
    let size = content.bytes().len() as u64;
    let options = vmdk::CreateOptions { subformat, grain_size, ..vmdk::CreateOptions::new(size) };
    filled("a.vmdk", content, |files| vmdk::create(files, &options))
}

fn vmdk_of(subformat: vmdk::Subformat, rng: &mut Rng) -> Subject<'static> {
    let size = size(rng, 512, 250 << 10);
    let grain = 8192 << rng.u32(0..4);
    let files = vmdk_files(subformat, grain, &content(rng, size));
    // A split disk cannot grow.
    let whole = subformat == vmdk::Subformat::MonolithicSparse;
    let sizes = whole.then_some(Sizes { step: 512, most: 300 << 10, often: false });
    Subject { sizes, ..subject(files, &open_vmdk, grain) }
}

fn vmdk_child(rng: &mut Rng) -> Subject<'static> {
    let size = size(rng, 512, 250 << 10);
    let below = content(rng, size);
    let base = vmdk_files(vmdk::Subformat::MonolithicSparse, 65536, &below);
    let store = base.get("a.vmdk").expect("a file");
    let base = vmdk::open(store, &base, &vmdk::OpenOptions::default()).expect("a sound image");
    let links = links(&base, "base.vmdk");
    let mut files = MemFiles::new("child.vmdk");
    vmdk::create_child(&mut files, &vmdk::ChildOptions::new(&links[0])).expect("a child");
    Subject { below: VecDisk(below.bytes().to_vec()), links, ..subject(files, &open_vmdk, 65536) }
}
