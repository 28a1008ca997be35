//! See `vdisk_fuzz::write_reopen`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::write_reopen(input));
