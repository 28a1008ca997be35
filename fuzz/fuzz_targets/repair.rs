//! See `vdisk_fuzz::repair`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::repair(input));
