//! See `vdisk_fuzz::chain_ops`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::chain_ops(input));
