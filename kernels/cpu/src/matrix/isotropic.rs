//! All directions of one matrix with one singular value: the nearest orthonormal matrix, and Iso-C.

use faer::MatMut;
use faer::prelude::ReborrowMut;
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::dense::{add_product, append_rows, product, rows_of, scale_rows, view, zeros};
use super::eigen::complete;
use super::product::{BLOCK_ROWS, in_blocks};
use super::rows::{Blend, PANEL, panels, project};
use super::smaller_side::{Reweighed, SmallerSide, TOGETHER, some_rows};

/// `U·Vᵀ` of one matrix.
///
/// **Shapes.** One operand `m × n`; the result has its shape, orthonormal rows or columns where the
/// operand has full rank, and its rank otherwise.
/// **Numerics.** Singular values below 1.5e-8·σ_1 count as 0 and their directions stay empty.
/// **Source.** Polar decomposition; Muon and others use the same matrix.
pub(crate) fn polar(operands: &mut dyn Operands) -> Result<Reweighed, Stop> {
    let side = SmallerSide::of(operands, Blend::one(0))?;
    let (rank, size) = (side.rank(), side.singular.len());
    let mut report = Report { ranks: vec![rank], ..Report::default() };
    if rank < size {
        report.notes.push(format!(
            "{} of {size} singular values are zero; their directions stay empty",
            size - rank
        ));
    }
    report.norm = Some((rank as f64).sqrt());
    Ok(side.with_values(&vec![1.0; size], report))
}

/// `s̄·U·Vᵀ` of the sum of all operands, with s̄ the mean of its singular values.
///
/// **Shapes.** Operands `m × n`, the task vectors or their sum; the result has their shape.
/// **Parameters.** `fills`: whether the mean is over all `p` singular values and null directions are
/// filled with an arbitrary orthonormal basis, always the same one. Otherwise the mean is over those
/// above 1.5e-8·σ_1, and the others stay empty.
/// **Source.** Marczak et al. 2025 (Iso-C). The paper fills.
pub(crate) fn isotropic(operands: &mut dyn Operands, fills: bool) -> Result<Isotropic, Stop> {
    let blend = match operands.count() {
        1 => Blend::one(0),
        count => Blend::each(count, 1.0),
    };
    let side = SmallerSide::of(operands, blend)?;
    let (rank, size) = (side.rank(), side.singular.len());
    let count = if fills { size } else { rank };
    let mean = side.singular.iter().sum::<f64>() / count.max(1) as f64;
    let mut report = Report { ranks: vec![rank], ..Report::default() };
    report.norm = Some(mean * (count as f64).sqrt());
    let mut null = None;
    if fills && 0 < rank && rank < size {
        report.notes.push(format!(
            "{} of {size} directions have no energy and are filled with arbitrary ones of the same \
             weight",
            size - rank
        ));
        null = Some(null_directions(operands, &side, mean)?);
    }
    Ok(Isotropic { found: side.with_values(&vec![mean; size], report), null })
}

/// The larger side's directions as rows, first those with energy and then ones that complete them, and the smaller
/// side's null directions as rows, times the mean.
fn null_directions(
    operands: &mut dyn Operands,
    side: &SmallerSide,
    mean: f64,
) -> Result<Null, Stop> {
    let (rows, columns) = operands.shape(0);
    let SmallerSide { blend, vectors, singular, is_left } = side;
    let (is_left, size) = (*is_left, singular.len());
    let is_null: Vec<bool> = singular.iter().map(|&value| value == 0.0).collect();
    let of = |wanted: bool| {
        let mut some = zeros(0, vectors.columns);
        let rows = vectors.values.chunks_exact(vectors.columns).zip(&is_null);
        for (row, _) in rows.filter(|(_, is_null)| **is_null == wanted) {
            some.values.extend_from_slice(row);
            some.rows += 1;
        }
        some
    };
    let found = of(false);
    let kept: Vec<f64> = singular.iter().copied().filter(|&value| value > 0.0).collect();
    let mut whole = Matrix { rows: 0, columns: rows.max(columns), values: Vec::new() };
    whole.values.reserve_exact(size * whole.columns);
    for (first, count) in panels(found.rows, TOGETHER) {
        let some = some_rows(&found, first, count);
        let mut along = match is_left {
            true => project(operands, blend, &some)?,
            false => {
                let mut along = zeros(count, rows);
                for (start, height) in panels(rows, PANEL) {
                    let block = blend.block(operands, start, height)?;
                    let part = product(view(&some), view(&block).transpose());
                    for (to, from) in
                        along.values.chunks_exact_mut(rows).zip(part.values.chunks(height))
                    {
                        to[start..start + height].copy_from_slice(from);
                    }
                }
                along
            }
        };
        scale_rows(&mut along, |row| 1.0 / kept[first + row]);
        append_rows(&mut whole, &along);
    }
    let first = whole.rows;
    complete(&mut whole, size - first)?;
    let mut null = of(true);
    scale_rows(&mut null, |_| mean);
    Ok(Null { whole, first, null })
}

/// Directions without energy.
#[derive(Debug)]
struct Null {
    /// Rows as long as the larger side.
    whole: Matrix,
    /// The first of those without energy.
    first: usize,
    /// As many rows as long as the smaller side, times the mean.
    null: Matrix,
}

/// One singular value for all directions, and what fills those without energy.
#[derive(Debug)]
pub(crate) struct Isotropic {
    found: Reweighed,
    null: Option<Null>,
}

impl Prepared for Isotropic {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let columns = operands.shape(0).1;
        in_blocks(columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            values.fill(0.0);
            let mut into = MatMut::from_row_major_slice_mut(values, rows, columns);
            self.found.add_rows(operands, first, into.rb_mut())?;
            if let Some(Null { whole, first: from, null }) = &self.null {
                let whole = rows_of(whole, *from, null.rows);
                let (left, right) = match self.found.is_left {
                    true => (view(null).transpose(), whole),
                    false => (whole.transpose(), view(null)),
                };
                add_product(into, 1.0, left.subrows(first, rows), right);
            }
            Ok((0.0, 0.0))
        })
    }

    fn report(&self) -> Report {
        self.found.report()
    }
}
