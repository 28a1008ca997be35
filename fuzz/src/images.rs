//! The images that inputs change.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use vdisk_core::Disk;
use vdisk_core::{
    Access, Files, Layer, LayerMut, MemFiles, MemStore, Opener, ParentLink, Result, Store, StoreExt,
};
use vdisk_testkit::content::Content;
use vdisk_testkit::exercise::Pattern;
use vdisk_testkit::fill::fill;

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;

/// A folder of files, kept so that it is quickly made again, and where the structures stand in
/// the file that is changed.
pub struct Base {
    main: String,
    files: Vec<(String, Kept)>,
    pub changed: String,
    pub anchors: Vec<u64>,
}

/// A file's pages that are not zero.
struct Kept {
    len: u64,
    pages: Vec<(u64, Vec<u8>)>,
}

impl Base {
    fn of(files: &MemFiles, changed: &str, anchors: &[u64]) -> Self {
        let kept = files.all().into_iter().map(|(name, store)| {
            let bytes = store.to_bytes();
            let pages = (0u64..).step_by(PAGE).zip(bytes.chunks(PAGE));
            let pages = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
            let pages = pages.map(|(at, page)| (at, page.to_vec())).collect();
            (name, Kept { len: bytes.len() as u64, pages })
        });
        Self {
            main: files.main_name().to_owned(),
            files: kept.collect(),
            changed: changed.to_owned(),
            anchors: anchors.to_vec(),
        }
    }

    /// The files, as they were.
    pub fn files(&self) -> MemFiles {
        let mut files = MemFiles::new(self.main.clone());
        for (name, kept) in &self.files {
            let store = files.create(name).expect("memory");
            for (at, page) in &kept.pages {
                store.write_all_at(page, *at).expect("memory");
            }
            store.set_len(kept.len).expect("memory");
        }
        files
    }
}

pub fn open_vhd(store: Arc<dyn Store>, access: Access) -> Result<Box<dyn LayerMut>> {
    let options = vdisk_vhd::OpenOptions { access, ..Default::default() };
    Ok(Box::new(vdisk_vhd::open(store, &options)?))
}

pub fn open_vhdx(store: Arc<dyn Store>, access: Access) -> Result<Box<dyn LayerMut>> {
    let options = vdisk_vhdx::OpenOptions { access, ..Default::default() };
    Ok(Box::new(vdisk_vhdx::open(store, &options)?))
}

pub fn open_vmdk(
    store: Arc<dyn Store>,
    opener: &dyn Opener,
    access: Access,
) -> Result<Box<dyn LayerMut>> {
    let options = vdisk_vmdk::OpenOptions { access, ..Default::default() };
    Ok(Box::new(vdisk_vmdk::open(store, opener, &options)?))
}

fn link(parent: &dyn Layer, name: &str) -> ParentLink {
    ParentLink {
        info: parent.info().clone(),
        relative: name.to_owned(),
        absolute: PathBuf::from("/images").join(name),
        modified: SystemTime::UNIX_EPOCH,
    }
}

/// Writes where extents meet: small images with something in them.
fn touch(layer: &mut dyn LayerMut, below: &dyn Disk) {
    let size = layer.info().virtual_size;
    for (at, len) in [(0, 5000), (size / 2 + 512, 700), (size - 4096, 4096)] {
        layer.write(&vec![0x5A; len], at, below).expect("write");
    }
    layer.zero(4096..8192, below).expect("zero");
}

fn vhd_image(subformat: vdisk_vhd::Subformat, size: u64, block: u32) -> MemFiles {
    let options = vdisk_vhd::CreateOptions {
        subformat,
        block_size: block,
        timestamp: Some(700_000_000),
        ..vdisk_vhd::CreateOptions::new(size)
    };
    let mut files = MemFiles::new("a.vhd");
    let writer = vdisk_vhd::create(&mut files, &options).expect("create");
    fill(writer, &Content::empty(size)).expect("fill");
    files
}

