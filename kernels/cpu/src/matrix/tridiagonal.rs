//! Reduction of a large symmetric matrix to a tridiagonal one, `A = Q·T·Qᵀ`, for functions of A that
//! only a few rows are multiplied by: Q is never formed.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{
    ComputeEigenvectors, SelfAdjointEvdParams, self_adjoint_evd_scratch,
    tridiagonal_self_adjoint_evd,
};
use faer::{Col, Mat, MatMut, Par, Spec};
use mixdown_ops::matrix::{Matrix, Operands, Stop};

use super::band::{self, WIDTH};
use super::chase;
use super::dense::{add_scaled, check_finite, zeros};
use super::lower::{self, Lower};
use super::root_free;
use crate::features::Features;

/// Numbers that the steps hold for each row beside the matrix: factors and the band, and reflections with
/// what they are turned into, or the vectors that are solved for.
pub(crate) const BESIDE: usize = 10 * WIDTH;

/// Gives the numbers of reflections from one on.
pub(crate) type Fetch<'a> = &'a mut dyn FnMut(usize, &mut [f64]) -> Result<(), Stop>;

/// `Q·T·Qᵀ` of a symmetric matrix.
#[derive(Debug)]
pub(crate) struct Tridiagonal {
    /// The reflections of both steps: the triangle in which [`band`] leaves them, and then what [`chase`] keeps.
    /// None where they lie aside, in the same order.
    held: Option<(Lower, Vec<f64>)>,
    /// The τ of the first step's.
    taus: Vec<f64>,
    /// The diagonal of T.
    pub diagonal: Vec<f64>,
    /// What stands beside it: one less.
    pub beside: Vec<f64>,
}

/// Eigenvalues of T in ascending order, and its eigenvectors as columns.
pub(crate) struct TridiagonalEigen {
    pub values: Vec<f64>,
    pub vectors: Mat<f64>,
}

/// How many numbers the reflections of a matrix are.
pub(crate) fn stored(n: usize) -> usize {
    lower::stored(n) + chase::stored(n)
}

impl Tridiagonal {
    /// Reduces a symmetric matrix.
    ///
    /// **Numerics.** Backward stable: T has the eigenvalues of a matrix within `c·ε·‖A‖` of A. First to a
    /// band, by products of blocks, and then to T within cache; on one thread.
    /// **Errors.** NaN or infinity.
    /// **Source.** Bischof, Lang and Sun 2000, the reduction in two steps.
    pub fn of(symmetric: Matrix) -> Result<Self, Stop> {
        let lower = Lower::of(&symmetric);
        drop(symmetric);
        Self::of_lower(lower)
    }

    /// The same of one that is stored once.
    pub fn of_lower(lower: Lower) -> Result<Self, Stop> {
        Self::with(Features::best(), lower)
    }

    fn with(features: Features, mut lower: Lower) -> Result<Self, Stop> {
        check_finite(lower.values(), "a Gram matrix")?;
        let taus = band::reduce(features, &mut lower);
        let mut sweeps = Vec::with_capacity(chase::stored(lower.side()));
        let (diagonal, beside) = chase::reduce(features, &lower, |_, numbers| {
            sweeps.extend_from_slice(numbers);
            Ok(())
        })?;
        Ok(Self { held: Some((lower, sweeps)), taus, diagonal, beside })
    }

    /// The same with the reflections aside, so that nothing of their size is held afterwards.
    pub fn aside(mut lower: Lower, operands: &mut dyn Operands) -> Result<Self, Stop> {
        check_finite(lower.values(), "a Gram matrix")?;
        let features = Features::best();
        let taus = band::reduce(features, &mut lower);
        operands.put_aside(0, lower.values())?;
        let first = lower.values().len();
        let (diagonal, beside) =
            chase::reduce(features, &lower, |at, numbers| operands.put_aside(first + at, numbers))?;
        Ok(Self { held: None, taus, diagonal, beside })
    }

    /// `rows ← rows·Q`, of reflections that are held.
    pub fn turn(&self, rows: MatMut<'_, f64>) {
        self.turn_by(&mut |at, numbers| self.copy(at, numbers), rows)
            .expect("reflections that are held can be read");
    }

    /// `rows ← rows·Qᵀ`, of reflections that are held.
    pub fn turn_back(&self, rows: MatMut<'_, f64>) {
        self.turn_back_by(&mut |at, numbers| self.copy(at, numbers), rows)
            .expect("reflections that are held can be read");
    }

    fn copy(&self, at: usize, numbers: &mut [f64]) -> Result<(), Stop> {
        let Some((lower, sweeps)) = &self.held else {
            return Err(Stop::Failed(
                "reflections that lie aside were looked for in memory".into(),
            ));
        };
        let from = match at.checked_sub(lower.values().len()) {
            None => &lower.values()[at..],
            Some(at) => &sweeps[at..],
        };
        numbers.copy_from_slice(&from[..numbers.len()]);
        Ok(())
    }

