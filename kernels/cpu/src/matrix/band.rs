//! Reduction of a large symmetric matrix to a band, `A = Q·B·Qᵀ`, by products of blocks: what is left for
//! single vectors then lies in cache.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use mixdown_ops::matrix::Stop;

use super::dense::multiply;
use super::lower::{BLOCK, Lower, column_at, stretches};
use super::reflectors::{self, Reflectors};
use super::tridiagonal::Fetch;
use crate::features::{Features, Kernel};

/// Diagonals of the band below the main one, and the reflections that are made together.
///
/// A wider band makes the products quicker and the rest of the way to a tridiagonal matrix longer.
pub(crate) const WIDTH: usize = 64;

/// Reflections that rows are turned by together.
const TOGETHER: usize = 2 * WIDTH;

// A panel lies in one block of columns.
const _: () = assert!(BLOCK.is_multiple_of(WIDTH));

/// Reduces a symmetric matrix.
///
/// The band takes the place of the matrix. Below it the reflections are left: column `k` has one from row
/// `k + WIDTH` on, whose first number is 1 and not stored. Their τ are the result.
pub(crate) fn reduce(features: Features, matrix: &mut Lower) -> Vec<f64> {
    let n = matrix.side();
    let mut taus = Vec::with_capacity(n);
    for first in (0..n).step_by(WIDTH) {
        let count = reflections(n, first, WIDTH);
        if count == 0 {
            break;
        }
        let start = first + WIDTH;
        let (values, row) = matrix.columns_mut(first, WIDTH.min(n - first));
        let (height, start_row) = (n - row, start - row);
        features.run(Panel { values, height, start: start_row, count, taus: &mut taus });
        let basis = basis(n - start, count, |column, into| {
            into.copy_from_slice(matrix.column(first + column, start));
            Ok(())
        });
        let Ok(basis) = basis else { break };
        let factor = reflectors::factor(basis.as_ref(), &taus[first..]);
        turn_both_sides(matrix, start, &basis, &factor);
    }
    taus
}

/// The columns at which groups of reflections begin.
pub(crate) fn groups(n: usize) -> impl DoubleEndedIterator<Item = usize> {
    (0..n).step_by(TOGETHER).filter(move |&first| reflections(n, first, TOGETHER) > 0)
}

/// The reflections of a group, from the numbers of the triangle of side `n`.
pub(crate) fn group(
    fetch: Fetch<'_>,
    n: usize,
    taus: &[f64],
    first: usize,
) -> Result<Reflectors, Stop> {
    let count = reflections(n, first, TOGETHER);
    let start = first + WIDTH;
    let basis = basis(n - start, count, |column, into| {
        let (at, row) = column_at(n, first + column);
        fetch(at + start - row, into)
    })?;
    let factor = reflectors::factor(basis.as_ref(), &taus[first..first + count]);
    Ok(Reflectors { first: start, basis, factor })
}

/// How many reflections there are from a column on: one less than the rows below the band, where these
/// are few.
fn reflections(n: usize, first: usize, most: usize) -> usize {
    n.saturating_sub(first + WIDTH + 1).min(most)
}

/// The reflections with their ones and zeros: `column` gives what is stored of each.
fn basis(
    rows: usize,
    count: usize,
    mut column: impl FnMut(usize, &mut [f64]) -> Result<(), Stop>,
) -> Result<Mat<f64>, Stop> {
    let mut basis = Mat::<f64>::zeros(rows, count);
    let mut values = vec![0.0; rows];
    for index in 0..count {
        column(index, &mut values)?;
        basis[(index, index)] = 1.0;
        for (row, value) in values.iter().enumerate().skip(index + 1) {
            basis[(row, index)] = *value;
        }
    }
    Ok(basis)
}

/// Makes what lies below the band in a panel upper triangular, and adds the reflections' τ.
struct Panel<'a> {
    /// The panel's columns.
    values: &'a mut [f64],
    height: usize,
    /// The row of the first reflection.
    start: usize,
    count: usize,
    taus: &'a mut Vec<f64>,
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { values, height, start, count, taus } = self;
        for index in 0..count {
            let (left, right) = values.split_at_mut((index + 1) * height);
            let column = &mut left[index * height + start + index..];
            let tau = reflectors::make(column);
            taus.push(tau);
            if !tau.is_finite() {
                continue;
            }
            let tail = &column[1..];
            for other in right.chunks_exact_mut(height) {
                let (head, below) = other[start + index..].split_at_mut(1);
                let along = (head[0] + reflectors::dot(tail, below)) / tau;
                head[0] -= along;
                below.iter_mut().zip(tail).for_each(|(value, v)| *value -= along * v);
            }
        }
    }
}

/// `A ← Pᵀ·A·P` of the rows and columns from one on, with `P = I − V·T⁻¹·Vᵀ`: with `Y = A·V·T⁻¹` and
/// `W = Y − ½·V·T⁻ᵀ·Vᵀ·Y` that is `A − V·Wᵀ − W·Vᵀ`.
fn turn_both_sides(matrix: &mut Lower, start: usize, basis: &Mat<f64>, factor: &Mat<f64>) {
    let (size, count) = (basis.nrows(), basis.ncols());
    // [V W] and [W V], so that the update is one product.
    let mut left = Mat::<f64>::zeros(size, 2 * count);
    let mut right = Mat::<f64>::zeros(size, 2 * count);
    let mut turned = multiply_lower(matrix, start, basis.as_ref());
    reflectors::divide(turned.as_mut(), factor.as_ref());
    let mut across = Mat::<f64>::zeros(count, count);
    multiply(across.as_mut(), Accum::Replace, basis.transpose(), turned.as_ref(), 0.5);
    reflectors::divide(across.as_mut().transpose_mut(), factor.as_ref());
    multiply(turned.as_mut(), Accum::Add, basis.as_ref(), across.as_ref(), -1.0);
    left.as_mut().subcols_mut(0, count).copy_from(basis);
    left.as_mut().subcols_mut(count, count).copy_from(&turned);
    right.as_mut().subcols_mut(0, count).copy_from(&turned);
    right.as_mut().subcols_mut(count, count).copy_from(basis);
    let n = matrix.side();
    for (at, columns) in stretches(start, n) {
        let right = right.as_ref().subrows(at - start, columns).transpose();
        let (diagonal, below) = matrix.part_mut(at, columns, at).split_at_row_mut(columns);
        let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
        let own = left.as_ref().subrows(at - start, columns);
        triangular::matmul(diagonal, lower, Accum::Add, own, whole, right, whole, -1.0, Par::Seq);
        let rest = left.as_ref().subrows(at - start + columns, n - at - columns);
        multiply(below, Accum::Add, rest, right, -1.0);
    }
}

/// A symmetric matrix from a row and column on, times a few columns.
fn multiply_lower(matrix: &Lower, start: usize, columns: MatRef<'_, f64>) -> Mat<f64> {
    let (size, count) = (columns.nrows(), columns.ncols());
    let mut result = Mat::<f64>::zeros(size, count);
    let mut square = Mat::<f64>::zeros(BLOCK, BLOCK);
    for (at, block) in stretches(start, matrix.side()) {
        let first = at - start;
        let (diagonal, below) = matrix.part(at, block, at).split_at_row(block);
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
        let (top, bottom): (MatMut<'_, f64>, _) = into.split_at_row_mut(block);
        multiply(bottom, Accum::Add, below, here, 1.0);
        let others = columns.subrows(first + block, rest);
        multiply(top, Accum::Add, below.transpose(), others, 1.0);
    }
    result
}
