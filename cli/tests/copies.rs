//! A copy of a Windows becomes another machine and starts on another: in every format, alone and at
//! the top of a chain, by the program as it is run, and back again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;
#[path = "../../fixup/tests/common/mod.rs"]
mod guests;

use std::time::SystemTime;

use common::{Place, linux};
use guests::exactly::Change;
use guests::original::{GUID, OLD, original};
use guests::{Registry, Spec, X64, machine, write_out};
use serde_json::{Value, json};
use vdisk_fixup::Plan;
use vdisk_guest::fs::Edit;
use vdisk_testkit::tools::sha256_file;

/// Windows 8.1 on a GPT disk, whose drivers for Hyper-V wait.
const EIGHT_ONE: Spec<'_> =
    Spec { system: None, version: "6.3.9600", machine: X64, gpt: true, ..Spec::TEN };

fn drivers(system: &mut Registry) {
    for name in ["atapi", "intelide", "lsi_sas", "vmbus", "storvsc"] {
        system.driver(name, 3);
    }
    // It comes from VMware.
    system.driver("vmci", 0);
    system.number("ControlSet001\\Services\\storvsc\\StartOverride", "0", 3);
}

/// An image to be worked on.
struct Work<'a> {
    place: &'a Place,
    spec: Spec<'a>,
    /// As commands are given it, with `-f raw` before it where it is raw.
    image: &'a str,
    /// As it was first.
    digest: Value,
}

impl Work<'_> {
    fn digest(&self) -> Value {
        self.place.json(&format!("checksum {}", self.image))["digest"].clone()
    }

    /// Runs one of the two, has the outcome judged; the name of the report.
    fn change(&self, line: &str, before: &str, after: &str) -> String {
        let since = SystemTime::now();
        let line = format!("{line} --output json");
        let shown = self.place.run(&format!("{line} --dry-run")).code(0).json();
        let done = self.place.run(&line).code(0).json();
        let ids = |document: &Value| -> Vec<Value> {
            let actions = document["actions"].as_array().unwrap().iter();
            actions.map(|one| json!([one["id"], one["what"], one["where"]])).collect()
        };
        assert_eq!(ids(&done), ids(&shown), "{line}: as the dry run said");
        assert_eq!(done["verified"], true);
        self.check();
        self.place.run(&format!("convert {} {after} --force", self.image)).ok();
        let plan: Plan = serde_json::from_value(done.clone()).unwrap();
        let [old, new] = [before, after].map(|name| self.place.path(name));
        let change = Change {
            before: &old,
            after: &new,
            root: self.spec.root(),
            gpt: self.spec.gpt,
            plan: &plan,
            since,
        };
        change.assert_exact(&self.place.path(""));
        done["report-file"].as_str().unwrap().to_owned()
    }

    /// Another machine, for another hypervisor, and all the way back.
    fn there_and_back(&self, target: &str) {
        let image = self.image;
        let stripped =
            self.change(&format!("strip {image} --hostname next-1"), "disk.raw", "stripped.raw");
        let adapt = format!("adapt {image} --target {target}");
        let adapted = self.change(&adapt, "stripped.raw", "adapted.raw");
        let after = self.digest();
        let second = self.place.run(&format!("{adapt} --output json")).code(0).json();
        assert_eq!(second["actions"], json!([]), "a second run plans nothing");
        assert_eq!(self.digest(), after, "{image}");
        self.place
            .run(&format!("strip {image} --undo {stripped}"))
            .fails(7, &["take later edits back first"]);
        self.place.run(&format!("adapt {image} --undo {adapted}")).code(0);
        self.place.run(&format!("strip {image} --undo {stripped}")).code(0);
        assert_eq!(self.digest(), self.digest, "{image} is as it was");
        self.check();
    }

    fn check(&self) {
        if !self.image.starts_with("-f raw") {
            self.place.run(&format!("check {}", self.image)).code(0);
        }
    }
}

/// Works on images made of the raw disk, alone and on a base that must stay as it is.
fn everywhere(spec: Spec<'_>, target: &str, images: &[&str]) {
    let place = Place::new();
    let Some(raw) = original(&place.path(""), &spec, drivers) else { return };
    let digest = place.json("checksum -f raw disk.raw")["digest"].clone();
    let at_first = sha256_file(&raw);
    for image in images {
        let work = || {
            Work { place: &place, spec, image, digest: digest.clone() }.there_and_back(target);
        };
        let name = image.rsplit(' ').next().unwrap();
        let Some(("top", format)) = name.split_once('.') else {
            place.run(&format!("convert -f raw disk.raw {name}")).ok();
            work();
            continue;
        };
        let base = format!("base.{format}");
        place.run(&format!("convert -f raw disk.raw {base}")).ok();
        place.run(&format!("create -f {format} -b {base} {name}")).code(0);
        let before = sha256_file(&place.path(&base));
        work();
        assert_eq!(sha256_file(&place.path(&base)), before, "{base} was written to");
    }
    assert_eq!(sha256_file(&raw), at_first);
}

#[test]
fn mbr_disks() {
    everywhere(Spec::SMALL, "vmware", &["-f raw disk.img", "disk.vhd", "top.vhd", "top.vmdk"]);
}

#[test]
fn gpt_disks() {
    everywhere(EIGHT_ONE, "hyper-v-gen2", &["disk.vhdx", "top.vhdx", "disk.vmdk"]);
}

