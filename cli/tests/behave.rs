//! How the program behaves: exit codes, errors, pipes, terminals, signals, devices, memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    missing_docs
)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Place, Ran, assert_error, assert_keys};
use serde_json::Value;
use vdisk_testkit::tools::{must, sha256, skip};

const COMMANDS: [&str; 9] =
    ["info", "map", "create", "convert", "check", "compare", "checksum", "measure", "resize"];

#[test]
fn help_and_version() {
    let place = Place::new();
    let help = place.run("--help").ok().out;
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        let own = place.run(&format!("{command} --help")).ok().out;
        assert!(own.contains("Usage: vdisk"), "{own}");
        assert!(own.contains("--output <"), "{own}");
    }
    assert!(help.contains("Exit codes"), "{help}");
    assert!(place.run("--version").ok().out.starts_with("vdisk "));
    place.run("").code(64);
}

#[test]
fn wrong_use_is_64() {
    let place = Place::new();
    place.run("create a.vhd 1M").ok();
    for line in [
        "frobnicate",
        "info",
        "info a.vhd b.vhd",
        "info --bogus a.vhd",
        "info -f qcow2 a.vhd",
        "info --output yaml a.vhd",
        "map --progress loud a.vhd",
        "compare a.vhd",
        "checksum --algorithm md5 a.vhd",
        "resize a.vhd",
        "convert a.vhd",
        "measure -O nothing a.vhd",
    ] {
        let ran = place.run(line).code(64);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{ran:?}");
        let ran = place.run(&format!("{line} --output json")).code(64);
        // The one with two forms asked for has none that is right.
        if !line.contains("yaml") {
            assert_error(&ran.json(), "usage");
        }
    }
}

#[test]
fn every_kind_of_failure_has_its_code() {
    let place = Place::new();
    place.raw("a.img", 1 << 20, &[0..1 << 20]);
    place.run("convert -f raw a.img a.vhdx").ok();
    let mut bytes = place.read("a.vhdx");
    bytes.truncate(bytes.len() - (3 << 19));
    place.write("short.vhdx", &bytes);
    place.write("qcow.img", &[b"QFI\xfb".as_slice(), &[0; 4096]].concat());
    place.write("unknown.img", &[1; 4096]);
    place.write("empty.img", &[]);
    place.run("create p.vhd 1M").ok();
    place.run("create -b p.vhd c.vhd").ok();
    std::fs::remove_file(place.path("p.vhd")).unwrap();
    place.run("create q.vhd 1M").ok();
    place.run("create -b q.vhd d.vhd").ok();
    place.run("create --force q.vhd 1M").ok();
    std::fs::create_dir(place.path("folder")).unwrap();
    for (line, code, kind, word) in [
        ("map unknown.img", 1, "unknown-format", "-f raw"),
        ("map empty.img", 1, "unknown-format", "empty"),
        ("checksum short.vhdx", 4, "truncated", "short.vhdx"),
        ("map qcow.img", 5, "unsupported", "qcow2"),
        ("map c.vhd", 6, "parent-missing", "--parent FILE"),
        ("map d.vhd", 6, "parent-mismatch", "--parent FILE"),
        ("convert a.vhdx short.vhdx", 7, "refused", "--force"),
        ("map folder", 7, "refused", "folder"),
        ("map /dev/zero", 7, "refused", "character device"),
        ("map nowhere.vhd", 8, "not-found", "nowhere.vhd"),
        ("create nofolder/x.vhd 1M", 8, "not-found", "nofolder"),
        ("create x.vhd 1Q", 64, "usage", "1Q"),
    ] {
        let human = place.run(line).fails(code, &["vdisk: error: ", word]);
        assert!(human.out.is_empty(), "{human:?}");
        let ran = place.run(&format!("{line} --output json")).code(code);
        let error = assert_error(&ran.json(), kind);
        // The same facts in both forms.
        let message = error["message"].as_str().unwrap();
        assert!(human.err.contains(message), "{human:?} {error}");
        if let Some(hint) = error["hint"].as_str() {
            assert!(human.err.contains(&format!("vdisk: hint: {hint}")), "{human:?} {error}");
        }
        if kind != "usage" {
            let path = error["path"].as_str().unwrap();
            assert!(line.split(' ').any(|word| word.starts_with(path)), "{line}: {error}");
        }
    }
    let error = place.run("checksum short.vhdx --output json").json();
    assert!(error["error"]["offset"].is_u64(), "{error}");
    // -v tells the causes.
    let told = place.run("-v map nowhere.vhd").code(8);
    assert!(told.err.contains("because: "), "{told:?}");
    // What was refused or failed changed and left nothing.
    assert!(place.read("short.vhdx") == bytes);
    assert!(place.names().iter().all(|name| !name.starts_with('.')), "{:?}", place.names());
}

