//! Which ops are descents that a device can run, and with which sides.

use mixdown_ops::Precision;
use mixdown_ops::descent::DescentShape;
use mixdown_ops::matrix::interference::{Interference, Rows, Solver};
use mixdown_ops::matrix::{MatrixOp, OperandShapes};

use super::adam::{self, Form};
use super::interference::solvers::{ADAM_ROWS, iterations};

/// A descent, before anything is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Descended {
    pub shape: DescentShape,
    pub steps: u32,
}

impl Descended {
    /// Operations of all steps: 2 for a product and its sum.
    pub fn operations(self) -> f64 {
        let DescentShape { rows, columns, stacked } = self.shape;
        let depth = match stacked {
            None => columns as f64,
            Some(stacked) => 2.0 * stacked as f64,
        };
        f64::from(self.steps) * rows as f64 * columns as f64 * (2.0 * depth + 12.0)
    }
}

/// The descent of an op, or why a device cannot run it; none where there is no descent.
pub(crate) fn of(
    op: &MatrixOp,
    operands: &OperandShapes,
    precision: Precision,
) -> Option<Result<Descended, &'static str>> {
    let MatrixOp::Interference(op) = op.inner() else { return None };
    let Solver::Adam(adam) = &op.solver else { return None };
    let sides = (operands.rows, operands.columns);
    if sides.0 == 0 || sides.1 == 0 {
        return None;
    }
    Some(match (precision, iterations(adam, sides, precision)) {
        (Precision::Double, _) => Err("f64 was asked for, and the device's kernels are f32"),
        (_, Precision::Double) => Err("small matrices are iterated in f64"),
        (_, Precision::Single) => {
            let stacked = match form(op, operands) {
                Form::Gram { .. } => None,
                Form::Factored { r, .. } => Some(r),
            };
            let shape = DescentShape { rows: sides.0, columns: sides.1, stacked };
            Ok(Descended { shape, steps: adam.steps })
        }
    })
}

/// Rows of S at most, and whether S is held at all: in place of G.
pub(crate) fn stack(op: &Interference, operands: &OperandShapes) -> (f64, bool) {
    let (m, n) = (operands.rows, operands.columns);
    let p = m.min(n) as f64;
    let own = |rank: &Option<usize>| rank.map_or(m as f64, |rank| rank as f64).min(p);
    let total: f64 = operands.ranks.iter().map(own).sum();
    let count = operands.ranks.len();
    let k = (op.rank.of(m.min(n), count) as f64).min(p);
    let rank = if op.rows == Rows::Whole { total } else { count as f64 * k };
    (rank, op.rows != Rows::Whole || (m <= n && total < n as f64))
}

/// What Adam multiplies with.
pub(crate) fn form(op: &Interference, operands: &OperandShapes) -> Form {
    let (rank, is_stacked) = stack(op, operands);
    match is_stacked {
        true => adam::Form::cheaper(rank as usize, operands.columns),
        false => Form::Gram { n: operands.columns },
    }
}

/// Rows of a block on a device, of so many in all: whole blocks of the processor, whose sums over rows then are the same whatever
/// the device has room for, and whole tiles where there are so many.
pub(crate) fn block_rows(asked: usize, rows: usize) -> usize {
    if asked >= rows {
        return rows.next_multiple_of(ADAM_ROWS);
    }
    // 3 tiles of 128 rows.
    let whole = 4 * ADAM_ROWS;
    let unit = if asked >= whole { whole } else { ADAM_ROWS };
    (asked / unit).max(1) * unit
}
