//! TSV-Merge.

use mixdown_ops::matrix::{Operands, Rank, Report, Stop};

use super::dense::{append_rows, zeros};
use super::directions::Stack;
use super::eigen::leading;
use super::gram::{left_gram, right_gram};
use super::product::{LeftRows, Piece, Product, Sum};
use super::rows::{Blend, project};
use super::truncated_svd::notes;
use super::truncation::CutAt;

/// The leading singular vectors of all matrices, orthogonalized, with their singular values.
///
/// **Shapes.** N operands `m × n`; the result has their shape. `smaller_side` is that of the matrices
/// for which the rank is meant, where the operands are cores of them.
/// **Numerics.** Directions below 1.5e-8·σ_1 of their matrix are dropped before orthogonalizing: which
/// ones they are is arbitrary, and the polar factor would spread that over the whole result.
/// **Source.** Gargiulo et al. 2025 (TSV-Merge). The paper does not drop.
pub(crate) fn prepare(
    rank: Rank,
    operands: &mut dyn Operands,
    smaller_side: usize,
) -> Result<Product, Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let rank = rank.of(smaller_side, count).min(rows.min(columns));
    let is_left = rows <= columns;
    let (mut lefts, mut rights) = (zeros(0, rows), zeros(0, columns));
    let (mut pieces, mut ranges, mut cuts) = (Vec::new(), Vec::new(), Vec::new());
    // At once: stacks that grow are there twice.
    rights.values.reserve_exact(count * rank * columns);
    if is_left {
        lefts.values.reserve_exact(count * rank * rows);
    }
    for operand in 0..count {
        let blend = Blend::one(operand);
        let gram = match is_left {
            true => left_gram(operands, &blend)?,
            false => right_gram(operands, &blend)?,
        };
        let spectrum = leading(gram, rank)?;
        cuts.push(cut(&spectrum.values, rank, rows.max(columns)));
        let vectors = spectrum.vectors;
        let offset = operand * rank;
        ranges.push(offset..offset + rank);
        if is_left {
            append_rows(&mut rights, &project(operands, &blend, &vectors)?);
            append_rows(&mut lefts, &vectors);
        } else {
            append_rows(&mut rights, &vectors);
            pieces.push(Piece { blend, offset, directions: vectors });
        }
    }
    let mut stack = match is_left {
        true => Stack::of_left(lefts, rights),
        false => {
            let left = LeftRows::Read { pieces, rank: count * rank };
            Stack::of_right(operands, left, rights)?
        }
    };
    let dropped = stack.drop_null(&ranges, rows.max(columns));
    let kept = |range: &std::ops::Range<usize>| {
        stack.singular[range.clone()].iter().filter(|&&value| value > 0.0).count()
    };
    let gap = cuts.iter().filter_map(|cut| cut.gap).min_by(f64::total_cmp);
    let mut report = Report {
        ranks: ranges.iter().map(kept).collect(),
        gap,
        notes: notes(&cuts),
        ..<_>::default()
    };
    if dropped > 0 {
        report.notes.push(format!(
            "{dropped} of {} directions have no energy and were dropped before orthogonalizing",
            count * rank
        ));
    }
    let values = stack.singular.clone();
    stack.orthogonalized(&values, report)
}

fn cut(eigenvalues: &[f64], rank: usize, sides: usize) -> CutAt {
    let singular: Vec<f64> = eigenvalues.iter().map(|value| value.max(0.0).sqrt()).collect();
    super::truncation::cut_at(&singular, rank, false, sides)
}

/// What is left where no matrix keeps a direction.
pub(crate) fn mean(count: usize) -> Sum {
    let note = format!(
        "there are more experts ({count}) than the smaller side is long, so that none keeps a \
         direction; the result is their mean"
    );
    let report = Report { ranks: vec![0; count], notes: vec![note], ..Report::default() };
    Sum { blend: Blend::each(count, 1.0 / count as f64), report }
}
