//! Points in space, and which of them stand for others: the nearest ones, and those of which sums come near.
//!
//! Both ask again and again which of a hundred thousand points has the largest product with a vector.
//! The products of 8-bit codes answer for all points but a few, within a bound that holds for each: the code of a
//! point is away from it by a length that is known, so that the products differ by no more than that times the
//! vector's length. Only those that may be the largest by that bound are multiplied in f64.
//! So the answer is that of f64 products over all points, whatever instructions compute the codes' products.

mod codes;
mod products;
mod turned;

use crate::Features;
use crate::features::Kernel;

use codes::{Codes, Query};
pub use turned::{Rotary, Turned};

/// A point's place among the points, and how much of it.
pub type Weighted = (u32, f64);

/// Points as rows.
#[derive(Debug)]
pub struct Points {
    features: Features,
    columns: usize,
    /// `[points, columns]`.
    values: Vec<f32>,
    /// Squared lengths.
    squares: Vec<f64>,
    codes: Codes,
    /// What products are multiplied by and what is added, for each point: what is looked for.
    measure: Measure,
}

/// What is looked for among points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The largest product, of either sign.
    Product,
    /// The smallest distance.
    Distance,
    /// The largest cosine.
    Cosine,
}

/// Below which share of its squared length a vector counts as zero: what is left of f32 numbers in f64.
const NOTHING: f64 = 1e-14;

/// Below which share of its squared length a point adds no direction to others.
const NO_DIRECTION: f64 = 1e-12;

impl Points {
    /// Points of so many columns, row by row. All numbers are finite.
    ///
    /// **Panics.** Rows that are not whole, none, or more than fit into 32 bits.
    pub fn new(features: Features, columns: usize, values: Vec<f32>, measure: Measure) -> Self {
        assert!(columns > 0 && values.len().is_multiple_of(columns), "rows are whole");
        assert!(u32::try_from(values.len() / columns).is_ok(), "points have numbers of 32 bits");
        let squares: Vec<f64> = values
            .chunks_exact(columns)
            .map(|row| features.run(Dot { left: row, right: row }))
            .collect();
        let codes = Codes::new(features, columns, &values, &squares, measure);
        Self { features, columns, values, squares, codes, measure }
    }

    /// Bytes that so many points take.
    pub fn bytes(points: u64, columns: u64) -> u64 {
        points.saturating_mul(columns).saturating_mul(5).saturating_add(points.saturating_mul(40))
    }

    /// Count of points.
    pub fn len(&self) -> usize {
        self.squares.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.squares.is_empty()
    }

    /// A point.
    pub fn row(&self, at: u32) -> &[f32] {
        &self.values[at as usize * self.columns..][..self.columns]
    }

    fn dot(&self, at: u32, vector: &[f64]) -> f64 {
        self.features.run(Dot { left: self.row(at), right: vector })
    }

    /// The measure of a point, of which more is better.
    fn measured(&self, at: u32, vector: &[f64]) -> f64 {
        let product = self.dot(at, vector);
        let square = self.squares[at as usize];
        match self.measure {
            Measure::Product => product.abs(),
            Measure::Distance => product - square / 2.0,
            Measure::Cosine => product / square.sqrt().max(f64::MIN_POSITIVE),
        }
    }

    /// For each of the targets, which are rows, the points of best measure, best first, at most `count`.
    /// Of equal ones the first counts.
    pub fn best(&self, targets: &[f32], count: usize) -> Vec<Vec<u32>> {
        let count = count.min(self.len());
        let targets: Vec<Vec<f64>> = targets
            .chunks_exact(self.columns)
            .map(|row| row.iter().map(|&value| f64::from(value)).collect())
            .collect();
        let wanted: Vec<Wanted<'_>> =
            targets.iter().map(|vector| Wanted { vector, without: &[] }).collect();
        self.search(&wanted, count)
    }

    /// For each of the targets the sum of few points that orthogonal matching pursuit finds: again and again the
    /// point with the largest product with what is left, and what is left after the best sum of all those chosen
    /// (Pati, Rezaiifar and Krishnaprasad 1993). It ends before `count` where nothing is left.
    ///
    /// The best sum is solved by a Cholesky factor of the products of chosen points that grows by a row for each.
    pub fn pursue(&self, targets: &[f32], count: usize) -> Vec<Vec<Weighted>> {
        assert_eq!(self.measure, Measure::Product, "a pursuit looks for products");
        let count = count.min(self.len());
        let mut states: Vec<Pursuit> = targets
            .chunks_exact(self.columns)
            .map(|row| Pursuit::new(self.features, row))
            .collect();
        for _ in 0..count {
            let going: Vec<usize> = (0..states.len()).filter(|&at| !states[at].is_done).collect();
            if going.is_empty() {
                break;
            }
            let wanted: Vec<Wanted<'_>> = going
                .iter()
                .map(|&at| Wanted { vector: &states[at].left, without: &states[at].chosen })
                .collect();
            let found = self.search(&wanted, 1);
            for (at, best) in going.into_iter().zip(found) {
                match best.first() {
                    Some(&best) => states[at].take(self, best),
                    None => states[at].is_done = true,
                }
            }
        }
        states
            .into_iter()
            .map(|state| state.chosen.into_iter().zip(state.factors).collect())
            .collect()
    }

