//! From registers to storage bytes, with the one rounding of the result.

use std::array;
use std::marker::PhantomData;

use mixdown_tensor::DType;

use crate::block::{Block, CHUNK, Chunk};
use crate::features::{Features, Kernel};
use crate::storage::{Narrow, Storage, WithStorage, with_storage};

/// Rounds numbers of a register to storage, as many as `bytes` has room for.
pub(crate) fn store<R: Narrow>(
    features: Features,
    dtype: DType,
    from: &Block<R>,
    bytes: &mut [u8],
) {
    with_storage(dtype, Store { features, from, bytes });
}

struct Store<'a, R> {
    features: Features,
    from: &'a Block<R>,
    bytes: &'a mut [u8],
}

impl<R: Narrow> WithStorage for Store<'_, R> {
    type Output = ();

    fn with<S: Storage>(self) {
        let to = S::numbers_mut(self.bytes);
        let from = self.from.chunks(to.len());
        self.features.run(Round::<S, R> { from, to });
    }
}

struct Round<'a, S: Storage, R> {
    from: &'a [Chunk<R>],
    to: &'a mut [S::Bytes],
}

impl<S: Storage, R: Narrow> Kernel for Round<'_, S, R> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (whole, rest) = self.to.as_chunks_mut::<CHUNK>();
        for (from, to) in self.from.iter().zip(whole.iter_mut()) {
            *to = array::from_fn(|lane| S::narrow(from[lane]));
        }
        if let Some(from) = self.from.get(whole.len()) {
            for (from, to) in from.iter().zip(rest) {
                *to = S::narrow(*from);
            }
        }
    }
}

/// Rounds a register to a storage type and widens it again.
pub(crate) fn round<R: Narrow>(
    features: Features,
    dtype: DType,
    from: &Block<R>,
    elements: usize,
    to: &mut Block<R>,
) {
    with_storage(dtype, There { features, from, elements, to });
}

struct There<'a, R> {
    features: Features,
    from: &'a Block<R>,
    elements: usize,
    to: &'a mut Block<R>,
}

impl<R: Narrow> WithStorage for There<'_, R> {
    type Output = ();

    fn with<S: Storage>(self) {
        let from = self.from.chunks(self.elements);
        let to = self.to.chunks_mut(self.elements);
        self.features.run(AndBack::<S, R> { from, to, storage: PhantomData });
    }
}

struct AndBack<'a, S, R> {
    from: &'a [Chunk<R>],
    to: &'a mut [Chunk<R>],
    storage: PhantomData<S>,
}

impl<S: Storage, R: Narrow> Kernel for AndBack<'_, S, R> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (from, to) in self.from.iter().zip(self.to) {
            *to = array::from_fn(|lane| S::widen(S::narrow(from[lane])));
        }
    }
}
