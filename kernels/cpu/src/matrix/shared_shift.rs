//! DOGE: the shift that all task vectors share.

use mixdown_ops::matrix::spectral::Doge;
use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::adam_double::Moments;
use super::dense::{
    accumulate, add_scaled, append_rows, check_finite, dot, first_rows, product, row_gram,
    scale_rows, squared_norm, transposed, view, zeros,
};
use super::eigen::eigen;
use super::product::in_blocks;
use super::rows::{Blend, squared_norms};
use super::truncation::Truncation;

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
/// **Numerics.** f64, with the task vectors held as `Stored`. Zero task vectors take no part.
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
    let mut experts = Vec::new();
    for operand in 0..count {
        let mut expert = vec![Stored::default(); rows * columns];
        read(operands, operand, &mut expert)?;
        experts.push(expert);
    }
    let mut report = Report { ranks: vec![subspace.rows], ..Report::default() };
    let problem = Problem { experts, factors, columns, subspace };
    let (delta, loss) = problem.descend(op, rows)?;
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
                for (first, height) in super::rows::panels(rows, super::rows::PANEL) {
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
    experts: Vec<Vec<Stored>>,
    factors: Vec<f64>,
    columns: usize,
    subspace: Matrix,
}

impl<Stored: Copy + Into<f64>> Problem<Stored> {
    fn descend(&self, op: &Doge, rows: usize) -> Result<(Matrix, (f64, f64)), Stop> {
        let mut delta = zeros(rows, self.columns);
        let mut gradient = zeros(rows, self.columns);
        let mut moments = Moments::new(delta.values.len(), op.learning_rate.get());
        let start = self.gradient(&delta, &mut gradient);
        for step in 1..=op.steps {
            if step > 1 {
                self.gradient(&delta, &mut gradient);
            }
            let along = product(view(&self.subspace), view(&gradient));
            accumulate(&mut gradient, -1.0, view(&self.subspace).transpose(), view(&along));
            moments.step(step, &gradient.values, &mut delta.values);
        }
        let end = self.gradient(&delta, &mut gradient);
        check_finite(&delta.values, "the result")?;
        Ok((delta, (start, end)))
    }

    /// Sets the gradient; returns the loss.
    fn gradient(&self, delta: &Matrix, gradient: &mut Matrix) -> f64 {
        let columns = self.columns;
        let total: f64 = self.factors.iter().sum();
        let mut loss = 0.0;
        let mut one = vec![0.0; columns];
        let mut rest = vec![0.0; columns];
        gradient.values.fill(0.0);
        for (row, gradient) in gradient.values.chunks_exact_mut(columns).enumerate() {
            let at = row * columns..(row + 1) * columns;
            rest.fill(0.0);
            add_scaled(&mut rest, total, &delta.values[at.clone()]);
            for (expert, factor) in self.experts.iter().zip(&self.factors) {
                widen(&expert[at.clone()], &mut one);
                add_scaled(&mut rest, *factor, &one);
            }
            for expert in &self.experts {
                widen(&expert[at.clone()], &mut one);
                let miss = squared_norm(&one) - dot(&one, &rest);
                loss += miss * miss;
                add_scaled(gradient, -2.0 * total * miss, &one);
            }
        }
        loss
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
