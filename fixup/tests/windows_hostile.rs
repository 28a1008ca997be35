//! Guests that are damaged, or made to do harm: `strip` and `adapt` refuse them in words, or change
//! them soundly; they never panic, take a fault for their own, or write what they refuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::original::{CONFIG, HIVES, original};
use common::{Registry, Spec};
use vdisk_core::{CowDisk, Disk, Error, ErrorKind};
use vdisk_fixup::{AdaptOptions, Identity, Machine, Plan, StripOptions, Target, adapt, strip};
use vdisk_guest::Place;
use vdisk_guest::fs::Edit;
use vdisk_hive::{Editor, FileTime, Hive};
use vdisk_testkit::regf::{empty_hive, seal_header};
use vdisk_testkit::{VecDisk, corpus};

const ROOT: Place = Place::Partition(1);
const BCD: &str = "/Boot/BCD";
/// Bytes of a hive.
const MOST: u64 = 16 << 20;

/// A disk with a whole guest on it.
fn whole(folder: &Path) -> Option<Arc<dyn Disk>> {
    let drivers = |system: &mut Registry| {
        for name in ["atapi", "intelide", "pciide", "msahci"] {
            system.driver(name, 3);
        }
    };
    let disk = original(folder, &Spec::SMALL, drivers)?;
    Some(Arc::new(VecDisk(fs::read(disk).unwrap())))
}

