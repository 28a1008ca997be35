//! What an image may make us open, and what an output may replace.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use common::{VARIANTS, bytes_of, convert, digests_below, names_in, open_as, write_raw};
use vdisk::{
    Cancel, ChildTarget, CopyOptions, Error, ErrorKind, Format, Image, IntoTarget, NewImage,
    OpenOptions, Progress, Watch,
};
use vdisk_testkit::content::Content;

const FORMATS: [Format; 3] = [Format::Vhd, Format::Vhdx, Format::Vmdk];

/// A folder for the image, and one beside it that the image has no business in.
struct Yard {
    temp: tempfile::TempDir,
    home: PathBuf,
    outside: PathBuf,
}

impl Yard {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let (home, outside) = (root.join("home"), root.join("outside"));
        std::fs::create_dir(&home).unwrap();
        std::fs::create_dir(&outside).unwrap();
        Self { temp, home, outside }
    }

    fn home(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }

    /// A descriptor at home of a flat disk whose 1 MiB stand in the file `extent`.
    fn flat(&self, extent: &str) -> PathBuf {
        let path = self.home("disk.vmdk");
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
             createType=\"monolithicFlat\"\n\n# Extent description\n\
             RW 2048 FLAT \"{extent}\" 0\n\nddb.adapterType = \"lsilogic\"\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Asserts an error of `kind` about `image` whose advice holds `advice`.
fn assert_error(error: &Error, kind: ErrorKind, image: &Path, advice: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.path(), Some(image), "{error}");
    let found = error.advice().unwrap_or_else(|| panic!("no advice: {error}"));
    assert!(found.contains(advice), "{error}: {found}");
}

#[test]
fn extents_elsewhere_are_opened_only_where_allowed() {
    let yard = Yard::new();
    let secret = yard.outside("secret.img");
    std::fs::write(&secret, vec![7; 1 << 20]).unwrap();
    symlink(&secret, yard.home("link.img")).unwrap();
    symlink(&yard.outside, yard.home("folder")).unwrap();
    for name in ["../outside/secret.img", &text(&secret), "link.img", "folder/secret.img"] {
        let image = yard.flat(name);
        let error = Image::open(&image).unwrap_err();
        let flag = format!("--parent-dir {}", yard.outside.display());
        assert_error(&error, ErrorKind::Confined, &image, &flag);
        let opened = OpenOptions::new().parent_dir(&yard.outside).open(&image);
        let opened = opened.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(bytes_of(&opened).iter().all(|byte| *byte == 7), "{name}");
        drop(opened);
        // Writing is confined in the same way.
        let error = OpenOptions::new().open_rw(&image).unwrap_err();
        assert_error(&error, ErrorKind::Confined, &image, &flag);
    }
}

