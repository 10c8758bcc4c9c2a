//! Iso-CTS.

use mixdown_ops::matrix::{Matrix, Operands, Report, Stop};

use super::dense::{accumulate, append_rows, first_rows, product, scale_rows, view, zeros};
use super::directions::{Stack, least_singular};
use super::eigen::{Eigen, eigen};
use super::gram::{left_gram, right_gram};
use super::product::{LeftRows, Piece, Product};
use super::rows::{Blend, PANEL, panels, project};
use super::smaller_side::TOGETHER;

/// What is left of directions that were projected out, over the largest singular value, at most.
const LEFT_OF_FEW: f64 = 1e-6;

/// Directions kept of the sum and of each task vector.
///
/// The share of the smaller side is cut to a whole number; what is left is shared among `experts`,
/// rounded to even but never to more than there is, and the common space takes the rest.
pub(crate) fn split(smaller_side: usize, share: f64, experts: usize) -> (usize, usize) {
    let common = ((smaller_side as f64 * share) as usize).min(smaller_side);
    let task = ((smaller_side - common) as f64 / experts as f64).round_ties_even() as usize;
    let task = task.min(smaller_side / experts);
    (smaller_side - task * experts, task)
}

/// Common directions of the sum and task-specific ones, orthogonalized, with one singular value.
///
/// **Shapes.** N operands `m × n`; the result has their shape.
/// **Parameters.** `share`: of the smaller side, for the common directions; 0.8 in the paper.
/// **Numerics.** Directions below 1.5e-8·σ_1 of the sum are dropped, but count in the mean.
/// **Source.** Marczak et al. 2025 (Iso-CTS), and its released code for the rounding.
pub(crate) fn prepare(share: f64, operands: &mut dyn Operands) -> Result<Product, Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let (common, task) = split(rows.min(columns), share, count);
    let parts = match rows <= columns {
        true => by_left(operands, common, task)?,
        false => by_right(operands, common, task)?,
    };
    let (mut stack, first) = parts;
    let mut least = least_singular(first, rows.max(columns));
    // Of a few directions that the common ones have among them, nothing is left but what rounding makes of 0: the
    // root of ε for squares, a little more for their sums.
    if (0..count).all(|operand| operands.rank(operand).is_some()) {
        least = least.max(first * LEFT_OF_FEW);
    }
    let mut dropped = 0;
    for value in stack.singular.iter_mut().filter(|value| **value <= least) {
        *value = 0.0;
        dropped += 1;
    }
    let size = stack.singular.len();
    let mean = stack.singular.iter().sum::<f64>() / size.max(1) as f64;
    let mut ranks = vec![task; count];
    ranks.push(common);
    let mut report = Report { ranks, ..Report::default() };
    if dropped > 0 {
        report
            .notes
            .push(format!("{dropped} of {size} directions have no energy and were dropped"));
    }
    stack.orthogonalized(&vec![mean; size], report)
}

/// No more rows than columns: all eigenproblems are `m × m`, and the task-specific left vectors are made
/// orthogonal to the common ones, so that their projections need no correction.
fn by_left(operands: &mut dyn Operands, common: usize, task: usize) -> Result<(Stack, f64), Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let sum = Blend::each(count, 1.0);
    let Eigen { values, vectors } = eigen(&left_gram(operands, &sum)?)?;
    let shared = first_rows(vectors, common);
    let (mut lefts, mut rights) = (zeros(0, rows), zeros(0, columns));
    // At once: stacks that grow are there twice.
    lefts.values.reserve_exact((common + count * task) * rows);
    rights.values.reserve_exact((common + count * task) * columns);
    for operand in 0..count {
        let blend = Blend::one(operand);
        let mut gram = left_gram(operands, &blend)?;
        // (I − P)·L·(I − P), one side at a time.
        let along = product(view(&shared), view(&gram));
        accumulate(&mut gram, -1.0, view(&shared).transpose(), view(&along));
        drop(along);
        let along = product(view(&gram), view(&shared).transpose());
        accumulate(&mut gram, -1.0, view(&along), view(&shared));
        drop(along);
        let mut left = first_rows(eigen(&gram)?.vectors, task);
        // Where less is left than `task` directions, eigenvectors of 0 are arbitrary, and may lie among the common
        // ones: of these, too, only what is orthogonal to the common ones is the task's own.
        let along = product(view(&left), view(&shared).transpose());
        accumulate(&mut left, -1.0, view(&along), view(&shared));
        drop(along);
        append_projections(&mut rights, operands, &blend, &left)?;
        append_rows(&mut lefts, &left);
    }
    append_projections(&mut rights, operands, &sum, &shared)?;
    append_rows(&mut lefts, &shared);
    drop(shared);
    Ok((Stack::of_left(lefts, rights), values.first().map_or(0.0, |value| value.max(0.0).sqrt())))
}

