//! Results of the form `L·W`: what all rows need is `W`, and a row of `L` is either held or comes from
//! the same row of the operands.

use mixdown_ops::matrix::{Factors, Matrix, Operands, Prepared, Report, Stop};

use super::dense::{add_product, product, rows_of, view, zeros};
use super::rows::Blend;
use faer::MatMut;

/// Rows of a block: products of this many rows are near their full speed, and a block of
/// 128 × 18944 in f64 is 19 MB.
pub(crate) const BLOCK_ROWS: usize = 256;

/// The rows of L.
#[derive(Debug)]
pub(crate) enum LeftRows {
    /// `m × r`.
    Held(Matrix),
    /// Sums over pieces: rows of the blend, times the piece's `n × k` matrix given as `k × n`, into
    /// columns from the offset on.
    Read { pieces: Vec<Piece>, rank: usize },
}

/// A contribution to the columns of L.
#[derive(Debug)]
pub(crate) struct Piece {
    pub blend: Blend,
    pub offset: usize,
    /// `k × n`: column `j` of the contribution is τ times row `j`.
    pub directions: Matrix,
}

impl LeftRows {
    /// Rows of L.
    pub fn block(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        rows: usize,
    ) -> Result<Matrix, Stop> {
        match self {
            Self::Held(left) => {
                let start = first_row * left.columns;
                let values = left.values[start..start + rows * left.columns].to_vec();
                Ok(Matrix { rows, columns: left.columns, values })
            }
            Self::Read { pieces, rank } => {
                let mut block = zeros(rows, *rank);
                for Piece { blend, offset, directions } in pieces {
                    let read = blend.block(operands, first_row, rows)?;
                    let whole = MatMut::from_row_major_slice_mut(&mut block.values, rows, *rank);
                    let part = whole.subcols_mut(*offset, directions.rows);
                    add_product(part, 1.0, view(&read), view(directions).transpose());
                }
                Ok(block)
            }
        }
    }
}

/// `L·W`, row by row.
#[derive(Debug)]
pub(crate) struct Product {
    pub left: LeftRows,
    pub right: Matrix,
    pub report: Report,
}

impl Product {
    /// The zero matrix.
    pub fn zero(rows: usize, columns: usize, report: Report) -> Self {
        Self { left: LeftRows::Held(zeros(rows, 0)), right: zeros(0, columns), report }
    }
}

impl Prepared for Product {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        in_blocks(self.right.columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            let left = self.left.block(operands, first, rows)?;
            values.fill(0.0);
            let into = MatMut::from_row_major_slice_mut(values, rows, self.right.columns);
            add_product(into, 1.0, view(&left), view(&self.right));
            Ok((0.0, 0.0))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

/// A weighted sum of operands, row by row.
#[derive(Debug)]
pub(crate) struct Sum {
    pub blend: Blend,
    pub report: Report,
}

impl Prepared for Sum {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        self.blend.read(operands, first_row, values)?;
        Ok((0.0, 0.0))
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

/// A result that is held as factors.
#[derive(Debug)]
pub(crate) struct LowRank {
    pub factors: Factors,
    pub report: Report,
}

impl Prepared for LowRank {
    fn rows(
        &self,
        _: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let Factors { left, right } = &self.factors;
        in_blocks(right.columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            let block = product(rows_of(left, first, rows), view(right));
            values.copy_from_slice(&block.values);
            Ok((0.0, 0.0))
        })
    }

    fn factors(&self) -> Option<&Factors> {
        Some(&self.factors)
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

/// Runs over row blocks of fixed size. Products choose their loops by shape, so a row gets the same
/// bits only as part of the same block: calls begin at a multiple of the block's rows, and only the
/// last of a matrix ends elsewhere.
pub(crate) fn in_blocks(
    columns: usize,
    block_rows: usize,
    first_row: usize,
    values: &mut [f64],
    mut run: impl FnMut(usize, usize, &mut [f64]) -> Result<(f64, f64), Stop>,
) -> Result<(f64, f64), Stop> {
    debug_assert!(first_row.is_multiple_of(block_rows));
    let mut losses = (0.0, 0.0);
    if columns == 0 {
        return Ok(losses);
    }
    for (index, block) in values.chunks_mut(block_rows * columns).enumerate() {
        let rows = block.len() / columns;
        let (start, end) = run(first_row + index * block_rows, rows, block)?;
        losses = (losses.0 + start, losses.1 + end);
    }
    Ok(losses)
}
