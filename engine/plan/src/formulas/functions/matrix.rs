//! Functions over whole matrices: singular values, and the interference objective.
//!
//! Each takes values of one shape `[out, in]`, and some Gram matrices, and gives one of the same shape. Their settings must be
//! known when a merge is planned.

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_ops::MapOp;
use mixdown_ops::matrix::spectral::{Doge, Reshape};
use mixdown_ops::matrix::{MatrixLayout, MatrixOp, Rank, RankAware};

use super::Call;
use super::across::mean;
use super::settings::{Bounds, Settings};
use crate::families::layer;
use crate::families::tensor_class::{self, Class, Classes};
use crate::formulas::graph::Node;
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Inputs, Lowering, Reported, Typed, Value, describe};

/// `truncated_svd`.
pub(super) fn truncated_svd(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let mut settings = Settings::new(lowering, call, &["rank"])?;
    let count = if call.arguments.len() == 2 { 2 } else { 1 };
    let mut values = call.positional(lowering, count)?;
    if count == 2 {
        settings.add("rank", call.arguments[1].span, values.remove(1));
    }
    let rank = settings.rank(lowering, "rank", Rank::PerExpert)?;
    apply(lowering, MatrixOp::TruncatedSvd(rank), &[values.remove(0)], call.span)
}

/// `leading_share`.
pub(super) fn leading_share(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operand, mut settings) = one(lowering, call, &["share"])?;
    let share = settings.fraction(lowering, "share", 0.4)?;
    apply(lowering, MatrixOp::Reshaped(Reshape::Leading(share)), &[operand], call.span)
}

/// `lift_spectrum`.
pub(super) fn lift_spectrum(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operand, mut settings) = one(lowering, call, &["share"])?;
    let share = settings.fraction(lowering, "share", 0.01)?;
    apply(lowering, MatrixOp::Reshaped(Reshape::Lifted(share)), &[operand], call.span)
}

/// `calibrate_spectrum`.
pub(super) fn calibrate_spectrum(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let settings = Settings::new(lowering, call, &["alpha"]);
    let values = call.positional(lowering, 2)?;
    let alpha = settings?.bounded(lowering, "alpha", 1.0, &ABOVE_ZERO)?;
    let (Value::One(merged), Value::List(own)) = (&values[0], &values[1]) else {
        let headline = format!(
            "one merged matrix and a list over the experts are needed, found {} and {}",
            describe(&values[0]),
            describe(&values[1])
        );
        return Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), call.span));
    };
    let operands: Vec<Value> =
        std::iter::once(merged).chain(own).copied().map(Value::One).collect();
    apply(lowering, MatrixOp::CalibratedSpectrum { alpha }, &operands, call.span)
}

const ABOVE_ZERO: Bounds = Bounds {
    fits: |number| number > 0.0 && number.is_finite(),
    words: "more than 0",
    help: "the papers use 0.1 to 1",
};

/// `polar`.
pub(super) fn polar(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (operand, _) = one(lowering, call, &[])?;
    let polar = apply(lowering, MatrixOp::Polar, &[operand], call.span)?;
    Ok(with_kind(polar, Kind::Number))
}

/// `singular_values`.
pub(super) fn singular_values(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operand, _) = one(lowering, call, &[])?;
    let values = apply(lowering, MatrixOp::SingularValues, &[operand], call.span)?;
    Ok(with_kind(values, Kind::Number))
}

/// `gram`.
pub(super) fn gram(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (operand, _) = one(lowering, call, &[])?;
    let gram = apply(lowering, MatrixOp::Gram, &[operand], call.span)?;
    Ok(with_kind(gram, Kind::Gram))
}

