//! Physical to virtual: a machine's disks become images of a VM that boots.
//!
//! Not built yet. What will be here: the machine's disks (model, serial, sectors, what uses them),
//! capture with a map of bad sectors that can be resumed, and the four steps in order — capture,
//! strip, adapt, define — over the crates that do each. Copying itself is the `vdisk` crate's, and
//! stays there: a disk is only one more source.
