//! Functions of several whole matrices, which are held while they are merged.

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_ops::matrix::axes::{Axis, Blocks};
use mixdown_ops::matrix::interference::Init;
use mixdown_ops::matrix::joint::{
    CoreMerge, CoreSpace, Covariances, Covers, FactorRule, FactorWise, Joint, Rotations, Smoothing,
    Swudi, SwudiFilter,
};
use mixdown_ops::matrix::{Exact, MatrixLayout, MatrixOp, Rank};

use super::Call;
use super::matrix::{apply, layout, several, with_kind};
use super::settings::{Bounds, Settings};
use super::within::tensors;
use crate::formulas::graph::Node;
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value, describe, item};
use crate::plan::Rectangle;

/// `own_grams`.
pub(super) fn own_grams(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (operands, mut settings) = several(lowering, call, &["tolerance"])?;
    let tolerance = settings.fraction(lowering, "tolerance", 1e-10)?;
    apply(lowering, MatrixOp::Joint(Joint::OwnGrams { tolerance }), &operands, call.span)
}

/// `own_covariances`.
pub(super) fn own_covariances(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let known = &["epsilon", "iso_rank", "heterogeneity"];
    let (operands, mut settings) = several(lowering, call, known)?;
    let op = Covariances {
        epsilon: settings.bounded(lowering, "epsilon", 0.01, &ABOVE_ZERO)?,
        iso_rank: settings.fraction(lowering, "iso_rank", 0.3)?,
        heterogeneity: settings.bounded(lowering, "heterogeneity", 0.3, &NOT_NEGATIVE)?,
    };
    apply(lowering, MatrixOp::Joint(Joint::Covariances(op)), &operands, call.span)
}

/// `shared_cover`.
pub(super) fn shared_cover(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operands, mut settings) = several(lowering, call, &["rank", "smoothing", "rho", "keep"])?;
    let rho = settings.bounded(lowering, "rho", 5.0, &FROM_ONE)?;
    let words = [
        ("average", Smoothing::Average),
        ("linear", Smoothing::Linear(rho)),
        ("none", Smoothing::None),
    ];
    let op = Covers {
        rank: settings.rank(lowering, "rank", Rank::PerExpert)?,
        smoothing: settings.choice(lowering, "smoothing", &words)?,
        keep: settings.fraction(lowering, "keep", 0.001)?,
    };
    apply(lowering, MatrixOp::Joint(Joint::Covers(op)), &operands, call.span)
}

/// `mean_rotation`: the base, and a list over the experts.
pub(super) fn mean_rotation(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let settings = Settings::new(lowering, call, &["rest", "conflict"]);
    let values = call.positional(lowering, 2)?;
    let mut settings = settings?;
    let rest = settings.number(lowering, "rest", 0.2)?;
    let conflict = settings.number(lowering, "conflict", 0.0)?.get() != 0.0;
    let op = MatrixOp::Joint(Joint::Rotations(Rotations { rest, conflict }));
    first_and_list(lowering, call, op, &values)
}

/// An op on one value and a list over the experts, whose result is what the items of the list are.
fn first_and_list(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
    op: MatrixOp,
    values: &[Value],
) -> Result<Value, Reported> {
    let (Value::One(first), Value::List(own)) = (&values[0], &values[1]) else {
        let headline = format!(
            "one tensor and a list over the experts are needed, found {} and {}",
            describe(&values[0]),
            describe(&values[1])
        );
        return Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), call.span));
    };
    let kind = own.first().map_or(Kind::Number, |item| item.kind);
    let operands: Vec<Value> = std::iter::once(first).chain(own).copied().map(Value::One).collect();
    Ok(with_kind(apply(lowering, op, &operands, call.span)?, kind))
}

/// `fold_projected`.
pub(super) fn fold_projected(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operands, mut settings) = several(lowering, call, &["alpha"])?;
    let alpha = settings.fraction(lowering, "alpha", 0.5)?;
    apply(lowering, MatrixOp::Joint(Joint::Fold { alpha }), &operands, call.span)
}

