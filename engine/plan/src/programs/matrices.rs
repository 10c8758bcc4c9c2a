//! Takes the matrix ops out of a graph: what is left are block programs over their results.
//!
//! A matrix op becomes a step of the job, each of its operands a block program of one pass, and its
//! result a leaf like a tensor of a file. What operands need to know of whole tensors, passes of the
//! job's own program find before it.

use std::collections::HashMap;

use mixdown_ops::matrix::{MatrixLayout, MatrixOp};

use crate::formulas::graph::{Graph, Node, NodeId, Reach};
use crate::formulas::linear;
use crate::plan::Leaf;

/// A graph without matrix ops, and these.
#[derive(Debug)]
pub(crate) struct Split {
    /// Block programs are compiled from its nodes.
    pub graph: Graph,
    /// The output's node in it.
    pub output: NodeId,
    /// The matrix ops, each after those that it reads; [`Leaf::Matrix`] names them by position.
    pub steps: Vec<SplitStep>,
}

/// A matrix op and its operands as nodes of the split graph.
#[derive(Debug)]
pub(crate) struct SplitStep {
    pub op: MatrixOp,
    pub layout: MatrixLayout,
    pub operands: Vec<NodeId>,
}

/// Takes out the matrix ops that `output` needs; none if there are none.
pub(crate) fn split(graph: &Graph, output: NodeId) -> Option<Split> {
    let needed = graph.needed(&[output]);
    if !needed.iter().any(|&id| matches!(graph.nodes[id], Node::Matrix(..))) {
        return None;
    }
    let mut rest = graph.without_nodes();
    let mut here: HashMap<NodeId, NodeId> = HashMap::new();
    let mut steps = Vec::new();
    for id in needed {
        let operands: Vec<NodeId> =
            graph.operands(id).iter().map(|operand| here[operand]).collect();
        let new = match &graph.nodes[id] {
            Node::Matrix(op, layout) => {
                steps.push(SplitStep { op: op.clone(), layout: *layout, operands });
                rest.leaf(Leaf::Matrix(steps.len() as u32 - 1))
            }
            Node::Part(part) => match result_of(&rest, operands[0]) {
                Some(step) => rest.leaf(Leaf::Part(step, *part)),
                None => unreachable!("only results of matrix ops have parts"),
            },
            node => rest.add(node.clone(), &operands),
        };
        here.insert(id, new);
    }
    rest.base = graph.base.and_then(|base| here.get(&base).copied());
    Some(Split { output: here[&output], graph: rest, steps })
}

/// The matrix op whose result a node is.
fn result_of(graph: &Graph, id: NodeId) -> Option<u32> {
    match graph.nodes[id] {
        Node::Leaf(leaf) => match graph.leaves[leaf as usize] {
            Leaf::Matrix(step) => Some(step),
            _ => None,
        },
        _ => None,
    }
}

impl Split {
    /// Whether a matrix op is applied to what depends on several tensors.
    pub fn needs_group(&self) -> bool {
        let operands: Vec<NodeId> =
            self.steps.iter().flat_map(|step| step.operands.clone()).collect();
        self.graph.needed(&operands).into_iter().any(|id| {
            matches!(
                self.graph.nodes[id],
                Node::Reduce(_, Reach::Group(_))
                    | Node::KeepLargest(_, Reach::Group(_))
                    | Node::KeepCount(Reach::Group(_))
                    | Node::LeastOfLargest(Reach::Group(_))
                    | Node::Standing(..)
            )
        })
    }

    /// The leaves that a node is a linear combination of, with their factors, where all of them may be
    /// low-rank: such a value needs not be multiplied out. None are left of a value that is 0.
    pub fn combination(&self, id: NodeId) -> Option<Vec<(Leaf, f64)>> {
        linear::combination(&self.graph, id, |leaf| {
            matches!(leaf, Leaf::Product(_) | Leaf::Matrix(_))
        })
    }

    /// The tensors of files that a node is a linear combination of, with their factors; none where it is not
    /// one of them alone.
    pub fn stored(&self, id: NodeId) -> Option<Vec<(Leaf, f64)>> {
        linear::combination(&self.graph, id, |leaf| {
            matches!(leaf, Leaf::Tensor(_) | Leaf::Assembled(..))
        })
    }
}