/// Damage that a map meets only after it has found much that is sound.
#[test]
fn json_is_one_document_even_where_a_map_breaks_off() {
    let place = Place::new();
    place.raw("a.img", 8 << 20, &[0..2 << 20]);
    place.run("convert -f raw -o block_size=1M a.img a.vhdx").ok();
    let mut bytes = place.read("a.vhdx");
    // The region table's entry of the block table: GUID, then the offset.
    let guid = [0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42];
    let entry = bytes[0x3_0000..].windows(8).position(|window| window == guid).unwrap() + 0x3_0000;
    let table = u64::from_le_bytes(bytes[entry + 16..entry + 24].try_into().unwrap()) as usize;
    let far: u64 = (0x5000 << 20) | 6;
    bytes[table + 40..table + 48].copy_from_slice(&far.to_le_bytes());
    place.write("b.vhdx", &bytes);
    let human = place.run("map b.vhdx").fails(4, &["b.vhdx", "VHDX BAT at byte"]);
    assert!(human.out.contains("b.vhdx@"), "what is sound is told: {human:?}");
    let ran = place.run("map --output json b.vhdx").code(4);
    let error = assert_error(&ran.json(), "truncated");
    assert_eq!(error["offset"], table + 40);
    let ran = place.run("convert --output json b.vhdx c.vmdk").code(4);
    assert_error(&ran.json(), "truncated");
    assert!(!place.path("c.vmdk").exists());
}

#[test]
fn raw_is_said_never_guessed() {
    let place = Place::new();
    // The guest of a raw disk wrote a descriptor into its first sector.
    let mut disk = b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
                     createType=\"monolithicFlat\"\nRW 1 FLAT \"/etc/passwd\" 0\n"
        .to_vec();
    disk.resize(1 << 20, 0);
    place.write("guest.img", &disk);
    for line in ["info", "map", "checksum", "measure", "convert -O raw"] {
        let out = if line.starts_with("convert") { "out.img" } else { "" };
        let ran = place.run(&format!("{line} guest.img {out}"));
        let ran = ran.fails(6, &["guest.img", "/etc/passwd", "--parent-dir /etc"]);
        assert!(ran.out.is_empty(), "{ran:?}");
    }
    assert!(!place.path("out.img").exists());
    let info = place.json("info -f raw guest.img");
    assert_eq!((&info["format"], &info["virtual-size"]), (&"raw".into(), &(1 << 20).into()));
    let sum = place.run("checksum -f raw guest.img").ok().out;
    assert!(sum.starts_with(&sha256(&disk)), "{sum}");
    place.run("convert -f raw guest.img out.vhdx --verify").ok();
    place.run("convert out.vhdx back.img").ok();
    assert!(place.read("back.img") == disk);
    // A raw name says nothing, and neither does another one.
    place.write("plain.vhd", &[7; 4096]);
    for line in ["info plain.vhd", "convert plain.vhd x.img", "compare plain.vhd plain.vhd"] {
        let ran = place.run(line);
        assert!(ran.code != 0 && ran.err.contains("-f raw"), "{ran:?}");
    }
    place.run("info -f raw plain.vhd").ok();
    // And a wrong word for the format is an error, not a fallback.
    place.run("info -f vhdx plain.vhd").fails(4, &["plain.vhd"]);
}

