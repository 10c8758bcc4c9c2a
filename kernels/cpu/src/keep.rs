//! Keeping the largest elements, or random ones, and zeroing the others.

use std::array;

use mixdown_ops::Real;
use mixdown_ops::backend::Improbable;
use mixdown_ops::random::{Stream, is_probability, keep_below, uniform_bits};
use mixdown_ops::real::Key;
use mixdown_ops::selection::Cut;

use crate::block::{Block, CHUNK, Chunk};
use crate::features::{Features, Kernel};

/// Keeps what a cut lets through. `first` is the index within the tensor of the block's first element.
pub(crate) fn keep_largest<R: Real>(
    features: Features,
    cut: Cut,
    first: u64,
    elements: usize,
    from: &Block<R>,
    to: &mut Block<R>,
) {
    let above = R::Key::narrow(cut.key.saturating_add(1));
    let from_key = R::Key::narrow(cut.key);
    // Ties survive before `split`. In all blocks of a tensor but one that is the end or the start.
    let split = cut.ties_before.saturating_sub(first).min(elements as u64) as usize;
    let bound = if split == elements && cut != Cut::NONE { from_key } else { above };
    let chunks = (from.chunks(elements), to.chunks_mut(elements));
    features.run(Largest { from: chunks.0, to: chunks.1, bound });
    if split > 0 && split < elements {
        let from = from.elements(split);
        for (from, to) in from.iter().zip(to.0.as_flattened_mut()) {
            *to = if from.key() >= from_key { *from } else { R::ZERO };
        }
    }
}

struct Largest<'a, R: Real> {
    from: &'a [Chunk<R>],
    to: &'a mut [Chunk<R>],
    /// The least key that is kept.
    bound: R::Key,
}

impl<R: Real> Kernel for Largest<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (from, to) in self.from.iter().zip(self.to) {
            *to = from.map(|value| if value.key() >= self.bound { value } else { R::ZERO });
        }
    }
}

/// Keeps each element with a probability, by the stream of `key`.
pub(crate) fn keep_random<R: Real>(
    features: Features,
    key: u64,
    density: f64,
    first: u64,
    elements: usize,
    from: &Block<R>,
    to: &mut Block<R>,
) {
    let below = keep_below(density);
    let Ok(narrow) = u32::try_from(below) else {
        // 2³²: all bits are below it.
        to.0 = from.0;
        return;
    };
    let last = first + elements.saturating_sub(1) as u64;
    if first >> 32 == last >> 32 {
        let stream = Stream::new(key, (first >> 32) as u32);
        let (from, to) = (from.chunks(elements), to.chunks_mut(elements));
        features.run(Random { from, to, stream, first: first as u32, below: narrow });
        return;
    }
    // A block that starts within another's reach of 2³²; none does in whole pieces.
    let numbers = from.elements(elements).iter().zip(to.0.as_flattened_mut());
    for (index, (from, to)) in (first..).zip(numbers) {
        *to = if u64::from(uniform_bits(key, index)) < below { *from } else { R::ZERO };
    }
}

/// Keeps each element with a probability of its own. Gives the first that is none.
pub(crate) fn keep_random_each<R: Real>(
    key: u64,
    densities: &Block<R>,
    first: u64,
    elements: usize,
    from: &Block<R>,
    to: &mut Block<R>,
) -> Option<Improbable> {
    let mut improbable = None;
    let numbers = densities.elements(elements).iter().zip(from.elements(elements));
    let numbers = numbers.zip(to.0.as_flattened_mut());
    for (index, ((density, from), to)) in (first..).zip(numbers) {
        let found = density.to_f64();
        if !is_probability(found) && improbable.is_none() {
            improbable = Some(Improbable { element: index, found });
        }
        let below = keep_below(found);
        *to = if u64::from(uniform_bits(key, index)) < below { *from } else { R::ZERO };
    }
    improbable
}

struct Random<'a, R> {
    from: &'a [Chunk<R>],
    to: &'a mut [Chunk<R>],
    stream: Stream,
    /// Lower half of the first element's index.
    first: u32,
    below: u32,
}

impl<R: Real> Kernel for Random<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut index = self.first;
        for (from, to) in self.from.iter().zip(self.to) {
            *to = array::from_fn(|lane| {
                let bits = self.stream.bits(index.wrapping_add(lane as u32));
                if bits < self.below { from[lane] } else { R::ZERO }
            });
            index = index.wrapping_add(CHUNK as u32);
        }
    }
}