/// `core_space`.
pub(super) fn core_space(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (operands, mut settings) =
        several(lowering, call, &["merge", "weights", "density", "rank"])?;
    let density = settings.fraction(lowering, "density", 0.1)?;
    let words = [
        ("sum", CoreMerge::Sum),
        ("ties", CoreMerge::Ties(density)),
        ("tsv", CoreMerge::TaskSingularVectors),
        ("iso_c", CoreMerge::Isotropic),
    ];
    let op = CoreSpace {
        merge: settings.choice(lowering, "merge", &words)?,
        weights: settings.numbers(lowering, "weights", operands.len())?,
        rank: settings.rank(lowering, "rank", Rank::PerExpert)?,
    };
    apply(lowering, MatrixOp::Joint(Joint::CoreSpace(op)), &operands, call.span)
}

/// `combine_factors`.
pub(super) fn combine_factors(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operands, mut settings) =
        several(lowering, call, &["rule", "weights", "density", "ratio"])?;
    let ratio = settings.fraction(lowering, "ratio", 0.2)?;
    let words = [
        ("sum", FactorRule::Sum),
        ("ties_total", FactorRule::TiesTotal),
        ("ties_frequency", FactorRule::TiesFrequency),
        ("robust", FactorRule::Robust(ratio)),
    ];
    let op = FactorWise {
        rule: settings.choice(lowering, "rule", &words)?,
        density: settings.fraction(lowering, "density", 1.0)?,
        weights: settings.numbers(lowering, "weights", operands.len())?,
    };
    apply(lowering, MatrixOp::Joint(Joint::FactorWise(op)), &operands, call.span)
}

/// The kinds of SWUDI's filter.
#[derive(Clone, Copy)]
enum FilterKind {
    Exponential,
    Exact,
    Tikhonov,
    Landweber,
}

/// `filtered_interference`: a list over the experts, or a time and the list.
pub(super) fn filtered_interference(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let known = &[
        "filter",
        "time",
        "gamma",
        "alpha",
        "steps",
        "eta",
        "keep",
        "consensus_power",
        "consensus_floor",
        "output_time",
        "init",
    ];
    let settings = Settings::new(lowering, call, known);
    let is_aligned = call.arguments.len() == 2;
    let values = call.positional(lowering, if is_aligned { 2 } else { 1 })?;
    let settings = &mut settings?;
    let kinds = [
        ("exponential", FilterKind::Exponential),
        ("none", FilterKind::Exact),
        ("tikhonov", FilterKind::Tikhonov),
        ("landweber", FilterKind::Landweber),
    ];
    let kind = settings.choice(lowering, "filter", &kinds)?;
    let time = settings.bounded(lowering, "time", 300.0, &ABOVE_ZERO)?;
    let gamma = settings.bounded(lowering, "gamma", 1.0, &ABOVE_ZERO)?;
    let none = if matches!(kind, FilterKind::Tikhonov) { 0.01 } else { 0.0 };
    let alpha = settings.bounded(lowering, "alpha", none, &NOT_NEGATIVE)?;
    let steps = settings.count(lowering, "steps", 150)?;
    let eta = settings.bounded(lowering, "eta", 0.9, &ABOVE_ZERO)?;
    let filter = match kind {
        FilterKind::Exponential => SwudiFilter::Exponential { time, gamma, alpha },
        FilterKind::Exact => SwudiFilter::Exact,
        FilterKind::Tikhonov => SwudiFilter::Tikhonov(alpha),
        FilterKind::Landweber => SwudiFilter::Landweber { steps, eta },
    };
    let starts = [("sum", Init::Sum), ("mean", Init::Mean), ("zero", Init::Zero)];
    let op = Swudi {
        filter,
        is_aligned,
        keep: settings.fraction(lowering, "keep", 1.0)?,
        consensus_power: settings.bounded(lowering, "consensus_power", 0.0, &NOT_NEGATIVE)?,
        consensus_floor: settings.fraction(lowering, "consensus_floor", 0.0)?,
        output_time: settings.bounded(lowering, "output_time", 0.0, &NOT_NEGATIVE)?,
        init: settings.choice(lowering, "init", &starts)?,
    };
    let op = MatrixOp::Joint(Joint::Swudi(op));
    if is_aligned {
        return first_and_list(lowering, call, op, &values);
    }
    match &values[0] {
        Value::List(items) => {
            let operands: Vec<Value> = items.iter().copied().map(Value::One).collect();
            apply(lowering, op, &operands, call.span)
        }
        other => Err(no_list(lowering, other, call.span)),
    }
}

