//! Parameters of ops that go through singular values.

use super::Exact;

/// How many singular directions are kept. With `p = min(m, n)` of the tensor:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rank {
    /// `⌊p / N⌋` for N operands; a rank of 0 keeps nothing of the operands but their mean.
    PerExpert,
    /// `max(1, ⌊p · share⌋)`, for a share in (0, 1).
    Share(Exact),
    /// This many. More than `p` is refused when planning.
    Count(u32),
    /// All directions.
    Full,
}

impl Rank {
    /// The rank for `p = min(m, n)` and `experts` operands. Not limited by `p`.
    pub fn of(self, smaller_side: usize, experts: usize) -> usize {
        match self {
            Self::PerExpert => smaller_side / experts.max(1),
            Self::Share(share) => ((smaller_side as f64 * share.get()) as usize).max(1),
            Self::Count(count) => count as usize,
            Self::Full => smaller_side,
        }
    }
}

/// Whether directions without energy take part in a mean over singular values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RankAware {
    /// Yes when the operand comes as factors, no otherwise.
    Automatic,
    /// The mean is over all `p` singular values, and null directions are filled in.
    No,
    /// The mean is over singular values above the tolerance, and the others stay zero.
    Yes,
}

/// KnOTS: `M = [τ_1 … τ_N] = U·S·Vᵀ`, `R_i = S·V_iᵀ`, merged element by element, `U·merged`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommonBasis {
    /// What is done to the `R_i`.
    pub merge: BasisMerge,
    /// Factors of the experts.
    pub weights: Vec<Exact>,
}

/// How coordinates in a common basis are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BasisMerge {
    /// Their weighted sum, which equals task arithmetic.
    Sum,
    /// TIES: the largest `density` of each, inclusive as in the paper's code; sign election by sum,
    /// where 0 elects the majority; weighted mean of those that agree.
    Ties {
        /// Share of elements kept.
        density: Exact,
    },
    /// DARE: each element kept with probability `density`, divided by it, then summed with the weights.
    DareLinear {
        /// Share of elements kept.
        density: Exact,
        /// Key from which each expert's random stream gets its own.
        key: u64,
    },
    /// DARE, then TIES without trimming.
    DareTies {
        /// Share of elements kept.
        density: Exact,
        /// Key from which each expert's random stream gets its own.
        key: u64,
    },
}

/// DOGE: the shift Δ, learned by Adam against the projected gradient (methods: adaptive projective
/// gradient descent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Doge {
    /// η: `λ_i = η / ‖τ_i‖`.
    pub eta: Exact,
    /// Step of Adam.
    pub learning_rate: Exact,
    /// Steps of Adam.
    pub steps: u32,
    /// The shared subspace keeps `⌊p / this⌋` directions.
    pub subspace_divisor: u32,
}
