//! What a flow holds besides files: the factors of adapters, and the results of matrix ops.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, OnceLock};

use mixdown_ops::Precision;
use mixdown_ops::matrix::{Factors, Matrix};
use mixdown_plan::{Factor, Leaf, Merge, Product, Side};
use mixdown_tensor::DType;

use crate::context::lock;
use crate::read::Inputs;
use crate::rows::gathered;
use crate::scheduler::Failure;
use crate::widen;

/// A matrix that is held, read like the elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// All its elements, row-major, in the type of the merge's arithmetic.
    Dense(Values),
    /// `left · right`, multiplied out where it is read.
    Factors {
        /// `rows × rank`, row-major.
        left: Values,
        /// `rank × columns`, row-major.
        right: Values,
        /// Directions.
        rank: usize,
        /// Columns of the product.
        columns: usize,
    },
}

/// Numbers in the type of the arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// f32.
    Single(Vec<f32>),
    /// f64.
    Double(Vec<f64>),
}

impl Values {
    /// From f64, rounded once where the arithmetic is f32.
    pub fn from_f64(values: &[f64], precision: Precision) -> Self {
        match precision {
            Precision::Single => Self::Single(values.iter().map(|&value| value as f32).collect()),
            Precision::Double => Self::Double(values.to_vec()),
        }
    }

    /// Zeros.
    pub fn zeros(count: usize, precision: Precision) -> Self {
        match precision {
            Precision::Single => Self::Single(vec![0.0; count]),
            Precision::Double => Self::Double(vec![0.0; count]),
        }
    }

    /// Count of numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Double(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As f64.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::Single(values) => values.iter().map(|&value| f64::from(value)).collect(),
            Self::Double(values) => values.clone(),
        }
    }
}

/// A number of the arithmetic.
trait Real: Copy + std::ops::Add<Output = Self> + std::ops::Mul<Output = Self> {
    const ZERO: Self;
    const BYTES: usize;
    fn put(self, out: &mut [u8]);
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const BYTES: usize = 4;
    fn put(self, out: &mut [u8]) {
        out.copy_from_slice(&self.to_le_bytes());
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const BYTES: usize = 8;
    fn put(self, out: &mut [u8]) {
        out.copy_from_slice(&self.to_le_bytes());
    }
}

impl Held {
    /// Factors in the type of the arithmetic.
    pub fn from_factors(factors: &Factors, precision: Precision) -> Self {
        Self::Factors {
            left: Values::from_f64(&factors.left.values, precision),
            right: Values::from_f64(&factors.right.values, precision),
            rank: factors.right.rows,
            columns: factors.right.columns,
        }
    }

    /// The Frobenius norm.
    pub(crate) fn norm(&self) -> f64 {
        match self {
            Self::Dense(Values::Single(values)) => {
                values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
            }
            Self::Dense(Values::Double(values)) => {
                values.iter().map(|value| value * value).sum::<f64>().sqrt()
            }
            // ‖L·R‖² is the inner product of LᵀL and R·Rᵀ, which are small.
            Self::Factors { left, right, rank, columns } => {
                let (left, right, rank) = (left.to_f64(), right.to_f64(), *rank);
                let mut square = 0.0;
                for a in 0..rank {
                    let row = &right[a * columns..(a + 1) * columns];
                    for b in 0..rank {
                        let other = &right[b * columns..(b + 1) * columns];
                        let inner: f64 = row.iter().zip(other).map(|(x, y)| x * y).sum();
                        let outer: f64 = left.chunks(rank).map(|row| row[a] * row[b]).sum();
                        square += inner * outer;
                    }
                }
                square.max(0.0).sqrt()
            }
        }
    }

    /// Directions of a matrix that is held as factors.
    pub(crate) fn rank(&self) -> Option<usize> {
        match self {
            Self::Dense(_) => None,
            Self::Factors { rank, .. } => Some(*rank),
        }
    }

    /// The factors, as f64; none of a dense matrix.
    pub(crate) fn to_factors(&self) -> Option<Factors> {
        let Self::Factors { left, right, rank, columns } = self else { return None };
        let rows = left.len().checked_div(*rank).unwrap_or(0);
        Some(Factors {
            left: Matrix { rows, columns: *rank, values: left.to_f64() },
            right: Matrix { rows: *rank, columns: *columns, values: right.to_f64() },
        })
    }

