//! Kinds of values and how they combine: what catches a forgotten `base +` before a byte is read.

use mixdown_ops::MapOp;

/// What a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One number for the whole tensor.
    Scalar,
    /// Parameters of a model.
    Weights,
    /// A difference of weights, a task vector.
    Delta,
    /// 1 where something holds, 0 elsewhere.
    Mask,
    /// −1, 0 or 1 for each element.
    Sign,
    /// Any other number for each element.
    Number,
    /// A matrix of another shape: the Gram matrix of a linear layer's inputs.
    Gram,
}

impl Kind {
    /// Whether it has one value for each element of the tensor.
    pub fn is_tensor(self) -> bool {
        !matches!(self, Self::Scalar | Self::Gram)
    }

    /// As messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "a scalar",
            Self::Weights => "weights",
            Self::Delta => "a task vector",
            Self::Mask => "a mask",
            Self::Sign => "signs",
            Self::Number => "numbers",
            Self::Gram => "a Gram matrix",
        }
    }
}

/// The kind of `op` applied to values of these kinds; an error says in words what does not fit.
pub fn of_map(op: MapOp, kinds: &[Kind]) -> Result<Kind, String> {
    if kinds.iter().all(|&kind| kind == Kind::Scalar) {
        return Ok(Kind::Scalar);
    }
    if kinds.contains(&Kind::Gram) {
        return Err(format!(
            "a Gram matrix has another shape than weights; `{}` works on elements",
            op.name()
        ));
    }
    let kind = of_elements(op, kinds)?;
    // What differs from element to element is no scalar, though all it chooses from is: `where(kept, 1, 0)`.
    Ok(if kind == Kind::Scalar { Kind::Number } else { kind })
}

/// The kind where not all operands are scalars, which a result may take from those that are.
fn of_elements(op: MapOp, kinds: &[Kind]) -> Result<Kind, String> {
    use Kind::{Delta, Mask, Number, Scalar, Sign, Weights};
    match op {
        MapOp::Add => match (kinds[0], kinds[1]) {
            (Weights, Mask | Sign) | (Mask | Sign, Weights) => Err(disagreement("add", kinds)),
            (Weights, _) | (_, Weights) => Ok(Weights),
            (Delta, Mask | Sign) | (Mask | Sign, Delta) => Err(disagreement("add", kinds)),
            (Delta, _) | (_, Delta) => Ok(Delta),
            _ => Ok(Number),
        },
        MapOp::Subtract => match (kinds[0], kinds[1]) {
            (Weights, Weights) => Ok(Delta),
            (Weights, Delta | Scalar | Number) => Ok(Weights),
            (Delta, Delta | Scalar | Number) => Ok(Delta),
            (Weights | Delta, _) => Err(disagreement("subtract", kinds)),
            (Mask | Sign, Weights) => Err(disagreement("subtract", kinds)),
            (_, Weights) => Ok(Weights),
            (_, Delta) => Ok(Delta),
            _ => Ok(Number),
        },
        MapOp::Multiply => Ok(match (kinds[0], kinds[1]) {
            (Weights, Weights) | (Delta, Delta) => Number,
            (Weights, _) | (_, Weights) => Weights,
            (Delta, _) | (_, Delta) => Delta,
            (Mask, Mask) => Mask,
            (Sign, Sign | Mask) | (Mask, Sign) => Sign,
            _ => Number,
        }),
        // A plan's own op; an expression has no name for it.
        MapOp::AddProduct => {
            let product = of_map(MapOp::Multiply, &kinds[1..])?;
            of_map(MapOp::Add, &[kinds[0], product])
        }
        MapOp::Agreeing => Ok(kinds[0]),
        MapOp::Divide | MapOp::DivideUnlessZero => Ok(match (kinds[0], kinds[1]) {
            (Weights, Scalar | Number | Mask) => Weights,
            (Delta, Scalar | Number | Mask) => Delta,
            _ => Number,
        }),
        MapOp::Where => join(kinds[1], kinds[2]).ok_or_else(|| {
            format!("`where` chooses between {} and {}", kinds[1].name(), kinds[2].name())
        }),
        MapOp::Interpolate => join(kinds[0], kinds[1]).ok_or_else(|| {
            format!("`interpolate` goes from {} to {}", kinds[0].name(), kinds[1].name())
        }),
        MapOp::Maximum | MapOp::Minimum => {
            join(kinds[0], kinds[1]).ok_or_else(|| disagreement(op.name(), kinds))
        }
        MapOp::Clamp | MapOp::Abs | MapOp::Negate => Ok(match kinds[0] {
            Mask if op == MapOp::Negate => Number,
            kind => kind,
        }),
        MapOp::Equal
        | MapOp::NotEqual
        | MapOp::Less
        | MapOp::LessEqual
        | MapOp::Greater
        | MapOp::GreaterEqual
        | MapOp::And
        | MapOp::Or
        | MapOp::Not => Ok(Mask),
        MapOp::Sign => Ok(Sign),
        _ => Ok(Number),
    }
}

