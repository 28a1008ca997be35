//! `cargo xtask`: chores of whoever works on vdisk.
//!
//! * `cargo xtask crash --cuts N`: cuts the power N times, everywhere ([`crash`]).

mod crash;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of whoever works on vdisk")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Cut the power at random moments of everything that changes images, and judge what is left
    Crash {
        /// States to judge
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        cuts: usize,
        /// Seed of the first round
        #[arg(long, value_name = "S", default_value_t = 1)]
        seed: u64,
        /// Only scenarios whose name starts so: vhd, vhdx, vmdk, raw, chain …
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
        /// Of one round, only that state
        #[arg(long, value_name = "K")]
        state: Option<usize>,
        /// Where the files of a state that lost something go
        #[arg(long, value_name = "FOLDER", default_value = "target/crash")]
        keep: PathBuf,
    },
}

fn main() -> ExitCode {
    let Chore::Crash { cuts, seed, only, state, keep } = Args::parse().chore;
    // A loss is told by its own lines.
    std::panic::set_hook(Box::new(|_| {}));
    let options = crash::Options { cuts, seed, only, state, keep };
    let tally = crash::run(&options);
    println!("{} cuts, {} lost", tally.cuts(), tally.lost());
    ExitCode::from(u8::from(tally.lost() > 0 || tally.cuts() == 0))
}