#[test]
fn parents_are_confined_to_the_folder() {
    let place = Place::new();
    std::fs::create_dir(place.path("home")).unwrap();
    std::fs::create_dir(place.path("store")).unwrap();
    place.run("create store/p.vhdx 1M").ok();
    place.run("create -b store/p.vhdx home/c.vhdx").ok();
    let store = place.path("store").canonicalize().unwrap();
    let flag = format!("--parent-dir {}", store.display());
    let ran = place.run("map home/c.vhdx").fails(6, &["home/c.vhdx", &flag]);
    // The hint is what one has to type.
    assert!(ran.err.contains("vdisk: hint: "));
    place.run(&format!("map {flag} home/c.vhdx")).ok();
    place.run("map --parent-dir home --parent-dir store home/c.vhdx").ok();
    place.run("map --parent store/p.vhdx home/c.vhdx").ok();
    place.run("map --parent nowhere.vhdx home/c.vhdx").fails(8, &["nowhere.vhdx"]);
    place.run("map --parent home/c.vhdx home/c.vhdx").fails(6, &["chain"]);
    let ran = place.run("map --output json home/c.vhdx").code(6);
    assert_error(&ran.json(), "confined");
    place.run("info home/c.vhdx").ok();
    place.run("create -b home/c.vhdx home/d.vhdx").fails(6, &[&flag]);
    place.run(&format!("create -b home/c.vhdx {flag} home/d.vhdx")).ok();
    place.run("compare home/d.vhdx store/p.vhdx").fails(2, &[&flag]);
    place.run(&format!("compare {flag} home/d.vhdx store/p.vhdx")).ok();
}