/// Appends `left·τ`, some rows after the other.
fn append_projections(
    rows: &mut Matrix,
    operands: &mut dyn Operands,
    blend: &Blend,
    left: &Matrix,
) -> Result<(), Stop> {
    for (first, count) in panels(left.rows, TOGETHER) {
        let values = left.values[first * left.columns..(first + count) * left.columns].to_vec();
        let some = Matrix { rows: count, columns: left.columns, values };
        append_rows(rows, &project(operands, blend, &some)?);
    }
    Ok(())
}

/// More rows than columns: `U_c = τ_s·V_c·D⁻¹`, so that `(I − U_c·U_cᵀ)·τ_i` is linear in rows of the
/// operands, and all eigenproblems are `n × n`.
fn by_right(operands: &mut dyn Operands, common: usize, task: usize) -> Result<(Stack, f64), Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let sum = Blend::each(count, 1.0);
    let Eigen { values, vectors } = eigen(&right_gram(operands, &sum)?)?;
    let shared = first_rows(vectors, common);
    let first = values.first().map_or(0.0, |value| value.max(0.0).sqrt());
    let least = least_singular(first, rows.max(columns));
    let inverse = |row: usize| {
        let singular = values[row].max(0.0).sqrt();
        if singular > least { 1.0 / singular } else { 0.0 }
    };
    let (mut rights, mut pieces) = (zeros(0, columns), Vec::new());
    for operand in 0..count {
        let blend = Blend::one(operand);
        let mut along = product(view(&shared), view(&cross_gram(operands, &sum, &blend)?));
        scale_rows(&mut along, inverse);
        let mut gram = right_gram(operands, &blend)?;
        accumulate(&mut gram, -1.0, view(&along).transpose(), view(&along));
        let right = first_rows(eigen(&gram)?.vectors, task);
        let mut removed = product(view(&along), view(&right).transpose());
        scale_rows(&mut removed, |row| -inverse(row));
        let directions = product(view(&removed).transpose(), view(&shared));
        let offset = operand * task;
        append_rows(&mut rights, &right);
        pieces.push(Piece { blend, offset, directions: right });
        pieces.push(Piece { blend: sum.clone(), offset, directions });
    }
    append_rows(&mut rights, &shared);
    pieces.push(Piece { blend: sum, offset: count * task, directions: shared });
    let left = LeftRows::Read { pieces, rank: count * task + common };
    Ok((Stack::of_right(operands, left, rights)?, first))
}

/// `aᵀ·b`, by one pass.
fn cross_gram(operands: &mut dyn Operands, a: &Blend, b: &Blend) -> Result<Matrix, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut gram = zeros(columns, columns);
    for (first, count) in panels(rows, PANEL) {
        let (a, b) = (a.block(operands, first, count)?, b.block(operands, first, count)?);
        accumulate(&mut gram, 1.0, view(&a).transpose(), view(&b));
    }
    Ok(gram)
}