/// A disk is captured as another machine: what is exact of an image is so of a capture.
#[test]
fn captured_as_another_machine() {
    let place = Place::new();
    let spec = Spec::SMALL;
    let Some(disk) = original(&place.path(""), &spec, drivers) else { return };
    let since = SystemTime::now();
    let line = "p2v -f raw disk.raw vm.vhdx --target vmware --identity new --output json";
    let done = place.run(line).code(0).json();
    place.run("convert vm.vhdx captured.raw").ok();
    let plan: Plan = serde_json::from_value(done["disks"][0]["plan"].clone()).unwrap();
    assert!(plan.actions.iter().any(|action| action.id == "windows.driver.start"));
    let (after, root, gpt) = (place.path("captured.raw"), spec.root(), spec.gpt);
    Change { before: &disk, after: &after, root, gpt, plan: &plan, since }
        .assert_exact(&place.path(""));
}

/// What is damaged inside a guest is refused with a code that says so, and nothing is written.
#[test]
fn a_damaged_guest_is_left_as_it_is() {
    let place = Place::new();
    let Some(raw) = original(&place.path(""), &Spec::SMALL, |_| {}) else { return };
    for (path, words) in [
        ("/Windows/System32/config/SYSTEM", "SYSTEM"),
        ("/Windows/System32/config/SAM", "SAM"),
        ("/Users/bob/NTUSER.DAT", "NTUSER.DAT"),
    ] {
        let mut machine = machine(&raw);
        let volume = machine.volume(&vdisk_guest::Place::Partition(1)).unwrap().fs();
        // The first cell of the first bin ends beyond it.
        let edit = Edit::Write { path: path.as_bytes(), offset: 4096 + 32, data: &[0, 0, 0, 0xff] };
        volume.apply(&edit).unwrap();
        write_out(&machine, &raw, &place.path("damaged.raw"));
        place.run("convert --force -f raw damaged.raw damaged.vhdx").ok();
        let before = sha256_file(&place.path("damaged.vhdx"));
        place.run("strip damaged.vhdx").fails(7, &[words]);
        let shown = place.run("strip damaged.vhdx --dry-run --output json").code(7).json();
        assert!(!shown["refusals"].as_array().unwrap().is_empty(), "{path}");
        assert_eq!(sha256_file(&place.path("damaged.vhdx")), before, "{path}");
    }
    let left = place.names();
    assert!(left.iter().all(|name| !name.contains("strip-")), "{left:?}");
}

/// A folder of copies of a Windows and a Linux, in many formats: what they share is told. Parents
/// in it and files that belong to other images are no machines of their own.
#[test]
fn a_folder_of_copies_tells_what_they_share() {
    let place = Place::new();
    if original(&place.path(""), &Spec::SMALL, |_| {}).is_none() {
        return;
    }
    let Some(penguin) = linux("linux.img") else { return };
    std::fs::copy(penguin.path("linux.img"), place.path("linux.img")).unwrap();
    std::fs::create_dir(place.path("all")).unwrap();
    for (from, to) in [
        ("disk.raw", "all/a.vhdx"),
        ("disk.raw", "-o subformat=twoGbMaxExtentSparse all/b.vmdk"),
        ("disk.raw", "all/c.vhd"),
        ("linux.img", "all/f.vhd"),
        ("linux.img", "-o subformat=monolithicFlat all/g.vmdk"),
        ("linux.img", "-o subformat=fixed all/h.vhdx"),
    ] {
        place.run(&format!("convert -f raw {from} {to}")).ok();
    }
    // Two machines on one base, and one of them on a snapshot; that one becomes a machine of its own.
    for (child, parent) in [("snapshot", "c"), ("d", "snapshot"), ("e", "c")] {
        place.run(&format!("create -f vhd -b all/{parent}.vhd all/{child}.vhd")).code(0);
    }
    place.run("strip all/d.vhd").code(0);
    place.write("all/notes.txt", b"no image");

    let found = place.run("inspect all --output json").code(0).json();
    assert_eq!(found["failures"], json!([]));
    let names: Vec<&str> = found["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["filename"].as_str().unwrap())
        .collect();
    let expected = ["a.vhdx", "b.vmdk", "c.vhd", "d.vhd", "e.vhd", "f.vhd", "g.vmdk", "h.vhdx"];
    let expected: Vec<String> =
        expected.iter().chain(&["snapshot.vhd"]).map(|name| format!("all/{name}")).collect();
    assert_eq!(names, expected);
    let shared = |what: &str| -> Vec<(&str, &Value)> {
        let all = found["shared"].as_array().unwrap().iter();
        let these = all.filter(|one| one["what"] == what);
        these.map(|one| (one["value"].as_str().unwrap(), &one["images"])).collect()
    };
    let windows = json!(["all/a.vhdx", "all/b.vmdk", "all/e.vhd"]);
    let linuxes = json!(["all/f.vhd", "all/g.vmdk", "all/h.vhdx"]);
    assert_eq!(shared("machine-sid"), [(&OLD.to_string()[..], &windows)]);
    assert_eq!(shared("machine-guid"), [(GUID, &windows)]);
    assert_eq!(shared("machine-id"), [("0123456789abcdef0123456789abcdef", &linuxes)]);
    let disks = [("0x5cbea03e", &windows), ("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", &linuxes)];
    assert_eq!(shared("disk-id"), disks);
    let partitions = shared("partition-uuid");
    assert!(partitions.len() == 2 && partitions.iter().all(|(_, images)| *images == &linuxes));
    assert_eq!(shared("filesystem-uuid").len(), 3, "{:?}", shared("filesystem-uuid"));

    // The snapshots' parents alone are one machine with the others, and are told so.
    let found = place.json("inspect all/c.vhd all/a.vhdx");
    assert_eq!(found["shared"][0]["images"], json!(["all/c.vhd", "all/a.vhdx"]));
    let told = place.run("inspect all").fails(0, &["warning"]);
    assert!(told.out.contains(&format!("machine-sid: {OLD}")), "{}", told.out);
}
