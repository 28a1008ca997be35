//! Deflate of whole grains: zlib streams (RFC 1950), and bare deflate (RFC 1951) when reading.

use std::sync::{Mutex, PoisonError};

use libdeflater::{CompressionLvl, Compressor, Decompressor};
use vdisk_core::{Encoder, Error, Result};

/// Compresses grains; compressors are kept for reuse, one for each thread at work.
pub(crate) struct GrainEncoder {
    grain: usize,
    level: CompressionLvl,
    idle: Mutex<Vec<Compressor>>,
}

impl GrainEncoder {
    /// An encoder of grains of `grain` bytes.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) for a level outside 1 to 12.
    pub(crate) fn new(grain: usize, level: u8) -> Result<Self> {
        let level = match level {
            1..=12 => CompressionLvl::new(level.into()).ok(),
            _ => None,
        };
        let level = level.ok_or_else(|| {
            Error::usage("the compression level is out of range")
                .hint("give a level from 1 (fast) to 12 (small)")
        })?;
        Ok(Self { grain, level, idle: Mutex::default() })
    }
}

impl std::fmt::Debug for GrainEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrainEncoder").field("grain", &self.grain).finish_non_exhaustive()
    }
}

impl Encoder for GrainEncoder {
    /// The last unit is filled up with zeros: every reader takes a whole grain.
    fn encode(&self, unit: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut whole = Vec::new();
        let unit = if unit.len() < self.grain {
            whole.extend_from_slice(unit);
            whole.resize(self.grain, 0);
            whole.as_slice()
        } else {
            unit
        };
        let idle = |pool: &Mutex<Vec<Compressor>>| {
            pool.lock().unwrap_or_else(PoisonError::into_inner).pop()
        };
        let mut compressor = idle(&self.idle).unwrap_or_else(|| Compressor::new(self.level));
        out.resize(compressor.zlib_compress_bound(unit.len()), 0);
        let len = compressor
            .zlib_compress(unit, out)
            .map_err(|e| Error::internal(format!("deflate: {e}")))?;
        out.truncate(len);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
        Ok(())
    }
}

/// Inflates grains; never writes more than the buffer given.
#[derive(Default)]
pub(crate) struct GrainDecoder {
    idle: Mutex<Vec<Decompressor>>,
}

impl std::fmt::Debug for GrainDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GrainDecoder")
    }
}

impl GrainDecoder {
    /// Inflates `data` into `out` and says how many bytes came out; the reason as text where it
    /// is no deflate data or would give more than `out` holds.
    pub(crate) fn inflate(&self, data: &[u8], out: &mut [u8]) -> Result<usize, String> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decompressor = idle.unwrap_or_default();
        let result = if is_zlib(data) {
            decompressor.zlib_decompress(data, out)
        } else {
            decompressor.deflate_decompress(data, out)
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(decompressor);
        result.map_err(|e| e.to_string())
    }
}

/// Whether `data` starts with a zlib header for deflate (RFC 1950, 2.2).
fn is_zlib(data: &[u8]) -> bool {
    match data {
        [cmf, flg, ..] => {
            cmf & 0x0F == 8 && (u16::from(*cmf) * 256 + u16::from(*flg)).is_multiple_of(31)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_whole_and_short_grains() {
        let encoder = GrainEncoder::new(4096, 6).unwrap();
        let decoder = GrainDecoder::default();
        for len in [4096, 512] {
            let unit: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let (mut packed, mut out) = (vec![9; 3], vec![7; 4096]);
            encoder.encode(&unit, &mut packed).unwrap();
            assert_eq!(decoder.inflate(&packed, &mut out), Ok(4096));
            assert_eq!(out[..len], unit);
            assert!(out[len..].iter().all(|byte| *byte == 0));
            assert!(decoder.inflate(&packed, &mut out[..4095]).is_err(), "a bomb must not fit");
        }
    }

    #[test]
    fn takes_bare_deflate() {
        let mut packed = vec![0; 200];
        let len = Compressor::new(CompressionLvl::default())
            .deflate_compress(&[5; 1000], &mut packed)
            .unwrap();
        let mut out = vec![0; 1000];
        assert_eq!(GrainDecoder::default().inflate(&packed[..len], &mut out), Ok(1000));
        assert_eq!(out, [5; 1000]);
    }

    #[test]
    fn levels_are_checked() {
        assert!(GrainEncoder::new(512, 0).is_err());
        assert!(GrainEncoder::new(512, 13).is_err());
    }
}
