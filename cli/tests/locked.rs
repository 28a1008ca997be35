//! Volumes that somebody else holds, by a key or by a memory image: they are named, and what would
//! need their files or their free space is refused with the way out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Place;
use vdisk_testkit::machines::{DATA, DISK, LINUX, Part, assemble, ntfs, programs};
use vdisk_testkit::tools::{arg, must, said};

const MIB: usize = 1 << 20;

/// The kinds, versions and identities are those that cryptsetup, libbde and blkid tell.
#[test]
fn encrypted_volumes() {
    if !programs(&["sfdisk", "blkid", "cryptsetup", "bdeinfo"]) {
        return;
    }
    let place = Place::new();
    let volumes = [
        luks(&place, "luks1", &[]),
        luks(&place, "luks2", &["--label", "secret"]),
        bitlocker(&place),
    ];
    let kinds = [LINUX, LINUX, DATA];
    let parts = [0, 1, 2].map(|at| Part { kind: kinds[at], more: "", content: &volumes[at] });
    assemble(&place.path("disk.img"), "gpt", DISK, &parts);

    let found = place.json("inspect -f raw disk.img");
    for (index, (kind, version)) in [("luks1", "1"), ("luks2", "2")].into_iter().enumerate() {
        let facts = &found["partitions"][index]["filesystem"];
        let dump = must("cryptsetup", &["luksDump", arg(&volumes[index])]);
        let field =
            |name: &str| dump.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!(field("Version:"), Some(version));
        assert_eq!((&facts["type"], &facts["state"]), (&kind.into(), &"encrypted".into()));
        assert_eq!(facts["uuid"].as_str(), field("UUID:"));
    }
    assert_eq!(found["partitions"][1]["filesystem"]["label"], "secret");
    // It fails for want of a key, when it has told all the rest.
    let dump = said(&Command::new("bdeinfo").arg(&volumes[2]).output().unwrap());
    assert!(dump.contains("AES-XTS 128-bit") && dump.contains("DESKTOP C:"), "{dump}");
    let facts = &found["partitions"][2]["filesystem"];
    assert_eq!((&facts["type"], &facts["state"]), (&"bitlocker".into(), &"encrypted".into()));
    assert!(must("blkid", &["-p", arg(&volumes[2])]).contains("TYPE=\"BitLocker\""));

    for number in 1..=3 {
        for line in ["ls -f raw", "cat -f raw", "extract -f raw"] {
            let target = if line.starts_with("extract") { " out" } else { "" };
            let line = format!("{line} disk.img:{number}:/etc/hostname{target}");
            place
                .run(&line)
                .fails(5, &["the volume is encrypted", "decrypt it in the guest first"]);
        }
    }
    assert!(!place.path("out").exists());
    // Whether anything in them is free, nobody can tell: they are copied whole, and so it is said.
    let told = place.run("convert -f raw --skip-free disk.img copy.vhdx").code(0).err;
    for number in 1..=3 {
        let kept =
            told.lines().find(|line| line.contains(&format!("partition {number} "))).unwrap();
        assert!(kept.contains("kept whole"), "{told}");
    }
    place.run("compare disk.img copy.vhdx -f raw -F vhdx").ok();
}

/// A volume by cryptsetup, with noise where its data is.
fn luks(place: &Place, kind: &str, more: &[&str]) -> PathBuf {
    let path = place.path(&format!("{kind}.part"));
    let noise: Vec<u8> =
        (0..24 * MIB as u32).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
    std::fs::write(&path, noise).unwrap();
    place.write("key", b"a key");
    let key = place.path("key");
    let mut args = vec!["-q", "luksFormat", "--type", kind, "--pbkdf", "pbkdf2"];
    args.extend(["--pbkdf-force-iterations", "1000", "--key-file", arg(&key)]);
    args.extend(more);
    args.push(arg(&path));
    must("cryptsetup", &args);
    path
}

