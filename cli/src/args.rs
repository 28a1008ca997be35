//! The command line as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use vdisk::{Algorithm, Format};
use vdisk_define::Mac;
use vdisk_fixup::{KeepNetwork, Target};

const EXIT_CODES: &str = "\
Exit codes:
  0    done                                 6    parent chain broken
  1    a clean no, or another failure       7    refused for safety
  3    finished in part                     8    the host said no (I/O, space, permission)
  4    input damaged                        64   wrong use
  5    not supported                        70   a fault of vdisk itself
  130  stopped by the user
  check: 0 clean, 1 could not check, 2 corrupt, 3 leaks only, 63 nothing to check
  compare: 0 same, 1 differ, 2 and above could not compare";

/// Disk images of any format: look, check, compare, convert.
#[derive(Debug, Parser)]
#[command(name = "vdisk", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Global {
    /// How results are written to standard output
    #[arg(long, global = true, value_name = "FORM", default_value = "human")]
    pub(crate) output: OutputForm,
    /// How progress is shown on standard error
    #[arg(long, global = true, value_name = "FORM", default_value = "auto")]
    pub(crate) progress: ProgressForm,
    /// Tell more: -v the causes of errors and what was done, -vv a trace
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Tell errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// For people
    Human,
    /// One JSON document
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressForm {
    /// A bar on a terminal, nothing otherwise
    Auto,
    /// A bar
    Bar,
    /// One JSON object a line
    Json,
    /// Nothing
    None,
}

/// What `--skip-free` leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SkipFree {
    /// What no file has
    Free,
    /// That, and what the next start makes anew
    All,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Info(InfoArgs),
    Map(MapArgs),
    Create(CreateArgs),
    Convert(ConvertArgs),
    Check(CheckArgs),
    Compare(CompareArgs),
    Checksum(ChecksumArgs),
    Measure(MeasureArgs),
    Resize(ResizeArgs),
    Compact(CompactArgs),
    Commit(CommitArgs),
    Rebase(RebaseArgs),
    Recover(RecoverArgs),
    Ls(LsArgs),
    Cat(CatArgs),
    Extract(ExtractArgs),
    Inspect(InspectArgs),
    Strip(StripArgs),
    Adapt(AdaptArgs),
    Define(DefineArgs),
    P2v(P2vArgs),
    V2p(V2pArgs),
}

/// How the guest of an image is changed.
#[derive(Debug, ClapArgs)]
pub(crate) struct Fixup {
    #[command(flatten)]
    pub(crate) source: Changed,
    /// Show the plan and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take back what this report tells of, as long as the guest has not been started since
    #[arg(long, value_name = "REPORT", conflicts_with = "dry_run")]
    pub(crate) undo: Option<PathBuf>,
    /// Go on where only caution says no
    #[arg(long)]
    pub(crate) force: bool,
    /// The image of another disk of the machine, in the order in which the guest counts them;
    /// repeatable
    #[arg(long, value_name = "IMAGE")]
    pub(crate) with: Vec<PathBuf>,
    pub(crate) image: PathBuf,
}

/// Whether a guest stays the machine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdentityChoice {
    /// A move: it stays itself
    Keep,
    /// A copy that lives beside the original
    New,
    /// Such a copy of a Windows, by Microsoft's way: sysprep runs at the first start, restarts it
    /// and asks at the console for what setup asks for
    Sysprep,
}

/// What of its old place a Windows keeps, or forgets besides.
#[derive(Debug, ClapArgs)]
pub(crate) struct OldPlace {
    /// Windows: the new network card gets the fixed settings of the old one at the first start
    /// (addresses, gateways, DNS, WINS); of several old cards, those of the one with this address,
    /// or else of the only one with a gateway. A Linux keeps its settings anyway
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true,
        default_missing_value = "", value_parser = keep_network)]
    pub(crate) keep_network: Option<KeepNetwork>,
    /// Windows: forget the USB disks and screens, too, that it has seen
    #[arg(long)]
    pub(crate) purge_ghosts: bool,
}

