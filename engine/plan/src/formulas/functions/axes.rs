//! Functions of rows and columns, and what is found from the products of all pairs of tensors.
//!
//! They look at tensors of any shape: the rows of one with more than two dimensions go along its last, its
//! columns along its first, and what has one dimension is one row.

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_ops::MapOp;
use mixdown_ops::matrix::axes::{Axis, Fact, Karcher};
use mixdown_ops::matrix::{MatrixLayout, MatrixOp};

use super::Call;
use super::arguments::over_lists;
use super::matrix::several;
use super::settings::Bounds;
use super::within::{REDUCTION_SCOPES, sum_of_products, tensors, zeroed};
use crate::families::tensor_class::Class;
use crate::formulas::graph::{Node, NodeId};
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value};
use crate::plan::Rectangle;

/// What a scope's facts are of: rows or columns, of the tensor seen in these dimensions.
pub(super) type Along = (Axis, Vec<u64>);

/// Along what the facts of a scope go; none where it is no scope of rows or columns. What makes an output of a
/// linear weight is a row, a column where inputs come first, and of a convolution all that follows the outputs.
///
/// **Errors.** Outputs of a stack of matrices that has its inputs first, whose facts lie in no two dimensions.
pub(super) fn along(
    lowering: &mut Lowering<'_>,
    scope: Option<&str>,
    span: Span,
) -> Result<Option<Along>, Reported> {
    let own = lowering.inputs.shape.unwrap_or_default().to_vec();
    Ok(Some(match (scope, lowering.class) {
        (Some("row"), _) => (Axis::Rows, own),
        (Some("column"), _) => (Axis::Columns, own),
        (Some("output"), Some(Class::Matrix(layout))) => {
            let MatrixLayout { matrices, rows, columns, inputs_first } = layout;
            match (matrices, inputs_first) {
                (_, false) => (Axis::Rows, vec![matrices.saturating_mul(rows), columns]),
                (1, true) => (Axis::Columns, vec![rows, columns]),
                (_, true) => return Err(outputs_of_stack(lowering, span)),
            }
        }
        (Some("output"), _) => (Axis::Rows, own),
        _ => return Ok(None),
    }))
}

/// Reports facts about the outputs of a stack of matrices that has its inputs first.
fn outputs_of_stack(lowering: &mut Lowering<'_>, span: Span) -> Reported {
    let tensor = lowering.inputs.own.name();
    let headline = format!("`{tensor}` is a stack of matrices with inputs first");
    let diagnostic = Diagnostic::error(codes::STACKED_MATRICES, headline)
        .note("what each of their outputs is made of cannot be looked at")
        .help("give them another method in a rule of their own");
    lowering.report(diagnostic, span)
}

/// A fact about each row or column, the same number in all its elements.
pub(super) fn axis_fact(
    lowering: &mut Lowering<'_>,
    fact: Fact,
    axis: Axis,
    items: &[Typed],
    span: Span,
) -> Result<Typed, Reported> {
    let dimensions = lowering.inputs.shape.unwrap_or_default();
    axis_fact_of(lowering, fact, axis, dimensions, items, span)
}

/// The same for a tensor that is seen in other dimensions than its own, of as many elements.
pub(super) fn axis_fact_of(
    lowering: &mut Lowering<'_>,
    fact: Fact,
    axis: Axis,
    dimensions: &[u64],
    items: &[Typed],
    span: Span,
) -> Result<Typed, Reported> {
    tensors(lowering, items, span)?;
    if is_empty(lowering) {
        let nothing = zeroed(lowering, items[0], span)?;
        return Ok(Typed { kind: Kind::Number, ..nothing });
    }
    let (rows, columns) = axis.view(dimensions);
    let layout = MatrixLayout::plain(rows, columns);
    let axis = axis.of(dimensions);
    let mut nodes: Vec<NodeId> = items.iter().map(|item| item.node).collect();
    // A square is read once.
    nodes.dedup();
    let facts = lowering.graph.add(Node::Matrix(MatrixOp::AxisFact(fact, axis), layout), &nodes);
    let (row_step, column_step) = if axis == Axis::Rows { (1, 0) } else { (0, 1) };
    let part = Rectangle { start: 0, row_step, column_step, rows, columns };
    let node = lowering.graph.add(Node::Part(part), &[facts]);
    Ok(Typed { node, kind: Kind::Number })
}

/// Whether the tensor has no elements, so that there is nothing to look at.
fn is_empty(lowering: &Lowering<'_>) -> bool {
    lowering.inputs.shape.is_some() && lowering.inputs.elements == 0
}

/// `highest`: the largest element of each row or column, with its sign.
pub(super) fn highest(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let options = call.options(lowering, &[("scope", &["row", "column"])]);
    let values = call.positional(lowering, 1)?;
    let axis = match options?[0].as_deref() {
        Some("column") => Axis::Columns,
        _ => Axis::Rows,
    };
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        axis_fact(lowering, Fact::Highest, axis, items, span)
    })
}

/// `place_in_row`: the place of each magnitude among those of its row.
pub(super) fn place_in_row(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let values = call.values(lowering, 1)?;
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        tensors(lowering, items, span)?;
        let (rows, columns) = Axis::Rows.view(lowering.inputs.shape.unwrap_or_default());
        let place = Node::Matrix(MatrixOp::PlaceInRow, MatrixLayout::plain(rows, columns));
        let node = lowering.graph.add(place, &[items[0].node]);
        Ok(Typed { node, kind: Kind::Number })
    })
}