    /// Adds elements of a matrix that is held as factors, from `first` on, to `sums`. In f64, so that
    /// the product has no more directions than the factors: rounded to f32 it would have noise in all.
    pub(crate) fn add_product(&self, factor: f64, first: u64, sums: &mut [f64]) {
        match self {
            Self::Dense(_) => {}
            Self::Factors { left: Values::Single(left), right: Values::Single(right), .. } => {
                self.add_wide(left, right, factor, first, sums);
            }
            Self::Factors { left: Values::Double(left), right: Values::Double(right), .. } => {
                self.add_wide(left, right, factor, first, sums);
            }
            Self::Factors { .. } => unreachable!("both factors have the type of the arithmetic"),
        }
    }

    fn add_wide<T: Copy + Into<f64>>(
        &self,
        left: &[T],
        right: &[T],
        factor: f64,
        first: u64,
        sums: &mut [f64],
    ) {
        let Self::Factors { rank, columns, .. } = self else { return };
        let (rank, columns) = (*rank, *columns);
        let (mut at, mut rest) = (first as usize, sums);
        while !rest.is_empty() && rank > 0 {
            let (row, from) = (at / columns, at % columns);
            let width = (columns - from).min(rest.len());
            let (own, after) = rest.split_at_mut(width);
            for (direction, &value) in left[row * rank..(row + 1) * rank].iter().enumerate() {
                let scale = factor * value.into();
                let start = direction * columns + from;
                for (sum, &value) in own.iter_mut().zip(&right[start..start + width]) {
                    *sum += scale * value.into();
                }
            }
            at += width;
            rest = after;
        }
    }

    /// Writes the elements from `first` on that fill `out`, little-endian.
    pub(crate) fn read(&self, first: u64, out: &mut [u8]) {
        match self {
            Self::Dense(Values::Single(values)) => copy(values, first, out),
            Self::Dense(Values::Double(values)) => copy(values, first, out),
            Self::Factors {
                left: Values::Single(left),
                right: Values::Single(right),
                rank,
                columns,
            } => multiply(left, right, *rank, *columns, first, out),
            Self::Factors {
                left: Values::Double(left),
                right: Values::Double(right),
                rank,
                columns,
            } => multiply(left, right, *rank, *columns, first, out),
            Self::Factors { .. } => unreachable!("both factors have the type of the arithmetic"),
        }
    }
}

/// The factors of a linear combination: side by side, each with its factor on the left. None if a term is
/// dense.
pub(crate) fn combine(rows: usize, terms: &[(Arc<Held>, f64)]) -> Option<Factors> {
    let all: Option<Vec<Factors>> = terms.iter().map(|(held, _)| held.to_factors()).collect();
    let all = all?;
    let rank: usize = all.iter().map(|one| one.right.rows).sum();
    let columns = all.iter().map(|one| one.right.columns).max().unwrap_or(0);
    let mut left = Vec::with_capacity(rows * rank);
    for row in 0..rows {
        for (one, (_, factor)) in all.iter().zip(terms) {
            let own = one.left.columns;
            let values = &one.left.values[row * own..(row + 1) * own];
            left.extend(values.iter().map(|value| value * factor));
        }
    }
    let right = all.into_iter().flat_map(|one| one.right.values).collect();
    Some(Factors {
        left: Matrix { rows, columns: rank, values: left },
        right: Matrix { rows: rank, columns, values: right },
    })
}

/// One side of a matrix that is written as factors. None if a term is dense, or has more directions.
fn side_of(factor: &Factor, terms: &[(Arc<Held>, f64)], precision: Precision) -> Option<Held> {
    let Factors { left, right } = combine(factor.rows as usize, terms)?;
    let (found, rank, columns) = (right.rows, factor.rank as usize, factor.columns as usize);
    if found > rank {
        return None;
    }
    let values = match factor.side {
        // Directions that are not there are zeros at the end of each row.
        Side::Left => {
            let mut values = vec![0.0; factor.rows as usize * rank];
            for (to, from) in values.chunks_mut(rank).zip(left.values.chunks(found.max(1))) {
                to[..found].copy_from_slice(from);
            }
            values
        }
        Side::Right => {
            let mut values = right.values;
            values.resize(rank * columns, 0.0);
            values
        }
    };
    Some(Held::Dense(Values::from_f64(&values, precision)))
}

fn copy<T: Real>(values: &[T], first: u64, out: &mut [u8]) {
    for (value, out) in values[first as usize..].iter().zip(out.chunks_exact_mut(T::BYTES)) {
        value.put(out);
    }
}

/// Columns of a product that are summed in registers at a time.
const STRIP: usize = 64;

/// Elements of `left · right` from `first` on. Each is a sum in order of the directions, so that it does
/// not depend on where a stretch begins.
fn multiply<T: Real>(
    left: &[T],
    right: &[T],
    rank: usize,
    columns: usize,
    first: u64,
    out: &mut [u8],
) {
    let mut at = first as usize;
    let mut out = out;
    while !out.is_empty() {
        let (row, from) = (at / columns, at % columns);
        let count = (out.len() / T::BYTES).min(columns - from);
        let (own, rest) = out.split_at_mut(count * T::BYTES);
        let factors = &left[row * rank..(row + 1) * rank];
        for (strip, out) in own.chunks_mut(STRIP * T::BYTES).enumerate() {
            let from = from + strip * STRIP;
            let width = out.len() / T::BYTES;
            let mut sums = [T::ZERO; STRIP];
            if width == STRIP {
                for (direction, &factor) in factors.iter().enumerate() {
                    let start = direction * columns + from;
                    let values: &[T; STRIP] =
                        right[start..start + STRIP].try_into().expect("a strip has this length");
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum = *sum + factor * value;
                    }
                }
            } else {
                for (direction, &factor) in factors.iter().enumerate() {
                    let start = direction * columns + from;
                    for (sum, &value) in sums.iter_mut().zip(&right[start..start + width]) {
                        *sum = *sum + factor * value;
                    }
                }
            }
            for (&sum, out) in sums.iter().zip(out.chunks_exact_mut(T::BYTES)) {
                sum.put(out);
            }
        }
        at += count;
        out = rest;
    }
}

