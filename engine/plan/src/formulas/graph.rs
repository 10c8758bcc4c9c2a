//! The graph of one output tensor: nodes over inputs and constants, equal nodes merged, constants folded.

use std::collections::HashMap;
use std::sync::Arc;

use mixdown_ops::MapOp;
use mixdown_ops::matrix::{MatrixLayout, MatrixOp};
use mixdown_ops::program::{Reduction, Standing};
use mixdown_ops::selection::Ties;
use mixdown_tensor::DType;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::plan::{Leaf, Product, Rectangle};

/// A node of a [`Graph`].
pub type NodeId = NodeIndex<u32>;

/// What a node computes. Its operands are the edges that enter it, numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A tensor, by position in [`Graph::leaves`].
    Leaf(u32),
    /// A number known before the merge, as its bits.
    Constant(u64),
    /// An elementwise op; over scalars alone it is a scalar.
    Map(MapOp),
    /// Rounds to a storage type.
    Round(DType),
    /// Keeps the largest magnitudes of operand 0; operand 1 is the density, and operand 2, if there is one,
    /// the count of elements that it is a share of.
    KeepLargest(Ties, Reach),
    /// Keeps the largest magnitudes of operand 0; operand 1 is how many.
    KeepCount(Reach),
    /// The least of the largest magnitudes of operand 0, of which operand 1 is how many: a scalar.
    LeastOfLargest(Reach),
    /// Keeps elements of operand 0 at random; operand 1 is the density, of all or of each; the stream by
    /// position.
    KeepRandom(u32),
    /// A scalar made from all elements.
    Reduce(Reduction, Reach),
    /// A layer's number compared with those of all layers of a group, by position in [`Graph::groups`].
    Standing(Standing, u32),
    /// A matrix op on the matrices of the tensor, which lie in it so. Its result has the tensor's shape, but
    /// for Gram matrices and bases, and [`of_operand`] tells those of its operands.
    ///
    /// [`of_operand`]: mixdown_ops::matrix::MatrixLayout::of_operand
    Matrix(MatrixOp, MatrixLayout),
    /// A part of the result of a matrix op.
    Part(Rectangle),
}

/// Which elements a reduction or a threshold looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Those of this tensor.
    Tensor,
    /// Those of all tensors treated alike, or of those of one layer: by position in [`Graph::groups`].
    Group(u32),
}

/// How one output tensor is computed.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Nodes, and edges from operand to user with the operand's position. Settled graphs of equal nodes
    /// share them.
    pub nodes: Arc<Nodes>,
    /// The tensors it reads.
    pub leaves: Vec<Leaf>,
    /// Keys of the random streams it draws from.
    pub streams: Vec<u64>,
    /// The groups it takes part in, by their identity within the plan, with the layer that its tensor
    /// belongs to there.
    pub groups: Vec<(GroupKey, LayerKey)>,
    /// The base's weights, from which an update is told.
    pub base: Option<NodeId>,
    /// Equal nodes are one: the node by what it computes from what. Empty in a settled graph, and made
    /// again by the next node that is added.
    known: HashMap<(Node, Vec<NodeId>), NodeId>,
    /// For each node, whether it has one value for each element.
    tensors: Arc<Vec<bool>>,
}

/// Nodes, and edges from operand to user.
pub type Nodes = DiGraph<Node, u32, u32>;

/// The nodes of settled graphs, each once. A model has tens of thousands of tensors, and a recipe a few
/// ways to make them.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    known: HashMap<Vec<(Node, Vec<NodeId>)>, Shared>,
}

/// The nodes of a graph, and for each whether it has one value for each element.
type Shared = (Arc<Nodes>, Arc<Vec<bool>>);

/// A layer: what the names of its tensors begin with, and its number. A tensor outside layers is one of its
/// own, by its name.
pub type LayerKey = (String, u64);

/// What makes a group: jobs with the same key share the fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey {
    /// The recipe and its section: a rule, or a module (upper half) with its slice (lower half).
    pub section: (u32, u64),
    /// The layer, for facts about one: what its name begins with, and its number.
    pub layer: Option<(String, u64)>,
    /// The step of the method, and which expert.
    pub step: String,
    /// Counts the facts of one step.
    pub ordinal: u32,
}

