//! What experts add to a base, measured in one pass over stretches of a tensor: norms, magnitudes, signs.
//!
//! Sums are f64 in lanes whose order depends on nothing but the place in the stretch, so that the same
//! stretches give the same sums whatever instructions there are.

mod sketch;

use std::marker::PhantomData;

use mixdown_tensor::DType;

use crate::features::{Features, Kernel};
use crate::storage::{Storage, WithStorage, with_storage};

pub use sketch::{Sketch, SpectrumOf, WIDTH};

/// Elements that are measured together: few enough that those of some experts stay in the first-level cache.
const BLOCK: usize = 1024;

/// Sums that are added side by side: two of the longest vectors.
const LANES: usize = 16;

/// Powers of two that magnitudes are counted by: the exponents of f32, 0 for zeros and what is smaller.
pub const EXPONENTS: usize = 256;

/// What was measured of some elements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// How many.
    pub elements: u64,
    /// Σ θ₀².
    pub base: f64,
    /// Of each expert.
    pub experts: Vec<OfExpert>,
    /// Of each two experts: (0, 1), (0, 2), …, (1, 2), ….
    pub pairs: Vec<OfPair>,
}

/// What was measured of one task vector τ.
#[derive(Clone, Debug, PartialEq)]
pub struct OfExpert {
    /// Σ τ².
    pub squares: f64,
    /// Elements that are not 0.
    pub changed: u64,
    /// Those that are 0 in all other task vectors.
    pub only: u64,
    /// Elements of which base or expert is NaN or infinite; they count as 0.
    pub nonfinite: u64,
    /// max |τ|.
    pub largest: f32,
    /// Elements by the exponent of their magnitude as f32 stores it: [`EXPONENTS`] of them.
    pub exponents: Vec<u64>,
}

/// What was measured of two task vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OfPair {
    /// Σ τ_i·τ_j.
    pub product: f64,
    /// Elements that both change.
    pub both: u64,
    /// Those that they change in opposite directions.
    pub conflicts: u64,
}

impl Default for OfExpert {
    fn default() -> Self {
        Self {
            squares: 0.0,
            changed: 0,
            only: 0,
            nonfinite: 0,
            largest: 0.0,
            exponents: vec![0; EXPONENTS],
        }
    }
}

impl Tally {
    /// Nothing was measured yet.
    pub fn of(experts: usize) -> Self {
        let pairs = vec![OfPair::default(); experts * experts.saturating_sub(1) / 2];
        Self { experts: vec![OfExpert::default(); experts], pairs, ..Self::default() }
    }

    /// Measures a stretch: the base, and the task vector of each expert.
    pub fn measure(base: &[f32], vectors: &[Vec<f32>]) -> Self {
        Self::measure_with(Features::best(), base, vectors)
    }

    /// The same with these instructions.
    pub fn measure_with(features: Features, base: &[f32], vectors: &[Vec<f32>]) -> Self {
        let mut tally = Self::of(vectors.len());
        let mut lanes = Lanes::of(vectors.len(), tally.pairs.len());
        for start in (0..base.len()).step_by(BLOCK) {
            let end = (start + BLOCK).min(base.len());
            let vectors = vectors.iter().map(|vector| &vector[start..end]).collect();
            let block =
                Block { base: &base[start..end], vectors, tally: &mut tally, lanes: &mut lanes };
            features.run(block);
        }
        tally.elements = base.len() as u64;
        tally.base = joined(&lanes.base);
        for (expert, lanes) in tally.experts.iter_mut().zip(&lanes.experts) {
            expert.squares = joined(lanes);
        }
        for (pair, lanes) in tally.pairs.iter_mut().zip(&lanes.pairs) {
            pair.product = joined(lanes);
        }
        tally
    }

    /// Adds what was measured of other elements. The order of additions is part of the sums.
    pub fn add(&mut self, other: &Self) {
        self.elements += other.elements;
        self.base += other.base;
        for (own, other) in self.experts.iter_mut().zip(&other.experts) {
            own.squares += other.squares;
            own.changed += other.changed;
            own.only += other.only;
            own.nonfinite += other.nonfinite;
            own.largest = own.largest.max(other.largest);
            for (own, other) in own.exponents.iter_mut().zip(&other.exponents) {
                *own += other;
            }
        }
        for (own, other) in self.pairs.iter_mut().zip(&other.pairs) {
            own.product += other.product;
            own.both += other.both;
            own.conflicts += other.conflicts;
        }
    }
}

