//! Names inside images, against a folder tree on the host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use vdisk::{Disk, Image, NewImage, OpenOptions};
use vdisk_core::{Format, MemFiles};
use vdisk_testkit::exercise::assert_error;

/// The folder that may be opened, and one beside it that never may.
struct Tree {
    // Only here to be kept.
    _folder: tempfile::TempDir,
    inside: PathBuf,
    /// The child's bytes, by format.
    children: [Vec<u8>; 2],
}

fn tree() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(|| {
        let folder = tempfile::tempdir_in(shared_memory()).expect("folder");
        let root = folder.path().canonicalize().expect("folder");
        let (inside, outside) = (root.join("in"), root.join("out"));
        std::fs::create_dir_all(inside.join("sub/deep")).expect("folders");
        std::fs::create_dir_all(&outside).expect("folders");
        let make = |name: &str, format| {
            vdisk::create(&inside.join(name), &NewImage::new(format, 1 << 20), false).expect(name);
        };
        make("p.vhd", Format::Vhd);
        make("p.vmdk", Format::Vmdk);
        for (from, to) in [
            ("in/p.vhd", "out/s.vhd"),
            ("in/p.vmdk", "out/s.vmdk"),
            ("in/p.vhd", "in/sub/q.vhd"),
            ("in/p.vmdk", "in/sub/deep/Q.vmdk"),
        ] {
            std::fs::copy(root.join(from), root.join(to)).expect("copy");
        }
        std::fs::write(inside.join("flat"), [7; 4096]).expect("file");
        std::fs::write(outside.join("flat"), [9; 4096]).expect("file");
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(to, inside.join(name)).expect("link");
        };
        link("../out/s.vhd", "l.vhd");
        link("../out", "o");
        link("loop", "loop");
        link("sub", "d");
        link("/dev/zero", "z");
        assert!(
            Command::new("mkfifo").arg(inside.join("fifo")).status().expect("mkfifo").success()
        );
        let children = [vhd_child(&inside), vmdk_child()];
        Tree { _folder: folder, inside, children }
    })
}

/// A folder in memory, where the host has one.
pub(crate) fn shared_memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// A child of `p.vhd` whose first locator has room for a long name.
fn vhd_child(inside: &Path) -> Vec<u8> {
    let parent = Image::open(inside.join("p.vhd")).expect("open");
    let link = vdisk_core::ParentLink {
        info: parent.info().clone(),
        relative: "x".repeat(1000),
        absolute: inside.join("p.vhd"),
        modified: std::time::SystemTime::UNIX_EPOCH,
    };
    let mut files = MemFiles::new("c.vhd");
    vdisk_vhd::create_child(&mut files, &vdisk_vhd::ChildOptions::new(&link)).expect("create");
    files.get("c.vhd").expect("made").to_bytes()
}

/// The start of a descriptor, up to the names.
fn vmdk_child() -> Vec<u8> {
    b"# Disk DescriptorFile\nversion=1\nCID=1234abcd\ncreateType=\"monolithicFlat\"\n".to_vec()
}

/// The first byte chooses the format and how a name is written; the rest are names.
pub fn chain(input: &[u8]) {
    let Some((&first, names)) = input.split_first() else { return };
    let tree = tree();
    let path = match first & 1 {
        0 => write_vhd(tree, first, names),
        _ => write_vmdk(tree, first, names),
    };
    let options = match first & 0x40 {
        0 => OpenOptions::new(),
        _ => OpenOptions::new().parent_dir(tree.inside.join("sub")),
    };
    match options.open(&path) {
        Ok(image) => {
            let stores = image.layers().iter().flat_map(|layer| layer.stores());
            for file in stores.filter_map(|store| store.host()) {
                let real = file.path().canonicalize().expect("an open file");
                assert!(real.starts_with(&tree.inside), "{} was opened", real.display());
            }
            let mut bytes = vec![0; 512.min(image.len() as usize)];
            if let Err(error) = image.read_at(&mut bytes, 0) {
                assert_error(&error);
            }
            assert!(bytes.iter().all(|byte| *byte != 9), "bytes of outside");
        }
        Err(error) => assert_error(&error),
    }
}

fn write_vhd(tree: &Tree, first: u8, name: &[u8]) -> PathBuf {
    const CODES: [&[u8; 4]; 5] = [b"W2ru", b"W2ku", b"MacX", b"Wi2r", b"Wi2k"];
    let code = CODES[usize::from(first >> 1) % CODES.len()];
    let text = String::from_utf8_lossy(name);
    let data: Vec<u8> = match usize::from(first >> 1) % CODES.len() {
        0 | 1 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        _ => name.to_vec(),
    };
    let data = &data[..data.len().min(2000)];
    let mut bytes = tree.children[0].clone();
    // The locator table stands at byte 576 of the header; the first one's data keeps its place,
    // the other goes, and so does the name.
    let at = 512 + 576;
    bytes[at..at + 4].copy_from_slice(code);
    bytes[at + 8..at + 12].copy_from_slice(&(data.len() as u32).to_be_bytes());
    bytes[at + 24..at + 192].fill(0);
    bytes[512 + 64..512 + 576].fill(0);
    let place = u64::from_be_bytes(bytes[at + 16..at + 24].try_into().expect("eight")) as usize;
    bytes[place..place + data.len()].copy_from_slice(data);
    let store = vdisk_core::MemStore::from_bytes("c", &bytes);
    crate::seal::vhd(&store);
    save(tree, "c.vhd", &store.to_bytes())
}

fn write_vmdk(tree: &Tree, first: u8, names: &[u8]) -> PathBuf {
    let mut names = names.splitn(2, |byte| *byte == b'\n');
    let (extent, parent) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    let mut text = tree.children[1].clone();
    if first & 2 != 0 {
        text.extend(b"parentCID=ffffffff\n");
    } else {
        text.extend(b"parentCID=1234abcd\nparentFileNameHint=\"");
        text.extend(parent);
        text.extend(b"\"\n");
    }
    text.extend(b"RW 8 FLAT \"");
    text.extend(extent);
    text.extend(b"\" 0\n");
    save(tree, "c.vmdk", &text)
}

fn save(tree: &Tree, name: &str, bytes: &[u8]) -> PathBuf {
    let path = tree.inside.join(OsString::from(name));
    std::fs::write(&path, bytes).expect("write");
    path
}
