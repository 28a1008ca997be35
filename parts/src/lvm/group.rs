//! A volume group as its metadata describes it.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{Section, Value};

/// Bytes of a sector, the unit of sizes in metadata, whatever the disk's sectors are.
const SECTOR: u64 = 512;

/// The description of a group, without the disks.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// Byte of the metadata area it was read from, on one of the disks.
    pub(crate) area: u64,
    pub(crate) name: String,
    pub(crate) id: String,
    /// Grows with each change.
    pub(crate) seqno: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) volumes: Vec<Described>,
}

/// A physical volume of the group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// What the metadata calls it, such as `pv0`.
    name: String,
    pub(crate) uuid: String,
    /// Byte of its first extent.
    start: u64,
    extents: u64,
}

/// A logical volume.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) visible: bool,
    /// What it is made of, as LVM2 names it: `linear`, `striped`, `thin`, `raid1`, …
    pub(crate) kind: String,
    /// Whether a snapshot of it reads from it what was not changed since.
    pub(crate) has_snapshots: bool,
    pub(crate) layout: Layout,
}

/// Where the bytes of a logical volume stand.
#[derive(Clone, Debug)]
pub(crate) enum Layout {
    Known(Vec<Segment>),
    /// Not as plain stripes.
    Unsupported,
    /// The metadata contradicts itself.
    Corrupt(String),
}

/// A run of a logical volume, all in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) len: u64,
    /// Bytes of a stripe; of one area only, the whole run.
    pub(crate) stripe: u64,
    /// The member and the byte on it where each area starts.
    pub(crate) areas: Vec<(usize, u64)>,
}

impl Description {
    /// Understands a metadata text; what is wrong otherwise.
    pub(crate) fn parse(area: u64, text: &Section) -> Result<Self, &'static str> {
        let (name, group) = text.sections().next().ok_or("it describes no group")?;
        let extent = group.number("extent_size").and_then(|sectors| sectors.checked_mul(SECTOR));
        let extent = extent.filter(|bytes| *bytes > 0).ok_or("the group has no size of extents")?;
        let members = group.section("physical_volumes").into_iter().flat_map(Section::sections);
        let members: Option<Vec<Member>> = members.map(Member::parse).collect();
        let members = members.ok_or("a physical volume is not described in full")?;
        let context = Context {
            extent,
            names: (0..).zip(&members).map(|(at, one)| (one.name.as_str(), (at, one))).collect(),
            snapshots: Snapshots::of(group),
        };
        let volumes = group.section("logical_volumes").into_iter().flat_map(Section::sections);
        let volumes = volumes.map(|(name, volume)| context.volume(name, volume)).collect();
        Ok(Self {
            area,
            name: name.to_owned(),
            id: group.text("id").ok_or("the group has no id")?.to_owned(),
            seqno: group.number("seqno").ok_or("the group has no number of changes")?,
            volumes,
            members,
        })
    }
}

impl Member {
    fn parse((name, section): (&str, &Section)) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            uuid: section.text("id")?.to_owned(),
            start: section.number("pe_start")?.checked_mul(SECTOR)?,
            extents: section.number("pe_count")?,
        })
    }
}

/// The names of volumes that have to do with snapshots.
#[derive(Debug, Default)]
struct Snapshots {
    /// Those that hold what a snapshot keeps, and those being rolled back to one: neither reads as
    /// what its segments say.
    stores: BTreeSet<String>,
    /// Those that snapshots are of.
    origins: BTreeSet<String>,
}

impl Snapshots {
    fn of(group: &Section) -> Self {
        let mut found = Self::default();
        let volumes = group.section("logical_volumes").into_iter().flat_map(Section::sections);
        let segments = volumes.flat_map(|(_, volume)| volume.sections());
        for (_, segment) in segments.filter(|(_, one)| one.text("type") == Some("snapshot")) {
            let name = |field| segment.text(field).map(str::to_owned);
            let merged = segment.text("merging_store").and_then(|_| name("origin"));
            let stores = [name("cow_store"), name("merging_store"), merged];
            found.stores.extend(stores.into_iter().flatten());
            found.origins.extend(name("origin"));
        }
        found
    }
}

