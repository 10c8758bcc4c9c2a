//! SWUDI with the options that its filter over few directions lacks.

use mixdown_ops::matrix::interference::Init;
use mixdown_ops::matrix::joint::{Swudi, SwudiFilter};
use mixdown_ops::matrix::{Matrix, Report, Stop};

use super::super::dense::{
    add_scaled, first_rows, product, row_gram, scale_rows, squared_norm, transposed, view, zeros,
};
use super::super::eigen::eigen;
use super::svd::beneath;
use super::{Whole, changed, sum_of};

/// Below which the released code takes no eigenvalue and no norm.
const FLOOR: f64 = 1e-8;
const NORM_FLOOR: f64 = 1e-12;

/// Eigenvalues of `G = Σ τ_iᵀ·τ_i/‖τ_i‖²` above rounding noise, descending, and its eigenvectors as rows.
struct Spectrum {
    values: Vec<f64>,
    vectors: Matrix,
}

/// Task vectors through their norms, beneath each other: G is the product with its transpose.
fn stack(taus: &[&Matrix]) -> Matrix {
    let units: Vec<Matrix> = taus
        .iter()
        .map(|tau| {
            let size = squared_norm(&tau.values).max(NORM_FLOOR).sqrt();
            let mut unit = (*tau).clone();
            unit.values.iter_mut().for_each(|value| *value /= size);
            unit
        })
        .collect();
    beneath(&units)
}

fn spectrum(stack: &Matrix) -> Result<Spectrum, Stop> {
    let columns = stack.columns;
    let is_stacked = stack.rows < columns;
    let gram = match is_stacked {
        true => row_gram(view(stack)),
        false => row_gram(view(&transposed(stack))),
    };
    let found = eigen(&gram)?;
    let least = found.values[0].max(0.0) * f64::EPSILON * columns.max(stack.rows) as f64;
    let rank = found.values.iter().take_while(|&&value| value > least).count();
    let values = found.values[..rank].to_vec();
    let mut vectors = first_rows(found.vectors, rank);
    if is_stacked {
        scale_rows(&mut vectors, |row| 1.0 / values[row].sqrt());
        vectors = product(view(&vectors), view(stack));
    }
    Ok(Spectrum { values, vectors })
}

/// The largest eigenvalue of G; 1 where all task vectors are zero, so that it changes no mean of logarithms.
pub(super) fn peak(experts: &[Matrix]) -> Result<f64, Stop> {
    let taus = changed(experts);
    if taus.is_empty() {
        return Ok(1.0);
    }
    Ok(spectrum(&stack(&taus))?.values.first().copied().unwrap_or(1.0))
}

