//! Real hives: the tree equals what hivex and regipy read, recovery equals what others recover.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::dump::dump;
use common::{Sample, assert_agrees, corpus};
use vdisk_core::{ErrorKind, Severity};
use vdisk_hive::{Editor, FileTime, Generation, Hive, ValueKind};
use vdisk_testkit::tools::{Tool, sha256};

/// What must fail, with the kind and a part of the message.
const BROKEN: [(&str, ErrorKind, &str); 4] = [
    ("BadListHive", ErrorKind::Corrupt, "as its parent"),
    ("SAMBadHBinHeader", ErrorKind::Corrupt, "\"hbin\""),
    ("TruncatedHive", ErrorKind::Truncated, "needs 491520 bytes"),
    ("BadBaseBlockHive", ErrorKind::Corrupt, "checksum"),
];

fn one(name: &str) -> Option<Sample> {
    let mut found = corpus(name)?;
    assert_eq!(found.len(), 1, "{name}");
    found.pop()
}

#[test]
fn every_tree_is_what_the_judges_read() {
    let Some(samples) = corpus("hive_") else { return };
    let (hivex, regipy) = (Tool::Hivex.there(), Tool::Regipy.there());
    assert!(samples.len() > 25);
    for sample in samples {
        let name = &sample.name;
        let ours = Hive::parse(sample.bytes.clone()).and_then(|hive| dump(&hive));
        if let Some((_, kind, message)) = BROKEN.iter().find(|(part, ..)| name.contains(part)) {
            let error = ours.expect_err(name);
            assert_eq!(error.kind(), *kind, "{name}: {error}");
            assert!(error.to_string().contains(message), "{name}: {error}");
            continue;
        }
        let ours = ours.unwrap_or_else(|error| panic!("{name}: {error}"));
        if hivex {
            assert_agrees(Tool::Hivex, &ours, &sample.bytes, name);
        }
        // Python alone takes half a minute for a hive of 12 MB.
        if regipy && sample.bytes.len() < 1 << 20 {
            assert_agrees(Tool::Regipy, &ours, &sample.bytes, name);
        }
    }
}

#[test]
fn recovery_is_what_others_recover() {
    let Some(samples) = corpus("hive_") else { return };
    let dirty: Vec<_> = samples.into_iter().filter(|sample| !sample.logs.is_empty()).collect();
    assert_eq!(dirty.len(), 10);
    for sample in dirty {
        let name = &sample.name;
        let (recovered, logs) = (&sample.recovered, sample.logs());
        let result = Hive::recover(sample.bytes.clone(), &logs);
        if name.contains("BadLogHive") {
            let error = result.expect_err(name);
            assert_eq!((error.kind(), recovered.as_str()), (ErrorKind::Corrupt, "error"));
            assert!(error.to_string().contains("log 1: registry log header"), "{error}");
            continue;
        }
        let (hive, recovery) = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!hive.base().is_dirty());
        // Its LOG2 was never published: what there is is replayed, and the report says so.
        assert_eq!(recovery.single_log, name.contains("SECURITY"), "{name}");
        assert_eq!(recovery.was_clean, name.contains("RathbunVM_SAM"), "{name}");
        assert_eq!(recovery.header_from_log, name.contains("BadBaseBlock"), "{name}");
        let bins = &hive.bytes()[4096..];
        match recovered.strip_prefix("recovered-bins:") {
            Some(digest) => assert_eq!(sha256(bins), digest, "{name}"),
            None => assert_eq!((name.contains("SECURITY"), recovered.as_str()), (true, "error")),
        }
        // Logs in any order, and again, change nothing.
        let reversed: Vec<&[u8]> = logs.into_iter().rev().collect();
        let (again, _) = Hive::recover(sample.bytes.clone(), &reversed).unwrap();
        assert_eq!(again.bytes(), hive.bytes());
        let (twice, recovery) = Hive::recover(again.bytes().to_vec(), &reversed).unwrap();
        assert!(recovery.was_clean && twice.bytes() == hive.bytes());
    }
}

#[test]
fn recovery_is_what_windows_recovered() {
    let Some(windows) = one("RecoveredHive_Windows7") else { return };
    let windows = dump(&Hive::parse(windows.bytes).unwrap()).unwrap();
    for name in ["OldDirtyHive_yarp/OldDirtyHive", "BadBaseBlockHive"] {
        let sample = one(name).unwrap();
        let (hive, recovery) = Hive::recover(sample.bytes.clone(), &sample.logs()).unwrap();
        assert_eq!(recovery.replayed[0].generation, Generation::Old);
        assert_eq!(dump(&hive).unwrap(), windows);
    }
}

