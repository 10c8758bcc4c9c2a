//! RegMean.

use faer::{Mat, MatMut};
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::dense::{add_product, add_scaled, check_finite, view, zeros};
use super::eigen::{cholesky, solve_rows};
use super::product::{BLOCK_ROWS, in_blocks};

/// `(Σ W_i·Ĝ_i)·(Σ Ĝ_i)⁻¹`, by solving.
#[derive(Debug)]
pub(crate) struct Regression {
    grams: Vec<Matrix>,
    lower: Mat<f64>,
    report: Report,
}

/// The least-squares solution for the inputs behind the Gram matrices.
///
/// **Shapes.** N operands `m × n`, then N Gram matrices `n × n`; the result is `m × n`.
/// **Parameters.** `off_diagonal`: `Ĝ = a·G + (1 − a)·diag(G)`.
/// **Numerics.** Cholesky in f64. A sum that is not positive definite gets the least of 1e-14 … 1e-6 of
/// its mean diagonal added that makes it so, which the report notes.
/// **Source.** Jin et al. 2023 (RegMean), arXiv:2212.09849, equation 2.
pub(crate) fn prepare(off_diagonal: f64, operands: &mut dyn Operands) -> Result<Regression, Stop> {
    let count = operands.count() / 2;
    let columns = operands.shape(0).1;
    let mut sum = zeros(columns, columns);
    let mut grams = Vec::new();
    for expert in 0..count {
        let (found_rows, found_columns) = operands.shape(count + expert);
        if (found_rows, found_columns) != (columns, columns) {
            return Err(Stop::Refused(
                format!(
                    "Gram matrix {expert} is {found_rows} × {found_columns}, but the weight has \
                     {columns} columns"
                ),
                format!("give Gram matrices of the layer's inputs, {columns} × {columns}"),
            ));
        }
        let mut gram = zeros(columns, columns);
        operands.read(count + expert, 0, &mut gram.values)?;
        check_finite(&gram.values, "a Gram matrix")?;
        for (index, value) in gram.values.iter_mut().enumerate() {
            if index / columns != index % columns {
                *value *= off_diagonal;
            }
        }
        add_scaled(&mut sum.values, 1.0, &gram.values);
        grams.push(gram);
    }
    let (lower, jitter) = cholesky(&sum)?;
    let mut report = Report::default();
    if jitter > 0.0 {
        report.notes.push(format!(
            "the sum of the Gram matrices is singular; {jitter:.1e} was added to its diagonal"
        ));
    }
    Ok(Regression { grams, lower, report })
}

impl Prepared for Regression {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = self.lower.nrows();
        in_blocks(columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            let mut sum = zeros(rows, columns);
            let mut block = zeros(rows, columns);
            for (expert, gram) in self.grams.iter().enumerate() {
                operands.read(expert, first, &mut block.values)?;
                let into = MatMut::from_row_major_slice_mut(&mut sum.values, rows, columns);
                add_product(into, 1.0, view(&block), view(gram));
            }
            solve_rows(&self.lower, &mut sum);
            check_finite(&sum.values, "the result")?;
            values.copy_from_slice(&sum.values);
            Ok((0.0, 0.0))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}
