//! What of a graph is a linear combination of leaves.

use std::collections::{BTreeMap, HashSet};

use mixdown_ops::MapOp;

use crate::formulas::graph::{Graph, Node, NodeId};
use crate::plan::Leaf;

/// The leaves that a node is a linear combination of, with their factors, in the order in which the formula
/// names them; none where it is no such combination of leaves that are taken.
///
/// Each node is looked at once, however often it is used: a formula whose steps double has as many paths as
/// there are numbers of that many bits.
pub(crate) fn combination(
    graph: &Graph,
    id: NodeId,
    takes: impl Fn(&Leaf) -> bool,
) -> Option<Vec<(Leaf, f64)>> {
    // Operands have lower indexes than their users, so that from the highest down each factor is whole
    // before it is handed on.
    let mut open = BTreeMap::from([(id, 1.0)]);
    let mut factors = BTreeMap::new();
    while let Some((id, factor)) = open.pop_last() {
        if let Node::Leaf(_) = graph.nodes[id] {
            factors.insert(id, factor);
        }
        for (operand, by) in operands(graph, id, &takes)? {
            *open.entry(operand).or_insert(0.0) += by.of(factor);
        }
    }
    let mut terms = Vec::with_capacity(factors.len());
    let (mut next, mut seen) = (vec![id], HashSet::new());
    while let Some(id) = next.pop().filter(|_| terms.len() < factors.len()) {
        if !seen.insert(id) {
            continue;
        }
        if let (Node::Leaf(position), Some(&factor)) = (&graph.nodes[id], factors.get(&id)) {
            terms.push((graph.leaves[*position as usize], factor));
        }
        next.extend(operands(graph, id, &takes)?.into_iter().rev().map(|(operand, _)| operand));
    }
    Some(terms)
}

/// What an operand's factor is made of its user's.
enum By {
    Plus,
    Minus,
    Times(f64),
    Over(f64),
}

impl By {
    fn of(&self, factor: f64) -> f64 {
        match self {
            Self::Plus => factor,
            Self::Minus => -factor,
            Self::Times(by) => factor * by,
            Self::Over(by) => factor / by,
        }
    }
}

/// The operands that a node is a linear combination of; none where it is no such combination.
fn operands(
    graph: &Graph,
    id: NodeId,
    takes: &impl Fn(&Leaf) -> bool,
) -> Option<Vec<(NodeId, By)>> {
    let operands = graph.operands(id);
    let value = |position: usize| graph.value(operands[position]);
    match &graph.nodes[id] {
        Node::Leaf(position) => takes(&graph.leaves[*position as usize]).then(Vec::new),
        Node::Constant(_) => (graph.value(id) == Some(0.0)).then(Vec::new),
        // What an adapter leaves alone: its task vector has no direction, whatever the weight is.
        Node::Map(MapOp::Subtract) if operands[0] == operands[1] => Some(Vec::new()),
        Node::Map(MapOp::Negate) => Some(vec![(operands[0], By::Minus)]),
        Node::Map(MapOp::Add) => Some(vec![(operands[0], By::Plus), (operands[1], By::Plus)]),
        Node::Map(MapOp::Subtract) => Some(vec![(operands[0], By::Plus), (operands[1], By::Minus)]),
        Node::Map(MapOp::Multiply) => match (value(0), value(1)) {
            (Some(by), None) => Some(vec![(operands[1], By::Times(by))]),
            (None, Some(by)) => Some(vec![(operands[0], By::Times(by))]),
            _ => None,
        },
        Node::Map(MapOp::Divide) => {
            let by = value(1).filter(|&by| by != 0.0)?;
            Some(vec![(operands[0], By::Over(by))])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::TensorRef;

    fn tensor(model: u32) -> Leaf {
        Leaf::Tensor(TensorRef { model, tensor: 0 })
    }

    /// As a tree this graph has 2⁹⁹ leaves.
    #[test]
    fn steps_that_double_are_walked_once() {
        let mut graph = Graph::default();
        let (a, b) = (graph.leaf(tensor(0)), graph.leaf(tensor(1)));
        let mut sum = graph.map(MapOp::Subtract, &[b, a]);
        for _ in 0..99 {
            sum = graph.map(MapOp::Add, &[sum, sum]);
        }
        let factor = 99_f64.exp2();
        let expected = vec![(tensor(1), factor), (tensor(0), -factor)];
        assert_eq!(combination(&graph, sum, |_| true), Some(expected));
        assert_eq!(combination(&graph, sum, |leaf| *leaf != tensor(0)), None);
        let nothing = graph.map(MapOp::Subtract, &[sum, sum]);
        assert_eq!(combination(&graph, nothing, |_| false), Some(Vec::new()));
    }

    /// A chain over many experts must not exhaust the stack.
    #[test]
    fn deep_chains_are_walked() {
        let mut graph = Graph::default();
        let mut sum = graph.leaf(tensor(0));
        for model in 1..20_000 {
            let next = graph.leaf(tensor(model));
            sum = graph.map(MapOp::Add, &[sum, next]);
        }
        let terms = combination(&graph, sum, |_| true).unwrap();
        let expected: Vec<(Leaf, f64)> = (0..20_000).map(|model| (tensor(model), 1.0)).collect();
        assert_eq!(terms, expected);
    }
}
