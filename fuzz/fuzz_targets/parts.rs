//! See `vdisk_fuzz::parts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::parts(input));
