//! Decompositions of small matrices in f64: eigenvectors, orthonormal bases, Cholesky factors.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::householder;
use faer::linalg::qr::no_pivoting::factor as qr;
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Conj, Mat, MatMut, Par};
use mixdown_ops::matrix::{Matrix, Stop};

use super::dense::{
    accumulate, append_rows, check_finite, first_rows, product, row_gram, scale_rows, transposed,
    view, zeros,
};
use super::tridiagonal::{Tridiagonal, TridiagonalEigen};

/// Eigenvalues of a symmetric matrix in descending order, and its eigenvectors as rows.
#[derive(Debug)]
pub(crate) struct Eigen {
    pub values: Vec<f64>,
    pub vectors: Matrix,
}

/// The eigenvalues and eigenvectors of a symmetric matrix.
///
/// **Numerics.** Eigenvalues are right to about ε·λ_1; those of a Gram matrix that should be 0 may be
/// slightly negative.
/// **Errors.** NaN or infinity, and the solver's failure to converge.
pub(crate) fn eigen(symmetric: &Matrix) -> Result<Eigen, Stop> {
    check_finite(&symmetric.values, "a Gram matrix")?;
    let n = symmetric.rows;
    if n == 0 {
        return Ok(Eigen { values: Vec::new(), vectors: zeros(0, 0) });
    }
    let mut values = Mat::<f64>::zeros(n, 1);
    let mut vectors = Mat::<f64>::zeros(n, n);
    let need =
        self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    let mut buffer = scratch(need)?;
    self_adjoint_evd(
        view(symmetric),
        values.as_mut().col_mut(0).as_diagonal_mut(),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut buffer),
        Default::default(),
    )
    .map_err(|_| Stop::Failed("the eigensolver did not converge".into()))?;
    let mut sorted = zeros(n, n);
    for (row, column) in (0..n).rev().enumerate() {
        for (index, value) in vectors.col(column).iter().enumerate() {
            sorted.values[row * n + index] = *value;
        }
    }
    let values = (0..n).rev().map(|index| values[(index, 0)]).collect();
    Ok(Eigen { values, vectors: sorted })
}

/// Sides from which on few eigenvectors are brought back alone.
const LARGE: usize = 256;

/// All eigenvalues, and the eigenvectors of the `count` largest: of a large matrix, others are not made.
pub(crate) fn leading(symmetric: Matrix, count: usize) -> Result<Eigen, Stop> {
    let n = symmetric.rows;
    let count = count.min(n);
    if n < LARGE || 2 * count > n {
        let Eigen { values, vectors } = eigen(&symmetric)?;
        return Ok(Eigen { values, vectors: first_rows(vectors, count) });
    }
    let reduced = Tridiagonal::of(symmetric)?;
    let TridiagonalEigen { mut values, vectors } = reduced.eigen()?;
    values.reverse();
    // Those of T, the largest eigenvalue's first, beside each other for each row.
    let mut turned = zeros(n, count);
    for (index, column) in (n - count..n).rev().enumerate() {
        for (row, value) in vectors.col(column).iter().enumerate() {
            turned.values[row * count + index] = *value;
        }
    }
    drop(vectors);
    reduced.turn_back(MatMut::from_column_major_slice_mut(&mut turned.values, count, n));
    Ok(Eigen { values, vectors: transposed(&turned) })
}

/// `V·f(Λ)·Vᵀ` from eigenvectors as rows.
pub(crate) fn compose(vectors: &Matrix, factors: &[f64]) -> Matrix {
    let mut scaled = vectors.clone();
    scale_rows(&mut scaled, |row| factors[row]);
    product(view(vectors).transpose(), view(&scaled))
}

/// `K^(−1/2)` of a Gram matrix of near-orthogonal vectors; directions below `ε·size·λ_1` are dropped.
pub(crate) fn inverse_root(gram: &Matrix) -> Result<Matrix, Stop> {
    let Eigen { values, vectors } = eigen(gram)?;
    let least = values.first().map_or(0.0, |first| first * f64::EPSILON * gram.rows as f64);
    let factor = |value: &f64| if *value > least { 1.0 / value.sqrt() } else { 0.0 };
    Ok(compose(&vectors, &values.iter().map(factor).collect::<Vec<_>>()))
}

/// An orthonormal basis `Q` (`rows × r`) and `R` (`r × r`) with `Q·R` equal to a tall matrix.
pub(crate) fn orthonormal(tall: &Matrix) -> Result<(Matrix, Matrix), Stop> {
    let (rows, rank) = (tall.rows, tall.columns);
    check_finite(&tall.values, "a factor")?;
    let mut work = view(tall).to_owned();
    let block = qr::recommended_block_size::<f64>(rows, rank);
    let mut coefficients = Mat::<f64>::zeros(block, rank);
    let need = qr::qr_in_place_scratch::<f64>(rows, rank, block, Par::Seq, Default::default()).or(
        householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(
            rows, block, rank,
        ),
    );
    let mut buffer = scratch(need)?;
    let stack = MemStack::new(&mut buffer);
    qr::qr_in_place(work.as_mut(), coefficients.as_mut(), Par::Seq, stack, Default::default());
    let mut upper = zeros(rank, rank);
    for row in 0..rank {
        for column in row..rank {
            upper.values[row * rank + column] = work[(row, column)];
        }
    }
    let mut basis = zeros(rows, rank);
    for index in 0..rank {
        basis.values[index * rank + index] = 1.0;
    }
    householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        work.as_ref(),
        coefficients.as_ref(),
        Conj::No,
        MatMut::from_row_major_slice_mut(&mut basis.values, rows, rank),
        Par::Seq,
        MemStack::new(&mut buffer),
    );
    Ok((basis, upper))
}

