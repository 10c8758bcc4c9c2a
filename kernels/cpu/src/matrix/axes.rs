//! Facts about each row or column of matrices, and the places of elements within their rows.

use std::cmp::Reverse;

use mixdown_ops::matrix::axes::Fact;
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::rows::panels;
use super::spectrum::Square;

/// Elements that are read together, if a row is not longer.
const TOGETHER: usize = 64 * 1024;

/// Rows that are read together.
pub(crate) fn rows_together(columns: usize) -> usize {
    (TOGETHER / columns.max(1)).max(1)
}

/// A fact about each row.
///
/// **Shapes.** One operand `m × n`, or two for a product; the result is `m × 1`.
/// **Numerics.** Sums in f64 in the order of the columns.
pub(crate) struct RowFact(pub Fact);

impl Prepared for RowFact {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = operands.shape(0).1;
        let read = read_all(operands, first_row, values.len())?;
        let (left, right) = (&read[0], &read[read.len() - 1]);
        let rows = left.chunks_exact(columns).zip(right.chunks_exact(columns));
        for (value, (left, right)) in values.iter_mut().zip(rows) {
            *value = start(self.0);
            for (&left, &right) in left.iter().zip(right) {
                *value = add(self.0, *value, left, right);
            }
        }
        Ok((0.0, 0.0))
    }

    fn report(&self) -> Report {
        Report::default()
    }
}

/// A fact about each column: `1 × n`, accumulated in f64 in the order of the rows.
pub(crate) fn columns(fact: Fact, operands: &mut dyn Operands) -> Result<Square, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut found = vec![start(fact); columns];
    for (first, count) in panels(rows, rows_together(columns)) {
        let read = read_all(operands, first, count)?;
        let (left, right) = (&read[0], &read[read.len() - 1]);
        for (left, right) in left.chunks_exact(columns).zip(right.chunks_exact(columns)) {
            for ((known, &left), &right) in found.iter_mut().zip(left).zip(right) {
                *known = add(fact, *known, left, right);
            }
        }
    }
    Ok(Square(Matrix { rows: 1, columns, values: found }))
}

/// Whole rows of all operands.
fn read_all(
    operands: &mut dyn Operands,
    first_row: usize,
    rows: usize,
) -> Result<Vec<Vec<f64>>, Stop> {
    let columns = operands.shape(0).1;
    let read = (0..operands.count()).map(|operand| {
        let mut values = vec![0.0; rows * columns];
        operands.read(operand, first_row, &mut values)?;
        Ok(values)
    });
    read.collect()
}

/// The fact about no elements.
fn start(fact: Fact) -> f64 {
    if fact == Fact::Highest { f64::NEG_INFINITY } else { 0.0 }
}

fn add(fact: Fact, known: f64, left: f64, right: f64) -> f64 {
    match fact {
        Fact::Sum => known + left,
        Fact::SumProduct => known + left * right,
        Fact::Highest => known.max(left),
    }
}

/// The place of each magnitude among those of its row.
///
/// **Shapes.** One operand `m × n`; the result has its shape.
pub(crate) struct PlaceInRow;

impl Prepared for PlaceInRow {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = operands.shape(0).1;
        operands.read(0, first_row, values)?;
        let mut order: Vec<(u64, Reverse<u32>)> = Vec::with_capacity(columns);
        for row in values.chunks_exact_mut(columns) {
            order.clear();
            // The bits of magnitudes order like them.
            order.extend((0..).zip(&*row).map(|(at, value)| (value.abs().to_bits(), Reverse(at))));
            order.sort_unstable();
            for (place, (_, Reverse(at))) in order.iter().enumerate() {
                row[*at as usize] = place as f64;
            }
        }
        Ok((0.0, 0.0))
    }

    fn report(&self) -> Report {
        Report::default()
    }
}
