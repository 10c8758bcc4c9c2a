//! Functions of what is known when a merge is planned: positions, ranks, depth, and what must hold.

use mixdown_diagnostics::{Diagnostic, codes};

use super::Call;
use super::matrix::several;
use super::within::tensors;
use crate::families::layer;
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value, describe, item};

/// `ordinal`: the position of each value.
pub(super) fn ordinal(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (values, _) = several(lowering, call, &[])?;
    let position =
        |at: usize| Typed { node: lowering.graph.constant(at as f64), kind: Kind::Scalar };
    Ok(Value::List((0..values.len()).map(position).collect()))
}

/// `depth`: the place of the tensor's layer.
pub(super) fn depth(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    call.values(lowering, 0)?;
    match lowering.inputs.own.depth() {
        // A layer alone is the last for gradients of parameters, and the first here.
        Some(depth) => {
            let layer = layer::split(lowering.inputs.own.name()).map(|name| name.layer);
            Ok(lowering.scalar(if layer == Some(0) { 0.0 } else { depth }))
        }
        None => Ok(Value::One(lowering.unknown_scalar())),
    }
}

/// `largest_rank`: of updates, or the smaller side.
pub(super) fn largest_rank(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (values, _) = several(lowering, call, &[])?;
    let items: Vec<Typed> = values.iter().map(|value| item(value, 0)).collect();
    tensors(lowering, &items, call.span)?;
    let Some(shape) = lowering.inputs.shape else {
        return Ok(Value::One(lowering.unknown_scalar()));
    };
    let smaller = shape.iter().copied().min().unwrap_or(0);
    let rank = |item: &Typed| {
        let update = lowering.graph.product(item.node);
        update.map_or(smaller, |update| u64::from(update.rank).min(smaller))
    };
    let largest = items.iter().map(rank).max().unwrap_or(0);
    Ok(lowering.scalar(largest as f64))
}

/// `adapter_scale`: what the update of each value is multiplied with beside its factors; 1 for others.
pub(super) fn adapter_scale(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (values, _) = several(lowering, call, &[])?;
    let items: Vec<Typed> = values.iter().map(|value| item(value, 0)).collect();
    tensors(lowering, &items, call.span)?;
    let scale = |item: &Typed| {
        let scale = lowering.graph.product(item.node).map_or(1.0, |update| update.scale.get());
        // Without an update there is nothing to take it from.
        if scale == 0.0 { 1.0 } else { scale }
    };
    let scales: Vec<f64> = items.iter().map(scale).collect();
    let scalar = |scale| Typed { node: lowering.graph.constant(scale), kind: Kind::Scalar };
    Ok(Value::List(scales.into_iter().map(scalar).collect()))
}

/// `require`: refuses what the parameters of a recipe must not be.
pub(super) fn require(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let values = call.values(lowering, 2)?;
    let Value::Text(words) = &values[1] else {
        let headline =
            format!("`require` says in words what must hold, found {}", describe(&values[1]));
        let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline);
        return Err(lowering.report(diagnostic, call.arguments[1].span));
    };
    let conditions = match &values[0] {
        Value::One(one) => vec![*one],
        Value::List(each) => each.clone(),
        Value::Text(_) => {
            let headline = "a condition is a comparison or a boolean, found a word";
            let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline);
            return Err(lowering.report(diagnostic, call.arguments[0].span));
        }
    };
    for condition in conditions {
        match lowering.graph.value(condition.node) {
            Some(0.0) => {
                let headline = words.clone().unwrap_or_default();
                let diagnostic = Diagnostic::error(codes::REQUIREMENT, headline)
                    .note(format!("method `{}` requires it", lowering.method.name.value))
                    .note(format!("at tensor `{}`", lowering.inputs.own.name()))
                    .help(format!(
                        "`mixdown methods {}` shows its parameters",
                        lowering.method.name.value
                    ));
                return Err(lowering.report(diagnostic, call.span));
            }
            None if lowering.inputs.shape.is_some() => {
                let headline = "what a method requires must be known before tensors are read";
                let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline)
                    .help("compare parameters, counts and `n`");
                return Err(lowering.report(diagnostic, call.arguments[0].span));
            }
            _ => {}
        }
    }
    Ok(lowering.scalar(1.0))
}