    /// The points of best measure for each vector, best first.
    fn search(&self, wanted: &[Wanted<'_>], count: usize) -> Vec<Vec<u32>> {
        let queries: Vec<Query> =
            wanted.iter().map(|one| self.codes.query(self.features, one.vector)).collect();
        let without: Vec<&[u32]> = wanted.iter().map(|one| one.without).collect();
        let candidates = self.codes.candidates(self.features, &queries, count, &without);
        let found = wanted.iter().zip(candidates).map(|(one, mut candidates)| {
            candidates.sort_unstable_by(|left, right| {
                right.0.total_cmp(&left.0).then(left.1.cmp(&right.1))
            });
            let mut best: Vec<(f64, u32)> = Vec::with_capacity(count + 1);
            for (bound, at) in candidates {
                if best.len() == count && f64::from(bound) < best[count - 1].0 {
                    break;
                }
                let measured = self.measured(at, one.vector);
                let place = best.partition_point(|&(known, known_at)| {
                    known > measured || (known == measured && known_at < at)
                });
                best.insert(place, (measured, at));
                best.truncate(count);
            }
            best.into_iter().map(|(_, at)| at).collect()
        });
        found.collect()
    }
}

/// A vector whose best points are looked for.
struct Wanted<'a> {
    vector: &'a [f64],
    /// Points that do not count.
    without: &'a [u32],
}

/// A target on its way.
struct Pursuit {
    target: Vec<f64>,
    square: f64,
    left: Vec<f64>,
    chosen: Vec<u32>,
    factors: Vec<f64>,
    /// The rows of the lower factor, one after another.
    lower: Vec<f64>,
    /// The lower factor's inverse times the products of chosen points with the target.
    solved: Vec<f64>,
    is_done: bool,
}

impl Pursuit {
    fn new(features: Features, row: &[f32]) -> Self {
        let target: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        let square = features.run(Dot { left: row, right: &target });
        Self {
            left: target.clone(),
            target,
            square,
            chosen: Vec::new(),
            factors: Vec::new(),
            lower: Vec::new(),
            solved: Vec::new(),
            is_done: square == 0.0,
        }
    }

    /// Adds a point to those chosen.
    fn take(&mut self, points: &Points, point: u32) {
        let own: Vec<f64> = points.row(point).iter().map(|&value| f64::from(value)).collect();
        let mut row: Vec<f64> = Vec::with_capacity(self.chosen.len() + 1);
        let (mut start, mut known, mut product) = (0, 0.0, points.dot(point, &self.target));
        for (at, &other) in self.chosen.iter().enumerate() {
            let lower = &self.lower[start..=start + at];
            let inner: f64 = lower[..at].iter().zip(&row).map(|(left, right)| left * right).sum();
            let value = (points.dot(other, &own) - inner) / lower[at];
            known += value * value;
            product -= value * self.solved[at];
            row.push(value);
            start += at + 1;
        }
        let square = points.squares[point as usize];
        if square - known <= NO_DIRECTION * square {
            self.is_done = true;
            return;
        }
        let pivot = (square - known).sqrt();
        row.push(pivot);
        self.lower.append(&mut row);
        self.solved.push(product / pivot);
        self.chosen.push(point);
        self.solve();
        self.left.copy_from_slice(&self.target);
        for (&at, &factor) in self.chosen.iter().zip(&self.factors) {
            points.features.run(Subtract { from: &mut self.left, factor, row: points.row(at) });
        }
        let left: f64 = self.left.iter().map(|value| value * value).sum();
        self.is_done = left <= NOTHING * self.square;
    }

    /// The factors, from the last to the first.
    fn solve(&mut self) {
        let count = self.chosen.len();
        self.factors = self.solved.clone();
        for at in (0..count).rev() {
            let start = at * (at + 1) / 2;
            let value = self.factors[at] / self.lower[start + at];
            self.factors[at] = value;
            for (factor, lower) in self.factors[..at].iter_mut().zip(&self.lower[start..start + at])
            {
                *factor -= value * lower;
            }
        }
    }
}

/// A sum of products in f64, in as many lanes on every machine.
struct Dot<'a, T> {
    left: &'a [f32],
    right: &'a [T],
}

const LANES: usize = 16;

impl<T: Copy + Into<f64>> Kernel for Dot<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0.0; LANES];
        let (left, left_rest) = self.left.as_chunks::<LANES>();
        let (right, right_rest) = self.right.as_chunks::<LANES>();
        for (left, right) in left.iter().zip(right) {
            for lane in 0..LANES {
                sums[lane] += f64::from(left[lane]) * right[lane].into();
            }
        }
        let rest: f64 = left_rest
            .iter()
            .zip(right_rest)
            .map(|(&left, &right)| f64::from(left) * right.into())
            .sum();
        sums.iter().sum::<f64>() + rest
    }
}

/// Takes a multiple of a row from a vector.
struct Subtract<'a> {
    from: &'a mut [f64],
    factor: f64,
    row: &'a [f32],
}

impl Kernel for Subtract<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (value, &other) in self.from.iter_mut().zip(self.row) {
            *value -= self.factor * f64::from(other);
        }
    }
}
