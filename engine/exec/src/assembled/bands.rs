//! Rows of transposed tensors, read in bands: a few rows of one are spread over all of the file, and are
//! worth reading only together with those that follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use mixdown_plan::{Assembled, PatchSource, Plan};

use super::{SCRATCH_BYTES, read};
use crate::context::lock;
use crate::read::Inputs;
use crate::scheduler::Failure;

/// Bytes of a band: of a matrix of 4096 columns in 16 bits it has 256 rows, so that the file is read in
/// stretches of 512 bytes.
const BAND_BYTES: u64 = 2 << 20;

/// Bands that are kept for each thread: the one that it reads, and the one before.
const KEPT: usize = 2;

/// What bands take for each thread: those that are kept, one that is no longer and still in use, and the
/// scratch of one.
pub(crate) const BYTES_PER_THREAD: u64 = (KEPT as u64 + 2) * BAND_BYTES;

/// Position among the assembled tensors of a plan, and number of the band.
type Key = (u32, u64);

/// Bytes of a band; none while nobody has read them.
type Band = Arc<Mutex<Option<Arc<Vec<u8>>>>>;

/// The bands that were read last.
pub(crate) struct Bands {
    most: usize,
    kept: Mutex<VecDeque<(Key, Band)>>,
}

/// Whether a tensor is read in bands: one with columns that lie apart in a file, whose rows are not too long.
pub(crate) fn is_banded(assembled: &Assembled) -> bool {
    if assembled.columns.saturating_mul(assembled.dtype.bytes() as u64) > BAND_BYTES {
        return false;
    }
    let is_spread = |from: &PatchSource, width: u64| match from {
        PatchSource::Tensor { column_step, .. } => *column_step != 1 && width > 1,
        PatchSource::Fill(_) => false,
    };
    assembled
        .patches
        .iter()
        .any(|patch| is_spread(&patch.from, patch.columns.end - patch.columns.start))
}

/// Whether anything of a plan is read in bands.
pub(crate) fn has_bands(plan: &Plan) -> bool {
    plan.assembled.iter().any(|assembled| is_banded(assembled))
}

impl Bands {
    pub(crate) fn new(threads: usize) -> Self {
        Self { most: KEPT * threads, kept: Mutex::default() }
    }

    /// Reads the elements from `first` on that fill `out`.
    pub(crate) fn read(
        &self,
        inputs: &Inputs<'_>,
        (number, assembled): (u32, &Assembled),
        first: u64,
        mut out: &mut [u8],
    ) -> Result<(), Failure> {
        let width = assembled.dtype.bytes() as u64;
        let row_bytes = assembled.columns * width;
        let rows = (BAND_BYTES / row_bytes.max(1)).clamp(1, assembled.rows.max(1));
        let mut at = first * width;
        while !out.is_empty() {
            let band = at / (rows * row_bytes);
            let begin = band * rows * row_bytes;
            let end = (begin + rows * row_bytes).min(assembled.rows * row_bytes);
            let bytes = self.bytes((number, band), || {
                let mut bytes = vec![0; (end - begin) as usize];
                let mut scratch = vec![0; rows as usize * SCRATCH_BYTES];
                read(inputs, assembled, begin / width, &mut bytes, &mut scratch)?;
                Ok(bytes)
            })?;
            let from = &bytes[(at - begin) as usize..];
            let count = from.len().min(out.len());
            let (part, rest) = out.split_at_mut(count);
            part.copy_from_slice(&from[..count]);
            out = rest;
            at += count as u64;
        }
        Ok(())
    }

    /// The bytes of a band, read by whoever needs them first.
    fn bytes(
        &self,
        key: Key,
        fill: impl FnOnce() -> Result<Vec<u8>, Failure>,
    ) -> Result<Arc<Vec<u8>>, Failure> {
        let band = self.band(key);
        let mut bytes = lock(&band);
        if let Some(bytes) = &*bytes {
            return Ok(Arc::clone(bytes));
        }
        let filled = Arc::new(fill()?);
        *bytes = Some(Arc::clone(&filled));
        Ok(filled)
    }

    fn band(&self, key: Key) -> Band {
        let mut kept = lock(&self.kept);
        if let Some((_, band)) = kept.iter().find(|(known, _)| *known == key) {
            return Arc::clone(band);
        }
        while kept.len() >= self.most {
            kept.pop_front();
        }
        let band = Band::default();
        kept.push_back((key, Arc::clone(&band)));
        band
    }
}