/// How an image given on the command line is opened.
#[derive(Debug, ClapArgs)]
pub(crate) struct Source {
    /// The image's format; probed by content without it (raw is never guessed)
    #[arg(short = 'f', long = "format", value_name = "FMT", value_parser = format)]
    pub(crate) format: Option<Format>,
    /// Read it even where another program has it open for writing: what is read may be half changed
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
    #[command(flatten)]
    pub(crate) others: Others,
}

/// An image that may be changed in place, and how it is opened.
#[derive(Debug, ClapArgs)]
pub(crate) struct Changed {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Allow a block device to be written to
    #[arg(long)]
    pub(crate) allow_device: bool,
}

/// Which other files may be opened.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Others {
    /// The image's parent, whatever the image says of its place
    #[arg(long, value_name = "FILE")]
    pub(crate) parent: Option<PathBuf>,
    /// Another folder whose tree may hold files that the image names; repeatable
    #[arg(long, value_name = "DIR")]
    pub(crate) parent_dir: Vec<PathBuf>,
}

/// What an image is: format, sizes, identity, parent, health at a glance
#[derive(Debug, ClapArgs)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Show every image of the chain, top first
    #[arg(long)]
    pub(crate) backing_chain: bool,
    pub(crate) image: PathBuf,
}

/// Where every byte comes from
#[derive(Debug, ClapArgs)]
pub(crate) struct MapArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    pub(crate) image: PathBuf,
}

/// A new empty image, or with -b a new differencing image
#[derive(Debug, ClapArgs)]
pub(crate) struct CreateArgs {
    /// The new image's format; without it the file name's ending decides
    #[arg(short = 'f', long = "format", value_name = "FMT", value_parser = format)]
    pub(crate) format: Option<Format>,
    /// An option of the format; `-o help` lists them
    #[arg(short = 'o', value_name = "KEY=VALUE,...")]
    pub(crate) options: Vec<String>,
    /// The parent of a new differencing image; it is not changed
    #[arg(short = 'b', long = "backing", value_name = "PARENT")]
    pub(crate) backing: Option<PathBuf>,
    /// Folders that files named by the parent may be opened in; repeatable
    #[arg(long, value_name = "DIR")]
    pub(crate) parent_dir: Vec<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
    pub(crate) image: Option<PathBuf>,
    /// Virtual size: bytes, or with k M G T P; the parent's with -b
    pub(crate) size: Option<String>,
}

/// Any image into any format; the whole chain into one image, or with -b only what differs
#[derive(Debug, ClapArgs)]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// The output's format; without it the file name's ending decides
    #[arg(short = 'O', long = "output-format", value_name = "FMT", value_parser = format)]
    pub(crate) output_format: Option<Format>,
    /// An option of the output format; `-o help` lists them
    #[arg(short = 'o', value_name = "KEY=VALUE,...")]
    pub(crate) options: Vec<String>,
    /// Make the output a differencing image on PARENT that keeps only what differs from it
    #[arg(short = 'b', long = "backing", value_name = "PARENT")]
    pub(crate) backing: Option<PathBuf>,
    /// Least run of zeros in allocated data to leave out; 0 keeps them all
    #[arg(short = 'S', value_name = "SIZE")]
    pub(crate) sparse: Option<String>,
    /// Write into an existing image or device instead of making a new one
    #[arg(short = 'n', long = "no-create")]
    pub(crate) no_create: bool,
    /// With -n: the target already reads as zeros
    #[arg(long, requires = "no_create")]
    pub(crate) target_is_zero: bool,
    /// Allow a block device as the target
    #[arg(long)]
    pub(crate) allow_device: bool,
    /// Leave out what the guest's file systems do not use; =all: also swap partitions and the
    /// content of Windows' page, swap and hibernation files, and of Linux's swap files
    #[arg(
        long,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "free",
        conflicts_with = "backing"
    )]
    pub(crate) skip_free: Option<SkipFree>,
    /// Read the output again and compare it with the source
    #[arg(long)]
    pub(crate) verify: bool,
    /// Replace an existing output; with -n, also one on which other images stand, and become invalid
    #[arg(long)]
    pub(crate) force: bool,
    /// Show progress (the same as --progress bar)
    #[arg(short = 'p', hide = true)]
    pub(crate) show_progress: bool,
    /// Pieces worked on at once
    #[arg(short = 'm', long = "threads", value_name = "N")]
    pub(crate) threads: Option<usize>,
    #[arg(value_name = "SRC")]
    pub(crate) source_image: Option<PathBuf>,
    #[arg(value_name = "DST")]
    pub(crate) target: Option<PathBuf>,
}

