//! Points and vectors as codes of 8 bits, with the distance of each from what it stands for.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::Measure;
use super::products::{self, BLOCK, Fours, GROUP, Tile};
use crate::Features;
use crate::features::Kernel;

/// What f32 arithmetic may add to a bound, as a share of the lengths.
const SLACK: f64 = 2e-6;

/// Largest stretch that is rotated at once.
const STRETCH: usize = 1024;

/// Points as codes: blocks of [`BLOCK`] points, of each four columns of 16 points side by side.
#[derive(Debug)]
pub(super) struct Codes {
    /// Columns, filled up.
    columns: usize,
    stretch: usize,
    codes: Vec<u8>,
    /// Of each point: what its products' codes are multiplied by.
    scale: Vec<f32>,
    /// What is added to products.
    bias: Vec<f32>,
    /// How far its code is from it.
    away: Vec<f32>,
    /// Its code's length.
    length: Vec<f32>,
    has_sign: bool,
}

/// A vector as codes.
pub(super) struct Query {
    /// Four columns in each.
    codes: Vec<i32>,
    /// The sum of its codes, which the codes of points are off by 128 times.
    sum: i32,
    scale: f32,
    length: f32,
    away: f32,
}

impl Codes {
    pub fn new(
        features: Features,
        columns: usize,
        values: &[f32],
        squares: &[f64],
        measure: Measure,
    ) -> Self {
        let unit = columns.next_power_of_two().min(64);
        let filled = columns.next_multiple_of(unit);
        let stretch = (1 << filled.trailing_zeros()).min(STRETCH);
        let count = squares.len().next_multiple_of(BLOCK);
        let floats = || vec![0.0; count];
        let mut found = Self {
            columns: filled,
            stretch,
            codes: vec![128; count * filled],
            scale: floats(),
            bias: vec![f32::NEG_INFINITY; count],
            away: floats(),
            length: floats(),
            has_sign: measure != Measure::Product,
        };
        let mut row = vec![0.0; filled];
        for (at, (values, &square)) in values.chunks_exact(columns).zip(squares).enumerate() {
            row.fill(0.0);
            row.iter_mut().zip(values).for_each(|(to, &from)| *to = f64::from(from));
            features.run(Rotate { values: &mut row, stretch });
            let (scale, away, length) = quantize(features, &row, |column, code| {
                let block = at / BLOCK * BLOCK * filled;
                let place = block + column / 4 * 4 * BLOCK + at % BLOCK * 4 + column % 4;
                found.codes[place] = (code + 128) as u8;
            });
            let weight = match measure {
                Measure::Cosine => 1.0 / square.sqrt().max(f64::MIN_POSITIVE),
                Measure::Product | Measure::Distance => 1.0,
            };
            let bias = if measure == Measure::Distance { -square / 2.0 } else { 0.0 };
            found.scale[at] = (scale * weight) as f32;
            found.bias[at] = (bias + SLACK * bias.abs()) as f32;
            found.away[at] = ((away + SLACK * square.sqrt()) * weight) as f32;
            found.length[at] = (length * weight * (1.0 + SLACK)) as f32;
        }
        found
    }

    /// A vector as codes.
    pub fn query(&self, features: Features, vector: &[f64]) -> Query {
        let mut row = vec![0.0; self.columns];
        row[..vector.len()].copy_from_slice(vector);
        features.run(Rotate { values: &mut row, stretch: self.stretch });
        let mut bytes = vec![0_i8; self.columns];
        let (scale, away, _) = quantize(features, &row, |column, code| bytes[column] = code as i8);
        let four = |four: &[i8; 4]| i32::from_le_bytes(four.map(i8::cast_unsigned));
        let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        Query {
            sum: bytes.iter().map(|&code| i32::from(code)).sum(),
            codes: bytes.as_chunks::<4>().0.iter().map(four).collect(),
            scale: scale as f32,
            length: (length * (1.0 + SLACK)) as f32,
            away: ((away + SLACK * length) * (1.0 + SLACK)) as f32,
        }
    }

