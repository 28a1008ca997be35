//! Compressed extents (createType `streamOptimized`): grains are found through the directory that
//! header or footer name, or, where there is none, by walking the markers.

use std::sync::Arc;

use vdisk_core::{Error, ErrorKind, Grain, Result, Store, StoreExt};

use crate::codec::GrainDecoder;
use crate::header::{GTES, SparseHeader};
use crate::marker::{EOS, FOOTER, GRAIN_MARKER, Marker, Walk};
use crate::tables::{Coding, Entry, GrainTables, Shape};
use crate::unit::{SECTOR, to_usize};

const GRAIN: &str = "VMDK compressed grain";
const FOOTER_NAME: &str = "VMDK stream footer";
/// Largest compressed grain taken, bytes: each one read needs a buffer of this size.
const MOST_GRAIN: u64 = 16 << 20;
/// How far before the file's end a footer is looked for, in sectors: some programs pad.
const FOOTER_REACH: u64 = 128;

/// A compressed extent.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The file.
    pub(crate) store: Arc<dyn Store>,
    /// The header at the start.
    pub(crate) header: SparseHeader,
    /// How grains are found.
    pub(crate) index: Index,
    /// Guest bytes.
    pub(crate) len: u64,
    decoder: GrainDecoder,
}

/// How the grains of a stream are found.
#[derive(Debug)]
pub(crate) enum Index {
    /// By directory and tables.
    Tables(Box<GrainTables>),
    /// By a walk over all markers: grain numbers with the byte offset of each one's marker,
    /// sorted, each number once.
    Walked(Vec<(u64, u64)>),
}

impl Stream {
    /// Opens the stream in `store` for an extent of `len` guest bytes. With `recover`, a stream
    /// that was cut short shows the grains before the damage.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) or [`Corrupt`](ErrorKind::Corrupt) where neither
    /// directory nor markers are complete.
    pub(crate) fn open(
        store: Arc<dyn Store>,
        header: SparseHeader,
        len: u64,
        recover: bool,
    ) -> Result<Self> {
        if header.grain > MOST_GRAIN || !header.markers() {
            return Err(Error::unsupported(format!(
                "compressed grains of {} bytes {} markers",
                header.grain,
                if header.markers() { "with" } else { "without" }
            ))
            .in_file(store.name()));
        }
        let directory = match header.directory {
            Some(0) => None,
            Some(at) => Some(at),
            None => find_footer(&store, &header)?.and_then(|(_, footer)| footer.directory),
        };
        let shape = shape(&header, len);
        let tables =
            directory.map(|at| GrainTables::open(store.clone(), shape, at, [0..SECTOR, 0..0]));
        let index = match tables {
            Some(Ok(tables)) if !recover => Index::Tables(Box::new(tables)),
            Some(Err(error)) if !recover => return Err(recoverable(error)),
            _ => Index::Walked(walk(&store, &header, recover)?),
        };
        Ok(Self { store, header, index, len, decoder: GrainDecoder::default() })
    }

    /// What grain `first` is, and how many from it on are absent alike; 1 where it is there.
    pub(crate) fn run(&self, first: u64, stop: u64) -> Result<(Entry, u64)> {
        match &self.index {
            Index::Tables(tables) => match tables.run(first, stop)? {
                (Entry::At(at), _) => Ok((Entry::At(at), 1)),
                run => Ok(run),
            },
            Index::Walked(grains) => {
                let next = grains.partition_point(|(grain, _)| *grain < first);
                Ok(match grains.get(next) {
                    Some((grain, at)) if *grain == first => (Entry::At(*at), 1),
                    Some((grain, _)) => (Entry::Absent, (*grain).min(stop) - first),
                    None => (Entry::Absent, stop - first),
                })
            }
        }
    }

    /// The grain whose marker stands at byte `at`, which tables say is number `number`; `start`
    /// is the guest byte where the extent begins, `store` the file's number.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) where the marker is of another grain or of none.
    pub(crate) fn grain(&self, number: u64, at: u64, start: u64, store: usize) -> Result<Grain> {
        let in_extent = number * self.header.grain;
        let wrong = |message: String| Error::corrupt(GRAIN, at, message).in_file(self.store.name());
        let size = match Marker::read(&*self.store, at)? {
            Marker::Grain { start, size } if start == in_extent => size,
            Marker::Grain { start, .. } => {
                return Err(wrong(format!(
                    "its marker says guest byte {start}, the grain table {in_extent}"
                )));
            }
            Marker::Metadata { .. } => return Err(wrong("there is no grain marker".into())),
        };
        if u64::from(size) > self.most_compressed() {
            return Err(wrong(format!("{size} compressed bytes for {}", self.header.grain)));
        }
        Ok(Grain {
            store,
            at: at + GRAIN_MARKER,
            compressed_len: size,
            start: start + in_extent,
            len: self.header.grain.min(self.len - in_extent),
        })
    }

