//! What must be known of a Windows before it is changed.

use std::fmt;

use vdisk_core::{Error, Result};
use vdisk_guest::Place;
use vdisk_guest::inventory::{BootMode, Role};

use crate::Machine;

/// A version of Windows NT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nt {
    /// The first number, such as 10.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The build, such as 19045; 0 where it does not matter.
    pub build: u32,
}

impl Nt {
    /// Windows XP.
    pub const XP: Self = Self::new(5, 1);
    /// Windows Vista, Server 2008.
    pub const VISTA: Self = Self::new(6, 0);
    /// Windows 7, Server 2008 R2.
    pub const SEVEN: Self = Self::new(6, 1);
    /// Windows 8, Server 2012: the first with a driver database in the registry.
    pub const EIGHT: Self = Self::new(6, 2);
    /// Windows 8.1, Server 2012 R2.
    pub const EIGHT_ONE: Self = Self::new(6, 3);
    /// Windows 10 and all that came after it.
    pub const TEN: Self = Self::new(10, 0);
    /// Later than all.
    pub const NEWEST: Self = Self::new(u32::MAX, 0);

    /// A version, whatever its build.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, build: 0 }
    }

    /// From `MAJOR.MINOR` or `MAJOR.MINOR.BUILD` and more.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|part| part.trim().parse().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        Some(Self { major, minor, build: numbers.next().flatten().unwrap_or_default() })
    }

    /// Whether it is Windows XP or Server 2003.
    #[must_use]
    pub fn is_nt5(self) -> bool {
        self < Self::VISTA
    }
}

impl fmt::Display for Nt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.build == 0 { Ok(()) } else { write!(f, ".{}", self.build) }
    }
}

/// Processors that Windows runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 32 bits.
    X86,
    /// 64 bits.
    Amd64,
    /// 64 bits of ARM.
    Arm64,
}

impl Arch {
    /// As INF files and the driver store name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86",
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A Windows that is to be changed.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its version.
    pub version: Nt,
    /// Its processor.
    pub arch: Arch,
    /// The volume it is on.
    pub root: Place,
    /// Its folder there, such as `/Windows`.
    pub folder: String,
    /// The firmware that can start its disk.
    pub boot: Option<BootMode>,
    /// What it is in its network.
    pub role: Option<Role>,
    /// As it calls itself.
    pub product: String,
}

impl Guest {
    /// Guest number `index` of the machine's inventory.
    ///
    /// # Errors
    /// [`Refused`](vdisk_core::ErrorKind::Refused) where version or processor are not known.
    pub fn of(machine: &Machine, index: usize) -> Result<Self> {
        let system = machine.system(index)?;
        let windows = system.windows.as_ref();
        let unknown = |what: &str| {
            Error::refused(format!("the {what} of this Windows is not known"))
                .hint("see what is found and what is wrong with: vdisk inspect")
        };
        let version = system.version.as_deref().and_then(Nt::parse);
        let arch = match system.arch {
            Some("x86") => Arch::X86,
            Some("x86_64") => Arch::Amd64,
            Some("arm64") => Arch::Arm64,
            Some(other) => {
                return Err(Error::unsupported(format!("Windows for {other} is not changed")));
            }
            None => return Err(unknown("processor")),
        };
        Ok(Self {
            version: version.ok_or_else(|| unknown("version"))?,
            arch,
            root: machine.root(index)?,
            folder: windows.and_then(|one| one.folder.clone()).unwrap_or("/Windows".into()),
            boot: system.boot_mode,
            role: windows.and_then(|one| one.role),
            product: system.product.clone().unwrap_or("Windows".into()),
        })
    }

    /// The file on its volume that an `ImagePath` of a service names; where it is empty, the
    /// driver `service` in its usual place.
    #[must_use]
    pub fn image(&self, image_path: &str, service: &str) -> String {
        let path = image_path.trim().trim_matches('"').replace('\\', "/");
        let lower = path.to_ascii_lowercase();
        let below = |prefix: &str| lower.starts_with(prefix).then(|| path.get(prefix.len()..));
        if path.is_empty() {
            return format!("{}/System32/drivers/{service}.sys", self.folder);
        }
        if let Some(rest) = ["/systemroot/", "%systemroot%/", "%windir%/"]
            .into_iter()
            .find_map(|prefix| below(prefix).flatten())
        {
            return format!("{}/{rest}", self.folder);
        }
        // A drive is taken for the one that Windows is on.
        let rest = below("/??/").flatten().unwrap_or(&path);
        match rest.split_once(':') {
            Some((drive, rest)) if drive.len() == 1 => rest.to_owned(),
            _ => format!("{}/{}", self.folder, rest.trim_start_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered() {
        let seven = Nt::parse("6.1.7601").unwrap();
        assert!(seven >= Nt::SEVEN && seven < Nt::EIGHT && !seven.is_nt5());
        assert!(Nt::parse("5.2.3790").unwrap().is_nt5());
        assert_eq!(Nt::parse("10.0.26100.1742").unwrap().to_string(), "10.0.26100");
        assert_eq!([Nt::parse("10"), Nt::parse("x.1")], [None; 2]);
    }

    #[test]
    fn image_paths_are_found() {
        let guest = Guest {
            version: Nt::TEN,
            arch: Arch::Amd64,
            root: Place::Disk,
            folder: "/Windows".into(),
            boot: None,
            role: None,
            product: String::new(),
        };
        for (path, file) in [
            ("", "/Windows/System32/drivers/x.sys"),
            ("System32\\drivers\\a.sys", "/Windows/System32/drivers/a.sys"),
            ("\\SystemRoot\\system32\\a.sys", "/Windows/system32/a.sys"),
            ("\\??\\C:\\Windows\\a.sys", "/Windows/a.sys"),
            ("%SystemRoot%\\a.sys", "/Windows/a.sys"),
        ] {
            assert_eq!(guest.image(path, "x"), file, "{path}");
        }
    }
}