/// `isotropic`.
pub(super) fn isotropic(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (operand, mut settings) = one(lowering, call, &["rank_aware", "of", STORAGE_NOISE])?;
    let words =
        &[("automatic", RankAware::Automatic), ("yes", RankAware::Yes), ("no", RankAware::No)];
    let aware = settings.choice(lowering, "rank_aware", words)?;
    let is_sum = settings.choice(lowering, "of", &[("each", false), ("sum", true)])?;
    let leaves_out = leaves_noise_out(lowering, &mut settings)?;
    // With all directions filled in, there is no telling which are noise.
    let leaves_out = leaves_out && aware != RankAware::No;
    let op = recovered(MatrixOp::Isotropic(aware), leaves_out);
    match operand {
        Value::List(items) if is_sum => {
            let operands: Vec<Value> = items.into_iter().map(Value::One).collect();
            apply(lowering, op, &operands, call.span)
        }
        operand => apply(lowering, op, &[operand], call.span),
    }
}

/// The setting by which rounding for storage stays in, or is left out.
pub(super) const STORAGE_NOISE: &str = "storage_noise";

/// Whether rounding for storage is left out where experts are clearly of low rank.
pub(super) fn leaves_noise_out(
    lowering: &mut Lowering<'_>,
    settings: &mut Settings,
) -> Result<bool, Reported> {
    settings.choice(lowering, STORAGE_NOISE, &[("keep", false), ("recover", true)])
}

/// The op, on operands without the rounding of their storage.
pub(super) fn recovered(op: MatrixOp, leaves_out: bool) -> MatrixOp {
    if leaves_out { MatrixOp::Recovered(Box::new(op)) } else { op }
}

/// `isotropic_common`.
pub(super) fn isotropic_common(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operands, mut settings) = several(lowering, call, &["common", STORAGE_NOISE])?;
    let common = settings.fraction(lowering, "common", 0.8)?;
    let leaves_out = leaves_noise_out(lowering, &mut settings)?;
    let op = recovered(MatrixOp::IsotropicCommon(common), leaves_out);
    apply(lowering, op, &operands, call.span)
}

/// `task_singular_vectors`.
pub(super) fn task_singular_vectors(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (operands, mut settings) = several(lowering, call, &["rank", STORAGE_NOISE])?;
    let rank = settings.rank(lowering, "rank", Rank::PerExpert)?;
    let leaves_out = leaves_noise_out(lowering, &mut settings)?;
    let op = recovered(MatrixOp::TaskSingularVectors(rank), leaves_out);
    apply(lowering, op, &operands, call.span)
}

/// `shared_shift`.
pub(super) fn shared_shift(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let known = &["eta", "learning_rate", "steps", "subspace_divisor"];
    let (operands, mut settings) = several(lowering, call, known)?;
    let doge = Doge {
        eta: settings.number(lowering, "eta", 0.07)?,
        learning_rate: settings.number(lowering, "learning_rate", 1e-4)?,
        steps: settings.count(lowering, "steps", 400)?,
        subspace_divisor: settings.count(lowering, "subspace_divisor", 6)?,
    };
    apply(lowering, MatrixOp::SharedShift(doge), &operands, call.span)
}

/// `regression`: the values, and a Gram matrix for each.
pub(super) fn regression(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let settings = Settings::new(lowering, call, &["off_diagonal"]);
    let values = call.positional(lowering, 2)?;
    let off_diagonal = settings?.fraction(lowering, "off_diagonal", 0.9)?;
    let (Value::List(weights), Value::List(grams)) = (&values[0], &values[1]) else {
        let found = values.iter().find(|value| !matches!(value, Value::List(_)));
        let found = found.map_or_else(String::new, describe);
        let headline = format!("a list over the experts is needed, found {found}");
        return Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), call.span));
    };
    lowering.common_length(&values, call.span)?;
    if let Some(other) = grams.iter().find(|item| item.kind != Kind::Gram) {
        let headline =
            format!("a Gram matrix for each value is needed, found {}", other.kind.name());
        let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline);
        return Err(
            lowering.report(diagnostic.help("write `regression(experts, gram)`"), call.span)
        );
    }
    let operands: Vec<Value> = weights.iter().chain(grams).copied().map(Value::One).collect();
    let op = MatrixOp::Regression { off_diagonal };
    let inputs = layout(lowering, &op, call.span)?.shape().1;
    // Of matrices that a formula makes nothing is told here.
    if let Some(found) = lowering.inputs.beside.gram_inputs.filter(|&found| found != inputs) {
        let name = lowering.inputs.own.name();
        let headline =
            format!("the Gram matrices for `{name}` are of another side than its inputs");
        let found = match found {
            0 => "others for each expert".to_owned(),
            found => found.to_string(),
        };
        let diagnostic = Diagnostic::error(codes::SHAPE_MISMATCH, headline)
            .fact("inputs", inputs.to_string())
            .fact("Gram matrices of", found)
            .help("say how the weight lies: `matrices: [auto, \"NAME as [experts, out, in]\"]` or `as [experts, in, out]`");
        return Err(lowering.report(diagnostic, call.span));
    }
    apply(lowering, op, &operands, call.span)
}

