//! Functions within a tensor: facts about all its elements, and what is kept by them or at random.

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_ops::MapOp;
use mixdown_ops::matrix::axes::{Axis, Fact};
use mixdown_ops::program::{Reduction, Standing};
use mixdown_ops::random;
use mixdown_ops::selection::Ties;

use super::Call;
use super::arguments::over_lists;
use super::axes::{along, axis_fact_of};
use crate::families::layer;
use crate::families::tensor_class::Class;
use crate::formulas::graph::{GroupKey, LayerKey, Node, NodeId, Reach};
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value};

/// A tensor is needed; a scalar has no elements to go over.
pub(super) fn tensors(
    lowering: &mut Lowering<'_>,
    items: &[Typed],
    span: Span,
) -> Result<(), Reported> {
    if items.iter().all(|item| item.kind.is_tensor()) {
        return Ok(());
    }
    let other = items.iter().find(|item| !item.kind.is_tensor());
    let found = other.map_or(Kind::Scalar, |item| item.kind).name();
    let headline = format!("a tensor is needed here, found {found}");
    Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
}

pub(super) fn reduce(
    lowering: &mut Lowering<'_>,
    reduction: Reduction,
    items: &[Typed],
    span: Span,
) -> Result<Typed, Reported> {
    reduce_over(lowering, reduction, items, Reach::Tensor, span)
}

pub(super) fn reduce_over(
    lowering: &mut Lowering<'_>,
    reduction: Reduction,
    items: &[Typed],
    reach: Reach,
    span: Span,
) -> Result<Typed, Reported> {
    tensors(lowering, items, span)?;
    let nodes: Vec<_> = items.iter().map(|item| item.node).collect();
    Ok(Typed {
        node: lowering.graph.add(Node::Reduce(reduction, reach), &nodes),
        kind: Kind::Scalar,
    })
}

/// `norm`: √Σ x².
pub(super) fn norm(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let scopes: Vec<&str> = REDUCTION_SCOPES.iter().copied().chain(["matrix"]).collect();
    scoped_by(lowering, call, 1, &scopes, |lowering, items, scope, span| {
        let square = match (scope, lowering.class) {
            (Some("matrix"), Some(Class::Matrix(layout))) if layout.matrices > 1 => {
                let product = [items[0], items[0]];
                let each = [layout.matrices, layout.rows.saturating_mul(layout.columns)];
                axis_fact_of(lowering, Fact::SumProduct, Axis::Rows, &each, &product, span)?
            }
            // A tensor that is one matrix, or none.
            (Some("matrix"), _) => sum_of_products(lowering, items[0], items[0], None, span)?,
            (scope, _) => sum_of_products(lowering, items[0], items[0], scope, span)?,
        };
        lowering.map_one(MapOp::Sqrt, &[square], span)
    })
}

/// `total`: Σ x.
pub(super) fn total(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    scoped(lowering, call, 1, |lowering, items, scope, span| {
        if let Some((axis, dimensions)) = along(lowering, scope, span)? {
            return axis_fact_of(lowering, Fact::Sum, axis, &dimensions, items, span);
        }
        let reach = reach(lowering, scope);
        reduce_over(lowering, Reduction::Sum, items, reach, span)
    })
}

/// `largest_magnitude`: max |x|.
pub(super) fn largest_magnitude(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let options = call.options(lowering, &[("scope", REDUCTION_SCOPES)]);
    let values = call.positional(lowering, 1)?;
    let scope = options?.remove(0);
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        if let Some((axis, dimensions)) = along(lowering, scope.as_deref(), span)? {
            let magnitude = lowering.map_one(MapOp::Abs, items, span)?;
            return axis_fact_of(lowering, Fact::Highest, axis, &dimensions, &[magnitude], span);
        }
        let reach = reach(lowering, scope.as_deref());
        reduce_over(lowering, Reduction::LargestAbsolute, items, reach, span)
    })
}

