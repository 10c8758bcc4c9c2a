//! What of a graph is a sum of products and tensors, each times a factor.

use mixdown_ops::matrix::OperandShapes;

use crate::formulas::graph::{Graph, NodeId};
use crate::formulas::linear::combination;
use crate::plan::Leaf;
use crate::programs::matrices::{Split, SplitStep};

/// A coefficient this near to 1 is 1 but for the rounding of constants.
const ROUNDING: f64 = 1e-12;

/// The leaves that a node is a linear combination of, with their factors; none where it is no such
/// combination. Leaves whose factors cancel are not among them.
pub(super) fn linear(graph: &Graph, id: NodeId) -> Option<Vec<(Leaf, f64)>> {
    let mut terms = combination(graph, id, |_| true)?;
    terms.retain(|(_, factor)| *factor != 0.0);
    Some(terms)
}

/// What is added to the base; none where the base has another factor than 1.
pub(super) fn without_base(mut terms: Vec<(Leaf, f64)>, base: Leaf) -> Option<Vec<(Leaf, f64)>> {
    let position = terms.iter().position(|(leaf, _)| *leaf == base)?;
    let (_, factor) = terms.remove(position);
    ((factor - 1.0).abs() < ROUNDING).then_some(terms)
}

/// The most directions of a leaf, where they are bounded.
pub(super) fn bounded_rank(split: &Split, leaf: &Leaf, sides: (usize, usize)) -> Option<usize> {
    match leaf {
        Leaf::Product(product) => Some(product.rank as usize),
        Leaf::Matrix(step) => {
            let SplitStep { op, layout, operands } = &split.steps[*step as usize];
            if layout.matrices > 1 {
                return None;
            }
            let of_operand = |&operand: &NodeId| {
                let terms = split.combination(operand)?;
                terms.iter().map(|(leaf, _)| bounded_rank(split, leaf, sides)).sum()
            };
            let ranks = operands.iter().map(of_operand).collect();
            op.result_rank(&OperandShapes { rows: sides.0, columns: sides.1, ranks })
        }
        Leaf::Tensor(_) | Leaf::Rows(_) | Leaf::Assembled(..) | Leaf::Part(..) | Leaf::Factor => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use mixdown_ops::MapOp;

    use super::*;
    use crate::plan::TensorRef;

    fn tensor(model: u32) -> Leaf {
        Leaf::Tensor(TensorRef { model, tensor: 0 })
    }

    #[test]
    fn what_is_added_to_the_base_is_found_through_sums_and_factors() {
        let mut graph = Graph::default();
        let (base, a) = (graph.leaf(tensor(0)), graph.leaf(tensor(1)));
        let delta = graph.map(MapOp::Subtract, &[a, base]);
        let factor = graph.constant(0.25);
        let scaled = graph.map(MapOp::Multiply, &[factor, delta]);
        let kept = graph.map(MapOp::Multiply, &[factor, base]);
        let merged = graph.map(MapOp::Add, &[scaled, kept]);
        assert_eq!(linear(&graph, merged), Some(vec![(tensor(1), 0.25)]));
        let output = graph.map(MapOp::Add, &[base, scaled]);
        let terms = linear(&graph, output).unwrap();
        assert_eq!(without_base(terms, tensor(0)), None, "the base's factor is 0.75");
        let nothing = graph.map(MapOp::Subtract, &[base, base]);
        let same = graph.map(MapOp::Add, &[base, nothing]);
        assert_eq!(without_base(linear(&graph, same).unwrap(), tensor(0)), Some(Vec::new()));
    }
}