    /// Compressed bytes that a grain may take: deflate never needs as much.
    pub(crate) fn most_compressed(&self) -> u64 {
        2 * self.header.grain + SECTOR
    }

    /// Inflates a grain that [`Stream::grain`] gave. The extent's last grain may be stored
    /// whole, or only as far as the guest sees it.
    pub(crate) fn inflate(&self, grain: &Grain, out: &mut [u8]) -> Result<()> {
        let wrong = |message: String| {
            Error::corrupt(GRAIN, grain.at, message)
                .in_file(self.store.name())
                .hint("this part of the disk is lost; restore it from a backup")
        };
        if u64::from(grain.compressed_len) > self.most_compressed()
            || out.len() as u64 != grain.len
            || grain.len > self.header.grain
        {
            return Err(Error::internal("a grain that this extent did not give"));
        }
        let mut data = vec![0; to_usize(grain.compressed_len.into())];
        self.store.fetch(&mut data, grain.at, GRAIN)?;
        if grain.len == self.header.grain {
            let got = self.decoder.inflate(&data, out).map_err(wrong)?;
            if got as u64 != grain.len {
                return Err(wrong(format!("it holds {got} bytes, expected {}", grain.len)));
            }
            return Ok(());
        }
        let mut whole = vec![0; to_usize(self.header.grain)];
        self.decoder.inflate(&data, &mut whole).map_err(wrong)?;
        out.copy_from_slice(whole.get(..out.len()).unwrap_or_default());
        Ok(())
    }
}

fn shape(header: &SparseHeader, len: u64) -> Shape {
    Shape {
        coding: Coding::Sectors { zero_grain: header.zero_grain() },
        per_table: GTES,
        grain: header.grain,
        stored: GRAIN_MARKER,
        len,
        floor: header.overhead.max(SECTOR),
    }
}

fn recoverable(error: Error) -> Error {
    error.hint("the stream is incomplete: copy it again, or recover the grains before the damage")
}

/// The footer and where it stands: in the last sectors of the file, with its marker before it.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) where it disagrees with the header.
pub(crate) fn find_footer(
    store: &Arc<dyn Store>,
    header: &SparseHeader,
) -> Result<Option<(u64, SparseHeader)>> {
    let last = store.size()? / SECTOR;
    for back in 2..FOOTER_REACH.min(last) {
        let at = (last - back) * SECTOR;
        let marked = matches!(
            Marker::read(&**store, at - SECTOR),
            Ok(Marker::Metadata { kind: FOOTER, len: SECTOR })
        );
        if !marked {
            continue;
        }
        let footer = SparseHeader::read(&**store, at)?;
        if footer.capacity != header.capacity || footer.grain != header.grain {
            return Err(Error::corrupt(
                FOOTER_NAME,
                at,
                format!(
                    "{} bytes in grains of {}, but the header says {} in grains of {}",
                    footer.capacity, footer.grain, header.capacity, header.grain
                ),
            )
            .in_file(store.name()));
        }
        return Ok(Some((at, footer)));
    }
    Ok(None)
}

/// Finds all grains by their markers. Without `partial`, the walk must reach the end-of-stream
/// marker.
fn walk(store: &Arc<dyn Store>, header: &SparseHeader, partial: bool) -> Result<Vec<(u64, u64)>> {
    let mut walk = Walk::new(store.clone(), header.overhead)?;
    let mut grains = Vec::new();
    loop {
        match walk.step() {
            Ok((_, Marker::Metadata { kind: EOS, .. })) => break,
            Ok((_, Marker::Metadata { .. })) => {}
            Ok((at, Marker::Grain { start, .. }))
                if start < header.capacity && start.is_multiple_of(header.grain) =>
            {
                grains.push((start / header.grain, at));
            }
            Err(error) if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated) => {
                return Err(error);
            }
            Ok(_) | Err(_) if partial => break,
            Ok((at, Marker::Grain { start, .. })) => {
                return Err(recoverable(
                    Error::corrupt(GRAIN, at, format!("its marker says guest byte {start}"))
                        .in_file(store.name()),
                ));
            }
            Err(error) => return Err(recoverable(error)),
        }
    }
    // Later copies of a grain replace earlier ones, as they would when the stream is written out.
    grains.reverse();
    grains.sort_by_key(|(grain, _)| *grain);
    grains.dedup_by_key(|(grain, _)| *grain);
    Ok(grains)
}