/// `center`: each value minus the mean of all.
pub(super) fn center(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let values = call.values(lowering, 1)?;
    let middle = Value::One(mean(lowering, &values, call.span)?);
    lowering.map(MapOp::Subtract, &[values[0].clone(), middle], call.span)
}

/// `is_linear`: whether the tensor is a linear weight, by its role or name and its shape.
pub(super) fn is_linear(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (settings, classes) = classes(lowering, call, &["classes", "matrices"])?;
    let selectors = settings.selectors(lowering, "matrices")?;
    let Inputs { ref own, shape, known, .. } = *lowering.inputs;
    // A method checked by itself: both answers are possible.
    let Some(shape) = shape else { return Ok(Value::One(lowering.unknown_scalar())) };
    let class = tensor_class::class(classes, &selectors, &known, own.name(), shape);
    // With the answer no, the method would give stacks what it gives norms and biases: most of a model of
    // experts would be averaged without a word.
    if class == Class::Stack {
        return Err(stacked(lowering, call.span));
    }
    lowering.class = Some(class);
    Ok(lowering.scalar(f64::from(matches!(class, Class::Matrix(_)))))
}

/// Reports a tensor that holds a matrix for each expert.
fn stacked(lowering: &mut Lowering<'_>, span: Span) -> Reported {
    let tensor = lowering.inputs.own.name();
    let shape = lowering.inputs.shape.unwrap_or_default();
    let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
    let headline =
        format!("`{tensor}` is a stack of matrices, and nothing tells their inputs from outputs");
    let alike = match layer::split(tensor) {
        Some(name) => format!("**{}", name.suffix),
        None => tensor.to_owned(),
    };
    let diagnostic = Diagnostic::error(codes::STACKED_MATRICES, headline)
        .fact("shape", format!("[{}]", shape.join(", ")))
        .note(format!(
            "a recipe of rules can give them another method: `- {{tensors: \"{alike}\", method: task_arithmetic}}`"
        ))
        .help(format!(
            "say how each lies: `matrices: [auto, \"{alike} as [experts, out, in]\"]` or `as [experts, in, out]`"
        ));
    lowering.report(diagnostic, span)
}

/// `is_kept`: whether the released patterns keep the tensor as it is in the base.
pub(super) fn is_kept(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (_, classes) = classes(lowering, call, &["classes"])?;
    match lowering.inputs.shape {
        Some(_) => {
            let answer = tensor_class::is_kept(classes, lowering.inputs.own.name());
            Ok(lowering.scalar(f64::from(answer)))
        }
        // A method checked by itself: both answers are possible.
        None => Ok(Value::One(lowering.unknown_scalar())),
    }
}

/// Whose division into classes a call means, and its other settings.
fn classes(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
    known: &[&str],
) -> Result<(Settings, Classes), Reported> {
    let mut settings = Settings::new(lowering, call, known)?;
    if !call.arguments.is_empty() {
        call.positional(lowering, 0)?;
    }
    let words = &[("roles", Classes::Roles), ("released", Classes::Released)];
    let classes = settings.choice(lowering, "classes", words)?;
    Ok((settings, classes))
}