    /// `rows ← rows·Q`, of reflections that `fetch` gives.
    pub fn turn_by(&self, fetch: Fetch<'_>, mut rows: MatMut<'_, f64>) -> Result<(), Stop> {
        let n = self.diagonal.len();
        for first in band::groups(n) {
            band::group(fetch, n, &self.taus, first)?.apply(rows.as_mut(), false);
        }
        let before = lower::stored(n);
        for first in chase::groups(n) {
            let group = chase::Group::of(&mut |at, out| fetch(before + at, out), n, first)?;
            group.steps().for_each(|step| group.step(step).apply(rows.as_mut(), false));
        }
        Ok(())
    }

    /// `rows ← rows·Qᵀ`, of reflections that `fetch` gives.
    pub fn turn_back_by(&self, fetch: Fetch<'_>, mut rows: MatMut<'_, f64>) -> Result<(), Stop> {
        let n = self.diagonal.len();
        let before = lower::stored(n);
        for first in chase::groups(n).rev() {
            let group = chase::Group::of(&mut |at, out| fetch(before + at, out), n, first)?;
            group.steps().rev().for_each(|step| group.step(step).apply(rows.as_mut(), true));
        }
        for first in band::groups(n).rev() {
            band::group(fetch, n, &self.taus, first)?.apply(rows.as_mut(), true);
        }
        Ok(())
    }

    /// Eigenvalues of T in ascending order.
    pub fn eigenvalues(&self) -> Result<Vec<f64>, Stop> {
        root_free::eigenvalues(&self.diagonal, &self.beside)
    }

    /// Eigenvalues and eigenvectors of T: those of A are `Q` times them.
    pub fn eigen(&self) -> Result<TridiagonalEigen, Stop> {
        let n = self.diagonal.len();
        let mut vectors = Mat::<f64>::zeros(n, n);
        let mut values = Col::<f64>::zeros(n);
        let diagonal = Col::from_fn(n, |index| self.diagonal[index]);
        let beside = Col::from_fn(n, |index| self.beside.get(index).copied().unwrap_or(0.0));
        let params: Spec<SelfAdjointEvdParams, f64> = Default::default();
        let need = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, params);
        let mut buffer = scratch(need)?;
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
        Ok(TridiagonalEigen { values: values.iter().copied().collect(), vectors })
    }

    /// `T·columns`.
    pub fn multiply(&self, columns: &Matrix) -> Matrix {
        let (n, width) = (self.diagonal.len(), columns.columns);
        let mut result = zeros(n, width);
        let row = |index: usize| &columns.values[index * width..(index + 1) * width];
        for index in 0..n {
            let into = &mut result.values[index * width..(index + 1) * width];
            add_scaled(into, self.diagonal[index], row(index));
            if index > 0 {
                add_scaled(into, self.beside[index - 1], row(index - 1));
            }
            if index + 1 < n {
                add_scaled(into, self.beside[index], row(index + 1));
            }
        }
        result
    }
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
        let numbers = |one: &Tridiagonal| {
            let mut all = vec![0.0; stored(n)];
            let of_lower = lower::stored(n);
            one.copy(0, &mut all[..of_lower]).unwrap();
            one.copy(of_lower, &mut all[of_lower..]).unwrap();
            all
        };
        for features in Features::available() {
            let same = Tridiagonal::with(features, Lower::of(symmetric)).unwrap();
            assert!(numbers(&same) == numbers(&reduced), "{what}: {}", features.name());
        }
        // Qᵀ, as rows are turned in column-major order.
        let mut q = identity(n);
        reduced.turn(MatMut::from_column_major_slice_mut(&mut q.values, n, n));
        near(&row_gram(view(&q)), &identity(n), 1e-14 * n as f64, what);
        let back = product(view(&transposed(&q)), view(&reduced.multiply(&q)));
        near(&back, symmetric, 4.0 * bound, what);
        let mut same = q;
        reduced.turn_back(MatMut::from_column_major_slice_mut(&mut same.values, n, n));
        near(&same, &identity(n), 1e-14 * n as f64, what);
        let expected = eigen(symmetric).unwrap().values;
        for values in [reduced.eigen().unwrap().values, reduced.eigenvalues().unwrap()] {
            for (found, expected) in values.iter().rev().zip(&expected) {
                assert!((found - expected).abs() <= 8.0 * bound, "{what}: {found} for {expected}");
            }
        }
    }

    /// Sizes around the borders of panels, of lanes and of groups of reflections.
    #[test]
    fn products_give_the_matrix_back() {
        for n in [1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 34, 63, 64, 65, 66, 97, 130, 193, 257] {
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
