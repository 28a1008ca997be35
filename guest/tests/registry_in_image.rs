//! A registry value set inside an image: the power may go at any moment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use vdisk::{CopyOptions, Disk, ErrorKind, Format, Image, NewImage, OpenOptions, Watch};
use vdisk_core::CowDisk;
use vdisk_guest::fs::{Edit, open, open_mut};
use vdisk_hive::{Editor, FileTime, Hive, ValueKind};
use vdisk_testkit::power::{Fate, Recorder, put_on_host};
use vdisk_testkit::regf::empty_hive;
use vdisk_testkit::tools::{Tool, arg, must};
use vdisk_testkit::volumes::{Make, Volume, make};

const SYSTEM: &str = "/Windows/System32/config/SYSTEM";

/// Sets `Services\disk` `Start`, which makes the hive grow, in memory; then in the image.
fn set_start(image: &Path, open: &OpenOptions, start: u32) -> vdisk::Result<()> {
    let disk: Arc<dyn Disk> = Arc::new(open.open(image)?);
    let tried = Arc::new(CowDisk::new(disk, 64 << 20));
    let mut guest = open_mut(tried.clone())?.expect("a file system");
    let hive = Hive::parse(guest.read(SYSTEM.as_bytes(), 1 << 20)?)?;
    let mut editor = Editor::new(hive, FileTime::from(SystemTime::now()))?;
    let root = editor.hive().root()?.id();
    let services = editor.create_key(root, "Services")?;
    let disk = editor.create_key(services, "disk")?;
    editor.set_value(disk, "Start", ValueKind::DWORD, &start.to_le_bytes())?;
    editor.set_value(disk, "Notes", ValueKind::BINARY, &[7; 9000])?;
    let content = editor.finish()?;
    guest.apply(&Edit::Replace { path: SYSTEM.as_bytes(), content: &content })?;
    drop(guest);
    let changes = tried.changes()?;
    drop(tried);
    vdisk::edit(image, open, &changes, false).map(drop)
}

/// What the hive in the image says; `None` for the hive as it was.
fn start(image: &Image) -> Option<u32> {
    let mut bytes = vec![0; image.len() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    let guest = open(Arc::new(vdisk_testkit::VecDisk(bytes))).unwrap().expect("a file system");
    let hive = Hive::parse(guest.read(SYSTEM.as_bytes(), 1 << 20).unwrap()).unwrap();
    assert_eq!(hive.check().list(), [], "the hive is sound");
    let key = hive.open("Services\\disk").unwrap()?;
    let value = key.value("Start").unwrap().expect("the key came with its value");
    value.as_u32().unwrap()
}

#[test]
fn old_or_new_and_nothing_between() {
    let volume = Volume { tool: Make::Ntfs, kind: "ntfs", mib: 8, args: &[] };
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("Windows/System32/config")).unwrap();
    fs::create_dir(tree.join("links")).unwrap();
    fs::write(tree.join(&SYSTEM[1..]), empty_hive(5)).unwrap();
    let raw = folder.path().join("disk.raw");
    if !make(&volume, &raw, Some(&tree)) {
        return;
    }
    let source = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    for format in [Format::Vhd, Format::Vhdx, Format::Vmdk] {
        let place = folder.path().join(format.name());
        fs::create_dir(&place).unwrap();
        let image = place.join(format!("disk.{format}"));
        let new = NewImage::new(format, source.len());
        let (options, watch) = (CopyOptions::default(), Watch::default());
        vdisk::convert(&source, &image, &new, false, &options, watch).unwrap();

        let recorder = Recorder::new();
        let watched = OpenOptions::new().on(Arc::new(recorder.clone()));
        set_start(&image, &watched, 3).unwrap();
        assert_eq!(start(&Image::open(&image).unwrap()), Some(3), "{format}");
        judge(&image, folder.path());

        let recording = recorder.recording();
        let mut rng = fastrand::Rng::with_seed(77);
        let mut cuts: Vec<usize> = (0..24).map(|_| rng.usize(0..=recording.len())).collect();
        cuts.sort_unstable();
        let mut replay = recording.replay();
        let (mut old, mut new) = (0, 0);
        for cut in cuts {
            replay.advance(cut);
            let fate = Fate::ALL[rng.usize(0..Fate::ALL.len())];
            put_on_host(&place, &replay.files(fate, &mut rng));
            let context = format!("{format} cut {cut} of {}, {fate:?}", recording.len());
            match Image::open(&image) {
                Ok(opened) => match start(&opened) {
                    None => old += 1,
                    Some(3) => new += 1,
                    Some(other) => panic!("{context}: {other}"),
                },
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Refused, "{context}: {error}");
                    let done = vdisk::finish_edit(&image, &OpenOptions::new());
                    done.unwrap_or_else(|e| panic!("{context}: {e}")).expect("a journal");
                    assert_eq!(start(&Image::open(&image).unwrap()), Some(3), "{context}");
                    new += 1;
                }
            }
        }
        assert!(old > 0 && new > 0, "{format}: {old} old, {new} new");
    }
}

/// ntfsfix finds nothing, and hivex reads the value.
fn judge(image: &Path, folder: &Path) {
    let raw = folder.join("judged.raw");
    let source = Image::open(image).unwrap();
    let new = NewImage::new(Format::Raw, source.len());
    let (options, watch) = (CopyOptions::default(), Watch::default());
    vdisk::convert(&source, &raw, &new, true, &options, watch).unwrap();
    must("ntfsfix", &["-n", arg(&raw)]);
    let hive = folder.join("SYSTEM");
    let line = format!("ntfscat -f {} {SYSTEM} > {}", arg(&raw), arg(&hive));
    must("sh", &["-c", &line]);
    if Tool::Hivex.there() {
        let code = "import hivex, sys\n\
            h = hivex.Hivex(sys.argv[1])\n\
            k = h.node_get_child(h.node_get_child(h.root(), 'Services'), 'disk')\n\
            print(h.value_dword(h.node_get_value(k, 'Start')))";
        assert_eq!(must(Tool::Hivex.python(), &["-c", code, arg(&hive)]).trim(), "3");
    }
}
