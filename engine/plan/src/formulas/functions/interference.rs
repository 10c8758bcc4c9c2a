//! The call of `interference`: which member of the family, from words and numbers.

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::matrix::interference::{
    Adam, Cut, Filter, Init, Interference, NoiseLevel, Optimizer, RankRule, Rows, Sgd, Solver,
    Targets,
};
use mixdown_ops::matrix::{Exact, MatrixOp, Rank};

use super::Call;
use super::matrix::{STORAGE_NOISE, apply, leaves_noise_out, recovered, several};
use super::settings::{Bounds, Settings};
use crate::formulas::lower::{Lowering, Reported, Value};

const KNOWN: &[&str] = &[
    "targets",
    "rows",
    "rank",
    "snap",
    "init",
    "solver",
    "optimizer",
    "learning_rate",
    "momentum",
    "steps",
    "filter",
    "time",
    "alpha",
    "noise",
    "keep",
    "rank_rule",
    "level",
    "min_rank",
    "max_rank_ratio",
    "rank_scale",
    STORAGE_NOISE,
];

/// `interference`.
pub(super) fn interference(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operands, mut settings) = several(lowering, call, KNOWN)?;
    let settings = &mut settings;
    let targets = settings.choice(
        lowering,
        "targets",
        &[
            ("whole", Targets::Whole),
            ("truncated", Targets::Truncated),
            ("centered", Targets::Centered),
        ],
    )?;
    let rows = settings.choice(
        lowering,
        "rows",
        &[("whole", Rows::Whole), ("truncated", Rows::Truncated), ("centered", Rows::Centered)],
    )?;
    let init = settings.choice(
        lowering,
        "init",
        &[("sum", Init::Sum), ("mean", Init::Mean), ("zero", Init::Zero)],
    )?;
    let rank = settings.rank(lowering, "rank", Rank::PerExpert)?;
    let snap = settings.choice(lowering, "snap", &[("no", false), ("yes", true)])?;
    let solver = solver(lowering, settings, call)?;
    let leaves_out = leaves_noise_out(lowering, settings)?;
    let op = Interference { targets, rows, rank, snap, init, solver };
    let op = recovered(MatrixOp::Interference(op), leaves_out);
    apply(lowering, op, &operands, call.span)
}

/// What finds X.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Adam,
    Sgd,
    Filter,
}

fn solver(
    lowering: &mut Lowering<'_>,
    settings: &mut Settings,
    call: &Call<'_>,
) -> Result<Solver, Reported> {
    let way = settings.choice(
        lowering,
        "optimizer",
        &[("adam", Way::Adam), ("sgd", Way::Sgd), ("filter", Way::Filter)],
    )?;
    let is_literal =
        settings.choice(lowering, "solver", &[("closed", false), ("literal", true)])?;
    let positive = Bounds {
        fits: |number| number.is_finite() && number > 0.0,
        words: "above 0",
        help: "the papers use 1e-5 with Adam and 1e-4 with SGD",
    };
    let below_one = Bounds {
        fits: |number| (0.0..1.0).contains(&number),
        words: "from 0 to below 1",
        help: "a momentum of 1 or more never settles; the released code uses 0.9",
    };
    let rate = if way == Way::Adam { 1e-5 } else { 1e-4 };
    let learning_rate = settings.bounded(lowering, "learning_rate", rate, &positive)?;
    let momentum = settings.bounded(lowering, "momentum", 0.0, &below_one)?;
    let steps = settings.count(lowering, "steps", 300)?;
    let filter = filter(lowering, settings)?;
    let cut = cut(lowering, settings)?;
    let adam = Adam { learning_rate, steps };
    let sgd = Sgd { learning_rate, momentum, steps };
    Ok(match (way, is_literal) {
        (Way::Adam, false) => Solver::Adam(adam),
        (Way::Adam, true) => Solver::Literal(Optimizer::Adam(adam)),
        (Way::Sgd, false) => Solver::Filter(Filter::Sgd(sgd), cut),
        (Way::Sgd, true) => Solver::Literal(Optimizer::Sgd(sgd)),
        (Way::Filter, false) => Solver::Filter(filter, cut),
        (Way::Filter, true) => {
            let headline = "a spectral filter has no literal loop";
            let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline)
                .help("use `optimizer=\"adam\"` or `\"sgd\"`, or leave `solver` out");
            return Err(lowering.report(diagnostic, call.span));
        }
    })
}

