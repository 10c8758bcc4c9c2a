//! OPCM's fold.

use mixdown_ops::matrix::{Operands, Report, Stop};

use super::super::dense::{add_scaled, product, view, zeros};
use super::svd::svd;
use super::{Whole, one};

/// **Shapes.** N operands `m × n`, whose order counts; the result is `m × n`.
/// **Numerics.** f64. Of each matrix that which the thin decomposition of the sum so far tells is taken away: what
/// it does along each pair of directions, and among the leading ones altogether. Directions without energy are
/// arbitrary, and nothing is taken along them.
/// **Source.** OPCM (arXiv:2501.09522), whose decomposition has all directions.
pub(super) fn merge(alpha: f64, operands: &mut dyn Operands) -> Result<Whole, Stop> {
    let (rows, columns) = operands.shape(0);
    let mut sum = zeros(rows, columns);
    let mut report = Report::default();
    for operand in 0..operands.count() {
        let own = one(operands, operand)?;
        let found = svd(&sum)?;
        let rank = found.rank();
        add_scaled(&mut sum.values, 1.0, &own.values);
        if rank == 0 {
            continue;
        }
        let leading = leading(&found.values, alpha);
        report.ranks.push(leading);
        let (left, right) = (found.first_left(rank), found.first_right(rank));
        let inner = product(view(&left).transpose(), view(&own));
        let mut core = product(view(&inner), view(&right).transpose());
        for (row, values) in core.values.chunks_mut(rank).enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                if row != column && (row >= leading || column >= leading) {
                    *value = 0.0;
                }
            }
        }
        let taken = product(view(&left), view(&core));
        let taken = product(view(&taken), view(&right));
        add_scaled(&mut sum.values, -1.0, &taken.values);
    }
    Whole::new(sum, report)
}

/// How many singular values come before their sum passes the share.
fn leading(values: &[f64], share: f64) -> usize {
    let total: f64 = values.iter().sum();
    let mut sum = 0.0;
    let passes = |value: &f64| {
        sum += value;
        sum / total > share
    };
    // Where none passes, the released code takes the first.
    values.iter().position(passes).unwrap_or(0)
}
