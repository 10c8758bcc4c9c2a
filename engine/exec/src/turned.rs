//! Matrix ops on tensors that hold several matrices, or hold one as `[in, out]`: each matrix by itself, as
//! `[out, in]`.
//!
//! One thread prepares an op for one matrix and computes its rows, so that several matrices go on at once
//! and what is held is that of as many as there are threads.

use mixdown_ops::matrix::{
    Factors, Matrix, MatrixLayout, MatrixOp, Needs, OperandShapes, Operands, Report, Stop,
};
use mixdown_ops::{Backend, Precision};

use crate::held::Held;

/// Rows that are read at a time to be turned.
const ROWS: usize = 16;

/// What an op gave for one matrix.
pub(crate) struct Solved {
    /// Its elements as they are stored; none where it came as factors.
    pub values: Vec<f64>,
    /// The whole result as factors, of a tensor that is one matrix.
    pub held: Option<Held>,
    pub report: Report,
}

/// Applies an op to one matrix of a tensor, `matrix` from 0. Results that come as factors stay factors if
/// they are of the whole tensor.
pub(crate) fn solve(
    backend: &dyn Backend,
    op: &MatrixOp,
    layout: &MatrixLayout,
    matrix: usize,
    operands: &mut dyn Operands,
    precision: Precision,
) -> Result<Solved, Stop> {
    let mut seen = Seen::new(op, layout, matrix, operands, precision);
    let block = backend.needs(op, &seen.shapes(), precision)?.block_rows.max(1);
    let prepared = backend.prepare(op, &mut seen, precision)?;
    let mut report = prepared.report();
    let is_turned = layout.inputs_first && op.gives_weight();
    let (rows, columns) = size(op.result_shape(layout.shape(), seen.count()));
    if let Some(factors) = prepared.factors() {
        let factors = if is_turned { turned_factors(factors) } else { factors.clone() };
        let held = Held::from_factors(&factors, precision);
        if layout.matrices == 1 {
            return Ok(Solved { values: Vec::new(), held: Some(held), report });
        }
        let mut values = vec![0.0; rows * columns];
        held.add_product(1.0, 0, &mut values);
        return Ok(Solved { values, held: None, report });
    }
    let mut values = vec![0.0; rows_with_zeros(op, layout, seen.count()) as usize * columns];
    for (number, part) in values[..rows * columns].chunks_mut(block * columns).enumerate() {
        let (start, end) = prepared.rows(&mut seen, number * block, part)?;
        if let Some(loss) = &mut report.loss {
            *loss = (loss.0 + start, loss.1 + end);
        }
    }
    report.curve = prepared.report().curve;
    if is_turned {
        values = turned(&values, rows, columns);
    }
    Ok(Solved { values, held: None, report })
}

/// What an op sees of one matrix of such a tensor.
pub(crate) fn shapes(layout: &MatrixLayout, shapes: &OperandShapes) -> OperandShapes {
    OperandShapes {
        rows: layout.shape().0 as usize,
        columns: layout.shape().1 as usize,
        ranks: match layout.matrices {
            1 => shapes.ranks.clone(),
            _ => vec![None; shapes.ranks.len()],
        },
    }
}