fn vhd_child(size: u64, block: u32) -> MemFiles {
    let parent = vhd_image(vdisk_vhd::Subformat::Dynamic, size, 65536);
    let parent = open_vhd(parent.get("a.vhd").expect("made"), Access::Read).expect("open");
    let link = link(&*parent, "a.vhd");
    let mut files = MemFiles::new("b.vhd");
    let options =
        vdisk_vhd::ChildOptions { block_size: block, ..vdisk_vhd::ChildOptions::new(&link) };
    vdisk_vhd::create_child(&mut files, &options).expect("create");
    files
}

fn main_store(files: &MemFiles) -> Arc<MemStore> {
    files.get(files.main_name()).expect("made")
}

pub fn vhd() -> Vec<Base> {
    use vdisk_vhd::Subformat::{Dynamic, Fixed};
    let anchors = [0, 16, 48, 512, 528, 544, 1088, 1536, 1540, 2048];
    let images = [
        vhd_image(Dynamic, MIB, 65536),
        vhd_child(MIB, 65536),
        vhd_image(Dynamic, 300 * 512, 4096),
        vhd_child(300 * 512, 512 * 8),
        vhd_image(Fixed, 64 << 10, 4096),
    ];
    let bases = images.iter().map(|files| {
        let mut layer = open_vhd(main_store(files), Access::Write).expect("open");
        let size = layer.info().virtual_size;
        touch(&mut *layer, &Pattern(size));
        layer.close().expect("close");
        Base::of(files, files.main_name(), &anchors)
    });
    bases.collect()
}

fn vhdx_image(sector: u32) -> MemFiles {
    let options = vdisk_vhdx::CreateOptions {
        block_size: MIB,
        logical_sector: sector,
        ..vdisk_vhdx::CreateOptions::new(3 * MIB)
    };
    let mut files = MemFiles::new("a.vhdx");
    vdisk_vhdx::create(&mut files, &options).expect("create").finish().expect("finish");
    files
}

fn vhdx_child() -> MemFiles {
    let parent = open_vhdx(main_store(&vhdx_image(512)), Access::Read).expect("open");
    let link = link(&*parent, "a.vhdx");
    let mut files = MemFiles::new("b.vhdx");
    let options =
        vdisk_vhdx::ChildOptions { block_size: MIB, ..vdisk_vhdx::ChildOptions::new(&link) };
    vdisk_vhdx::create_child(&mut files, &options).expect("create");
    files
}

/// Headers, region tables, log, metadata and block table.
const VHDX_ANCHORS: [u64; 14] = [
    64 << 10,
    (64 << 10) + 48,
    128 << 10,
    192 << 10,
    (192 << 10) + 16,
    256 << 10,
    MIB,
    2 * MIB,
    2 * MIB + 32,
    2 * MIB + (64 << 10),
    3 * MIB,
    3 * MIB + 8,
    4 * MIB,
    5 * MIB,
];

pub fn vhdx() -> Vec<Base> {
    let images = [vhdx_image(512), vhdx_child(), vhdx_image(4096)];
    let bases = images.iter().map(|files| {
        let mut layer = open_vhdx(main_store(files), Access::Write).expect("open");
        touch(&mut *layer, &Pattern(3 * MIB));
        layer.close().expect("close");
        Base::of(files, files.main_name(), &VHDX_ANCHORS)
    });
    bases.collect()
}

pub fn vhdx_with_log() -> Vec<Base> {
    let log = [0, 8, 16, 24, 32, 48, 64, 80, 88, 96, 4096, 8192, 12288, 16384];
    let mut anchors: Vec<u64> = log.iter().map(|at| MIB + at).collect();
    anchors.extend([(64 << 10) + 48, (128 << 10) + 48, 192 << 10, 2 * MIB, 3 * MIB]);
    let images = [vhdx_image(512), vhdx_child()];
    let bases = images.iter().map(|files| {
        let mut layer = open_vhdx(main_store(files), Access::Write).expect("open");
        let below = Pattern(3 * MIB);
        // Several flushes, each an entry; no close, so they wait.
        for at in [0, MIB, 2 * MIB] {
            layer.write(&[0x5A; 5000], at, &below).expect("write");
            layer.flush().expect("flush");
        }
        Base::of(files, files.main_name(), &anchors)
    });
    bases.collect()
}

