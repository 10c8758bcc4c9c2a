//! Selections by how many elements, and their thresholds as numbers.

use mixdown_diagnostics::{Diagnostic, Span, codes};

use super::Call;
use super::arguments::over_lists;
use super::within::{SCOPES, depends_on_tensor, reach, tensors, zeroed};
use crate::formulas::graph::{Node, Reach};
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value};

/// `keep_count`: the largest magnitudes, so many of them.
pub(super) fn keep_count(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    over_counts(lowering, call, |lowering, items, reach, span| {
        let known = lowering.graph.value(items[1].node);
        match (known, reach) {
            (Some(0.0), _) => return zeroed(lowering, items[0], span),
            (Some(count), Reach::Tensor) if count == lowering.inputs.elements as f64 => {
                return Ok(items[0]);
            }
            _ => {}
        }
        let node = Node::KeepCount(reach);
        let node = lowering.graph.add(node, &[items[0].node, items[1].node]);
        Ok(Typed { node, kind: items[0].kind })
    })
}

/// `kth_largest`: the magnitude that has this place among all.
pub(super) fn kth_largest(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    over_counts(lowering, call, |lowering, items, reach, span| {
        if lowering.inputs.elements == 0 && lowering.inputs.shape.is_some() {
            return Ok(Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar });
        }
        if lowering.graph.value(items[1].node) == Some(0.0) {
            let headline = "`kth_largest` counts from 1 for the largest, found 0";
            let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline)
                .help("there is nothing above the largest element");
            return Err(lowering.report(diagnostic, span));
        }
        let node = Node::LeastOfLargest(reach);
        let node = lowering.graph.add(node, &[items[0].node, items[1].node]);
        Ok(Typed { node, kind: Kind::Scalar })
    })
}

/// Mapped over lists, with a count that is checked.
fn over_counts(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
    apply: impl Fn(&mut Lowering<'_>, &[Typed], Reach, Span) -> Result<Typed, Reported>,
) -> Result<Value, Reported> {
    let options = call.options(lowering, &[("scope", SCOPES)]);
    let values = call.positional(lowering, 2)?;
    let options = options?;
    let place = call.arguments[1].span;
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        tensors(lowering, &items[..1], span)?;
        check_count(lowering, call, items[1], place, options[0].as_deref())?;
        let reach = reach(lowering, options[0].as_deref());
        apply(lowering, items, reach, span)
    })
}

fn check_count(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
    count: Typed,
    place: Span,
    scope: Option<&str>,
) -> Result<(), Reported> {
    let name = call.function.name;
    if count.kind != Kind::Scalar {
        let headline = format!("`{name}` takes a count, one number, found {}", count.kind.name());
        return Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), place));
    }
    // A method checked by itself does not know its parameters.
    let is_known = lowering.inputs.shape.is_some();
    if is_known && scope == Some("model") && depends_on_tensor(lowering, count.node) {
        let headline = "a count of the whole model cannot differ from tensor to tensor";
        let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline)
            .help("take facts of the whole model, with `scope=\"model\"`");
        return Err(lowering.report(diagnostic, place));
    }
    let Some(known) = lowering.graph.value(count.node) else { return Ok(()) };
    if known < 0.0 || known.fract() != 0.0 || !known.is_finite() {
        let headline = format!("`{name}` takes a whole number from 0, found {known}");
        let diagnostic =
            Diagnostic::error(codes::OUT_OF_RANGE, headline).help("round it, with `floor(…)`");
        return Err(lowering.report(diagnostic, place));
    }
    let elements = lowering.inputs.elements;
    if scope != Some("model") && lowering.inputs.shape.is_some() && known > elements as f64 {
        let headline = format!("`{name}` is given a count of {known}, above that of all elements");
        let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline)
            .fact(lowering.inputs.own.name(), format!("{elements} elements"))
            .help("bound it, with `minimum(…, count(x))`");
        return Err(lowering.report(diagnostic, place));
    }
    Ok(())
}