    /// For each query all points but those without that may be among the `count` best, with the most that each
    /// may be.
    pub fn candidates(
        &self,
        features: Features,
        queries: &[Query],
        count: usize,
        without: &[&[u32]],
    ) -> Vec<Vec<(f32, u32)>> {
        let mut bests: Vec<Bests<'_>> =
            without.iter().map(|without| Bests::new(count, without)).collect();
        let blocks = self.scale.len() / BLOCK;
        // Codes that stay in the second-level cache while all queries go over them.
        let together = (512 * 1024 / (BLOCK * self.columns)).max(1);
        let (mut tile, mut fours) = (Tile::default(), Vec::new());
        for first in (0..blocks).step_by(together) {
            for (group, bests) in queries.chunks(GROUP).zip(bests.chunks_mut(GROUP)) {
                fours.clear();
                fours.extend((0..self.columns / 4).map(|four| -> Fours {
                    std::array::from_fn(|at| group.get(at).map_or(0, |query| query.codes[four]))
                }));
                for block in first..blocks.min(first + together) {
                    let codes = &self.codes[block * BLOCK * self.columns..][..BLOCK * self.columns];
                    products::products(features, codes, &fours, &mut tile);
                    for ((query, bests), products) in group.iter().zip(&mut *bests).zip(&tile.0) {
                        self.note(features, block * BLOCK, query, products, bests);
                    }
                }
            }
        }
        bests.into_iter().map(Bests::finish).collect()
    }

    /// Notes which of a block's points may be among the best.
    #[inline]
    fn note(
        &self,
        features: Features,
        first: usize,
        query: &Query,
        products: &[i32; BLOCK],
        bests: &mut Bests<'_>,
    ) {
        fn part(all: &[f32], first: usize) -> &[f32; BLOCK] {
            all[first..].first_chunk().expect("points are whole blocks")
        }
        let mut bounds = [0.0; BLOCK];
        let (away, length) = (part(&self.away, first), part(&self.length, first));
        let is_any = features.run(Bounds {
            products,
            query,
            least: bests.least,
            scale: part(&self.scale, first),
            bias: part(&self.bias, first),
            away,
            length,
            sign: if self.has_sign { u32::MAX } else { u32::MAX >> 1 },
            bounds: &mut bounds,
        });
        if !is_any {
            return;
        }
        for (at, &bound) in bounds.iter().enumerate() {
            if bound >= bests.least && bound > f32::NEG_INFINITY {
                let margin = query.length * away[at] + query.away * length[at];
                // The bias has its slack above, which is taken off below.
                let slack = 4.0 * SLACK as f32 * self.bias[first + at].abs();
                bests.add(bound, bound - 2.0 * margin - slack, (first + at) as u32);
            }
        }
    }
}

/// Codes of a row, and the scale, the distance and the length of what they stand for.
fn quantize(features: Features, row: &[f64], put: impl FnMut(usize, i32)) -> (f64, f64, f64) {
    features.run(Quantize { row, put })
}

struct Quantize<'a, F> {
    row: &'a [f64],
    put: F,
}

impl<F: FnMut(usize, i32)> Kernel for Quantize<'_, F> {
    type Output = (f64, f64, f64);

    #[inline(always)]
    fn run(mut self) -> Self::Output {
        let largest = self.row.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        if largest == 0.0 {
            return (0.0, 0.0, 0.0);
        }
        let scale = f64::from((largest / 127.0) as f32);
        if scale == 0.0 {
            // Below what f32 has: all of it is distance.
            let length = self.row.iter().map(|value| value * value).sum::<f64>().sqrt();
            return (0.0, length, 0.0);
        }
        let (mut away, mut length) = (0.0, 0.0);
        for (column, &value) in self.row.iter().enumerate() {
            // To the nearest, halves away from zero; a cast leaves out what follows the point.
            let code = (value / scale + 0.5_f64.copysign(value)) as i32;
            let code = code.clamp(-127, 127);
            (self.put)(column, code);
            let stands_for = f64::from(code) * scale;
            away += (value - stands_for) * (value - stands_for);
            length += stands_for * stands_for;
        }
        (scale, away.sqrt(), length.sqrt())
    }
}

