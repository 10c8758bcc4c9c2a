//! One matrix with other singular values, made from its own or from how others go along its directions.

use mixdown_ops::matrix::spectral::Reshape;
use mixdown_ops::matrix::{Operands, Report, Stop};

use super::dense::{accumulate, dot, view, zeros};
use super::directions::Stack;
use super::isotropic::directions;
use super::product::{LeftRows, Product};
use super::rows::{PANEL, panels};

/// **Shapes.** One operand `m × n`; the result has its shape.
/// **Numerics.** Singular values in f64, found through the smaller side's Gram matrix: directions below
/// 1.5e-8·σ_1 count as without energy, and stay empty.
/// **Source.** STAR (Lee et al. 2025); Subspace Boosting (Skorobogat et al. 2025).
pub(crate) fn prepare(reshape: Reshape, operands: &mut dyn Operands) -> Result<Product, Stop> {
    let stack = directions(operands)?;
    let order = descending(&stack.singular);
    let total: f64 = stack.singular.iter().sum();
    let mut values = stack.singular.clone();
    let mut kept = values.iter().filter(|&&value| value > 0.0).count();
    if total > 0.0 {
        match reshape {
            Reshape::Leading(share) => {
                let count = leading(&stack.singular, &order, share.get() * total);
                let sum: f64 = order[..count].iter().map(|&at| stack.singular[at]).sum();
                order[count..].iter().for_each(|&at| values[at] = 0.0);
                values.iter_mut().for_each(|value| *value *= total / sum);
                kept = count;
            }
            Reshape::Lifted(share) => {
                let count = leading(&stack.singular, &order, share.get() * total);
                let least = stack.singular[order[count - 1]];
                for value in values.iter_mut().filter(|value| **value > 0.0) {
                    *value = value.max(least);
                }
            }
        }
    }
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let report = Report { ranks: vec![kept], norm: Some(norm), ..Report::default() };
    Ok(stack.with_values(&values, report))
}

/// Positions of the values from the largest on.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// How many of the largest values first reach a sum; at least one.
fn leading(values: &[f64], order: &[usize], wanted: f64) -> usize {
    let mut sum = 0.0;
    let below = order.iter().take_while(|&&at| {
        sum += values[at];
        sum < wanted
    });
    (below.count() + 1).min(values.len())
}

/// **Shapes.** The merged matrix `m × n` and the N that it was merged from; the result has its shape.
/// **Numerics.** Left directions u of the merged matrix M in f64; for each the factor is
/// `N / Σ_i max(α, ⟨uᵀM, uᵀτ_i⟩ / ‖uᵀτ_i‖²)`. An expert that changes nothing is none of the N: it would count as α
/// in all directions, and enlarge the merge.
/// **Source.** Singular value calibration (Zhang et al. 2026).
pub(crate) fn calibrated(alpha: f64, operands: &mut dyn Operands) -> Result<Product, Stop> {
    let experts = operands.count() - 1;
    let stack = directions(operands)?;
    let largest = stack.singular.iter().copied().fold(0.0, f64::max);
    let positive = stack.singular.iter().copied().filter(|&value| value > 0.0);
    let (rank, least) =
        positive.fold((0, f64::INFINITY), |(rank, least), value| (rank + 1, least.min(value)));
    // One direction alone is what it is, however many are empty beside it.
    if rank > 1 && largest - least <= 1e-6 * largest {
        return Err(Stop::Refused(
            "all singular values of the merged matrix are equal, so that its directions are arbitrary".into(),
            "calibrate before the spectrum is made flat, or merge otherwise than by Iso-C".into(),
        ));
    }
    let size = stack.singular.len();
    let mut projected = vec![0.0; size];
    let mut counted = 0;
    for expert in 0..experts {
        let Some(own) = along(&stack, operands, expert + 1)? else { continue };
        counted += 1;
        for (row, sum) in projected.iter_mut().enumerate() {
            let theirs = &own[row * stack.right.columns..(row + 1) * stack.right.columns];
            let merged = merged_row(&stack, row);
            *sum += (dot(&merged, theirs) / dot(theirs, theirs).max(1e-12)).max(alpha);
        }
    }
    let values: Vec<f64> = stack
        .singular
        .iter()
        .zip(&projected)
        .map(|(value, sum)| if counted == 0 { *value } else { value * f64::from(counted) / sum })
        .collect();
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let report = Report { ranks: vec![rank], norm: Some(norm), ..Report::default() };
    Ok(stack.with_values(&values, report))
}

/// `uᵀ·M = σ·vᵀ` of a direction.
fn merged_row(stack: &Stack, row: usize) -> Vec<f64> {
    let columns = stack.right.columns;
    let right = &stack.right.values[row * columns..(row + 1) * columns];
    let scale = match stack.left {
        LeftRows::Held(_) => 1.0,
        LeftRows::Read { .. } => stack.singular[row],
    };
    right.iter().map(|value| scale * value).collect()
}

/// `uᵀ·τ` for all left directions u: `R × n`, zeros for directions without energy. None of a τ that is all zero.
fn along(
    stack: &Stack,
    operands: &mut dyn Operands,
    operand: usize,
) -> Result<Option<Vec<f64>>, Stop> {
    let (rows, columns) = operands.shape(operand);
    let size = stack.singular.len();
    let mut found = zeros(size, columns);
    let mut is_zero = true;
    for (first, count) in panels(rows, PANEL) {
        let left = stack.left.block(operands, first, count)?;
        let mut own = zeros(count, columns);
        operands.read(operand, first, &mut own.values)?;
        is_zero &= own.values.iter().all(|&value| value == 0.0);
        accumulate(&mut found, 1.0, view(&left).transpose(), view(&own));
    }
    let is_scaled = matches!(stack.left, LeftRows::Read { .. });
    for (row, &singular) in found.values.chunks_exact_mut(columns).zip(&stack.singular) {
        let factor = match (singular > 0.0, is_scaled) {
            (false, _) => 0.0,
            (true, false) => 1.0,
            (true, true) => 1.0 / singular,
        };
        row.iter_mut().for_each(|value| *value *= factor);
    }
    Ok((!is_zero).then_some(found.values))
}
