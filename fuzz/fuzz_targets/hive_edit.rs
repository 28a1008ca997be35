//! See `vdisk_fuzz::hive_edit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::hive_edit(input));
