//! Mending what has one right answer, and giving back space that nothing uses.
//!
//! Whatever changes begins with a new file write GUID in both headers (2.2.2.1), which also mends a
//! header that was damaged or stale. The data write GUID stays: what the guest sees does not change,
//! so children stay valid. Of the table entries only those are changed whose bytes mean nothing;
//! each lies in one sector, which no power cut tears, so they need no log.

use std::sync::Arc;

use uuid::Uuid;
use vdisk_core::repair::Scope;
use vdisk_core::{Findings, Mends, Result, Store, StoreExt};

use crate::bat::{ENTRY, Payload, Slot, State};
use crate::check::{space, stored, wrong_flags};
use crate::header::{self, Current, Slots};
use crate::open::{LogState, OpenOptions, VhdxLayer, open};
use crate::region::{self, Regions};
use crate::replay::Replay;
use crate::{MAX_FILE, session};

/// Most table entries that are mended in one go.
const MOST_ENTRIES: usize = 1 << 16;

/// Mends in `store` what has one right answer, in an order that leaves an image that opens at
/// every step. A log that waits is replayed whatever the scope: before, nothing else may change.
///
/// # Errors
/// Those of opening the image; the host's.
pub fn mend(store: &Arc<dyn Store>, scope: Scope, mends: &mut Mends) -> Result<()> {
    header::check_identifier(&**store)?;
    let file_len = store.size()?;
    let slots = Slots::read(&**store);
    let mut current = slots.current(file_len)?;
    let waited = !current.header.log.is_nil();
    if waited {
        let Some(found) = Replay::find(&**store, &current.header, file_len)? else { return Ok(()) };
        session::replay(&**store, &mut current, Some(&found))?;
        let at = current.header.log_offset;
        mends.add("vhdx-log-dirty", at, "replayed the log");
    }
    if scope == Scope::Leaks {
        return Ok(());
    }
    let mut session = Session { store, current, begun: waited };
    session.headers(&slots, mends)?;
    session.regions(mends)?;
    session.flags(mends)?;
    session.entries(mends)
}

/// Gives back the space of `store` that nothing uses: at the end by a shorter file, elsewhere as
/// holes. The image must be free of corruptions, and no log may wait.
///
/// # Errors
/// As [`mend`].
pub fn reclaim(store: &Arc<dyn Store>, mends: &mut Mends) -> Result<()> {
    let layer = open(store.clone(), &OpenOptions::default())?;
    let file_len = layer.map.file_len;
    if layer.log_state != LogState::Clean || file_len > MAX_FILE {
        return Ok(());
    }
    let taken = space(&layer, &mut Findings::new())?;
    let mut session = Session { store, current: layer.current.clone(), begun: false };
    for gap in taken.gaps(file_len) {
        let len = gap.end - gap.start;
        if gap.end < file_len && stored(&**store, &gap)? > 0 {
            session.begin()?;
            store.clear(gap.start, len, "free space")?;
            mends.add("vhdx-space-leaked", gap.start, format!("gave back {len} bytes as a hole"));
        }
    }
    store.flush()?;
    let end = taken.end();
    if end < file_len {
        session.begin()?;
        store.resize(end)?;
        store.flush()?;
        let what = format!("cut {} bytes off the file", file_len - end);
        mends.add("vhdx-space-leaked", end, what);
    }
    Ok(())
}

/// A repair under way.
struct Session<'a> {
    store: &'a Arc<dyn Store>,
    current: Current,
    /// The headers say that the file was changed.
    begun: bool,
}

impl Session<'_> {
    /// Says in both headers that the file is changed, before it is.
    fn begin(&mut self) -> Result<()> {
        if !self.begun {
            self.current.header.file_write = Uuid::new_v4();
            self.current.write(&**self.store)?;
            self.begun = true;
        }
        Ok(())
    }

    /// `slots` is what the headers were at first.
    fn headers(&mut self, slots: &Slots, mends: &mut Mends) -> Result<()> {
        let codes = slots.slots.iter().zip(header::SLOTS);
        let invalid: Vec<u64> = codes.filter(|(slot, _)| slot.is_err()).map(|(_, at)| at).collect();
        if let [at] = invalid.as_slice() {
            self.begin()?;
            mends.add("vhdx-header-invalid", *at, "wrote the header anew from the other one");
        } else if let [Ok(first), Ok(second)] = &slots.slots
            && (first.data_write, first.log) != (second.data_write, second.log)
        {
            let older = header::slot_offset(usize::from(first.sequence > second.sequence));
            self.begin()?;
            mends.add("vhdx-header-stale", older, "wrote the older header anew");
        }
        Ok(())
    }

    /// Writes the region table that counts over the copy that does not.
    fn regions(&mut self, mends: &mut Mends) -> Result<()> {
        let log = self.current.header.log_range();
        let regions = Regions::read(&**self.store, log, self.store.size()?)?;
        if regions.identical {
            return Ok(());
        }
        let [first, second] = region::COPIES;
        let (good, bad) =
            if regions.faults[0].is_none() { (first, second) } else { (second, first) };
        let code = match regions.faults {
            [None, None] => "vhdx-region-tables-differ",
            _ => "vhdx-region-table-invalid",
        };
        let mut table = vec![0; region::TABLE_BYTES];
        self.store.fetch(&mut table, good, "VHDX region table")?;
        self.begin()?;
        self.store.put(&table, bad, "VHDX region table")?;
        self.store.flush()?;
        mends.add(code, bad, format!("copied the region table from byte {good}"));
        Ok(())
    }

    /// Gives metadata items the flags that they must have.
    fn flags(&mut self, mends: &mut Mends) -> Result<()> {
        let layer = self.open()?;
        for wrong in wrong_flags(&layer) {
            self.begin()?;
            self.store.put(&wrong.expected.to_le_bytes(), wrong.at, "VHDX metadata table")?;
            let what = format!("set the flags of item {} to {:#x}", wrong.id, wrong.expected);
            mends.add("vhdx-metadata-flags", wrong.at, what);
        }
        self.store.flush()
    }

    /// Takes the offsets out of entries for blocks of zeros, which Hyper-V refuses.
    fn entries(&mut self, mends: &mut Mends) -> Result<()> {
        let layer = self.open()?;
        let map = &layer.map;
        let mut kept = Vec::new();
        map.walk(|index, raw| {
            let zero = Payload::parse(raw).is_ok_and(|p| p.state == State::Zero && p.offset != 0);
            if zero
                && matches!(map.geometry.slot(index), Slot::Payload(_))
                && kept.len() < MOST_ENTRIES
            {
                kept.push(index);
            }
            Ok(())
        })?;
        let Some(first) = kept.first() else { return Ok(()) };
        let at = map.bat.offset() + first * ENTRY;
        self.begin()?;
        for index in &kept {
            let entry = Payload::ZERO.encode().to_le_bytes();
            self.store.put(&entry, map.bat.offset() + index * ENTRY, "VHDX BAT")?;
        }
        self.store.flush()?;
        let what = format!("took the offset out of {} entries of zeros", kept.len());
        mends.add("vhdx-bat-offset-kept", at, what);
        Ok(())
    }

    fn open(&self) -> Result<VhdxLayer> {
        open(self.store.clone(), &OpenOptions::default())
    }
}
