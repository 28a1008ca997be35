//! What describes drivers and boot devices of Windows.

use vdisk_fixup::windows::bcd::PartitionId;
use vdisk_fixup::windows::inf::{Inf, Os};
use vdisk_fixup::windows::{Arch, Nt};

/// INF files: all that is read of a driver, for two versions of Windows.
pub fn inf(input: &[u8]) {
    let Ok(inf) = Inf::parse(input) else { return };
    for (version, arch) in [(Nt::SEVEN, Arch::X86), (Nt::TEN, Arch::Amd64)] {
        let os = Os { version, arch, server: false };
        drop((inf.header(os), inf.source_files(os)));
        let Some((_, models)) = inf.models(os) else { continue };
        for model in models.iter().take(4) {
            drop(inf.install(&model.section, os));
        }
    }
}

/// Elements of boot configuration data: what is replaced is found again, at the same places.
pub fn bcd(input: &[u8]) {
    let found = PartitionId::find(input);
    let other = PartitionId::Mbr { signature: 0x1234_5678, start: 1 << 20 };
    let Some(changed) = PartitionId::replace(input, |_| Some(other)) else { return };
    assert_eq!(changed.len(), input.len());
    let again = PartitionId::find(&changed);
    assert_eq!(again.len(), found.len());
    assert!(again.iter().zip(&found).all(|(new, old)| *new == (old.0, other)));
}
