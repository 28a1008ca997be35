//! Keys of the old machine go with their bytes.

use std::fs;

use vdisk_fixup::{Identity, Plan, StripOptions};

use crate::common::volume::{dressed, judge};
use crate::common::{Registry, Spec, machine, partition, windows, write_out};

const SSH: &str = "ProgramData/ssh/ssh_host_ed25519_key";
const RDP: &str = "ProgramData/Microsoft/Crypto/RSA/MachineKeys/f686aace6942fb7f7ceb231212eef4a4_x";

/// Lines that compress badly, of which the raw disk can be asked.
fn secret(seed: u64, lines: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut line = || std::iter::repeat_with(|| rng.alphanumeric()).take(70).collect::<String>();
    std::iter::repeat_with(|| line() + "\n").take(lines).collect()
}

/// The keys' bytes that are left on a disk: lines, whole or in part.
fn left(disk: &[u8], secrets: &[&str]) -> usize {
    let pieces = secrets.iter().flat_map(|secret| secret.lines()).map(|line| &line[20..50]);
    pieces.filter(|piece| memchr::memmem::find(disk, piece.as_bytes()).is_some()).count()
}

#[test]
fn keys_are_not_left_in_records_and_free_clusters() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = folder.path();
    // The first is short enough for its file record, the others have clusters.
    let secrets = [secret(1, 5), secret(2, 40), secret(3, 60)];
    let [ssh, rdp, ini] = secrets.each_ref().map(String::as_str);
    let files =
        [(SSH, ssh.as_bytes()), (RDP, rdp.as_bytes()), ("Windows/SMSCFG.ini", ini.as_bytes())];
    let spec = Spec { files: &files, ..Spec::SMALL };
    let Some(disk) = windows(folder, &spec, |_: &mut Registry| {}) else { return };
    // NTFS keeps two bytes of each sector of a record elsewhere.
    assert!(left(&fs::read(&disk).unwrap(), &[ssh, rdp, ini]) >= 104);

    let mut machine = machine(&disk);
    let mut plan = Plan::default();
    let keep = ["windows.sid".to_owned()].into();
    let options = StripOptions { identity: Identity::New, keep, ..StripOptions::default() };
    vdisk_fixup::strip(&mut machine, &options, &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    assert!(plan.warnings.iter().all(|one| one.id != "windows.keys.remains"));
    let after = folder.join("after.raw");
    write_out(&machine, &disk, &after);
    assert_eq!(left(&fs::read(&after).unwrap(), &[ssh, rdp, ini]), 0);
    let volume = folder.join("volume");
    partition(&after, 1, &volume);
    judge(&volume);
}

/// What NTFS keeps compressed has no bytes to write zeros over.
#[test]
fn a_compressed_key_is_told_to_remain() {
    const COMPRESS: &str = r#"
import os, struct, sys
folder = sys.argv[1] + '/ProgramData/ssh'
os.makedirs(folder)
# FILE_ATTRIBUTE_COMPRESSED: what is made in the folder is compressed.
os.setxattr(folder, 'system.ntfs_attrib_be', struct.pack('>I', 0x800))
with open(folder + '/ssh_host_rsa_key', 'w') as key:
    key.write('one line of a key that is quite like the next one\n' * 4000)
"#;
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = folder.path();
    let Some(disk) = windows(folder, &Spec::SMALL, |_: &mut Registry| {}) else { return };
    if dressed(&disk, 1, COMPRESS, &[]).is_none() {
        return;
    }

    let mut machine = machine(&disk);
    let mut plan = Plan::default();
    let keep = ["windows.sid".to_owned()].into();
    let options = StripOptions { identity: Identity::New, keep, ..StripOptions::default() };
    vdisk_fixup::strip(&mut machine, &options, &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    assert!(plan.actions.iter().any(|one| one.place.ends_with("/ssh_host_rsa_key")));
    let told = plan.warnings.iter().find(|one| one.id == "windows.keys.remains").unwrap();
    assert!(told.message.contains("/ProgramData/ssh/ssh_host_rsa_key"), "{}", told.message);
}
