//! Which Windows a section is for: what its name ends in.

use super::super::guest::{Arch, Nt};

/// The Windows that a driver is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Os {
    /// Its version and build.
    pub version: Nt,
    /// Its processor.
    pub arch: Arch,
    /// A server.
    pub server: bool,
}

/// How well an ending fits: the greater the better. Version and build that it asks for, then
/// whether it names the kind of product, and the processor.
pub(super) type Rank = (Nt, bool, bool);

impl Os {
    /// How well the ending of a name, such as `NTamd64.10.0...19041`, fits; none where it is for
    /// another Windows. An empty one is for any.
    ///
    /// `NT[ARCH][.[MAJOR][.[MINOR][.[PRODUCT][.[SUITE][.BUILD]]]]]`
    pub(super) fn rank(&self, ending: &str) -> Option<Rank> {
        let ending = ending.trim().to_ascii_lowercase();
        let any = Nt { major: 0, minor: 0, build: 0 };
        if ending.is_empty() {
            return Some((any, false, false));
        }
        let mut parts = ending.split('.').map(str::trim);
        let arch = parts.next()?.strip_prefix("nt")?;
        if !arch.is_empty() && arch != self.arch.name() {
            return None;
        }
        let mut number = || match parts.next() {
            None | Some("") => Some(None),
            Some(text) => parse(text).map(Some),
        };
        let (major, minor, product) = (number()?, number()?, number()?);
        let (_suite, build) = (number()?, number()?);
        let asked = Nt {
            major: major.unwrap_or_default(),
            minor: minor.unwrap_or_default(),
            build: build.unwrap_or_default(),
        };
        let product_fits = match product {
            None | Some(0) => true,
            Some(1) => !self.server,
            Some(_) => self.server,
        };
        (asked <= self.version && product_fits).then_some((
            asked,
            product.is_some(),
            !arch.is_empty(),
        ))
    }
}

fn parse(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_ending_is_found() {
        let os =
            |version: &str, arch, server| Os { version: Nt::parse(version).unwrap(), arch, server };
        let endings = [
            "NTx86.6.1",
            "NTamd64",
            "NTamd64.6.1",
            "NTamd64.6.3",
            "NTamd64.10.0",
            "NTamd64.10.0...19041",
            "NTamd64.10.0...22000",
            "NTamd64.10.0.3",
            "NTarm64.10.0",
        ];
        let best = |os: Os| {
            let fits = endings.iter().filter_map(|ending| Some((os.rank(ending)?, *ending)));
            fits.max().map(|(_, ending)| ending)
        };
        assert_eq!(best(os("6.1.7601", Arch::X86, false)), Some("NTx86.6.1"));
        assert_eq!(best(os("6.1.7601", Arch::Amd64, false)), Some("NTamd64.6.1"));
        assert_eq!(best(os("6.0.6002", Arch::Amd64, false)), Some("NTamd64"));
        assert_eq!(best(os("6.0.6002", Arch::X86, false)), None);
        assert_eq!(best(os("10.0.17763", Arch::Amd64, false)), Some("NTamd64.10.0"));
        assert_eq!(best(os("10.0.17763", Arch::Amd64, true)), Some("NTamd64.10.0.3"));
        assert_eq!(best(os("10.0.19045", Arch::Amd64, false)), Some("NTamd64.10.0...19041"));
        assert_eq!(best(os("10.0.26100", Arch::Amd64, false)), Some("NTamd64.10.0...22000"));
        let any = os("10.0.1", Arch::Amd64, false);
        assert!(any.rank("").is_some() && any.rank("NT.6.0").is_some());
        assert_eq!([any.rank("windows"), any.rank("NTamd64.x")], [None; 2]);
    }
}