/// The disk with a file of its volume made into something else.
fn with(disk: &Arc<dyn Disk>, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Arc<dyn Disk> {
    let mut machine = Machine::open(disk.clone(), 512).unwrap();
    let volume = machine.volume(&ROOT).unwrap().fs();
    let mut content = volume.read(path.as_bytes(), MOST).unwrap();
    change(&mut content);
    volume.apply(&Edit::Replace { path: path.as_bytes(), content: &content }).unwrap();
    machine.changed().unwrap()
}

/// What each of the commands comes to.
fn outcomes(disk: &Arc<dyn Disk>) -> [Outcome; 3] {
    [0, 1, 2].map(|command| outcome(disk, command))
}

type Outcome = Result<(Machine, Plan), Error>;

/// The plan of a command, as `vdisk` makes it: another identity, other hardware, another target.
fn outcome(disk: &Arc<dyn Disk>, command: usize) -> Outcome {
    let mut machine = Machine::open(disk.clone(), 512)?;
    let mut plan = Plan::default();
    let keep = StripOptions { identity: Identity::Keep, ..StripOptions::default() };
    match command {
        0 => strip(&mut machine, &StripOptions::default(), &mut plan)?,
        1 => strip(&mut machine, &keep, &mut plan)?,
        _ => adapt(&mut machine, &AdaptOptions::new(Target::Vmware), &mut plan)?,
    }
    Ok((machine, plan))
}

/// What stops the plan, or the error.
fn in_the_way(outcome: &Outcome) -> Option<String> {
    match outcome {
        Err(error) => {
            assert!(
                !matches!(error.kind(), ErrorKind::Internal | ErrorKind::Io),
                "a fault of ours: {error}"
            );
            Some(error.to_string())
        }
        Ok((_, plan)) => {
            let first = plan.refusals.first()?;
            assert!(plan.refuse().is_err(), "nothing of it is carried out");

            Some(first.message.clone())
        }
    }
}

fn config(name: &str) -> String {
    format!("/{CONFIG}/{name}")
}

#[test]
fn what_is_damaged_is_refused_in_words() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(disk) = whole(folder.path()) else { return };
    let Some(corpus) = corpus::folder() else { return };
    for outcome in outcomes(&disk) {
        assert_eq!(in_the_way(&outcome), None, "a whole guest is changed");
    }
    let loops = folder.path().join("loops");
    vdisk_testkit::machines::hive_to(&corpus, "hive_BadListHive_yarp.hive", &loops);
    let loops = fs::read(loops).unwrap();
    let without_select = |system: &mut Vec<u8>| {
        let hive = Hive::parse(std::mem::take(system)).unwrap();
        let select = hive.open("Select").unwrap().unwrap().id();
        let mut editor = Editor::new(hive, FileTime(0)).unwrap();
        editor.delete_key(select).unwrap();
        *system = editor.finish().unwrap();
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    // What is done to which file, which of the three commands are refused, and with which words.
    let cases: [(&str, String, Change<'_>, [bool; 3], &str); 14] = [
        ("cut off", config("SYSTEM"), &|hive| hive.truncate(5000), [true; 3], "SYSTEM"),
        ("empty", config("SYSTEM"), &|hive| hive.clear(), [true; 3], "SYSTEM"),
        ("of zeros", config("SYSTEM"), &|hive| hive.fill(0), [true; 3], "SYSTEM"),
        ("in circles", config("SYSTEM"), &|hive| hive.clone_from(&loops), [true; 3], "SYSTEM"),
        ("no Select", config("SYSTEM"), &without_select, [true; 3], "Select"),
        ("nothing in it", config("SYSTEM"), &|hive| *hive = empty_hive(5), [true; 3], "SYSTEM"),
        ("cut off", config("SOFTWARE"), &|hive| hive.truncate(4700), [true; 3], "version"),
        ("cut off", config("SAM"), &|hive| hive.truncate(9000), [true, false, false], "SAM"),
        ("another's", config("SAM"), &|hive| *hive = another(hive), [true, false, false], "SAM"),
        ("no SAM", config("SAM"), &|hive| *hive = empty_hive(3), [true, false, false], "SAM"),
        (
            "in circles",
            config("SECURITY"),
            &|hive| hive.clone_from(&loops),
            [true, false, false],
            "SECURITY",
        ),
        (
            "in circles",
            "/Users/bob/NTUSER.DAT".into(),
            &|hive| with_a_loop(hive),
            [true, false, false],
            "NTUSER.DAT",
        ),
        ("in circles", "/Users/ghost/NTUSER.DAT".into(), &|hive| with_a_loop(hive), [false; 3], ""),
        ("no hive", BCD.into(), &|hive| hive.fill(7), [true, false, true], "BCD"),
    ];
    for (what, path, change, refused, words) in cases {
        let damaged = with(&disk, &path, change);
        for (number, outcome) in outcomes(&damaged).iter().enumerate() {
            let told = in_the_way(outcome);
            let context = format!("{path} {what}, command {number}: {told:?}");
            assert_eq!(told.is_some(), refused[number], "{context}");
            assert!(told.is_none_or(|told| told.contains(words)), "{context}");
        }
    }
}

/// The accounts of a machine with another SID.
fn another(sam: &[u8]) -> Vec<u8> {
    let hive = Hive::parse(sam.to_vec()).unwrap();
    let key = hive.open("SAM\\Domains\\Account").unwrap().unwrap();
    let value = key.value("V").unwrap().unwrap();
    let (id, kind, mut data) = (key.id(), value.kind(), value.data().unwrap().into_owned());
    let last = data.len() - 1;
    data[last] ^= 1;
    let mut editor = Editor::new(hive, FileTime(0)).unwrap();
    editor.set_value(id, "V", kind, &data).unwrap();
    editor.finish().unwrap()
}

/// Has the list of a root's sub-keys lead to the root.
fn with_a_loop(hive: &mut [u8]) {
    let word = |at: usize| u32::from_le_bytes(hive[at..at + 4].try_into().unwrap()) as usize;
    let root = word(36);
    let list = 4096 + word(4096 + root + 4 + 28);
    hive[list + 8..list + 12].copy_from_slice(&(root as u32).to_le_bytes());
}

/// `$Secure` with its hashes, copies or indexes damaged.
#[test]
fn damaged_descriptors_stop_another_identity_only() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(disk) = whole(folder.path()) else { return };
    let mut bytes = vec![0; disk.len() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    // The first descriptors of the stream stand twice on the disk, 256 KiB apart.
    let start = 1 << 20;
    let [one, other] = {
        let mark = |at: usize| {
            let entry = &bytes[at..];
            entry[4..8] == 0x100_u32.to_le_bytes() && entry[8..16] == [0; 8]
        };
        let found: Vec<usize> =
            (start..bytes.len() - 4096).step_by(4096).filter(|at| mark(*at)).collect();
        let [one, other] = found[..] else { panic!("{found:?}") };
        [one, other]
    };
    for (what, place) in [
        ("a copy", other + 0x90),
        ("an original", one + 0x90),
        ("a hash", one),
        ("an offset", one + 8),
    ] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0xff;
        let disk: Arc<dyn Disk> = Arc::new(VecDisk(damaged));
        let all = outcomes(&disk);
        let told = in_the_way(&all[0]).unwrap_or_else(|| panic!("{what} is not seen"));
        assert!(told.contains("$Secure"), "{what}: {told}");
        assert_eq!([in_the_way(&all[1]), in_the_way(&all[2])], [None, None], "{what}");
    }
}

/// Whatever stands in the hives: a refusal, or a guest whose hives are sound.
#[test]
fn damaged_hives_are_refused_or_stay_sound() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(disk) = whole(folder.path()) else { return };
    let mut bytes = vec![0; disk.len() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    let files: Vec<File> = HIVES
        .iter()
        .map(|(path, _)| format!("/{path}"))
        .chain([BCD.to_owned()])
        .map(|path| File::find(&disk, &bytes, path))
        .collect();
    let rng = &mut fastrand::Rng::with_seed(3);
    let (mut refused, mut changed) = (0, 0);
    for round in 0..ROUNDS {
        let hit = rng.usize(0..files.len());
        let mut damaged = files[hit].content.clone();
        damage(&mut damaged, rng);
        let disk = Arc::new(CowDisk::new(disk.clone(), MOST));
        files[hit].write(&damaged, &disk);
        // Another identity takes the longest.
        let outcome = outcome(&(disk as Arc<dyn Disk>), [0, 1, 2, 2][round % 4]);
        let context = format!("round {round}, {}", files[hit].path);
        if in_the_way(&outcome).is_some() {
            refused += 1;
            continue;
        }
        changed += 1;
        let (mut machine, _) = outcome.unwrap();
        let volume = machine.volume(&ROOT).unwrap().fs();
        for (number, file) in files.iter().enumerate() {
            let before = if number == hit { &damaged } else { &file.content };
            let hive = volume.read(file.path.as_bytes(), MOST).unwrap();
            if hive == *before {
                continue;
            }
            let hive = Hive::parse(hive).unwrap_or_else(|error| panic!("{context}: {error}"));
            Editor::new(hive, FileTime(0)).unwrap_or_else(|error| panic!("{context}: {error}"));
        }
    }
    // Damage in a hive that nobody loads stops nothing.
    assert!(refused > ROUNDS / 10 && changed > ROUNDS / 5, "{refused} refused, {changed} changed");
}

const ROUNDS: usize = 150;
const PAGE: usize = 4096;

/// A file, and where its pages are on the disk.
struct File {
    path: String,
    content: Vec<u8>,
    pages: Vec<(usize, u64)>,
}

impl File {
    /// Looks for the pages of a file by their content; those of zeros are of no interest.
    fn find(disk: &Arc<dyn Disk>, bytes: &[u8], path: String) -> Self {
        let mut machine = Machine::open(disk.clone(), 512).unwrap();
        let volume = machine.volume(&ROOT).unwrap().fs();
        let content = volume.read(path.as_bytes(), MOST).unwrap();
        let pages =
            content.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0));
        let find = |(number, page): (usize, &[u8])| {
            let at = bytes.chunks(PAGE).position(|there| there == page)?;
            Some((number * PAGE, (at * PAGE) as u64))
        };
        let pages: Vec<(usize, u64)> = pages.filter_map(find).collect();
        assert_eq!(pages.first().map(|(at, _)| *at), Some(0), "{path} begins on the disk");
        Self { path, content, pages }
    }

    fn write(&self, content: &[u8], disk: &CowDisk) {
        for (at, place) in &self.pages {
            disk.write_at(&content[*at..*at + PAGE], *place).unwrap();
        }
    }
}