impl Graph {
    /// The nodes that these depend on, and these, operands before users.
    pub fn needed(&self, roots: &[NodeId]) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.node_count()];
        let mut open = roots.to_vec();
        roots.iter().for_each(|root| seen[root.index()] = true);
        while let Some(id) = open.pop() {
            for operand in self.operands(id) {
                if !std::mem::replace(&mut seen[operand.index()], true) {
                    open.push(operand);
                }
            }
        }
        // Indexes are given in a topological order.
        self.nodes.node_indices().filter(|id| seen[id.index()]).collect()
    }

    /// The node of a tensor.
    pub fn leaf(&mut self, leaf: Leaf) -> NodeId {
        let position = match self.leaves.iter().position(|&known| known == leaf) {
            Some(position) => position,
            None => {
                self.leaves.push(leaf);
                self.leaves.len() - 1
            }
        };
        self.add(Node::Leaf(position as u32), &[])
    }

    /// The node of a number.
    pub fn constant(&mut self, value: f64) -> NodeId {
        self.add(Node::Constant(value.to_bits()), &[])
    }

    /// The number, if the node is one.
    pub fn value(&self, id: NodeId) -> Option<f64> {
        match self.nodes[id] {
            Node::Constant(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    /// Whether the node has one value for each element.
    pub fn is_tensor(&self, id: NodeId) -> bool {
        self.tensors[id.index()]
    }

    /// The operands of a node, in order.
    pub fn operands(&self, id: NodeId) -> Vec<NodeId> {
        let mut found: Vec<(u32, NodeId)> = Vec::with_capacity(3);
        let mut edges = self.nodes.neighbors_directed(id, petgraph::Incoming).detach();
        while let Some((edge, from)) = edges.next(&self.nodes) {
            found.push((self.nodes[edge], from));
        }
        found.sort_unstable();
        found.into_iter().map(|(_, from)| from).collect()
    }

    /// An elementwise op, folded where its value is known.
    pub fn map(&mut self, op: MapOp, operands: &[NodeId]) -> NodeId {
        let values: Vec<Option<f64>> = operands.iter().map(|&id| self.value(id)).collect();
        if let Some(known) = values.iter().copied().collect::<Option<Vec<f64>>>() {
            let value = op.apply_f64(&known);
            return self.constant(value);
        }
        let is = |position: usize, number: f64| values[position] == Some(number);
        match op {
            // Exact for every number, NaN and −0 included.
            MapOp::Multiply if is(0, 1.0) => return operands[1],
            MapOp::Multiply | MapOp::Divide if is(1, 1.0) => return operands[0],
            MapOp::And if is(0, 0.0) || is(1, 0.0) => return self.constant(0.0),
            MapOp::Or if values.iter().flatten().any(|&value| value != 0.0) => {
                return self.constant(1.0);
            }
            // A task vector of an adapter is its update, which stays a product.
            MapOp::Subtract if let Some(update) = self.update_over(operands[0], operands[1]) => {
                return update;
            }
            MapOp::Where => match values[0] {
                Some(0.0) => return operands[2],
                Some(_) => return operands[1],
                None => {}
            },
            _ => {}
        }
        self.add(Node::Map(op), operands)
    }

    /// The update that `adapted` adds to `base`, if it is an adapter on that.
    fn update_over(&self, adapted: NodeId, base: NodeId) -> Option<NodeId> {
        let (own, update) = self.adapted(adapted)?;
        (own == base).then_some(update)
    }

    /// The weight and the update of an adapter that a node is the sum of.
    pub fn adapted(&self, id: NodeId) -> Option<(NodeId, NodeId)> {
        if self.nodes[id] != Node::Map(MapOp::Add) {
            return None;
        }
        let operands = self.operands(id);
        self.product(operands[1]).map(|_| (operands[0], operands[1]))
    }

    /// The adapter's update that a node is.
    pub fn product(&self, id: NodeId) -> Option<Product> {
        match self.nodes[id] {
            Node::Leaf(position) => match self.leaves[position as usize] {
                Leaf::Product(product) => Some(product),
                _ => None,
            },
            _ => None,
        }
    }

    /// Adds a node, or finds the equal one.
    pub fn add(&mut self, node: Node, operands: &[NodeId]) -> NodeId {
        if self.known.is_empty() && self.nodes.node_count() > 0 {
            let ids = self.nodes.node_indices();
            self.known = ids.map(|id| ((self.nodes[id].clone(), self.operands(id)), id)).collect();
        }
        let key = (node, operands.to_vec());
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let is_tensor = match key.0 {
            Node::Constant(_) | Node::Reduce(..) | Node::LeastOfLargest(_) | Node::Standing(..) => {
                false
            }
            Node::Leaf(_)
            | Node::Round(_)
            | Node::KeepLargest(..)
            | Node::KeepCount(_)
            | Node::KeepRandom(_)
            | Node::Matrix(..)
            | Node::Part(_) => true,
            Node::Map(_) => operands.iter().any(|&operand| self.is_tensor(operand)),
        };
        Arc::make_mut(&mut self.tensors).push(is_tensor);
        let nodes = Arc::make_mut(&mut self.nodes);
        let id = nodes.add_node(key.0.clone());
        for (position, &operand) in operands.iter().enumerate() {
            nodes.add_edge(operand, id, position as u32);
        }
        self.known.insert(key, id);
        id
    }

    /// Gives up what only growing needs, and shares the nodes with other graphs that have the same.
    pub(crate) fn settle(&mut self, shapes: &mut Shapes) {
        let ids = self.nodes.node_indices();
        let key = ids.map(|id| (self.nodes[id].clone(), self.operands(id))).collect();
        let own = (self.nodes.clone(), self.tensors.clone());
        let (nodes, tensors) = shapes.known.entry(key).or_insert(own).clone();
        (self.nodes, self.tensors) = (nodes, tensors);
        self.known = HashMap::new();
        self.leaves.shrink_to_fit();
        self.streams.shrink_to_fit();
        self.groups.shrink_to_fit();
    }

    /// The same nodes over other leaves and streams, in no group.
    pub(crate) fn over(&self, leaves: Vec<Leaf>, streams: Vec<u64>) -> Self {
        let (nodes, tensors) = (self.nodes.clone(), self.tensors.clone());
        Self { nodes, leaves, streams, base: self.base, tensors, ..Self::default() }
    }

    /// A graph of the same leaves, streams and groups, without nodes.
    pub fn without_nodes(&self) -> Self {
        Self {
            leaves: self.leaves.clone(),
            streams: self.streams.clone(),
            groups: self.groups.clone(),
            ..Self::default()
        }
    }

    /// The position of a random stream.
    pub fn stream(&mut self, key: u64) -> u32 {
        self.streams.push(key);
        (self.streams.len() - 1) as u32
    }

    /// The position of a group.
    pub fn group(&mut self, key: GroupKey, layer: LayerKey) -> u32 {
        self.groups.push((key, layer));
        (self.groups.len() - 1) as u32
    }

    /// Brings another graph in and returns its output's node here: how a recipe's result becomes an input.
    pub fn import(&mut self, other: &Graph, output: NodeId) -> NodeId {
        let mut here: Vec<NodeId> = Vec::with_capacity(other.nodes.node_count());
        // Operands are always added before their users, so the order of indexes is a topological one.
        for id in other.nodes.node_indices() {
            let operands: Vec<NodeId> =
                other.operands(id).iter().map(|operand| here[operand.index()]).collect();
            let new = match &other.nodes[id] {
                Node::Leaf(position) => self.leaf(other.leaves[*position as usize]),
                Node::KeepRandom(stream) => {
                    let key = other.streams[*stream as usize];
                    let stream = match self.streams.iter().position(|&known| known == key) {
                        Some(position) => position as u32,
                        None => self.stream(key),
                    };
                    self.add(Node::KeepRandom(stream), &operands)
                }
                Node::KeepLargest(ties, reach) => {
                    let reach = self.import_reach(other, *reach);
                    self.add(Node::KeepLargest(*ties, reach), &operands)
                }
                Node::KeepCount(reach) => {
                    let reach = self.import_reach(other, *reach);
                    self.add(Node::KeepCount(reach), &operands)
                }
                Node::LeastOfLargest(reach) => {
                    let reach = self.import_reach(other, *reach);
                    self.add(Node::LeastOfLargest(reach), &operands)
                }
                Node::Reduce(reduction, reach) => {
                    let reach = self.import_reach(other, *reach);
                    self.add(Node::Reduce(*reduction, reach), &operands)
                }
                Node::Standing(standing, group) => {
                    let group = self.import_group(other, *group);
                    self.add(Node::Standing(*standing, group), &operands)
                }
                node => self.add(node.clone(), &operands),
            };
            here.push(new);
        }
        here[output.index()]
    }

    fn import_reach(&mut self, other: &Graph, reach: Reach) -> Reach {
        match reach {
            Reach::Group(position) => Reach::Group(self.import_group(other, position)),
            Reach::Tensor => Reach::Tensor,
        }
    }

    fn import_group(&mut self, other: &Graph, position: u32) -> u32 {
        let (key, layer) = &other.groups[position as usize];
        match self.groups.iter().position(|(known, _)| known == key) {
            Some(known) => known as u32,
            None => self.group(key.clone(), layer.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::TensorRef;

    fn tensor(position: u32) -> Leaf {
        Leaf::Tensor(TensorRef { model: 0, tensor: position })
    }

    #[test]
    fn equal_nodes_are_one() {
        let mut graph = Graph::default();
        let (a, b) = (graph.leaf(tensor(0)), graph.leaf(tensor(1)));
        let first = graph.map(MapOp::Subtract, &[a, b]);
        let second = graph.map(MapOp::Subtract, &[a, b]);
        let other = graph.map(MapOp::Subtract, &[b, a]);
        assert_eq!(first, second);
        assert_ne!(first, other);
    }

    #[test]
    fn constants_fold_and_ones_vanish() {
        let mut graph = Graph::default();
        let a = graph.leaf(tensor(0));
        let (two, three) = (graph.constant(2.0), graph.constant(3.0));
        let six = graph.map(MapOp::Multiply, &[two, three]);
        assert_eq!(graph.value(six), Some(6.0));
        let one = graph.constant(1.0);
        assert_eq!(graph.map(MapOp::Multiply, &[one, a]), a);
        assert_eq!(graph.map(MapOp::Divide, &[a, one]), a);
        let zero = graph.constant(0.0);
        assert_eq!(graph.map(MapOp::Where, &[zero, a, six]), six);
    }

    #[test]
    fn settled_graphs_share_nodes_and_can_grow_apart() {
        let mut shapes = Shapes::default();
        let mut of = |model: u32| {
            let mut graph = Graph::default();
            let (a, b) = (graph.leaf(tensor(model)), graph.leaf(tensor(model + 1)));
            let sum = graph.map(MapOp::Add, &[a, b]);
            graph.settle(&mut shapes);
            (graph, sum)
        };
        let ((mut first, sum), (second, _)) = (of(0), of(5));
        assert!(Arc::ptr_eq(&first.nodes, &second.nodes));
        assert_eq!(second.leaves, [tensor(5), tensor(6)]);
        let again = first.map(MapOp::Add, &[NodeId::new(0), NodeId::new(1)]);
        assert_eq!(again, sum, "equal nodes are one after settling, too");
        first.map(MapOp::Negate, &[sum]);
        assert_eq!((first.nodes.node_count(), second.nodes.node_count()), (4, 3));
    }

    #[test]
    fn an_imported_graph_shares_leaves() {
        let mut inner = Graph::default();
        let (a, b) = (inner.leaf(tensor(0)), inner.leaf(tensor(1)));
        let sum = inner.map(MapOp::Add, &[a, b]);
        let mut outer = Graph::default();
        let b_here = outer.leaf(tensor(1));
        let imported = outer.import(&inner, sum);
        let difference = outer.map(MapOp::Subtract, &[imported, b_here]);
        assert_eq!(outer.leaves.len(), 2);
        assert_eq!(outer.operands(difference), vec![imported, b_here]);
    }
}