fn no_list(lowering: &mut Lowering<'_>, found: &Value, span: Span) -> Reported {
    let headline = format!("a list over the experts is needed, found {}", describe(found));
    lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span)
}

/// `interference_peak`: one number, the same in all elements.
pub(super) fn interference_peak(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operands, _) = several(lowering, call, &[])?;
    let op = MatrixOp::Joint(Joint::Peak);
    let found = apply(lowering, op.clone(), &operands, call.span)?;
    let (rows, columns) = layout(lowering, &op, call.span)?.stored();
    let part = Rectangle { start: 0, row_step: 0, column_step: 0, rows, columns };
    let node = lowering.graph.add(Node::Part(part), &[item(&found, 0).node]);
    Ok(Value::One(Typed { node, kind: Kind::Number }))
}

/// `block_owner`: which value keeps an element.
pub(super) fn block_owner(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (values, mut settings) = several(lowering, call, &["count", "block", "tail"])?;
    let block = settings.bounded(lowering, "block", 256.0, &BLOCK)?.get() as u32;
    let count = settings.count(lowering, "count", 64)?;
    let keeps_tail = settings.choice(lowering, "tail", &[("pad", true), ("drop", false)])?;
    let items: Vec<Typed> = values.iter().map(|value| item(value, 0)).collect();
    tensors(lowering, &items, call.span)?;
    if count > block {
        let headline = format!("{count} elements cannot be kept of each {block}");
        let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline)
            .help("of n:m, n is at most m: 64 of 256 keeps a quarter");
        return Err(lowering.report(diagnostic, call.span));
    }
    let (rows, columns) = Axis::Rows.view(lowering.inputs.shape.unwrap_or_default());
    let nodes: Vec<_> = items.iter().map(|item| item.node).collect();
    let op = MatrixOp::BlockOwner(Blocks { count, block, keeps_tail });
    let node = lowering.graph.add(Node::Matrix(op, MatrixLayout::plain(rows, columns)), &nodes);
    Ok(Value::One(Typed { node, kind: Kind::Number }))
}

const BLOCK: Bounds = Bounds {
    fits: |number| number.fract() == 0.0 && (1.0..=1e6).contains(&number),
    words: "a whole number from 1 to 1000000",
    help: "the paper uses blocks of 256 elements",
};

const ABOVE_ZERO: Bounds = Bounds {
    fits: |number| number > 0.0 && number.is_finite(),
    words: "more than 0",
    help: "leave it out for the default",
};

const NOT_NEGATIVE: Bounds = Bounds {
    fits: |number| number >= 0.0 && number.is_finite(),
    words: "a number from 0",
    help: "write it without a sign",
};

const FROM_ONE: Bounds = Bounds {
    fits: |number| number >= 1.0 && number.is_finite(),
    words: "a number from 1",
    help: "the first singular value is at most this many times the last; the paper has 5",
};

impl Settings {
    /// Numbers known now, one for each expert: a list, or one for all; 1 where none is given.
    fn numbers(
        &mut self,
        lowering: &mut Lowering<'_>,
        name: &str,
        count: usize,
    ) -> Result<Vec<Exact>, Reported> {
        let Some((span, value)) = self.take(name) else { return Ok(vec![1.0.into(); count]) };
        match &value {
            Value::One(one) => Ok(vec![self.known(lowering, name, *one, span, 1.0)?; count]),
            Value::List(each) if each.len() == count => {
                each.iter().map(|one| self.known(lowering, name, *one, span, 1.0)).collect()
            }
            other => {
                let headline =
                    format!("`{name}` is a number for each expert, found {}", describe(other));
                Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
            }
        }
    }
}