/// `row_length`: how many elements a row has.
pub(super) fn row_length(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let values = call.values(lowering, 1)?;
    over_lists(lowering, &values, call.span, |lowering, items, span| {
        tensors(lowering, items, span)?;
        match lowering.inputs.shape {
            Some(dimensions) => {
                let length = Axis::Rows.view(dimensions).1 as f64;
                Ok(Typed { node: lowering.graph.constant(length), kind: Kind::Scalar })
            }
            None => Ok(lowering.unknown_scalar()),
        }
    })
}

/// `mean_cosine`: the mean over all pairs of the cosine of their angle.
pub(super) fn mean_cosine(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let words: Vec<(&str, &str)> = REDUCTION_SCOPES.iter().map(|&word| (word, word)).collect();
    let (values, mut settings) = several(lowering, call, &["floor", "scope"])?;
    let scope = settings.choice(lowering, "scope", &words)?;
    let floor = settings.bounded(lowering, "floor", 0.0, &NOT_NEGATIVE)?.get();
    let items: Vec<Typed> =
        values.iter().map(|value| crate::formulas::lower::item(value, 0)).collect();
    if items.len() < 2 {
        let headline = format!("`mean_cosine` is over pairs, and found {} of experts", items.len());
        let diagnostic = Diagnostic::error(codes::WRONG_INPUTS, headline)
            .help("let the method take more: `experts: {at_least: 2}`");
        return Err(lowering.report(diagnostic, call.span));
    }
    let norms = items.iter().map(|&item| {
        let square = sum_of_products(lowering, item, item, Some(scope), call.span)?;
        lowering.map_one(MapOp::Sqrt, &[square], call.span)
    });
    let norms: Vec<Typed> = norms.collect::<Result<_, _>>()?;
    let mut sum = None;
    for right in 1..items.len() {
        for left in 0..right {
            let dot = sum_of_products(lowering, items[left], items[right], Some(scope), call.span)?;
            let cosine = pair_cosine(lowering, dot, [norms[left], norms[right]], floor, call.span)?;
            sum = Some(match sum {
                Some(sum) => lowering.map_one(MapOp::Add, &[sum, cosine], call.span)?,
                None => cosine,
            });
        }
    }
    let pairs = constant(lowering, (items.len() * (items.len() - 1) / 2) as f64);
    let sum = sum.unwrap_or(pairs);
    Ok(Value::One(lowering.map_one(MapOp::Divide, &[sum, pairs], call.span)?))
}

/// The cosine of a pair's angle; 0 where a length vanishes and nothing else bounds it from below.
fn pair_cosine(
    lowering: &mut Lowering<'_>,
    dot: Typed,
    norms: [Typed; 2],
    floor: f64,
    span: Span,
) -> Result<Typed, Reported> {
    let product = lowering.map_one(MapOp::Multiply, &norms, span)?;
    let divisor = match floor > 0.0 {
        true => {
            let floor = constant(lowering, floor);
            lowering.map_one(MapOp::Maximum, &[product, floor], span)?
        }
        false => {
            let (zero, one) = (constant(lowering, 0.0), constant(lowering, 1.0));
            let is_zero = lowering.map_one(MapOp::Equal, &[product, zero], span)?;
            lowering.map_one(MapOp::Where, &[is_zero, one, product], span)?
        }
    };
    let cosine = lowering.map_one(MapOp::Divide, &[dot, divisor], span)?;
    let (low, high) = (constant(lowering, -1.0), constant(lowering, 1.0));
    lowering.map_one(MapOp::Clamp, &[cosine, low, high], span)
}

/// `karcher_weights`: what each value counts in the Karcher mean of all.
pub(super) fn karcher_weights(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (values, mut settings) = several(lowering, call, &["max_iter", "tol"])?;
    let max_iter = settings.count(lowering, "max_iter", 10)?;
    let tol = settings.bounded(lowering, "tol", 1e-5, &NOT_NEGATIVE)?;
    let items: Vec<Typed> =
        values.iter().map(|value| crate::formulas::lower::item(value, 0)).collect();
    tensors(lowering, &items, call.span)?;
    if is_empty(lowering) {
        let nothing = constant(lowering, 0.0);
        return Ok(Value::List(vec![nothing; items.len()]));
    }
    let nodes: Vec<NodeId> = items.iter().map(|item| item.node).collect();
    let op = MatrixOp::KarcherWeights(Karcher { max_iter, tol });
    let (rows, columns) = Axis::Rows.view(lowering.inputs.shape.unwrap_or_default());
    let op = Node::Matrix(op, MatrixLayout::plain(rows, columns));
    let weights = lowering.graph.add(op, &nodes);
    let own = (0..nodes.len() as u64).map(|start| {
        let part = Rectangle { start, row_step: 0, column_step: 0, rows, columns };
        let node = lowering.graph.add(Node::Part(part), &[weights]);
        Typed { node, kind: Kind::Number }
    });
    Ok(Value::List(own.collect()))
}

const NOT_NEGATIVE: Bounds = Bounds {
    fits: |number| number >= 0.0 && number.is_finite(),
    words: "a number from 0",
    help: "write it without a sign",
};

fn constant(lowering: &mut Lowering<'_>, number: f64) -> Typed {
    Typed { node: lowering.graph.constant(number), kind: Kind::Scalar }
}
