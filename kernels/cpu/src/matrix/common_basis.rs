//! The basis that the columns of several matrices share, what they are in it, and the way back: KnOTS.

use faer::MatMut;
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::dense::{
    add_product, check_finite, first_rows, mirror, rows_of, transposed, view, zeros,
};
use super::eigen::{Eigen, eigen};
use super::gram::add_left_gram;
use super::product::{LeftRows, Product, in_blocks};
use super::rows::{Blend, PANEL, panels, project};

/// Directions that are computed at a time: each block of them reads all operands once.
pub(crate) const BASIS_ROWS: usize = 512;

/// With `[τ_1 … τ_N] = U·[R_1 … R_N]`, one row for each column of U: of every `R_i`, the column, and 1.
#[derive(Debug)]
struct CommonBasis {
    directions: Directions,
    /// Those with energy, which come first.
    rank: usize,
    columns: usize,
}

#[derive(Debug)]
enum Directions {
    /// Columns of U as rows.
    Left(Matrix),
    /// Rows of `[V_1ᵀ … V_Nᵀ]`, and singular values.
    Right(Matrix, Vec<f64>),
}

/// **Shapes.** N operands `m × n`; the result is `min(m, N·n) × (N·n + m + 1)`.
/// **Numerics.** Directions below √(s·ε)·σ_1 are zero, with a 0 in the last column; s is the larger of m and
/// N·n. Signs of directions are arbitrary, and so are they themselves among equal singular values.
/// **Source.** Stoica et al. 2025 (KnOTS). Its code drops below 1e-5, absolutely.
pub(crate) fn prepare(operands: &mut dyn Operands) -> Result<Box<dyn Prepared>, Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let is_left = rows <= count * columns;
    let gram = if is_left { left_gram(operands)? } else { right_gram(operands)? };
    let Eigen { values, vectors } = eigen(&gram)?;
    let rank = nonzero(&values, rows.max(count * columns));
    let vectors = first_rows(vectors, rank);
    let sigma = values[..rank].iter().map(|value| value.sqrt()).collect();
    let directions =
        if is_left { Directions::Left(vectors) } else { Directions::Right(vectors, sigma) };
    Ok(Box::new(CommonBasis { directions, rank, columns: count * columns + rows + 1 }))
}

/// `Σ τ_i·τ_iᵀ`.
fn left_gram(operands: &mut dyn Operands) -> Result<Matrix, Stop> {
    let rows = operands.shape(0).0;
    let mut gram = zeros(rows, rows);
    for operand in 0..operands.count() {
        add_left_gram(operands, &Blend::one(operand), &mut gram)?;
    }
    mirror(&mut gram);
    Ok(gram)
}

/// The blocks `τ_iᵀ·τ_j`.
fn right_gram(operands: &mut dyn Operands) -> Result<Matrix, Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let size = count * columns;
    let mut gram = zeros(size, size);
    for (first, height) in panels(rows, PANEL) {
        let mut blocks = Vec::new();
        for operand in 0..count {
            blocks.push(Blend::one(operand).block(operands, first, height)?);
        }
        for (a, left) in blocks.iter().enumerate() {
            for (b, right) in blocks.iter().enumerate().take(a + 1) {
                let whole = MatMut::from_row_major_slice_mut(&mut gram.values, size, size);
                let part = whole.submatrix_mut(a * columns, b * columns, columns, columns);
                add_product(part, 1.0, view(left).transpose(), view(right));
            }
        }
    }
    mirror(&mut gram);
    Ok(gram)
}

/// Directions that are there. How many counts where shares of them are taken, so that rounding noise in the
/// eigenvalues, up to ε·λ_1 for each row of the Gram matrix, must not be among them.
fn nonzero(values: &[f64], sides: usize) -> usize {
    let least = values.first().map_or(0.0, |first| first.max(0.0) * sides as f64 * f64::EPSILON);
    values.iter().take_while(|&&value| value > least).count()
}

impl CommonBasis {
    /// What rows from `first` on hold, in columns of these positions.
    fn block(
        &self,
        operands: &mut dyn Operands,
        first: usize,
        values: &mut [f64],
    ) -> Result<(), Stop> {
        let (rows, columns) = operands.shape(0);
        let (count, width) = (operands.count(), self.columns);
        values.fill(0.0);
        let found = (values.len() / width).min(self.rank.saturating_sub(first));
        let mut put = |row: usize, at: usize, from: &[f64]| {
            values[row * width + at..row * width + at + from.len()].copy_from_slice(from);
        };
        for row in 0..found {
            put(row, width - 1, &[1.0]);
        }
        let basis_at = count * columns;
        match &self.directions {
            Directions::Left(vectors) => {
                let own = vectors.values[first * rows..(first + found) * rows].to_vec();
                let own = Matrix { rows: found, columns: rows, values: own };
                for row in 0..found {
                    put(row, basis_at, &own.values[row * rows..(row + 1) * rows]);
                }
                for operand in 0..count {
                    let one = project(operands, &Blend::one(operand), &own)?;
                    for row in 0..found {
                        let from = &one.values[row * columns..(row + 1) * columns];
                        put(row, operand * columns, from);
                    }
                }
            }
            Directions::Right(vectors, sigma) => {
                let size = vectors.columns;
                for row in 0..found {
                    let own = &vectors.values[(first + row) * size..(first + row + 1) * size];
                    let scaled: Vec<f64> =
                        own.iter().map(|value| value * sigma[first + row]).collect();
                    put(row, 0, &scaled);
                }
                for (start, height) in panels(rows, PANEL) {
                    // Columns of U·Σ, for a panel of its rows.
                    let mut part = zeros(height, found);
                    for operand in 0..count {
                        let block = Blend::one(operand).block(operands, start, height)?;
                        let own =
                            rows_of(vectors, first, found).subcols(operand * columns, columns);
                        let into =
                            MatMut::from_row_major_slice_mut(&mut part.values, height, found);
                        add_product(into, 1.0, view(&block), own.transpose());
                    }
                    for (at, values) in part.values.chunks(found.max(1)).enumerate() {
                        for (row, value) in values.iter().enumerate() {
                            put(row, basis_at + start + at, &[value / sigma[first + row]]);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl Prepared for CommonBasis {
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        in_blocks(self.columns, BASIS_ROWS, first_row, values, |first, _, values| {
            self.block(operands, first, values)?;
            Ok((0.0, 0.0))
        })
    }

    fn report(&self) -> Report {
        Report { ranks: vec![self.rank], ..Report::default() }
    }
}

/// What has these coordinates in a basis.
///
/// **Shapes.** Coordinates `m × n`, of which the first `p` rows count; the basis, columns as rows, `p × m`;
/// the result is `m × n`.
pub(crate) fn way_back(operands: &mut dyn Operands) -> Result<Product, Stop> {
    let (directions, rows) = operands.shape(1);
    let columns = operands.shape(0).1;
    let mut basis = zeros(directions, rows);
    operands.read(1, 0, &mut basis.values)?;
    check_finite(&basis.values, "a basis")?;
    let left = LeftRows::Held(transposed(&basis));
    drop(basis);
    let mut right = zeros(directions, columns);
    operands.read(0, 0, &mut right.values)?;
    Ok(Product { left, right, report: Report::default() })
}
