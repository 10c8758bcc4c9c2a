//! Matrices that are held: all their elements, or factors that are multiplied out where they are read.

use std::sync::Arc;

use mixdown_diagnostics::Diagnostic;
use mixdown_ops::matrix::{Factors, Matrix};
use mixdown_ops::{LowRank, Precision, Sides, Worker};
use mixdown_plan::{Factor, Side};
use mixdown_tensor::DType;

use crate::rows::gathered;
use crate::sink::Sink;
use crate::steps::Form;

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

    /// From little-endian bytes.
    pub(crate) fn from_bytes(bytes: &[u8], precision: Precision) -> Self {
        match precision {
            Precision::Single => {
                let numbers = bytes.as_chunks().0.iter();
                Self::Single(numbers.map(|&bytes| f32::from_le_bytes(bytes)).collect())
            }
            Precision::Double => {
                let numbers = bytes.as_chunks().0.iter();
                Self::Double(numbers.map(|&bytes| f64::from_le_bytes(bytes)).collect())
            }
        }
    }

    /// Puts them aside, from a byte on. Returns where they end.
    fn put_aside(&self, offset: u64, sink: &dyn Sink) -> Result<u64, Box<Diagnostic>> {
        // Not all at once: the bytes are there beside the numbers.
        const NUMBERS: usize = 1 << 16;
        let mut at = offset;
        let mut put = |bytes: Vec<u8>| {
            sink.put_aside(at, &bytes)?;
            at += bytes.len() as u64;
            Ok::<(), Box<Diagnostic>>(())
        };
        match self {
            Self::Single(values) => {
                for part in values.chunks(NUMBERS) {
                    put(part.iter().flat_map(|value| value.to_le_bytes()).collect())?;
                }
            }
            Self::Double(values) => {
                for part in values.chunks(NUMBERS) {
                    put(part.iter().flat_map(|value| value.to_le_bytes()).collect())?;
                }
            }
        }
        Ok(at)
    }

    /// Writes numbers from a place on, rounded once where these are f32.
    pub(crate) fn put(&mut self, at: usize, numbers: &[f64]) {
        match self {
            Self::Single(values) => {
                for (to, &value) in values[at..at + numbers.len()].iter_mut().zip(numbers) {
                    *to = value as f32;
                }
            }
            Self::Double(values) => values[at..at + numbers.len()].copy_from_slice(numbers),
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

    /// The first number that is NaN or infinite.
    pub(crate) fn first_nonfinite(&self) -> Option<usize> {
        match self {
            Self::Single(values) => values.iter().position(|value| !value.is_finite()),
            Self::Double(values) => values.iter().position(|value| !value.is_finite()),
        }
    }

    /// As f64.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::Single(values) => values.iter().map(|&value| f64::from(value)).collect(),
            Self::Double(values) => values.clone(),
        }
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

    /// Puts it aside, from a byte on. Says how it lies there.
    pub(crate) fn put_aside(&self, offset: u64, sink: &dyn Sink) -> Result<Form, Box<Diagnostic>> {
        match self {
            Self::Dense(values) => {
                values.put_aside(offset, sink)?;
                Ok(Form::Dense)
            }
            Self::Factors { left, right, rank, columns } => {
                let next = left.put_aside(offset, sink)?;
                right.put_aside(next, sink)?;
                let rows = left.len().checked_div(*rank).unwrap_or(0);
                Ok(Form::Factors(rows, *rank, *columns))
            }
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

    /// Whether no number in it is NaN or infinite.
    pub(crate) fn is_finite(&self) -> bool {
        match self {
            Self::Dense(values) => values.first_nonfinite().is_none(),
            Self::Factors { left, right, .. } => {
                left.first_nonfinite().or(right.first_nonfinite()).is_none()
            }
        }
    }

    /// Writes the elements from `first` on that fill `out`, little-endian.
    pub(crate) fn read(&self, worker: &mut dyn Worker, first: u64, out: &mut [u8]) {
        match self {
            Self::Dense(Values::Single(values)) => {
                let (numbers, _) = out.as_chunks_mut::<4>();
                for (to, value) in numbers.iter_mut().zip(&values[first as usize..]) {
                    *to = value.to_le_bytes();
                }
            }
            Self::Dense(Values::Double(values)) => {
                let (numbers, _) = out.as_chunks_mut::<8>();
                for (to, value) in numbers.iter_mut().zip(&values[first as usize..]) {
                    *to = value.to_le_bytes();
                }
            }
            Self::Factors { left, right, rank, columns } => {
                let sides = match (left, right) {
                    (Values::Single(left), Values::Single(right)) => Sides::Single(left, right),
                    (Values::Double(left), Values::Double(right)) => Sides::Double(left, right),
                    _ => unreachable!("both factors have the type of the arithmetic"),
                };
                worker.multiply(LowRank { sides, rank: *rank, columns: *columns }, first, out);
            }
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
pub(crate) fn side_of(
    factor: &Factor,
    terms: &[(Arc<Held>, f64)],
    precision: Precision,
) -> Option<Held> {
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

/// The type in which what is held comes to a backend.
pub(crate) fn held_dtype(precision: Precision) -> DType {
    gathered(precision)
}
