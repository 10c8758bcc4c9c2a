//! Functions across experts: a list becomes one value.

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_ops::MapOp;
use mixdown_ops::program::Reduction;

use super::Call;
use super::within::{SCOPES, reach, reduce_over};
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value, describe};

/// The items of a list over the experts.
pub(super) fn list(
    lowering: &mut Lowering<'_>,
    value: &Value,
    span: Span,
) -> Result<Vec<Typed>, Reported> {
    match value {
        Value::List(items) => Ok(items.clone()),
        other => {
            let headline = format!("a list over the experts is needed, found {}", describe(other));
            Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
        }
    }
}

pub(super) fn fold(
    lowering: &mut Lowering<'_>,
    op: MapOp,
    values: &[Value],
    span: Span,
) -> Result<Typed, Reported> {
    let items = list(lowering, &values[0], span)?;
    let mut items = items.into_iter();
    let Some(mut result) = items.next() else {
        return Ok(Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar });
    };
    for item in items {
        result = lowering.map_one(op, &[result, item], span)?;
    }
    Ok(result)
}

pub(super) fn mean(
    lowering: &mut Lowering<'_>,
    values: &[Value],
    span: Span,
) -> Result<Typed, Reported> {
    let count = list(lowering, &values[0], span)?.len();
    let sum = fold(lowering, MapOp::Add, values, span)?;
    let count = Typed { node: lowering.graph.constant(count.max(1) as f64), kind: Kind::Scalar };
    lowering.map_one(MapOp::Divide, &[sum, count], span)
}

pub(super) fn elect_sign(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let options = call.options(lowering, &[("zero", &["positive", "majority"]), ("scope", SCOPES)]);
    let values = call.positional(lowering, 1)?;
    let (options, span) = (options?, call.span);
    let sum = fold(lowering, MapOp::Add, &values, span)?;
    let constant = |lowering: &mut Lowering<'_>, number: f64| Typed {
        node: lowering.graph.constant(number),
        kind: Kind::Scalar,
    };
    let (zero, one) = (constant(lowering, 0.0), constant(lowering, 1.0));
    let minus = constant(lowering, -1.0);
    let sign = if options[0].as_deref() == Some("majority") && sum.kind.is_tensor() {
        let sign = lowering.map_one(MapOp::Sign, &[sum], span)?;
        let reach = reach(lowering, options[1].as_deref());
        let votes = reduce_over(lowering, Reduction::Sum, &[sign], reach, span)?;
        let majority = lowering.map_one(MapOp::Sign, &[votes], span)?;
        let is_zero = lowering.map_one(MapOp::Equal, &[sum, zero], span)?;
        lowering.map_one(MapOp::Where, &[is_zero, majority, sign], span)?
    } else {
        let positive = lowering.map_one(MapOp::GreaterEqual, &[sum, zero], span)?;
        lowering.map_one(MapOp::Where, &[positive, one, minus], span)?
    };
    let kind = if sign.kind == Kind::Scalar { Kind::Scalar } else { Kind::Sign };
    Ok(Value::One(Typed { node: sign.node, kind }))
}

/// For each expert its value where that has the sign, 0 elsewhere.
pub(super) fn agreeing(
    lowering: &mut Lowering<'_>,
    values: &[Typed],
    sign: Typed,
    span: Span,
) -> Result<Vec<Typed>, Reported> {
    values.iter().map(|&value| lowering.map_one(MapOp::Agreeing, &[value, sign], span)).collect()
}

pub(super) fn sum_where_sign(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let values = call.values(lowering, 2)?;
    let (items, sign) = signed(lowering, &values, call.span)?;
    let agreeing = agreeing(lowering, &items, sign, call.span)?;
    Ok(Value::One(fold(lowering, MapOp::Add, &[Value::List(agreeing)], call.span)?))
}

pub(super) fn mean_where_sign(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let values = call.values(lowering, 3)?;
    let span = call.span;
    let (items, sign) = signed(lowering, &values, span)?;
    let weights: Vec<Typed> = match &values[2] {
        Value::Text(_) => return lowering.common_length(&values, span).map(|_| values[2].clone()),
        Value::One(weight) => vec![*weight; items.len()],
        Value::List(weights) => weights.clone(),
    };
    lowering.common_length(&[values[0].clone(), Value::List(weights.clone())], span)?;
    let agreeing = agreeing(lowering, &items, sign, span)?;
    let zero = Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar };
    let mut shares = Vec::with_capacity(weights.len());
    for (&value, weight) in agreeing.iter().zip(weights) {
        // A value that agrees is not zero, which is what `where` asks.
        shares.push(lowering.map_one(MapOp::Where, &[value, weight, zero], span)?);
    }
    let sum = fold(lowering, MapOp::Add, &[Value::List(agreeing)], span)?;
    let share = fold(lowering, MapOp::Add, &[Value::List(shares)], span)?;
    Ok(Value::One(lowering.map_one(MapOp::DivideUnlessZero, &[sum, share], span)?))
}

/// The values and the sign of a function that counts those that agree.
pub(super) fn signed(
    lowering: &mut Lowering<'_>,
    values: &[Value],
    span: Span,
) -> Result<(Vec<Typed>, Typed), Reported> {
    let items = list(lowering, &values[0], span)?;
    match &values[1] {
        Value::One(sign) => Ok((items, *sign)),
        other => {
            let headline =
                format!("one sign for each element is needed, found {}", describe(other));
            Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
        }
    }
}
