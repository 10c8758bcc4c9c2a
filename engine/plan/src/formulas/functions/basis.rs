//! Functions of the basis that matrices share: what they are in it, and the way back.

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_ops::matrix::MatrixOp;

use super::Call;
use super::matrix::{apply, layout, several};
use super::within::tensors;
use crate::formulas::graph::{Node, NodeId};
use crate::formulas::kind::Kind;
use crate::formulas::lower::{Lowering, Reported, Typed, Value, describe};
use crate::plan::Rectangle;

/// The result of the op that finds a basis, and what is where in it.
struct Basis {
    node: NodeId,
    kind: Kind,
    experts: u64,
    /// Of each operand; zeros where a method is checked by itself.
    shape: (u64, u64),
    /// Rows of the result: those of the bases of all matrices.
    rows: u64,
}

impl Basis {
    fn of(lowering: &mut Lowering<'_>, values: &[Value], span: Span) -> Result<Self, Reported> {
        let kind = match values.first() {
            Some(Value::One(first)) => first.kind,
            _ => Kind::Number,
        };
        // The op refuses what is no matrix.
        let found = apply(lowering, MatrixOp::CommonBasis, values, span)?;
        let layout = layout(lowering, &MatrixOp::CommonBasis, span)?;
        let experts = values.len() as u64;
        let rows = layout.basis_rows(experts).saturating_mul(layout.matrices);
        match found {
            Value::One(Typed { node, .. }) => {
                Ok(Self { node, kind, experts, shape: layout.shape(), rows })
            }
            other => {
                let headline =
                    format!("a list over the experts is needed, found {}", describe(&other));
                Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), span))
            }
        }
    }

    fn all_columns(&self) -> u64 {
        self.shape.1.saturating_mul(self.experts)
    }

    /// Columns of the result, from this one on; with a step of 0 all are that one.
    fn part(
        &self,
        lowering: &mut Lowering<'_>,
        start: u64,
        column_step: u64,
        columns: u64,
    ) -> NodeId {
        let part = Rectangle {
            start,
            row_step: self.all_columns().saturating_add(self.shape.0).saturating_add(1),
            column_step,
            rows: self.rows,
            columns,
        };
        lowering.graph.add(Node::Part(part), &[self.node])
    }
}

/// `coordinates`: for each value what it is in the basis that all of them share.
pub(super) fn coordinates(lowering: &mut Lowering<'_>, call: &Call<'_>) -> Result<Value, Reported> {
    let (values, _) = several(lowering, call, &[])?;
    if values.is_empty() {
        return Ok(Value::List(Vec::new()));
    }
    let basis = Basis::of(lowering, &values, call.span)?;
    let columns = basis.shape.1;
    let own = (0..basis.experts).map(|expert| {
        let node = basis.part(lowering, expert * columns, 1, columns);
        Typed { node, kind: Kind::Number }
    });
    Ok(Value::List(own.collect()))
}

/// `is_coordinate`: 1 in the rows of coordinates that stand for a direction.
pub(super) fn is_coordinate(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let (values, _) = several(lowering, call, &[])?;
    let basis = Basis::of(lowering, &values, call.span)?;
    let last = basis.all_columns().saturating_add(basis.shape.0);
    let node = basis.part(lowering, last, 0, basis.shape.1);
    Ok(Value::One(Typed { node, kind: Kind::Mask }))
}

/// `from_coordinates`: what has these coordinates in the basis that the values share.
pub(super) fn from_coordinates(
    lowering: &mut Lowering<'_>,
    call: &Call<'_>,
) -> Result<Value, Reported> {
    let values = call.values(lowering, 2)?;
    let (coordinates, shared) = match (&values[0], &values[1]) {
        (Value::One(coordinates), Value::List(shared)) => (*coordinates, shared.clone()),
        (Value::One(_), other) => {
            let headline = format!("a list over the experts is needed, found {}", describe(other));
            return Err(lowering.report(Diagnostic::error(codes::WRONG_KIND, headline), call.span));
        }
        (other, _) => {
            let headline =
                format!("one tensor of coordinates is needed, found {}", describe(other));
            let diagnostic = Diagnostic::error(codes::WRONG_KIND, headline)
                .help("merge the experts' coordinates first, for example with `sum`");
            return Err(lowering.report(diagnostic, call.span));
        }
    };
    tensors(lowering, &[coordinates], call.span)?;
    let shared: Vec<Value> = shared.into_iter().map(Value::One).collect();
    let basis = Basis::of(lowering, &shared, call.span)?;
    let rows = basis.part(lowering, basis.all_columns(), 1, basis.shape.0);
    let op = MatrixOp::OutOfBasis { experts: basis.experts as u32 };
    let layout = layout(lowering, &op, call.span)?;
    let node = lowering.graph.add(Node::Matrix(op, layout), &[coordinates.node, rows]);
    Ok(Value::One(Typed { node, kind: basis.kind }))
}
