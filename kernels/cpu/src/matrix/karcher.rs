//! The Karcher mean of points on a sphere: iterated on the table of their products, because all steps stay
//! within the plane that the points span.

use mixdown_ops::matrix::axes::Karcher;
use mixdown_ops::matrix::{Matrix, Operands, Stop};

use super::axes::rows_together;
use super::dense::dot;
use super::rows::panels;
use super::spectrum::Square;

/// What each operand counts in the mean of all, which has the mean of their lengths.
///
/// **Shapes.** N operands `m × n`; the result is `N × 1`.
/// **Numerics.** Products in f64; the mean is `Σ c·u` over unit vectors u, and c moves by the table of products
/// alone.
/// **Source.** mergekit 0.1.5, `karcher`.
pub(crate) fn prepare(op: &Karcher, operands: &mut dyn Operands) -> Result<Square, Stop> {
    let count = operands.count();
    let table = products(operands)?;
    if !table.values.iter().all(|value| value.is_finite()) {
        return Err(Stop::Failed("an operand has a NaN or an infinity".into()));
    }
    Ok(Square(Matrix { rows: count, columns: 1, values: weights(op, &table) }))
}

/// The products of all pairs.
fn products(operands: &mut dyn Operands) -> Result<Matrix, Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let mut table = Matrix { rows: count, columns: count, values: vec![0.0; count * count] };
    for (first, rows) in panels(rows, rows_together(columns)) {
        let mut read = vec![vec![0.0; rows * columns]; count];
        for (operand, values) in read.iter_mut().enumerate() {
            operands.read(operand, first, values)?;
        }
        for left in 0..count {
            for right in left..count {
                table.values[left * count + right] += dot(&read[left], &read[right]);
            }
        }
    }
    for left in 0..count {
        for right in 0..left {
            table.values[left * count + right] = table.values[right * count + left];
        }
    }
    Ok(table)
}

/// The weights of the vectors, from the table of their products.
fn weights(op: &Karcher, table: &Matrix) -> Vec<f64> {
    let count = table.rows;
    let tol = op.tol.get();
    let length: Vec<f64> =
        (0..count).map(|i| table.values[i * count + i].max(0.0).sqrt()).collect();
    if count == 1 {
        return vec![1.0];
    }
    let kept: Vec<usize> = (0..count).filter(|&i| length[i] > tol).collect();
    let mut weights = vec![0.0; count];
    if kept.is_empty() {
        return weights;
    }
    let cosines: Vec<Vec<f64>> = kept
        .iter()
        .map(|&i| {
            let row = kept.iter().map(|&j| table.values[i * count + j] / (length[i] * length[j]));
            row.collect()
        })
        .collect();
    let share = 1.0 / kept.len() as f64;
    let mut mean = vec![share; kept.len()];
    let first = norm(&cosines, &mean);
    if first < tol {
        mean.fill(0.0);
        mean[0] = 1.0;
    } else {
        mean.iter_mut().for_each(|part| *part /= first);
    }
    for _ in 0..op.max_iter {
        if !step(&cosines, &mut mean, share, tol) {
            break;
        }
    }
    let radius = length.iter().sum::<f64>() / count as f64;
    for (part, &i) in mean.iter().zip(&kept) {
        weights[i] = radius * part / length[i];
    }
    weights
}

/// Goes along the mean tangent; false where it vanishes.
fn step(cosines: &[Vec<f64>], mean: &mut [f64], share: f64, tol: f64) -> bool {
    let mut tangent = vec![0.0; mean.len()];
    for (i, row) in cosines.iter().enumerate() {
        let cosine = row.iter().zip(&*mean).map(|(a, b)| a * b).sum::<f64>().clamp(-1.0, 1.0);
        let angle = cosine.acos();
        if angle < tol {
            continue;
        }
        let sine = angle.sin();
        // Opposite points have no shortest way between them.
        if sine == 0.0 {
            continue;
        }
        let factor = share * angle / sine;
        tangent[i] += factor;
        tangent.iter_mut().zip(&*mean).for_each(|(part, own)| *part -= factor * cosine * own);
    }
    let length = norm(cosines, &tangent);
    if length < tol || !length.is_finite() {
        return false;
    }
    let (sine, cosine) = length.sin_cos();
    for (own, part) in mean.iter_mut().zip(&tangent) {
        *own = cosine * *own + sine * part / length;
    }
    let length = norm(cosines, mean);
    if length > tol {
        mean.iter_mut().for_each(|part| *part /= length);
    }
    true
}

/// The length of `Σ c·u` by the products of the unit vectors u.
fn norm(cosines: &[Vec<f64>], parts: &[f64]) -> f64 {
    let square: f64 = cosines
        .iter()
        .zip(parts)
        .map(|(row, own)| own * row.iter().zip(parts).map(|(a, b)| a * b).sum::<f64>())
        .sum();
    square.max(0.0).sqrt()
}
