//! All directions of one matrix with one singular value: the nearest orthonormal matrix, and Iso-C.

use faer::MatMut;
use faer::prelude::ReborrowMut;
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::dense::{
    add_product, append_rows, product, rows_of, scale_rows, squared_norm, view, zeros,
};
use super::directions::{Stack, least_singular};
use super::eigen::{complete, compose, eigen};
use super::gram::{left_gram, right_gram};
use super::product::{BLOCK_ROWS, LeftRows, Piece, Product, in_blocks};
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
pub(crate) fn isotropic(operands: &mut dyn Operands, fills: bool) -> Result<Isotropic, Stop> {
    let blend = match operands.count() {
        1 => Blend::one(0),
        count => Blend::each(count, 1.0),
    };
    let (rows, columns) = operands.shape(0);
    let is_left = rows <= columns;
    let gram = match is_left {
        true => left_gram(operands, &blend)?,
        false => right_gram(operands, &blend)?,
    };
    let vectors = eigen(&gram)?.vectors;
    drop(gram);
    let mut singular = norms_along(operands, &blend, &vectors, is_left)?;
    let size = singular.len();
    let least = least_singular(singular.iter().copied().fold(0.0, f64::max), rows.max(columns));
    singular.iter_mut().filter(|value| **value <= least).for_each(|value| *value = 0.0);
    let rank = singular.iter().filter(|&&value| value > 0.0).count();
    let count = if fills { size } else { rank };
    let mean = singular.iter().sum::<f64>() / count.max(1) as f64;
    let mut report = Report { ranks: vec![rank], ..Report::default() };
    report.norm = Some(mean * (count as f64).sqrt());
    let factors: Vec<f64> =
        singular.iter().map(|&value| if value > 0.0 { mean / value } else { 0.0 }).collect();
    let mut null = None;
    if fills && 0 < rank && rank < size {
        report.notes.push(format!(
            "{} of {size} directions have no energy and are filled with arbitrary ones of the same \
             weight",
            size - rank
        ));
        null = Some(null_directions(operands, &blend, &vectors, &singular, mean)?);
    }
    Ok(Isotropic { matrix: compose(&vectors, &factors), blend, is_left, null, report })
}

/// The norms of `Uᵀ·τ` or `τ·V` in each direction, some directions at a time.
fn norms_along(
    operands: &mut dyn Operands,
    blend: &Blend,
    vectors: &Matrix,
    is_left: bool,
) -> Result<Vec<f64>, Stop> {
    let mut squares = Vec::with_capacity(vectors.rows);
    if is_left {
        for (first, count) in panels(vectors.rows, TOGETHER) {
            let some = some_rows(vectors, first, count);
            let along = project(operands, blend, &some)?;
            squares.extend(along.values.chunks_exact(along.columns.max(1)).map(squared_norm));
        }
    } else {
        squares = vec![0.0; vectors.rows];
        for (first, count) in panels(operands.shape(0).0, PANEL) {
            let block = blend.block(operands, first, count)?;
            let along = product(view(&block), view(vectors).transpose());
            for row in along.values.chunks_exact(vectors.rows) {
                squares.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * value);
            }
        }
    }
    Ok(squares.into_iter().map(f64::sqrt).collect())
}

/// Directions that are projected at a time.
pub(crate) const TOGETHER: usize = 512;

fn some_rows(matrix: &Matrix, first: usize, rows: usize) -> Matrix {
    let values = matrix.values[first * matrix.columns..(first + rows) * matrix.columns].to_vec();
    Matrix { rows, columns: matrix.columns, values }
}

/// The larger side's directions as rows, first those with energy and then ones that complete them, and the smaller
/// side's null directions as rows, times the mean.
fn null_directions(
    operands: &mut dyn Operands,
    blend: &Blend,
    vectors: &Matrix,
    singular: &[f64],
    mean: f64,
) -> Result<Null, Stop> {
    let (rows, columns) = operands.shape(0);
    let (is_left, size) = (rows <= columns, singular.len());
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

/// `M·τ` or `τ·M`, and what fills null directions.
#[derive(Debug)]
pub(crate) struct Isotropic {
    matrix: Matrix,
    blend: Blend,
    is_left: bool,
    null: Option<Null>,
    report: Report,
}

impl Prepared for Isotropic {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let (all, columns) = operands.shape(0);
        in_blocks(columns, BLOCK_ROWS, first_row, values, |first, rows, values| {
            values.fill(0.0);
            let mut into = MatMut::from_row_major_slice_mut(values, rows, columns);
            if self.is_left {
                let own = rows_of(&self.matrix, first, rows);
                for (start, count) in panels(all, PANEL) {
                    let block = self.blend.block(operands, start, count)?;
                    add_product(into.rb_mut(), 1.0, own.subcols(start, count), view(&block));
                }
            } else {
                let block = self.blend.block(operands, first, rows)?;
                add_product(into.rb_mut(), 1.0, view(&block), view(&self.matrix));
            }
            if let Some(Null { whole, first: from, null }) = &self.null {
                let whole = rows_of(whole, *from, null.rows);
                match self.is_left {
                    true => {
                        let left = view(null).transpose().subrows(first, rows);
                        add_product(into, 1.0, left, whole);
                    }
                    false => {
                        let left = whole.transpose().subrows(first, rows);
                        add_product(into, 1.0, left, view(null));
                    }
                }
            }
            Ok((0.0, 0.0))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

/// All directions of the first operand; null ones have singular value 0.
pub(crate) fn directions(operands: &mut dyn Operands) -> Result<Stack, Stop> {
    let (rows, columns) = operands.shape(0);
    let blend = Blend::one(0);
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