/// Widens stored floats to f32; f64 is rounded.
pub fn widen(bytes: &[u8], dtype: DType, to: &mut Vec<f32>) {
    with_storage(dtype, Widen { features: Features::best(), bytes, to });
}

/// The difference of what two models store, and how many elements of it are NaN or infinite, which become
/// 0. Of f64 it is made before it is rounded to f32.
pub fn difference(
    expert: (&[u8], DType),
    base: (&[u8], DType),
    base_values: &[f32],
    to: &mut Vec<f32>,
) -> u64 {
    if expert.1 == DType::F64 || base.1 == DType::F64 {
        let doubles = |(bytes, dtype): (&[u8], DType)| {
            let mut wide = Vec::new();
            with_storage(dtype, Doubles { bytes, to: &mut wide });
            wide
        };
        to.clear();
        let pairs = doubles(expert).into_iter().zip(doubles(base));
        to.extend(pairs.map(|(expert, base)| (expert - base) as f32));
    } else {
        widen(expert.0, expert.1, to);
        Features::best().run(Subtract { base: base_values, from: to });
    }
    clean(to)
}

/// Makes 0 of what is NaN or infinite, and counts it.
pub fn clean(values: &mut [f32]) -> u64 {
    let odd = values.iter().filter(|value| !value.is_finite()).count() as u64;
    if odd > 0 {
        for value in values.iter_mut().filter(|value| !value.is_finite()) {
            *value = 0.0;
        }
    }
    odd
}

/// `to += factor · from`.
pub fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

struct Widen<'a> {
    features: Features,
    bytes: &'a [u8],
    to: &'a mut Vec<f32>,
}

impl WithStorage for Widen<'_> {
    type Output = ();

    fn with<S: Storage>(self) {
        let from = S::numbers(self.bytes);
        self.to.resize(from.len(), 0.0);
        self.features.run(WidenAs::<S> { from, to: self.to, storage: PhantomData });
    }
}

struct WidenAs<'a, S: Storage> {
    from: &'a [S::Bytes],
    to: &'a mut [f32],
    storage: PhantomData<S>,
}

impl<S: Storage> Kernel for WidenAs<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = S::widen(*from);
        }
    }
}

struct Doubles<'a> {
    bytes: &'a [u8],
    to: &'a mut Vec<f64>,
}

impl WithStorage for Doubles<'_> {
    type Output = ();

    fn with<S: Storage>(self) {
        self.to.extend(S::numbers(self.bytes).iter().map(|bytes| S::widen::<f64>(*bytes)));
    }
}

struct Subtract<'a> {
    base: &'a [f32],
    from: &'a mut [f32],
}

impl Kernel for Subtract<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (value, base) in self.from.iter_mut().zip(self.base) {
            *value -= base;
        }
    }
}

/// Sums under way.
struct Lanes {
    base: [f64; LANES],
    experts: Vec<[f64; LANES]>,
    pairs: Vec<[f64; LANES]>,
}

impl Lanes {
    fn of(experts: usize, pairs: usize) -> Self {
        let none = [0.0; LANES];
        Self { base: none, experts: vec![none; experts], pairs: vec![none; pairs] }
    }
}

/// Lanes joined by halves.
fn joined(lanes: &[f64; LANES]) -> f64 {
    let mut sums = *lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

struct Block<'a> {
    base: &'a [f32],
    vectors: Vec<&'a [f32]>,
    tally: &'a mut Tally,
    lanes: &'a mut Lanes,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { base, vectors, tally, lanes } = self;
        products(base, base, &mut lanes.base);
        let mut changers = [0_u32; BLOCK];
        let changers = &mut changers[..base.len()];
        for vector in &vectors {
            for (count, value) in changers.iter_mut().zip(*vector) {
                *count += u32::from(*value != 0.0);
            }
        }
        for (number, vector) in vectors.iter().enumerate() {
            let expert = &mut tally.experts[number];
            products(vector, vector, &mut lanes.experts[number]);
            let (mut changed, mut only, mut largest) = (0_u32, 0_u32, 0_u32);
            for (value, count) in vector.iter().zip(&*changers) {
                let magnitude = value.to_bits() & 0x7fff_ffff;
                let is_changed = u32::from(magnitude != 0);
                changed += is_changed;
                only += is_changed & u32::from(*count == 1);
                // Magnitudes of floats are ordered like their bits.
                largest = largest.max(magnitude);
            }
            expert.changed += u64::from(changed);
            expert.only += u64::from(only);
            expert.largest = expert.largest.max(f32::from_bits(largest));
            if changed > 0 {
                count_exponents(vector, &mut expert.exponents);
            } else {
                expert.exponents[0] += vector.len() as u64;
            }
        }
        let mut pair = 0;
        for (number, first) in vectors.iter().enumerate() {
            for second in &vectors[number + 1..] {
                products(first, second, &mut lanes.pairs[pair]);
                let (mut both, mut conflicts) = (0_u32, 0_u32);
                for (a, b) in first.iter().zip(*second) {
                    let are_both = u32::from(*a != 0.0) & u32::from(*b != 0.0);
                    both += are_both;
                    conflicts += are_both & ((a.to_bits() ^ b.to_bits()) >> 31);
                }
                tally.pairs[pair].both += u64::from(both);
                tally.pairs[pair].conflicts += u64::from(conflicts);
                pair += 1;
            }
        }
    }
}

