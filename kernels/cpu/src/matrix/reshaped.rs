//! One matrix with other singular values, made from its own or from how others go along its directions.

use mixdown_ops::matrix::spectral::Reshape;
use mixdown_ops::matrix::{Matrix, Operands, Report, Stop};

use super::dense::{accumulate, dot, product, scale_rows, view, zeros};
use super::rows::{Blend, PANEL, panels, project, squared_norms};
use super::smaller_side::{Reweighed, SmallerSide, TOGETHER};

/// **Shapes.** One operand `m × n`; the result has its shape.
/// **Numerics.** Singular values in f64, found through the smaller side's Gram matrix: directions below
/// 1.5e-8·σ_1 count as without energy, and stay empty.
/// **Source.** STAR (Lee et al. 2025); Subspace Boosting (Skorobogat et al. 2025).
pub(crate) fn prepare(reshape: Reshape, operands: &mut dyn Operands) -> Result<Reweighed, Stop> {
    let side = SmallerSide::of(operands, Blend::one(0))?;
    let order = descending(&side.singular);
    let total: f64 = side.singular.iter().sum();
    let mut values = side.singular.clone();
    let mut kept = values.iter().filter(|&&value| value > 0.0).count();
    if total > 0.0 {
        match reshape {
            Reshape::Leading(share) => {
                let count = leading(&side.singular, &order, share.get() * total);
                let sum: f64 = order[..count].iter().map(|&at| side.singular[at]).sum();
                order[count..].iter().for_each(|&at| values[at] = 0.0);
                values.iter_mut().for_each(|value| *value *= total / sum);
                kept = count;
            }
            Reshape::Lifted(share) => {
                let count = leading(&side.singular, &order, share.get() * total);
                let least = side.singular[order[count - 1]];
                for value in values.iter_mut().filter(|value| **value > 0.0) {
                    *value = value.max(least);
                }
            }
        }
    }
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let report = Report { ranks: vec![kept], norm: Some(norm), ..Report::default() };
    Ok(side.with_values(&values, report))
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
pub(crate) fn calibrated(alpha: f64, operands: &mut dyn Operands) -> Result<Reweighed, Stop> {
    let experts = operands.count() - 1;
    let side = SmallerSide::of(operands, Blend::one(0))?;
    let largest = side.singular.iter().copied().fold(0.0, f64::max);
    let positive = side.singular.iter().copied().filter(|&value| value > 0.0);
    let (rank, least) =
        positive.fold((0, f64::INFINITY), |(rank, least), value| (rank + 1, least.min(value)));
    // One direction alone is what it is, however many are empty beside it.
    if rank > 1 && largest - least <= 1e-6 * largest {
        return Err(Stop::Refused(
            "all singular values of the merged matrix are equal, so that its directions are arbitrary".into(),
            "calibrate before the spectrum is made flat, or merge otherwise than by Iso-C".into(),
        ));
    }
    let size = side.singular.len();
    let mut projected = vec![0.0; size];
    let norms = squared_norms(operands, experts + 1)?;
    let counted: Vec<usize> = (1..=experts).filter(|&operand| norms[operand] > 0.0).collect();
    for (first, count) in panels(size, TOGETHER) {
        let merged = along(&side, operands, 0, first, count)?;
        for &expert in &counted {
            let own = along(&side, operands, expert, first, count)?;
            let columns = own.columns.max(1);
            let pairs = merged.values.chunks_exact(columns).zip(own.values.chunks_exact(columns));
            for ((merged, theirs), sum) in pairs.zip(&mut projected[first..first + count]) {
                *sum += (dot(merged, theirs) / dot(theirs, theirs).max(1e-12)).max(alpha);
            }
        }
    }
    let values: Vec<f64> = side
        .singular
        .iter()
        .zip(&projected)
        .map(|(value, sum)| match counted.len() {
            0 => *value,
            count => value * count as f64 / sum,
        })
        .collect();
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let report = Report { ranks: vec![rank], norm: Some(norm), ..Report::default() };
    Ok(side.with_values(&values, report))
}

/// `uᵀ·τ` for some of the left directions u: `count × n`, zeros for directions without energy.
fn along(
    side: &SmallerSide,
    operands: &mut dyn Operands,
    operand: usize,
    first: usize,
    count: usize,
) -> Result<Matrix, Stop> {
    let (rows, columns) = operands.shape(operand);
    let some = side.some(first, count);
    let singular = &side.singular[first..first + count];
    let mut found = match side.is_left {
        true => project(operands, &Blend::one(operand), &some)?,
        false => {
            // u is M·v/σ.
            let mut found = zeros(count, columns);
            for (start, height) in panels(rows, PANEL) {
                let merged = side.blend.block(operands, start, height)?;
                let own = Blend::one(operand).block(operands, start, height)?;
                let left = product(view(&some), view(&merged).transpose());
                accumulate(&mut found, 1.0, view(&left), view(&own));
            }
            found
        }
    };
    scale_rows(&mut found, |row| match singular[row] {
        value if value <= 0.0 => 0.0,
        _ if side.is_left => 1.0,
        value => 1.0 / value,
    });
    Ok(found)
}
