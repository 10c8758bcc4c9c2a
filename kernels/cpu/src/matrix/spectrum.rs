//! Facts about one matrix as matrices: its singular values, and its Gram matrix.

use mixdown_ops::matrix::{Matrix, Operands, Prepared, Report, Stop};

use super::eigen::eigen;
use super::gram::{left_gram, right_gram};
use super::rows::Blend;

/// The singular values of one matrix on the diagonal, descending, and zeros beside it.
///
/// **Shapes.** One operand `m × n`; the result has its shape.
/// **Numerics.** Roots of the eigenvalues of the smaller side's Gram matrix in f64: right to about
/// 1e-16·σ_1²/σ, so that what is below 1.5e-8·σ_1 is not told from zero.
pub(crate) fn singular_values(operands: &mut dyn Operands) -> Result<Diagonal, Stop> {
    let (rows, columns) = operands.shape(0);
    let blend = Blend::one(0);
    let gram = match rows <= columns {
        true => left_gram(operands, &blend)?,
        false => right_gram(operands, &blend)?,
    };
    let values: Vec<f64> =
        eigen(&gram)?.values.into_iter().map(|value| value.max(0.0).sqrt()).collect();
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let rank = values.iter().filter(|&&value| value > 1.5e-8 * values[0]).count();
    let report = Report { ranks: vec![rank], norm: Some(norm), ..Report::default() };
    Ok(Diagonal { values, columns, report })
}

/// `τᵀ·τ` of one matrix `m × n`: `n × n`, summed in f64.
pub(crate) fn gram(operands: &mut dyn Operands) -> Result<Square, Stop> {
    Ok(Square(right_gram(operands, &Blend::one(0))?))
}

/// Numbers on a diagonal.
pub(crate) struct Diagonal {
    values: Vec<f64>,
    columns: usize,
    report: Report,
}

impl Prepared for Diagonal {
    fn rows(
        &self,
        _: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        values.fill(0.0);
        for (row, place) in values.chunks_exact_mut(self.columns).enumerate() {
            let at = first_row + row;
            if let (Some(value), Some(place)) = (self.values.get(at), place.get_mut(at)) {
                *place = *value;
            }
        }
        Ok((0.0, 0.0))
    }

    fn report(&self) -> Report {
        self.report.clone()
    }
}

/// A matrix that is held.
pub(crate) struct Square(pub Matrix);

impl Prepared for Square {
    fn rows(
        &self,
        _: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop> {
        let start = first_row * self.0.columns;
        values.copy_from_slice(&self.0.values[start..start + values.len()]);
        Ok((0.0, 0.0))
    }

    fn report(&self) -> Report {
        Report::default()
    }
}