#[inline(always)]
fn products(a: &[f32], b: &[f32], sums: &mut [f64; LANES]) {
    let mut own = *sums;
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            own[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    for (sum, (a, b)) in own.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *sum += f64::from(*a) * f64::from(*b);
    }
    *sums = own;
}

/// Counts in four tables, so that equal neighbors do not wait for each other.
#[inline(always)]
fn count_exponents(values: &[f32], exponents: &mut [u64]) {
    let mut tables = [[0_u16; EXPONENTS]; 4];
    let (whole, rest) = values.as_chunks::<4>();
    for values in whole {
        for lane in 0..4 {
            tables[lane][(values[lane].to_bits() >> 23) as usize & 0xff] += 1;
        }
    }
    for value in rest {
        tables[0][(value.to_bits() >> 23) as usize & 0xff] += 1;
    }
    for (exponent, count) in exponents.iter_mut().enumerate() {
        *count += tables.iter().map(|table| u64::from(table[exponent])).sum::<u64>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// θ₀ = (1, 2, 3, 4), τ₁ = (1, −2, 0, 0), τ₂ = (3, 4, 0, −0.5).
    #[test]
    fn figures_are_those_of_the_formulas() {
        let base = [1.0, 2.0, 3.0, 4.0];
        let vectors = [vec![1.0, -2.0, 0.0, 0.0], vec![3.0, 4.0, 0.0, -0.5]];
        let tally = Tally::measure(&base, &vectors);
        assert_eq!((tally.elements, tally.base), (4, 30.0));
        let [first, second] = &tally.experts[..] else { panic!("two experts") };
        assert_eq!((first.squares, first.changed, first.only, first.largest), (5.0, 2, 0, 2.0));
        assert_eq!((second.squares, second.changed, second.only), (25.25, 3, 1));
        // 2^0 and 2^1 are stored with 127 and 128.
        assert_eq!((first.exponents[127], first.exponents[128], first.exponents[0]), (1, 1, 2));
        assert_eq!(tally.pairs, [OfPair { product: -5.0, both: 2, conflicts: 1 }]);
        let mut twice = tally.clone();
        twice.add(&tally);
        assert_eq!((twice.elements, twice.pairs[0].product), (8, -10.0));
    }

    #[test]
    fn instructions_do_not_show() {
        let values = |seed: u32| -> Vec<f32> {
            let at = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 7) as f32;
            (0..5003).map(|i| if i % 7 == 0 { 0.0 } else { at(i) / 1e7 - 1.6 }).collect()
        };
        let (base, vectors) = (values(1), [values(2), values(77), values(1234)]);
        let best = Tally::measure(&base, &vectors);
        for features in Features::available() {
            assert_eq!(Tally::measure_with(features, &base, &vectors), best, "{features:?}");
        }
        let count = |expert: &OfExpert| expert.exponents.iter().sum::<u64>();
        assert!(best.experts.iter().all(|expert| count(expert) == 5003));
    }

    #[test]
    fn differences_of_f64_are_made_before_they_are_rounded() {
        let bytes = |values: [f64; 2]| values.map(f64::to_le_bytes).concat();
        let (base, expert) = (bytes([1.0, 2.0]), bytes([1.0 + 1e-12, f64::NAN]));
        let mut found = Vec::new();
        let (base, expert) = ((&*base, DType::F64), (&*expert, DType::F64));
        let odd = difference(expert, base, &[1.0, 2.0], &mut found);
        assert_eq!((odd, found[1]), (1, 0.0));
        assert!((found[0] - 1e-12).abs() < 1e-15, "{found:?}");
    }
}