/// Is the image sound? With -r what can be mended without guessing is; else nothing is changed
#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) source: Changed,
    /// Mend: space that nothing uses, or all that has one right answer
    #[arg(short = 'r', long = "repair", value_name = "WHAT")]
    pub(crate) repair: Option<Repair>,
    /// Do not save what is overwritten to IMAGE.vdisk-repair-N
    #[arg(long, requires = "repair")]
    pub(crate) no_backup: bool,
    /// Put back what an earlier repair overwrote and saved to this file
    #[arg(long, value_name = "SIDEFILE", conflicts_with = "repair")]
    pub(crate) undo: Option<PathBuf>,
    /// Say what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    pub(crate) image: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Repair {
    /// Give back space that nothing uses
    Leaks,
    /// Also mend what has one right answer
    All,
}

/// Do two images hold the same content?
#[derive(Debug, ClapArgs)]
pub(crate) struct CompareArgs {
    /// The first image's format
    #[arg(short = 'f', value_name = "FMT", value_parser = format)]
    pub(crate) first_format: Option<Format>,
    /// The second image's format
    #[arg(short = 'F', value_name = "FMT", value_parser = format)]
    pub(crate) second_format: Option<Format>,
    /// Strict: sizes must be equal too, and what one leaves unallocated the other must
    #[arg(short = 's', long)]
    pub(crate) strict: bool,
    /// Another folder whose tree may hold files that the images name; repeatable
    #[arg(long, value_name = "DIR")]
    pub(crate) parent_dir: Vec<PathBuf>,
    /// Read them even where another program has one open for writing
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
    pub(crate) first: PathBuf,
    pub(crate) second: PathBuf,
}

/// A digest of the virtual content, whatever the format
#[derive(Debug, ClapArgs)]
pub(crate) struct ChecksumArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// sha256: as sha256sum of the raw disk. tree: BLAKE3 of 1 MiB blocks, then of the list;
    /// parallel, and free for holes
    #[arg(long, value_name = "NAME", default_value = "sha256", value_parser = algorithm)]
    pub(crate) algorithm: Algorithm,
    pub(crate) image: PathBuf,
}

/// The bytes the output would take
#[derive(Debug, ClapArgs)]
pub(crate) struct MeasureArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// The output's format
    #[arg(short = 'O', long = "output-format", value_name = "FMT", value_parser = format, default_value = "raw")]
    pub(crate) output_format: Format,
    /// An option of the output format
    #[arg(short = 'o', value_name = "KEY=VALUE,...")]
    pub(crate) options: Vec<String>,
    /// Measure an empty disk of this size instead of an image
    #[arg(long, conflicts_with = "image")]
    pub(crate) size: Option<String>,
    #[arg(required_unless_present = "size")]
    pub(crate) image: Option<PathBuf>,
}

/// Change the virtual size
#[derive(Debug, ClapArgs)]
pub(crate) struct ResizeArgs {
    #[command(flatten)]
    pub(crate) source: Changed,
    /// Allow making it smaller: what is cut off is lost
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Go on although other images stand on it, and become invalid
    #[arg(long)]
    pub(crate) force: bool,
    /// Say what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    pub(crate) image: PathBuf,
    /// The new size, or with + or - the difference
    #[arg(allow_hyphen_values = true)]
    pub(crate) size: String,
}

/// Give back what the image stores without need: blocks that hold only zeros
///
/// Blocks at the end of the file move into the gaps, and the file gets shorter. Images without
/// blocks (raw, fixed, flat) get holes instead. The content does not change, so children stay
/// valid. A run that is cut off loses nothing: run it again.
#[derive(Debug, ClapArgs)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Give up what the guest's file systems do not use, too; =all: also swap partitions and the
    /// content of Windows' page, swap and hibernation files, and of Linux's swap files. Children of
    /// the image become invalid
    #[arg(
        long,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "free"
    )]
    pub(crate) skip_free: Option<SkipFree>,
    /// Say what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Pieces worked on at once
    #[arg(short = 'm', long = "threads", value_name = "N")]
    pub(crate) threads: Option<usize>,
    pub(crate) image: PathBuf,
}

