//! See `vdisk_fuzz::report`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::report(input));
