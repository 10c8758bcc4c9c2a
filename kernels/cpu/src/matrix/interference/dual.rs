//! Filters over `K = S·Sᵀ` for few rows and many directions: `X = X_0 − F·S` with
//! `F = (X_0·Sᵀ − H)·q(K)`, where neither q(K) nor eigenvectors of K are formed.

use faer::{MatMut, MatRef};
use mixdown_ops::matrix::interference::{Cut, Filter};
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::super::dense::{
    accumulate, add_product, add_scaled, product, row_gram, squared_norm, view, zeros,
};
use super::super::product::{BLOCK_ROWS, in_blocks};
use super::super::rows::{PANEL, panels};
use super::super::tridiagonal::{Tridiagonal, TridiagonalEigen};
use super::cut::{self, Energies, FLOOR};
use super::experts::{Expert, Experts};
use super::filter::{self, Treatment};
use super::partial;
use super::solvers::finish;
use super::system::System;

/// `X_0 − F·S`.
#[derive(Debug)]
pub(crate) struct Dual {
    experts: Experts,
    stack: Matrix,
    /// Fᵀ, `R × m`.
    moved: Matrix,
    /// The loss of each row at the start and at the end.
    losses: Vec<(f64, f64)>,
    report: Report,
}

/// What is done with the spectrum of K.
pub(crate) struct Way<'a> {
    pub filter: &'a Filter,
    pub cut: &'a Cut,
    /// The sides of the matrices for which ranks are meant.
    pub shape: (usize, usize),
    /// Whether B_i are whole, so that the floor of eigenvalues counts.
    pub has_whole_rows: bool,
}

/// Solves for all rows at once.
///
/// **Numerics.** f64. With `K = Q·T·Qᵀ` the rows are multiplied by Q, q(T) and Qᵀ, so that the operations
/// are those of `m × R` rows instead of those of `R × R` eigenvectors. q(T) is a sum of shifted
/// inverses of T where q is smooth, and goes over eigenvectors of T where it is not.
pub(crate) fn prepare(
    way: &Way<'_>,
    experts: Experts,
    system: System,
    operands: &mut dyn Operands,
    mut report: Report,
) -> Result<Dual, Stop> {
    let System::Stacked { stack, .. } = &system else {
        return Err(Stop::Failed("a system without a stack was given to the dual form".into()));
    };
    let rows = operands.shape(0).0;
    let gram = row_gram(view(stack));
    let mut residual = match way.has_whole_rows && is_made_of_blocks(&experts, operands) {
        true => residual_of_blocks(&experts, &gram, rows),
        false => residual(&experts, &system, operands)?,
    };
    let reduced = Tridiagonal::of(gram)?;
    reduced.turn(as_rows(&mut residual));
    let mut pull = || -> Result<Matrix, Stop> {
        let mut pull = pulls(&experts, &system, operands)?;
        reduced.turn(as_rows(&mut pull));
        Ok(pull)
    };
    let (kept, mut moved) = match filter::smooth(way.filter) {
        Some(smooth) if !cut::looks_at_energies(way.cut) => {
            let values = descending(reduced.eigenvalues()?);
            let (kept, treatment) = treat(way, &values, &Energies::default())?;
            let spectrum = partial::Spectrum { values: &values, treatment: &treatment, smooth };
            (kept, partial::apply(way.filter, &spectrum, &reduced, &residual, &mut pull)?)
        }
        _ => over_eigenvectors(way, &reduced, &residual, &mut pull)?,
    };
    let losses = losses(&residual, &moved, &reduced);
    drop(residual);
    reduced.turn_back(as_rows(&mut moved));
    if !matches!(way.cut, Cut::None) {
        report.ranks.push(kept);
    }
    let System::Stacked { stack, .. } = system else {
        return Err(Stop::Failed("a system without a stack was given to the dual form".into()));
    };
    Ok(Dual { experts, stack, moved, losses, report })
}

