//! Adapters whose factors A and B are combined each by itself: types of PEFT, and RobustMerge.

use mixdown_ops::matrix::joint::{FactorRule, FactorWise};
use mixdown_ops::matrix::{Factors, Matrix, Operands, Report, Stop};

use super::super::dense::zeros;
use super::super::product::LowRank;

/// **Shapes.** N operands `m × n` as factors of one rank; the result is of that rank.
/// **Parameters.** The root of a weight's magnitude multiplies both factors of an operand, its sign the right one.
/// **Numerics.** f64. Products of different operands' factors get into the result: it is not a sum of the products.
/// **Source.** PEFT 0.21.2, `add_weighted_adapter`; RobustMerge (arXiv:2502.17159), whose released code multiplies
/// both factors by the weight.
pub(super) fn merge(op: &FactorWise, operands: &mut dyn Operands) -> Result<LowRank, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut lefts = Vec::new();
    let mut rights = Vec::new();
    let mut weights = Vec::new();
    for operand in 0..operands.count() {
        // Those that do not update this weight take no part.
        if operands.rank(operand) == Some(0) {
            continue;
        }
        let Factors { left, right } = operands.factors(operand)?;
        lefts.push(left);
        rights.push(right);
        weights.push(op.weights[operand].get());
    }
    if lefts.is_empty() {
        return Ok(super::super::factors::empty(rows, columns, Report::default()));
    }
    let factors = match op.rule {
        FactorRule::Robust(ratio) => {
            let trim = |factor: &Matrix| trimmed(factor, op.density.get());
            let scales: Vec<Vec<f64>> = rights
                .iter()
                .map(|right| scales(right, &trim(right), ratio.get()))
                .collect::<Result<_, _>>()?;
            let right = combine(&rights.iter().map(trim).collect::<Vec<_>>(), &weights);
            let mut left = zeros(rows, right.rows);
            let sums: Vec<f64> =
                (0..right.rows).map(|at| scales.iter().map(|own| own[at]).sum()).collect();
            for ((own, scale), weight) in lefts.iter().zip(&scales).zip(&weights) {
                for (at, value) in trim(own).values.into_iter().enumerate() {
                    let column = at % right.rows;
                    left.values[at] += weight * scale[column] * value / sums[column];
                }
            }
            Factors { left, right }
        }
        rule => {
            let side = |factors: &[Matrix], own: &[f64]| match rule {
                FactorRule::TiesTotal => {
                    elected(&pruned(factors, op.density.get()), own, |value| value)
                }
                FactorRule::TiesFrequency => elected(&pruned(factors, op.density.get()), own, sign),
                _ => combine(&pruned(factors, op.density.get()), own),
            };
            let roots: Vec<f64> = weights.iter().map(|weight| weight.abs().sqrt()).collect();
            let signed: Vec<f64> =
                weights.iter().zip(&roots).map(|(weight, root)| root * sign(*weight)).collect();
            Factors { left: side(&lefts, &roots), right: side(&rights, &signed) }
        }
    };
    let rank = factors.right.rows;
    Ok(LowRank { factors, report: Report { ranks: vec![rank], ..Report::default() } })
}

fn sign(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

fn combine(factors: &[Matrix], weights: &[f64]) -> Matrix {
    let mut sum = zeros(factors[0].rows, factors[0].columns);
    for (factor, weight) in factors.iter().zip(weights) {
        super::super::dense::add_scaled(&mut sum.values, *weight, &factor.values);
    }
    sum
}

/// The weighted sum of what has the sign that is elected without weights, through their count.
fn elected(factors: &[Matrix], weights: &[f64], vote: impl Fn(f64) -> f64) -> Matrix {
    let mut merged = zeros(factors[0].rows, factors[0].columns);
    for (at, merged) in merged.values.iter_mut().enumerate() {
        let votes: f64 = factors.iter().map(|factor| vote(factor.values[at])).sum();
        let elected = if votes >= 0.0 { 1.0 } else { -1.0 };
        let mut count = 0;
        for (factor, weight) in factors.iter().zip(weights) {
            if sign(factor.values[at]) == elected {
                *merged += weight * factor.values[at];
                count += 1;
            }
        }
        *merged /= f64::from(count.max(1));
    }
    merged
}

/// The share of largest magnitudes of each, exactly as many, of equal ones the first.
fn pruned(factors: &[Matrix], density: f64) -> Vec<Matrix> {
    if density >= 1.0 {
        return factors.to_vec();
    }
    let prune = |factor: &Matrix| {
        let kept = (density * factor.values.len() as f64) as usize;
        let mut order: Vec<usize> = (0..factor.values.len()).collect();
        order.sort_by(|&a, &b| factor.values[b].abs().total_cmp(&factor.values[a].abs()));
        let mut pruned = zeros(factor.rows, factor.columns);
        order[..kept].iter().for_each(|&at| pruned.values[at] = factor.values[at]);
        pruned
    };
    factors.iter().map(prune).collect()
}

/// What reaches the magnitude at `1 − density`, counted from the smallest.
fn trimmed(factor: &Matrix, density: f64) -> Matrix {
    let mut sizes: Vec<f64> = factor.values.iter().map(|value| value.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let at = (sizes.len() as f64 * (1.0 - density)) as usize;
    let mut kept = factor.clone();
    if at > 0 {
        let least = sizes[at - 1];
        kept.values.iter_mut().filter(|value| value.abs() < least).for_each(|value| *value = 0.0);
    }
    kept
}

/// By how much a trimmed row is smaller than it was, none less than that at the share `ratio` from the largest.
fn scales(whole: &Matrix, trimmed: &Matrix, ratio: f64) -> Result<Vec<f64>, Stop> {
    let size = |row: &[f64]| row.iter().map(|value| value.abs()).sum::<f64>();
    let rows = whole.values.chunks(whole.columns).zip(trimmed.values.chunks(whole.columns));
    let mut scales: Vec<f64> = rows.map(|(whole, kept)| size(whole) / size(kept)).collect();
    if scales.iter().any(|scale| !scale.is_finite()) {
        return Err(Stop::Refused(
            "a row of an adapter's A is trimmed away altogether".into(),
            "keep more of it with a larger `density`".into(),
        ));
    }
    let mut order = scales.clone();
    order.sort_by(f64::total_cmp);
    let at = ((scales.len() as f64 * (1.0 - ratio)) as usize).min(scales.len() - 1);
    let least = order[at];
    scales.iter_mut().for_each(|scale| *scale = scale.max(least));
    Ok(scales)
}
