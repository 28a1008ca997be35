//! The text of new descriptors, in the order that every reader takes ("The Descriptor File").

use std::fmt::Write;

use uuid::Uuid;
use vdisk_core::{Error, Result};

use crate::descriptor::{NO_PARENT, UNSET_CID};

/// What a new descriptor says.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// The content id.
    pub(crate) cid: u32,
    /// The parent's content id and path.
    pub(crate) parent: Option<(u32, String)>,
    /// `createType`.
    pub(crate) create_type: &'static str,
    /// The extent lines.
    pub(crate) extents: Vec<String>,
    /// `ddb.adapterType`.
    pub(crate) adapter: String,
    /// `ddb.virtualHWVersion`.
    pub(crate) hardware: u32,
    /// Guest sectors, for the geometry.
    pub(crate) sectors: u64,
    /// `ddb.uuid`; a child has its parent's.
    pub(crate) uuid: Option<[u8; 16]>,
    /// `ddb.thinProvisioned`.
    pub(crate) thin: bool,
    /// Logical and physical sector, where they are not both 512.
    pub(crate) sector_sizes: Option<(u32, u32)>,
    /// The first 24 digits of `ddb.longContentID`.
    pub(crate) long_id: [u8; 12],
}

impl Template {
    /// The text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\n");
        let mut line = |arguments: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = text.write_fmt(arguments);
            text.push('\n');
        };
        let parent_cid = self.parent.as_ref().map_or(NO_PARENT, |(cid, _)| *cid);
        line(format_args!("CID={:08x}", self.cid));
        line(format_args!("parentCID={parent_cid:08x}"));
        line(format_args!("isNativeSnapshot=\"no\""));
        line(format_args!("createType=\"{}\"", self.create_type));
        if let Some((_, hint)) = &self.parent {
            line(format_args!("parentFileNameHint=\"{hint}\""));
        }
        line(format_args!("\n# Extent description"));
        for extent in &self.extents {
            line(format_args!("{extent}"));
        }
        line(format_args!("\n# The Disk Data Base\n#DDB\n"));
        line(format_args!("ddb.adapterType = \"{}\"", self.adapter));
        let (cylinders, heads, sectors) = geometry(self.sectors, &self.adapter);
        line(format_args!("ddb.geometry.cylinders = \"{cylinders}\""));
        line(format_args!("ddb.geometry.heads = \"{heads}\""));
        line(format_args!("ddb.geometry.sectors = \"{sectors}\""));
        line(format_args!("ddb.longContentID = \"{}{:08x}\"", hex(&self.long_id, ""), self.cid));
        if let Some((logical, physical)) = self.sector_sizes {
            line(format_args!("ddb.logicalSectorSize = \"{logical}\""));
            line(format_args!("ddb.physicalSectorSize = \"{physical}\""));
        }
        if self.thin {
            line(format_args!("ddb.thinProvisioned = \"1\""));
        }
        if let Some(uuid) = &self.uuid {
            let (head, tail) = uuid.split_at(8);
            line(format_args!("ddb.uuid = \"{}-{}\"", hex(head, " "), hex(tail, " ")));
        }
        line(format_args!("ddb.virtualHWVersion = \"{}\"", self.hardware));
        text
    }
}

fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}

/// The geometry VMware gives a disk of so many sectors: cylinders, heads, sectors a track.
pub(crate) fn geometry(sectors: u64, adapter: &str) -> (u64, u64, u64) {
    const GIB: u64 = 1 << 21;
    let (heads, track) = match sectors {
        _ if adapter == "ide" => (16, 63),
        0..GIB => (64, 32),
        GIB..=0x3F_FFFF => (128, 32),
        _ => (255, 63),
    };
    let cylinders = (sectors / (heads * track)).max(1);
    (if adapter == "ide" { cylinders.min(16383) } else { cylinders }, heads, track)
}

/// A new content id: random, and none of the values with a meaning.
pub(crate) fn new_cid() -> u32 {
    loop {
        let [a, b, c, d, ..] = *Uuid::new_v4().as_bytes();
        let cid = u32::from_be_bytes([a, b, c, d]);
        if cid != 0 && cid < UNSET_CID {
            return cid;
        }
    }
}

/// A new `ddb.uuid`, of the range VMware uses.
pub(crate) fn new_uuid() -> [u8; 16] {
    let mut uuid = *Uuid::new_v4().as_bytes();
    let [a, b, c, d, ..] = &mut uuid;
    (*a, *b, *c, *d) = (0x60, 0x00, 0xC2, 0x90 | (*d & 0x0F));
    uuid
}

/// The random digits before the content id in `ddb.longContentID`.
pub(crate) fn new_long_id() -> [u8; 12] {
    let uuid = *Uuid::new_v4().as_bytes();
    uuid.first_chunk().copied().unwrap_or_default()
}

/// Fails where a name cannot stand in quotes in a descriptor.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.contains(['"', '\n', '\r', '\0']) {
        return Err(Error::usage(format!("{name:?} cannot be written in a VMDK descriptor"))
            .hint("choose a path without quotes and line breaks"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::Descriptor;

    #[test]
    fn what_is_written_is_read_back() {
        let template = Template {
            cid: 0xABC,
            parent: Some((0x12, "../base disk.vmdk".into())),
            create_type: "monolithicSparse",
            extents: vec!["RW 20480 SPARSE \"x.vmdk\"".into()],
            adapter: "lsilogic".into(),
            hardware: 4,
            sectors: 20480,
            uuid: Some([0x60; 16]),
            thin: true,
            sector_sizes: Some((4096, 4096)),
            long_id: [7; 12],
        };
        let text = template.text();
        let descriptor = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!((descriptor.cid, descriptor.parent_cid), (0xABC, 0x12));
        assert_eq!(descriptor.parent_hints()[0].path, "../base disk.vmdk");
        assert_eq!(descriptor.extents[0].sectors, 20480);
        assert_eq!(descriptor.number("ddb.geometry.cylinders"), Some(10));
        assert!(text.contains("CID=00000abc\nparentCID=00000012\n"));
        assert!(text.contains("ddb.longContentID = \"07070707070707070707070700000abc\""));
        assert!(text.contains("\"60 60 60 60 60 60 60 60-60 60 60 60 60 60 60 60\""));
    }

    #[test]
    fn geometries() {
        assert_eq!(geometry(4096, "lsilogic"), (2, 64, 32));
        assert_eq!(geometry(1 << 21, "lsilogic"), (512, 128, 32));
        assert_eq!(geometry(1 << 22, "lsilogic"), (261, 255, 63));
        assert_eq!(geometry(1 << 40, "ide"), (16383, 16, 63));
    }
}
