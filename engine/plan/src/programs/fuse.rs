//! Sums of products become one node: half the instructions of a weighted sum, and the same bits.

use std::collections::HashMap;

use mixdown_ops::MapOp;

use crate::formulas::graph::{Graph, Node, NodeId};

/// The part of the graph that `roots` need, with each `a + b·c` as one node, and which node each became.
///
/// A product that something else reads too stays as it is: computing it twice would gain nothing.
pub(crate) fn fuse(
    graph: &Graph,
    roots: &[NodeId],
    needed: &[NodeId],
) -> (Graph, HashMap<NodeId, NodeId>) {
    let mut uses: HashMap<NodeId, usize> = roots.iter().map(|&root| (root, 1)).collect();
    for &id in needed {
        for operand in graph.operands(id) {
            *uses.entry(operand).or_default() += 1;
        }
    }
    let single_product = |id: NodeId| {
        graph.nodes[id] == Node::Map(MapOp::Multiply) && graph.is_tensor(id) && uses[&id] == 1
    };
    let mut fused = graph.without_nodes();
    let mut here: HashMap<NodeId, NodeId> = HashMap::new();
    for &id in needed {
        let operands = graph.operands(id);
        let product = match graph.nodes[id] {
            Node::Map(MapOp::Add) => operands.iter().rposition(|&operand| single_product(operand)),
            _ => None,
        };
        let new = match product {
            Some(position) => {
                let factors = graph.operands(operands[position]);
                let other = operands[1 - position];
                let all = [here[&other], here[&factors[0]], here[&factors[1]]];
                fused.add(Node::Map(MapOp::AddProduct), &all)
            }
            None => {
                let operands: Vec<NodeId> = operands.iter().map(|operand| here[operand]).collect();
                fused.add(graph.nodes[id].clone(), &operands)
            }
        };
        here.insert(id, new);
    }
    (fused, here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Leaf, TensorRef};

    fn graph_of_two() -> (Graph, NodeId, NodeId, NodeId) {
        let mut graph = Graph::default();
        let mut tensor = |model| graph.leaf(Leaf::Tensor(TensorRef { model, tensor: 0 }));
        let (a, b) = (tensor(0), tensor(1));
        let two = graph.constant(2.0);
        let product = graph.map(MapOp::Multiply, &[two, b]);
        (graph, a, b, product)
    }

    #[test]
    fn a_product_used_once_joins_its_sum() {
        let (mut graph, a, _, product) = graph_of_two();
        let sum = graph.map(MapOp::Add, &[product, a]);
        let needed: Vec<NodeId> = graph.nodes.node_indices().collect();
        let (fused, here) = fuse(&graph, &[sum], &needed);
        assert_eq!(fused.nodes[here[&sum]], Node::Map(MapOp::AddProduct));
        let first = fused.operands(here[&sum])[0];
        assert_eq!(fused.nodes[first], Node::Leaf(0), "the other summand comes first");
    }

    #[test]
    fn a_product_that_something_else_reads_stays() {
        let (mut graph, a, b, product) = graph_of_two();
        let sum = graph.map(MapOp::Add, &[a, product]);
        let difference = graph.map(MapOp::Subtract, &[product, b]);
        let both = graph.map(MapOp::Maximum, &[sum, difference]);
        let needed: Vec<NodeId> = graph.nodes.node_indices().collect();
        let (fused, _) = fuse(&graph, &[both], &needed);
        let ops: Vec<&Node> = fused.nodes.node_weights().collect();
        assert!(ops.contains(&&Node::Map(MapOp::Add)), "{ops:?}");
    }
}