fn vmdk_image(options: &vdisk_vmdk::CreateOptions, content: &Content) -> MemFiles {
    let mut files = MemFiles::new("disk.vmdk");
    fill(vdisk_vmdk::create(&mut files, options).expect("create"), content).expect("fill");
    files
}

fn vmdk_options(subformat: vdisk_vmdk::Subformat, size: u64) -> vdisk_vmdk::CreateOptions {
    vdisk_vmdk::CreateOptions {
        subformat,
        grain_size: 8192,
        ..vdisk_vmdk::CreateOptions::new(size)
    }
}

fn vmdk_child(size: u64) -> MemFiles {
    let options = vmdk_options(vdisk_vmdk::Subformat::MonolithicSparse, size);
    let parent = vmdk_image(&options, &Content::empty(size));
    let parent = open_vmdk(main_store(&parent), &parent, Access::Read).expect("open");
    let link = link(&*parent, "p.vmdk");
    let mut files = MemFiles::new("disk.vmdk");
    vdisk_vmdk::create_child(&mut files, &vdisk_vmdk::ChildOptions::new(&link)).expect("create");
    files
}

/// 128 KiB with a few runs of data.
fn some_content() -> Content {
    (0..100)
        .map(|seed| Content::random(128 << 10, seed))
        .find(|content| (2..9).contains(&content.data().len()))
        .expect("one of a hundred")
}

pub fn vmdk() -> Vec<Base> {
    use vdisk_vmdk::Subformat::{MonolithicSparse, StreamOptimized, TwoGbMaxExtentSparse};
    let mut bases = Vec::new();
    let content = some_content();
    for subformat in [MonolithicSparse, StreamOptimized] {
        let files = vmdk_image(&vmdk_options(subformat, 128 << 10), &content);
        let store = main_store(&files);
        let len = store.size().expect("memory");
        let mut anchors = vec![0, 12, 20, 36, 44, 56, 64, 76, 512];
        // Directories and tables stand right behind the descriptor; a stream has them at its end.
        anchors.extend([21, 22, 26, 27, 32, 128].map(|sector| sector * 512));
        anchors.extend([512, 1024, 1536, 2048, 4096].map(|back| len - back));
        bases.push(Base::of(&files, "disk.vmdk", &anchors));
    }
    let child = vmdk_child(128 << 10);
    let mut layer = open_vmdk(main_store(&child), &child, Access::Write).expect("open");
    layer.write(&[0x5A; 5000], 70_000, &Pattern(128 << 10)).expect("write");
    layer.close().expect("close");
    let tables = [0, 12, 44, 56, 512, 21 * 512, 22 * 512, 26 * 512, 27 * 512];
    bases.push(Base::of(&child, "disk.vmdk", &tables));

    let split = vmdk_image(&vmdk_options(TwoGbMaxExtentSparse, 128 << 10), &content);
    bases.push(Base::of(&split, "disk-s001.vmdk", &[0, 12, 20, 44, 56, 512, 1024, 5 * 512]));

    let delta = |extents: &str, bytes: &[u8]| {
        let mut files = MemFiles::new("disk.vmdk");
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1234abcd\nparentCID=1234abce\n\
             createType=\"vmfsSparse\"\nparentFileNameHint=\"p.vmdk\"\n{extents}\n"
        );
        files.create("disk.vmdk").expect("memory").put(text.as_bytes(), 0, "x").expect("memory");
        files.create("d").expect("memory").put(bytes, 0, "x").expect("memory");
        files
    };
    let cowd = delta("RW 64 VMFSSPARSE \"d\"", &cowd());
    bases.push(Base::of(&cowd, "d", &[0, 4, 12, 20, 2048, 4096, 4108]));
    let sesparse = delta("RW 512 SESPARSE \"d\"", &sesparse());
    bases.push(Base::of(&sesparse, "d", &[0, 16, 80, 128, 192, 512, 1024, 4096, 8192]));
    bases
}

/// A COWD extent of 64 sectors with two grains.
fn cowd() -> Vec<u8> {
    let le32 =
        |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
    let mut file = [b"COWD".to_vec(), le32(&[1, 3, 64, 1, 4, 1, 40])].concat();
    file.resize(64 * 512, 0);
    file[2048..2052].copy_from_slice(&le32(&[8]));
    file[8 * 512 + 12..8 * 512 + 20].copy_from_slice(&le32(&[40, 41]));
    file[40 * 512..42 * 512].fill(6);
    file
}

