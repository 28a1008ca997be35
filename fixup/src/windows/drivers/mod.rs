//! Drivers that Windows does not bring along, from a folder of the host.
//!
//! A package, which is an INF file and the files it names, goes to `Drivers\vdisk\NAME` in the
//! folder of Windows, and that folder to the registry's `DevicePath`, so that Windows installs it
//! by itself, signature and all, when it meets the device. What drives disks is needed before that:
//! its service, file and device ids are put where the loader and the first look at the devices
//! find them. All values are those of the INF file.

mod database;
mod inject;
mod package;

pub(super) use inject::inject;