/// Changes a few places of what is in use of a hive.
fn damage(hive: &mut [u8], rng: &mut fastrand::Rng) {
    let used = 4096 + u32::from_le_bytes(hive[40..44].try_into().unwrap()) as usize;
    for _ in 0..rng.usize(1..5) {
        let from = if rng.u32(0..6) == 0 { 0 } else { 4096 };
        let at = rng.usize(from..used.min(hive.len()) - 4) / 4 * 4;
        let word = u32::from_le_bytes(hive[at..at + 4].try_into().unwrap());
        let other = match rng.u32(0..7) {
            0 => 0,
            1 => u32::MAX,
            2 => word ^ 1 << rng.u32(0..32),
            3 => word.wrapping_add(8),
            4 => 0x20,
            5 => rng.u32(0..0x8000) / 8 * 8,
            _ => rng.u32(..),
        };
        hive[at..at + 4].copy_from_slice(&other.to_le_bytes());
    }
    if rng.bool() {
        seal_header(hive);
    }
}

/// A folder of drivers that holds anything but drivers.
#[test]
fn a_folder_of_nonsense_is_told_and_left_out() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(disk) = whole(folder.path()) else { return };
    let drivers = folder.path().join("drivers");
    fs::create_dir_all(drivers.join("a/b/c/d/e/f/g/h/i/j/k/l/m/n")).unwrap();
    std::os::unix::fs::symlink(&drivers, drivers.join("a/round")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", drivers.join("zero.inf")).unwrap();
    fs::create_dir(drivers.join("folder.inf")).unwrap();
    fs::write(drivers.join("empty.inf"), "").unwrap();
    let many = format!("[Version]\n{}", "[a]\nCopyFiles=@b\n".repeat(40_000));
    fs::write(drivers.join("many.inf"), many).unwrap();
    fs::write(drivers.join("large.inf"), vec![b'['; 20 << 20]).unwrap();
    let rng = &mut fastrand::Rng::with_seed(5);
    let words = [
        "[Version]",
        "[Manufacturer]",
        "Signature=",
        "\"$WINDOWS NT$\"",
        "=",
        ",",
        "%a%",
        "%",
        ";",
        "\"",
        "\n",
        "\r\n",
        "[",
        "]",
        "NTx86",
        "[Strings]",
        "a=%a%",
        "AddService=x,2,y",
        "[y]",
        "\\",
        "ServiceBinary=%12%\\..\\..\\x",
        "HKR,,%a%,0x10001,",
        "CopyFiles=@..\\..\\x",
        "ClassGUID={",
        "PCI\\VEN_1AF4",
        "0x00000002",
        "Include=",
        "Needs=",
        "\u{0}",
        "\u{fffd}",
    ];
    for number in 0..200 {
        let text: String =
            (0..rng.usize(0..200)).map(|_| words[rng.usize(0..words.len())]).collect();
        let bytes = match number % 3 {
            0 => text.into_bytes(),
            1 => {
                [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
            }
            _ => (0..rng.usize(0..3000)).map(|_| rng.u8(..)).collect::<Vec<u8>>(),
        };
        fs::write(drivers.join(format!("{number}.inf")), bytes).unwrap();
    }
    let mut machine = Machine::open(disk, 512).unwrap();
    let mut plan = Plan::default();
    let options = AdaptOptions { drivers: vec![drivers], ..AdaptOptions::new(Target::Vmware) };
    adapt(&mut machine, &options, &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    assert!(
        plan.warnings.iter().any(|one| one.message.contains("large.inf")),
        "{:?}",
        plan.warnings
    );
    let put = plan.actions.iter().find(|one| one.id.starts_with("windows.driver.package"));
    assert_eq!(put, None, "nothing of it is put in");
}
