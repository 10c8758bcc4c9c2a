//! Reduction of a large symmetric matrix to a tridiagonal one, `A = Q·T·Qᵀ`, for functions of A that
//! only a few rows are multiplied by: Q is never formed.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{
    ComputeEigenvectors, SelfAdjointEvdParams, self_adjoint_evd_scratch,
    tridiagonal_self_adjoint_evd,
};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply,
    apply_block_householder_sequence_transpose_on_the_left_in_place_with_conj as apply_transposed,
    make_householder_in_place, upgrade_householder_factor,
};
use faer::linalg::matmul::matmul;
use faer::{Accum, Col, Conj, Mat, MatMut, MatRef, Par, Spec};
use mixdown_ops::matrix::{Matrix, Stop};

use super::dense::{add_lower_product, check_finite, zeros};
use super::symmetric::multiply_lower;
use crate::features::Features;

/// Columns that are reduced before the rest is brought up to date.
///
/// More make the update quicker and the panels slower, which go through what lies to the left of each
/// column three times.
const PANEL: usize = 32;

/// Reflections that are applied together.
const TOGETHER: usize = 64;

/// `Q·T·Qᵀ` of a symmetric matrix.
#[derive(Debug)]
pub(crate) struct Tridiagonal {
    /// Column `k` has the reflection of step `k` from row `k + 1` on, whose first number is 1 and not
    /// stored; in column-major order.
    reflections: Matrix,
    /// Compact-WY factors of [`TOGETHER`] reflections each.
    factors: Mat<f64>,
    /// The diagonal of T.
    pub diagonal: Vec<f64>,
    /// What stands beside it: one less.
    pub beside: Vec<f64>,
}

