//! Ops that look at several whole matrices together, and hold them while they prepare.
//!
//! All are of one kind to everything that plans, reads and stores: a new one is a variant here, a file of the
//! backend, and a function of the formulas.

use super::spectral::Rank;
use super::{Exact, OperandShapes};

/// An op on several whole matrices, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Joint {
    /// ACTMat: `(Σ τ_i·τ_iᵀ·τ_i)·(Σ τ_iᵀ·τ_i)⁺`.
    OwnGrams {
        /// Eigenvalues below this share of the largest are rounding noise.
        tolerance: Exact,
    },
    /// ACE: RegMean with covariances that are estimated from the task vectors.
    Covariances(Covariances),
    /// DC-Merge: singular values made even, and the merge in directions that all share.
    Covers(Covers),
    /// OrthoMerge: the base is turned, and what no rotation explains is added. Operands: the base, then task
    /// vectors. The result is a task vector.
    Rotations(Rotations),
    /// OPCM: each matrix adds to those before it only what is orthogonal to their leading directions.
    Fold {
        /// The share of the sum of singular values that the leading directions hold, α.
        alpha: Exact,
    },
    /// Core Space: merged in the bases that the factors share.
    CoreSpace(CoreSpace),
    /// Low-rank matrices whose factors are combined, each side by itself.
    FactorWise(FactorWise),
    /// SWUDI with all of its options. With [`Swudi::is_aligned`] the first operand is the time, the same in all
    /// elements.
    Swudi(Swudi),
    /// The largest eigenvalue of `Σ τ_iᵀ·τ_i / ‖τ_i‖²`: `1 × 1`.
    Peak,
}

/// Parameters of ACE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Covariances {
    /// ε: what is added to the diagonals.
    pub epsilon: Exact,
    /// The share of the smaller side that the isotropic correction has directions.
    pub iso_rank: Exact,
    /// Above which spread of their sizes task vectors count as uneven.
    pub heterogeneity: Exact,
}

/// Parameters of DC-Merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Covers {
    /// Directions kept of each task vector.
    pub rank: Rank,
    /// What becomes of their singular values, whose sum stays.
    pub smoothing: Smoothing,
    /// The share of each core that is kept, by magnitude.
    pub keep: Exact,
}

/// What becomes of singular values whose sum stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Smoothing {
    /// Nothing.
    None,
    /// All get their mean.
    Average,
    /// Equal steps from the first, which is at most this many times the last.
    Linear(Exact),
}

/// Parameters of OrthoMerge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rotations {
    /// Factor on what no rotation explains.
    pub rest: Exact,
    /// Whether only rows that go against the mean decide on a rotation.
    pub conflict: bool,
}

/// Parameters of Core Space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CoreSpace {
    /// How the cores are merged.
    pub merge: CoreMerge,
    /// Factor of each core.
    pub weights: Vec<Exact>,
    /// Directions kept of a matrix that is not given as factors.
    pub rank: Rank,
}

/// How cores are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoreMerge {
    /// Their sum.
    Sum,
    /// TIES with this share kept of each.
    Ties(Exact),
    /// Task singular vectors.
    TaskSingularVectors,
    /// The sum with equal singular values.
    Isotropic,
}

/// How factors are combined, each side by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FactorWise {
    /// The rule.
    pub rule: FactorRule,
    /// Share of each factor's elements that is kept.
    pub density: Exact,
    /// Factor of each product.
    pub weights: Vec<Exact>,
}

/// The rules of [`FactorWise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FactorRule {
    /// PEFT's `linear` and `magnitude_prune`: weighted sums.
    Sum,
    /// PEFT's `ties`: means of what has the sign of the sum of values.
    TiesTotal,
    /// The same with the sign that most have.
    TiesFrequency,
    /// RobustMerge: what a row of A lost is given to its column of B, limited from below at this share of the
    /// smallest.
    Robust(Exact),
}

/// Parameters of SWUDI beyond those of [`Interference`](super::Interference).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Swudi {
    /// The filter.
    pub filter: SwudiFilter,
    /// Whether the first operand is the time.
    pub is_aligned: bool,
    /// The share of directions that take part.
    pub keep: Exact,
    /// Power of the consensus of directions; 0 for none.
    pub consensus_power: Exact,
    /// What a direction without consensus counts at least.
    pub consensus_floor: Exact,
    /// Time of the filter on the other side; 0 for none.
    pub output_time: Exact,
    /// The start.
    pub init: super::interference::Init,
}

/// How SWUDI weighs an eigenvalue λ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SwudiFilter {
    /// `(1 − e^(−λt))^γ`, times `λ/(λ + α)`.
    Exponential {
        /// t.
        time: Exact,
        /// γ.
        gamma: Exact,
        /// α; 0 for none.
        alpha: Exact,
    },
    /// `λ/(λ + α)`.
    Tikhonov(Exact),
    /// `1 − (1 − η·λ/λ_max)^steps`.
    Landweber {
        /// Steps.
        steps: u32,
        /// η.
        eta: Exact,
    },
    /// 1.
    Exact,
}

impl Joint {
    /// Name in stores and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OwnGrams { .. } => "own_grams",
            Self::Covariances(_) => "own_covariances",
            Self::Covers(_) => "shared_cover",
            Self::Rotations(_) => "mean_rotation",
            Self::Fold { .. } => "fold_projected",
            Self::CoreSpace(_) => "core_space",
            Self::FactorWise(_) => "combine_factors",
            Self::Swudi(_) => "filtered_interference",
            Self::Peak => "interference_peak",
        }
    }

    /// The most directions of a result that is given as factors.
    pub(super) fn result_rank(&self, operands: &OperandShapes) -> Option<usize> {
        match self {
            Self::CoreSpace(_) if operands.are_low_rank() => {
                Some(operands.ranks.iter().flatten().sum())
            }
            Self::FactorWise(_) if operands.are_low_rank() => {
                operands.ranks.iter().flatten().copied().max()
            }
            _ => None,
        }
    }
}
