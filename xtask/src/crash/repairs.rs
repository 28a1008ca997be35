//! Mending a damaged image of a chain, and the way back, with the power cut.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use vdisk::{
    CheckReport, Disk, Error, Format, Image, OpenOptions, RepairRequest, Scope, undo_repair,
};
use vdisk_testkit::power::Recorder;

use super::chains::{Chain, Command, bytes_of, watched};

const ALL: RepairRequest = RepairRequest { scope: Scope::All, dry_run: false, backup: true };
/// Bytes read at a time of a disk that may be damaged.
const UNIT: usize = 4096;

/// Mending the top of a chain, which lost pieces of its structures.
pub struct Repair {
    damaged: Damaged,
    /// The outcome of the first run.
    outcome: OnceCell<Outcome>,
}

/// What a whole repair comes to.
struct Outcome {
    corruptions: u64,
    leaks: u64,
    readable: Readable,
}

impl Repair {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        Self { damaged: Damaged::random(format, rng), outcome: OnceCell::new() }
    }
}

impl Command for Repair {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        vdisk::repair(self.damaged.path(), &watched(recorder), ALL).map(drop)
    }

    /// What could be read still can, and the side file is a way back, from every state.
    fn look(&self, _cut: usize, context: &str) {
        let path = self.damaged.path();
        self.damaged.readable.assert_in(path, context);
        let side = first_side(path);
        if side.exists() {
            let bytes = std::fs::read(path).expect("an image");
            undo_repair(path, &side, &OpenOptions::new(), false)
                .unwrap_or_else(|e| panic!("{context}: back: {e}"));
            self.damaged.assert_back(context);
            std::fs::write(path, bytes).expect("room for the image");
        }
        self.damaged.assert_parents(context);
    }

    fn done(&self, context: &str) {
        let path = self.damaged.path();
        let dry = RepairRequest { dry_run: true, ..ALL };
        let report = vdisk::repair(path, &OpenOptions::new(), dry)
            .unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(changes(&report) == 0, "{context}: there is more to mend: {:?}", report.repairs);
        self.damaged.readable.assert_in(path, context);
        let first = self.outcome.get_or_init(|| Outcome {
            corruptions: report.corruptions,
            leaks: report.leaks,
            readable: Readable::of(path),
        });
        assert_eq!(
            (report.corruptions, report.leaks),
            (first.corruptions, first.leaks),
            "{context}: not as mended as without a cut: {:?}",
            report.findings
        );
        first.readable.assert_in(path, context);
        self.damaged.assert_parents(context);
    }

    fn ask(&self, context: &str) {
        let sound = self.outcome.get().is_some_and(|outcome| outcome.corruptions == 0);
        if sound && !self.damaged.by_chance {
            let chain = &self.damaged.chain;
            let view = bytes_of(&Image::open(chain.top()).expect("it is sound"));
            chain.ask(&chain.paths, &view, context);
        }
    }

    fn chain(&self) -> &Chain {
        &self.damaged.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        vec![self.damaged.path().to_owned(), first_side(self.damaged.path())]
    }
}

/// The way back from a repair.
pub struct Undo {
    damaged: Damaged,
    side: PathBuf,
}

impl Undo {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        let damaged = Damaged::random(format, rng);
        let report = vdisk::repair(damaged.path(), &OpenOptions::new(), ALL).expect("a repair");
        // A name that no cut takes away.
        let side = damaged.chain.path("side");
        std::fs::rename(report.backup.expect("a side file"), &side).expect("a new name");
        Self { damaged, side }
    }
}

impl Command for Undo {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        undo_repair(self.damaged.path(), &self.side, &watched(recorder), false).map(drop)
    }

    fn look(&self, _cut: usize, context: &str) {
        self.damaged.readable.assert_in(self.damaged.path(), context);
        self.damaged.assert_parents(context);
    }

    fn done(&self, context: &str) {
        self.damaged.assert_back(context);
    }

    fn ask(&self, _context: &str) {}

    fn chain(&self) -> &Chain {
        &self.damaged.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        vec![self.damaged.path().to_owned()]
    }
}

/// The side file of the first repair of the image at `path`.
fn first_side(path: &Path) -> PathBuf {
    let name = path.file_name().expect("a file").to_string_lossy();
    path.with_file_name(format!("{name}.vdisk-repair-1"))
}

fn changes(report: &CheckReport) -> usize {
    report.changes.as_ref().map_or(0, Vec::len)
}

/// A chain whose top is damaged, in a way that can be mended at least in part.
struct Damaged {
    chain: Chain,
    bytes: Vec<u8>,
    readable: Readable,
    /// Whether chance was in it, which may hit what we do not look at and others do.
    by_chance: bool,
}

impl Damaged {
    fn random(format: Format, rng: &mut Rng) -> Self {
        let chain = Chain::new(format, rng.usize(0..3), rng);
        let path = chain.top();
        if format == Format::Vhdx && rng.u32(0..3) == 0 {
            leave_log(path, rng);
        }
        let sound = std::fs::read(path).expect("an image");
        loop {
            let mut bytes = sound.clone();
            for _ in 0..rng.usize(1..4) {
                damage(format, &mut bytes, chain.paths.len() > 1, rng);
            }
            let by_chance = rng.u32(0..3) == 0;
            if by_chance {
                flip(format, &mut bytes, rng);
            }
            std::fs::write(path, &bytes).expect("room for the image");
            let dry = RepairRequest { dry_run: true, ..ALL };
            let report = vdisk::repair(path, &OpenOptions::new(), dry);
            if report.is_ok_and(|report| changes(&report) > 0) {
                let readable = Readable::of(path);
                return Self { chain, bytes, readable, by_chance };
            }
        }
    }

