//! Reads stretches of input tensors, and asks for what will be read soon.

use std::sync::atomic::{AtomicU64, Ordering};

use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::index::{Index, TensorEntry};
use mixdown_checkpoint::shown::shown;
use mixdown_checkpoint::source::ByteSource;
use mixdown_diagnostics::Diagnostic;
use mixdown_ops::program::PIECE;
use mixdown_plan::TensorRef;

use crate::progress::Progress;
use crate::scheduler::Failure;

/// Pieces that are asked for at a time, ahead of the one that is read: 2 MiB of a 16-bit tensor,
/// well above what the kernel reads ahead by itself and well below any page cache.
const AHEAD: u64 = 16;

/// The data of one input checkpoint.
pub struct Source<'a> {
    /// What it holds.
    pub index: &'a Index,
    /// Its files, in the order of [`Index::shards`].
    pub shards: Vec<Box<dyn ByteSource + 'a>>,
}

/// The data of all input checkpoints.
pub(crate) struct Inputs<'a> {
    models: &'a [String],
    sources: &'a [Source<'a>],
    progress: &'a dyn Progress,
    read: AtomicU64,
    /// Of packed tensors that are read across, and of computed ones.
    blocks: Blocks,
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(
        models: &'a [String],
        sources: &'a [Source<'a>],
        progress: &'a dyn Progress,
    ) -> Self {
        let blocks = Blocks::over(sources.iter().map(|source| source.index));
        Self { models, sources, progress, read: AtomicU64::new(0), blocks }
    }

    /// What the index says of a tensor.
    pub(crate) fn entry(&self, tensor: TensorRef) -> &'a TensorEntry {
        &self.sources[tensor.model as usize].index.tensors()[tensor.tensor as usize]
    }

    /// The file of a tensor, as messages show it.
    pub(crate) fn file(&self, tensor: TensorRef) -> &'a str {
        &self.sources[tensor.model as usize].index.shard_of(self.entry(tensor)).shown
    }

    /// The bytes of the file of a tensor.
    pub(crate) fn shard(&self, tensor: TensorRef) -> &'a dyn ByteSource {
        let shard = self.entry(tensor).shard as usize;
        &*self.sources[tensor.model as usize].shards[shard]
    }

    /// Name of the model, as the recipe writes it.
    pub(crate) fn model(&self, tensor: TensorRef) -> &'a str {
        &self.models[tensor.model as usize]
    }

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Reads the elements from `first` on that fill `buffer`.
    pub(crate) fn read(
        &self,
        tensor: TensorRef,
        first: u64,
        buffer: &mut [u8],
    ) -> Result<(), Failure> {
        let entry = self.entry(tensor);
        let shards = &self.sources[tensor.model as usize].shards;
        let from = |shard: u32, offset: u64, buffer: &mut [u8]| {
            shards[shard as usize].read_exact_at(offset, buffer)
        };
        match entry.read(first, buffer, &from, &self.blocks) {
            Ok(()) => {
                let count = (buffer.len() / entry.dtype.bytes()) as u64;
                let (_, bytes) = entry.stored_stretch(first, count);
                self.read.fetch_add(bytes, Ordering::Relaxed);
                self.progress.bytes(bytes, 0);
                Ok(())
            }
            Err(error) => Err(Failure::Input(Box::new(self.describe(error.diagnostic(), tensor)))),
        }
    }

    /// Reads bytes of a part of a packed tensor, counted from the part's own first one.
    pub(crate) fn read_part(
        &self,
        tensor: TensorRef,
        part: &TensorEntry,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Failure> {
        let shard = &self.sources[tensor.model as usize].shards[part.shard as usize];
        match shard.read_exact_at(part.offset + offset, buffer) {
            Ok(()) => {
                self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                self.progress.bytes(buffer.len() as u64, 0);
                Ok(())
            }
            Err(error) => Err(Failure::Input(Box::new(self.describe(error.diagnostic(), tensor)))),
        }
    }

    /// Adds which tensor of which model it is about.
    pub(crate) fn describe(&self, diagnostic: Diagnostic, tensor: TensorRef) -> Diagnostic {
        diagnostic
            .fact("model", shown(self.model(tensor)))
            .fact("tensor", shown(&self.entry(tensor).name))
    }

    /// Asks for the first stretch of a tensor.
    pub(crate) fn expect_start(&self, tensor: TensorRef) {
        self.expect(tensor, 0, 2 * AHEAD);
    }

    /// Asks for a stretch some way ahead, when the piece that is read now begins a new one.
    pub(crate) fn expect_after(&self, tensor: TensorRef, piece: u64) {
        if piece.is_multiple_of(AHEAD) {
            self.expect(tensor, piece + AHEAD, AHEAD);
        }
    }

    fn expect(&self, tensor: TensorRef, first_piece: u64, pieces: u64) {
        let entry = self.entry(tensor);
        let elements = entry.shape.elements();
        let first = elements.min(first_piece.saturating_mul(PIECE));
        let count = (elements - first).min(pieces * PIECE);
        if count > 0 {
            // Of a packed tensor about where its codes are: a wish that is wrong costs nothing.
            let (start, bytes) = entry.stored_stretch(first, count);
            self.shard(tensor).will_need(entry.offset + start, bytes);
        }
    }
}
