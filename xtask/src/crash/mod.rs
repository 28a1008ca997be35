//! Cutting the power, everywhere.
//!
//! A *scenario* is one way to change images in place: random operations on one image
//! ([`images`]), or a command that works on a chain ([`chains`]), or on the Windows in one
//! ([`machines`]). A *round* is a scenario with a
//! seed; it is recorded once, and the states that cuts at its moments may leave are judged
//! (`vdisk_testkit::power`). Rounds of all scenarios take turns until enough states were judged.
//! Of some states programs that are not ours are asked too ([`judges`]).

mod chains;
mod commands;
mod images;
mod judges;
mod machines;
mod repairs;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// States to judge.
    pub cuts: usize,
    /// Seed of the first round of each scenario.
    pub seed: u64,
    /// Start of the names of the scenarios to run.
    pub only: Option<String>,
    /// Judge only that state, of only one round.
    pub state: Option<usize>,
    /// Where the files of a state that lost something go.
    pub keep: PathBuf,
}

/// One way to change images.
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// One round of it: records what the seed says, and has the tally judge states.
    pub round: Round,
}

/// See [`Scenario::round`].
pub type Round = Box<dyn Fn(u64, &mut Tally)>;

/// What was judged so far.
#[derive(Debug)]
pub struct Tally {
    options: Options,
    scenario: String,
    seed: u64,
    cuts: usize,
    lost: usize,
    asked: usize,
    told: Instant,
}

/// Runs until enough states were judged, or something was lost in as many scenarios as there are.
pub fn run(options: &Options) -> Tally {
    let mut scenarios = images::scenarios();
    scenarios.extend(chains::scenarios());
    let wanted = options.only.as_deref().unwrap_or_default();
    scenarios.retain(|scenario| scenario.name.starts_with(wanted));
    let mut tally = Tally::new(options);
    let mut broken = BTreeSet::new();
    let mut seed = options.seed;
    while !tally.is_done() && broken.len() < scenarios.len() {
        for scenario in &scenarios {
            if tally.is_done() || broken.contains(&scenario.name) {
                continue;
            }
            let lost = tally.lost;
            tally.round(scenario, seed);
            // The same fault over and over tells nothing new.
            if tally.lost > lost + 2 || options.state.is_some() {
                broken.insert(scenario.name.clone());
            }
        }
        seed += 1;
    }
    tally
}

impl Tally {
    fn new(options: &Options) -> Self {
        let told = Instant::now();
        Self {
            options: options.clone(),
            scenario: String::new(),
            seed: 0,
            cuts: 0,
            lost: 0,
            asked: 0,
            told,
        }
    }

    /// States judged.
    pub fn cuts(&self) -> usize {
        self.cuts
    }

    /// States that lost something.
    pub fn lost(&self) -> usize {
        self.lost
    }

    fn is_done(&self) -> bool {
        self.cuts >= self.options.cuts
    }

    fn round(&mut self, scenario: &Scenario, seed: u64) {
        (self.scenario, self.seed) = (scenario.name.clone(), seed);
        if let Err(fault) = catch_unwind(AssertUnwindSafe(|| (scenario.round)(seed, self))) {
            self.lose(None, &*fault, |_| {});
        }
        if self.told.elapsed() > Duration::from_secs(10) {
            self.told = Instant::now();
            println!("{} cuts, {} lost; {} asked of others", self.cuts, self.lost, self.asked);
        }
    }

    /// Whether state `number` of this round is of interest.
    pub fn wants(&self, number: usize) -> bool {
        self.options.state.is_none_or(|state| state == number)
    }

    /// Whether others are to be asked about state `number` of this round.
    pub fn asks(&mut self, number: usize) -> bool {
        let asks =
            self.options.state.is_some() || (self.seed as usize * 31 + number).is_multiple_of(97);
        self.asked += usize::from(asks);
        asks
    }

    /// Judges state `number` of this round: `judge` returns the number of cuts it judged, or
    /// panics; then `keep` puts the files of the state into a folder.
    pub fn state(
        &mut self,
        number: usize,
        judge: impl FnOnce() -> usize,
        keep: impl FnOnce(&Path),
    ) {
        match catch_unwind(AssertUnwindSafe(judge)) {
            Ok(cuts) => self.cuts += cuts,
            Err(fault) => self.lose(Some(number), &*fault, keep),
        }
    }

    fn lose(&mut self, number: Option<usize>, fault: &dyn Any, keep: impl FnOnce(&Path)) {
        self.lost += 1;
        let words = fault.downcast_ref::<String>().map(String::as_str);
        let words = words.or(fault.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        println!("LOST in {}: {words}", self.scenario);
        let round = format!("{}-{}", self.scenario, self.seed);
        let mut again = format!("cargo xtask crash --only {} --seed {}", self.scenario, self.seed);
        if let Some(number) = number {
            again += &format!(" --state {number}");
            let folder = self.options.keep.join(format!("{round}-{number}"));
            std::fs::create_dir_all(&folder).expect("a folder for the files");
            keep(&folder);
            println!("  its files: {}", folder.display());
        }
        println!("  again: {again}");
    }
}

/// A folder in memory where the host has one: flushing costs nothing there.
fn quick_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(folder).expect("a folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survives(only: &str, cuts: usize) {
        let keep = std::env::temp_dir().join("vdisk-crash");
        let options = Options { cuts, seed: 1, only: Some(only.to_owned()), state: None, keep };
        let tally = run(&options);
        assert_eq!(tally.lost(), 0);
        assert!(tally.cuts() >= cuts);
    }

    #[test]
    fn images_survive() {
        for format in ["raw", "vhd-", "vhdx-", "vmdk-"] {
            survives(format, 300);
        }
    }

    #[test]
    fn repairs_survive() {
        for format in ["vhd", "vhdx", "vmdk"] {
            survives(&format!("chain-{format}-repair"), 100);
            survives(&format!("chain-{format}-undo"), 60);
        }
    }

    #[test]
    fn chains_survive() {
        survives("chain-", 250);
    }

    #[test]
    fn machines_survive() {
        if machines::is_there() {
            survives("machine-", 120);
        }
    }
}
