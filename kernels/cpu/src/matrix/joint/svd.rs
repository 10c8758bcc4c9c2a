//! Thin singular value decompositions in f64, the polar factor, and the sign of a determinant.
//!
//! Slower than going through a Gram matrix, and right for small singular values too: what is merged here depends
//! on single directions.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::lu::partial_pivoting::factor as lu;
use faer::linalg::svd::{ComputeSvdVectors, svd as decompose, svd_scratch};
use faer::{Mat, Par};
use mixdown_ops::matrix::{Matrix, Stop};

use super::super::dense::{check_finite, product, view, zeros};

/// `U·Σ·Vᵀ` with `p = min(m, n)` directions, the largest first.
#[derive(Debug)]
pub(crate) struct Svd {
    /// `m × p`.
    pub left: Matrix,
    /// Descending.
    pub values: Vec<f64>,
    /// `p × n`: Vᵀ.
    pub right: Matrix,
}

/// Decomposes a matrix.
///
/// **Errors.** NaN or infinity, and no convergence.
pub(crate) fn svd(matrix: &Matrix) -> Result<Svd, Stop> {
    check_finite(&matrix.values, "a matrix")?;
    let (m, n) = (matrix.rows, matrix.columns);
    let p = m.min(n);
    if p == 0 {
        return Ok(Svd { left: zeros(m, 0), values: Vec::new(), right: zeros(0, n) });
    }
    let (mut u, mut v) = (Mat::<f64>::zeros(m, p), Mat::<f64>::zeros(n, p));
    let mut values = Mat::<f64>::zeros(p, 1);
    let thin = ComputeSvdVectors::Thin;
    let need = svd_scratch::<f64>(m, n, thin, thin, Par::Seq, Default::default());
    let mut buffer = MemBuffer::try_new(need)
        .map_err(|_| Stop::Failed("no memory for a decomposition".into()))?;
    decompose(
        view(matrix),
        values.as_mut().col_mut(0).as_diagonal_mut(),
        Some(u.as_mut()),
        Some(v.as_mut()),
        Par::Seq,
        MemStack::new(&mut buffer),
        Default::default(),
    )
    .map_err(|_| Stop::Failed("the singular values did not converge".into()))?;
    let mut left = zeros(m, p);
    let mut right = zeros(p, n);
    for column in 0..p {
        for (row, value) in u.col(column).iter().enumerate() {
            left.values[row * p + column] = *value;
        }
        for (at, value) in v.col(column).iter().enumerate() {
            right.values[column * n + at] = *value;
        }
    }
    Ok(Svd { left, values: (0..p).map(|at| values[(at, 0)]).collect(), right })
}

impl Svd {
    /// Directions above rounding noise.
    pub fn rank(&self) -> usize {
        let sides = self.left.rows.max(self.right.columns) as f64;
        let least = self.values.first().copied().unwrap_or(0.0) * sides * f64::EPSILON;
        self.values.iter().take_while(|&&value| value > least).count()
    }

    /// The first columns of U.
    pub fn first_left(&self, count: usize) -> Matrix {
        let mut first = zeros(self.left.rows, count);
        for row in 0..self.left.rows {
            let from = row * self.left.columns;
            first.values[row * count..(row + 1) * count]
                .copy_from_slice(&self.left.values[from..from + count]);
        }
        first
    }

    /// The first rows of Vᵀ.
    pub fn first_right(&self, count: usize) -> Matrix {
        let columns = self.right.columns;
        Matrix { rows: count, columns, values: self.right.values[..count * columns].to_vec() }
    }

    /// `U·f·Vᵀ` over the directions that there are factors for.
    pub fn with(&self, factors: &[f64]) -> Matrix {
        let count = factors.len();
        let mut left = self.first_left(count);
        for row in left.values.chunks_mut(count.max(1)) {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
        product(view(&left), view(&self.first_right(count)))
    }
}

/// The orthonormal factor `U·Vᵀ`.
pub(crate) fn polar(matrix: &Matrix) -> Result<Matrix, Stop> {
    let found = svd(matrix)?;
    Ok(found.with(&vec![1.0; found.values.len()]))
}

/// Whether the determinant of a square matrix is below 0.
pub(super) fn is_reflection(square: &Matrix) -> Result<bool, Stop> {
    let n = square.rows;
    let mut work = view(square).to_owned();
    let (mut order, mut inverse) = (vec![0_usize; n], vec![0_usize; n]);
    let need = lu::lu_in_place_scratch::<usize, f64>(n, n, Par::Seq, Default::default());
    let mut buffer = MemBuffer::try_new(need)
        .map_err(|_| Stop::Failed("no memory for a decomposition".into()))?;
    let (found, _) = lu::lu_in_place(
        work.as_mut(),
        &mut order,
        &mut inverse,
        Par::Seq,
        MemStack::new(&mut buffer),
        Default::default(),
    );
    let negative = (0..n).filter(|&at| work[(at, at)] < 0.0).count();
    Ok((found.transposition_count + negative) % 2 == 1)
}

/// A matrix beside others of as many rows.
pub(super) fn beside(matrices: &[Matrix]) -> Matrix {
    let rows = matrices.first().map_or(0, |matrix| matrix.rows);
    let columns = matrices.iter().map(|matrix| matrix.columns).sum();
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for matrix in matrices {
            values.extend_from_slice(
                &matrix.values[row * matrix.columns..(row + 1) * matrix.columns],
            );
        }
    }
    Matrix { rows, columns, values }
}

/// A matrix beneath others of as many columns.
pub(super) fn beneath(matrices: &[Matrix]) -> Matrix {
    let columns = matrices.first().map_or(0, |matrix| matrix.columns);
    let rows = matrices.iter().map(|matrix| matrix.rows).sum();
    let values = matrices.iter().flat_map(|matrix| matrix.values.iter().copied()).collect();
    Matrix { rows, columns, values }
}
