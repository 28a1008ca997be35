//! A Windows that becomes another machine, which changes its registry, its descriptors and the ids
//! of its disk in one step, and the way back; with the power cut.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use fastrand::Rng;
use vdisk::{Error, ErrorKind, Format, Image};
use vdisk_fixup::{Machine, Plan, StripOptions};
use vdisk_testkit::VecDisk;
use vdisk_testkit::power::Recorder;

use super::chains::{Chain, Command, assert_reads, assert_sound, bytes_of, watched};
use guests::Spec;

#[path = "../../../fixup/tests/common/mod.rs"]
mod guests;

/// A small Windows, and the other machine that it becomes.
struct Guest {
    before: Vec<u8>,
    after: Vec<u8>,
    machine: Machine,
    plan: Plan,
}

impl Guest {
    fn new(before: Vec<u8>) -> Self {
        let mut machine = Machine::open(Arc::new(VecDisk(before.clone())), 512).expect("a guest");
        let mut plan = Plan::default();
        vdisk_fixup::strip(&mut machine, &StripOptions::default(), &mut plan).expect("a plan");
        let after = bytes_of(&*machine.changed().expect("its disk"));
        assert!(after != before, "nothing changes");
        Self { before, after, machine, plan }
    }
}

thread_local! {
    /// Made once: it takes as long as dozens of cuts.
    static GUEST: Option<Rc<Guest>> = {
        let folder = super::quick_folder();
        let disk = guests::original::original(folder.path(), &Spec::SMALL, |_| {});
        disk.map(|disk| Rc::new(Guest::new(std::fs::read(disk).expect("a disk"))))
    };
}

/// Whether there is a guest: not where the corpus or a tool is missing.
pub fn is_there() -> bool {
    GUEST.with(Option::is_some)
}

/// A guest in an image, and what becomes of it.
struct Copied {
    chain: Chain,
    guest: Rc<Guest>,
}

impl Copied {
    fn random(format: Format, rng: &mut Rng) -> Self {
        let guest = GUEST.with(Option::clone).expect("a scenario with a guest");
        Self { chain: Chain::holding(format, rng.usize(0..3), &guest.before), guest }
    }

    fn apply(&self, recorder: &Recorder) -> Result<Option<PathBuf>, Error> {
        let open = watched(recorder).in_one_session();
        let image = self.chain.top();
        let Guest { machine, plan, .. } = &*self.guest;
        let done = vdisk_fixup::apply(image, &open, machine, plan, "strip", false)?;
        Ok(done.map(|(report, _)| report))
    }

    /// Removes reports, and what takes back what they tell of.
    fn forget(&self) {
        for path in self.beside(&["json", "undo"]) {
            std::fs::remove_file(path).expect("a file that can be removed");
        }
    }

    /// The last report: a run that finds what an earlier one left takes the next number.
    fn report(&self) -> Option<PathBuf> {
        self.beside(&["json"]).pop()
    }

    /// Files of these kinds in the folder of the images, in order.
    fn beside(&self, endings: &[&str]) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.chain.folder()).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let is_one = |path: &PathBuf| {
            path.extension().is_some_and(|ending| endings.iter().any(|one| ending == *one))
        };
        let mut found: Vec<PathBuf> = paths.filter(is_one).collect();
        found.sort();
        found
    }

    /// The guest is the old one or the new one, or the image says which command finishes. Where it
    /// is not the old one, there is a way back.
    fn look(&self, context: &str) {
        let old = match Image::open(self.chain.top()) {
            Ok(image) => {
                let found = bytes_of(&image);
                assert!(
                    found == self.guest.before || found == self.guest.after,
                    "{context}: neither the original nor the copy"
                );
                found == self.guest.before
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Refused, "{context}: {error}");
                let advice = error.advice().unwrap_or_default();
                assert!(advice.contains("vdisk recover"), "{context}: {advice}");
                false
            }
        };
        assert!(old || self.report().is_some(), "{context}: no report tells of the copy");
        for below in 0..self.chain.paths.len() - 1 {
            self.chain.assert_view(below, context);
        }
    }

    fn ask(&self, view: &[u8], context: &str) {
        // libvhdi takes the bits of a bitmap by whole bytes.
        if self.chain.format == Format::Vmdk || self.chain.paths.len() == 1 {
            self.chain.ask(&self.chain.paths, view, context);
        }
    }

    fn assert_is(&self, view: &[u8], context: &str) {
        assert_reads(self.chain.top(), view, context);
        assert_sound(self.chain.top(), context);
    }
}

/// The original becomes the copy.
pub struct Strip(Copied);

impl Strip {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        Self(Copied::random(format, rng))
    }
}

impl Command for Strip {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        self.0.apply(recorder).map(drop)
    }

    fn forget(&self) {
        self.0.forget();
    }

    fn look(&self, _cut: usize, context: &str) {
        self.0.look(context);
    }

    fn again(&self, recorder: &Recorder) -> Result<(), Error> {
        vdisk::finish_edit(self.chain().top(), &watched(recorder))?;
        self.run(recorder)
    }

    fn done(&self, context: &str) {
        self.0.assert_is(&self.0.guest.after, context);
    }

    fn ask(&self, context: &str) {
        self.0.ask(&self.0.guest.after, context);
    }

    fn chain(&self) -> &Chain {
        &self.0.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        vec![self.chain().top().to_owned()]
    }
}

/// The copy becomes the original again.
pub struct Back(Copied);

impl Back {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        let copied = Copied::random(format, rng);
        copied.apply(&Recorder::new()).expect("a copy");
        Self(copied)
    }
}

impl Command for Back {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        let (open, report) = (watched(recorder), self.0.report().expect("a report"));
        vdisk_fixup::undo(self.chain().top(), &open, &report, false).map(drop)
    }

    fn forget(&self) {
        self.0.forget();
    }

    fn look(&self, _cut: usize, context: &str) {
        self.0.look(context);
    }

    /// Once more with the same report, unless that says that it is done.
    fn again(&self, recorder: &Recorder) -> Result<(), Error> {
        vdisk::finish_edit(self.chain().top(), &watched(recorder))?;
        match self.run(recorder) {
            Err(error) if error.to_string().contains("taken back already") => Ok(()),
            other => other,
        }
    }

    fn done(&self, context: &str) {
        self.0.assert_is(&self.0.guest.before, context);
    }

    fn ask(&self, context: &str) {
        self.0.ask(&self.0.guest.before, context);
    }

    fn chain(&self) -> &Chain {
        &self.0.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        vec![self.chain().top().to_owned()]
    }
}
