//! q(λ): what a solver does to the residual along an eigenvector of G.

use faer::c64;
use mixdown_ops::matrix::Stop;
use mixdown_ops::matrix::interference::{Filter, NoiseLevel, Sgd};

use super::super::contour::Smooth;
use super::cut::FLOOR;

/// What is done along each eigenvector.
#[derive(Debug)]
pub(crate) struct Treatment {
    /// q for each eigenvalue; 0 where nothing is done.
    pub factors: Vec<f64>,
    /// Kept eigenvalues between rounding noise and the floor, where the released code removes X_0 whole
    /// and the displacement form in part: which, and the share that is left to remove.
    pub slivers: Vec<(usize, f64)>,
    /// How many eigenvalues are kept and above rounding noise.
    pub active: usize,
    /// The largest eigenvalue, and ν², as q sees them.
    pub largest: f64,
    pub level: f64,
}

/// Treats the `kept` largest of the descending eigenvalues.
///
/// `clamped` is the spectrum with the floor, padded to the count of columns. Eigenvalues that are
/// rounding noise are left alone: nothing pulls on their directions, and `1/λ` would invent it.
pub(crate) fn treat(
    filter: &Filter,
    eigenvalues: &[f64],
    clamped: &[f64],
    kept: usize,
    has_floor: bool,
) -> Treatment {
    let largest = eigenvalues.first().copied().unwrap_or(0.0).max(0.0);
    let noise = largest * f64::EPSILON * clamped.len() as f64;
    let level = noise_level(filter, clamped, kept);
    let mut treatment = Treatment {
        factors: vec![0.0; eigenvalues.len()],
        slivers: Vec::new(),
        active: 0,
        largest: largest.max(FLOOR),
        level,
    };
    for (index, &value) in eigenvalues.iter().enumerate().take(kept) {
        if let Filter::Sgd(sgd) = filter {
            treatment.factors[index] = sgd_factor(sgd, value.max(0.0));
            continue;
        }
        if value <= noise {
            continue;
        }
        treatment.active = index + 1;
        let floored = if has_floor { value.max(FLOOR) } else { value };
        let factor = factor(filter, floored, treatment.largest, level);
        treatment.factors[index] = factor;
        if value < floored {
            treatment.slivers.push((index, factor * (floored - value)));
        }
    }
    treatment
}

/// q at a complex number, for the largest eigenvalue and the level of noise that [`treat`] found.
pub(crate) fn complex_factor(filter: &Filter, value: c64, largest: f64, level: f64) -> c64 {
    match *filter {
        Filter::Sgd(_) => c64::new(f64::NAN, 0.0),
        Filter::Exponential(time) => one_less_exp(value * time.get()) / value,
        Filter::Tikhonov(alpha) => (value + alpha.get()).inv(),
        Filter::Landweber(steps) => {
            let share = value * (0.9 / largest);
            // ln(1 − share), where it is small as well.
            let size = share.norm_sqr() - 2.0 * share.re;
            let shrink = c64::new(0.5 * size.ln_1p(), (-share.im).atan2(1.0 - share.re));
            one_less_exp(shrink * -f64::from(steps)) / value
        }
        Filter::Exact => value.inv(),
        Filter::Wiener(_) => value / (value * value + level),
    }
}

/// In which surroundings of the spectrum q is smooth; none where it has no use.
pub(crate) fn smooth(filter: &Filter) -> Option<Smooth> {
    match filter {
        Filter::Sgd(_) => None,
        Filter::Tikhonov(_) | Filter::Exact => Some(Smooth::Slit),
        Filter::Exponential(_) | Filter::Landweber(_) | Filter::Wiener(_) => Some(Smooth::Right),
    }
}

/// `1 − e^(−value)`.
fn one_less_exp(value: c64) -> c64 {
    if value.norm() >= 0.5 {
        return c64::from(1.0) - (-value).exp();
    }
    // Both are small: the sum of its series, from its end.
    (1..=16).rev().fold(c64::default(), |sum, k| (sum + 1.0) * -value / f64::from(k)) * -1.0
}

fn factor(filter: &Filter, value: f64, largest: f64, level: f64) -> f64 {
    match *filter {
        Filter::Sgd(sgd) => sgd_factor(&sgd, value),
        Filter::Exponential(time) => -(-value * time.get()).exp_m1() / value,
        Filter::Tikhonov(alpha) => 1.0 / (value + alpha.get()),
        Filter::Landweber(steps) => {
            let shrink = (-0.9 / largest * value).ln_1p();
            -(f64::from(steps) * shrink).exp_m1() / value
        }
        Filter::Exact => 1.0 / value,
        Filter::Wiener(_) => value / (value * value + level),
    }
}

/// T steps of SGD with momentum: the recurrence of the displacement along one eigenvector.
///
/// **Numerics.** Exact at λ = 0; without momentum in closed form.
fn sgd_factor(sgd: &Sgd, value: f64) -> f64 {
    let (rate, momentum) = (sgd.learning_rate.get(), sgd.momentum.get());
    if momentum == 0.0 {
        let steps = f64::from(sgd.steps);
        let shrink = 2.0 * rate * value;
        return if value == 0.0 {
            2.0 * rate * steps
        } else if shrink < 1.0 {
            -(steps * (-shrink).ln_1p()).exp_m1() / value
        } else {
            (1.0 - (1.0 - shrink).powf(steps)) / value
        };
    }
    let (mut velocity, mut displacement) = (0.0, 0.0);
    for _ in 0..sgd.steps {
        velocity = momentum * velocity + 2.0 * (1.0 + value * displacement);
        displacement -= rate * velocity;
    }
    -displacement
}

/// ν² of the Wiener filter.
fn noise_level(filter: &Filter, clamped: &[f64], kept: usize) -> f64 {
    let Filter::Wiener(level) = filter else { return 0.0 };
    let discarded = &clamped[kept.min(clamped.len())..];
    let level = if discarded.is_empty() {
        median(clamped)
    } else {
        match level {
            NoiseLevel::Mean => discarded.iter().sum::<f64>() / discarded.len() as f64,
            NoiseLevel::First => discarded[0],
            NoiseLevel::Median => median(discarded),
        }
    };
    level.max(FLOOR)
}

/// Of a descending list; of an even count the lower of the two, as torch has it.
pub(crate) fn median(descending: &[f64]) -> f64 {
    descending.get(descending.len() / 2).copied().unwrap_or(0.0)
}

/// Whether SGD diverges with this largest eigenvalue.
pub(crate) fn check_stable(sgd: &Sgd, largest: f64) -> Result<(), Stop> {
    let (rate, momentum) = (sgd.learning_rate.get(), sgd.momentum.get());
    if rate * largest < 1.0 + momentum {
        return Ok(());
    }
    let limit = (1.0 + momentum) / largest;
    Err(Stop::Refused(
        format!(
            "SGD with a learning rate of {rate} diverges: the objective's largest curvature is \
             {largest:.4}, which allows less than {limit:.4}"
        ),
        format!("use a learning rate below {limit:.4}"),
    ))
}