/// `stored`: rounded to the type of the base as it is stored.
pub(super) fn stored(
    lowering: &mut Lowering<'_>,
    items: &[Typed],
    _: Span,
) -> Result<Typed, Reported> {
    let item = items[0];
    Ok(match lowering.inputs.stored {
        Some(dtype) if item.kind.is_tensor() => {
            Typed { node: lowering.graph.add(Node::Round(dtype), &[item.node]), ..item }
        }
        _ => item,
    })
}

/// `norm2`: Σ x².
pub(super) fn norm2(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    scoped(lowering, call, 1, |lowering, items, scope, span| {
        sum_of_products(lowering, items[0], items[0], scope, span)
    })
}

/// `dot`: Σ a·b.
pub(super) fn dot(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    scoped(lowering, call, 2, |lowering, items, scope, span| {
        sum_of_products(lowering, items[0], items[1], scope, span)
    })
}

/// `cosine`: a·b / (‖a‖·‖b‖).
pub(super) fn cosine(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    scoped(lowering, call, 2, cosine_of)
}

/// Mapped over lists, with the scope that the call names.
fn scoped(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
    arity: usize,
    apply: impl Fn(&mut Lowering<'_>, &[Typed], Option<&str>, Span) -> Result<Typed, Reported>,
) -> Result<Value, Reported> {
    scoped_by(lowering, call, arity, REDUCTION_SCOPES, apply)
}

/// The same with other scopes.
fn scoped_by(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
    arity: usize,
    scopes: &[&str],
    apply: impl Fn(&mut Lowering<'_>, &[Typed], Option<&str>, Span) -> Result<Typed, Reported>,
) -> Result<Value, Reported> {
    let options = call.options(lowering, &[("scope", scopes)]);
    let values = call.positional(lowering, arity)?;
    let options = options?;
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        apply(lowering, items, options[0].as_deref(), span)
    })
}

pub(super) fn sum_of_products(
    lowering: &mut Lowering<'_>,
    left: Typed,
    right: Typed,
    scope: Option<&str>,
    span: Span,
) -> Result<Typed, Reported> {
    tensors(lowering, &[left, right], span)?;
    if let Some((axis, dimensions)) = along(lowering, scope, span)? {
        return axis_fact_of(lowering, Fact::SumProduct, axis, &dimensions, &[left, right], span);
    }
    let reach = reach(lowering, scope);
    reduce_over(lowering, Reduction::SumProduct, &[left, right], reach, span)
}

pub(super) fn cosine_of(
    lowering: &mut Lowering<'_>,
    items: &[Typed],
    scope: Option<&str>,
    span: Span,
) -> Result<Typed, Reported> {
    let dot = sum_of_products(lowering, items[0], items[1], scope, span)?;
    let mut norm = |item: Typed| {
        let square = sum_of_products(lowering, item, item, scope, span)?;
        lowering.map_one(MapOp::Sqrt, &[square], span)
    };
    let (left, right) = (norm(items[0])?, norm(items[1])?);
    let product = lowering.map_one(MapOp::Multiply, &[left, right], span)?;
    let zero = Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar };
    let one = Typed { node: lowering.graph.constant(1.0), kind: Kind::Scalar };
    let is_zero = lowering.map_one(MapOp::Equal, &[product, zero], span)?;
    let divisor = lowering.map_one(MapOp::Where, &[is_zero, one, product], span)?;
    lowering.map_one(MapOp::Divide, &[dot, divisor], span)
}

pub(super) fn count(
    lowering: &mut Lowering<'_>,
    items: &[Typed],
    span: Span,
) -> Result<Typed, Reported> {
    tensors(lowering, items, span)?;
    let elements = lowering.inputs.elements as f64;
    Ok(Typed { node: lowering.graph.constant(elements), kind: Kind::Scalar })
}

