//! Whether an adapter changes anything: factors that were never trained give a product of zeros.

use super::{Adapter, AddedFrom, tied};
use crate::index::{Index, TensorEntry};
use crate::source::{ByteSource, FilePool, ReadError};

impl Adapter {
    /// Forgets tensors stored beside their updates that are the base's own to the last bit: peft stores an
    /// embedding or an output layer that has an update whole, though it was not trained so.
    ///
    /// **Errors.** A file that cannot be read.
    pub fn forget_copies(&mut self, files: &Index, base: &Index) -> Result<(), ReadError> {
        let entry = |index: &'_ Index, at: u32| index.tensors()[at as usize].clone();
        let mut kept = Vec::with_capacity(self.replacements.len());
        for whole in std::mem::take(&mut self.replacements) {
            let is_updated = self.updates.iter().any(|one| one.base_tensor == whole.base_tensor);
            let own = entry(files, whole.adapter_tensor);
            let other = entry(base, whole.base_tensor);
            if !is_updated || !is_same(files, &own, base, &other)? {
                kept.push(whole);
            }
        }
        self.replacements = kept;
        self.forget_second_names(files)?;
        for addition in &mut self.additions {
            let (AddedFrom::Adapter(at), Some(update)) = (addition.from, addition.update) else {
                continue;
            };
            let (own, other) = (entry(files, at), entry(base, update.base_tensor));
            if is_same(files, &own, base, &other)? {
                addition.from = AddedFrom::Base(update.base_tensor);
            }
        }
        Ok(())
    }

    /// Forgets output layers that are stored beside the embedding that they are tied to, and are it to the last
    /// bit: tensors that were trained as one.
    fn forget_second_names(&mut self, files: &Index) -> Result<(), ReadError> {
        let mut kept = Vec::with_capacity(self.additions.len());
        for addition in std::mem::take(&mut self.additions) {
            let is_own = tied::is_own(&self.config, &addition.name);
            let mut is_second = false;
            if let (AddedFrom::Adapter(at), Some(of), None, false) =
                (addition.from, addition.second_of, addition.update, is_own)
            {
                let mut wholes = self.replacements.iter();
                if let Some(whole) = wholes.find(|whole| whole.base_tensor == of) {
                    let entry = |at: u32| &files.tensors()[at as usize];
                    is_second = is_same(files, entry(at), files, entry(whole.adapter_tensor))?;
                }
            }
            if !is_second {
                kept.push(addition);
            }
        }
        self.additions = kept;
        Ok(())
    }

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

/// Whether two stored tensors have the same bytes.
pub(super) fn is_same(
    files: &Index,
    own: &TensorEntry,
    base: &Index,
    other: &TensorEntry,
) -> Result<bool, ReadError> {
    const PIECE: u64 = 1 << 20;
    let is_alike = own.dtype == other.dtype && own.shape == other.shape;
    if !is_alike || own.encoding.is_some() || other.encoding.is_some() {
        return Ok(false);
    }
    let pool = FilePool::new(2);
    let sources = [pool.source(files.shard_of(own)), pool.source(base.shard_of(other))];
    let mut buffers = [const { Vec::new() }; 2];
    let mut at = 0;
    while at < own.bytes() {
        let count = PIECE.min(own.bytes() - at) as usize;
        for ((source, buffer), entry) in sources.iter().zip(&mut buffers).zip([own, other]) {
            buffer.resize(count, 0);
            source.read_exact_at(entry.offset + at, buffer)?;
        }
        if buffers[0] != buffers[1] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
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
