//! Sums in f64 whose order does not depend on threads, stretches or instruction sets.
//!
//! A piece has 16 lanes: element i goes to lane i mod 16, and at the end the lanes are joined by
//! halves. Lanes are what vector units can add side by side without changing the order.

use mixdown_ops::{Real, Reduction};

use crate::block::CHUNK;
use crate::features::{Features, Kernel};
use crate::map::Argument;

/// Part of the result's definition. 16 sums fill two of the longest vectors.
const LANES: usize = 16;

/// The sums of one reduction over a piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    reduction: Reduction,
    sums: [f64; LANES],
}

impl Lanes {
    pub(crate) fn new(reduction: Reduction) -> Self {
        Self { reduction, sums: [0.0; LANES] }
    }

    /// Takes in the first `elements` of a block; `b` is only read by reductions over two values.
    pub(crate) fn add<R: Real>(
        &mut self,
        features: Features,
        a: Argument<'_, R>,
        b: Argument<'_, R>,
        elements: usize,
    ) {
        // Sums over a scalar are rare: it is spread out rather than given loops of its own.
        let (mut room_a, mut room_b) = (Vec::new(), Vec::new());
        let a = spread(a, elements, &mut room_a);
        let b = spread(b, elements, &mut room_b);
        let sums = &mut self.sums;
        match self.reduction {
            Reduction::Sum => accumulate(features, a, b, sums, |sum, a, _| sum + a),
            Reduction::SumAbsolute => accumulate(features, a, b, sums, |sum, a, _| sum + a.abs()),
            Reduction::SumProduct => accumulate(features, a, b, sums, |sum, a, b| sum + a * b),
            Reduction::LargestAbsolute => {
                accumulate(
                    features,
                    a,
                    b,
                    sums,
                    |largest, a, _| {
                        if a.abs() > largest { a.abs() } else { largest }
                    },
                )
            }
            Reduction::CountNonzero => {
                accumulate(
                    features,
                    a,
                    b,
                    sums,
                    |count, a, _| {
                        if a != 0.0 { count + 1.0 } else { count }
                    },
                )
            }
        }
    }

    /// The result over the piece so far.
    pub(crate) fn result(&self) -> f64 {
        let mut sums = self.sums;
        let mut half = LANES / 2;
        while half > 0 {
            for lane in 0..half {
                sums[lane] = self.reduction.combine(sums[lane], sums[lane + half]);
            }
            half /= 2;
        }
        sums[0]
    }
}

/// The numbers of an operand, the room being used if it is a scalar.
fn spread<'a, R: Real>(
    argument: Argument<'a, R>,
    elements: usize,
    room: &'a mut Vec<R>,
) -> &'a [R] {
    match argument {
        Argument::Register(block) => block.elements(elements),
        Argument::Scalar(value) => {
            room.resize(elements, value);
            room
        }
    }
}

fn accumulate<R: Real>(
    features: Features,
    a: &[R],
    b: &[R],
    sums: &mut [f64; LANES],
    step: impl Fn(f64, f64, f64) -> f64,
) {
    features.run(Accumulate { a, b, sums, step });
}

struct Accumulate<'a, R, F> {
    a: &'a [R],
    b: &'a [R],
    sums: &'a mut [f64; LANES],
    step: F,
}

impl<R: Real, F: Fn(f64, f64, f64) -> f64> Kernel for Accumulate<'_, R, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // In registers, not through the reference: nothing may alias them.
        let mut sums = *self.sums;
        let (a, rest_a) = self.a.as_chunks::<LANES>();
        let (b, rest_b) = self.b.as_chunks::<LANES>();
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                sums[lane] = (self.step)(sums[lane], a[lane].to_f64(), b[lane].to_f64());
            }
        }
        for (sum, (a, b)) in sums.iter_mut().zip(rest_a.iter().zip(rest_b)) {
            *sum = (self.step)(*sum, a.to_f64(), b.to_f64());
        }
        *self.sums = sums;
    }
}

const _: () = assert!(CHUNK.is_multiple_of(LANES), "a block starts at lane 0");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;

    fn result(reduction: Reduction, values: &[f32]) -> f64 {
        let mut block = Block::zeros();
        block.0.as_flattened_mut()[..values.len()].copy_from_slice(values);
        let mut lanes = Lanes::new(reduction);
        let block = Argument::Register(&*block);
        lanes.add(Features::best(), block, block, values.len());
        lanes.result()
    }

    #[test]
    fn worked_by_hand() {
        let values = [3.0, -4.0, 0.0, -0.0];
        assert_eq!(result(Reduction::Sum, &values), -1.0);
        assert_eq!(result(Reduction::SumAbsolute, &values), 7.0);
        assert_eq!(result(Reduction::SumProduct, &values), 25.0);
        assert_eq!(result(Reduction::LargestAbsolute, &values), 4.0);
        assert_eq!(result(Reduction::CountNonzero, &values), 2.0);
        assert_eq!(result(Reduction::LargestAbsolute, &[]), 0.0);
    }

    #[test]
    fn nothing_is_lost_that_f64_holds() {
        // In f32 the small terms would vanish beside the large one, and squares would overflow.
        let mut values = [1.0; 1000];
        values[0] = 1e9;
        assert_eq!(result(Reduction::Sum, &values), 1e9 + 999.0);
        assert_eq!(result(Reduction::SumProduct, &[1e30]), f64::from(1e30_f32).powi(2));
    }
}
