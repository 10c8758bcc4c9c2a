//! Registers: one block of numbers each, in chunks that loops take whole.

use mixdown_ops::Real;
use mixdown_ops::program::BLOCK;

/// Numbers in a chunk. Loops run over whole chunks, so that they have no remainder; what lies
/// beyond the elements of a last, shorter block is computed and never looked at.
pub(crate) const CHUNK: usize = 64;

/// Chunks in a block.
pub(crate) const CHUNKS: usize = BLOCK / CHUNK;

/// A chunk.
pub(crate) type Chunk<R> = [R; CHUNK];

/// What a register holds, aligned to a cache line and to the longest vector.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Block<R>(pub(crate) [Chunk<R>; CHUNKS]);

impl<R: Real> Block<R> {
    /// A block of zeros.
    pub(crate) fn zeros() -> Box<Self> {
        Box::new(Self([[R::ZERO; CHUNK]; CHUNKS]))
    }

    /// The chunks that hold the first `elements`.
    #[inline(always)]
    pub(crate) fn chunks(&self, elements: usize) -> &[Chunk<R>] {
        &self.0[..elements.div_ceil(CHUNK)]
    }

    /// The chunks that hold the first `elements`.
    #[inline(always)]
    pub(crate) fn chunks_mut(&mut self, elements: usize) -> &mut [Chunk<R>] {
        &mut self.0[..elements.div_ceil(CHUNK)]
    }

    /// The first `elements` themselves.
    #[inline(always)]
    pub(crate) fn elements(&self, elements: usize) -> &[R] {
        &self.0.as_flattened()[..elements]
    }
}