/// Merge a differencing image down into its parent, or an ancestor
///
/// The image keeps its content; its target then holds the same. Whatever else stands on the
/// target, or between the two, becomes invalid. A run that is cut off loses nothing: run it again.
#[derive(Debug, ClapArgs)]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    pub(crate) source: Changed,
    /// The image of its chain to merge into; its parent without this
    #[arg(long, value_name = "PARENT")]
    pub(crate) into: Option<PathBuf>,
    /// Say what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Go on although other images stand on what changes, and become invalid
    #[arg(long)]
    pub(crate) force: bool,
    /// Pieces worked on at once
    #[arg(short = 'm', long = "threads", value_name = "N")]
    pub(crate) threads: Option<usize>,
    pub(crate) image: PathBuf,
}

/// Change the parent: content kept, or with -u only the link
///
/// To make an image that needs no parent, use convert.
#[derive(Debug, ClapArgs)]
pub(crate) struct RebaseArgs {
    #[command(flatten)]
    pub(crate) source: Changed,
    /// The new parent
    #[arg(short = 'b', long = "backing", value_name = "PARENT")]
    pub(crate) backing: OsString,
    /// Change only the link: for a parent that was moved, or whose identity changed although its
    /// content did not
    #[arg(short = 'u', long = "unsafe")]
    pub(crate) link_only: bool,
    /// Say what would be done and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Pieces worked on at once
    #[arg(short = 'm', long = "threads", value_name = "N")]
    pub(crate) threads: Option<usize>,
    pub(crate) image: PathBuf,
}

/// List files inside an image
#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// With kind, permissions, size and time
    #[arg(short = 'l', long)]
    pub(crate) long: bool,
    /// The whole tree
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Where: the partition's number or VG/LV; without it a file system on the whole disk
    #[arg(value_name = "IMAGE:PARTITION:/PATH")]
    pub(crate) location: OsString,
}

/// Write a file inside an image to standard output
#[derive(Debug, ClapArgs)]
pub(crate) struct CatArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Where: the partition's number or VG/LV; without it a file system on the whole disk
    #[arg(value_name = "IMAGE:PARTITION:/PATH")]
    pub(crate) location: OsString,
}

/// Write a file or a tree inside an image to the host
#[derive(Debug, ClapArgs)]
pub(crate) struct ExtractArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Replace existing files
    #[arg(long)]
    pub(crate) force: bool,
    /// Where: the partition's number or VG/LV; without it a file system on the whole disk
    #[arg(value_name = "IMAGE:PARTITION:/PATH")]
    pub(crate) location: OsString,
    /// The new file or folder, or a folder to put it in
    #[arg(value_name = "DEST")]
    pub(crate) target: PathBuf,
}

/// What machine lives on a disk: partitions, file systems, operating systems, identity
///
/// Nothing is changed, and no guest code runs. For several images, or a folder of them, it also
/// tells what they share and should not, such as the machine SID of cloned Windows machines.
#[derive(Debug, ClapArgs)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// The image of another disk of the one machine that is looked at; repeatable
    #[arg(long, value_name = "IMAGE")]
    pub(crate) with: Vec<PathBuf>,
    /// Images, disks, or folders whose images are all looked at
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
}

/// Finish a change of the guest's files that was cut off
///
/// Where several images were changed together, naming one of them is enough.
#[derive(Debug, ClapArgs)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    pub(crate) source: Changed,
    pub(crate) image: PathBuf,
}

fn format(text: &str) -> Result<Format, String> {
    vdisk::parse_format(text)
        .ok_or_else(|| "known formats: raw, vhd (vpc), vhdx (avhdx), vmdk".to_owned())
}

fn keep_network(text: &str) -> Result<KeepNetwork, String> {
    if text.is_empty() {
        return Ok(KeepNetwork::Only);
    }
    let address = text.parse().map_err(|_| "not an IPv4 address, such as 192.168.1.10")?;
    Ok(KeepNetwork::Of(address))
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    match text {
        "sha256" => Ok(Algorithm::Sha256),
        "tree" => Ok(Algorithm::Tree),
        _ => Err("known algorithms: sha256, tree".to_owned()),
    }
}

