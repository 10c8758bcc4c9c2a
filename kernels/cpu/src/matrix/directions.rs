//! Singular directions with other singular values: stacks of directions of several matrices, made
//! orthonormal by their polar factors.

use faer::MatMut;
use mixdown_ops::matrix::{Matrix, Operands, Report, Stop};

use super::dense::{
    accumulate, product, row_gram, scale_rows, squared_norm, transposed, view, zeros,
};
use super::eigen::inverse_root;
use super::product::{LeftRows, Product};
use super::rows::{PANEL, panels};

/// Directions of one or several matrices: `L` and `W` of which one has orthonormal columns or rows per
/// matrix, and the other has those multiplied by the singular values.
pub(crate) struct Stack {
    pub left: LeftRows,
    /// `R × n`.
    pub right: Matrix,
    /// Singular values of all directions; 0 for those that take no part.
    pub singular: Vec<f64>,
    left_gram: Option<Matrix>,
}

/// What is told from zero: below it, singular values found through a Gram matrix are rounding noise.
pub(crate) fn least_singular(first: f64, sides: usize) -> f64 {
    first * (sides as f64 * f64::EPSILON).max(f64::EPSILON.sqrt())
}

impl Stack {
    /// From left vectors as rows (`R × m`) and their projections `Uᵀ·τ`.
    pub fn of_left(left: Matrix, right: Matrix) -> Self {
        let columns = right.columns.max(1);
        let singular =
            right.values.chunks_exact(columns).map(|row| squared_norm(row).sqrt()).collect();
        let gram = row_gram(view(&left));
        Self { left: LeftRows::Held(transposed(&left)), right, singular, left_gram: Some(gram) }
    }

    /// From right vectors as rows (`R × n`) and the rows `τ·V`, which are read once here.
    pub fn of_right(
        operands: &mut dyn Operands,
        left: LeftRows,
        right: Matrix,
    ) -> Result<Self, Stop> {
        let mut gram = zeros(right.rows, right.rows);
        for (first, count) in panels(operands.shape(0).0, PANEL) {
            let block = left.block(operands, first, count)?;
            accumulate(&mut gram, 1.0, view(&block).transpose(), view(&block));
        }
        let size = right.rows;
        let singular = (0..size).map(|index| gram.values[index * size + index].sqrt()).collect();
        Ok(Self { left, right, singular, left_gram: Some(gram) })
    }

    /// Whether L has the singular values.
    fn is_left_scaled(&self) -> bool {
        matches!(self.left, LeftRows::Read { .. })
    }

    /// Sets singular values at or below the least of their matrix to 0; how many there were. `ranges`
    /// gives the directions of each matrix.
    pub fn drop_null(&mut self, ranges: &[std::ops::Range<usize>], sides: usize) -> usize {
        let mut dropped = 0;
        for range in ranges {
            let part = &mut self.singular[range.clone()];
            let first = part.iter().copied().fold(0.0, f64::max);
            for value in part.iter_mut().filter(|value| **value <= least_singular(first, sides)) {
                *value = 0.0;
                dropped += 1;
            }
        }
        dropped
    }

    fn inverses(&self) -> Vec<f64> {
        self.singular.iter().map(|&value| if value > 0.0 { 1.0 / value } else { 0.0 }).collect()
    }

    /// `polar(U)·diag(values)·polar(V)` of stacked directions.
    pub fn orthogonalized(mut self, values: &[f64], report: Report) -> Result<Product, Stop> {
        let inverses = self.inverses();
        let size = self.singular.len();
        let mut left_gram = self.left_gram.take().unwrap_or_default();
        let is_left_scaled = self.is_left_scaled();
        for row in 0..size {
            for column in 0..size {
                let value = &mut left_gram.values[row * size + column];
                if is_left_scaled {
                    *value *= inverses[row] * inverses[column];
                } else if inverses[row] == 0.0 || inverses[column] == 0.0 {
                    *value = 0.0;
                }
            }
        }
        let unit = |row: usize| if inverses[row] > 0.0 { 1.0 } else { 0.0 };
        let mut right = std::mem::take(&mut self.right);
        scale_rows(&mut right, |row| if is_left_scaled { unit(row) } else { inverses[row] });
        let mut core = inverse_root(&row_gram(view(&right)))?;
        scale_rows(&mut core, |row| values[row]);
        let left_core = inverse_root(&left_gram)?;
        drop(left_gram);
        let mut core = product(view(&left_core), view(&core));
        drop(left_core);
        if is_left_scaled {
            scale_rows(&mut core, |row| inverses[row]);
        }
        multiply(&core, &mut right);
        Ok(Product { left: self.left, right, report })
    }
}

/// Columns that are multiplied at a time.
pub(crate) const COLUMNS: usize = 512;

/// Replaces a matrix by a square one times it, some columns after the other, so that it is there once.
fn multiply(core: &Matrix, matrix: &mut Matrix) {
    let (rows, columns) = (matrix.rows, matrix.columns);
    for (first, count) in panels(columns, COLUMNS) {
        let part = product(view(core), view(matrix).subcols(first, count));
        let into = MatMut::from_row_major_slice_mut(&mut matrix.values, rows, columns);
        into.subcols_mut(first, count).copy_from(view(&part));
    }
}