/// Rows that [`complete`] makes at a time.
const COMPLETED: usize = 512;

/// Appends as many rows as asked for to orthonormal rows, so that all are orthonormal.
///
/// Which ones is arbitrary but always the same: pseudo-random rows, projected three times.
pub(crate) fn complete(rows: &mut Matrix, count: usize) -> Result<(), Stop> {
    let columns = rows.columns;
    for first in (0..count).step_by(COMPLETED) {
        let mut some = zeros(COMPLETED.min(count - first), columns);
        for (index, value) in some.values.iter_mut().enumerate() {
            let at = (first * columns + index) as u64;
            let bits = mixdown_ops::random::uniform_bits(0x6d69_7864_6f77_6e00, at);
            *value = f64::from(bits) / f64::from(u32::MAX) - 0.5;
        }
        for _ in 0..3 {
            let along = product(view(&some), view(rows).transpose());
            accumulate(&mut some, -1.0, view(&along), view(rows));
            let gram = row_gram(view(&some));
            some = product(view(&inverse_root(&gram)?), view(&some));
        }
        append_rows(rows, &some);
    }
    Ok(())
}

/// The lower Cholesky factor of a symmetric matrix, and the jitter that was added to its diagonal for
/// it to be positive definite.
pub(crate) fn cholesky(symmetric: &Matrix) -> Result<(Mat<f64>, f64), Stop> {
    check_finite(&symmetric.values, "a Gram matrix")?;
    let n = symmetric.rows;
    let mean = (0..n).map(|i| symmetric.values[i * n + i].abs()).sum::<f64>() / n.max(1) as f64;
    // From the rounding of the sum upwards; at 1e-4 of the mean diagonal the result is another one.
    for jitter in [0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6].map(|share| share * mean) {
        let mut factor = view(symmetric).to_owned();
        (0..n).for_each(|index| factor[(index, index)] += jitter);
        let need = llt::factor::cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
        let mut buffer = scratch(need)?;
        let outcome = llt::factor::cholesky_in_place(
            factor.as_mut(),
            Default::default(),
            Par::Seq,
            MemStack::new(&mut buffer),
            Default::default(),
        );
        // A pivot of rounding noise passes but is no pivot; jitter well above it makes one.
        let least = if jitter > 0.0 { 0.0 } else { n as f64 * f64::EPSILON * mean };
        let is_sound = (0..n).all(|index| factor[(index, index)].powi(2) > least);
        if outcome.is_ok() && is_sound {
            return Ok((factor, jitter));
        }
    }
    Err(Stop::Failed("the sum of the Gram matrices is not positive definite".into()))
}

/// Replaces each row x of `rows` by the solution of `y·L·Lᵀ = x`.
pub(crate) fn solve_rows(lower: &Mat<f64>, rows: &mut Matrix) {
    let (count, columns) = (rows.rows, rows.columns);
    let mut right =
        MatMut::from_row_major_slice_mut(&mut rows.values, count, columns).transpose_mut();
    solve_lower_triangular_in_place(lower.as_ref(), right.as_mut(), Par::Seq);
    solve_upper_triangular_in_place(lower.as_ref().transpose(), right, Par::Seq);
}

fn scratch(need: faer::dyn_stack::StackReq) -> Result<MemBuffer, Stop> {
    MemBuffer::try_new(need).map_err(|_| Stop::Failed("no memory for a decomposition".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::dense::{add_scaled, squared_norm};

    /// Eigenvectors of a large matrix that are made alone are those of all.
    #[test]
    fn leading_eigenvectors_are_the_first() {
        let (n, count) = (LARGE + 5, 30);
        let number = |index: usize| {
            let bits = mixdown_ops::random::uniform_bits(3, index as u64);
            f64::from(bits) / f64::from(u32::MAX) - 0.5
        };
        let factor = Matrix { rows: n, columns: n, values: (0..n * n).map(number).collect() };
        let gram = row_gram(view(&factor));
        let all = eigen(&gram).unwrap();
        let found = leading(gram.clone(), count).unwrap();
        assert_eq!((found.vectors.rows, found.vectors.columns), (count, n));
        let bound = 1e-13 * all.values[0];
        for (found, expected) in found.values.iter().zip(&all.values) {
            assert!((found - expected).abs() < bound, "{found} for {expected}");
        }
        let mut off = product(view(&found.vectors), view(&gram));
        for row in 0..count {
            let vector = &found.vectors.values[row * n..(row + 1) * n];
            let line = &mut off.values[row * n..(row + 1) * n];
            add_scaled(line, -found.values[row], vector);
            assert!(squared_norm(line).sqrt() < bound, "eigenvector {row}");
            assert!((squared_norm(vector) - 1.0).abs() < 1e-13, "eigenvector {row}");
        }
        // Few of a small one, and most of a large one.
        assert_eq!(leading(zeros(3, 3), 7).unwrap().vectors.rows, 3);
        let most = leading(gram, n - 1).unwrap();
        assert_eq!(most.vectors.values, all.vectors.values[..(n - 1) * n]);
    }
}
