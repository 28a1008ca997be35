//! See `vdisk_fuzz::vhdx_open`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::vhdx_open(input));
