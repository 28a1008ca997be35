//! Drivers that come and go: those that Windows does not bring along, from a folder of the host
//! ([`inject`]), and those of the hardware that stays behind ([`strip`]).
//!
//! A package, which is an INF file and the files it names, goes to `Drivers\vdisk\NAME` in the
//! folder of Windows, and that folder to the registry's `DevicePath`, so that Windows installs it
//! by itself, signature and all, when it meets the device. What drives disks is needed before that:
//! its service, file and device ids are put where the loader and the first look at the devices
//! find them. All values are those of the INF file.

mod company;
mod database;
mod filters;
mod inject;
mod known;
mod package;
mod strip;

pub(super) use inject::inject;
pub(super) use strip::strip;