pub(super) fn as_rows(transposed: &mut Matrix) -> MatMut<'_, f64> {
    let (columns, rows) = (transposed.rows, transposed.columns);
    MatMut::from_column_major_slice_mut(&mut transposed.values, rows, columns)
}

pub(super) fn descending(mut ascending: Vec<f64>) -> Vec<f64> {
    ascending.reverse();
    ascending
}

/// K, the count of eigenvalues that take part, and what is done to each of the descending ones.
pub(super) fn treat(
    way: &Way<'_>,
    values: &[f64],
    energies: &Energies,
) -> Result<(usize, Treatment), Stop> {
    if let Filter::Sgd(sgd) = way.filter {
        filter::check_stable(sgd, values.first().copied().unwrap_or(0.0))?;
    }
    let clamped = clamped(values, way.shape.1);
    let kept = cut::count(way.cut, &clamped, way.shape, energies);
    Ok((kept, filter::treat(way.filter, values, &clamped, kept, way.has_whole_rows)))
}

fn clamped(values: &[f64], columns: usize) -> Vec<f64> {
    let mut clamped: Vec<f64> = values.iter().map(|value| value.max(FLOOR)).collect();
    clamped.resize(columns.max(values.len()), FLOOR);
    clamped
}

/// Whether each A_i is the whole τ_i, as B_i are, and X_0 a sum of no others: then K has their products.
fn is_made_of_blocks(experts: &Experts, operands: &dyn Operands) -> bool {
    let is_dense = |expert: &Expert| operands.rank(expert.operand).is_none();
    experts.are_whole(operands.count()) && experts.experts.iter().all(is_dense)
}

/// `(X_0·Sᵀ − H)ᵀ` from K of whole τ_i. With c_j the factors in X_0, columns of expert i are
/// `Σ_j (c_j − δ_ij)/√w_j · K_ji`.
fn residual_of_blocks(experts: &Experts, gram: &Matrix, rows: usize) -> Matrix {
    let mut residual = zeros(gram.rows, rows);
    let pairs = residual.values.chunks_exact_mut(rows).zip(gram.values.chunks_exact(gram.rows));
    for (column, (into, products)) in pairs.enumerate() {
        let blocks = products.chunks_exact(rows);
        for (index, (expert, block)) in experts.experts.iter().zip(blocks).enumerate() {
            let own = if index == column / rows { 1.0 } else { 0.0 };
            let factor = (experts.init.factor(expert.operand) - own) / expert.weight.sqrt();
            add_scaled(into, factor, block);
        }
    }
    residual
}

/// The same from rows of X_0 and H.
fn residual(
    experts: &Experts,
    system: &System,
    operands: &mut dyn Operands,
) -> Result<Matrix, Stop> {
    let System::Stacked { stack, .. } = system else { return Ok(Matrix::default()) };
    let mut residual = pulls(experts, system, operands)?;
    residual.values.iter_mut().for_each(|value| *value = -*value);
    for (first, rows) in panels(operands.shape(0).0, PANEL) {
        let init = experts.init_block(operands, first, rows)?;
        let into = as_rows(&mut residual).subrows_mut(first, rows);
        add_product(into, 1.0, view(&init), view(stack).transpose());
    }
    Ok(residual)
}

/// Hᵀ.
fn pulls(experts: &Experts, system: &System, operands: &mut dyn Operands) -> Result<Matrix, Stop> {
    let System::Stacked { stack, .. } = system else { return Ok(Matrix::default()) };
    let all = operands.shape(0).0;
    let mut pulls = zeros(stack.rows, all);
    for (first, rows) in panels(all, PANEL) {
        let (pull, _) = system.pull(experts, operands, first, rows)?;
        as_rows(&mut pulls).subrows_mut(first, rows).copy_from(view(&pull));
    }
    Ok(pulls)
}