    fn path(&self) -> &Path {
        self.chain.top()
    }

    fn assert_back(&self, context: &str) {
        let found = std::fs::read(self.path()).expect("an image");
        assert!(found == self.bytes, "{context}: the way back leads elsewhere");
    }

    fn assert_parents(&self, context: &str) {
        for below in 0..self.chain.paths.len() - 1 {
            self.chain.assert_view(below, context);
        }
    }
}

/// The units of a disk that can be read; none where it does not open.
struct Readable(Vec<Option<Vec<u8>>>);

impl Readable {
    fn of(path: &Path) -> Self {
        let Ok(image) = Image::open(path) else { return Self(Vec::new()) };
        let len = image.len() as usize;
        let unit = |at: usize| {
            let mut bytes = vec![0xEE; UNIT.min(len - at)];
            image.read_at(&mut bytes, at as u64).is_ok().then_some(bytes)
        };
        Self((0..len).step_by(UNIT).map(unit).collect())
    }

    /// Asserts that what this holds can be read at `path`.
    fn assert_in(&self, path: &Path, context: &str) {
        let found = Self::of(path);
        for (number, unit) in self.0.iter().enumerate().filter(|(_, unit)| unit.is_some()) {
            let same = found.0.get(number) == Some(unit);
            assert!(same, "{context}: what stood at unit {number} is lost");
        }
    }
}

/// Writes to a VHDX, and stops before its log is done.
fn leave_log(path: &Path, rng: &mut Rng) {
    let mut image = OpenOptions::new().open_rw(path).expect("an image");
    for _ in 0..3 {
        let at = rng.u64(0..image.len() - UNIT as u64) / UNIT as u64 * UNIT as u64;
        image.write_at(&[7; UNIT], at).expect("a change");
        image.flush().expect("a flush");
    }
}

/// Takes a piece of a structure that another one tells about, or what names a block.
fn damage(format: Format, bytes: &mut Vec<u8>, child: bool, rng: &mut Rng) {
    let len = bytes.len();
    match (format, rng.u32(0..5)) {
        (Format::Vhd, 0) => bytes.truncate(len - rng.usize(1..=512)),
        (Format::Vhd, 1) => bytes[..512].fill(0),
        (Format::Vhd, 2) => bytes[len - 512 + 200] ^= 1,
        (Format::Vhd, 3) if !child => bytes[512 + 37] ^= 4,
        (Format::Vhd, _) => {
            let place = number(bytes, 512 + 16, 8).swap_bytes() as usize;
            lose_block(bytes, place, &[0xFF; 4], &[0xFF; 4], rng);
        }
        (Format::Vhdx, 0 | 1) => {
            let at = [64 << 10, 128 << 10, 192 << 10, 256 << 10][rng.usize(0..4)];
            bytes[at..at + 4096].fill(0);
        }
        (Format::Vhdx, 2) => bytes[[192 << 10, 256 << 10][rng.usize(0..2)] + 20] ^= 1,
        (Format::Vhdx, _) => {
            lose_block(bytes, 3 << 20, &[0; 8], &[0; 8], rng);
        }
        (_, 0) => bytes[72] = 1,
        (_, 1) => {
            let [copy, table] = grain_tables(bytes);
            let place = if rng.bool() { copy } else { table };
            lose_block(bytes, place, &[0xFF; 4], &[0; 4], rng);
        }
        (_, 2) => {
            let [copy, _] = grain_tables(bytes);
            lose_block(bytes, copy, &[0; 4], &[0; 4], rng);
        }
        (_, _) => {
            let [copy, table] = grain_tables(bytes);
            let at = lose_block(bytes, table, &[0; 4], &[0; 4], rng);
            bytes[copy + at..copy + at + 4].fill(0);
        }
    }
}

/// Puts `lost` in the place of one of the first entries of a table that are not `empty`; how far
/// into the table.
fn lose_block(bytes: &mut [u8], table: usize, lost: &[u8], empty: &[u8], rng: &mut Rng) -> usize {
    let size = lost.len();
    let end = bytes.len().min(table + 16 * size);
    let entries = bytes.get(table..end).unwrap_or_default().chunks_exact(size).enumerate();
    let named: Vec<usize> =
        entries.filter(|(_, entry)| *entry != empty).map(|(index, _)| index * size).collect();
    let Some(at) = rng.choice(named) else { return 0 };
    bytes[table + at..table + at + size].copy_from_slice(lost);
    at
}

/// The redundant grain table of a disk that has but one, and the other.
fn grain_tables(bytes: &[u8]) -> [usize; 2] {
    [48, 56].map(|field| number(bytes, number(bytes, field, 8) as usize * 512, 4) as usize * 512)
}

/// The little-endian number at a place, 0 where there is none.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let found = bytes.get(at..at + len).unwrap_or_default();
    found.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Flips a bit somewhere among the structures.
fn flip(format: Format, bytes: &mut [u8], rng: &mut Rng) {
    const KIB: usize = 1 << 10;
    let ranges = match format {
        Format::Vhd => [0..2048, bytes.len() - 512..bytes.len()],
        Format::Vhdx => [64 * KIB..64 * KIB + 512, 3072 * KIB..3072 * KIB + 64],
        _ => [0..1536, 21 * 512..32 * 512],
    };
    let range = ranges[usize::from(rng.bool())].clone();
    let at = rng.usize(range);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.u32(0..8);
    }
}