/// A new fact of scope `model` or `layer`, or of this tensor. A tensor outside layers is a layer of its own.
pub(super) fn reach(lowering: &mut Lowering<'_>, scope: Option<&str>) -> Reach {
    let layer = match scope {
        Some("model") => None,
        Some("layer") => match layer::split(lowering.inputs.own.name()) {
            Some(name) => Some((name.prefix.to_owned(), name.layer)),
            None => return Reach::Tensor,
        },
        _ => return Reach::Tensor,
    };
    Reach::Group(group(lowering, layer))
}

/// A new fact about all tensors, or those of a layer.
fn group(lowering: &mut Lowering<'_>, layer: Option<LayerKey>) -> u32 {
    let key = GroupKey {
        section: lowering.inputs.section,
        layer,
        step: lowering.step.clone(),
        ordinal: lowering.facts,
    };
    lowering.facts += 1;
    let own = match layer::split(lowering.inputs.own.name()) {
        Some(name) => (name.prefix.to_owned(), name.layer),
        None => (lowering.inputs.own.name().to_owned(), 0),
    };
    lowering.graph.group(key, own)
}

/// `position`: the place of a layer's number among those of all layers.
pub(super) fn position(
    lowering: &mut Lowering<'_>,
    items: &[Typed],
    span: Span,
) -> Result<Typed, Reported> {
    if items[0].kind != Kind::Scalar {
        let headline =
            format!("`position` compares numbers of layers, found {}", items[0].kind.name());
        let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline)
            .help("make one of them first, for example with `norm2(x, scope=\"layer\")`");
        return Err(lowering.report(diagnostic, span));
    }
    if layer::split(lowering.inputs.own.name()).is_some()
        && depends_on_tensor(lowering, items[0].node)
    {
        let headline = "`position` compares layers, and this number differs from tensor to tensor";
        let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline)
            .help("take facts of whole layers, with `scope=\"layer\"`");
        return Err(lowering.report(diagnostic, span));
    }
    let group = group(lowering, None);
    let node = lowering.graph.add(Node::Standing(Standing::Position, group), &[items[0].node]);
    Ok(Typed { node, kind: Kind::Scalar })
}

/// Whether a scalar is made from a fact about one tensor.
pub(super) fn depends_on_tensor(lowering: &Lowering<'_>, node: NodeId) -> bool {
    let mut open = vec![node];
    while let Some(id) = open.pop() {
        match lowering.graph.nodes[id] {
            Node::Reduce(_, Reach::Tensor) | Node::LeastOfLargest(Reach::Tensor) => return true,
            // What a fact about several tensors is made from may differ between them.
            Node::Reduce(..) | Node::LeastOfLargest(_) | Node::Standing(..) => {}
            _ => open.extend(lowering.graph.operands(id)),
        }
    }
    false
}

/// `layers`: how many there are.
pub(super) fn layers(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    call.values(lowering, 0)?;
    let group = group(lowering, None);
    let any = lowering.graph.constant(0.0);
    let node = lowering.graph.add(Node::Standing(Standing::Count, group), &[any]);
    Ok(Value::One(Typed { node, kind: Kind::Scalar }))
}

/// Scopes of thresholds, and of what votes.
pub(super) const SCOPES: &[&str] = &["tensor", "model"];

/// Scopes of sums.
pub(super) const REDUCTION_SCOPES: &[&str] =
    &["tensor", "layer", "model", "row", "column", "output"];