/// What one job holds while its flow runs.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    products: HashMap<Product, Arc<Held>>,
    matrices: Mutex<Vec<Arc<Held>>>,
    /// What is written where it is one side of a low-rank matrix, and its type.
    factor: Option<(Factor, Precision)>,
    side: OnceLock<Option<Arc<Held>>>,
}

impl Resources {
    /// The factors of all adapters that a merge reads, in its operands too.
    pub(crate) fn load(inputs: &Inputs<'_>, merge: &Merge) -> Result<Self, Failure> {
        let mut products = HashMap::new();
        for product in products_of(merge) {
            if let Entry::Vacant(place) = products.entry(product) {
                let held = load_product(inputs, &product, merge.precision)?;
                place.insert(Arc::new(held));
            }
        }
        let factor = merge.factor.clone().map(|factor| (factor, merge.precision));
        Ok(Self { products, matrices: Mutex::default(), factor, side: OnceLock::new() })
    }

    /// The same matrices for the job of the other side, once all are there.
    pub(crate) fn for_twin(&self, merge: &Merge) -> Self {
        Self {
            products: self.products.clone(),
            matrices: Mutex::new(lock(&self.matrices).clone()),
            factor: merge.factor.clone().map(|factor| (factor, merge.precision)),
            side: OnceLock::new(),
        }
    }

    /// Adds the result of the next matrix op.
    pub(crate) fn push(&self, held: Arc<Held>) {
        lock(&self.matrices).push(held);
    }

    /// How many matrix ops have their result here.
    pub(crate) fn done(&self) -> usize {
        lock(&self.matrices).len()
    }

    /// What a leaf is that comes from no file.
    pub(crate) fn get(&self, leaf: &Leaf) -> Option<Arc<Held>> {
        match leaf {
            Leaf::Product(product) => self.products.get(product).cloned(),
            Leaf::Matrix(step) => lock(&self.matrices).get(usize::from(*step)).cloned(),
            Leaf::Factor => self.side.get_or_init(|| self.side()).clone(),
            Leaf::Tensor(_) | Leaf::Rows(_) | Leaf::Assembled(..) => None,
        }
    }

    /// The side that is written, once all matrix ops are done.
    fn side(&self) -> Option<Arc<Held>> {
        let (factor, precision) = self.factor.as_ref()?;
        let terms = factor.terms.iter().map(|(leaf, by)| Some((self.get(leaf)?, *by)));
        let terms: Option<Vec<_>> = terms.collect();
        side_of(factor, &terms?, *precision).map(Arc::new)
    }
}

