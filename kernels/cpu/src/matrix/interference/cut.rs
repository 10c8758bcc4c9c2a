//! How many eigenvalues of G take part: a share, or one of ASWUDI's rules.

use mixdown_ops::matrix::interference::{Cut, RankRule};

use super::filter::median;

/// The released code's floor of eigenvalues. It also pads the spectrum to the count of columns, and
/// takes part in the rules.
pub(crate) const FLOOR: f64 = 1e-8;

/// What rules look at beside the spectrum, for each eigenvector v_k, in the order of the spectrum and
/// padded with 0.
#[derive(Debug, Default)]
pub(crate) struct Energies {
    /// ‖C·v_k‖².
    pub pull: Vec<f64>,
    /// ‖X_0·v_k‖².
    pub init: Vec<f64>,
}

/// Whether a cut needs [`Energies`].
pub(crate) fn looks_at_energies(cut: &Cut) -> bool {
    let Cut::Rule { rule, .. } = cut else { return false };
    matches!(
        rule,
        RankRule::DataAwareParticipationSqrt
            | RankRule::DataAwareCumulativeVariance(_)
            | RankRule::DataAwareEntropy
            | RankRule::LossElbow(_)
            | RankRule::LossResidual(_)
            | RankRule::Risk(_)
    )
}

/// K for a descending spectrum with floor, of a matrix with these sides.
pub(crate) fn count(
    cut: &Cut,
    clamped: &[f64],
    sides: (usize, usize),
    energies: &Energies,
) -> usize {
    let n = clamped.len();
    match *cut {
        Cut::None => n,
        Cut::Share(share) => {
            (((n as f64 * share.get() + 0.999).floor()) as usize).clamp(1, n.max(1))
        }
        Cut::Rule { rule, min_rank, max_rank_ratio, rank_scale } => {
            let least = (min_rank as usize).min(n);
            let most =
                ((max_rank_ratio.get() * n as f64).round_ties_even() as usize).max(least).min(n);
            let count = by_rule(rule, clamped, sides, energies).clamp(least, most);
            ((count as f64 * rank_scale.get()).round_ties_even() as usize).clamp(least, n)
        }
    }
}

fn by_rule(rule: RankRule, clamped: &[f64], sides: (usize, usize), energies: &Energies) -> usize {
    let n = clamped.len();
    let sum: f64 = clamped.iter().sum();
    let squares: f64 = clamped.iter().map(|value| value * value).sum();
    let aware = || -> Vec<f64> {
        energies.pull.iter().zip(clamped).map(|(energy, value)| energy / (value * value)).collect()
    };
    match rule {
        RankRule::None => n,
        RankRule::StableRank => (squares / (clamped[0] * clamped[0])).ceil() as usize,
        RankRule::Entropy => entropy_rank(clamped),
        RankRule::EntropySquared => {
            entropy_rank(&clamped.iter().map(|value| value * value).collect::<Vec<_>>())
        }
        RankRule::Participation => (sum * sum / squares).ceil() as usize,
        RankRule::ParticipationSqrt => participation_sqrt(clamped).ceil() as usize,
        RankRule::ParticipationSqrtC2 => dispersed(clamped, 1.0),
        RankRule::ParticipationSqrtC2Half => dispersed(clamped, 0.5),
        RankRule::ParticipationSqrtPlus => {
            // The released code's digits, which are not quite e.
            #[allow(clippy::approx_constant)]
            let factor = 1.0 + 1.0 / (n as f64 + 2.71828).ln();
            (participation_sqrt(clamped) * factor).ceil() as usize
        }
        RankRule::CumulativeVariance(share) => cumulative(clamped, share.get()),
        RankRule::GavishDonoho => gavish_donoho(clamped, sides),
        RankRule::DataAwareParticipationSqrt => participation_sqrt(&aware()).ceil() as usize,
        RankRule::DataAwareCumulativeVariance(share) => cumulative(&aware(), share.get()),
        RankRule::DataAwareEntropy => entropy_rank(&aware()),
        RankRule::LossElbow(share) => first_below(clamped, energies, share.get()),
        RankRule::LossResidual(share) => first_below(clamped, energies, 1.0 - share.get()),
        RankRule::Risk(rho) => least_risk(clamped, energies, rho.get()),
    }
}

