//! Gram matrices of operands, summed in f64 over row panels.

use mixdown_ops::matrix::{Matrix, Operands, Stop};

use super::dense::{accumulate, add_product, view, zeros};
use super::rows::{Blend, PANEL, panels};
use faer::MatMut;

/// Rows of a panel where two are held: the larger, the fewer times an operand is read again.
pub(crate) const PAIR_PANEL: usize = 1024;

/// `τᵀ·τ`, by one pass.
pub(crate) fn right_gram(operands: &mut dyn Operands, blend: &Blend) -> Result<Matrix, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut gram = zeros(columns, columns);
    for (first, count) in panels(rows, PANEL) {
        let block = blend.block(operands, first, count)?;
        accumulate(&mut gram, 1.0, view(&block).transpose(), view(&block));
    }
    Ok(gram)
}

/// Adds `τ·τᵀ` to a matrix, by pairs of panels, so that τ is never held as a whole.
pub(crate) fn add_left_gram(
    operands: &mut dyn Operands,
    blend: &Blend,
    gram: &mut Matrix,
) -> Result<(), Stop> {
    let rows = gram.rows;
    for (first, count) in panels(rows, PAIR_PANEL) {
        let block = blend.block(operands, first, count)?;
        let mut add = |other: &Matrix, other_first: usize, other_count: usize| {
            let whole = MatMut::from_row_major_slice_mut(&mut gram.values, rows, rows);
            let part = whole.submatrix_mut(other_first, first, other_count, count);
            add_product(part, 1.0, view(other), view(&block).transpose());
        };
        add(&block, first, count);
        for (other_first, other_count) in panels(rows, PAIR_PANEL).filter(|other| other.0 > first) {
            let other = blend.block(operands, other_first, other_count)?;
            add(&other, other_first, other_count);
        }
    }
    // The part above the diagonal of panels is the mirror of that below.
    for row in 0..rows {
        for column in (row / PAIR_PANEL + 1) * PAIR_PANEL..rows {
            gram.values[row * rows + column] = gram.values[column * rows + row];
        }
    }
    Ok(())
}

/// `τ·τᵀ`.
pub(crate) fn left_gram(operands: &mut dyn Operands, blend: &Blend) -> Result<Matrix, Stop> {
    let rows = operands.shape(0).0;
    let mut gram = zeros(rows, rows);
    add_left_gram(operands, blend, &mut gram)?;
    Ok(gram)
}