/// Of faer's ways to apply reflections.
type Apply = fn(MatRef<'_, f64>, MatRef<'_, f64>, Conj, MatMut<'_, f64>, Par, &mut MemStack);

/// Eigenvalues of T in ascending order, and its eigenvectors as columns.
pub(crate) struct TridiagonalEigen {
    pub values: Vec<f64>,
    pub vectors: Mat<f64>,
}

impl Tridiagonal {
    /// Reduces a symmetric matrix, of which only the lower triangle is read, in column-major order.
    ///
    /// **Numerics.** Backward stable: T has the eigenvalues of a matrix within `c·ε·‖A‖` of A. Products
    /// with the trailing matrix read its lower triangle once for each column, and the trailing matrix is
    /// brought up to date after [`PANEL`] columns; on one thread.
    /// **Errors.** NaN or infinity.
    /// **Source.** Dongarra, Sorensen and Hammarling 1989, the blocked reduction known from LAPACK.
    pub fn of(lower: Matrix) -> Result<Self, Stop> {
        check_finite(&lower.values, "a Gram matrix")?;
        let n = lower.rows;
        let mut reflections = lower;
        let mut taus = vec![f64::INFINITY; n.saturating_sub(1)];
        let features = Features::best();
        for first in (0..n.saturating_sub(1)).step_by(PANEL) {
            let count = PANEL.min(n - 1 - first);
            reduce(features, &mut reflections, first, count, &mut taus);
        }
        let at = |row: usize, column: usize| reflections.values[column * n + row];
        let diagonal = (0..n).map(|index| at(index, index)).collect();
        let beside = (1..n).map(|index| at(index, index - 1)).collect();
        let mut factors = Mat::<f64>::zeros(TOGETHER, n.saturating_sub(1));
        let columns = MatRef::from_column_major_slice(&reflections.values, n, n);
        for first in (0..n.saturating_sub(1)).step_by(TOGETHER) {
            let count = TOGETHER.min(n - 1 - first);
            let mut factor = factors.as_mut().submatrix_mut(0, first, count, count);
            (0..count).for_each(|index| factor[(index, index)] = taus[first + index]);
            let essentials = columns.submatrix(first + 1, first, n - 1 - first, count);
            upgrade_householder_factor(factor, essentials, count, 1, Par::Seq);
        }
        Ok(Self { reflections, factors, diagonal, beside })
    }

    /// `rows ← rows·Q`.
    pub fn turn(&self, rows: &mut Matrix) -> Result<(), Stop> {
        self.each(rows, apply_transposed)
    }

    /// `rows ← rows·Qᵀ`.
    pub fn turn_back(&self, rows: &mut Matrix) -> Result<(), Stop> {
        self.each(rows, apply)
    }

    /// Applies the reflections to the columns of the transposed rows, which lie one after the other.
    fn each(&self, rows: &mut Matrix, apply: Apply) -> Result<(), Stop> {
        let n = self.diagonal.len();
        if n < 2 || rows.rows == 0 {
            return Ok(());
        }
        let basis = MatRef::from_column_major_slice(&self.reflections.values, n, n);
        let mut buffer = scratch(apply_scratch::<f64>(n - 1, TOGETHER, rows.rows))?;
        let turned = MatMut::from_column_major_slice_mut(&mut rows.values, n, rows.rows);
        apply(
            basis.submatrix(1, 0, n - 1, n - 1),
            self.factors.as_ref(),
            Conj::No,
            turned.subrows_mut(1, n - 1),
            Par::Seq,
            MemStack::new(&mut buffer),
        );
        Ok(())
    }

    /// Eigenvalues and eigenvectors of T: those of A are `Q` times them.
    pub fn eigen(&self) -> Result<TridiagonalEigen, Stop> {
        let n = self.diagonal.len();
        let mut vectors = Mat::<f64>::zeros(n, n);
        let mut values = Col::<f64>::zeros(n);
        if n == 0 {
            return Ok(TridiagonalEigen { values: Vec::new(), vectors });
        }
        let diagonal = Col::from_fn(n, |index| self.diagonal[index]);
        let beside = Col::from_fn(n, |index| self.beside.get(index).copied().unwrap_or(0.0));
        let wanted = ComputeEigenvectors::Yes;
        let params: Spec<SelfAdjointEvdParams, f64> = Default::default();
        let mut buffer = scratch(self_adjoint_evd_scratch::<f64>(n, wanted, Par::Seq, params))?;
        tridiagonal_self_adjoint_evd(
            diagonal.as_diagonal(),
            beside.as_diagonal(),
            values.as_diagonal_mut(),
            Some(vectors.as_mut()),
            Par::Seq,
            MemStack::new(&mut buffer),
            params,
        )
        .map_err(|_| Stop::Failed("the eigensolver did not converge".into()))?;
        let values = values.iter().copied().collect();
        Ok(TridiagonalEigen { values, vectors })
    }

    /// `rows·T`.
    pub fn multiply(&self, rows: &Matrix) -> Matrix {
        let n = self.diagonal.len();
        let mut result = zeros(rows.rows, n);
        if n == 0 {
            return result;
        }
        let pairs = result.values.chunks_exact_mut(n).zip(rows.values.chunks_exact(n));
        for (result, row) in pairs {
            for (index, value) in result.iter_mut().enumerate() {
                *value = self.diagonal[index] * row[index];
                if index > 0 {
                    *value += self.beside[index - 1] * row[index - 1];
                }
                if index + 1 < n {
                    *value += self.beside[index] * row[index + 1];
                }
            }
        }
        result
    }
}

/// Reduces `count` columns from `first` on, and brings what lies right of them up to date.
///
/// With `V` the reflections of the panel and `W` what belongs to them, the trailing matrix is
/// `A − V·Wᵀ − W·Vᵀ`: until the panel's end only the columns of the panel see this.
fn reduce(features: Features, matrix: &mut Matrix, first: usize, count: usize, taus: &mut [f64]) {
    let n = matrix.rows;
    // Row 0 is row `first + 1` of the matrix.
    let height = n - first - 1;
    // [V W] and [W V], so that the update is one product.
    let mut left = Mat::<f64>::zeros(height, 2 * count);
    let mut right = Mat::<f64>::zeros(height, 2 * count);
    let mut along = vec![0.0; 2 * count];
    for step in 0..count {
        let column = first + step;
        let (behind, rest) = matrix.values.split_at_mut((column + 1) * n);
        let values = &mut behind[column * n..];
        if step > 0 {
            // The column from its diagonal on, less its part of V·Wᵀ + W·Vᵀ.
            let row = step - 1;
            let size = n - column;
            for start in [0, count] {
                let into = MatMut::from_column_major_slice_mut(&mut values[column..], size, 1);
                let a = left.as_ref().submatrix(row, start, size, step);
                let b = right.as_ref().submatrix(row, start, 1, step);
                matmul(into, Accum::Add, a, b.transpose(), -1.0, Par::Seq);
            }
        }
        let below = &mut values[column + 1..];
        let (head, tail) = below.split_at_mut(1);
        let tail_column = faer::ColMut::from_slice_mut(tail);
        let tau = make_householder_in_place(&mut head[0], tail_column).tau;
        taus[column] = tau;
        if !tau.is_finite() {
            continue;
        }
        // v and w, from row `column + 1` on.
        let mut v = vec![1.0; below.len()];
        v[1..].copy_from_slice(&below[1..]);
        let mut w = vec![0.0; v.len()];
        multiply_lower(features, rest, n, column + 1, &v, &mut w);
        let size = v.len();
        for start in [0, count].into_iter().filter(|_| step > 0) {
            let a = left.as_ref().submatrix(step, start, size, step);
            let b = right.as_ref().submatrix(step, start, size, step);
            let reflection = MatRef::from_column_major_slice(&v, size, 1);
            let mut along = MatMut::from_column_major_slice_mut(&mut along[..step], step, 1);
            matmul(along.as_mut(), Accum::Replace, b.transpose(), reflection, 1.0, Par::Seq);
            let into = MatMut::from_column_major_slice_mut(&mut w, size, 1);
            matmul(into, Accum::Add, a, along.as_ref(), -1.0, Par::Seq);
        }
        w.iter_mut().for_each(|value| *value /= tau);
        let half = super::dense::dot(&w, &v) / (2.0 * tau);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= half * v);
        for (index, (v, w)) in v.iter().zip(&w).enumerate() {
            left[(step + index, step)] = *v;
            left[(step + index, count + step)] = *w;
            right[(step + index, step)] = *w;
            right[(step + index, count + step)] = *v;
        }
    }
    let start = first + count;
    let size = n - start;
    let whole = MatMut::from_column_major_slice_mut(&mut matrix.values, n, n);
    add_lower_product(
        whole.submatrix_mut(start, start, size, size),
        -1.0,
        left.as_ref().subrows(count - 1, size),
        right.as_ref().subrows(count - 1, size).transpose(),
    );
}

