//! Parameters of ops that go through singular values.

use super::Exact;

/// How many singular directions are kept. With `p = min(m, n)` of the tensor:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rank {
    /// `⌊p / N⌋` for N operands; a rank of 0 keeps nothing of the operands but their mean.
    PerExpert,
    /// `⌊p / N⌋` as the papers' formulas have it: a rank of 0 keeps nothing, not even their mean.
    Literal,
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
            Self::PerExpert | Self::Literal => smaller_side / experts.max(1),
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

/// Singular values made from those of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reshape {
    /// STAR: the leading ones that first make up this share of the sum of all, scaled to that sum.
    Leading(Exact),
    /// Subspace Boosting: none below that at which the leading ones first make up this share.
    Lifted(Exact),
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