#[test]
fn a_dirty_system_gains_its_keys() {
    let Some(sample) = one("SYSTEM-dirty-win10") else { return };
    let stale = Hive::parse(sample.bytes.clone()).unwrap();
    assert!(stale.base().is_dirty());
    let (hive, recovery) = Hive::recover(sample.bytes.clone(), &sample.logs()).unwrap();
    let steps: Vec<_> = recovery.replayed.iter().map(|step| step.sequences.clone()).collect();
    assert_eq!(steps, [2107..2111, 2111..2131]);
    let count = |hive: &Hive| {
        let mut keys = 0;
        hive.walk(|_| {
            keys += 1;
            Ok(())
        })
        .unwrap();
        keys
    };
    assert_eq!((count(&stale), count(&hive)), (33_123, 35_595));
    assert_eq!(hive.base().primary_sequence, 2131);
    if Tool::Hivex.there() {
        assert_agrees(Tool::Hivex, &dump(&hive).unwrap(), hive.bytes(), "recovered SYSTEM");
    }
}

#[test]
fn logs_that_leave_a_gap_are_refused() {
    let Some(sample) = one("DEFAULT_dfirmuseum/DEFAULT") else { return };
    let mut logs = sample.logs.clone();
    // The second entry of the first log (107) does not hold any more, so 106 and 108 remain.
    logs[0][0x1b000 + 100] ^= 1;
    let logs: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
    let error = Hive::recover(sample.bytes.clone(), &logs).unwrap_err();
    assert!(error.to_string().contains("ends with entry 106, the next begins with 108"), "{error}");
    // No log, no recovery; the caller is told what to give.
    let error = Hive::recover(sample.bytes, &[]).unwrap_err();
    assert!(error.to_string().contains("none was given"), "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains(".LOG1")));
}

#[test]
fn values_have_types() {
    let Some(sample) = one("SYSTEM_win7sp1") else { return };
    let hive = Hive::parse(sample.bytes).unwrap();
    let select = hive.open("select").unwrap().unwrap();
    let current = select.value("CURRENT").unwrap().unwrap();
    assert_eq!((current.kind(), current.as_u32().unwrap()), (ValueKind::DWORD, Some(1)));
    assert_eq!(current.as_string().unwrap(), None);
    let names = hive.open("ControlSet001\\Control\\ComputerName\\ComputerName").unwrap().unwrap();
    let name = names.value("ComputerName").unwrap().unwrap();
    let text = name.as_string().unwrap().unwrap();
    assert!(!text.is_empty() && !text.contains('\0'), "{text}");
    let order = hive.open("ControlSet001\\Control\\ServiceGroupOrder").unwrap().unwrap();
    let list = order.value("List").unwrap().unwrap().as_multi_string().unwrap().unwrap();
    assert!(list.len() > 10 && list.contains(&"Boot Bus Extender".to_owned()), "{list:?}");
    // The key of the SAM's secrets stands in class names.
    let lsa = hive.open("ControlSet001\\Control\\Lsa\\JD").unwrap().unwrap();
    assert_eq!(lsa.class().unwrap().len(), 16);
    assert!(hive.open("ControlSet001\\no such key").unwrap().is_none());
    assert!(select.value("no such value").unwrap().is_none());
    assert_eq!(hive.key(lsa.id()).unwrap().parent().unwrap().unwrap().name().to_string(), "Lsa");
}

#[test]
fn security_descriptors_are_each_told_once() {
    let Some(sample) = one("SYSTEM_win10_dissect") else { return };
    let hive = Hive::parse(sample.bytes).unwrap();
    let mut counted = std::collections::BTreeMap::new();
    hive.walk(|key| {
        let security = key.security()?.unwrap();
        *counted.entry(security.id()).or_insert(0) += 1;
        Ok(())
    })
    .unwrap();
    let all = hive.securities().unwrap();
    let told: std::collections::BTreeMap<_, _> =
        all.iter().map(|security| (security.id(), security.references())).collect();
    assert_eq!(told.len(), all.len());
    assert_eq!(told, counted);
}

/// What Windows wrote is sound, with the exceptions named here; so rules are not too strict.
#[test]
fn what_windows_wrote_is_sound() {
    let Some(samples) = corpus("hive_") else { return };
    for sample in samples {
        let name = &sample.name;
        let hive = match sample.logs.as_slice() {
            [] => Hive::parse(sample.bytes),
            logs => {
                let logs: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
                Hive::recover(sample.bytes, &logs).map(|(hive, _)| hive)
            }
        };
        let Ok(hive) = hive else { continue };
        let findings = hive.check();
        let codes: Vec<_> = findings.list().iter().map(|found| found.code).collect();
        // A list that leads into a loop, a name that was changed by hand, and what Windows itself
        // forgot.
        let (expected, leaks): (&[&str], u64) = match name {
            name if name.contains("BadListHive") => (&["hive-cell-shared"], 3),
            name if name.contains("CompHive") => (&["hive-subkey-hash"], 0),
            name if name.contains("NewDirtyHive2") => (&[], 8),
            _ => (&[], 0),
        };
        assert_eq!(codes[..expected.len()], *expected, "{name}");
        let all = (findings.count(Severity::Leak), findings.list().len());
        assert_eq!(all, (leaks, expected.len() + leaks as usize), "{name}: {codes:?}");
        let refused = Editor::new(hive, FileTime(0)).err().map(|error| error.kind());
        let damaged = !expected.is_empty();
        assert_eq!(refused, damaged.then_some(ErrorKind::Refused), "{name}");
    }
}