/// What is needed to understand one volume.
struct Context<'a> {
    /// Bytes of an extent.
    extent: u64,
    names: BTreeMap<&'a str, (usize, &'a Member)>,
    snapshots: Snapshots,
}

impl Context<'_> {
    fn volume(&self, name: &str, volume: &Section) -> Described {
        let types: Vec<&str> =
            volume.sections().filter_map(|(_, segment)| segment.text("type")).collect();
        let other = types.iter().find(|kind| **kind != "striped");
        let (kind, layout) = if self.snapshots.stores.contains(name) {
            ("snapshot", Layout::Unsupported)
        } else if let Some(other) = other {
            (*other, Layout::Unsupported)
        } else {
            match self.segments(volume) {
                Ok(Some(segments)) if segments.iter().all(|one| one.areas.len() == 1) => {
                    ("linear", Layout::Known(segments))
                }
                Ok(Some(segments)) => ("striped", Layout::Known(segments)),
                Ok(None) => ("stacked", Layout::Unsupported),
                Err(reason) => ("striped", Layout::Corrupt(reason)),
            }
        };
        let status = volume.list("status");
        Described {
            name: name.to_owned(),
            uuid: volume.text("id").unwrap_or_default().to_owned(),
            visible: status.contains(&Value::Text("VISIBLE".into())),
            kind: kind.to_owned(),
            has_snapshots: self.snapshots.origins.contains(name),
            layout,
        }
    }

    /// The segments in order, without gaps; `None` where one stands on another logical volume.
    fn segments(&self, volume: &Section) -> Result<Option<Vec<Segment>>, String> {
        let mut segments = Vec::new();
        for (name, section) in volume.sections() {
            match self.segment(section) {
                Some(Some(segment)) => segments.push(segment),
                Some(None) => return Ok(None),
                None => return Err(format!("its {name} leads nowhere")),
            }
        }
        segments.sort_by_key(|segment| segment.start);
        let mut end = 0;
        for segment in &segments {
            if segment.start != end {
                return Err(format!("byte {end} is in no segment, or in two"));
            }
            end = segment.start.checked_add(segment.len).ok_or("it is too long")?;
        }
        Ok(Some(segments))
    }

    /// `None` where its numbers make no sense; `Some(None)` where it stands on another logical
    /// volume.
    fn segment(&self, section: &Section) -> Option<Option<Segment>> {
        let first = section.number("start_extent")?;
        let count = section.number("extent_count").filter(|count| *count > 0)?;
        let areas = section.list("stripes");
        let stripes = section.number("stripe_count").filter(|count| *count > 0)?;
        let pairs = areas.chunks_exact(2);
        let complete = pairs.remainder().is_empty() && pairs.len() as u64 == stripes;
        let each = count / stripes;
        if !complete || count % stripes != 0 {
            return None;
        }
        let mut found = Vec::new();
        for pair in pairs {
            let [Value::Text(name), Value::Number(at)] = pair else { return None };
            let Some((index, member)) = self.names.get(name.as_str()) else {
                return Some(None);
            };
            at.checked_add(each).filter(|end| *end <= member.extents)?;
            let bytes = at.checked_add(each)?.checked_mul(self.extent)?;
            member.start.checked_add(bytes)?;
            found.push((*index, member.start + at * self.extent));
        }
        let len = count.checked_mul(self.extent)?;
        let stripe = match stripes {
            1 => len,
            _ => section.number("stripe_size")?.checked_mul(SECTOR)?,
        };
        // Whole stripes only, so that each area ends where its extents do.
        if stripe == 0 || !(each * self.extent).is_multiple_of(stripe) {
            return None;
        }
        Some(Some(Segment { start: first.checked_mul(self.extent)?, len, stripe, areas: found }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(volumes: &str) -> Description {
        let text = format!(
            "vg {{ id = \"i\" seqno = 7 extent_size = 8192
             physical_volumes {{ pv0 {{ id = \"a\" pe_start = 2048 pe_count = 10 }}
                                 pv1 {{ id = \"b\" pe_start = 4096 pe_count = 10 }} }}
             logical_volumes {{ {volumes} }} }}"
        );
        Description::parse(0, &Section::parse(text.as_bytes()).unwrap()).unwrap()
    }

    fn volume(segments: &str) -> Described {
        describe(&format!("v {{ id = \"v\" status = [\"VISIBLE\"] {segments} }}")).volumes.remove(0)
    }

    #[test]
    fn names_what_it_does_not_open() {
        for kind in ["thin", "thin-pool", "raid1", "raid5_ls", "mirror", "cache", "vdo", "error"] {
            let found = volume(&format!(
                "segment1 {{ start_extent = 0 extent_count = 2 type = \"{kind}\" }}"
            ));
            assert_eq!(found.kind, kind);
            assert!(matches!(found.layout, Layout::Unsupported));
        }
        let stacked = volume(
            "segment1 { start_extent = 0 extent_count = 2 type = \"striped\" stripe_count = 1
             stripes = [\"other_lv\", 0] }",
        );
        assert_eq!(stacked.kind, "stacked");
    }

    #[test]
    fn a_snapshots_store_is_no_volume() {
        let plain = |name: &str, at: u64| {
            format!(
                "{name} {{ status = [\"VISIBLE\"] segment1 {{ start_extent = 0 extent_count = 1
                 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", {at}] }} }}"
            )
        };
        let snapshot = |store: &str| {
            format!(
                "snapshot0 {{ segment1 {{ start_extent = 0 extent_count = 1 type = \"snapshot\"
                 origin = \"root\" {store} = \"snap\" }} }}"
            )
        };
        for (store, root) in [("cow_store", "linear"), ("merging_store", "snapshot")] {
            let text = [plain("root", 0), plain("snap", 1), snapshot(store)].join("\n");
            let volumes = describe(&text).volumes;
            let kinds: Vec<&str> = volumes.iter().map(|volume| volume.kind.as_str()).collect();
            assert_eq!(kinds, [root, "snapshot", "snapshot"]);
            let origins: Vec<bool> = volumes.iter().map(|volume| volume.has_snapshots).collect();
            assert_eq!(origins, [true, false, false]);
        }
    }

    #[test]
    fn segments_that_contradict_are_refused() {
        let segment = |first: u64, count: u64, stripes: &str| {
            format!(
                "segment{first} {{ start_extent = {first} extent_count = {count} type = \"striped\"
                 {stripes} }}"
            )
        };
        let one = "stripe_count = 1 stripes = [\"pv0\", 0]";
        let two = "stripe_count = 2 stripe_size = 128 stripes = [\"pv0\", 0, \"pv1\", 3]";
        let sound = volume(&(segment(0, 2, one) + &segment(2, 4, two)));
        let Layout::Known(segments) = sound.layout else { panic!() };
        let extent = 8192 * 512;
        assert_eq!(
            segments[1],
            Segment {
                start: 2 * extent,
                len: 4 * extent,
                stripe: 65536,
                areas: vec![(0, 2048 * 512), (1, 4096 * 512 + 3 * extent)],
            }
        );
        for bad in [
            segment(1, 2, one),
            segment(0, 2, one) + &segment(1, 2, one),
            segment(0, 2, one) + &segment(3, 2, one),
            segment(0, 11, one),
            segment(0, 0, one),
            segment(0, 3, two),
            segment(0, 2, "stripe_count = 0 stripes = []"),
            segment(0, 2, "stripe_count = 2 stripes = [\"pv0\", 0, \"pv1\", 0]"),
            segment(0, 2, "stripe_count = 1 stripes = [\"pv0\"]"),
            segment(0, 2, "stripe_count = 1 stripes = [\"pv0\", 18446744073709551615]"),
            segment(0, 2, "stripe_count = 2 stripe_size = 100 stripes = [\"pv0\", 0, \"pv1\", 0]"),
            segment(0, 18_446_744_073_709_551_615, one),
        ] {
            assert!(matches!(volume(&bad).layout, Layout::Corrupt(_)), "{bad}");
        }
    }
}
