//! See `vdisk_fuzz::fs_ntfs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::fs_ntfs(input));