/// Remove from the guest what ties it to its old machine
#[derive(Debug, ClapArgs)]
pub(crate) struct StripArgs {
    #[command(flatten)]
    pub(crate) fixup: Fixup,
    /// Whether it becomes another machine: with `keep` only what new hardware asks for is done
    #[arg(long, value_name = "WHICH", default_value = "new")]
    pub(crate) identity: IdentityChoice,
    /// Leave out actions, by their id or the beginning of it (see --dry-run)
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) keep: Vec<String>,
    /// Its new name in the network
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    #[command(flatten)]
    pub(crate) old_place: OldPlace,
}

/// Make the guest start on another kind of machine
#[derive(Debug, ClapArgs)]
pub(crate) struct AdaptArgs {
    #[command(flatten)]
    pub(crate) fixup: Fixup,
    /// hyper-v-gen1, hyper-v-gen2, kvm, vmware, virtualbox or physical
    #[arg(long, value_name = "TARGET", value_parser = target, required_unless_present = "undo")]
    pub(crate) target: Option<Target>,
    #[command(flatten)]
    pub(crate) drivers: DriverArgs,
}

/// What a guest is given that it does not bring.
#[derive(Debug, ClapArgs)]
pub(crate) struct DriverArgs {
    /// A folder with unpacked drivers for a Windows that does not bring them; repeatable
    #[arg(long, value_name = "DIR")]
    pub(crate) drivers: Vec<PathBuf>,
    /// Where only a Linux guest's own programs can make its initramfs, run them: as root, in a sandbox
    /// (bwrap), on a copy in the folder for temporary files
    #[arg(long)]
    pub(crate) run_guest_tools: bool,
}

/// What a guest is to become on its way.
#[derive(Debug, ClapArgs)]
pub(crate) struct Passage {
    /// Whether it becomes another machine: `keep` for a move, `new` for a copy
    #[arg(long, value_name = "WHICH", default_value = "keep")]
    pub(crate) identity: IdentityChoice,
    /// Leave out actions, by their id or the beginning of it (see --dry-run)
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) keep: Vec<String>,
    #[command(flatten)]
    pub(crate) old_place: OldPlace,
    #[command(flatten)]
    pub(crate) drivers: DriverArgs,
    /// Show what would be done and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Forget a run that was cut off, rather than go on with it
    #[arg(long)]
    pub(crate) restart: bool,
    /// Flush, and note how far it is, each time so many bytes were written
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = whole_size)]
    pub(crate) checkpoint: u64,
}

/// What of a disk is not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeaveOut {
    /// Nothing: every byte is copied
    None,
    /// What no file has
    Free,
    /// That, and what the next start makes anew
    All,
}

/// The disks of a machine become images of a VM that starts
///
/// A SOURCE is a disk (by path, serial number or name in /dev/disk/by-id) or an image; it is only
/// read. A run that was cut off goes on where it was when it is run again. Sectors that cannot be
/// read are zeros in the image and listed in DEST.map; the exit code is 3 then.
#[derive(Debug, ClapArgs)]
pub(crate) struct P2vArgs {
    /// Show the disks of this machine
    #[arg(long)]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) source: Source,
    /// hyper-v-gen1, hyper-v-gen2, kvm, vmware, virtualbox or physical; without it the guest stays
    /// as it is
    #[arg(long, value_name = "TARGET", value_parser = target)]
    pub(crate) target: Option<Target>,
    #[command(flatten)]
    pub(crate) passage: Passage,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Copy a disk whose file systems are mounted: they are frozen until it is done, and the journals
    /// of ext3, ext4 and XFS are seen to in the image
    #[arg(long)]
    pub(crate) live: bool,
    /// What is left out: free is what the guest's file systems do not use; all also swap partitions
    /// and the content of Windows' page, swap and hibernation files
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true,
        default_missing_value = "free")]
    pub(crate) skip_free: Option<LeaveOut>,
    /// Most bytes to read a second
    #[arg(long, value_name = "SIZE", value_parser = whole_size)]
    pub(crate) rate_limit: Option<u64>,
    /// How often a bad sector is tried again
    #[arg(long, value_name = "N", default_value_t = vdisk_p2v::RETRIES)]
    pub(crate) retries: u32,
    /// The images' format; without it as the name ends, or as the target likes it
    #[arg(short = 'O', long = "output-format", value_name = "FMT", value_parser = format)]
    pub(crate) output_format: Option<Format>,
    /// An option of the output format; see convert -O FMT -o help
    #[arg(short = 'o', value_name = "KEY=VALUE,...")]
    pub(crate) options: Vec<String>,
    /// Replace an existing image
    #[arg(long)]
    pub(crate) force: bool,
    /// Pieces worked on at once
    #[arg(short = 'm', long = "threads", value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// The disks, and the image; of several disks the folder for the images, which are named after
    /// them
    #[arg(value_name = "SOURCE... DEST", required_unless_present = "list")]
    pub(crate) paths: Vec<OsString>,
}