/// Spreads what stands in few columns over a stretch: signs that look random, and Hadamard's matrix. Products of
/// rotated vectors are those of the vectors, and their codes are nearer to them.
struct Rotate<'a> {
    values: &'a mut [f64],
    stretch: usize,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (at, value) in self.values.iter_mut().enumerate() {
            // The top bit of Knuth's multiplicative hash.
            if (at as u32).wrapping_mul(2_654_435_769).leading_zeros() == 0 {
                *value = -*value;
            }
        }
        let factor = 1.0 / (self.stretch as f64).sqrt();
        for part in self.values.chunks_exact_mut(self.stretch) {
            let mut half = 1;
            while half < part.len() {
                for pair in part.chunks_exact_mut(2 * half) {
                    let (left, right) = pair.split_at_mut(half);
                    for (left, right) in left.iter_mut().zip(right) {
                        (*left, *right) = (*left + *right, *left - *right);
                    }
                }
                half *= 2;
            }
            part.iter_mut().for_each(|value| *value *= factor);
        }
    }
}

/// The most that each point of a block may be; whether one may be enough.
struct Bounds<'a> {
    products: &'a [i32; BLOCK],
    query: &'a Query,
    least: f32,
    scale: &'a [f32; BLOCK],
    bias: &'a [f32; BLOCK],
    away: &'a [f32; BLOCK],
    length: &'a [f32; BLOCK],
    /// The bits of a product that count.
    sign: u32,
    bounds: &'a mut [f32; BLOCK],
}

impl Kernel for Bounds<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { products, query, least, scale, bias, away, length, sign, bounds } = self;
        let off = query.sum * 128;
        let mut enough = 0;
        for at in 0..BLOCK {
            let product = (products[at] - off) as f32 * (query.scale * scale[at]);
            let product = f32::from_bits(product.to_bits() & sign);
            let margin = query.length * away[at] + query.away * length[at];
            // What is filled up has no product, and a bias below all.
            let bound = product + margin + bias[at];
            bounds[at] = bound;
            enough += u32::from(bound >= least);
        }
        enough > 0
    }
}

/// The best so far, and all that may be among them.
struct Bests<'a> {
    count: usize,
    without: &'a [u32],
    /// What the best are at least, of which the smallest comes first: a heap.
    lows: BinaryHeap<Reverse<Ordered>>,
    least: f32,
    found: Vec<(f32, u32)>,
    /// Length of `found` at which it is gone through.
    room: usize,
}

#[derive(Clone, Copy, PartialEq)]
struct Ordered(f32);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl<'a> Bests<'a> {
    fn new(count: usize, without: &'a [u32]) -> Self {
        let lows = BinaryHeap::with_capacity(count + 1);
        Self { count, without, lows, least: f32::NEG_INFINITY, found: Vec::new(), room: 128 }
    }

    fn add(&mut self, most: f32, low: f32, at: u32) {
        if self.without.contains(&at) {
            return;
        }
        self.found.push((most, at));
        self.lows.push(Reverse(Ordered(low)));
        if self.lows.len() > self.count {
            self.lows.pop();
        }
        if self.lows.len() == self.count
            && let Some(Reverse(least)) = self.lows.peek()
        {
            self.least = least.0;
        }
        if self.found.len() >= self.room {
            // What came before a better least is no longer among them.
            self.found.retain(|(most, _)| *most >= self.least);
            self.room = 2 * self.found.len().max(64);
        }
    }

    fn finish(mut self) -> Vec<(f32, u32)> {
        self.found.retain(|(most, _)| *most >= self.least);
        self.found
    }
}
