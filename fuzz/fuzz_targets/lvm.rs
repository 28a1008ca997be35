//! See `vdisk_fuzz::lvm`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::lvm(input));
