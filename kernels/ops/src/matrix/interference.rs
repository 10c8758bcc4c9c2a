//! Parameters of the interference objective `L(X) = Σ_i w_i ‖(X − A_i)·B_iᵀ‖²`, `w_i = 1/‖τ_i‖²`, and of
//! the ways to minimize it from `X_0`.

use super::Exact;
use super::spectral::Rank;

/// One member of the family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interference {
    /// A_i.
    pub targets: Targets,
    /// B_i.
    pub rows: Rows,
    /// Rank of truncated targets and rows.
    pub rank: Rank,
    /// Whether the cut moves down to the nearest gap of the spectrum when it falls into a cluster.
    pub snap: bool,
    /// X_0.
    pub init: Init,
    /// How X is found.
    pub solver: Solver,
}

/// A_i: what the result should do to the rows of B_i.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Targets {
    /// τ_i.
    Whole,
    /// The best rank-k approximation of τ_i.
    Truncated,
    /// The best rank-k approximation of τ_i − τ̄, plus τ̄.
    Centered,
}

/// B_i: the input subspace that matters to expert i.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// τ_i.
    Whole,
    /// Σ_k·V_kᵀ of τ_i.
    Truncated,
    /// Σ_k·V_kᵀ of τ_i − τ̄.
    Centered,
}

/// X_0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Init {
    /// Σ τ_i.
    Sum,
    /// τ̄.
    Mean,
    /// 0.
    Zero,
}

/// How X is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Solver {
    /// In closed form: `X = X_0 − (X_0·G − C)·q(G)`.
    Filter(Filter, Cut),
    /// Adam in displacement form, f32 or f64 as the merge's arithmetic.
    Adam(Adam),
    /// The optimizer's loop over the objective as written, in f64: the check on the others.
    Literal(Optimizer),
}

/// An optimizer of the literal loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Optimizer {
    /// torch.optim.Adam.
    Adam(Adam),
    /// torch.optim.SGD.
    Sgd(Sgd),
}

/// Adam as torch has it, with β = (0.9, 0.999) and ε = 1e-8 after the bias-corrected root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Adam {
    /// Step.
    pub learning_rate: Exact,
    /// How many.
    pub steps: u32,
}

/// SGD as torch has it: `b ← μ·b + g` (first `b = g`), `X ← X − η·b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sgd {
    /// η.
    pub learning_rate: Exact,
    /// μ, in [0, 1).
    pub momentum: Exact,
    /// T.
    pub steps: u32,
}

/// q(λ), by which eigenvalue λ of G is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// T steps of SGD.
    Sgd(Sgd),
    /// `(1 − e^(−λt)) / λ`, with t.
    Exponential(Exact),
    /// `1 / (λ + α)`, with α.
    Tikhonov(Exact),
    /// `(1 − (1 − ηλ)ⁿ) / λ` with `η = 0.9 / λ_max`, and n.
    Landweber(u32),
    /// `1 / λ`: the minimizer.
    Exact,
    /// `λ^(p−1) / (λ^p + a·ν²)` with p = 2, a = 1, ν² from the eigenvalues cut away.
    Wiener(NoiseLevel),
}

/// ν² of the Wiener filter, from the discarded eigenvalues; at least 1e-8. The median of all where
/// nothing is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoiseLevel {
    /// Their mean.
    Mean,
    /// The first of them.
    First,
    /// Their median.
    Median,
}

/// How many eigenvalues of G take part; q is 0 for the others. Eigenvalues are clamped at 1e-8 and
/// padded with it to n, as the released code sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// All of them.
    None,
    /// `max(1, int((n·r + 0.999) // 1))`, with r.
    Share(Exact),
    /// By a rule, then clamped and scaled.
    Rule {
        /// The rule.
        rule: RankRule,
        /// K is at least this.
        min_rank: u32,
        /// K is at most `round(this · n)`.
        max_rank_ratio: Exact,
        /// K is multiplied by this at the end.
        rank_scale: Exact,
    },
}

/// ASWUDI's rules for K from the descending spectrum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RankRule {
    /// n.
    None,
    /// ⌈S2 / λ₁²⌉.
    StableRank,
    /// ⌈exp H(λ/S1)⌉.
    Entropy,
    /// The same on λ².
    EntropySquared,
    /// ⌈S1² / S2⌉.
    Participation,
    /// ⌈(Σ√λ)² / S1⌉.
    ParticipationSqrt,
    /// ⌈(1 + ĉ²)·K₀⌉.
    ParticipationSqrtC2,
    /// ⌈(1 + ½ĉ²)·K₀⌉.
    ParticipationSqrtC2Half,
    /// ⌈raw · (1 + 1/ln(n + 2.71828))⌉.
    ParticipationSqrtPlus,
    /// 1 + count of cumulative shares below F.
    CumulativeVariance(Exact),
    /// As the released code has it; not the published constant.
    GavishDonoho,
    /// The square-root participation of ‖D·v_k‖²/λ_k².
    DataAwareParticipationSqrt,
    /// The cumulative share of ‖D·v_k‖²/λ_k², with F.
    DataAwareCumulativeVariance(Exact),
    /// The entropy of ‖D·v_k‖²/λ_k².
    DataAwareEntropy,
    /// First K with L_fit(K)/L_fit(0) ≤ F.
    LossElbow(Exact),
    /// First K with L_fit(K)/L_fit(0) ≤ 1 − F.
    LossResidual(Exact),
    /// argmin L_fit + ρ·L_norm, with ρ.
    Risk(Exact),
}