/// What an op on such a tensor holds, from what it holds for one matrix: `of_one` tells that from the
/// operands' shapes.
pub(crate) fn needs(
    op: &MatrixOp,
    layout: &MatrixLayout,
    shapes: &OperandShapes,
    precision: Precision,
    of_one: impl Fn(&OperandShapes) -> Result<Needs, Stop>,
) -> Result<Needs, Stop> {
    let shapes = self::shapes(layout, shapes);
    let one = of_one(&shapes)?;
    let elements = layout.rows.saturating_mul(layout.columns);
    let width = match precision {
        Precision::Single => 4,
        Precision::Double => 8,
    };
    // Turned operands are held; those of few directions in both types, where the op reads both.
    let count = shapes.ranks.len();
    let turned = (0..count).filter(|&at| layout.inputs_first && op.reads_weight(at, count));
    let operands: u64 = turned
        .map(|at| if shapes.ranks[at].is_some() { 8 + width } else { width })
        .fold(0, |sum, bytes| sum.saturating_add(bytes * elements));
    let block = (one.block_rows as u64).saturating_mul(shapes.columns as u64).saturating_mul(8);
    let working = one.prepare_bytes.max(one.held_bytes + one.rows_bytes + block);
    // The matrix, and once more while it is turned.
    let (rows, columns) = op.result_shape(layout.shape(), count);
    let result = rows_with_zeros(op, layout, count).saturating_mul(columns);
    let result = result.saturating_mul(if layout.inputs_first { 16 } else { 8 });
    Ok(Needs {
        prepare_bytes: 0,
        held_bytes: 0,
        aside_bytes: one.aside_bytes,
        rows_bytes: working.saturating_add(operands).saturating_add(result),
        block_rows: (rows as usize).max(1),
        flops: one.flops.saturating_mul(layout.matrices),
        result_rank: if layout.matrices == 1 { one.result_rank } else { None },
    })
}

/// Rows of the result for one matrix: the basis of a matrix of a stack has rows of zeros beneath it. A weight
/// has none, whichever way it is stored.
fn rows_with_zeros(op: &MatrixOp, layout: &MatrixLayout, count: usize) -> u64 {
    let rows = op.result_shape(layout.shape(), count).0;
    match op.gives_weight() {
        true => rows,
        false => {
            layout.of_result(op, count).0.checked_div(layout.matrices).unwrap_or(rows).max(rows)
        }
    }
}

/// The reports of the matrices of one tensor as that of the tensor.
pub(crate) fn summed(reports: impl Iterator<Item = Report>) -> Report {
    let mut all: Option<Report> = None;
    for one in reports {
        let Some(sum) = &mut all else {
            all = Some(one);
            continue;
        };
        sum.loss = match (sum.loss, one.loss) {
            (Some((a, b)), Some((c, d))) => Some((a + c, b + d)),
            _ => None,
        };
        sum.norm = match (sum.norm, one.norm) {
            (Some(a), Some(b)) => Some(a.hypot(b)),
            _ => None,
        };
        match sum.curve.len() == one.curve.len() {
            true => {
                for (point, other) in sum.curve.iter_mut().zip(&one.curve) {
                    point.loss += other.loss;
                    point.norm = point.norm.hypot(other.norm);
                }
            }
            // That of some matrices alone is not that of the tensor.
            false => sum.curve.clear(),
        }
        sum.gap = match (sum.gap, one.gap) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        sum.ranks.extend(one.ranks);
        sum.noise.extend(one.noise);
        for note in one.notes {
            if !sum.notes.contains(&note) {
                sum.notes.push(note);
            }
        }
    }
    all.unwrap_or_default()
}

fn size((rows, columns): (u64, u64)) -> (usize, usize) {
    (rows as usize, columns as usize)
}

/// The operands of an op as the matrices that it sees.
struct Seen<'o> {
    op: &'o MatrixOp,
    layout: &'o MatrixLayout,
    /// Which of the tensor's matrices.
    matrix: usize,
    operands: &'o mut dyn Operands,
    precision: Precision,
    /// For each operand that lies as `[in, out]` all of it, turned, once it was read: in f64, and in f32.
    double: Vec<Option<Vec<f64>>>,
    single: Vec<Option<Vec<f32>>>,
}

impl<'o> Seen<'o> {
    fn new(
        op: &'o MatrixOp,
        layout: &'o MatrixLayout,
        matrix: usize,
        operands: &'o mut dyn Operands,
        precision: Precision,
    ) -> Self {
        let count = operands.count();
        let (double, single) = (vec![None; count], vec![None; count]);
        Self { op, layout, matrix, operands, precision, double, single }
    }

