//! The commands, one file each.

mod adapt;
mod cat;
mod check;
mod checksum;
mod commit;
mod compact;
mod compare;
mod convert;
mod create;
mod define;
mod extract;
mod fixup;
mod guest;
mod info;
mod inspect;
mod ls;
mod map;
mod measure;
mod p2v;
mod passage;
mod rebase;
mod recover;
mod resize;
mod skip;
mod strip;
mod v2p;

use serde_json::json;
use vdisk::{Cancel, Error, Format, NewImage, OpenOptions, Progress, Result, Watch};

use crate::args::{Changed, Command, Global, Others, OutputForm, ProgressForm, Source};
use crate::progress::reporter;
use crate::show::{self, Outcome};

/// What every command is given besides its own arguments.
pub(crate) struct Context<'a> {
    global: &'a Global,
    cancel: Cancel,
}

impl<'a> Context<'a> {
    pub(crate) fn new(global: &'a Global, cancel: Cancel) -> Self {
        Self { global, cancel }
    }

    fn json(&self) -> bool {
        self.global.output == OutputForm::Json
    }

    fn note(&self, text: &str) {
        show::note(self.global, text);
    }

    /// A remark for `-v`.
    fn remark(&self, text: &str) {
        if self.global.verbose > 0 {
            self.note(text);
        }
    }

    fn progress(&self, bar: bool) -> Box<dyn Progress> {
        let form = if bar && self.global.progress == ProgressForm::Auto {
            ProgressForm::Bar
        } else {
            self.global.progress
        };
        reporter(form, self.global.quiet)
    }

    fn watch<'b>(&'b self, progress: &'b dyn Progress) -> Watch<'b> {
        Watch { progress, cancel: &self.cancel }
    }
}

/// Runs a command; a failure comes with its exit code.
pub(crate) fn run(command: Command, context: &Context<'_>) -> Result<Outcome, (Error, u8)> {
    let done = match command {
        Command::Info(args) => info::run(&args, context),
        Command::Map(args) => map::run(&args, context),
        Command::Create(args) => create::run(&args, context),
        Command::Convert(args) => convert::run(&args, context),
        Command::Check(args) => return check::run(&args, context).map_err(own_codes),
        Command::Compare(args) => return compare::run(&args, context).map_err(own_codes),
        Command::Checksum(args) => checksum::run(&args, context),
        Command::Measure(args) => measure::run(&args, context),
        Command::Resize(args) => resize::run(&args, context),
        Command::Compact(args) => compact::run(&args, context),
        Command::Commit(args) => commit::run(&args, context),
        Command::Rebase(args) => rebase::run(&args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Recover(args) => recover::run(&args, context),
        Command::Ls(args) => ls::run(&args, context),
        Command::Cat(args) => cat::run(&args, context),
        Command::Extract(args) => extract::run(&args, context),
        Command::Strip(args) => strip::run(&args, context),
        Command::Adapt(args) => adapt::run(&args, context),
        Command::Define(args) => define::run(&args, context),
        Command::P2v(args) => p2v::run(&args, context),
        Command::V2p(args) => v2p::run(&args, context),
    };
    done.map_err(|error| {
        let code = show::exit_code(error.kind());
        (error, code)
    })
}

/// `check` and `compare` keep qemu-img's codes; 1 means "could not check" for the one and "differ"
/// for the other, so each maps its failures itself and only what is the same is here.
fn own_codes((error, code): (Error, u8)) -> (Error, u8) {
    match error.kind() {
        vdisk::ErrorKind::Cancelled | vdisk::ErrorKind::Usage | vdisk::ErrorKind::Internal => {
            let code = show::exit_code(error.kind());
            (error, code)
        }
        _ => (error, code),
    }
}

impl Source {
    fn open_options(&self) -> OpenOptions {
        self.others.open_options(self.format).force_share(self.force_share)
    }
}

impl Changed {
    fn open_options(&self) -> OpenOptions {
        self.source.open_options().allow_device(self.allow_device)
    }
}

impl Others {
    fn open_options(&self, format: Option<Format>) -> OpenOptions {
        let mut options = with_folders(format, &self.parent_dir);
        if let Some(parent) = &self.parent {
            options = options.parent(parent);
        }
        options
    }
}

fn with_folders(format: Option<Format>, folders: &[std::path::PathBuf]) -> OpenOptions {
    let mut options = OpenOptions::new();
    if let Some(format) = format {
        options = options.format(format);
    }
    folders.iter().fold(options, OpenOptions::parent_dir)
}

/// The format of an output: as said, or as its file name ends.
fn output_format(said: Option<Format>, path: &std::path::Path) -> Result<Format> {
    said.or_else(|| vdisk::format_of_name(path)).ok_or_else(|| {
        Error::usage("its name does not tell the format").in_file(path).hint(
            "name the format (raw, vhd, vhdx, vmdk), or end the name in \
             .img, .raw, .vhd, .vhdx or .vmdk",
        )
    })
}

/// The new image that the options ask for, its size made expressible.
fn new_image(mut new: NewImage, options: &[String]) -> Result<NewImage> {
    options.iter().try_for_each(|list| new.set_list(list))?;
    new.round_up_size();
    Ok(new)
}

/// Answers `-o help`; `true` if it was asked.
fn told_options(options: &[String], format: Format, context: &Context<'_>) -> Result<bool> {
    if !options.iter().any(|list| list.split(',').any(|one| matches!(one, "help" | "?"))) {
        return Ok(false);
    }
    let known = vdisk::option_list(format);
    if context.json() {
        let known = known.iter().map(|option| {
            json!({"key": option.key, "default": option.default, "meaning": option.meaning})
        });
        show::json(&json!({
            "schema": "vdisk.options/1",
            "format": format.name(),
            "options": known.collect::<Vec<_>>(),
        }))?;
        return Ok(true);
    }
    let mut text = format!("Options of {format}:\n");
    for option in known {
        text += &format!("  {}={}\n      {}\n", option.key, option.default, option.meaning);
    }
    show::text(&text)?;
    Ok(true)
}
