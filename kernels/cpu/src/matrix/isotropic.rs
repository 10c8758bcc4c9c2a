//! All directions of one matrix with one singular value: the nearest orthonormal matrix, and Iso-C.

use mixdown_ops::matrix::{Matrix, Operands, Report, Stop};

use super::dense::{scale_rows, transposed, zeros};
use super::directions::Stack;
use super::eigen::{completion, eigen};
use super::gram::{left_gram, right_gram};
use super::product::{LeftRows, Piece, Product};
use super::rows::{Blend, PANEL, panels, project};

/// `U·Vᵀ` of one matrix.
///
/// **Shapes.** One operand `m × n`; the result has its shape, orthonormal rows or columns where the
/// operand has full rank, and its rank otherwise.
/// **Numerics.** Singular values below 1.5e-8·σ_1 count as 0 and their directions stay empty.
/// **Source.** Polar decomposition; Muon and others use the same matrix.
pub(crate) fn polar(operands: &mut dyn Operands) -> Result<Product, Stop> {
    let stack = directions(operands)?;
    let rank = stack.singular.iter().filter(|&&value| value > 0.0).count();
    let mut report = Report { ranks: vec![rank], ..Report::default() };
    if rank < stack.singular.len() {
        report.notes.push(format!(
            "{} of {} singular values are zero; their directions stay empty",
            stack.singular.len() - rank,
            stack.singular.len()
        ));
    }
    report.norm = Some((rank as f64).sqrt());
    let ones = vec![1.0; stack.singular.len()];
    Ok(stack.with_values(&ones, report))
}

/// `s̄·U·Vᵀ` of the sum of all operands, with s̄ the mean of its singular values.
///
/// **Shapes.** Operands `m × n`, the task vectors or their sum; the result has their shape.
/// **Parameters.** `fills`: whether the mean is over all `p` singular values and null directions are
/// filled with an arbitrary orthonormal basis, always the same one. Otherwise the mean is over those
/// above 1.5e-8·σ_1, and the others stay empty.
/// **Source.** Marczak et al. 2025 (Iso-C). The paper fills.
pub(crate) fn isotropic(operands: &mut dyn Operands, fills: bool) -> Result<Product, Stop> {
    let sum = match operands.count() {
        1 => Blend::one(0),
        count => Blend::each(count, 1.0),
    };
    let stack = directions_of(operands, sum)?;
    let size = stack.singular.len();
    let rank = stack.singular.iter().filter(|&&value| value > 0.0).count();
    let count = if fills { size } else { rank };
    let mean = stack.singular.iter().sum::<f64>() / count.max(1) as f64;
    let mut report = Report { ranks: vec![rank], ..Report::default() };
    report.norm = Some(mean * (count as f64).sqrt());
    if fills && 0 < rank && rank < size {
        report.notes.push(format!(
            "{} of {size} directions have no energy and are filled with arbitrary ones of the same \
             weight",
            size - rank
        ));
        return filled(operands, stack, mean, report);
    }
    Ok(stack.with_values(&vec![mean; size], report))
}

/// All directions of the first operand; null ones have singular value 0.
pub(crate) fn directions(operands: &mut dyn Operands) -> Result<Stack, Stop> {
    directions_of(operands, Blend::one(0))
}

/// All directions of a sum of operands; null ones have singular value 0.
fn directions_of(operands: &mut dyn Operands, blend: Blend) -> Result<Stack, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut stack = if rows <= columns {
        let left = eigen(&left_gram(operands, &blend)?)?.vectors;
        let right = project(operands, &blend, &left)?;
        Stack::of_left(left, right)
    } else {
        let right = eigen(&right_gram(operands, &blend)?)?.vectors;
        let pieces = vec![Piece { blend, offset: 0, directions: right.clone() }];
        Stack::of_right(operands, LeftRows::Read { pieces, rank: columns }, right)?
    };
    let size = stack.singular.len();
    let whole = 0..size;
    stack.drop_null(std::slice::from_ref(&whole), rows.max(columns));
    Ok(stack)
}

/// With null directions filled in.
fn filled(
    operands: &mut dyn Operands,
    stack: Stack,
    mean: f64,
    report: Report,
) -> Result<Product, Stop> {
    let is_null: Vec<bool> = stack.singular.iter().map(|&value| value == 0.0).collect();
    let rows = operands.shape(0).0;
    match stack.left {
        LeftRows::Held(_) => {
            let singular = stack.singular;
            let mut right = stack.right;
            scale_rows(&mut right, |row| if is_null[row] { 0.0 } else { 1.0 / singular[row] });
            fill(&mut right, &is_null)?;
            scale_rows(&mut right, |_| mean);
            Ok(Product { left: stack.left, right, report })
        }
        LeftRows::Read { .. } => {
            let size = stack.singular.len();
            let mut left = zeros(rows, size);
            for (first, count) in panels(rows, PANEL) {
                let block = stack.left.block(operands, first, count)?;
                let values = &mut left.values[first * size..(first + count) * size];
                values.copy_from_slice(&block.values);
            }
            let mut left = transposed(&left);
            scale_rows(&mut left, |row| if is_null[row] { 0.0 } else { 1.0 / stack.singular[row] });
            fill(&mut left, &is_null)?;
            let mut right = stack.right;
            scale_rows(&mut right, |_| mean);
            Ok(Product { left: LeftRows::Held(transposed(&left)), right, report })
        }
    }
}

/// Replaces null rows by ones that complete the others to an orthonormal set.
fn fill(rows: &mut Matrix, is_null: &[bool]) -> Result<(), Stop> {
    let mut given = zeros(0, rows.columns);
    for (row, _) in is_null.iter().enumerate().filter(|(_, is_null)| !**is_null) {
        given.values.extend_from_slice(&rows.values[row * rows.columns..(row + 1) * rows.columns]);
        given.rows += 1;
    }
    let nulls: Vec<usize> = (0..rows.rows).filter(|&row| is_null[row]).collect();
    let extra = completion(&given, nulls.len())?;
    for (from, row) in nulls.into_iter().enumerate() {
        let width = rows.columns;
        rows.values[row * width..(row + 1) * width]
            .copy_from_slice(&extra.values[from * width..(from + 1) * width]);
    }
    Ok(())
}