fn entropy_rank(values: &[f64]) -> usize {
    let sum: f64 = values.iter().sum();
    let shares = values.iter().map(|value| value / sum).filter(|&share| share > 0.0);
    (-shares.map(|share| share * share.ln()).sum::<f64>()).exp().ceil() as usize
}

/// `(Σ√λ)² / Σλ`.
fn participation_sqrt(values: &[f64]) -> f64 {
    let roots: f64 = values.iter().map(|value| value.sqrt()).sum();
    let sum: f64 = values.iter().sum();
    if sum > 0.0 { roots * roots / sum } else { 0.0 }
}

/// `(1 + factor·ĉ²)·K_0`, with ĉ² the relative variance of the top K_0 roots.
fn dispersed(values: &[f64], factor: f64) -> usize {
    let first = (participation_sqrt(values).ceil() as usize).clamp(1, values.len().max(1));
    let roots: Vec<f64> = values.iter().take(first).map(|value| value.sqrt()).collect();
    let mean = roots.iter().sum::<f64>() / roots.len() as f64;
    let variance = roots.iter().map(|root| (root - mean).powi(2)).sum::<f64>() / roots.len() as f64;
    ((1.0 + factor * variance / (mean * mean)) * first as f64).ceil() as usize
}

/// 1 + count of cumulative shares below `share`.
fn cumulative(values: &[f64], share: f64) -> usize {
    let sum: f64 = values.iter().sum();
    let mut so_far = 0.0;
    let below = values.iter().filter(|&&value| {
        so_far += value;
        so_far / sum < share
    });
    1 + below.count()
}

/// Under this name in the released code; the published constant is 2.858 at β = 1, this one 1.195.
fn gavish_donoho(clamped: &[f64], (rows, columns): (usize, usize)) -> usize {
    let beta = rows.min(columns) as f64 / rows.max(columns) as f64;
    let root = (beta * beta + 14.0 * beta + 1.0).sqrt();
    let coefficient = (2.0 * (beta + 1.0) + 8.0 * beta / (beta + 1.0 + root)).sqrt();
    let mu = match beta < 0.9999 {
        true => ((1.0 - beta).powi(2) + beta).max(1e-3).sqrt(),
        false => (2.0 + 3.0_f64.sqrt()).sqrt(),
    };
    let threshold = coefficient / mu * median(clamped).sqrt();
    clamped.iter().filter(|value| value.sqrt() > threshold).count().max(1)
}

/// `λ_k²·‖X_0·v_k‖² + ‖C·v_k‖²`: the cross term is absent in the released code too.
fn fits(clamped: &[f64], energies: &Energies) -> Vec<f64> {
    let pairs = clamped.iter().zip(energies.init.iter().zip(&energies.pull));
    pairs.map(|(value, (init, pull))| value * value * init + pull).collect()
}

fn first_below(clamped: &[f64], energies: &Energies, share: f64) -> usize {
    let fits = fits(clamped, energies);
    let total: f64 = fits.iter().sum();
    let mut left = total;
    for (index, fit) in fits.iter().enumerate() {
        left -= fit;
        if left / total <= share {
            return index + 1;
        }
    }
    clamped.len()
}

fn least_risk(clamped: &[f64], energies: &Energies, rho: f64) -> usize {
    let fits = fits(clamped, energies);
    let mut fit: f64 = fits.iter().sum();
    let mut norm: f64 = energies.init.iter().sum();
    let mut best = (f64::INFINITY, clamped.len());
    for (index, &value) in clamped.iter().enumerate() {
        fit -= fits[index];
        norm += energies.pull[index] / (value * value) - energies.init[index];
        let risk = fit + rho * norm;
        if risk < best.0 {
            best = (risk, index + 1);
        }
    }
    best.1
}