/// The kinds of filter.
#[derive(Clone, Copy)]
enum FilterKind {
    Exponential,
    Exact,
    Tikhonov,
    Landweber,
    Wiener,
}

fn filter(lowering: &mut Lowering<'_>, settings: &mut Settings) -> Result<Filter, Reported> {
    let kind = settings.choice(
        lowering,
        "filter",
        &[
            ("exponential", FilterKind::Exponential),
            ("none", FilterKind::Exact),
            ("tikhonov", FilterKind::Tikhonov),
            ("landweber", FilterKind::Landweber),
            ("wiener", FilterKind::Wiener),
        ],
    )?;
    let positive = Bounds {
        fits: |number| number.is_finite() && number > 0.0,
        words: "above 0",
        help: "the released code uses a time of 300 to 1800 and an alpha of 0.01",
    };
    let time = settings.bounded(lowering, "time", 300.0, &positive)?;
    let alpha = settings.bounded(lowering, "alpha", 0.01, &positive)?;
    let noise = settings.choice(
        lowering,
        "noise",
        &[("mean", NoiseLevel::Mean), ("first", NoiseLevel::First), ("median", NoiseLevel::Median)],
    )?;
    Ok(match kind {
        FilterKind::Exponential => Filter::Exponential(time),
        FilterKind::Exact => Filter::Exact,
        FilterKind::Tikhonov => Filter::Tikhonov(alpha),
        FilterKind::Landweber => Filter::Landweber(time.get() as u32),
        FilterKind::Wiener => Filter::Wiener(noise),
    })
}

fn cut(lowering: &mut Lowering<'_>, settings: &mut Settings) -> Result<Cut, Reported> {
    let keep = settings.fraction(lowering, "keep", 1.0)?;
    let level = settings.number(lowering, "level", f64::NAN)?;
    let at = |default: f64| {
        let given = level.get();
        Exact::from(if given.is_nan() { default } else { given })
    };
    let rules: &[(&str, Option<RankRule>)] = &[
        ("keep", None),
        ("none", Some(RankRule::None)),
        ("stable_rank", Some(RankRule::StableRank)),
        ("entropy", Some(RankRule::Entropy)),
        ("entropy_sq", Some(RankRule::EntropySquared)),
        ("participation", Some(RankRule::Participation)),
        ("participation_sqrt", Some(RankRule::ParticipationSqrt)),
        ("participation_sqrt_c2", Some(RankRule::ParticipationSqrtC2)),
        ("participation_sqrt_c2_half", Some(RankRule::ParticipationSqrtC2Half)),
        ("participation_sqrt_plus", Some(RankRule::ParticipationSqrtPlus)),
        ("cumvar", Some(RankRule::CumulativeVariance(at(0.95)))),
        ("gavish_donoho", Some(RankRule::GavishDonoho)),
        ("d_aware_participation_sqrt", Some(RankRule::DataAwareParticipationSqrt)),
        ("d_aware_cumvar", Some(RankRule::DataAwareCumulativeVariance(at(0.99)))),
        ("d_aware_entropy", Some(RankRule::DataAwareEntropy)),
        ("loss_elbow", Some(RankRule::LossElbow(at(0.01)))),
        ("loss_residual", Some(RankRule::LossResidual(at(0.01)))),
        ("wudi_risk", Some(RankRule::Risk(at(1.0)))),
    ];
    let rule = settings.choice(lowering, "rank_rule", rules)?;
    let min_rank = settings.count(lowering, "min_rank", 1)?;
    let max_rank_ratio = settings.fraction(lowering, "max_rank_ratio", 1.0)?;
    let positive = Bounds {
        fits: |number| number.is_finite() && number > 0.0,
        words: "above 0",
        help: "1 leaves the rank as the rule finds it",
    };
    let rank_scale = settings.bounded(lowering, "rank_scale", 1.0, &positive)?;
    Ok(match rule {
        Some(rule) => Cut::Rule { rule, min_rank, max_rank_ratio, rank_scale },
        None if keep.get() == 1.0 => Cut::None,
        None => Cut::Share(keep),
    })
}
