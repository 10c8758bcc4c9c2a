//! ACTMat.

use mixdown_ops::matrix::{Matrix, Report, Stop};

use super::super::dense::{accumulate, product, row_gram, scale_rows, transposed, view, zeros};
use super::super::eigen::eigen;
use super::svd::{beneath, beside};
use super::{Whole, changed};

/// **Shapes.** N operands `m × n`; the result is `m × n`.
/// **Numerics.** Through `K = S·Sᵀ` of the task vectors beneath each other where that is smaller than their Gram
/// matrix, in f64. Eigenvalues below `tolerance` of the largest count as 0: with few experts, or low-rank ones, the
/// Gram matrix is singular, and where it is cut is part of the method.
/// **Source.** ACTMat (arXiv:2604.01329).
pub(super) fn merge(experts: &[Matrix], tolerance: f64) -> Result<Whole, Stop> {
    let (rows, columns) = (experts[0].rows, experts[0].columns);
    let taus: Vec<Matrix> = changed(experts).into_iter().cloned().collect();
    if taus.is_empty() {
        let nothing = zeros(rows, columns);
        return Whole::new(nothing, Report::default());
    }
    let stack = beneath(&taus);
    let is_stacked = stack.rows <= columns;
    let gram = match is_stacked {
        true => row_gram(view(&stack)),
        false => row_gram(view(&transposed(&stack))),
    };
    let found = eigen(&gram)?;
    let least = found.values[0].max(0.0) * tolerance;
    let kept = found.values.iter().take_while(|&&value| value > least).count();
    let mut inverse = super::super::dense::first_rows(found.vectors.clone(), kept);
    scale_rows(&mut inverse, |row| 1.0 / found.values[row]);
    let vectors = super::super::dense::first_rows(found.vectors, kept);
    let result = match is_stacked {
        true => {
            // Σ τ_i·τ_iᵀ·τ_i = [τ_1·τ_1ᵀ … τ_N·τ_Nᵀ]·S.
            let grams: Vec<Matrix> = taus.iter().map(|tau| row_gram(view(tau))).collect();
            let along = product(view(&beside(&grams)), view(&vectors).transpose());
            let back = product(view(&along), view(&inverse));
            product(view(&back), view(&stack))
        }
        false => {
            let mut whole = zeros(rows, columns);
            for tau in &taus {
                let own = row_gram(view(&transposed(tau)));
                accumulate(&mut whole, 1.0, view(tau), view(&own));
            }
            let along = product(view(&whole), view(&vectors).transpose());
            product(view(&along), view(&inverse))
        }
    };
    let mut report = Report { ranks: vec![kept], ..Report::default() };
    let close = found.values.get(kept).copied().unwrap_or(0.0);
    if close > 1e-3 * least && kept > 0 {
        report.notes.push(format!(
            "an eigenvalue of {:.1e} of the largest is left out, near to the cut at {tolerance:.1e}",
            close / found.values[0]
        ));
    }
    Whole::new(result, report)
}
