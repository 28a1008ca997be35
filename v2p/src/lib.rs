//! Virtual to physical: an image becomes the disk of a machine that boots.
//!
//! Not built yet. What will be here: the rules by which a device may be overwritten (nothing uses
//! it, it is not the disk this system runs from, its serial was confirmed), fitting partitions to
//! a larger or smaller disk, and making it bootable. Until then `vdisk convert -n --allow-device`
//! writes an image to a device as it is; the kernel refuses one that is in use.
