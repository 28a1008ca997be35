//! What registry hives of real machines tell, against what hivex reads in them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::path::Path;

use serde_json::{Value, json};
use vdisk_guest::windows::Description;
use vdisk_hive::Hive;
use vdisk_testkit::corpus;
use vdisk_testkit::machines::hive_to;
use vdisk_testkit::tools::{Tool, arg, must};

/// Reads the same facts by hivex, which knows nothing of ours.
const JUDGE: &str = include_str!("judge.py");

fn judge(kind: &str, hive: &Path) -> Value {
    let text = must(Tool::Hivex.python(), &["-c", JUDGE, kind, arg(hive)]);
    serde_json::from_str(&text).unwrap()
}

/// A hive of the corpus, recovered with its logs; what comes out is left at the path given.
fn recovered(corpus: &Path, name: &str, logs: &[&str], at: &Path) -> Hive {
    hive_to(corpus, name, at);
    let log = at.with_extension("log");
    let logs: Vec<Vec<u8>> = logs
        .iter()
        .map(|name| {
            hive_to(corpus, name, &log);
            std::fs::read(&log).unwrap()
        })
        .collect();
    let logs: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
    let (hive, _) = Hive::recover(std::fs::read(at).unwrap(), &logs).unwrap();
    std::fs::write(at, hive.bytes()).unwrap();
    hive
}

#[test]
fn system_hives_tell_what_hivex_reads_there() {
    let Some(corpus) = corpus::folder().filter(|_| Tool::Hivex.there()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("SYSTEM");
    let dirty = "hive_SYSTEM-dirty-win10_regipy/SYSTEM";
    let logs = [format!("{dirty}.LOG1"), format!("{dirty}.LOG2")];
    let logs: Vec<&str> = logs.iter().map(String::as_str).collect();
    for (name, logs, arch, hardware) in [
        ("hive_SYSTEM_win7sp1_plaso.hive", &[][..], "x86", false),
        ("hive_SYSTEM_win10_dissect-regf.hive", &[], "x86_64", true),
        (dirty, &logs, "x86_64", true),
    ] {
        let hive = recovered(&corpus, name, logs, &path);
        let mut description = Description::default();
        description.add_system(&hive);
        let (system, problems) = description.finish();
        assert_eq!(problems, [""; 0], "{name}");
        let windows = system.windows.as_ref().unwrap();
        assert_eq!(windows.hardware.is_some(), hardware, "{name}");
        let ours = json!({
            "hostname": system.hostname,
            "time-zone": system.time_zone,
            "role": windows.role,
            "fast-startup": windows.fast_startup,
            "hardware": windows.hardware,
            "boot": system.drivers.boot,
            "interfaces": windows.interfaces,
            "disk-filters": system.drivers.filters.iter().find(|one| one.class == "disk"),
        });
        assert_eq!(ours, judge("system", &path), "{name}");
        assert_eq!(system.arch, Some(arch), "{name}");
        assert!(system.drivers.boot.len() > 20, "{name}: {:?}", system.drivers.boot);
    }
}

#[test]
fn software_tells_product_and_version() {
    let Some(corpus) = corpus::folder().filter(|_| Tool::Hivex.there()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("SOFTWARE");
    let hive = recovered(&corpus, "hive_SOFTWARE_win7sp1_plaso.hive", &[], &path);
    let mut description = Description::default();
    description.add_software(&hive);
    let (system, problems) = description.finish();
    assert_eq!(problems, [""; 0]);
    let windows = system.windows.unwrap();
    let ours = json!({
        "product": system.product,
        "version": system.version,
        "machine-guid": system.identity.machine_guid,
        "edition": windows.edition,
        "build": windows.build,
        "service-pack": windows.service_pack,
        "installation-type": windows.installation_type,
    });
    assert_eq!(ours, judge("software", &path));
    assert_eq!(ours["version"], "6.1.7601");
}

#[test]
fn accounts_tell_the_machine_and_its_domain() {
    let Some(corpus) = corpus::folder().filter(|_| Tool::Hivex.there()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hive");
    let sam = "hive_Win10_RathbunVM_SAM_dfirmuseum/SAM";
    for name in ["hive_SAM_win7_plaso.hive", sam] {
        let hive = recovered(&corpus, name, &[], &path);
        let mut description = Description::default();
        description.add_sam(&hive);
        let sid = description.finish().0.identity.machine_sid;
        assert_eq!(json!(sid), judge("sam", &path), "{name}");
        assert!(sid.unwrap().starts_with("S-1-5-21-"));
    }
    let rathbun = "hive_Win10_RathbunVM_SECURITY_dfirmuseum/SECURITY";
    hive_to(&corpus, rathbun, &path);
    let old_state = Hive::parse(std::fs::read(&path).unwrap()).unwrap();
    for (name, joined) in [(rathbun, false), ("hive_SECURITY_dfwinreg.hive", true)] {
        let hive = if joined { recovered(&corpus, name, &[], &path) } else { old_state.clone() };
        let mut description = Description::default();
        description.add_security(&hive);
        let (system, problems) = description.finish();
        assert_eq!(problems, [""; 0], "{name}");
        let domain = system.windows.unwrap().domain.unwrap();
        assert_eq!(domain.joined, joined);
        let ours = json!({ "sid": system.identity.machine_sid, "domain": domain });
        assert_eq!(ours, judge("security", &path), "{name}");
    }
}

#[test]
fn hives_of_two_machines_are_noticed() {
    let Some(corpus) = corpus::folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hive");
    let mut description = Description::default();
    description.add_sam(&recovered(&corpus, "hive_SAM_win7_plaso.hive", &[], &path));
    description.add_security(&recovered(&corpus, "hive_SECURITY_dfwinreg.hive", &[], &path));
    let (_, problems) = description.finish();
    assert!(problems.iter().any(|one| one.contains("not of one machine")), "{problems:?}");
}
