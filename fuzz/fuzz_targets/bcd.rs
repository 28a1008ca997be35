//! See `vdisk_fuzz::bcd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::bcd(input));
