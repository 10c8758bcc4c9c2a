//! Filters over `K = S·Sᵀ` for few rows and many directions: `X = X_0 − F·S` with
//! `F = (X_0·Sᵀ − H)·q(K)`, where neither q(K) nor eigenvectors of K are formed.

use faer::{MatMut, MatRef};
use mixdown_ops::matrix::interference::{Cut, Filter};
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::super::dense::{
    accumulate, add_lower_gram, add_scaled, product, rows_of, squared_norm, view, zeros,
};
use super::super::product::{BLOCK_ROWS, in_blocks};
use super::super::rows::{PANEL, panels};
use super::super::tridiagonal::{Tridiagonal, TridiagonalEigen};
use super::cut::{self, Energies, FLOOR};
use super::experts::Experts;
use super::filter::{self, Treatment};
use super::solvers::finish;
use super::system::System;

/// `X_0 − F·S`.
#[derive(Debug)]
pub(crate) struct Dual {
    experts: Experts,
    stack: Matrix,
    /// F, `m × R`.
    moved: Matrix,
    /// The loss of each row at the start and at the end.
    losses: Vec<(f64, f64)>,
    report: Report,
}

/// X_0·Sᵀ − H and H, along eigenvectors of T once they are turned.
struct Pulls {
    residual: Matrix,
    pull: Matrix,
}

/// Solves for all rows at once.
///
/// **Numerics.** f64. With `K = Q·T·Qᵀ` and `T = Z·Λ·Zᵀ` the rows are multiplied by Q, Z, q(Λ), Zᵀ and Qᵀ
/// in this order: as many operations as `m × R` rows take, instead of those of `R × R` eigenvectors.
pub(crate) fn prepare(
    (filter, cut): (&Filter, &Cut),
    experts: Experts,
    system: System,
    operands: &mut dyn Operands,
    shape: (usize, usize),
    has_whole_rows: bool,
    mut report: Report,
) -> Result<Dual, Stop> {
    let mut pulls = pulls(&experts, &system, operands)?;
    let System::Stacked { stack, .. } = system else {
        return Err(Stop::Failed("a system without a stack was given to the dual form".into()));
    };
    let size = stack.rows;
    let mut gram = zeros(size, size);
    let into = MatMut::from_column_major_slice_mut(&mut gram.values, size, size);
    add_lower_gram(into, 1.0, view(&stack));
    let reduced = Tridiagonal::of(gram)?;
    let TridiagonalEigen { values, vectors } = reduced.eigen()?;
    // Eigenvalues ascend, and the filter takes them descending.
    let values: Vec<f64> = values.into_iter().rev().collect();
    if let Filter::Sgd(sgd) = filter {
        filter::check_stable(sgd, values.first().copied().unwrap_or(0.0))?;
    }
    let mut clamped: Vec<f64> = values.iter().map(|value| value.max(FLOOR)).collect();
    clamped.resize(shape.1.max(size), FLOOR);
    let kept = cut::count(cut, &clamped, shape, &Energies::default());
    let treatment = filter::treat(filter, &values, &clamped, kept, has_whole_rows);
    reduced.turn(&mut pulls.residual)?;
    if treatment.slivers.is_empty() {
        pulls.pull = Matrix::default();
    } else {
        reduced.turn(&mut pulls.pull)?;
    }
    let taken = kept.min(size);
    let leading = vectors.as_ref().subcols(size - taken, taken);
    let mut moved = apply(&pulls, &treatment, &values, leading);
    drop(vectors);
    let mut after = pulls.residual.clone();
    add_scaled(&mut after.values, -1.0, &reduced.multiply(&moved).values);
    let losses = (0..moved.rows)
        .map(|row| {
            let range = row * size..(row + 1) * size;
            (
                squared_norm(&pulls.residual.values[range.clone()]),
                squared_norm(&after.values[range]),
            )
        })
        .collect();
    reduced.turn_back(&mut moved)?;
    if !matches!(cut, Cut::None) {
        report.ranks.push(kept);
    }
    Ok(Dual { experts, stack, moved, losses, report })
}

fn pulls(experts: &Experts, system: &System, operands: &mut dyn Operands) -> Result<Pulls, Stop> {
    let mut pulls = Pulls { residual: Matrix::default(), pull: Matrix::default() };
    for (first, rows) in panels(operands.shape(0).0, PANEL) {
        let init = experts.init_block(operands, first, rows)?;
        let (pull, _) = system.pull(experts, operands, first, rows)?;
        let System::Stacked { stack, .. } = system else { continue };
        let mut residual = product(view(&init), view(stack).transpose());
        add_scaled(&mut residual.values, -1.0, &pull.values);
        for (all, one) in [(&mut pulls.residual, residual), (&mut pulls.pull, pull)] {
            all.columns = one.columns;
            super::super::dense::append_rows(all, &one);
        }
    }
    Ok(pulls)
}

/// The residual's rows times `Z·q(Λ)·Zᵀ`, and X_0·Sᵀ's times the shares of slivers: with
/// `v = Sᵀ·u/√λ` a share of X_0 along v is `X_0·Sᵀ·u·uᵀ·S` times the share over λ.
fn apply(pulls: &Pulls, treatment: &Treatment, values: &[f64], leading: MatRef<'_, f64>) -> Matrix {
    let count = leading.ncols();
    let mut along = product(view(&pulls.residual), leading);
    if count == 0 {
        return zeros(pulls.residual.rows, pulls.residual.columns);
    }
    let mut extra = zeros(along.rows, 0);
    if !treatment.slivers.is_empty() {
        extra = product(view(&pulls.pull), leading);
        add_scaled(&mut extra.values, 1.0, &along.values);
    }
    // Column `count - 1` is the largest eigenvalue's.
    for (row, line) in along.values.chunks_exact_mut(count).enumerate() {
        for (value, factor) in line.iter_mut().rev().zip(&treatment.factors) {
            *value *= factor;
        }
        for &(index, share) in &treatment.slivers {
            let column = count - 1 - index;
            line[column] += extra.values[row * count + column] * share / values[index];
        }
    }
    product(view(&along), leading.transpose())
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
            let moved = rows_of(&self.moved, first, rows);
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