/// F in the basis of T, by T's eigenvectors, and how many took part.
fn over_eigenvectors(
    way: &Way<'_>,
    reduced: &Tridiagonal,
    residual: &Matrix,
    pull: &mut dyn FnMut() -> Result<Matrix, Stop>,
) -> Result<(usize, Matrix), Stop> {
    let TridiagonalEigen { values, vectors } = reduced.eigen()?;
    let values = descending(values);
    let size = values.len();
    let mut energies = Energies::default();
    if cut::looks_at_energies(way.cut) {
        energies = measure(&values, vectors.as_ref(), residual, &pull()?, way.shape.1);
    }
    let (kept, treatment) = treat(way, &values, &energies)?;
    let taken = kept.min(size);
    let leading = vectors.as_ref().subcols(size - taken, taken);
    let mut along = product(leading.transpose(), view(residual));
    let mut extra = Matrix::default();
    if !treatment.slivers.is_empty() {
        extra = product(leading.transpose(), view(&pull()?));
        add_scaled(&mut extra.values, 1.0, &along.values);
    }
    let width = along.columns;
    // The last row is the largest eigenvalue's.
    let lines = along.values.chunks_exact_mut(width.max(1)).rev();
    for (line, factor) in lines.zip(&treatment.factors) {
        line.iter_mut().for_each(|value| *value *= factor);
    }
    // X_0's share along `v = Sᵀ·u/√λ` is `X_0·Sᵀ·u·uᵀ·S` times the share over λ.
    for &(index, share) in &treatment.slivers {
        let row = (taken - 1 - index) * width..(taken - index) * width;
        add_scaled(&mut along.values[row.clone()], share / values[index], &extra.values[row]);
    }
    Ok((kept, product(leading, view(&along))))
}

/// ‖C·v‖² and ‖X_0·v‖² of `v = Sᵀ·u/√λ` for each eigenvector u: `λ·‖H·u‖²` and `‖X_0·Sᵀ·u‖²/λ`.
fn measure(
    values: &[f64],
    vectors: MatRef<'_, f64>,
    residual: &Matrix,
    pull: &Matrix,
    columns: usize,
) -> Energies {
    let count = values.len().max(columns);
    let mut energies = Energies { pull: vec![0.0; count], init: vec![0.0; count] };
    let least = values.first().copied().unwrap_or(0.0) * f64::EPSILON * columns as f64;
    let along = product(vectors.transpose(), view(pull));
    let mut init = product(vectors.transpose(), view(residual));
    add_scaled(&mut init.values, 1.0, &along.values);
    let width = along.columns.max(1);
    let lines = along.values.chunks_exact(width).zip(init.values.chunks_exact(width)).rev();
    for (index, (pull, init)) in lines.enumerate().filter(|&(index, _)| values[index] > least) {
        energies.pull[index] = squared_norm(pull) * values[index];
        energies.init[index] = squared_norm(init) / values[index];
    }
    energies
}

/// The loss of each row before and after it moves.
fn losses(residual: &Matrix, moved: &Matrix, reduced: &Tridiagonal) -> Vec<(f64, f64)> {
    let mut after = reduced.multiply(moved);
    let mut losses = vec![(0.0, 0.0); residual.columns];
    let width = residual.columns.max(1);
    let lines = residual.values.chunks_exact(width).zip(after.values.chunks_exact_mut(width));
    for (before, after) in lines {
        for (loss, (before, after)) in losses.iter_mut().zip(before.iter().zip(after)) {
            *after = before - *after;
            loss.0 += before * before;
            loss.1 += *after * *after;
        }
    }
    losses
}

impl Prepared for Dual {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = self.experts.columns;
        in_blocks(columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            let init = self.experts.init_block(operands, first, rows)?;
            let mut displacement = zeros(rows, columns);
            let moved = view(&self.moved).transpose().subrows(first, rows);
            accumulate(&mut displacement, -1.0, moved, view(&self.stack));
            finish(&init, &displacement, values)?;
            let losses = self.losses[first..first + rows].iter();
            Ok(losses.fold((0.0, 0.0), |sum, loss| (sum.0 + loss.0, sum.1 + loss.1)))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}