    fn shapes(&self) -> OperandShapes {
        let (rows, columns) = self.shape(0);
        let ranks = (0..self.count()).map(|operand| self.rank(operand)).collect();
        OperandShapes { rows, columns, ranks }
    }

    fn is_weight(&self, operand: usize) -> bool {
        self.op.reads_weight(operand, self.operands.count())
    }

    fn is_turned(&self, operand: usize) -> bool {
        self.layout.inputs_first && self.is_weight(operand)
    }

    /// The row of an operand from which its matrix begins.
    fn first_row(&self, operand: usize) -> usize {
        match self.is_weight(operand) {
            true => self.matrix * self.layout.rows as usize,
            false => self.matrix * self.stored_rows(operand),
        }
    }

    /// Rows that each matrix has in an operand that does not lie as the weight does.
    fn stored_rows(&self, operand: usize) -> usize {
        self.operands.shape(operand).0 / (self.layout.matrices as usize).max(1)
    }

    /// Whether the f32 of an operand are all that is known of it.
    fn is_single(&self, operand: usize) -> bool {
        self.precision == Precision::Single && self.operands.rank(operand).is_none()
    }

    fn turned_double(&mut self, operand: usize) -> Result<&[f64], Stop> {
        if self.double[operand].is_none() {
            let first = self.first_row(operand);
            let (rows, columns) = (self.layout.rows as usize, self.layout.columns as usize);
            let operands = &mut *self.operands;
            let read = |row, part: &mut [f64]| operands.read(operand, first + row, part);
            self.double[operand] = Some(turned_by_rows(rows, columns, read)?);
        }
        Ok(self.double[operand].as_deref().unwrap_or_default())
    }

    fn turned_single(&mut self, operand: usize) -> Result<&[f32], Stop> {
        if self.single[operand].is_none() {
            let first = self.first_row(operand);
            let (rows, columns) = (self.layout.rows as usize, self.layout.columns as usize);
            let operands = &mut *self.operands;
            let read = |row, part: &mut [f32]| operands.read_single(operand, first + row, part);
            self.single[operand] = Some(turned_by_rows(rows, columns, read)?);
        }
        Ok(self.single[operand].as_deref().unwrap_or_default())
    }
}

impl Operands for Seen<'_> {
    fn count(&self) -> usize {
        self.operands.count()
    }

    fn shape(&self, operand: usize) -> (usize, usize) {
        match self.is_weight(operand) {
            true => size(self.layout.shape()),
            false => {
                let columns = self.operands.shape(operand).1;
                let rows = self.stored_rows(operand);
                match self.op {
                    // Beneath the directions of a basis are zeros.
                    MatrixOp::OutOfBasis { experts } if operand == 1 => {
                        let (outputs, inputs) = size(self.layout.shape());
                        (rows.min(outputs).min(inputs.saturating_mul(*experts as usize)), columns)
                    }
                    _ => (rows, columns),
                }
            }
        }
    }

    fn read(&mut self, operand: usize, first_row: usize, values: &mut [f64]) -> Result<(), Stop> {
        if !self.is_turned(operand) {
            let first = self.first_row(operand);
            return self.operands.read(operand, first + first_row, values);
        }
        let start = first_row * self.shape(operand).1;
        let count = values.len();
        match self.is_single(operand) {
            true => {
                let all = &self.turned_single(operand)?[start..start + count];
                values.iter_mut().zip(all).for_each(|(to, &from)| *to = f64::from(from));
            }
            false => values.copy_from_slice(&self.turned_double(operand)?[start..start + count]),
        }
        Ok(())
    }

    fn read_single(
        &mut self,
        operand: usize,
        first_row: usize,
        values: &mut [f32],
    ) -> Result<(), Stop> {
        if !self.is_turned(operand) {
            let first = self.first_row(operand);
            return self.operands.read_single(operand, first + first_row, values);
        }
        let start = first_row * self.shape(operand).1;
        let count = values.len();
        values.copy_from_slice(&self.turned_single(operand)?[start..start + count]);
        Ok(())
    }

    fn rank(&self, operand: usize) -> Option<usize> {
        if self.layout.matrices == 1 { self.operands.rank(operand) } else { None }
    }

    fn factors(&mut self, operand: usize) -> Result<Factors, Stop> {
        let factors = self.operands.factors(operand)?;
        Ok(if self.is_turned(operand) { turned_factors(&factors) } else { factors })
    }

    fn noise(
        &mut self,
        operand: usize,
        first_row: usize,
        rows: usize,
    ) -> Result<Option<f64>, Stop> {
        let first = self.first_row(operand);
        // The bound of a transpose is that of the matrix, of which all rows are columns then.
        match self.is_turned(operand) {
            true => self.operands.noise(operand, first, self.layout.rows as usize),
            false => self.operands.noise(operand, first + first_row, rows),
        }
    }

    fn put_aside(&mut self, first: usize, numbers: &[f64]) -> Result<(), Stop> {
        self.operands.put_aside(first, numbers)
    }

    fn read_aside(&mut self, first: usize, numbers: &mut [f64]) -> Result<(), Stop> {
        self.operands.read_aside(first, numbers)
    }
}

