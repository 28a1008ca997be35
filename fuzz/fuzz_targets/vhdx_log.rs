//! See `vdisk_fuzz::vhdx_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::vhdx_log(input));