fn scratch(need: faer::dyn_stack::StackReq) -> Result<MemBuffer, Stop> {
    MemBuffer::try_new(need).map_err(|_| Stop::Failed("no memory for a decomposition".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::dense::{product, row_gram, transposed, view};
    use crate::matrix::eigen::eigen;

    fn random(rows: usize, columns: usize) -> Matrix {
        let number = |index: usize| {
            let bits = mixdown_ops::random::uniform_bits(7, index as u64);
            f64::from(bits) / f64::from(u32::MAX) - 0.5
        };
        Matrix { rows, columns, values: (0..rows * columns).map(number).collect() }
    }

    fn identity(n: usize) -> Matrix {
        let mut one = zeros(n, n);
        (0..n).for_each(|index| one.values[index * n + index] = 1.0);
        one
    }

    fn largest(matrix: &Matrix) -> f64 {
        matrix.values.iter().fold(0.0, |most: f64, value| most.max(value.abs()))
    }

    fn near(a: &Matrix, b: &Matrix, bound: f64, what: &str) {
        let most = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(most <= bound, "{what}: {most:e} is above {bound:e}");
    }

    fn check(symmetric: &Matrix, what: &str) {
        let n = symmetric.rows;
        let bound = 1e-15 * n as f64 * largest(symmetric).max(1e-300);
        let reduced = Tridiagonal::of(symmetric.clone()).unwrap();
        let mut q = identity(n);
        reduced.turn(&mut q).unwrap();
        near(&row_gram(view(&q)), &identity(n), 1e-14 * n as f64, what);
        let back = product(view(&reduced.multiply(&q)), view(&transposed(&q)));
        near(&back, symmetric, 4.0 * bound, what);
        let mut same = q;
        reduced.turn_back(&mut same).unwrap();
        near(&same, &identity(n), 1e-14 * n as f64, what);
        let found = reduced.eigen().unwrap().values;
        let expected = eigen(symmetric).unwrap().values;
        for (found, expected) in found.iter().rev().zip(&expected) {
            assert!((found - expected).abs() <= 8.0 * bound, "{what}: {found} for {expected}");
        }
    }

    /// Sizes around the borders of panels, of lanes and of groups of reflections.
    #[test]
    fn products_give_the_matrix_back() {
        for n in [1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 34, 63, 64, 65, 66, 97, 130] {
            check(&row_gram(view(&random(n, n + 3))), &format!("{n}, full rank"));
            check(&row_gram(view(&random(n, n.div_ceil(3)))), &format!("{n}, low rank"));
            check(&zeros(n, n), &format!("{n}, zeros"));
            check(&identity(n), &format!("{n}, identity"));
            let mut diagonal = zeros(n, n);
            (0..n).for_each(|index| diagonal.values[index * n + index] = (index % 3) as f64);
            check(&diagonal, &format!("{n}, diagonal with clusters"));
        }
    }

    #[test]
    fn numbers_that_are_none_stop() {
        let mut matrix = identity(3);
        matrix.values[4] = f64::NAN;
        assert!(matches!(Tridiagonal::of(matrix), Err(Stop::Failed(_))));
    }
}