/// **Shapes.** N operands `m × n`; the result is `m × n`.
/// **Numerics.** f64. `X = X_0·(1 − V·f·Vᵀ) + D·V·(f/λ)·Vᵀ` over the eigenvectors V of G, which span the rows of
/// all task vectors: what has no energy has no residual either.
/// **Source.** MLLMerging's release. Task vectors that are zero take no part but in the mean.
pub(super) fn merge(op: &Swudi, time: Option<f64>, experts: &[Matrix]) -> Result<Whole, Stop> {
    let (rows, columns) = (experts[0].rows, experts[0].columns);
    let taus = changed(experts);
    if taus.is_empty() {
        return Whole::new(zeros(rows, columns), Report::default());
    }
    let stack = stack(&taus);
    let Spectrum { values, vectors } = spectrum(&stack)?;
    let mut factors: Vec<f64> =
        values.iter().map(|value| filter(&op.filter, time, value.max(FLOOR), values[0])).collect();
    let kept = ((columns as f64 * op.keep.get() + 0.999) as usize).max(1);
    factors.iter_mut().skip(kept).for_each(|factor| *factor = 0.0);
    let along = product(view(&stack), view(&vectors).transpose());
    if op.consensus_power.get() > 0.0 && taus.len() > 1 {
        let (power, floor) = (op.consensus_power.get(), op.consensus_floor.get());
        let consensus = consensus(&along, taus.len(), rows);
        for (factor, consensus) in factors.iter_mut().zip(consensus) {
            *factor *= floor + (1.0 - floor) * consensus.powf(power);
        }
    }
    let mut result = match op.init {
        Init::Sum => sum_of(experts, 1.0),
        Init::Mean => sum_of(experts, 1.0 / experts.len() as f64),
        Init::Zero => zeros(rows, columns),
    };
    // D·V = Σ τ_i·τ_iᵀ·τ_i·V/‖τ_i‖² = Σ (unit_i·unit_iᵀ)·(τ_i·V), and X_0·V beside it.
    let mut moved = product(view(&result), view(&vectors).transpose());
    for (at, value) in moved.values.iter_mut().enumerate() {
        *value *= -factors[at % factors.len()];
    }
    for (expert, tau) in taus.iter().enumerate() {
        let unit = super::super::dense::rows_of(&stack, expert * rows, rows);
        let own = product(view(tau), view(&vectors).transpose());
        let pulled = product(unit, unit.transpose());
        let pulled = product(view(&pulled), view(&own));
        for (at, value) in moved.values.iter_mut().enumerate() {
            let direction = at % factors.len();
            *value += pulled.values[at] * factors[direction] / values[direction].max(FLOOR);
        }
    }
    add_scaled(&mut result.values, 1.0, &product(view(&moved), view(&vectors)).values);
    if op.output_time.get() > 0.0 {
        result = on_outputs(&result, &stack, rows, op.output_time.get())?;
    }
    Whole::new(result, Report { ranks: vec![kept.min(values.len())], ..Report::default() })
}

fn filter(filter: &SwudiFilter, aligned: Option<f64>, value: f64, largest: f64) -> f64 {
    match *filter {
        SwudiFilter::Exponential { time, gamma, alpha } => {
            let time = aligned.unwrap_or(time.get());
            let filtered = (-(-value * time).exp_m1()).clamp(0.0, 1.0).powf(gamma.get());
            match alpha.get() > 0.0 {
                true => filtered * value / (value + alpha.get()),
                false => filtered,
            }
        }
        SwudiFilter::Tikhonov(alpha) => value / (value + alpha.get()),
        SwudiFilter::Landweber { steps, eta } => {
            let left = (1.0 - eta.get() / largest.max(FLOOR) * value).clamp(0.0, 1.0);
            1.0 - left.powi(steps.min(i32::MAX as u32) as i32)
        }
        SwudiFilter::Exact => 1.0,
    }
}

/// How evenly task vectors share a direction: 1 where all do, `1/N` where one has it alone.
fn consensus(along: &Matrix, experts: usize, rows: usize) -> Vec<f64> {
    let directions = along.columns;
    let mut shares = vec![vec![0.0; directions]; experts];
    for (row, values) in along.values.chunks(directions).enumerate() {
        let own = &mut shares[row / rows];
        own.iter_mut().zip(values).for_each(|(share, value)| *share += value * value);
    }
    (0..directions)
        .map(|at| {
            let sum = shares.iter().map(|own| own[at]).sum::<f64>().max(NORM_FLOOR);
            let squares: f64 = shares.iter().map(|own| (own[at] / sum).powi(2)).sum();
            (1.0 / squares.max(NORM_FLOOR) / experts as f64).clamp(0.0, 1.0)
        })
        .collect()
}

/// The exponential filter over the eigenvectors of `Σ τ_i·τ_iᵀ/‖τ_i‖²`, from the left.
fn on_outputs(result: &Matrix, stack: &Matrix, rows: usize, time: f64) -> Result<Matrix, Stop> {
    let mut energy = zeros(rows, rows);
    for expert in 0..stack.rows / rows {
        let unit = super::super::dense::rows_of(stack, expert * rows, rows);
        add_scaled(&mut energy.values, 1.0, &product(unit, unit.transpose()).values);
    }
    let found = eigen(&energy)?;
    let mut along = product(view(&found.vectors), view(result));
    scale_rows(&mut along, |row| -(-found.values[row].max(FLOOR) * time).exp_m1());
    Ok(product(view(&found.vectors).transpose(), view(&along)))
}
