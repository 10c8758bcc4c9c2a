//! Gram matrices of operands, summed in f64 over row panels.

use faer::MatMut;
use mixdown_ops::matrix::{Matrix, Operands, Stop};

use super::dense::{add_lower_gram, add_product, mirror, view, zeros};
use super::rows::{Blend, PANEL, panels};

/// Rows of a panel where two are held: the larger, the fewer times an operand is read again.
pub(crate) const PAIR_PANEL: usize = 512;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::dense::product;
    use mixdown_ops::matrix::Factors;

    struct One(Matrix);

    impl Operands for One {
        fn count(&self) -> usize {
            1
        }

        fn shape(&self, _: usize) -> (usize, usize) {
            (self.0.rows, self.0.columns)
        }

        fn read(&mut self, _: usize, first: usize, values: &mut [f64]) -> Result<(), Stop> {
            let start = first * self.0.columns;
            values.copy_from_slice(&self.0.values[start..start + values.len()]);
            Ok(())
        }

        fn read_single(&mut self, _: usize, _: usize, _: &mut [f32]) -> Result<(), Stop> {
            Err(Stop::Reading)
        }

        fn rank(&self, _: usize) -> Option<usize> {
            None
        }

        fn factors(&mut self, _: usize) -> Result<Factors, Stop> {
            Err(Stop::Reading)
        }
    }

    /// Small whole numbers, so that all sums are exact, over panels that end and that do not.
    #[test]
    fn panels_make_the_whole() {
        for rows in [1, 255, 256, 1024, 1025, 2050] {
            let values = (0..rows * 3).map(|index| (index * 7 % 11) as f64 - 5.0).collect();
            let whole = Matrix { rows, columns: 3, values };
            let mut operands = One(whole.clone());
            let left = left_gram(&mut operands, &Blend::one(0)).unwrap();
            assert!(left == product(view(&whole), view(&whole).transpose()), "{rows} rows");
            let right = right_gram(&mut operands, &Blend::one(0)).unwrap();
            assert_eq!(right, product(view(&whole).transpose(), view(&whole)), "{rows} rows");
        }
    }
}
