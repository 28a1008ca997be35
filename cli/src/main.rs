//! `vdisk`: look at, check, compare and convert disk images of any format.
//!
//! Only wiring lives here: arguments in, calls of the `vdisk` library, results out. One file per
//! command in `cmd/`; how results and errors are shown in `show.rs`.

mod args;
mod cmd;
mod progress;
mod show;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return show::usage(&error),
    };
    let cancel = vdisk::Cancel::default();
    stop_on_signals(&cancel);
    let context = cmd::Context::new(&args.global, cancel);
    let done = cmd::run(args.command, &context);
    show::finish(done, &args.global)
}

/// The first signal asks the job to stop and clean up; a second one does not wait for that.
fn stop_on_signals(cancel: &vdisk::Cancel) {
    let cancel = cancel.clone();
    let installed = ctrlc::set_handler(move || {
        if cancel.is_cancelled() {
            std::process::exit(130);
        }
        cancel.cancel();
    });
    // Without a handler the system's own applies: the program stops at once, as it should.
    drop(installed);
}
