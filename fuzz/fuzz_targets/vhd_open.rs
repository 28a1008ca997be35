//! See `vdisk_fuzz::vhd_open`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::vhd_open(input));
