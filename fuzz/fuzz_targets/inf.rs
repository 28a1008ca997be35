//! See `vdisk_fuzz::inf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::inf(input));