/// The adapters' updates that a merge reads.
pub(crate) fn products_of(merge: &Merge) -> impl Iterator<Item = Product> {
    let operands = merge.matrices.iter().flat_map(|step| &step.operands);
    let merges = operands.map(|operand| &operand.merge).chain([merge]);
    let terms = merge.factor.iter().flat_map(|factor| &factor.terms).map(|(leaf, _)| leaf);
    merges.flat_map(|merge| &merge.leaves).chain(terms).filter_map(|leaf| match leaf {
        Leaf::Product(product) => Some(*product),
        _ => None,
    })
}

/// Reads the factors of an update. The scale goes to the left one.
fn load_product(
    inputs: &Inputs<'_>,
    product: &Product,
    precision: Precision,
) -> Result<Held, Failure> {
    let read = |tensor| -> Result<Vec<f64>, Failure> {
        let entry = inputs.entry(tensor);
        let mut bytes = vec![0; entry.bytes() as usize];
        inputs.read(tensor, 0, &mut bytes)?;
        if let Some(element) = widen::first_nonfinite(&bytes, entry.dtype) {
            return Err(crate::messages::nonfinite(inputs, tensor, element));
        }
        Ok(widen::to_f64(&bytes, entry.dtype))
    };
    let rank = product.rank as usize;
    let (left, right) = match rank {
        0 => (Vec::new(), Vec::new()),
        _ => (read(product.left)?, read(product.right)?),
    };
    let (rows, columns) = (product.rows as usize, product.columns as usize);
    // The transposed product is right's transpose times left's.
    let (mut left, right) = match product.transposed {
        false => (left, right),
        true => (transposed(&right, rank, rows), transposed(&left, columns, rank)),
    };
    let scale = product.scale.get();
    left.iter_mut().for_each(|value| *value *= scale);
    Ok(Held::Factors {
        left: Values::from_f64(&left, precision),
        right: Values::from_f64(&right, precision),
        rank,
        columns,
    })
}

fn transposed(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        for column in 0..columns {
            out[column * rows + row] = values[row * columns + column];
        }
    }
    out
}

/// Bytes of what a merge holds for adapters.
pub(crate) fn product_bytes(merge: &Merge) -> u64 {
    let width = gathered(merge.precision).bytes() as u64;
    let mut seen: Vec<Product> = products_of(merge).collect();
    seen.sort_unstable_by_key(|product| (product.left, product.right));
    seen.dedup();
    // While one is read it is there as f64 too.
    let of = |product: &Product| u64::from(product.rank) * (product.rows + product.columns);
    let largest = seen.iter().map(of).max().unwrap_or(0);
    seen.iter().map(of).sum::<u64>() * width + largest * 24
}

/// Bytes of what a merge holds to write one side of a low-rank matrix: both sides in f64 while they are
/// combined, and the one.
pub(crate) fn factor_bytes(merge: &Merge) -> u64 {
    let bytes = |factor: &Factor| factor.rank * (factor.rows + factor.columns) * 32;
    merge.factor.as_ref().map_or(0, bytes)
}

/// The type in which what is held comes to a backend.
pub(crate) fn held_dtype(precision: Precision) -> DType {
    gathered(precision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_the_same_from_wherever_it_is_read() {
        let (rows, rank, columns) = (5, 3, 150);
        let number = |n: usize| ((n * 37 % 101) as f32 - 50.0) / 64.0;
        let left: Vec<f32> = (0..rows * rank).map(number).collect();
        let right: Vec<f32> = (0..rank * columns).map(|n| number(n + 7)).collect();
        let held = Held::Factors {
            left: Values::Single(left.clone()),
            right: Values::Single(right.clone()),
            rank,
            columns,
        };
        let mut whole = vec![0; rows * columns * 4];
        held.read(0, &mut whole);
        for (element, bytes) in whole.chunks_exact(4).enumerate() {
            let (row, column) = (element / columns, element % columns);
            let mut sum = 0.0_f32;
            for k in 0..rank {
                sum += left[row * rank + k] * right[k * columns + column];
            }
            assert_eq!(bytes, sum.to_le_bytes(), "{element}");
        }
        for (first, count) in [(0, 1), (63, 130), (149, 2), (200, 550), (749, 1)] {
            let mut part = vec![0; count * 4];
            held.read(first as u64, &mut part);
            assert_eq!(part, whole[first * 4..(first + count) * 4], "{first} {count}");
        }
    }
}