/// A volume as Windows 7 and later begin it: the boot sector with its GUID and three places, and
/// there the metadata, which here hold a description and no key.
fn bitlocker(place: &Place) -> PathBuf {
    const GUID: &[u8; 16] = b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01";
    let mut volume = vec![0x5A; 16 * MIB];
    volume[..512].fill(0);
    let mut put = |at: usize, bytes: &[u8]| volume[at..][..bytes.len()].copy_from_slice(bytes);
    put(0, b"\xeb\x58\x90-FVE-FS-\0\x02\x08");
    put(160, GUID);
    let copies = [MIB as u64, 2 * MIB as u64, 3 * MIB as u64];
    let places: Vec<u8> = copies.iter().flat_map(|at| at.to_le_bytes()).collect();
    put(176, &places);
    put(510, b"\x55\xaa");

    let text: Vec<u8> =
        "DESKTOP C: 11/24/2026\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let words =
        |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let longs =
        |longs: &[u32]| longs.iter().flat_map(|long| long.to_le_bytes()).collect::<Vec<u8>>();
    let entry = [words(&[8 + text.len() as u16, 7, 2, 1]), text].concat();
    let len = 48 + entry.len() as u32;
    let block = [
        b"-FVE-FS-".to_vec(),
        words(&[(64 + len as u16).div_ceil(16), 2, 4, 4]),
        (16 * MIB as u64).to_le_bytes().to_vec(),
        longs(&[0, 16]),
        places,
        (4 * MIB as u64).to_le_bytes().to_vec(),
        longs(&[len, 1, 48, len]),
        vec![0x11; 16],
        // The next nonce, AES-XTS with 128 bits, and when it was made.
        longs(&[1, 0x8004]),
        133_000_000_000_000_000_u64.to_le_bytes().to_vec(),
        entry,
    ]
    .concat();
    for at in copies {
        put(at as usize, &block);
    }
    place.write("bitlocker.part", &volume);
    place.path("bitlocker.part")
}

/// ntfs-3g says which memory images a Windows resumes from; resumes that were begun, and images on
/// another disk, it takes for nothing. They may be tried again, and count as hibernated here.
#[test]
fn hibernated_volumes() {
    if !programs(&["mkntfs", "ntfs-3g", "fuser"]) {
        return;
    }
    let marks: [(&[u8; 4], bool); 9] = [
        (b"HIBR", true),
        (b"hibr", true),
        (b"RSTR", true),
        (b"rstr", true),
        (b"LINK", true),
        (b"link", true),
        (b"WAKE", false),
        (b"wake", false),
        (&[0; 4], false),
    ];
    for (mark, hibernated) in marks {
        let place = Place::new();
        let source = place.path("source");
        std::fs::create_dir(&source).unwrap();
        let mut image = vec![0; 65536];
        image[..4].copy_from_slice(mark);
        std::fs::write(source.join("hiberfil.sys"), &image).unwrap();
        let Some(volume) = ntfs(place.folder(), 16, &source) else { return };
        let context = mark.escape_ascii();
        let begun = matches!(&mark.to_ascii_lowercase()[..], b"rstr" | b"link");
        assert_eq!(refused_by_ntfs_3g(&place, &volume), hibernated && !begun, "{context}");

        let found = place.json("inspect -f raw ntfs.part");
        let state = if hibernated { "hibernated" } else { "clean" };
        assert_eq!(found["volumes"][0]["filesystem"]["state"], state, "{context}");
        let done = place.run("convert -f raw --skip-free ntfs.part copy.vhdx");
        if hibernated {
            done.fails(7, &["hibernated", "shutdown /s /f /t 0", "without --skip-free"]);
            assert!(!place.path("copy.vhdx").exists(), "{context}");
        } else {
            done.code(0);
        }
        // Reading takes nothing from what is to be resumed.
        let mut cat = place.command();
        let read = cat.args(["cat", "-f", "raw", "ntfs.part:0:/hiberfil.sys"]).output().unwrap();
        assert!(read.status.success() && read.stdout == image, "{context}: {}", said(&read));
    }
}

/// Whether ntfs-3g mounts the volume for reading only, or not at all.
fn refused_by_ntfs_3g(place: &Place, volume: &Path) -> bool {
    let copy = place.path("copy.part");
    std::fs::copy(volume, &copy).unwrap();
    let folder = place.path("mounted");
    let done = Command::new("ntfs-3g").args([arg(&copy), arg(&folder)]).output().unwrap();
    let told = said(&done);
    let may_write = std::fs::write(folder.join("new"), b"new").is_ok();
    must("umount", &[arg(&folder)]);
    assert_eq!(told.contains("Windows is hibernated"), !may_write, "{told}");
    !may_write
}
