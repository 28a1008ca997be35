//! See `vdisk_fuzz::fs_ntfs`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: vdisk_fuzz::make_ntfs(), |input: &[u8]| vdisk_fuzz::fs_ntfs(input));
