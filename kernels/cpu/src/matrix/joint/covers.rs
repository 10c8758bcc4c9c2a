//! DC-Merge.

use mixdown_ops::matrix::joint::{Covers, Smoothing};
use mixdown_ops::matrix::{Matrix, Operands, Report, Stop};

use super::super::check::refuse;
use super::super::dense::{product, view, zeros};
use super::svd::{Svd, beneath, beside, polar, svd};
use super::{Whole, one};

/// **Shapes.** N operands `m × n`; the result is `m × n`.
/// **Parameters.** Of each operand as many directions are kept as the rank says and it has; together at most the
/// smaller side.
/// **Numerics.** f64. A core keeps everything that reaches the magnitude at its share, so that of equal ones all
/// stay; a sum of 0 gives 0.
/// **Source.** DC-Merge (arXiv:2603.06242).
pub(super) fn merge(op: &Covers, operands: &mut dyn Operands) -> Result<Whole, Stop> {
    let (rows, columns) = operands.shape(0);
    let (count, smaller) = (operands.count(), rows.min(columns));
    let rank = op.rank.of(smaller, count);
    let mut parts: Vec<(Svd, usize)> = Vec::with_capacity(count);
    for operand in 0..count {
        let found = svd(&one(operands, operand)?)?;
        // Directions without energy are arbitrary, and would get the mean of the others.
        let kept = rank.min(found.rank());
        parts.push((found, kept));
    }
    let total: usize = parts.iter().map(|(_, kept)| kept).sum();
    let report =
        Report { ranks: parts.iter().map(|(_, kept)| *kept).collect(), ..Report::default() };
    if total == 0 {
        return Whole::new(zeros(rows, columns), report);
    }
    if total > smaller {
        return refuse(
            format!(
                "{total} directions of {count} experts do not fit into a matrix of {rows} × {columns}"
            ),
            format!("use a rank of at most {}, or leave it at `1/n`", smaller / count),
        );
    }
    let lefts: Vec<Matrix> = parts.iter().map(|(found, kept)| found.first_left(*kept)).collect();
    let rights: Vec<Matrix> = parts.iter().map(|(found, kept)| found.first_right(*kept)).collect();
    let left = polar(&beside(&lefts))?;
    let right = polar(&beneath(&rights))?;
    let mut cores = Vec::with_capacity(count);
    for (found, kept) in parts {
        let smooth = found.with(&smoothed(op.smoothing, &found.values[..kept]));
        let inner = product(view(&left).transpose(), view(&smooth));
        let mut core = product(view(&inner), view(&right).transpose());
        thin(&mut core, op.keep.get());
        cores.push(core);
    }
    let merged = blocks(agreeing(&cores), &report.ranks);
    let inner = product(view(&left), view(&merged));
    Whole::new(product(view(&inner), view(&right)), report)
}

/// Singular values with the same sum.
fn smoothed(smoothing: Smoothing, values: &[f64]) -> Vec<f64> {
    let (count, sum) = (values.len(), values.iter().sum::<f64>());
    match smoothing {
        Smoothing::None => values.to_vec(),
        Smoothing::Average => vec![sum / count as f64; count],
        Smoothing::Linear(most) => {
            let (Some(first), Some(last)) = (values.first(), values.last()) else {
                return Vec::new();
            };
            let from = most.get().min(first / last);
            let steps = (count.max(2) - 1) as f64;
            let line: Vec<f64> =
                (0..count).map(|at| from + (1.0 - from) * at as f64 / steps).collect();
            let whole: f64 = line.iter().sum();
            line.iter().map(|value| sum * value / whole).collect()
        }
    }
}

/// Keeps the share of largest magnitudes, at least one, and all that equal the last of them.
fn thin(core: &mut Matrix, share: f64) {
    let mut sizes: Vec<f64> = core.values.iter().map(|value| value.abs()).collect();
    let kept = ((share * sizes.len() as f64) as usize).max(1);
    sizes.sort_by(|a, b| b.total_cmp(a));
    let least = sizes[kept - 1];
    core.values.iter_mut().filter(|value| value.abs() < least).for_each(|value| *value = 0.0);
}

/// The mean of what has the sign of the sum.
fn agreeing(cores: &[Matrix]) -> Matrix {
    let mut merged = zeros(cores[0].rows, cores[0].columns);
    for (at, merged) in merged.values.iter_mut().enumerate() {
        let sum: f64 = cores.iter().map(|core| core.values[at]).sum();
        let agreeing: Vec<f64> =
            cores.iter().map(|core| core.values[at]).filter(|value| value * sum > 0.0).collect();
        if !agreeing.is_empty() {
            *merged = agreeing.iter().sum::<f64>() / agreeing.len() as f64;
        }
    }
    merged
}

/// What connects the directions of one expert with each other; zero elsewhere.
fn blocks(mut core: Matrix, ranks: &[usize]) -> Matrix {
    let owner: Vec<usize> =
        ranks.iter().enumerate().flat_map(|(expert, &rank)| vec![expert; rank]).collect();
    for (row, values) in core.values.chunks_mut(core.columns).enumerate() {
        for (column, value) in values.iter_mut().enumerate() {
            if owner[row] != owner[column] {
                *value = 0.0;
            }
        }
    }
    core
}
