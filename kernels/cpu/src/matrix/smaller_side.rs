//! Functions of singular values as one square matrix of the smaller side: `U·f(Σ)·Vᵀ` is `M·τ` with
//! `M = U·diag(f(σ)/σ)·Uᵀ`, or `τ·M` with the right directions. So neither side's directions are held as a whole,
//! and τ is read again.

use faer::MatMut;
use faer::prelude::ReborrowMut;
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::dense::{add_product, product, rows_of, squared_norm, view};
use super::directions::least_singular;
use super::eigen::{compose, eigen};
use super::gram::{left_gram, right_gram};
use super::product::{BLOCK_ROWS, in_blocks};
use super::rows::{Blend, PANEL, panels, project};

/// Directions that are projected at a time.
pub(crate) const TOGETHER: usize = 512;

/// The directions of the smaller side of a sum of operands.
pub(crate) struct SmallerSide {
    pub blend: Blend,
    /// Whether they are left ones: no more rows than columns.
    pub is_left: bool,
    /// Orthonormal, as rows, in descending order of eigenvalues.
    pub vectors: Matrix,
    /// The norm of the sum along each; 0 where it is rounding noise.
    pub singular: Vec<f64>,
}

impl SmallerSide {
    /// **Numerics.** Directions by the Gram matrix in f64, singular values as norms along them: those below
    /// 1.5e-8·σ_1 are 0.
    pub fn of(operands: &mut dyn Operands, blend: Blend) -> Result<Self, Stop> {
        let (rows, columns) = operands.shape(0);
        let is_left = rows <= columns;
        let gram = match is_left {
            true => left_gram(operands, &blend)?,
            false => right_gram(operands, &blend)?,
        };
        let vectors = eigen(&gram)?.vectors;
        drop(gram);
        let mut singular = norms_along(operands, &blend, &vectors, is_left)?;
        let largest = singular.iter().copied().fold(0.0, f64::max);
        let least = least_singular(largest, rows.max(columns));
        singular.iter_mut().filter(|value| **value <= least).for_each(|value| *value = 0.0);
        Ok(Self { blend, is_left, vectors, singular })
    }

    /// How many have energy.
    pub fn rank(&self) -> usize {
        self.singular.iter().filter(|&&value| value > 0.0).count()
    }

    /// Some of the directions.
    pub fn some(&self, first: usize, count: usize) -> Matrix {
        some_rows(&self.vectors, first, count)
    }

    /// The matrix with these singular values in place of its own; directions without energy stay empty.
    pub fn with_values(self, values: &[f64], report: Report) -> Reweighed {
        let share = |(&value, &own): (&f64, &f64)| if own > 0.0 { value / own } else { 0.0 };
        let factors: Vec<f64> = values.iter().zip(&self.singular).map(share).collect();
        let matrix = compose(&self.vectors, &factors);
        Reweighed { matrix, blend: self.blend, is_left: self.is_left, report }
    }
}

/// Rows of a matrix as one of their own.
pub(crate) fn some_rows(matrix: &Matrix, first: usize, rows: usize) -> Matrix {
    let values = matrix.values[first * matrix.columns..(first + rows) * matrix.columns].to_vec();
    Matrix { rows, columns: matrix.columns, values }
}

/// The norms of `Uᵀ·τ` or `τ·V` in each direction, some directions at a time.
fn norms_along(
    operands: &mut dyn Operands,
    blend: &Blend,
    vectors: &Matrix,
    is_left: bool,
) -> Result<Vec<f64>, Stop> {
    let mut squares = Vec::with_capacity(vectors.rows);
    if is_left {
        for (first, count) in panels(vectors.rows, TOGETHER) {
            let some = some_rows(vectors, first, count);
            let along = project(operands, blend, &some)?;
            squares.extend(along.values.chunks_exact(along.columns.max(1)).map(squared_norm));
        }
    } else {
        squares = vec![0.0; vectors.rows];
        for (first, count) in panels(operands.shape(0).0, PANEL) {
            let block = blend.block(operands, first, count)?;
            let along = product(view(&block), view(vectors).transpose());
            for row in along.values.chunks_exact(vectors.rows) {
                squares.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * value);
            }
        }
    }
    Ok(squares.into_iter().map(f64::sqrt).collect())
}

/// `M·τ` or `τ·M` of a sum of operands that is read again.
#[derive(Debug)]
pub(crate) struct Reweighed {
    pub matrix: Matrix,
    pub blend: Blend,
    pub is_left: bool,
    pub report: Report,
}

impl Reweighed {
    /// Adds rows of it.
    pub fn add_rows(
        &self,
        operands: &mut dyn Operands,
        first: usize,
        mut into: MatMut<'_, f64>,
    ) -> Result<(), Stop> {
        let (all, rows) = (operands.shape(0).0, into.nrows());
        if !self.is_left {
            let block = self.blend.block(operands, first, rows)?;
            add_product(into, 1.0, view(&block), view(&self.matrix));
            return Ok(());
        }
        let own = rows_of(&self.matrix, first, rows);
        for (start, count) in panels(all, PANEL) {
            let block = self.blend.block(operands, start, count)?;
            add_product(into.rb_mut(), 1.0, own.subcols(start, count), view(&block));
        }
        Ok(())
    }
}

impl Prepared for Reweighed {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = operands.shape(0).1;
        in_blocks(columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            values.fill(0.0);
            let into = MatMut::from_row_major_slice_mut(values, rows, columns);
            self.add_rows(operands, first, into)?;
            Ok((0.0, 0.0))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}
