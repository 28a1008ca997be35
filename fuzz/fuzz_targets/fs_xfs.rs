//! See `vdisk_fuzz::fs_xfs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::fs_xfs(input));
