//! OrthoMerge.

use mixdown_ops::matrix::joint::Rotations;
use mixdown_ops::matrix::{Matrix, Report, Stop};

use super::super::dense::{
    add_scaled, dot, product, row_gram, squared_norm, transposed, view, zeros,
};
use super::super::eigen::{cholesky, solve_rows};
use super::svd::{is_reflection, svd};
use super::{Whole, sum_of};

/// Above this norm a generator stands for turns so near to a half that rounding decides.
const NEAR_HALF_TURN: f64 = 10.0;

/// **Shapes.** The base `m × n` and N task vectors; the result is a task vector `m × n`.
/// **Parameters.** The rotation is on the side that has fewer dimensions, where it is determined.
/// **Numerics.** f64. The nearest rotation, never a reflection: where the nearest orthogonal matrix reflects, its
/// last direction is turned around. Cayley transforms solve symmetric systems, `(2 + R + Rᵀ)·Q = R − Rᵀ` and
/// `(1 + QᵀQ)·R = (1 + Q)²`.
/// **Source.** OrthoMerge (arXiv:2602.05943). Its code turns the inputs in any case, and takes reflections, which
/// have no Cayley transform.
pub(super) fn merge(op: &Rotations, base: &Matrix, taus: &[Matrix]) -> Result<Whole, Stop> {
    let (rows, columns) = (base.rows, base.columns);
    let is_left = rows < columns;
    let side = rows.min(columns);
    let turned = |rotation: &Matrix| match is_left {
        true => product(view(rotation), view(base)),
        false => product(view(base), view(rotation)),
    };
    let mean = sum_of(taus, 1.0 / taus.len() as f64);
    let mut sum = zeros(side, side);
    let mut sizes = 0.0;
    let mut rest = zeros(rows, columns);
    let mut report = Report::default();
    for (expert, tau) in taus.iter().enumerate() {
        let mut target = if op.conflict { conflicting(tau, &mean) } else { tau.clone() };
        add_scaled(&mut target.values, 1.0, &base.values);
        let between = match is_left {
            true => product(view(&target), view(base).transpose()),
            false => product(view(base).transpose(), view(&target)),
        };
        let generator = generator(&rotation(&between)?)?;
        add_scaled(&mut rest.values, 1.0, &base.values);
        add_scaled(&mut rest.values, 1.0, &tau.values);
        add_scaled(&mut rest.values, -1.0, &turned(&cayley(&generator)?).values);
        let size = squared_norm(&generator.values).sqrt();
        if size > NEAR_HALF_TURN {
            report.notes.push(format!("expert {expert} is turned by nearly a half from the base"));
        }
        sizes += size;
        add_scaled(&mut sum.values, 1.0, &generator.values);
    }
    let length = squared_norm(&sum.values).sqrt();
    let factor = match length < 1e-8 {
        true => 0.0,
        false => sizes / taus.len() as f64 / length,
    };
    sum.values.iter_mut().for_each(|value| *value *= factor);
    let mut result = turned(&cayley(&sum)?);
    add_scaled(&mut result.values, op.rest.get(), &rest.values);
    add_scaled(&mut result.values, -1.0, &base.values);
    Whole::new(result, report)
}

/// The rows of a task vector that go against the mean.
fn conflicting(tau: &Matrix, mean: &Matrix) -> Matrix {
    let mut rows = tau.clone();
    let length = |row: &[f64]| squared_norm(row).sqrt().max(1e-6);
    for (row, mean) in rows.values.chunks_mut(tau.columns).zip(mean.values.chunks(tau.columns)) {
        if dot(row, mean) / (length(row) * length(mean)) >= 0.0 {
            row.fill(0.0);
        }
    }
    rows
}

/// The rotation that is nearest to a square matrix.
fn rotation(between: &Matrix) -> Result<Matrix, Stop> {
    let found = svd(between)?;
    let mut factors = vec![1.0; found.values.len()];
    let nearest = found.with(&factors);
    if !is_reflection(&nearest)? {
        return Ok(nearest);
    }
    if let Some(last) = factors.last_mut() {
        *last = -1.0;
    }
    Ok(found.with(&factors))
}

/// `(R + 1)⁻¹·(R − 1)` of a rotation: skew.
fn generator(rotation: &Matrix) -> Result<Matrix, Stop> {
    let n = rotation.rows;
    let back = transposed(rotation);
    let mut system = rotation.clone();
    add_scaled(&mut system.values, 1.0, &back.values);
    (0..n).for_each(|at| system.values[at * n + at] += 2.0);
    // The transpose of what is wanted, which is −1 times it.
    let mut skew = back;
    add_scaled(&mut skew.values, -1.0, &rotation.values);
    let (lower, _) = cholesky(&system)
        .map_err(|_| Stop::Failed("an expert is turned by a half from the base".into()))?;
    solve_rows(&lower, &mut skew);
    let mut generator = zeros(n, n);
    for row in 0..n {
        for column in 0..n {
            let found = (skew.values[column * n + row] - skew.values[row * n + column]) / 2.0;
            generator.values[row * n + column] = found;
        }
    }
    Ok(generator)
}

/// `(1 − Q)⁻¹·(1 + Q)` of a skew matrix: a rotation.
fn cayley(generator: &Matrix) -> Result<Matrix, Stop> {
    let n = generator.rows;
    let mut system = row_gram(view(generator));
    let mut plus = generator.clone();
    (0..n).for_each(|at| {
        system.values[at * n + at] += 1.0;
        plus.values[at * n + at] += 1.0;
    });
    let (lower, _) = cholesky(&system)?;
    let mut rotation = product(view(&plus), view(&plus));
    solve_rows(&lower, &mut rotation);
    Ok(rotation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize, values: &[f64]) -> Matrix {
        Matrix { rows, columns, values: values.to_vec() }
    }

    #[test]
    fn transforms_undo_each_other() {
        let (sine, cosine) = 0.7_f64.sin_cos();
        let turn = matrix(3, 3, &[cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0]);
        let found = generator(&turn).unwrap();
        // tan of half the angle.
        assert!((found.values[3] - 0.35_f64.tan()).abs() < 1e-14);
        let back = cayley(&found).unwrap();
        for (back, turn) in back.values.iter().zip(&turn.values) {
            assert!((back - turn).abs() < 1e-14, "{back} for {turn}");
        }
    }

    #[test]
    fn a_reflection_becomes_the_nearest_rotation() {
        let found = rotation(&matrix(2, 2, &[3.0, 0.0, 0.0, -1.0])).unwrap();
        for (found, expected) in found.values.iter().zip([1.0, 0.0, 0.0, 1.0]) {
            assert!((found - expected).abs() < 1e-14, "{found} for {expected}");
        }
    }
}