/// A raw file of so many extents that their list fills any pipe.
fn speckled(place: &Place) {
    let ranges: Vec<_> = (0..4000).map(|n| n * 16384..n * 16384 + 4096).collect();
    place.raw("speckled.img", 4000 * 16384, &ranges);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let place = Place::new();
    speckled(&place);
    for line in ["map -f raw speckled.img", "map -f raw speckled.img --output json"] {
        assert!(place.run(line).ok().out.len() > 1 << 17, "{line}: fits in the pipe");
        let script = "set -o pipefail; \"$0\" $1 | head -n 1";
        let program = env!("CARGO_BIN_EXE_vdisk");
        let mut bash = Command::new("bash");
        bash.args(["-c", script, program, line]).current_dir(place.folder());
        let ran = Ran::from(bash.output().unwrap()).ok();
        assert_eq!(ran.out.lines().count(), 1);
    }
    // Nor where nobody reads at all.
    let mut command = place.command();
    command.args(["info", "-f", "raw", "speckled.img"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_full_standard_output_is_an_error() {
    let place = Place::new();
    speckled(&place);
    for line in ["map -f raw speckled.img", "info -f raw speckled.img"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = place.command();
        command.args(line.split(' ')).stdout(full);
        let ran = Ran::from(command.output().unwrap());
        ran.fails(8, &["standard output"]);
    }
}

#[test]
fn progress_in_json_is_lines_that_parse() {
    let place = Place::new();
    place.raw("a.img", 8 << 20, &[0..8 << 20]);
    for (line, phases) in [
        ("convert -f raw --verify a.img a.vmdk", &["convert", "compare"][..]),
        ("convert -f raw a.img a.vhdx", &["convert"]),
        ("compare -F raw a.vmdk a.img", &["compare"]),
        ("checksum a.vmdk", &["checksum"]),
    ] {
        let ran = place.run(&format!("{line} --progress json")).code(0);
        let mut seen: Vec<String> = Vec::new();
        for text in ran.err.lines() {
            let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            let keys = ["phase", "done", "total", "bytes_per_second", "eta_seconds"];
            assert_keys(&value, &keys, &[]);
            let (done, total) = (value["done"].as_u64().unwrap(), value["total"].as_u64().unwrap());
            assert!(done <= total && total == 8 << 20, "{value}");
            assert!(value["bytes_per_second"].is_u64(), "{value}");
            assert!(value["eta_seconds"].is_u64() || value["eta_seconds"].is_null(), "{value}");
            let phase = value["phase"].as_str().unwrap().to_owned();
            if seen.last() != Some(&phase) {
                seen.push(phase);
            }
        }
        assert_eq!(seen, phases, "{ran:?}");
        let last: Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
        assert_eq!(last["done"], last["total"]);
        place
            .run(
                &format!("{line} --progress none --force")
                    .replace(if line.starts_with("convert") { "nothing" } else { " --force" }, ""),
            )
            .ok();
    }
}

/// Runs the program on a terminal; all that it shows there.
fn on_terminal(place: &Place, line: &str, env: &[(&str, &str)]) -> Option<String> {
    let mut script = Command::new("script");
    let command = format!("{} {line}", env!("CARGO_BIN_EXE_vdisk"));
    script.args(["-qec", &command, "/dev/null"]).current_dir(place.folder());
    script.env_remove("NO_COLOR").env("TERM", "xterm").envs(env.iter().copied());
    match script.stdin(Stdio::null()).output() {
        Ok(done) => Some(String::from_utf8_lossy(&done.stdout).into_owned()),
        Err(error) => {
            skip("script", &error.to_string());
            None
        }
    }
}

#[test]
fn colour_and_bars_only_on_a_terminal() {
    let place = Place::new();
    let plain = place.run("info nowhere.vhd").code(8);
    assert!(!plain.err.contains('\x1b'), "{plain:?}");
    let Some(shown) = on_terminal(&place, "info nowhere.vhd", &[]) else { return };
    assert!(shown.contains("\x1b[31merror\x1b[0m"), "{shown:?}");
    let shown = on_terminal(&place, "info nowhere.vhd", &[("NO_COLOR", "1")]).unwrap();
    assert!(shown.contains("error: nowhere.vhd") && !shown.contains('\x1b'), "{shown:?}");

    place.raw("a.img", 64 << 20, &[0..64 << 20]);
    let bar = "convert -f raw -o subformat=streamOptimized --force a.img a.vmdk";
    let shown = on_terminal(&place, bar, &[]).unwrap();
    assert!(shown.contains("convert [") && shown.contains("64.00 MiB"), "{shown:?}");
    for quiet in ["-q", "--progress none"] {
        let shown = on_terminal(&place, &format!("{quiet} {bar}"), &[]).unwrap();
        assert_eq!(shown, "", "{quiet}");
    }
    assert_eq!(place.run(bar).ok().err, "", "no bar where nobody looks");
}

fn interrupt(id: u32, signal: &str) {
    must("kill", &[signal, &id.to_string()]);
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let place = Place::new();
    // Deflating this takes seconds, however fast the machine.
    place.raw("a.img", 160 << 20, &[0..160 << 20]);
    for (signal, existing) in [("-INT", false), ("-TERM", true)] {
        if existing {
            place.write("a.vmdk", b"what was there before");
        }
        let before = place.names();
        let mut command = place.command();
        let list = "subformat=streamOptimized,compression_level=12";
        command.args(["convert", "-f", "raw", "--force", "--progress", "json", "-o", list]);
        command.args(["a.img", "a.vmdk", "--output", "json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // It has begun.
        assert!(lines.next().unwrap().unwrap().contains("\"phase\":\"convert\""));
        interrupt(child.id(), signal);
        let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{out} {rest:?}");
        assert_error(&serde_json::from_str(&out).unwrap(), "cancelled");
        assert!(rest.iter().any(|line| line.contains("stopped")), "{rest:?}");
        assert_eq!(place.names(), before);
        assert!(!existing || place.read("a.vmdk") == b"what was there before");
    }
}

#[test]
fn looking_is_interrupted_too() {
    let place = Place::new();
    place.run("create a.vhdx 1T").ok();
    for line in ["checksum a.vhdx", "check a.vhdx"] {
        // Hashing a TiB of zeros takes minutes; a check is over before the signal comes.
        let mut command = place.command();
        command.args(line.split(' ')).args(["--progress", "json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if line.starts_with("checksum") {
            let mut err = BufReader::new(child.stderr.take().unwrap());
            err.read_line(&mut String::new()).unwrap();
            interrupt(child.id(), "-INT");
            assert_eq!(child.wait().unwrap().code(), Some(130), "{line}");
        } else {
            assert_eq!(child.wait().unwrap().code(), Some(0), "{line}");
        }
    }
}

/// A loop device over a file, given back at the end.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        let done = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        match done {
            Ok(done) if done.status.success() => {
                Some(Self(String::from_utf8(done.stdout).unwrap().trim().to_owned()))
            }
            other => {
                skip("loop", &format!("losetup: {other:?}"));
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["--detach", &self.0]).status());
    }
}

#[test]
fn devices_are_read_freely_and_written_when_allowed() {
    let place = Place::new();
    let bytes = place.raw("a.img", 4 << 20, &[0..100_000, 3 << 20..4 << 20]);
    place.run("convert -f raw a.img a.vhdx").ok();
    place.raw("backing", 6 << 20, &[0..6 << 20]);
    let Some(device) = Loop::new(&place.path("backing")) else { return };
    let name = &device.0;
    let before = sha256(&place.read("backing"));

    // A device is raw, whatever its guest wrote on it, and needs no word for that.
    let info = place.json(&format!("info {name}"));
    assert_eq!((&info["format"], &info["subformat"]), (&"raw".into(), &"device".into()));
    assert_eq!(info["virtual-size"], 6 << 20);
    let sum = place.run(&format!("checksum {name}")).ok().out;
    assert!(sum.starts_with(&before), "{sum}");
    place.run(&format!("convert {name} copy.vmdk --verify")).ok();

    // Writing takes two words.
    place.run(&format!("convert a.vhdx {name}")).fails(7, &[name, "-n", "--allow-device"]);
    place.run(&format!("convert --force a.vhdx {name}")).fails(7, &["--allow-device"]);
    place.run(&format!("convert -n a.vhdx {name}")).fails(7, &[name, "--allow-device"]);
    place.run(&format!("convert -O raw --allow-device a.vhdx {name}")).code(7);
    place.run(&format!("compact --dry-run {name}")).ok();
    for line in [format!("compact {name}"), format!("compact -f raw --skip-free {name}")] {
        place.run(&line).fails(7, &[name, "block device"]);
    }
    must("sync", &[]);
    assert_eq!(sha256(&place.read("backing")), before, "a refusal wrote");

    // Nor onto what somebody uses.
    {
        use std::os::unix::fs::OpenOptionsExt;
        const O_EXCL: i32 = 0o200;
        let mut holder = std::fs::OpenOptions::new();
        let held = holder.read(true).write(true).custom_flags(O_EXCL).open(name).unwrap();
        let ran = place.run(&format!("convert -n --allow-device a.vhdx {name} --output json"));
        assert_error(&ran.code(7).json(), "in-use");
        drop(held);
    }
    let report = place.json(&format!("convert -n --allow-device --verify a.vhdx {name}"));
    assert_eq!(report["verified"], true);
    let now = place.run(&format!("compare -f raw a.img {name}"));
    assert_eq!((now.code, now.out.as_str()), (0, "identical\n"));
    drop(device);
    let found = place.read("backing");
    assert!(found[..4 << 20] == bytes && found[4 << 20..].iter().all(|byte| *byte == 0));

    // What does not fit is refused before the first byte.
    place.raw("tiny", 1 << 20, &[0..1 << 20]);
    let before = place.read("tiny");
    let device = Loop::new(&place.path("tiny")).unwrap();
    let ran = place.run(&format!("convert -n --allow-device a.vhdx {}", device.0));
    assert!(ran.code != 0 && ran.err.contains("1048576"), "{ran:?}");
    place.run(&format!("resize {} +1M", device.0)).fails(7, &["--allow-device"]);
    place.run(&format!("resize {} +1M --allow-device", device.0)).code(5);
    drop(device);
    assert!(place.read("tiny") == before);
}

/// Runs the program with at most so much address space, threads' stacks and all.
fn within(place: &Place, mebibytes: u64, line: &str) -> Ran {
    let script = format!("ulimit -v {}; exec \"$0\" $1", mebibytes << 10);
    let mut shell = Command::new("bash");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_vdisk"), line]).current_dir(place.folder());
    shell.output().unwrap().into()
}

#[test]
fn the_largest_images_in_little_memory() {
    let place = Place::new();
    place.run("create a.vhdx 64T -o block_size=1M").ok();
    place.run("create a.vhd 2040G").ok();
    place.run("create a.vmdk 2000G").ok();
    for name in ["a.vhdx", "a.vhd", "a.vmdk"] {
        for line in [format!("info {name}"), format!("map {name}"), format!("check {name}")] {
            within(&place, 256, &line).ok();
        }
        for line in [
            format!("compare {name} {name}"),
            format!("measure -O vhdx {name}"),
            format!("convert {name} copy-{name} --verify"),
        ] {
            within(&place, 1024, &line).ok();
        }
    }
}

#[test]
fn data_of_any_length_in_bounded_memory() {
    let place = Place::new();
    place.raw("a.img", 512 << 20, &[0..512 << 20]);
    for line in [
        "checksum -f raw a.img",
        "checksum -f raw --algorithm tree a.img",
        "convert -f raw a.img a.vhd",
        "convert -f raw -S 512 a.img a.vhdx",
        "convert -f raw -o subformat=streamOptimized,compression_level=1 a.img a.vmdk",
        "convert a.vmdk b.img",
        "compare -F raw a.vmdk a.img",
    ] {
        within(&place, 500, line).ok();
        // Half a gigabyte each: no more of them at a time than needed.
        for done in ["a.vhd", "a.vhdx", "b.img"] {
            let _ = std::fs::remove_file(place.path(done));
        }
    }
}