pub(super) fn keep_largest(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let known: &[(&str, &[&str])] = &[("ties", &["exact", "inclusive"]), ("scope", SCOPES)];
    let options = call.options_beside(lowering, known, &["among"]);
    let mut values = call.positional(lowering, 2)?;
    let options = options?;
    let is_stack = matches!(lowering.class, Some(Class::Matrix(layout)) if layout.matrices > 1);
    if let Some(among) = call.value_of(lowering, "among")? {
        let count = |lowering: &mut Lowering<'_>, items: &[Typed], span| {
            tensors(lowering, items, span)?;
            let reach = reach(lowering, options[1].as_deref());
            reduce_over(lowering, Reduction::CountNonzero, items, reach, span)
        };
        values.push(over_lists(lowering, &[among], call.span, count)?);
    }
    let ties =
        if options[0].as_deref() == Some("inclusive") { Ties::Inclusive } else { Ties::Exact };
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        tensors(lowering, &items[..1], span)?;
        density_is_scalar(lowering, items[1], span)?;
        match lowering.graph.value(items[1].node) {
            Some(density) if density >= 1.0 => return Ok(items[0]),
            Some(density) if density <= 0.0 => return zeroed(lowering, items[0], span),
            _ => {}
        }
        if is_stack && options[1].as_deref() == Some("tensor") {
            let tensor = lowering.inputs.own.name();
            let headline = format!(
                "`{tensor}` is a stack of matrices, and a share would be one of all of them"
            );
            let diagnostic = Diagnostic::error(codes::STACKED_MATRICES, headline).help(
                "give them another method in a rule of their own, or a share of 1; or write `scope: model` where the method has it",
            );
            return Err(lowering.report(diagnostic, call.span));
        }
        let reach = reach(lowering, options[1].as_deref());
        let node = Node::KeepLargest(ties, reach);
        let operands: Vec<_> = items.iter().map(|item| item.node).collect();
        let node = lowering.graph.add(node, &operands);
        Ok(Typed { node, kind: items[0].kind })
    })
}

pub(super) fn keep_random(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    call.options(lowering, &[])?;
    let values = call.positional(lowering, 2)?;
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        tensors(lowering, &items[..1], span)?;
        if !items[1].kind.is_tensor() {
            density_is_scalar(lowering, items[1], span)?;
            is_probability(lowering, items[1], call.arguments[1].span)?;
        }
        let expert = u64::from(lowering.facts);
        lowering.facts += 1;
        match lowering.graph.value(items[1].node) {
            Some(density) if density >= 1.0 => return Ok(items[0]),
            Some(density) if density <= 0.0 => return zeroed(lowering, items[0], span),
            _ => {}
        }
        let op = format!("keep_random {}", lowering.step);
        let key = lowering.inputs.own.draw(lowering.inputs.seed, op, expert);
        let stream = lowering.graph.stream(key);
        let node = lowering.graph.add(Node::KeepRandom(stream), &[items[0].node, items[1].node]);
        Ok(Typed { node, kind: items[0].kind })
    })
}

/// Refuses a probability, where it is known, that is none. What is found while a merge runs is looked at there.
fn is_probability(lowering: &mut Lowering<'_>, item: Typed, span: Span) -> Result<(), Reported> {
    let Some(found) = lowering.graph.value(item.node) else { return Ok(()) };
    // A method checked by itself does not know its parameters.
    if random::is_probability(found) || lowering.inputs.shape.is_none() {
        return Ok(());
    }
    let headline = format!("a probability lies between 0 and 1, found {found}");
    let diagnostic = Diagnostic::error(codes::OUT_OF_RANGE, headline)
        .help("bound it, with `clamp(…, 0, 1)`, or give the parameter it is made of a range");
    Err(lowering.report(diagnostic, span))
}

pub(super) fn density_is_scalar(
    lowering: &mut Lowering<'_>,
    item: Typed,
    span: Span,
) -> Result<(), Reported> {
    if item.kind == Kind::Scalar {
        return Ok(());
    }
    let headline = format!("a density is a scalar, found {}", item.kind.name());
    Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
}

pub(super) fn zeroed(
    lowering: &mut Lowering<'_>,
    item: Typed,
    span: Span,
) -> Result<Typed, Reported> {
    let zero = Typed { node: lowering.graph.constant(0.0), kind: Kind::Scalar };
    lowering.map_one(MapOp::Multiply, &[zero, item], span)
}
