//! The loop of an elementwise op, once per shape of its operands, so that a scalar stays a scalar.

use std::array;
use std::marker::PhantomData;

use mixdown_ops::Real;
use mixdown_ops::elementwise::{Elementwise, Visitor};

use crate::block::{Block, Chunk};
use crate::features::{Features, Kernel};

/// An operand of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument<'a, R> {
    Register(&'a Block<R>),
    Scalar(R),
}

/// Applies an op to the first `elements` of its operands.
pub(crate) struct Map<'a, R> {
    pub(crate) features: Features,
    pub(crate) arguments: [Argument<'a, R>; 3],
    pub(crate) elements: usize,
    pub(crate) to: &'a mut Block<R>,
}

impl<R: Real> Visitor for Map<'_, R> {
    type Output = ();

    #[inline(always)]
    fn visit<E: Elementwise>(self) {
        use Argument::{Register, Scalar};
        let zero = Splat(R::ZERO);
        let out = Out::<E, R> {
            features: self.features,
            chunks: self.to.chunks_mut(self.elements),
            op: PhantomData,
        };
        let [a, b, c] = self.arguments;
        match (E::ARITY, a, b, c) {
            (1, Register(a), _, _) => out.fill(a, zero, zero),
            (2, Register(a), Register(b), _) => out.fill(a, b, zero),
            (2, Register(a), Scalar(b), _) => out.fill(a, Splat(b), zero),
            (2, Scalar(a), Register(b), _) => out.fill(Splat(a), b, zero),
            (3, Register(a), Register(b), Register(c)) => out.fill(a, b, c),
            (3, Register(a), Register(b), Scalar(c)) => out.fill(a, b, Splat(c)),
            (3, Register(a), Scalar(b), Register(c)) => out.fill(a, Splat(b), c),
            (3, Register(a), Scalar(b), Scalar(c)) => out.fill(a, Splat(b), Splat(c)),
            (3, Scalar(a), Register(b), Register(c)) => out.fill(Splat(a), b, c),
            (3, Scalar(a), Register(b), Scalar(c)) => out.fill(Splat(a), b, Splat(c)),
            (3, Scalar(a), Scalar(b), Register(c)) => out.fill(Splat(a), Splat(b), c),
            (_, a, b, c) => {
                // All are scalars: the plan folds these, but the value is defined.
                let value = E::apply([a, b, c].map(Argument::scalar));
                out.chunks.as_flattened_mut().fill(value);
            }
        }
    }
}

impl<R: Real> Argument<'_, R> {
    /// The scalar; of an operand beyond the arity, which may be anything, 0.
    fn scalar(self) -> R {
        match self {
            Self::Scalar(value) => value,
            Self::Register(_) => R::ZERO,
        }
    }
}

/// Where operands of one shape are read, chunk by chunk.
trait Source<R>: Copy {
    fn chunk(&self, chunk: usize) -> impl Lanes<R>;
}

/// A chunk of an operand.
trait Lanes<R>: Copy {
    fn lane(self, lane: usize) -> R;
}

#[derive(Clone, Copy)]
struct Splat<R>(R);

impl<R: Real> Source<R> for Splat<R> {
    #[inline(always)]
    fn chunk(&self, _: usize) -> impl Lanes<R> {
        *self
    }
}

impl<R: Real> Lanes<R> for Splat<R> {
    #[inline(always)]
    fn lane(self, _: usize) -> R {
        self.0
    }
}

impl<R: Real> Source<R> for &Block<R> {
    #[inline(always)]
    fn chunk(&self, chunk: usize) -> impl Lanes<R> {
        &self.0[chunk]
    }
}

impl<R: Real> Lanes<R> for &Chunk<R> {
    #[inline(always)]
    fn lane(self, lane: usize) -> R {
        self[lane]
    }
}

/// The op and the chunks it fills.
struct Out<'a, E, R> {
    features: Features,
    chunks: &'a mut [Chunk<R>],
    op: PhantomData<E>,
}

impl<E: Elementwise, R: Real> Out<'_, E, R> {
    #[inline(always)]
    fn fill<A: Source<R>, B: Source<R>, C: Source<R>>(self, a: A, b: B, c: C) {
        self.features.run(Fill { out: self, a, b, c });
    }
}

struct Fill<'a, E, R, A, B, C> {
    out: Out<'a, E, R>,
    a: A,
    b: B,
    c: C,
}

impl<E, R, A, B, C> Kernel for Fill<'_, E, R, A, B, C>
where
    E: Elementwise,
    R: Real,
    A: Source<R>,
    B: Source<R>,
    C: Source<R>,
{
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (chunk, out) in self.out.chunks.iter_mut().enumerate() {
            let (a, b, c) = (self.a.chunk(chunk), self.b.chunk(chunk), self.c.chunk(chunk));
            // The chunk is made before it is written: else it might overlap an operand, for all that
            // the compiler knows.
            *out = array::from_fn(|lane| E::apply([a.lane(lane), b.lane(lane), c.lane(lane)]));
        }
    }
}