#[test]
fn extents_in_the_own_tree_are_opened() {
    let yard = Yard::new();
    std::fs::create_dir_all(yard.home("a/b")).unwrap();
    std::fs::write(yard.home("a/b/data.img"), vec![7; 1 << 20]).unwrap();
    symlink("a/b/data.img", yard.home("inner.img")).unwrap();
    let absolute = text(&yard.home("a/b/data.img"));
    for name in ["a/b/data.img", "./a/b/data.img", "a/../a/b/data.img", "inner.img", &absolute] {
        let opened = Image::open(yard.flat(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(bytes_of(&opened).iter().all(|byte| *byte == 7), "{name}");
    }
}

#[test]
fn only_regular_files_are_opened_for_an_image() {
    let yard = Yard::new();
    fifo(&yard.home("fifo"));
    std::fs::create_dir(yard.home("folder")).unwrap();
    symlink("/dev/zero", yard.home("zero")).unwrap();
    for name in ["fifo", "folder", "zero", "/dev/zero", "/dev/null"] {
        let image = yard.flat(name);
        // Even where the user allows the folder.
        for options in [OpenOptions::new(), OpenOptions::new().parent_dir("/dev")] {
            let error = options.open(&image).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Confined, "{name}: {error}");
            assert!(error.advice().unwrap().contains("never opened"), "{name}: {error}");
            let shown = format!("{error}");
            assert!(shown.contains("home/disk.vmdk") || shown.contains(name), "{name}: {error}");
        }
    }
    // Nor for the user, who is told so.
    for path in [yard.home("fifo"), yard.home("folder"), "/dev/zero".into()] {
        for options in [OpenOptions::new(), open_as(Format::Raw)] {
            let error = options.open(&path).unwrap_err();
            assert_error(&error, ErrorKind::Refused, &path, "regular file");
        }
    }
}

#[test]
fn extents_that_are_missing_or_nonsense() {
    let yard = Yard::new();
    let image = yard.flat("nowhere.img");
    let error = Image::open(&image).unwrap_err();
    assert_error(&error, ErrorKind::ParentMissing, &image, "--parent-dir");
    assert!(error.message().contains("nowhere.img"), "{error}");
    for name in ["..", ".", "/", "../..", "nul\0.img", &"x".repeat(5000), ""] {
        let image = yard.flat(name);
        let error = Image::open(&image).unwrap_err();
        let kinds = [ErrorKind::ParentMissing, ErrorKind::Confined, ErrorKind::Corrupt];
        assert!(kinds.contains(&error.kind()), "{name}: {error} ({:?})", error.kind());
        assert_eq!(error.path(), Some(&*image), "{error}");
    }
    // A disk cannot be its own extent.
    let image = yard.flat("disk.vmdk");
    let error = Image::open(&image).unwrap_err();
    assert_eq!(error.path(), Some(&*image), "{error}");
}

fn no_options() -> OpenOptions {
    OpenOptions::new()
}

fn base(path: &Path, seed: u64) {
    let raw = path.with_extension("img");
    write_raw(&raw, &Content::random(1 << 20, seed));
    let format = vdisk::format_of_name(path).unwrap();
    let source = open_as(Format::Raw).open(&raw).unwrap();
    convert(&source, path, &NewImage::new(format, source_len(&source))).unwrap();
    std::fs::remove_file(raw).unwrap();
}

fn source_len(image: &Image) -> u64 {
    use vdisk::Disk;
    image.len()
}

fn child(path: &Path, parent: &Path) {
    let format = vdisk::format_of_name(path).unwrap();
    vdisk::create_child(path, format, parent, &no_options(), &[], false).unwrap();
}

/// Rewrites the descriptor that stands in a sparse VMDK.
fn patch_vmdk(path: &Path, change: impl Fn(&str) -> String) {
    let mut bytes = std::fs::read(path).unwrap();
    let room = &mut bytes[512..512 + 20 * 512];
    let len = room.iter().position(|byte| *byte == 0).unwrap();
    let new = change(std::str::from_utf8(&room[..len]).unwrap());
    room.fill(0);
    room[..new.len()].copy_from_slice(new.as_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn parents_elsewhere_are_opened_only_where_allowed() {
    for format in FORMATS {
        let yard = Yard::new();
        let parent = yard.outside(&format!("base.{format}"));
        let image = yard.home(&format!("child.{format}"));
        base(&parent, 1);
        child(&image, &parent);
        let flag = format!("--parent-dir {}", yard.outside.display());
        let error = Image::open(&image).unwrap_err();
        assert_error(&error, ErrorKind::Confined, &image, &flag);
        let error = no_options().open_rw(&image).unwrap_err();
        assert_error(&error, ErrorKind::Confined, &image, &flag);

        let expected = bytes_of(&Image::open(&parent).unwrap());
        for options in [no_options().parent_dir(&yard.outside), no_options().parent(&parent)] {
            assert!(bytes_of(&options.open(&image).unwrap()) == expected, "{format}");
        }
        // Without the parent, what it is can be told, and what it holds cannot.
        let alone = no_options().without_parents().open(&image).unwrap();
        assert!(alone.info().parent.is_some());
        let mut buf = [0; 512];
        let error = vdisk::Disk::read_at(&alone, &mut buf, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ParentMissing, "{error}");
        let infos = vdisk::info(&image, &no_options()).unwrap();
        let told = infos[0].backing_error.as_ref().unwrap();
        assert!(told.contains(&flag), "{told}");

        // A link at home does not lead out either.
        symlink(&parent, yard.home(&format!("base.{format}"))).unwrap();
        let error = Image::open(&image).unwrap_err();
        assert_error(&error, ErrorKind::Confined, &image, &flag);
    }
}

#[test]
fn folders_may_move() {
    for format in FORMATS {
        let yard = Yard::new();
        let name = |name: &str| format!("{name}.{format}");
        // Child and parent in two folders below one that moves.
        std::fs::create_dir_all(yard.home("set/templates")).unwrap();
        std::fs::create_dir_all(yard.home("set/machines")).unwrap();
        let parent = yard.home("set/templates").join(name("base"));
        base(&parent, 2);
        let expected = bytes_of(&Image::open(&parent).unwrap());
        child(&yard.home("set/machines").join(name("child")), &parent);
        std::fs::rename(yard.home("set"), yard.home("moved")).unwrap();
        let moved = yard.home("moved");
        let image = moved.join("machines").join(name("child"));
        let opened = no_options().parent_dir(&moved).open(&image).unwrap();
        assert!(bytes_of(&opened) == expected, "{format}");
        assert_eq!(opened.files()[1].path, moved.join("templates").join(name("base")));

        // Parent and child side by side, though it was not so when the child was made.
        let beside = moved.join("machines").join(name("base"));
        std::fs::rename(moved.join("templates").join(name("base")), &beside).unwrap();
        let opened = Image::open(&image).unwrap();
        assert!(bytes_of(&opened) == expected, "{format}");

        // Nowhere any more.
        std::fs::remove_file(beside).unwrap();
        let error = Image::open(&image).unwrap_err();
        assert_error(&error, ErrorKind::ParentMissing, &image, "--parent FILE");
        assert!(error.message().contains("base"), "{error}");
    }
}

#[test]
fn relative_names_work_from_the_current_folder() {
    // The current folder is the whole process's, so another process reads.
    let yard = Yard::new();
    for format in FORMATS {
        let parent = yard.home(&format!("base.{format}"));
        base(&parent, 3);
        child(&yard.home(&format!("child.{format}")), &parent);
    }
    if let Ok(folder) = std::env::var("VDISK_GATE_FOLDER") {
        std::env::set_current_dir(folder).unwrap();
        for format in FORMATS {
            let opened = Image::open(format!("child.{format}")).unwrap();
            assert_eq!(opened.layers().len(), 2);
        }
        return;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["relative_names_work_from_the_current_folder", "--exact"])
        .env("VDISK_GATE_FOLDER", &yard.home)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn windows_paths_match_in_any_case() {
    for format in [Format::Vhd, Format::Vhdx] {
        let yard = Yard::new();
        std::fs::create_dir(yard.home("Templates")).unwrap();
        let parent = yard.home("Templates").join(format!("base.{format}"));
        base(&parent, 4);
        let image = yard.home(&format!("child.{format}"));
        child(&image, &parent);
        std::fs::rename(yard.home("Templates"), yard.home("TEMPLATES")).unwrap();
        let shouted = yard.home("TEMPLATES").join(format!("BASE.{format}"));
        std::fs::rename(yard.home("TEMPLATES").join(format!("base.{format}")), &shouted).unwrap();
        let opened = Image::open(&image).unwrap_or_else(|e| panic!("{format}: {e}"));
        assert_eq!(opened.files()[1].path, shouted);
    }
    let yard = Yard::new();
    base(&yard.home("Base.vmdk"), 4);
    let image = yard.home("child.vmdk");
    child(&image, &yard.home("Base.vmdk"));
    for hint in [r"C:\VMs\BASE.VMDK", r"..\vms\base.vmdk", r"\\server\share\base.vmdk"] {
        patch_vmdk(&image, |text| text.replace("Hint=\"Base.vmdk\"", &format!("Hint=\"{hint}\"")));
        let opened = Image::open(&image).unwrap_or_else(|e| panic!("{hint}: {e}"));
        assert_eq!(opened.files()[1].path, yard.home("Base.vmdk"));
        patch_vmdk(&image, |text| text.replace(&format!("Hint=\"{hint}\""), "Hint=\"Base.vmdk\""));
    }
}

#[test]
fn hostile_parent_names_open_nothing() {
    let yard = Yard::new();
    base(&yard.home("base.vmdk"), 5);
    let image = yard.home("child.vmdk");
    child(&image, &yard.home("base.vmdk"));
    fifo(&yard.home("fifo"));
    std::fs::rename(yard.home("base.vmdk"), yard.outside("base.vmdk")).unwrap();
    symlink(yard.outside("base.vmdk"), yard.home("link.vmdk")).unwrap();
    let mut last = "base.vmdk".to_owned();
    for (hint, kind) in [
        ("../outside/base.vmdk", ErrorKind::Confined),
        ("link.vmdk", ErrorKind::Confined),
        ("fifo", ErrorKind::Confined),
        ("/dev/zero", ErrorKind::Confined),
        ("/etc/passwd", ErrorKind::Confined),
        ("/proc/self/exe", ErrorKind::Confined),
        ("../../../../../../../../../etc/passwd", ErrorKind::Confined),
        ("json:{\"file\":1}", ErrorKind::ParentMissing),
        ("nbd://127.0.0.1/x", ErrorKind::ParentMissing),
        (r"\\.\PhysicalDrive0", ErrorKind::ParentMissing),
    ] {
        patch_vmdk(&image, |text| {
            text.replace(&format!("Hint=\"{last}\""), &format!("Hint=\"{hint}\""))
        });
        hint.clone_into(&mut last);
        let error = Image::open(&image).unwrap_err();
        assert_eq!(error.kind(), kind, "{hint}: {error}");
        assert!(error.advice().is_some(), "{hint}: {error}");
    }
}

#[test]
fn rings_are_found_whatever_the_options() {
    for format in FORMATS {
        let yard = Yard::new();
        let [a, b, c] = ["a", "b", "c"].map(|name| yard.home(&format!("{name}.{format}")));
        base(&a, 6);
        child(&b, &a);
        child(&c, &b);
        // c -> b -> c: the last one takes the place of the first.
        std::fs::remove_file(&a).unwrap();
        std::fs::rename(&c, &a).unwrap();
        for options in [no_options(), no_options().parent_dir("/"), no_options().max_depth(1000)] {
            let error = options.open(&a).unwrap_err();
            assert_error(&error, ErrorKind::ParentCycle, &b, "--parent FILE");
            assert!(error.message().contains(&text(&a)), "{error}");
        }
        // b -> b.
        std::fs::rename(&b, &a).unwrap();
        for options in [no_options(), no_options().parent(&a)] {
            let error = options.open(&a).unwrap_err();
            assert_error(&error, ErrorKind::ParentCycle, &a, "--parent FILE");
        }
        // By another name of the same file.
        std::fs::rename(&a, &b).unwrap();
        std::fs::hard_link(&b, &a).unwrap();
        let error = Image::open(&b).unwrap_err();
        assert_error(&error, ErrorKind::ParentCycle, &b, "--parent FILE");
        // To look at it is allowed, and a check says what is wrong.
        let report = vdisk::check(&b, &no_options()).unwrap();
        assert!(report.findings.iter().any(|finding| finding.code == "parent-cycle"));
    }
}

#[test]
fn chains_have_a_limit() {
    for format in FORMATS {
        let yard = Yard::new();
        let name = |number: usize| yard.home(&format!("{number}.{format}"));
        base(&name(0), 7);
        for number in 1..70 {
            let format = vdisk::format_of_name(&name(number)).unwrap();
            let open = no_options().max_depth(100);
            vdisk::create_child(&name(number), format, &name(number - 1), &open, &[], false)
                .unwrap();
        }
        assert_eq!(Image::open(name(63)).unwrap().layers().len(), 64);
        let error = Image::open(name(64)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ParentCycle, "{error}");
        assert!(error.message().contains("64"), "{error}");
        assert_eq!(no_options().max_depth(70).open(name(69)).unwrap().layers().len(), 70);
        assert!(no_options().max_depth(1).open(name(1)).is_err());
        assert!(no_options().max_depth(1).open(name(0)).is_ok());
    }
}

#[test]
fn a_parent_must_be_the_one_the_child_was_made_on() {
    for format in FORMATS {
        let yard = Yard::new();
        let [parent, image, other] =
            ["base", "child", "other"].map(|name| yard.home(&format!("{name}.{format}")));
        base(&parent, 8);
        child(&image, &parent);
        base(&other, 8);
        let kept = yard.outside(&format!("kept.{format}"));
        std::fs::rename(&parent, &kept).unwrap();
        std::fs::rename(&other, &parent).unwrap();
        let error = Image::open(&image).unwrap_err();
        assert_error(&error, ErrorKind::ParentMismatch, &image, "--parent FILE");
        assert!(error.message().contains(&text(&parent)), "{error}");
        let expected = Image::open(&kept).unwrap().info().identity.clone().unwrap();
        assert!(error.message().to_lowercase().contains(&expected.to_lowercase()), "{error}");
        // Named outright it must still be the right one.
        let error = no_options().parent(&parent).open(&image).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ParentMismatch, "{error}");
        no_options().parent(&kept).open(&image).unwrap();

        // A file that is no image at all.
        std::fs::write(&parent, vec![1; 4096]).unwrap();
        let error = Image::open(&image).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ParentMismatch, "{error}");

        // VHDX and VMDK notice that the parent was written to; a VHD keeps its id.
        std::fs::rename(&kept, &parent).unwrap();
        Image::open(&image).unwrap();
        let mut changed = no_options().open_rw(&parent).unwrap();
        changed.write_at(b"changed", 4096).unwrap();
        changed.close().unwrap();
        match Image::open(&image) {
            Ok(_) => assert_eq!(format, Format::Vhd),
            Err(error) => {
                assert_ne!(format, Format::Vhd, "{error}");
                assert_error(&error, ErrorKind::ParentMismatch, &image, "--parent FILE");
            }
        }
    }
}

#[test]
fn a_raw_disk_that_looks_like_a_descriptor_opens_nothing() {
    let yard = Yard::new();
    let image = yard.flat("/etc/passwd");
    let mut bytes = std::fs::read(&image).unwrap();
    bytes.resize(1 << 20, 0);
    let raw = yard.home("guest.img");
    std::fs::write(&raw, &bytes).unwrap();
    let opened = open_as(Format::Raw).open(&raw).unwrap();
    assert!(bytes_of(&opened) == bytes);
    // Probed, it is a VMDK, and what it names stays shut.
    let error = Image::open(&raw).unwrap_err();
    assert_error(&error, ErrorKind::Confined, &raw, "--parent-dir /etc");
}

/// What a guest may write to the start of its disk to have it taken for an image of `format`. The
/// VMDK's second extent is the file `secret.img` beside it.
fn disguise(yard: &Yard, format: Format) -> Vec<u8> {
    let path = yard.home(&format!("disguise.{format}"));
    vdisk::create(&path, &NewImage::new(format, 1 << 20), false).unwrap();
    if format == Format::Vmdk {
        let line = "RW 2048 SPARSE \"disguise.vmdk\"";
        let more = format!("{line}\nRW 2048 FLAT \"secret.img\" 0");
        patch_vmdk(&path, |text| text.replace(line, &more));
        std::fs::write(yard.home("secret.img"), vec![7; 1 << 20]).unwrap();
        let opened = Image::open(&path).unwrap();
        assert!(bytes_of(&opened)[1 << 20..].iter().all(|byte| *byte == 7), "it leads nowhere");
    }
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}

fn put(path: &Path, bytes: &[u8], at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn the_guest_of_a_fixed_vhd_cannot_turn_it_into_another_image() {
    const SIZE: u64 = 16 << 20;
    for format in [Format::Vmdk, Format::Vhdx] {
        let yard = Yard::new();
        let start = disguise(&yard, format);
        let (image, above) = (yard.home("guest.vhd"), yard.home("child.vhd"));
        let mut new = NewImage::new(Format::Vhd, SIZE);
        new.set_list("subformat=fixed").unwrap();
        vdisk::create(&image, &new, false).unwrap();
        child(&above, &image);
        put(&image, &start, 0);
        for error in [
            Image::open(&image).unwrap_err(),
            OpenOptions::new().open_rw(&image).unwrap_err(),
            vdisk::check(&image, &no_options()).unwrap_err(),
        ] {
            assert_error(&error, ErrorKind::Refused, &image, "-f vhd");
        }
        let told = bytes_of(&open_as_said(Format::Vhd, &image));
        assert!(told.len() as u64 == SIZE && told.starts_with(&start), "{format}");
        // The child says what its parent is.
        assert!(bytes_of(&Image::open(&above).unwrap()) == told, "{format}");
        child(&yard.home("another.vhd"), &image);
        let request = vdisk::RebaseRequest { link_only: true, ..vdisk::RebaseRequest::new(&image) };
        vdisk::rebase(&above, &no_options(), &request, Watch::default()).unwrap();
        let request = vdisk::CommitRequest { force: true, ..vdisk::CommitRequest::default() };
        vdisk::commit(&above, &no_options(), &request, Watch::default()).unwrap();

        // While it grows, the footer at its end names the old size.
        let footer = std::fs::read(&image).unwrap()[SIZE as usize..].to_vec();
        put(&image, &footer, SIZE + 8192);
        assert_error(&Image::open(&image).unwrap_err(), ErrorKind::Refused, &image, "-f vhd");
        put(&image, &[0; 512], 0);
        let error = Image::open(&image).unwrap_err();
        assert_error(&error, ErrorKind::UnknownFormat, &image, "-f vhd");
        let mut grown = no_options().format(Format::Vhd).open_rw(&image).unwrap();
        grown.resize(SIZE + 8192).unwrap();
        grown.close().unwrap();
        assert_eq!(source_len(&Image::open(&image).unwrap()), SIZE + 8192);

        // Nor can the guest of another image write such an end to its last block.
        let other = yard.home(&format!("disguise.{format}"));
        std::fs::write(&other, &start).unwrap();
        put(&other, &footer, start.len() as u64);
        let error = Image::open(&other).unwrap_err();
        assert_error(&error, ErrorKind::Refused, &other, &format!("-f {format}"));
        open_as_said(format, &other);
    }
}

fn open_as_said(format: Format, path: &Path) -> Image {
    no_options().format(format).open(path).unwrap()
}

// Outputs.

fn over(source: &Image, path: &Path, format: Format, list: &str) -> vdisk::Result<()> {
    let mut new = NewImage::new(format, source_len(source));
    new.set_list(list).unwrap();
    convert(source, path, &new).map(|_| ())
}

#[test]
fn an_output_never_replaces_an_input() {
    for format in FORMATS {
        let yard = Yard::new();
        let name = |name: &str| yard.home(&format!("{name}.{format}"));
        let (parent, image) = (name("base"), name("child"));
        base(&parent, 9);
        child(&image, &parent);
        let hard = yard.home("hard.vhdx");
        let soft = yard.home("soft.vhd");
        std::fs::hard_link(&image, &hard).unwrap();
        symlink(&parent, &soft).unwrap();
        let unrelated = yard.home("unrelated.img");
        std::fs::write(&unrelated, [0; 1 << 20]).unwrap();
        let before = digests_below(&yard.home);
        let source = Image::open(&image).unwrap();
        for target in [&image, &parent, &hard, &soft, &yard.home("../home/./hard.vhdx")] {
            for to in [Format::Raw, Format::Vhd, Format::Vhdx, Format::Vmdk] {
                let error = over(&source, target, to, "").unwrap_err();
                assert_error(&error, ErrorKind::Refused, target, "another file");
            }
            let child = ChildTarget { format, parent: &parent, open: no_options(), options: &[] };
            let (options, watch) = (CopyOptions::default(), Watch::default());
            let error = vdisk::convert_to_child(&source, target, &child, true, &options, watch);
            assert_error(&error.unwrap_err(), ErrorKind::Refused, target, "another file");
            let into = IntoTarget { allow_device: true, ..IntoTarget::default() };
            let error = vdisk::convert_into(&source, target, &into, &options, watch);
            assert_error(&error.unwrap_err(), ErrorKind::Refused, target, "another file");
        }
        let raw = open_as(Format::Raw).open(&unrelated).unwrap();
        let target = ChildTarget { format, parent: &image, open: no_options(), options: &[] };
        for path in [&image, &parent] {
            // The parent of what is being made must not be replaced either.
            let (options, watch) = (CopyOptions::default(), Watch::default());
            let error = vdisk::convert_to_child(&raw, path, &target, true, &options, watch);
            assert_error(&error.unwrap_err(), ErrorKind::Refused, path, "another file");
            let error = vdisk::create_child(path, format, &image, &no_options(), &[], true);
            assert_error(&error.unwrap_err(), ErrorKind::Refused, path, "another file");
        }
        assert_eq!(digests_below(&yard.home), before, "{format}");
    }
}

#[test]
fn no_extent_of_an_output_replaces_an_input() {
    let yard = Yard::new();
    // The raw disk is just where the new image wants to put its extent.
    for (list, extent) in [
        ("subformat=monolithicFlat", "disk-flat.vmdk"),
        ("subformat=vmfs", "disk-flat.vmdk"),
        ("subformat=twoGbMaxExtentFlat", "disk-f001.vmdk"),
        ("subformat=twoGbMaxExtentSparse", "disk-s001.vmdk"),
    ] {
        let raw = yard.home(extent);
        write_raw(&raw, &Content::full(1 << 20, 3));
        let before = digests_below(&yard.home);
        let source = open_as(Format::Raw).open(&raw).unwrap();
        let error = over(&source, &yard.home("disk.vmdk"), Format::Vmdk, list).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{list}: {error}");
        assert_eq!(digests_below(&yard.home), before, "{list}");
        std::fs::remove_file(raw).unwrap();
    }
    // And the other way round: the output wants to be an extent of the source.
    let raw = yard.home("source.img");
    write_raw(&raw, &Content::full(1 << 20, 3));
    let source = open_as(Format::Raw).open(&raw).unwrap();
    over(&source, &yard.home("disk.vmdk"), Format::Vmdk, "subformat=monolithicFlat").unwrap();
    let before = digests_below(&yard.home);
    let source = Image::open(yard.home("disk.vmdk")).unwrap();
    let error = over(&source, &yard.home("disk-flat.vmdk"), Format::Raw, "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(digests_below(&yard.home), before);
}

#[test]
fn what_exists_is_replaced_only_when_asked() {
    for variant in VARIANTS {
        let yard = Yard::new();
        let raw = yard.outside("source.img");
        write_raw(&raw, &Content::full(1 << 20, 4));
        let source = open_as(Format::Raw).open(&raw).unwrap();
        let target = yard.home(&format!("disk.{}", variant.format));
        let new = variant.new_image(1 << 20);
        convert(&source, &target, &new).unwrap();
        // Every single file of the image guards the rest.
        for name in names_in(&yard.home) {
            let others = names_in(&yard.home);
            let others = others.iter().filter(|other| **other != name);
            let gone: Vec<_> = others
                .map(|other| (yard.home(other), std::fs::read(yard.home(other)).unwrap()))
                .collect();
            gone.iter().for_each(|(path, _)| std::fs::remove_file(path).unwrap());
            let before = digests_below(&yard.home);
            let options = CopyOptions::default();
            let watch = Watch::default();
            let error = vdisk::convert(&source, &target, &new, false, &options, watch).unwrap_err();
            assert_error(&error, ErrorKind::Refused, &yard.home(&name), "--force");
            let error = vdisk::create(&target, &new, false).unwrap_err();
            assert_error(&error, ErrorKind::Refused, &yard.home(&name), "--force");
            assert_eq!(digests_below(&yard.home), before, "{}", variant.name());
            gone.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        }
        convert(&source, &target, &new).unwrap();
        // A folder is never replaced.
        let folder = yard.home(&format!("folder.{}", variant.format));
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(convert(&source, &folder, &new).unwrap_err().kind(), ErrorKind::Refused);
        assert!(folder.is_dir());
    }
}

/// Cancels once so many bytes are done.
struct StopAfter {
    left: AtomicU64,
    cancel: Cancel,
}

impl Progress for StopAfter {
    fn begin(&self, _phase: &str, _total: u64) {}

    fn advance(&self, bytes: u64) {
        let left = self.left.load(Ordering::Relaxed).saturating_sub(bytes);
        self.left.store(left, Ordering::Relaxed);
        if left == 0 {
            self.cancel.cancel();
        }
    }
}

#[test]
fn a_cancelled_conversion_leaves_nothing() {
    let raw_folder = tempfile::tempdir().unwrap();
    let raw = raw_folder.path().join("source.img");
    write_raw(&raw, &Content::full(24 << 20, 5));
    let source = open_as(Format::Raw).open(&raw).unwrap();
    for variant in VARIANTS {
        for existing in [false, true] {
            let yard = Yard::new();
            let target = yard.home(&format!("disk.{}", variant.format));
            if existing {
                vdisk::create(&target, &variant.new_image(1 << 20), false).unwrap();
            }
            let before = digests_below(&yard.home);
            let cancel = Cancel::default();
            let progress = StopAfter { left: (2 << 20).into(), cancel: cancel.clone() };
            let watch = Watch { progress: &progress, cancel: &cancel };
            // With a zero search, the kernel may not copy it all at once.
            let options =
                CopyOptions { zero_search: vdisk::ZeroSearch::Unit(4096), threads: 2, skip: None };
            let new = variant.new_image(24 << 20);
            let error = vdisk::convert(&source, &target, &new, true, &options, watch).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{}: {error}", variant.name());
            assert_eq!(digests_below(&yard.home), before, "{}", variant.name());
        }
    }
}

#[test]
fn a_failed_conversion_leaves_nothing() {
    let yard = Yard::new();
    // A disk whose extent ends early fails in the middle, or at the opening.
    let raw = yard.outside("source.img");
    write_raw(&raw, &Content::full(8 << 20, 6));
    let source = open_as(Format::Raw).open(&raw).unwrap();
    let damaged = yard.outside("damaged.vmdk");
    over(&source, &damaged, Format::Vmdk, "subformat=streamOptimized").unwrap();
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0x55);
    std::fs::write(&damaged, bytes).unwrap();
    let Ok(source) = Image::open(&damaged) else { panic!("damage in a grain shows on reading") };
    for variant in VARIANTS {
        let target = yard.home(&format!("disk.{}", variant.format));
        for existing in [false, true] {
            if existing {
                vdisk::create(&target, &variant.new_image(1 << 20), true).unwrap();
            }
            let before = digests_below(&yard.home);
            let error = convert(&source, &target, &variant.new_image(8 << 20)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert_eq!(error.path(), Some(&*damaged), "{error}");
            assert!(error.offset().is_some(), "{error}");
            assert_eq!(digests_below(&yard.home), before, "{}", variant.name());
        }
        for name in names_in(&yard.home) {
            std::fs::remove_file(yard.home(&name)).unwrap();
        }
    }
    assert!(yard.temp.path().exists());
}
