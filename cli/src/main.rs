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
    // A panic is a fault of ours, and has an exit code of its own.
    std::panic::catch_unwind(run).unwrap_or_else(|_| show::fault())
}

fn run() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return show::usage(&error),
    };
    if args.global.verbose > 1 {
        trace();
    }
    let cancel = vdisk::Cancel::default();
    stop_on_signals(&cancel);
    let context = cmd::Context::new(&args.global, cancel);
    let done = cmd::run(args.command, &context);
    show::finish(done, &args.global)
}

/// Writes what the library does, step by step, to standard error.
fn trace() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(std::io::stderr)
        .with_ansi(show::colour())
        .without_time();
    subscriber.init();
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
