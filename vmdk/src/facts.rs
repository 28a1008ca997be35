//! What a disk is: the facts a user may ask for, all cheap to gather.

use vdisk_core::{Fact, Format, LayerInfo, ParentRef};

use crate::descriptor::{Descriptor, NO_PARENT};
use crate::extent::{Body, Extent};
use crate::stream::Index;

/// What the layer is.
pub(crate) fn info(descriptor: &Descriptor, extents: &[Extent]) -> LayerInfo {
    let sector = |key| match descriptor.number(key) {
        Some(4096) => 4096,
        _ => 512,
    };
    let parent = (descriptor.parent_cid != NO_PARENT).then(|| ParentRef {
        identities: vec![format!("{:08x}", descriptor.parent_cid)],
        modified: None,
        hints: descriptor.parent_hints(),
    });
    LayerInfo {
        format: Format::Vmdk,
        subformat: canonical_type(&descriptor.create_type),
        virtual_size: extents.last().map_or(0, Extent::end),
        logical_sector: sector("ddb.logicalSectorSize"),
        physical_sector: sector("ddb.physicalSectorSize").max(sector("ddb.logicalSectorSize")),
        block_size: extents.iter().find_map(Extent::grain),
        identity: identity(descriptor),
        parent,
        dirty: unclean(extents),
        facts: facts(descriptor, extents),
    }
}

/// What a child records of this content.
fn identity(descriptor: &Descriptor) -> Option<String> {
    (descriptor.cid != NO_PARENT).then(|| format!("{:08x}", descriptor.cid))
}

/// Whether some extent was not closed after the last writing.
fn unclean(extents: &[Extent]) -> bool {
    extents.iter().any(|extent| match &extent.body {
        Body::Hosted(hosted) => hosted.header.unclean(),
        Body::Stream(stream) => stream.header.unclean(),
        _ => false,
    })
}

/// The usual spelling of a `createType`.
fn canonical_type(text: &str) -> String {
    const KNOWN: &[&str] = &[
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
        "vmfs",
        "vmfsSparse",
        "vmfsThin",
        "vmfsPreallocated",
        "vmfsEagerZeroedThick",
        "vmfsRDM",
        "vmfsRDMP",
        "vmfsRaw",
        "seSparse",
        "fullDevice",
        "partitionedDevice",
        "custom",
    ];
    match text.to_ascii_lowercase().as_str() {
        "2gbmaxextentsparse" => "twoGbMaxExtentSparse".to_owned(),
        "2gbmaxextentflat" => "twoGbMaxExtentFlat".to_owned(),
        "vmfssesparse" => "seSparse".to_owned(),
        lower => KNOWN
            .iter()
            .find(|known| known.to_ascii_lowercase() == lower)
            .map_or_else(|| text.to_owned(), |known| (*known).to_owned()),
    }
}

/// What a user may want to know.
fn facts(descriptor: &Descriptor, extents: &[Extent]) -> Vec<(&'static str, Fact)> {
    let mut facts: Vec<(&'static str, Fact)> = vec![
        ("create-type", descriptor.create_type.as_str().into()),
        ("cid", format!("{:08x}", descriptor.cid).into()),
        ("parent-cid", format!("{:08x}", descriptor.parent_cid).into()),
        ("extents", (extents.len() as u64).into()),
    ];
    let text = [
        ("descriptor-version", "version"),
        ("encoding", "encoding"),
        ("adapter-type", "ddb.adapterType"),
        ("hardware-version", "ddb.virtualHWVersion"),
        ("tools-version", "ddb.toolsVersion"),
        ("uuid", "ddb.uuid"),
        ("long-content-id", "ddb.longContentID"),
        ("change-tracking", "changeTrackPath"),
        ("native-snapshot", "isNativeSnapshot"),
    ];
    facts.extend(text.iter().filter_map(|(name, key)| Some((*name, descriptor.get(key)?.into()))));
    let geometry = ["cylinders", "heads", "sectors"]
        .map(|part| descriptor.number(&format!("ddb.geometry.{part}")));
    if let [Some(c), Some(h), Some(s)] = geometry {
        facts.push(("geometry", format!("{c}/{h}/{s}").into()));
    }
    if let Some(thin) = descriptor.get("ddb.thinProvisioned") {
        facts.push(("thin-provisioned", (thin == "1").into()));
    }
    facts.extend(sparse_facts(extents));
    facts
}

/// The facts of the first sparse header.
fn sparse_facts(extents: &[Extent]) -> Vec<(&'static str, Fact)> {
    let header = extents.iter().find_map(|extent| match &extent.body {
        Body::Hosted(hosted) => Some(&hosted.header),
        Body::Stream(stream) => Some(&stream.header),
        _ => None,
    });
    let Some(header) = header else { return Vec::new() };
    let mut facts: Vec<(&'static str, Fact)> = vec![
        ("sparse-version", header.raw.version.get().into()),
        ("compressed", header.compressed().into()),
        ("markers", header.markers().into()),
        ("zero-grains", header.zero_grain().into()),
        ("redundant-directory", header.redundant.is_some().into()),
        ("unclean-shutdown", unclean(extents).into()),
    ];
    let walked = extents
        .iter()
        .any(|extent| matches!(&extent.body, Body::Stream(stream) if matches!(stream.index, Index::Walked(_))));
    if header.compressed() {
        let at = match header.directory {
            _ if walked => "none",
            None => "footer",
            Some(_) => "header",
        };
        facts.push(("directory", at.into()));
    }
    facts
}
