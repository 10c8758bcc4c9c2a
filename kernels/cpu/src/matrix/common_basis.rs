//! KnOTS: task vectors in a common basis of their columns.

use faer::MatMut;
use mixdown_ops::matrix::spectral::{BasisMerge, CommonBasis};
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};
use mixdown_ops::random::{keep_below, stream_key, uniform_bits};

use super::dense::{
    add_product, add_scaled, first_rows, mirror, scale_rows, transposed, view, zeros,
};
use super::eigen::{Eigen, eigen};
use super::gram::add_left_gram;
use super::product::{LeftRows, Piece, Product, Sum};
use super::rows::{Blend, PANEL, panels, project};

/// `U·merge(R_1 … R_N)` with `[τ_1 … τ_N] = U·[R_1 … R_N]`.
///
/// **Shapes.** N operands `m × n`; the result has their shape.
/// **Numerics.** Directions below `√(ε·max(m, N·n))·σ_1` are dropped: less cannot be told from 0 in a
/// Gram matrix. Elementwise merges do not depend on the signs
/// of singular vectors, but do on their choice among equal singular values.
/// **Source.** Stoica et al. 2025 (KnOTS). Its code drops below 1e-5, absolutely.
pub(crate) fn prepare(
    op: &CommonBasis,
    operands: &mut dyn Operands,
) -> Result<Box<dyn Prepared>, Stop> {
    let weights: Vec<f64> = op.weights.iter().map(|weight| weight.get()).collect();
    if op.merge == BasisMerge::Sum {
        // The basis cancels: U·Σ w_i·R_i is Σ w_i·τ_i.
        let blend = Blend::weighted(weights);
        return Ok(Box::new(Sum { blend, report: Report::default() }));
    }
    let (rows, columns) = operands.shape(0);
    let (left, coordinates, rank) = match rows <= operands.count() * columns {
        true => by_left(operands)?,
        false => by_right(operands)?,
    };
    let right = merge(op.merge, &weights, coordinates);
    let report = Report { ranks: vec![rank], ..Report::default() };
    Ok(Box::new(Product { left, right, report }))
}

type Basis = (LeftRows, Vec<Matrix>, usize);

/// From `Σ τ_i·τ_iᵀ`.
fn by_left(operands: &mut dyn Operands) -> Result<Basis, Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let mut gram = zeros(rows, rows);
    for operand in 0..count {
        add_left_gram(operands, &Blend::one(operand), &mut gram)?;
    }
    mirror(&mut gram);
    let Eigen { values, vectors } = eigen(&gram)?;
    let rank = nonzero(&values, rows.max(count * columns));
    let vectors = first_rows(vectors, rank);
    let mut coordinates = Vec::new();
    for operand in 0..count {
        coordinates.push(project(operands, &Blend::one(operand), &vectors)?);
    }
    Ok((LeftRows::Held(transposed(&vectors)), coordinates, rank))
}

/// From the blocks `τ_iᵀ·τ_j`, where together they have fewer columns than rows.
fn by_right(operands: &mut dyn Operands) -> Result<Basis, Stop> {
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
    let Eigen { values, vectors } = eigen(&gram)?;
    let rank = nonzero(&values, rows.max(size));
    let (mut pieces, mut coordinates) = (Vec::new(), Vec::new());
    for operand in 0..count {
        let mut part = zeros(rank, columns);
        for row in 0..rank {
            let start = row * size + operand * columns;
            part.values[row * columns..(row + 1) * columns]
                .copy_from_slice(&vectors.values[start..start + columns]);
        }
        let mut directions = part.clone();
        scale_rows(&mut directions, |row| 1.0 / values[row].sqrt());
        pieces.push(Piece { blend: Blend::one(operand), offset: 0, directions });
        scale_rows(&mut part, |row| values[row].sqrt());
        coordinates.push(part);
    }
    Ok((LeftRows::Read { pieces, rank }, coordinates, rank))
}

/// Eigenvalues above what rounding leaves of a zero: the coordinates of other directions are noise, which
/// would count among those that are trimmed.
fn nonzero(values: &[f64], sides: usize) -> usize {
    let least = values.first().map_or(0.0, |first| first.max(0.0) * sides as f64 * f64::EPSILON);
    values.iter().take_while(|&&value| value > least).count()
}

fn merge(how: BasisMerge, weights: &[f64], mut coordinates: Vec<Matrix>) -> Matrix {
    match how {
        BasisMerge::Sum => {}
        BasisMerge::Ties { density } => {
            coordinates.iter_mut().for_each(|one| trim(&mut one.values, density.get()));
        }
        BasisMerge::DareLinear { density, key } | BasisMerge::DareTies { density, key } => {
            for (expert, one) in coordinates.iter_mut().enumerate() {
                // Streams of neighboring keys hold the same numbers in another order.
                let key = stream_key(key, "common_basis", "", expert as u64);
                drop_at_random(&mut one.values, density.get(), key);
            }
        }
    }
    let mut merged = zeros(coordinates[0].rows, coordinates[0].columns);
    match how {
        BasisMerge::Sum | BasisMerge::DareLinear { .. } => {
            for (one, &weight) in coordinates.iter().zip(weights) {
                add_scaled(&mut merged.values, weight, &one.values);
            }
        }
        BasisMerge::Ties { .. } | BasisMerge::DareTies { .. } => {
            mean_of_agreeing(&coordinates, weights, &mut merged.values);
        }
    }
    merged
}

/// Keeps elements at or above the `(d − ⌊density·d⌋)`-th smallest magnitude, as the paper's code does:
/// one more than the share, and all equal ones.
fn trim(values: &mut [f64], density: f64) {
    let kept = (values.len() as f64 * density) as usize;
    let position = values.len().saturating_sub(kept);
    if position == 0 {
        return;
    }
    let mut magnitudes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
    let (_, &mut threshold, _) = magnitudes.select_nth_unstable_by(position - 1, f64::total_cmp);
    values.iter_mut().filter(|value| value.abs() < threshold).for_each(|value| *value = 0.0);
}

fn drop_at_random(values: &mut [f64], density: f64, key: u64) {
    let below = keep_below(density);
    for (index, value) in values.iter_mut().enumerate() {
        let is_kept = u64::from(uniform_bits(key, index as u64)) < below;
        *value = if is_kept { *value / density } else { 0.0 };
    }
}

/// One sign for each element from the weighted sum, of most elements where it is 0; the weighted mean
/// of the elements that have it.
fn mean_of_agreeing(experts: &[Matrix], weights: &[f64], merged: &mut [f64]) {
    for (one, &weight) in experts.iter().zip(weights) {
        add_scaled(merged, weight, &one.values);
    }
    let balance: f64 = merged.iter().map(|sum| sign(*sum)).sum();
    for (index, merged) in merged.iter_mut().enumerate() {
        let elected = if *merged == 0.0 { sign(balance) } else { sign(*merged) };
        let (mut sum, mut total) = (0.0, 0.0);
        for (one, &weight) in experts.iter().zip(weights) {
            let value = weight * one.values[index];
            if value != 0.0 && sign(value) == elected {
                sum += value;
                total += weight;
            }
        }
        *merged = if total == 0.0 { 0.0 } else { sum / total };
    }
}

fn sign(value: f64) -> f64 {
    if value > 0.0 {
        1.0
    } else if value < 0.0 {
        -1.0
    } else {
        0.0
    }
}