/// The kind of a value that is one or the other.
fn join(left: Kind, right: Kind) -> Option<Kind> {
    use Kind::{Delta, Number, Scalar, Weights};
    match (left, right) {
        (a, b) if a == b => Some(a),
        (Scalar, Scalar) => Some(Scalar),
        // A scalar fills the elements: `where(kept, delta, 0)`.
        (Scalar, kind @ (Weights | Delta)) | (kind @ (Weights | Delta), Scalar) => Some(kind),
        (Weights, Delta) | (Delta, Weights) => None,
        (Number, kind @ (Weights | Delta)) | (kind @ (Weights | Delta), Number) => Some(kind),
        (Weights | Delta, _) | (_, Weights | Delta) => None,
        _ => Some(Number),
    }
}

fn disagreement(verb: &str, kinds: &[Kind]) -> String {
    let preposition = match verb {
        "subtract" => "from",
        "add" => "to",
        _ => "and",
    };
    match verb {
        "subtract" => {
            format!("cannot subtract {} {preposition} {}", kinds[1].name(), kinds[0].name())
        }
        "add" => format!("cannot add {} {preposition} {}", kinds[1].name(), kinds[0].name()),
        _ => format!("`{verb}` of {} {preposition} {}", kinds[0].name(), kinds[1].name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(op: MapOp, kinds: &[Kind], expected: Option<Kind>) {
        assert_eq!(of_map(op, kinds).ok(), expected, "{op:?} {kinds:?}");
    }

    #[test]
    fn kinds_combine_as_in_papers() {
        use Kind::*;
        check(MapOp::Subtract, &[Weights, Weights], Some(Delta));
        check(MapOp::Add, &[Weights, Delta], Some(Weights));
        check(MapOp::Multiply, &[Scalar, Delta], Some(Delta));
        check(MapOp::Multiply, &[Delta, Mask], Some(Delta));
        check(MapOp::Where, &[Mask, Delta, Scalar], Some(Delta));
        check(MapOp::Greater, &[Delta, Scalar], Some(Mask));
        check(MapOp::Greater, &[Scalar, Scalar], Some(Scalar));
        check(MapOp::Divide, &[Delta, Number], Some(Delta));
    }

    #[test]
    fn what_differs_from_element_to_element_is_no_scalar() {
        use Kind::*;
        for tensor in [Weights, Delta, Mask, Sign, Number] {
            check(MapOp::Where, &[tensor, Scalar, Scalar], Some(Number));
            check(MapOp::Interpolate, &[Scalar, Scalar, tensor], Some(Number));
            check(MapOp::Clamp, &[Scalar, tensor, Scalar], Some(Number));
            check(MapOp::Clamp, &[Scalar, Scalar, tensor], Some(Number));
        }
    }

    #[test]
    fn kinds_that_do_not_fit_are_refused() {
        use Kind::*;
        check(MapOp::Subtract, &[Delta, Weights], None);
        check(MapOp::Add, &[Weights, Sign], None);
        check(MapOp::Where, &[Mask, Delta, Weights], None);
        check(MapOp::Multiply, &[Scalar, Gram], None);
        check(MapOp::Add, &[Weights, Gram], None);
    }
}
