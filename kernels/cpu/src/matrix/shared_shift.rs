//! DOGE: the shift that all task vectors share.

use std::mem::{size_of, swap};

use mixdown_ops::matrix::spectral::Doge;
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::adam_double::Moments;
use super::dense::{
    accumulate, add_scaled, append_rows, check_finite, dot, first_rows, product, row_gram, rows_of,
    scale_rows, squared_norm, transposed, view, zeros,
};
use super::eigen::eigen;
use super::product::in_blocks;
use super::rows::{Blend, PANEL, panels, squared_norms};
use super::truncation::Truncation;

/// Rows that a step takes at a time: for each of them all task vectors are there.
pub(crate) const SHIFT_ROWS: usize = 64;

/// Bytes of task vectors that are held; more are read again in every step, whose products take far longer.
const HELD_BYTES: usize = 512 << 20;

/// Whether task vectors are held, in a type of so many bytes.
pub(crate) fn holds(experts: usize, rows: usize, columns: usize, width: usize) -> bool {
    experts.saturating_mul(rows).saturating_mul(columns).saturating_mul(width) <= HELD_BYTES
}

/// Δ, held as a whole: the projection mixes its rows.
#[derive(Debug)]
pub(crate) struct Shift {
    delta: Matrix,
    report: Report,
}

/// The shift Δ by Adam on `Σ_j Σ_rows (Σ_cols τ_j ⊙ (τ_j − Σ λ_i·τ_i − Σ λ_i·Δ))²`, its gradient
/// projected away from the shared subspace.
///
/// **Shapes.** N operands `m × n`; the result has their shape.
/// **Numerics.** f64, with the task vectors held as `Stored`, or read again. Zero task vectors take no part.
/// **Source.** Wei et al. 2025 (adaptive projective gradient descent), and its released code: the shared
/// subspace has the first `⌊p/divisor⌋` left vectors of the experts' leading `⌊p/N⌋` left vectors.
pub(crate) fn prepare<Stored: Copy + Into<f64> + Default>(
    op: &Doge,
    operands: &mut dyn Operands,
    read: impl Fn(&mut dyn Operands, usize, &mut [Stored]) -> Result<(), Stop>,
) -> Result<Shift, Stop> {
    let (rows, columns) = operands.shape(0);
    let count = operands.count();
    let norms = squared_norms(operands, count)?;
    let factors: Vec<f64> = norms
        .iter()
        .map(|&norm| if norm > 0.0 { op.eta.get() / norm.sqrt() } else { 0.0 })
        .collect();
    let smaller = rows.min(columns);
    let subspace = match smaller / op.subspace_divisor as usize {
        0 => zeros(0, rows),
        rank => shared_subspace(operands, smaller / count, rank)?,
    };
    let mut held = Vec::new();
    if holds(count, rows, columns, size_of::<Stored>()) {
        for operand in 0..count {
            let mut expert = vec![Stored::default(); rows * columns];
            read(operands, operand, &mut expert)?;
            held.push(expert);
        }
    }
    let mut report = Report { ranks: vec![subspace.rows], ..Report::default() };
    let problem = Problem { held, factors, columns, subspace: transposed(&subspace) };
    let (delta, loss) = problem.descend(op, operands)?;
    report.loss = Some(loss);
    report.norm = Some(squared_norm(&delta.values).sqrt());
    Ok(Shift { delta, report })
}

/// Left vectors of the stacked left vectors, as rows.
fn shared_subspace(
    operands: &mut dyn Operands,
    of_each: usize,
    rank: usize,
) -> Result<Matrix, Stop> {
    let rows = operands.shape(0).0;
    let mut stack = zeros(0, rows);
    for operand in 0..operands.count() {
        let blend = Blend::one(operand);
        let (truncation, _) = Truncation::of(operands, &blend, of_each, false)?;
        let left = match truncation {
            Truncation::Left { left, .. } => transposed(&left),
            Truncation::Right { basis, singular } => {
                let mut left = zeros(basis.rows, rows);
                for (first, height) in panels(rows, PANEL) {
                    let block = blend.block(operands, first, height)?;
                    let along = product(view(&basis), view(&block).transpose());
                    for row in 0..basis.rows {
                        left.values[row * rows + first..row * rows + first + height]
                            .copy_from_slice(&along.values[row * height..(row + 1) * height]);
                    }
                }
                scale_rows(&mut left, |row| 1.0 / singular[row]);
                left
            }
        };
        append_rows(&mut stack, &left);
    }
    // Left vectors of a matrix with these columns: by the smaller Gram matrix.
    let gram = row_gram(view(&stack));
    let spectrum = eigen(&gram)?;
    let nonzero = spectrum.values.iter().take_while(|&&value| value > 1e-12).count();
    let vectors = first_rows(spectrum.vectors, rank.min(nonzero));
    let mut subspace = product(view(&vectors), view(&stack));
    scale_rows(&mut subspace, |row| 1.0 / spectrum.values[row].sqrt());
    Ok(subspace)
}

struct Problem<Stored> {
    /// The task vectors; none where they are read again.
    held: Vec<Vec<Stored>>,
    /// λ_i.
    factors: Vec<f64>,
    columns: usize,
    /// Columns of U, `m × r`.
    subspace: Matrix,
}

