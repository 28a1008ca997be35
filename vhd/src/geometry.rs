//! Cylinders, heads, sectors: the disk geometry that the footer records.
//!
//! VHD 1.0, "Hard Disk Footer Format", field *Disk Geometry*, and its appendix "CHS Calculation".

/// A disk geometry. Hyper-V, Azure and most others look only at the footer's current size;
/// Virtual PC, and qemu for images by `vpc ` and `qemu`, take the product of these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Cylinders.
    pub(crate) cylinders: u16,
    /// Heads.
    pub(crate) heads: u8,
    /// Sectors of 512 bytes per track.
    pub(crate) sectors: u8,
}

impl Geometry {
    /// The largest geometry: of a disk that large or larger it says nothing.
    pub(crate) const MAX: Self = Self { cylinders: 65535, heads: 16, sectors: 255 };

    /// The geometry of a disk of `size` bytes, by the specification's algorithm. Never larger
    /// than the disk.
    pub(crate) fn of(size: u64) -> Self {
        let total = (size / 512).min(Self::MAX.size() / 512);
        let (heads, sectors, tracks) =
            if total >= 65535 * 16 * 63 { (16, 255, total / 255) } else { small_disk(total) };
        let narrow = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
        Self {
            cylinders: u16::try_from(tracks / heads).unwrap_or(u16::MAX),
            heads: narrow(heads),
            sectors: narrow(sectors),
        }
    }

    /// The bytes it covers; 0 where a field is 0.
    pub(crate) fn size(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors) * 512
    }
}

/// Heads, sectors per track and tracks of a disk below 65535 * 16 * 63 sectors.
fn small_disk(total: u64) -> (u64, u64, u64) {
    let tracks = total / 17;
    let heads = tracks.div_ceil(1024).max(4);
    if tracks < heads * 1024 && heads <= 16 {
        return (heads, 17, tracks);
    }
    let tracks = total / 31;
    if tracks < 16 * 1024 {
        return (16, 31, tracks);
    }
    (16, 63, total / 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_specification() {
        let known = [
            (10 << 20, (301, 4, 17)),
            // Written by Windows 10 (corpus: fat-parent.vhd).
            (4 << 20, (0x78, 4, 0x11)),
            // Virtual PC's 127 GiB disk and its neighbours beyond the largest geometry.
            (136_365_211_648, (65278, 16, 255)),
            (2040 << 30, (65535, 16, 255)),
            (0, (0, 4, 17)),
        ];
        for (size, (cylinders, heads, sectors)) in known {
            assert_eq!(Geometry::of(size), Geometry { cylinders, heads, sectors }, "{size}");
        }
    }

    #[test]
    fn never_exceeds_the_disk() {
        for shift in 9..44 {
            for size in [(1u64 << shift) - 512, 1 << shift, (1 << shift) + 512] {
                assert!(Geometry::of(size).size() <= size, "{size}");
            }
        }
    }
}
