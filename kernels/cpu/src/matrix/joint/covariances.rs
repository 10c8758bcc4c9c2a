//! ACE.

use mixdown_ops::matrix::joint::Covariances;
use mixdown_ops::matrix::{Matrix, Report, Stop};

use super::super::dense::{
    accumulate, add_scaled, dot, row_gram, squared_norm, transposed, view, zeros,
};
use super::super::eigen::{cholesky, solve_rows};
use super::svd::svd;
use super::{Whole, changed, sum_of};

/// **Shapes.** N operands `m × n`; the result is `m × n`.
/// **Numerics.** f64. The system is a positive definite matrix and a row that is added to each of its rows: a
/// Cholesky factor, and a correction of rank one.
/// **Source.** ACE (arXiv:2603.02945). Experts that change nothing have no say: in its code they make the ridge,
/// and with it the result, as large as their share of nothing.
pub(super) fn merge(op: &Covariances, experts: &[Matrix]) -> Result<Whole, Stop> {
    let (rows, columns) = (experts[0].rows, experts[0].columns);
    let taus: Vec<Matrix> = changed(experts).into_iter().cloned().collect();
    if taus.is_empty() {
        return Whole::new(zeros(rows, columns), Report::default());
    }
    let count = taus.len() as f64;
    let energies: Vec<f64> = taus.iter().map(|tau| squared_norm(&tau.values)).collect();
    let is_uneven = spread(&energies) > op.heterogeneity.get();
    let epsilon = op.epsilon.get();
    let mut ridged_sum = zeros(columns, columns);
    let mut moved = zeros(rows, columns);
    let mut sigmas = Vec::with_capacity(taus.len());
    let mut ridge_sum = 0.0;
    for tau in &taus {
        let centered = centered(tau);
        let mut sigma = row_gram(view(&transposed(&centered)));
        let mut ridge = epsilon;
        if is_uneven {
            let trace: f64 = (0..columns).map(|at| sigma.values[at * columns + at]).sum();
            sigma.values.iter_mut().for_each(|value| *value /= trace + 1e-12);
            ridge = epsilon / (trace + 1e-12);
        }
        add_scaled(&mut ridged_sum.values, 1.0, &sigma.values);
        accumulate(&mut moved, 1.0, view(&centered), view(&sigma));
        add_scaled(&mut moved.values, ridge, &centered.values);
        ridge_sum += ridge;
        sigmas.push(sigma);
    }
    let mut row = vec![0.0; columns];
    for line in ridged_sum.values.chunks(columns) {
        add_scaled(&mut row, 1.0 / columns as f64, line);
    }
    if is_uneven {
        let mean = energies.iter().sum::<f64>() / count + 1e-12;
        row.iter_mut().for_each(|value| *value /= mean);
    }
    (0..columns).for_each(|at| ridged_sum.values[at * columns + at] += ridge_sum);
    let first = solve(&ridged_sum, moved, row)?;
    if !is_uneven {
        return Whole::new(first, Report::default());
    }
    // D = W₀ + Σ τ_i·(Σ_i − S̄).
    let mut difference = first.clone();
    for (tau, sigma) in taus.iter().zip(&sigmas) {
        accumulate(&mut difference, 1.0, view(tau), view(sigma));
    }
    accumulate(&mut difference, -1.0 / count, view(&sum_of(&taus, 1.0)), view(&ridged_sum));
    let found = svd(&difference)?;
    let kept = (found.values.len() as f64 * op.iso_rank.get()) as usize;
    let mut report = Report { ranks: vec![kept], ..Report::default() };
    let mut result = first;
    if kept == 0 {
        report.notes.push(
            "no direction is corrected: the share `iso_rank` of the smaller side is below one"
                .into(),
        );
    } else {
        let mean = found.values[..kept].iter().sum::<f64>() / kept as f64;
        add_scaled(&mut result.values, 1.0, &found.with(&vec![mean; kept]).values);
    }
    Whole::new(result, report)
}

/// The variance of the logarithms of sizes beside the square of their mean.
fn spread(energies: &[f64]) -> f64 {
    if energies.len() < 2 {
        return 0.0;
    }
    let logs: Vec<f64> = energies.iter().map(|energy| (energy + 1e-12).ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
    squares / (logs.len() - 1) as f64 / (mean * mean + 1e-12)
}

/// Each column without its mean.
fn centered(tau: &Matrix) -> Matrix {
    let mut mean = vec![0.0; tau.columns];
    for row in tau.values.chunks(tau.columns) {
        add_scaled(&mut mean, 1.0 / tau.rows as f64, row);
    }
    let mut centered = tau.clone();
    centered.values.chunks_mut(tau.columns).for_each(|row| add_scaled(row, -1.0, &mean));
    centered
}

/// `M·(S + 1·cᵀ)⁻¹ = Y − (Y·1)·(cᵀ·S⁻¹) / (1 + cᵀ·S⁻¹·1)` with `Y = M·S⁻¹`.
fn solve(system: &Matrix, moved: Matrix, row: Vec<f64>) -> Result<Matrix, Stop> {
    let columns = system.rows;
    let (lower, _) = cholesky(system)?;
    let mut found = moved;
    solve_rows(&lower, &mut found);
    let mut along = Matrix { rows: 1, columns, values: row };
    solve_rows(&lower, &mut along);
    let ones = vec![1.0; columns];
    let divisor = 1.0 + dot(&along.values, &ones);
    if divisor.abs() < 1e-12 {
        return Err(Stop::Failed("the estimated covariances have no inverse".into()));
    }
    for line in found.values.chunks_mut(columns) {
        let factor = dot(line, &ones) / divisor;
        add_scaled(line, -factor, &along.values);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::super::dense::product;
    use super::*;

    /// Against the system itself, multiplied out.
    #[test]
    fn the_row_is_added_to_every_row_of_the_system() {
        let matrix =
            |rows, columns, values: &[f64]| Matrix { rows, columns, values: values.to_vec() };
        let system = matrix(2, 2, &[2.0, 0.5, 0.5, 1.0]);
        let moved = matrix(1, 2, &[1.0, -3.0]);
        let found = solve(&system, moved.clone(), vec![0.25, 0.75]).unwrap();
        let whole = matrix(2, 2, &[2.25, 1.25, 0.75, 1.75]);
        let back = product(view(&found), view(&whole));
        for (back, moved) in back.values.iter().zip(&moved.values) {
            assert!((back - moved).abs() < 1e-14, "{back} for {moved}");
        }
    }
}
