//! Whether an adapter changes anything: factors that were never trained give a product of zeros.

use super::Adapter;
use crate::index::{Index, TensorEntry};
use crate::source::{ByteSource, FilePool, ReadError};

impl Adapter {
    /// Whether some product may be other than zero, or some tensor takes the place of another. Reads the first
    /// bytes of two factors, and more only where these are zeros.
    ///
    /// **Errors.** A file that cannot be read.
    pub fn has_effect(&self, files: &Index) -> Result<bool, ReadError> {
        let others = [self.replacements.len(), self.additions.len(), self.magnitudes.len()];
        if others.iter().any(|count| *count > 0) {
            return Ok(true);
        }
        for update in &self.updates {
            let factor = |at: u32| &files.tensors()[at as usize];
            if holds_some(files, factor(update.left))? && holds_some(files, factor(update.right))? {
                return Ok(true);
            }
        }
        // A computed change of zeros has a part of zeros; its places and counts are no such part.
        for delta in &self.deltas {
            let entry = &files.tensors()[delta.adapter_tensor as usize];
            let parts = entry.encoding.iter().flat_map(|encoding| encoding.parts());
            let mut has_some = true;
            for part in parts.filter(|part| part.dtype.is_float()) {
                has_some &= holds_some(files, part)?;
            }
            if has_some {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a tensor has a byte that is not zero.
fn holds_some(files: &Index, tensor: &TensorEntry) -> Result<bool, ReadError> {
    if let Some(encoding) = &tensor.encoding {
        for part in encoding.parts() {
            if !holds_some(files, part)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    const PIECE: u64 = 64 << 10;
    let source = FilePool::new(1).source(files.shard_of(tensor));
    let mut buffer = vec![0; PIECE.min(tensor.bytes()) as usize];
    let mut at = 0;
    while at < tensor.bytes() {
        let piece = &mut buffer[..PIECE.min(tensor.bytes() - at) as usize];
        source.read_exact_at(tensor.offset + at, piece)?;
        if piece.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        at += piece.len() as u64;
    }
    Ok(false)
}
