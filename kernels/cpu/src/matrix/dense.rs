//! Dense matrices, row-major in f64, and their products: thin words over faer, always on one thread,
//! so that bits do not depend on how many there are.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use mixdown_ops::matrix::{Matrix, Stop};

use super::work_space;

pub(crate) fn zeros(rows: usize, columns: usize) -> Matrix {
    Matrix { rows, columns, values: vec![0.0; rows * columns] }
}

pub(crate) fn view(matrix: &Matrix) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(&matrix.values, matrix.rows, matrix.columns)
}

/// Rows `first..first + rows` of a matrix.
pub(crate) fn rows_of(matrix: &Matrix, first: usize, rows: usize) -> MatRef<'_, f64> {
    let start = first * matrix.columns;
    let values = &matrix.values[start..start + rows * matrix.columns];
    MatRef::from_row_major_slice(values, rows, matrix.columns)
}

/// `into ← into + factor · a·b`.
pub(crate) fn add_product(
    into: MatMut<'_, f64>,
    factor: f64,
    a: MatRef<'_, f64>,
    b: MatRef<'_, f64>,
) {
    multiply(into, Accum::Add, a, b, factor);
}

/// `into ← factor · a·b`, or what is there and that. In tiles, so that the work space of a product is bounded;
/// no tile goes through a sum, so that bits are those of one product.
pub(crate) fn multiply(
    mut into: MatMut<'_, f64>,
    accum: Accum,
    a: MatRef<'_, f64>,
    b: MatRef<'_, f64>,
    factor: f64,
) {
    let (rows, columns) = (into.nrows(), into.ncols());
    if a.ncols() == 0 && matches!(accum, Accum::Add) {
        return;
    }
    for column in (0..columns).step_by(work_space::COLUMNS) {
        let width = work_space::COLUMNS.min(columns - column);
        for row in (0..rows).step_by(work_space::ROWS) {
            let height = work_space::ROWS.min(rows - row);
            let tile = into.rb_mut().submatrix_mut(row, column, height, width);
            let (a, b) = (a.subrows(row, height), b.subcols(column, width));
            matmul(tile, accum, a, b, factor, Par::Seq);
        }
    }
}

/// The same into a matrix.
pub(crate) fn accumulate(into: &mut Matrix, factor: f64, a: MatRef<'_, f64>, b: MatRef<'_, f64>) {
    let (rows, columns) = (into.rows, into.columns);
    add_product(MatMut::from_row_major_slice_mut(&mut into.values, rows, columns), factor, a, b);
}

pub(crate) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Matrix {
    let mut result = zeros(a.nrows(), b.ncols());
    accumulate(&mut result, 1.0, a, b);
    result
}

/// Adds `factor · a·aᵀ` to the lower triangle of a square matrix, at half the price of a product.
pub(crate) fn add_lower_gram(into: MatMut<'_, f64>, factor: f64, a: MatRef<'_, f64>) {
    add_lower_product(into, factor, a, a.transpose());
}

/// Adds `factor · a·b` to the lower triangle of a square matrix, at half the price of a product.
pub(crate) fn add_lower_product(
    mut into: MatMut<'_, f64>,
    factor: f64,
    a: MatRef<'_, f64>,
    b: MatRef<'_, f64>,
) {
    if a.ncols() == 0 {
        return;
    }
    let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    let side = into.nrows();
    for first in (0..side).step_by(work_space::ROWS) {
        let rows = work_space::ROWS.min(side - first);
        let a = a.subrows(first, rows);
        let before = into.rb_mut().submatrix_mut(first, 0, rows, first);
        multiply(before, Accum::Add, a, b.subcols(0, first), factor);
        let square = into.rb_mut().submatrix_mut(first, first, rows, rows);
        let b = b.subcols(first, rows);
        triangular::matmul(square, lower, Accum::Add, a, whole, b, whole, factor, Par::Seq);
    }
}

/// Copies the lower triangle of a square matrix to the upper one.
pub(crate) fn mirror(square: &mut Matrix) {
    const TILE: usize = 32;
    let n = square.rows;
    // In tiles: each column of a tile lies in other lines of the cache.
    for first in (0..n).step_by(TILE) {
        for start in (first..n).step_by(TILE) {
            for row in first..(first + TILE).min(n) {
                for column in start.max(row + 1)..(start + TILE).min(n) {
                    square.values[row * n + column] = square.values[column * n + row];
                }
            }
        }
    }
}

/// `a·aᵀ`.
pub(crate) fn row_gram(a: MatRef<'_, f64>) -> Matrix {
    let n = a.nrows();
    let mut result = zeros(n, n);
    add_lower_gram(MatMut::from_row_major_slice_mut(&mut result.values, n, n), 1.0, a);
    mirror(&mut result);
    result
}

pub(crate) fn transposed(matrix: &Matrix) -> Matrix {
    let mut result = zeros(matrix.columns, matrix.rows);
    for row in 0..matrix.rows {
        for column in 0..matrix.columns {
            result.values[column * matrix.rows + row] =
                matrix.values[row * matrix.columns + column];
        }
    }
    result
}

/// The first rows of a matrix.
pub(crate) fn first_rows(mut matrix: Matrix, rows: usize) -> Matrix {
    matrix.values.truncate(rows * matrix.columns);
    matrix.values.shrink_to_fit();
    matrix.rows = rows;
    matrix
}

/// Multiplies each row by its factor.
pub(crate) fn scale_rows(matrix: &mut Matrix, factor: impl Fn(usize) -> f64) {
    if matrix.columns == 0 {
        return;
    }
    for (row, values) in matrix.values.chunks_exact_mut(matrix.columns).enumerate() {
        let factor = factor(row);
        values.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Appends the rows of another matrix with as many columns.
pub(crate) fn append_rows(stack: &mut Matrix, rows: &Matrix) {
    // Exactly: stacks are held for long, and room to grow would count as memory.
    stack.values.reserve_exact(rows.values.len());
    stack.values.extend_from_slice(&rows.values);
    stack.rows += rows.rows;
}

pub(crate) fn squared_norm(values: &[f64]) -> f64 {
    dot(values, values)
}

/// Σ a·b, in four lanes, so that it is both quick and the same everywhere.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a4.zip(b4) {
        for lane in 0..4 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]) + rest
}

/// `into ← into + factor · other`.
pub(crate) fn add_scaled(into: &mut [f64], factor: f64, other: &[f64]) {
    into.iter_mut().zip(other).for_each(|(into, other)| *into += factor * other);
}

/// Fails when a number of a result is NaN or infinite.
pub(crate) fn check_finite(values: &[f64], what: &str) -> Result<(), Stop> {
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Stop::Failed(format!("{what} has a NaN or an infinity"))),
    }
}
