//! Reduction of a large symmetric matrix to a band, `A = Q·B·Qᵀ`, by products of blocks: what is left for
//! single vectors then lies in cache.

use faer::{Accum, Mat, MatMut, MatRef};
use mixdown_ops::matrix::Matrix;

use super::dense::{add_lower_product, multiply};
use super::reflectors::{self, Reflectors};
use crate::features::{Features, Kernel};

/// Diagonals of the band below the main one, and the reflections that are made together.
///
/// A wider band makes the products quicker and the rest of the way to a tridiagonal matrix longer.
pub(crate) const WIDTH: usize = 64;

/// Reflections that rows are turned by together.
const TOGETHER: usize = 2 * WIDTH;

/// Columns of a block of the trailing matrix: each is read once for both of its products.
const BLOCK: usize = 192;

/// Reduces a symmetric matrix of which only the lower triangle is read and written, in column-major order.
///
/// The band takes the place of the matrix. Below it the reflections are left: column `k` has one from row
/// `k + WIDTH` on, whose first number is 1 and not stored. Their τ are the result.
pub(crate) fn reduce(features: Features, matrix: &mut Matrix) -> Vec<f64> {
    let n = matrix.rows;
    let mut taus = Vec::with_capacity(n);
    for first in (0..n).step_by(WIDTH) {
        let count = reflections(n, first, WIDTH);
        if count == 0 {
            break;
        }
        let start = first + WIDTH;
        features.run(Panel { values: &mut matrix.values, n, first, count, taus: &mut taus });
        let basis = basis(matrix, first, count);
        let factor = reflectors::factor(basis.as_ref(), &taus[first..]);
        let whole = MatMut::from_column_major_slice_mut(&mut matrix.values, n, n);
        let size = n - start;
        turn_both_sides(whole.submatrix_mut(start, start, size, size), &basis, &factor);
    }
    taus
}

/// The columns at which groups of reflections begin.
pub(crate) fn groups(n: usize) -> impl DoubleEndedIterator<Item = usize> {
    (0..n).step_by(TOGETHER).filter(move |&first| reflections(n, first, TOGETHER) > 0)
}

/// The reflections of a group.
pub(crate) fn group(matrix: &Matrix, taus: &[f64], first: usize) -> Reflectors {
    let count = reflections(matrix.rows, first, TOGETHER);
    let basis = basis(matrix, first, count);
    let factor = reflectors::factor(basis.as_ref(), &taus[first..first + count]);
    Reflectors { first: first + WIDTH, basis, factor }
}

/// How many reflections there are from a column on: one less than the rows below the band, where these
/// are few.
fn reflections(n: usize, first: usize, most: usize) -> usize {
    n.saturating_sub(first + WIDTH + 1).min(most)
}

/// The reflections with their ones and zeros.
fn basis(matrix: &Matrix, first: usize, count: usize) -> Mat<f64> {
    let (n, start) = (matrix.rows, first + WIDTH);
    let mut basis = Mat::<f64>::zeros(n - start, count);
    for column in 0..count {
        let values = &matrix.values[(first + column) * n + start..(first + column + 1) * n];
        basis[(column, column)] = 1.0;
        for (row, value) in values.iter().enumerate().skip(column + 1) {
            basis[(row, column)] = *value;
        }
    }
    basis
}

/// Makes what lies below the band in a panel upper triangular, and adds the reflections' τ.
struct Panel<'a> {
    values: &'a mut [f64],
    n: usize,
    first: usize,
    count: usize,
    taus: &'a mut Vec<f64>,
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { values, n, first, count, taus } = self;
        let start = first + WIDTH;
        for index in 0..count {
            let (left, right) = values[..start * n].split_at_mut((first + index + 1) * n);
            let column = &mut left[(first + index) * n + start + index..];
            let tau = reflectors::make(column);
            taus.push(tau);
            if !tau.is_finite() {
                continue;
            }
            let tail = &column[1..];
            for other in right.chunks_exact_mut(n) {
                let (head, below) = other[start + index..].split_at_mut(1);
                let along = (head[0] + reflectors::dot(tail, below)) / tau;
                head[0] -= along;
                below.iter_mut().zip(tail).for_each(|(value, v)| *value -= along * v);
            }
        }
    }
}

/// `A ← Pᵀ·A·P` of a lower triangle with `P = I − V·T⁻¹·Vᵀ`: with `Y = A·V·T⁻¹` and
/// `W = Y − ½·V·T⁻ᵀ·Vᵀ·Y` that is `A − V·Wᵀ − W·Vᵀ`.
fn turn_both_sides(mut lower: MatMut<'_, f64>, basis: &Mat<f64>, factor: &Mat<f64>) {
    let (size, count) = (basis.nrows(), basis.ncols());
    // [V W] and [W V], so that the update is one product.
    let mut left = Mat::<f64>::zeros(size, 2 * count);
    let mut right = Mat::<f64>::zeros(size, 2 * count);
    let mut turned = multiply_lower(lower.as_ref(), basis.as_ref());
    reflectors::divide(turned.as_mut(), factor.as_ref());
    let mut across = Mat::<f64>::zeros(count, count);
    multiply(across.as_mut(), Accum::Replace, basis.transpose(), turned.as_ref(), 0.5);
    reflectors::divide(across.as_mut().transpose_mut(), factor.as_ref());
    multiply(turned.as_mut(), Accum::Add, basis.as_ref(), across.as_ref(), -1.0);
    left.as_mut().subcols_mut(0, count).copy_from(basis);
    left.as_mut().subcols_mut(count, count).copy_from(&turned);
    right.as_mut().subcols_mut(0, count).copy_from(&turned);
    right.as_mut().subcols_mut(count, count).copy_from(basis);
    add_lower_product(lower.as_mut(), -1.0, left.as_ref(), right.transpose());
}

/// A symmetric matrix, given by its lower triangle, times a few columns.
fn multiply_lower(lower: MatRef<'_, f64>, columns: MatRef<'_, f64>) -> Mat<f64> {
    let (size, count) = (columns.nrows(), columns.ncols());
    let mut result = Mat::<f64>::zeros(size, count);
    let mut square = Mat::<f64>::zeros(BLOCK, BLOCK);
    for first in (0..size).step_by(BLOCK) {
        let block = BLOCK.min(size - first);
        let diagonal = lower.submatrix(first, first, block, block);
        for column in 0..block {
            for row in column..block {
                square[(row, column)] = diagonal[(row, column)];
                square[(column, row)] = diagonal[(row, column)];
            }
        }
        let (here, rest) = (columns.subrows(first, block), size - first - block);
        let (_, mut into) = result.as_mut().split_at_row_mut(first);
        let square = square.submatrix(0, 0, block, block);
        multiply(into.as_mut().subrows_mut(0, block), Accum::Add, square, here, 1.0);
        if rest == 0 {
            continue;
        }
        let below = lower.submatrix(first + block, first, rest, block);
        let (top, bottom) = into.split_at_row_mut(block);
        multiply(bottom, Accum::Add, below, here, 1.0);
        let others = columns.subrows(first + block, rest);
        multiply(top, Accum::Add, below.transpose(), others, 1.0);
    }
    result
}
