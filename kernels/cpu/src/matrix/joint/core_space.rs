//! Core Space: merges in the bases that factors share.

use mixdown_ops::matrix::joint::{CoreMerge, CoreSpace};
use mixdown_ops::matrix::{Factors, Matrix, Operands, Prepared, Report, Stop};

use super::super::dense::{add_scaled, product, row_gram, transposed, view, zeros};
use super::super::eigen::{eigen, orthonormal};
use super::super::factors::empty;
use super::super::product::LowRank;
use super::svd::{beneath, beside, polar, svd};
use super::{Whole, one, sum_of};

/// **Shapes.** N operands `m × n`, low-rank as factors or dense; the result is `m × n`, of low rank where all
/// operands together are.
/// **Parameters.** A dense operand is cut to the rank first. Weights multiply the cores, so that the bases do not
/// depend on them.
/// **Numerics.** f64. The bases are the left singular vectors of all left factors beside each other, and the right
/// ones of all right factors; nothing of the size of the matrix is made where all come as factors.
/// **Source.** Core Space (arXiv:2509.17786).
pub(super) fn merge(
    op: &CoreSpace,
    operands: &mut dyn Operands,
) -> Result<Box<dyn Prepared>, Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let ranks: Vec<Option<usize>> = (0..count).map(|operand| operands.rank(operand)).collect();
    let total: Option<usize> = ranks.iter().copied().sum();
    if total == Some(0) {
        return Ok(Box::new(empty(rows, columns, Report::default())));
    }
    let is_low_rank = total.is_some_and(|total| total < rows.min(columns));
    let rank = op.rank.of(rows.min(columns), count);
    let mut factors = Vec::with_capacity(count);
    for (operand, known) in ranks.iter().enumerate() {
        factors.push(match known {
            Some(_) => operands.factors(operand)?,
            None => halves(&one(operands, operand)?, rank)?,
        });
    }
    if factors.iter().all(|factor| factor.right.rows == 0) {
        return Ok(Box::new(Whole::new(zeros(rows, columns), Report::default())?));
    }
    let lefts: Vec<Matrix> = factors.iter().map(|factor| factor.left.clone()).collect();
    let rights: Vec<Matrix> = factors.iter().map(|factor| factor.right.clone()).collect();
    let left = basis(&beside(&lefts))?;
    let right = basis(&transposed(&beneath(&rights)))?;
    drop((lefts, rights));
    let mut cores = Vec::with_capacity(count);
    for (Factors { left: own_left, right: own_right }, weight) in factors.iter().zip(&op.weights) {
        let mut a = product(view(&left).transpose(), view(own_left));
        a.values.iter_mut().for_each(|value| *value *= weight.get());
        let b = product(view(own_right), view(&right));
        cores.push(product(view(&a), view(&b)));
    }
    let core = merged(op, &cores)?;
    let left = product(view(&left), view(&core));
    let right = transposed(&right);
    let report = Report { ranks: vec![core.rows.min(core.columns)], ..Report::default() };
    if is_low_rank {
        return Ok(Box::new(LowRank { factors: Factors { left, right }, report }));
    }
    Ok(Box::new(Whole::new(product(view(&left), view(&right)), report)?))
}

/// `U·√Σ` and `√Σ·Vᵀ` of the leading directions.
fn halves(whole: &Matrix, rank: usize) -> Result<Factors, Stop> {
    let found = svd(whole)?;
    let kept = rank.min(found.rank());
    let (mut left, mut right) = (found.first_left(kept), found.first_right(kept));
    let roots: Vec<f64> = found.values[..kept].iter().map(|value| value.sqrt()).collect();
    for row in left.values.chunks_mut(kept.max(1)) {
        row.iter_mut().zip(&roots).for_each(|(value, root)| *value *= root);
    }
    super::super::dense::scale_rows(&mut right, |row| roots[row]);
    Ok(Factors { left, right })
}

/// The left singular vectors of a matrix, as columns, the largest direction's first.
fn basis(all: &Matrix) -> Result<Matrix, Stop> {
    if all.rows < all.columns {
        return Ok(svd(all)?.left);
    }
    let (whole, core) = orthonormal(all)?;
    let found = eigen(&row_gram(view(&core)))?;
    Ok(product(view(&whole), view(&found.vectors).transpose()))
}

fn merged(op: &CoreSpace, cores: &[Matrix]) -> Result<Matrix, Stop> {
    let sum = || sum_of(cores, 1.0);
    Ok(match op.merge {
        CoreMerge::Sum => sum(),
        CoreMerge::Ties(density) => ties(cores, density.get()),
        CoreMerge::TaskSingularVectors => task_singular_vectors(cores)?,
        CoreMerge::Isotropic => {
            let found = svd(&sum())?;
            let mean = found.values.iter().sum::<f64>() / found.values.len().max(1) as f64;
            found.with(&vec![mean; found.values.len()])
        }
    })
}

/// TIES as its own code has it: the threshold is inclusive, and a sum of 0 gets the sign that most have.
fn ties(cores: &[Matrix], density: f64) -> Matrix {
    let trimmed: Vec<Matrix> = cores.iter().map(|core| trimmed(core, density)).collect();
    let total = sum_of(&trimmed, 1.0);
    let votes: f64 = total.values.iter().map(|&value| sign(value)).sum();
    let mut merged = zeros(total.rows, total.columns);
    for (at, merged) in merged.values.iter_mut().enumerate() {
        let elected = if total.values[at] == 0.0 { sign(votes) } else { sign(total.values[at]) };
        // A vote without a result takes what is negative.
        let goes_along = |value: f64| if elected > 0.0 { value > 0.0 } else { value < 0.0 };
        let own = trimmed.iter().map(|core| core.values[at]).filter(|&value| goes_along(value));
        let (sum, count) = own.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
        *merged = sum / f64::from(count.max(1));
    }
    merged
}

/// What reaches the magnitude beyond the share, and all that equals it.
fn trimmed(core: &Matrix, density: f64) -> Matrix {
    let mut kept = core.clone();
    let mut sizes: Vec<f64> = core.values.iter().map(|value| value.abs()).collect();
    let below = sizes.len() - (density * sizes.len() as f64) as usize;
    if density >= 1.0 || below == 0 {
        return kept;
    }
    sizes.sort_by(f64::total_cmp);
    let least = sizes[below - 1];
    kept.values.iter_mut().filter(|value| value.abs() < least).for_each(|value| *value = 0.0);
    kept
}

fn sign(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

fn task_singular_vectors(cores: &[Matrix]) -> Result<Matrix, Stop> {
    let smaller = cores[0].rows.min(cores[0].columns);
    let rank = smaller / cores.len();
    let found: Vec<_> = cores.iter().map(svd).collect::<Result<_, _>>()?;
    let lefts: Vec<Matrix> = found.iter().map(|one| one.first_left(rank)).collect();
    let rights: Vec<Matrix> = found.iter().map(|one| one.first_right(rank)).collect();
    let values: Vec<f64> = found.iter().flat_map(|one| one.values[..rank].to_vec()).collect();
    let mut left = polar(&beside(&lefts))?;
    for row in left.values.chunks_mut(values.len().max(1)) {
        row.iter_mut().zip(&values).for_each(|(to, value)| *to *= value);
    }
    let mut merged = zeros(cores[0].rows, cores[0].columns);
    let own = product(view(&left), view(&polar(&beneath(&rights))?));
    add_scaled(&mut merged.values, 1.0, &own.values);
    Ok(merged)
}
