//! See `vdisk_fuzz::vmdk_descriptor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vdisk_fuzz::vmdk_descriptor(input));