/// The operand of a function of one matrix, and its settings. Over a list it is not mapped: each
/// matrix op is worth writing out.
fn one(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
    known: &[&str],
) -> Result<(Value, Settings), Reported> {
    let settings = Settings::new(lowering, call, known)?;
    let mut values = call.positional(lowering, 1)?;
    Ok((values.remove(0), settings))
}

/// The operands of a function over the experts, and its settings.
pub(super) fn several(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
    known: &[&str],
) -> Result<(Vec<Value>, Settings), Reported> {
    let settings = Settings::new(lowering, call, known)?;
    let values = call.positional(lowering, 1)?;
    match &values[0] {
        Value::List(items) => Ok((items.iter().map(|&item| Value::One(item)).collect(), settings)),
        other => {
            let headline = format!("a list over the experts is needed, found {}", describe(other));
            Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), call.span))
        }
    }
}

/// The node of a matrix op; one of a list for each if its single operand is one.
pub(super) fn apply(
    lowering: &mut Lowering<'_>,
    op: MatrixOp,
    operands: &[Value],
    span: Span,
) -> Result<Value, Reported> {
    if let [Value::List(items)] = operands {
        let items = items.clone();
        let each = items.into_iter().map(|item| {
            match apply(lowering, op.clone(), &[Value::One(item)], span)? {
                Value::One(result) => Ok(result),
                _ => unreachable!("one operand gives one result"),
            }
        });
        return Ok(Value::List(each.collect::<Result<_, _>>()?));
    }
    let mut items = Vec::with_capacity(operands.len());
    for (position, operand) in operands.iter().enumerate() {
        let is_gram = matches!(op, MatrixOp::Regression { .. }) && position >= operands.len() / 2;
        match operand {
            Value::One(item) if is_gram || item.kind.is_tensor() => items.push(*item),
            other => {
                let headline = format!("a matrix is needed here, found {}", describe(other));
                return Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span));
            }
        }
    }
    let layout = layout(lowering, &op, span)?.seen_by(&op);
    let nodes: Vec<_> = items.iter().map(|item| item.node).collect();
    let kind = items.first().map_or(Kind::Number, |item| item.kind);
    let node = lowering.graph.add(Node::Matrix(op, layout), &nodes);
    Ok(Value::One(Typed { node, kind }))
}

/// How the matrices that the op is applied to lie in the tensor: as the method has found, or as its family
/// says.
pub(super) fn layout(
    lowering: &mut Lowering<'_>,
    op: &MatrixOp,
    span: Span,
) -> Result<MatrixLayout, Reported> {
    let Inputs { ref own, shape, known, .. } = *lowering.inputs;
    // A method checked by itself.
    let Some(shape) = shape else { return Ok(MatrixLayout::plain(0, 0)) };
    let found = match lowering.class {
        Some(Class::Matrix(layout)) => Some(layout),
        _ => tensor_class::layout(&known, own.name(), shape),
    };
    let shape = || {
        let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
        format!("[{}]", shape.join(", "))
    };
    match found {
        Some(layout) if layout.matrices == 1 || op.takes_stacks() => Ok(layout),
        Some(_) => {
            let headline = format!(
                "`{}` takes one matrix, and `{}` is a stack of them",
                op.name(),
                own.name()
            );
            let diagnostic = Diagnostic::error(codes::STACKED_MATRICES, headline)
                .fact("shape", shape())
                .help("give them a method without it in a rule of their own: TSV-Merge, Iso-C, WUDI and OptMerge take stacks");
            Err(lowering.report(diagnostic, span))
        }
        None => {
            let headline = format!("`{}` needs a matrix, and `{}` is none", op.name(), own.name());
            let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline)
                .fact("shape", shape())
                .help("choose by `is_linear()` in the formula, or by a rule in the recipe");
            Err(lowering.report(diagnostic, span))
        }
    }
}

pub(super) fn with_kind(value: Value, kind: Kind) -> Value {
    match value {
        Value::One(item) => Value::One(Typed { kind, ..item }),
        Value::List(items) => {
            Value::List(items.into_iter().map(|item| Typed { kind, ..item }).collect())
        }
        text => text,
    }
}
