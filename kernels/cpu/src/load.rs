//! From storage bytes to registers: widening, and the look for NaN and infinity, in one loop.

use std::array;
use std::marker::PhantomData;

use mixdown_ops::Real;
use mixdown_tensor::DType;

use crate::block::{Block, CHUNK, Chunk};
use crate::features::{Features, Kernel};
use crate::storage::{Storage, WithStorage, with_storage};

/// Fills a register with the numbers in `bytes`, at most a block of them.
///
/// With `check_finite`, tells at which of them the first NaN or infinity is.
pub(crate) fn load<R: Real>(
    features: Features,
    dtype: DType,
    bytes: &[u8],
    check_finite: bool,
    to: &mut Block<R>,
) -> Option<usize> {
    let all_finite = with_storage(dtype, Load { features, bytes, check_finite, to });
    if all_finite {
        return None;
    }
    let elements = bytes.len() / dtype.bytes();
    to.elements(elements).iter().position(|value| !value.is_finite())
}

struct Load<'a, R> {
    features: Features,
    bytes: &'a [u8],
    check_finite: bool,
    to: &'a mut Block<R>,
}

impl<R: Real> WithStorage for Load<'_, R> {
    type Output = bool;

    fn with<S: Storage>(self) -> bool {
        let from = S::numbers(self.bytes);
        let to = self.to.chunks_mut(from.len());
        if self.check_finite {
            self.features.run(Widen::<S, R, true> { from, to, storage: PhantomData })
        } else {
            self.features.run(Widen::<S, R, false> { from, to, storage: PhantomData })
        }
    }
}

/// Yields whether all are finite, as far as it looked.
struct Widen<'a, S: Storage, R, const CHECK: bool> {
    from: &'a [S::Bytes],
    to: &'a mut [Chunk<R>],
    storage: PhantomData<S>,
}

impl<S: Storage, R: Real, const CHECK: bool> Kernel for Widen<'_, S, R, CHECK> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let (whole, rest) = self.from.as_chunks::<CHUNK>();
        let mut all_finite = true;
        for (from, to) in whole.iter().zip(self.to.iter_mut()) {
            all_finite &= widen::<S, R, CHECK>(from, to);
        }
        if let Some(to) = self.to.get_mut(whole.len()) {
            let mut padded = [S::ZERO; CHUNK];
            padded[..rest.len()].copy_from_slice(rest);
            all_finite &= widen::<S, R, CHECK>(&padded, to);
        }
        all_finite
    }
}

#[inline(always)]
fn widen<S: Storage, R: Real, const CHECK: bool>(
    from: &[S::Bytes; CHUNK],
    to: &mut Chunk<R>,
) -> bool {
    let wide: Chunk<R> = array::from_fn(|lane| S::widen(from[lane]));
    *to = wide;
    !CHECK || wide.iter().fold(true, |all, value| all & value.is_finite())
}