/// A seSparse extent of 512 sectors with every kind of entry.
fn sesparse() -> Vec<u8> {
    let mut file = vec![0; 300 * 512];
    let mut header = [0u64; 26];
    header[..5].copy_from_slice(&[0xCAFE_BABE, 0x2_0000_0001, 512, 8, 64]);
    header[10..12].copy_from_slice(&[1, 1]);
    header[16..20].copy_from_slice(&[2, 1, 8, 64]);
    header[24..26].copy_from_slice(&[100, 200]);
    let mut put = |at: usize, words: &[u64]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    put(0, &header);
    put(512, &[0xCAFE_CAFE, 0, 0, 0]);
    put(1024, &[0x1000_0000_0000_0000]);
    put(8 * 512, &[0, 1 << 60, 2 << 60, 3 << 60 | 1 << 48, 3 << 60 | 2 << 48]);
    file[108 * 512..116 * 512].fill(3);
    file[116 * 512..124 * 512].fill(4);
    file
}

/// The files beside the descriptor that is fuzzed.
pub fn extents() -> &'static [(&'static str, Vec<u8>)] {
    static EXTENTS: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    EXTENTS.get_or_init(|| {
        let options = vmdk_options(vdisk_vmdk::Subformat::TwoGbMaxExtentSparse, 128 << 10);
        let split = vmdk_image(&options, &some_content());
        let sparse = split.get("disk-s001.vmdk").expect("made").to_bytes();
        vec![("a", vec![0x11; 20_000]), ("b", vec![0x22; 512]), ("s", sparse)]
    })
}

/// Opens an image of one format.
pub type OpenFn = fn(Arc<dyn Store>, &dyn Opener, Access) -> Result<Box<dyn LayerMut>>;

/// How an image of [`writable`] is opened and what it may do.
pub struct Kind {
    pub open: OpenFn,
    pub below: Vec<u8>,
    pub resize: Option<(u64, u64)>,
}

/// Sound images of every format and variant that can be written.
pub fn writable() -> Vec<(Base, Kind)> {
    const SMALL: u64 = 256 << 10;
    use vdisk_vmdk::Subformat::{MonolithicFlat, MonolithicSparse, TwoGbMaxExtentSparse};
    let pattern = |len: u64| (0..len).map(Pattern::byte).collect::<Vec<u8>>();
    let vhd: OpenFn = |store, _, access| open_vhd(store, access);
    let vhdx: OpenFn = |store, _, access| open_vhdx(store, access);
    let any = Some((512, 2 * SMALL));
    let vmdk = |subformat| vmdk_image(&vmdk_options(subformat, SMALL), &Content::random(SMALL, 7));
    let list = [
        (vhd_image(vdisk_vhd::Subformat::Dynamic, SMALL, 16384), vhd, Vec::new(), any),
        (vhd_child(SMALL, 16384), vhd, pattern(SMALL), None),
        (vhd_image(vdisk_vhd::Subformat::Fixed, SMALL, 4096), vhd, Vec::new(), any),
        (vhdx_image(512), vhdx, Vec::new(), Some((4096, 5 * MIB))),
        (vhdx_child(), vhdx, pattern(3 * MIB), None),
        (vmdk(MonolithicSparse), open_vmdk, Vec::new(), any),
        (vmdk_child(SMALL), open_vmdk, pattern(SMALL), None),
        (vmdk(TwoGbMaxExtentSparse), open_vmdk, Vec::new(), None),
        (vmdk(MonolithicFlat), open_vmdk, Vec::new(), any),
        (vhd_child(SMALL, 4096), vhd, pattern(200_000), None),
        (vhdx_child(), vhdx, pattern(2 * MIB + 777), None),
        (vmdk_child(SMALL), open_vmdk, pattern(200_000), None),
    ];
    let list = list.into_iter().map(|(files, open, below, resize)| {
        (Base::of(&files, files.main_name(), &[]), Kind { open, below, resize })
    });
    list.collect()
}