/// The transpose of a product: the factors change places.
fn turned_factors(factors: &Factors) -> Factors {
    let turn = |matrix: &Matrix| Matrix {
        rows: matrix.columns,
        columns: matrix.rows,
        values: turned(&matrix.values, matrix.rows, matrix.columns),
    };
    Factors { left: turn(&factors.right), right: turn(&factors.left) }
}

fn turned<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut out = vec![T::default(); values.len()];
    for (row, from) in values.chunks_exact(columns.max(1)).enumerate() {
        for (column, &value) in from.iter().enumerate() {
            out[column * rows + row] = value;
        }
    }
    out
}

/// The transpose of a matrix of which `read` gives rows.
fn turned_by_rows<T: Copy + Default>(
    rows: usize,
    columns: usize,
    mut read: impl FnMut(usize, &mut [T]) -> Result<(), Stop>,
) -> Result<Vec<T>, Stop> {
    let mut out = vec![T::default(); rows * columns];
    let mut part = vec![T::default(); ROWS.min(rows) * columns];
    for first in (0..rows).step_by(ROWS) {
        let own = &mut part[..ROWS.min(rows - first) * columns];
        read(first, own)?;
        for (row, from) in own.chunks_exact(columns.max(1)).enumerate() {
            for (column, &value) in from.iter().enumerate() {
                out[column * rows + first + row] = value;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_twice_is_turning_nothing() {
        let values: Vec<f64> = (0..12).map(f64::from).collect();
        let once = turned(&values, 3, 4);
        assert_eq!(once[..4], [0.0, 4.0, 8.0, 1.0]);
        assert_eq!(turned(&once, 4, 3), values);
        let by_rows = turned_by_rows(3, 4, |row, part: &mut [f64]| {
            part.copy_from_slice(&values[row * 4..row * 4 + part.len()]);
            Ok(())
        });
        assert_eq!(by_rows.ok(), Some(once));
    }

    #[test]
    fn reports_of_matrices_are_one_of_the_tensor() {
        let report = |loss, norm, gap: f64, note: &str| Report {
            curve: Vec::new(),
            loss: Some((loss, loss / 2.0)),
            norm: Some(norm),
            ranks: vec![3],
            gap: Some(gap),
            noise: Vec::new(),
            notes: vec![note.to_owned()],
        };
        let all = summed([report(2.0, 3.0, 0.5, "a"), report(4.0, 4.0, 0.25, "a")].into_iter());
        assert_eq!((all.loss, all.norm, all.gap), (Some((6.0, 3.0)), Some(5.0), Some(0.25)));
        assert_eq!((all.ranks, all.notes), (vec![3, 3], vec!["a".to_owned()]));
    }
}
