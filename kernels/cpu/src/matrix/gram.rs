//! Gram matrices of operands, summed in f64 over row panels.

use faer::MatMut;
use mixdown_ops::matrix::{Matrix, Operands, Stop};

use super::dense::{add_lower_gram, add_product, mirror, view, zeros};
use super::rows::{Blend, PANEL, panels};

/// Rows of a panel where two are held: the larger, the fewer times an operand is read again.
pub(crate) const PAIR_PANEL: usize = 1024;

/// `τᵀ·τ`, by one pass.
pub(crate) fn right_gram(operands: &mut dyn Operands, blend: &Blend) -> Result<Matrix, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut gram = zeros(columns, columns);
    for (first, count) in panels(rows, PANEL) {
        let block = blend.block(operands, first, count)?;
        let into = MatMut::from_row_major_slice_mut(&mut gram.values, columns, columns);
        add_lower_gram(into, 1.0, view(&block).transpose());
    }
    mirror(&mut gram);
    Ok(gram)
}

/// Adds `τ·τᵀ` to the lower triangle of a matrix, by pairs of panels, so that τ is never held as a whole.
pub(crate) fn add_left_gram(
    operands: &mut dyn Operands,
    blend: &Blend,
    gram: &mut Matrix,
) -> Result<(), Stop> {
    let rows = gram.rows;
    for (first, count) in panels(rows, PAIR_PANEL) {
        let block = blend.block(operands, first, count)?;
        let whole = MatMut::from_row_major_slice_mut(&mut gram.values, rows, rows);
        add_lower_gram(whole.submatrix_mut(first, first, count, count), 1.0, view(&block));
        for (other_first, other_count) in panels(rows, PAIR_PANEL).filter(|other| other.0 > first) {
            let other = blend.block(operands, other_first, other_count)?;
            let whole = MatMut::from_row_major_slice_mut(&mut gram.values, rows, rows);
            let part = whole.submatrix_mut(other_first, first, other_count, count);
            add_product(part, 1.0, view(&other), view(&block).transpose());
        }
    }
    Ok(())
}

/// `τ·τᵀ`.
pub(crate) fn left_gram(operands: &mut dyn Operands, blend: &Blend) -> Result<Matrix, Stop> {
    let rows = operands.shape(0).0;
    let mut gram = zeros(rows, rows);
    add_left_gram(operands, blend, &mut gram)?;
    mirror(&mut gram);
    Ok(gram)
}
