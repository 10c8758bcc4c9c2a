//! The leading singular directions of an operand, from the eigenproblem of its smaller side.

use mixdown_ops::matrix::{Factors, Matrix, Operands, Stop};

use super::dense::{first_rows, product, row_gram, rows_of, scale_rows, transposed, view};
use super::eigen::{eigen, leading, orthonormal};
use super::gram::{left_gram, right_gram};
use super::rows::{Blend, project};

/// Below this share of σ_1, two neighbors of a spectrum are taken as a cluster (methods: the truncated
/// matrix is not a function of its input in practice).
pub(crate) const CLUSTER: f64 = 1e-6;

/// Where a spectrum is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CutAt {
    /// Directions kept.
    pub rank: usize,
    /// `(σ_k − σ_{k+1}) / σ_1`, where the cut removes anything.
    pub gap: Option<f64>,
    /// Sum of all squares.
    pub energy: f64,
    /// Sum of the squares that the cut removes.
    pub cut_off: f64,
}

/// Cuts a descending spectrum at `rank`, or with `snap` at the nearest gap below it.
///
/// Directions that are zero up to rounding are not kept: a cut among them, or at the numerical rank,
/// removes nothing.
pub(crate) fn cut_at(singular: &[f64], rank: usize, snap: bool, sides: usize) -> CutAt {
    let first = singular.first().copied().unwrap_or(0.0);
    // Squares come from a Gram matrix, so that this is the least that can be told from 0.
    let least = first * (sides as f64 * f64::EPSILON).sqrt();
    let nonzero = singular.iter().take_while(|&&value| value > least).count();
    if rank >= nonzero {
        return CutAt { rank: nonzero, gap: None, energy: squares(singular), cut_off: 0.0 };
    }
    let gap = |rank: usize| (singular[rank - 1] - singular[rank]) / first;
    let mut at = rank;
    if snap {
        at = (1..=rank).rev().find(|&rank| gap(rank) >= CLUSTER).unwrap_or(rank);
    }
    let (energy, cut_off) = (squares(singular), squares(&singular[at..]));
    CutAt { rank: at, gap: (at > 0).then(|| gap(at)), energy, cut_off }
}

fn squares(singular: &[f64]) -> f64 {
    // The smallest first, so that they are not lost beside the largest.
    singular.iter().rev().map(|value| value * value).sum()
}

/// `U_k·Σ_k·V_kᵀ`, as the smaller side gives it.
#[derive(Debug)]
pub(crate) enum Truncation {
    /// No more rows than columns: `U_k` (`m × k`) and `Σ_k·V_kᵀ` (`k × n`).
    Left { left: Matrix, right: Matrix },
    /// More rows than columns: `V_kᵀ` (`k × n`) and σ. The rest needs the rows of τ.
    Right { basis: Matrix, singular: Vec<f64> },
}

impl Truncation {
    /// Truncates a sum of operands; one that comes as factors never as an `m × n` matrix.
    pub fn of(
        operands: &mut dyn Operands,
        blend: &Blend,
        rank: usize,
        snap: bool,
    ) -> Result<(Self, CutAt), Stop> {
        let (rows, columns) = operands.shape(0);
        if let Some(operand) = blend.single()
            && operands.rank(operand).is_some()
        {
            return Self::of_factors(&operands.factors(operand)?, rank, snap);
        }
        let is_left = rows <= columns;
        let gram = match is_left {
            true => left_gram(operands, blend)?,
            false => right_gram(operands, blend)?,
        };
        let spectrum = leading(gram, rank)?;
        let singular: Vec<f64> =
            spectrum.values.iter().map(|value| value.max(0.0).sqrt()).collect();
        let cut = cut_at(&singular, rank, snap, rows.max(columns));
        let vectors = first_rows(spectrum.vectors, cut.rank);
        let truncation = match is_left {
            true => {
                let right = project(operands, blend, &vectors)?;
                Self::Left { left: transposed(&vectors), right }
            }
            false => Self::Right { basis: vectors, singular: singular[..cut.rank].to_vec() },
        };
        Ok((truncation, cut))
    }

    /// Through the `r × r` core.
    fn of_factors(factors: &Factors, rank: usize, snap: bool) -> Result<(Self, CutAt), Stop> {
        let sides = factors.left.rows.max(factors.right.columns);
        let (left, left_core) = orthonormal_or_whole(&factors.left)?;
        // With G = R·Zᵀ, τ = Q·G, and the left vectors of G are those of τ in the basis Q.
        let core = product(view(&left_core), view(&factors.right));
        let spectrum = eigen(&row_gram(view(&core)))?;
        let singular: Vec<f64> =
            spectrum.values.iter().map(|value| value.max(0.0).sqrt()).collect();
        let cut = cut_at(&singular, rank, snap, sides);
        let vectors = first_rows(spectrum.vectors, cut.rank);
        let right = product(view(&vectors), view(&core));
        let left = product(view(&left), view(&vectors).transpose());
        Ok((Self::Left { left, right }, cut))
    }

    /// Directions kept.
    pub fn rank(&self) -> usize {
        match self {
            Self::Left { right, .. } => right.rows,
            Self::Right { basis, .. } => basis.rows,
        }
    }

    /// `Σ_k·V_kᵀ` times a factor.
    pub fn scaled_rows(&self, factor: f64) -> Matrix {
        match self {
            Self::Left { right, .. } => {
                let mut rows = right.clone();
                scale_rows(&mut rows, |_| factor);
                rows
            }
            Self::Right { basis, singular } => {
                let mut rows = basis.clone();
                scale_rows(&mut rows, |row| singular[row] * factor);
                rows
            }
        }
    }

    /// Rows of the truncated matrix from those of the whole one.
    pub fn apply(&self, whole: &Matrix, first_row: usize) -> Matrix {
        match self {
            Self::Left { left, right } => {
                product(rows_of(left, first_row, whole.rows), view(right))
            }
            Self::Right { basis, .. } => {
                let along = product(view(whole), view(basis).transpose());
                product(view(&along), view(basis))
            }
        }
    }

    /// Whether [`apply`](Self::apply) looks at the numbers of the whole rows.
    pub fn reads_rows(&self) -> bool {
        matches!(self, Self::Right { .. })
    }
}

/// A basis of a factor's columns, or the identity where it has more columns than rows.
fn orthonormal_or_whole(left: &Matrix) -> Result<(Matrix, Matrix), Stop> {
    if left.rows >= left.columns {
        return orthonormal(left);
    }
    let mut identity = super::dense::zeros(left.rows, left.rows);
    (0..left.rows).for_each(|index| identity.values[index * left.rows + index] = 1.0);
    Ok((identity, left.clone()))
}
