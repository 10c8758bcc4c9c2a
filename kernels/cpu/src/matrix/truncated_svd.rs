//! Best approximation with a bounded rank.

use mixdown_ops::matrix::{Factors, Operands, Rank, Report, Stop};

use super::dense::zeros;
use super::product::{BLOCK_ROWS, LeftRows, LowRank, Piece, Product};
use super::rows::Blend;
use super::truncation::{CLUSTER, CutAt, Truncation};

/// `U_k·Σ_k·V_kᵀ` of one matrix.
///
/// **Shapes.** One operand `m × n`; the result has its shape. `smaller_side` is that of the matrix for
/// which the rank is meant, where the operand is a core of it.
/// **Numerics.** Eigenvectors of the smaller side's Gram matrix in f64, and a projection: directions
/// below about 1e-7·σ_1 are not told from zero. Nothing is divided by a singular value.
/// **Source.** Eckart and Young 1936.
pub(crate) fn prepare(
    rank: Rank,
    operands: &mut dyn Operands,
    smaller_side: usize,
) -> Result<Product, Stop> {
    let (rows, columns) = operands.shape(0);
    let blend = Blend::one(0);
    let rank = rank.of(smaller_side, 1);
    let (truncation, cut) = Truncation::of(operands, &blend, rank, false)?;
    let report =
        Report { ranks: vec![cut.rank], gap: cut.gap, notes: notes(&[cut]), ..<_>::default() };
    if truncation.rank() == 0 {
        return Ok(Product::zero(rows, columns, report));
    }
    Ok(match truncation {
        Truncation::Left { left, right } => Product { left: LeftRows::Held(left), right, report },
        Truncation::Right { basis, .. } => {
            let rank = basis.rows;
            let pieces = vec![Piece { blend, offset: 0, directions: basis.clone() }];
            Product { left: LeftRows::Read { pieces, rank }, right: basis, report }
        }
    })
}

/// The same for a stated count of directions: the result is given as factors, the left one with
/// orthonormal columns or the right one with orthonormal rows, and the report has the squared norms of
/// the operand and of what is cut off.
pub(crate) fn as_factors(rank: usize, operands: &mut dyn Operands) -> Result<LowRank, Stop> {
    let (rows, columns) = operands.shape(0);
    let blend = Blend::one(0);
    let (truncation, cut) = Truncation::of(operands, &blend, rank, false)?;
    let report = Report {
        ranks: vec![cut.rank],
        gap: cut.gap,
        loss: Some((cut.energy, cut.cut_off)),
        notes: notes(&[cut]),
        ..<_>::default()
    };
    if truncation.rank() == 0 {
        return Ok(super::factors::empty(rows, columns, report));
    }
    let factors = match truncation {
        Truncation::Left { left, right } => Factors { left, right },
        Truncation::Right { basis, .. } => {
            let rank = basis.rows;
            let pieces = vec![Piece { blend, offset: 0, directions: basis.clone() }];
            let rows_of_left = LeftRows::Read { pieces, rank };
            let mut left = zeros(0, rank);
            for first in (0..rows).step_by(BLOCK_ROWS) {
                let block = rows_of_left.block(operands, first, BLOCK_ROWS.min(rows - first))?;
                super::dense::append_rows(&mut left, &block);
            }
            Factors { left, right: basis }
        }
    };
    Ok(LowRank { factors, report })
}

/// What cuts are worth a warning.
pub(crate) fn notes(cuts: &[CutAt]) -> Vec<String> {
    let clustered = cuts.iter().filter(|cut| cut.gap.is_some_and(|gap| gap < CLUSTER)).count();
    match clustered {
        0 => Vec::new(),
        count => vec![format!(
            "the cut falls between equal singular values in {count} of {} spectra, where the kept \
             directions are arbitrary",
            cuts.len()
        )],
    }
}