/// An image becomes the disk of a machine that starts; all that is on the disk is lost
///
/// DEVICE is a whole disk that nothing uses, by path, serial number or name in /dev/disk/by-id. The
/// image is only read. A run that was cut off goes on where it was when it is run again.
#[derive(Debug, ClapArgs)]
pub(crate) struct V2pArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// The disk's serial number, or its path where it has none of its own: that it is the one you
    /// mean
    #[arg(long, value_name = "SERIAL")]
    pub(crate) confirm: Option<String>,
    #[command(flatten)]
    pub(crate) passage: Passage,
    /// Write the guest as it is, without what makes it start on other hardware
    #[arg(long)]
    pub(crate) as_is: bool,
    /// Let the last partition and its file system reach to the end of a larger disk
    #[arg(long)]
    pub(crate) grow: bool,
    /// Make the last partition and its file system smaller for a smaller disk
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Most bytes to write a second
    #[arg(long, value_name = "SIZE", value_parser = whole_size)]
    pub(crate) rate_limit: Option<u64>,
    /// Do not read back what was written
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Have this machine's UEFI start the disk, before all others: for a disk that stays here
    #[arg(long)]
    pub(crate) boot_entry: bool,
    /// Where the variables of the UEFI are
    #[arg(long, value_name = "DIR", hide = true, default_value = vdisk_v2p::VARIABLES)]
    pub(crate) efivars: PathBuf,
    /// The folder for what a run that is cut off leaves; beside the image without this
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    pub(crate) image: PathBuf,
    pub(crate) device: OsString,
}

fn whole_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("0 is too little".to_owned()),
        size => Ok(size),
    }
}

fn target(name: &str) -> Result<Target, String> {
    Target::parse(name).ok_or_else(|| {
        let names: Vec<&str> = Target::ALL.iter().map(|target| target.name()).collect();
        format!("the targets are {}", names.join(", "))
    })
}

/// Write the definition of a virtual machine for images that are ready
#[derive(Debug, ClapArgs)]
pub(crate) struct DefineArgs {
    #[command(flatten)]
    pub(crate) source: Source,
    /// hyper-v-gen1, hyper-v-gen2, kvm, vmware or virtualbox
    #[arg(long, value_name = "TARGET", value_parser = target)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Show what would be written and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write over definitions that are there
    #[arg(long)]
    pub(crate) force: bool,
    /// The disks of the machine; it starts from the first
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
}

/// How large the machine is to be.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct MachineArgs {
    /// Its name; that of the guest or of the first image without it
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Its memory, such as 4G; never below what the guest needs
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,
    /// Its processors
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// The address of a network adapter; repeatable, one adapter for each
    #[arg(long, value_name = "ADDRESS", value_parser = mac)]
    pub(crate) mac: Vec<Mac>,
    /// It is to start from the network, too
    #[arg(long)]
    pub(crate) pxe: bool,
}

fn mac(text: &str) -> Result<Mac, String> {
    Mac::parse(text).ok_or_else(|| "an address has six bytes, such as 52:54:00:12:34:56".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    vdisk::parse_size(text).map_err(|error| error.message().to_owned())
}