impl<Stored: Copy + Into<f64>> Problem<Stored> {
    /// Adam over blocks of rows. A block is read once in each step: its part of the gradient, its part of the
    /// step, and then what it misses afterwards and what its next gradient has in the subspace.
    fn descend(
        &self,
        op: &Doge,
        operands: &mut dyn Operands,
    ) -> Result<(Matrix, (f64, f64)), Stop> {
        let (rows, columns) = operands.shape(0);
        let mut delta = zeros(rows, columns);
        let mut moments = Moments::new(delta.values.len(), op.learning_rate.get());
        let mut misses = vec![0.0; rows * self.factors.len()];
        let mut along = zeros(self.subspace.columns, columns);
        let mut next = zeros(self.subspace.columns, columns);
        let mut start = 0.0;
        for (first, count) in panels(rows, SHIFT_ROWS) {
            let experts = self.block(operands, first, count)?;
            let own = &mut misses[first * experts.len()..(first + count) * experts.len()];
            start += self.miss(&experts, &delta.values[first * columns..], own);
            self.add_along(&experts, own, first, &mut along);
        }
        let mut end = start;
        for step in 1..=op.steps {
            end = 0.0;
            next.values.fill(0.0);
            for (first, count) in panels(rows, SHIFT_ROWS) {
                let experts = self.block(operands, first, count)?;
                let own = &mut misses[first * experts.len()..(first + count) * experts.len()];
                let mut gradient = self.gradient(&experts, own);
                let subspace = rows_of(&self.subspace, first, count);
                accumulate(&mut gradient, -1.0, subspace, view(&along));
                let at = first * columns;
                let moved = &mut delta.values[at..at + count * columns];
                moments.step_part(step, at, &gradient.values, moved);
                end += self.miss(&experts, moved, own);
                if step < op.steps {
                    self.add_along(&experts, own, first, &mut next);
                }
            }
            swap(&mut along, &mut next);
        }
        check_finite(&delta.values, "the result")?;
        Ok((delta, (start, end)))
    }

    /// Rows of all task vectors.
    fn block(
        &self,
        operands: &mut dyn Operands,
        first: usize,
        count: usize,
    ) -> Result<Vec<Matrix>, Stop> {
        let at = first * self.columns..(first + count) * self.columns;
        (0..self.factors.len())
            .map(|operand| {
                let mut block = zeros(count, self.columns);
                match self.held.get(operand) {
                    Some(held) => widen(&held[at.clone()], &mut block.values),
                    None => operands.read(operand, first, &mut block.values)?,
                }
                Ok(block)
            })
            .collect()
    }

    /// Finds what rows miss of each task vector, `Σ_cols τ_j ⊙ (τ_j − Σ λ_i·τ_i − Σ λ_i·Δ)`, of which the gradient
    /// is made; returns their loss. `delta` begins with their rows.
    fn miss(&self, experts: &[Matrix], delta: &[f64], misses: &mut [f64]) -> f64 {
        let columns = self.columns;
        let total: f64 = self.factors.iter().sum();
        let (mut loss, mut rest) = (0.0, vec![0.0; columns]);
        for (row, misses) in misses.chunks_exact_mut(experts.len()).enumerate() {
            let at = row * columns..(row + 1) * columns;
            rest.fill(0.0);
            add_scaled(&mut rest, total, &delta[at.clone()]);
            for (expert, factor) in experts.iter().zip(&self.factors) {
                add_scaled(&mut rest, *factor, &expert.values[at.clone()]);
            }
            for (expert, miss) in experts.iter().zip(misses) {
                let one = &expert.values[at.clone()];
                *miss = squared_norm(one) - dot(one, &rest);
                loss += *miss * *miss;
            }
        }
        loss
    }

    /// Rows of the gradient from what they miss.
    fn gradient(&self, experts: &[Matrix], misses: &[f64]) -> Matrix {
        let total: f64 = self.factors.iter().sum();
        let mut gradient = zeros(experts.first().map_or(0, |one| one.rows), self.columns);
        let rows = gradient.values.chunks_exact_mut(self.columns);
        for (row, (gradient, misses)) in rows.zip(misses.chunks_exact(experts.len())).enumerate() {
            let at = row * self.columns..(row + 1) * self.columns;
            for (expert, miss) in experts.iter().zip(misses) {
                add_scaled(gradient, -2.0 * total * miss, &expert.values[at.clone()]);
            }
        }
        gradient
    }

    /// Adds what the gradient of rows has in the subspace.
    fn add_along(&self, experts: &[Matrix], misses: &[f64], first: usize, along: &mut Matrix) {
        if along.rows > 0 {
            let gradient = self.gradient(experts, misses);
            let subspace = rows_of(&self.subspace, first, gradient.rows);
            accumulate(along, 1.0, subspace.transpose(), view(&gradient));
        }
    }
}

fn widen<Stored: Copy + Into<f64>>(from: &[Stored], to: &mut [f64]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.into());
}

impl Prepared for Shift {
    fn rows(
        &self,
        _: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        in_blocks(self.delta.columns, 1, first_row, values, |row, _, values| {
            let start = row * self.delta.columns;
            values.copy_from_slice(&self.delta.values[start..start + values.len()]);
            Ok((0.0, 0.0))
        })
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}
