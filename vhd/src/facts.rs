//! What users see of an image: the layer's description.

use uuid::Uuid;
use vdisk_core::{Fact, Format, LayerInfo, ParentRef, Store};

use crate::footer::{DiskType, Footer};
use crate::footers::{Footers, Source};
use crate::geometry::Geometry;
use crate::header::Header;
use crate::locator::{hints, text_of};
use crate::open::Body;
use crate::sparse::Sparse;
use crate::time;

type Facts = Vec<(&'static str, Fact)>;

/// Describes an image that was just opened.
pub(crate) fn describe(
    store: &dyn Store,
    footers: &Footers,
    body: &Body,
    virtual_size: u64,
) -> LayerInfo {
    let (footer, sparse) = match body {
        Body::Fixed(fixed) => (&fixed.footer, None),
        Body::Sparse(sparse) => (&sparse.footer, Some(sparse)),
    };
    let mut facts = footer_facts(footer);
    facts.extend(place_facts(footers, sparse.is_some()));
    if let Some(sparse) = sparse {
        facts.extend(header_facts(sparse));
    }
    LayerInfo {
        format: Format::Vhd,
        subformat: footer.disk_type().map_or("unknown", DiskType::name).to_owned(),
        virtual_size,
        logical_sector: 512,
        physical_sector: 512,
        block_size: sparse.map(|sparse| sparse.shape.block),
        identity: Some(footer.unique_id().to_string()),
        parent: sparse
            .filter(|sparse| sparse.differencing)
            .map(|sparse| parent_ref(store, &sparse.header)),
        dirty: false,
        facts,
    }
}

/// The size by geometry, where it says anything: not empty, not the largest (which stands for
/// "larger than can be said") and not more than there is.
pub(crate) fn geometry_size(footer: &Footer) -> Option<u64> {
    let geometry = footer.geometry();
    let size = geometry.size();
    let usable = size > 0 && geometry != Geometry::MAX && size <= footer.current_size();
    usable.then_some(size)
}

fn footer_facts(footer: &Footer) -> Facts {
    let Geometry { cylinders, heads, sectors } = footer.geometry();
    vec![
        ("unique-id", id_text(footer.unique_id())),
        ("creator", footer.creator_application().escape_ascii().to_string().into()),
        ("creator-version", version(footer.creator_version())),
        ("creator-host", footer.creator_host_os().escape_ascii().to_string().into()),
        ("created", time::to_text(footer.time_stamp()).into()),
        ("format-version", version(footer.version())),
        ("features", footer.features().into()),
        ("original-size", footer.original_size().into()),
        ("current-size", footer.current_size().into()),
        ("geometry", format!("{cylinders}/{heads}/{sectors}").into()),
        ("geometry-size", footer.geometry().size().into()),
        ("saved-state", footer.saved_state().into()),
    ]
}

fn place_facts(footers: &Footers, sparse: bool) -> Facts {
    let from = match footers.choose() {
        Some((_, Source::Copy)) => "copy",
        _ => "end",
    };
    let mut facts: Facts = vec![
        ("footer-from", from.into()),
        ("footer-at", footers.tail.at.into()),
        ("footer-ok", footers.tail.found.is_ok().into()),
        ("footer-length", footers.tail.len.into()),
    ];
    if sparse {
        facts.push(("footer-copy-ok", footers.copy.found.is_ok().into()));
    }
    facts
}

fn header_facts(sparse: &Sparse) -> Facts {
    let header = &sparse.header;
    let mut facts: Facts = vec![
        ("header-at", header.at.into()),
        ("header-version", version(header.version())),
        ("header-checksum-ok", header.checksum_ok.into()),
        ("table-at", header.table_at().into()),
        ("table-entries", header.entries().into()),
        ("bitmap-size", sparse.shape.bitmap.into()),
    ];
    if sparse.differencing {
        let parent = header.parent();
        facts.push(("parent-unique-id", id_text(parent.unique_id)));
        facts.push(("parent-modified", time::to_text(parent.time_stamp).into()));
        facts.push(("parent-unicode-name", text_of(parent.name.into_iter()).into()));
    }
    facts
}

fn parent_ref(store: &dyn Store, header: &Header) -> ParentRef {
    let parent = header.parent();
    ParentRef {
        identities: vec![parent.unique_id.to_string()],
        modified: (parent.time_stamp != 0).then(|| time::to_system(parent.time_stamp)),
        hints: hints(store, &parent.locators, &parent.name),
    }
}

fn id_text(id: Uuid) -> Fact {
    id.to_string().into()
}

fn version((major, minor): (u32, u32)) -> Fact {
    format!("{major}.{minor}").into()
}
