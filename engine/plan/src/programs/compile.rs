//! A graph becomes a block program: nodes gathered into passes, values given registers.
//!
//! A node's level is the first pass in which it can be computed: a reduction over values of level p is
//! made in pass p and known from pass p + 1 on. No tensor is kept between passes; what a later pass
//! needs of an earlier one's values it computes again from the inputs, block by block.

mod steps;

use std::collections::HashMap;

use mixdown_ops::program::{ReductionSlot, Scope, SelectionSlot, StandingSlot};
use mixdown_ops::selection::Ties;
use mixdown_ops::{Instruction, Operand, Pass, Program, ScalarStep};

use crate::formulas::graph::{Graph, GroupKey, LayerKey, Node, NodeId, Reach};
pub(crate) use steps::{OperandProgram, StepPrograms, Stepped, compile_with};

/// A graph as a block program, with what is the job's own.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The program.
    pub program: Program,
    /// First entries of the scalar table.
    pub constants: Vec<f64>,
    /// Which of the graph's leaves the program reads, in order of its inputs.
    pub leaves: Vec<u32>,
    /// Keys of the random streams.
    pub streams: Vec<u64>,
    /// For each group scope of the program: the group.
    pub groups: Vec<(GroupKey, LayerKey)>,
}

/// Compiles the part of the graph that `output` needs.
pub fn compile(graph: &Graph, output: NodeId, measures: &[NodeId]) -> Stepped {
    compile_with(graph, output, &[], measures)
}

struct Compiler<'a> {
    graph: &'a Graph,
    levels: Vec<usize>,
    /// Entry of the scalar table for each scalar node.
    scalars: HashMap<NodeId, u32>,
    constants: Vec<f64>,
    /// Input of the program for each leaf of the graph.
    leaves: HashMap<u32, u32>,
    leaf_order: Vec<u32>,
    /// Cut for each node that keeps the largest.
    cuts: HashMap<NodeId, u32>,
    streams: Vec<u64>,
    groups: Vec<(GroupKey, LayerKey)>,
}

impl<'a> Compiler<'a> {
    fn new(graph: &'a Graph, levels: Vec<usize>) -> Self {
        Self {
            graph,
            levels,
            scalars: HashMap::new(),
            constants: Vec::new(),
            leaves: HashMap::new(),
            leaf_order: Vec::new(),
            cuts: HashMap::new(),
            streams: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// The program of these passes.
    fn finish(self, passes: Vec<Pass>) -> Compiled {
        let program = Program {
            inputs: self.leaf_order.len() as u32,
            constants: self.constants.len() as u32,
            scalars: self.scalars.len() as u32,
            cuts: self.cuts.len() as u32,
            streams: self.streams.len() as u32,
            passes,
        };
        Compiled {
            program,
            constants: self.constants,
            leaves: self.leaf_order,
            streams: self.streams,
            groups: self.groups,
        }
    }

    /// Gives entries of the scalar table: constants first, then what is computed.
    fn number_scalars(&mut self, needed: &[NodeId]) {
        let scalars: Vec<NodeId> =
            needed.iter().copied().filter(|&id| !self.graph.is_tensor(id)).collect();
        let (constants, computed): (Vec<NodeId>, Vec<NodeId>) =
            scalars.into_iter().partition(|&id| self.graph.value(id).is_some());
        for id in constants {
            self.scalars.insert(id, self.constants.len() as u32);
            self.constants.extend(self.graph.value(id));
        }
        for id in computed {
            self.scalars.insert(id, self.scalars.len() as u32);
        }
    }

    fn scope(&mut self, reach: Reach) -> Scope {
        match reach {
            Reach::Group(position) => Scope::Group(self.group(position)),
            Reach::Tensor => Scope::Tensor,
        }
    }

    fn group(&mut self, position: u32) -> u32 {
        let key = &self.graph.groups[position as usize];
        let known = self.groups.iter().position(|group| group == key).unwrap_or_else(|| {
            self.groups.push(key.clone());
            self.groups.len() - 1
        });
        known as u32
    }

    /// One pass: its scalar steps, then a stretch of instructions for each fact it finds, or the store.
    fn pass(&mut self, level: usize, needed: &[NodeId], output: Option<NodeId>) -> Pass {
        let mut pass = Pass { prelude: self.prelude(level, needed), ..Pass::default() };
        let mut steps = Steps::default();
        if let Some(output) = output {
            self.require(output, &mut steps);
            steps.list.push(Step { node: output, sink: Some(Sink::Store) });
        }
        // A pass that stores finds what is told of the result, and nothing that anybody waits for.
        {
            let due = needed.iter().filter(|id| self.levels[id.index()] == level + 1);
            for id in due.copied().collect::<Vec<_>>() {
                let operands = self.graph.operands(id);
                let sink = match self.graph.nodes[id] {
                    Node::Reduce(reduction, reach) => {
                        let scope = self.scope(reach);
                        pass.reductions.push(ReductionSlot {
                            reduction,
                            to: self.scalars[&id],
                            scope,
                        });
                        Sink::Reduce(pass.reductions.len() as u32 - 1)
                    }
                    Node::KeepLargest(ties, reach) => {
                        let among = operands.get(2).map(|among| self.scalars[among]);
                        let slot =
                            SelectionSlot { among, ties, ..self.selection(id, reach, false) };
                        pass.selections.push(slot);
                        Sink::Select(pass.selections.len() as u32 - 1)
                    }
                    Node::KeepCount(reach) | Node::LeastOfLargest(reach) => {
                        pass.selections.push(self.selection(id, reach, true));
                        Sink::Select(pass.selections.len() as u32 - 1)
                    }
                    Node::Standing(standing, group) => {
                        let (of, to) = (self.scalars[&operands[0]], self.scalars[&id]);
                        let group = self.group(group);
                        pass.standings.push(StandingSlot { standing, of, to, group });
                        continue;
                    }
                    _ => continue,
                };
                for &operand in operands.iter().filter(|&&operand| self.graph.is_tensor(operand)) {
                    self.require(operand, &mut steps);
                }
                steps.list.push(Step { node: id, sink: Some(sink) });
            }
        }
        self.allocate(&steps.list, &mut pass);
        pass
    }

    /// The threshold that a node needs, or is.
    fn selection(&mut self, id: NodeId, reach: Reach, is_count: bool) -> SelectionSlot {
        // A threshold that is only read has a cut that nobody uses.
        let cut = self.cuts.len() as u32;
        self.cuts.insert(id, cut);
        SelectionSlot {
            density: self.scalars[&self.graph.operands(id)[1]],
            is_count,
            among: None,
            magnitude: self.scalars.get(&id).copied(),
            ties: Ties::Exact,
            cut,
            scope: self.scope(reach),
        }
    }

    /// Scalars that become known before the pass: those of its level, computed from earlier passes.
    fn prelude(&self, level: usize, needed: &[NodeId]) -> Vec<ScalarStep> {
        let mut steps = Vec::new();
        for &id in needed {
            let Node::Map(op) = self.graph.nodes[id] else { continue };
            if self.graph.is_tensor(id) || self.levels[id.index()] != level {
                continue;
            }
            let mut arguments = [0; 3];
            for (position, operand) in self.graph.operands(id).iter().enumerate() {
                arguments[position] = self.scalars[operand];
            }
            steps.push(ScalarStep { op, arguments, to: self.scalars[&id] });
        }
        steps
    }

    /// Lists the tensor nodes that `id` needs and that are not listed yet, operands first.
    fn require(&self, id: NodeId, steps: &mut Steps) {
        // Depth first, operands from left to right, keeps few registers live; an explicit stack,
        // because a chain over many experts is deep.
        let mut open = vec![(id, false)];
        while let Some((id, ready)) = open.pop() {
            if steps.listed.contains(&id) || !self.graph.is_tensor(id) {
                continue;
            }
            if ready {
                steps.listed.insert(id);
                steps.list.push(Step { node: id, sink: None });
                continue;
            }
            open.push((id, true));
            for operand in self.graph.operands(id).into_iter().rev() {
                open.push((operand, false));
            }
        }
    }

    /// Gives registers to the listed nodes by a linear scan, and writes the instructions.
    fn allocate(&mut self, steps: &[Step], pass: &mut Pass) {
        let mut last_use: HashMap<NodeId, usize> = HashMap::new();
        for (position, step) in steps.iter().enumerate() {
            for read in self.reads(step) {
                last_use.insert(read, position);
            }
        }
        let mut registers: HashMap<NodeId, u32> = HashMap::new();
        let mut free: Vec<u32> = Vec::new();
        for (position, step) in steps.iter().enumerate() {
            let operands: Vec<Operand> = self.reads_in_place(step, &registers);
            let mut dying: Vec<NodeId> = self.reads(step);
            dying.retain(|read| last_use[read] == position);
            dying.sort_unstable();
            dying.dedup();
            // Freed before the target is chosen: an instruction may write over its operand.
            for node in dying {
                free.push(registers[&node]);
            }
            free.sort_unstable_by(|a, b| b.cmp(a));
            let to = match step.sink {
                Some(_) => 0,
                None => {
                    let to = free.pop().unwrap_or_else(|| {
                        pass.registers += 1;
                        pass.registers - 1
                    });
                    registers.insert(step.node, to);
                    to
                }
            };
            let instruction = self.instruction(step, &operands, to);
            if let Instruction::Load { input, .. } = instruction
                && !pass.inputs.contains(&input)
            {
                pass.inputs.push(input);
            }
            pass.instructions.push(instruction);
        }
        pass.inputs.sort_unstable();
    }

    /// The tensor nodes that a step reads from registers.
    fn reads(&self, step: &Step) -> Vec<NodeId> {
        if step.sink == Some(Sink::Store) {
            return if self.graph.is_tensor(step.node) { vec![step.node] } else { Vec::new() };
        }
        let operands = self.graph.operands(step.node);
        let from_registers = match self.graph.nodes[step.node] {
            // The others are scalars.
            Node::KeepLargest(..) | Node::KeepCount(_) | Node::LeastOfLargest(_) => &operands[..1],
            _ => &operands[..],
        };
        from_registers.iter().copied().filter(|&operand| self.graph.is_tensor(operand)).collect()
    }

    /// The operands of a step as an instruction names them.
    fn reads_in_place(&self, step: &Step, registers: &HashMap<NodeId, u32>) -> Vec<Operand> {
        let mut nodes = match step.sink {
            Some(Sink::Store) => vec![step.node],
            _ => self.graph.operands(step.node),
        };
        // What follows tells which are kept, and the cut knows it.
        let is_cut = matches!(
            self.graph.nodes[step.node],
            Node::KeepLargest(..) | Node::KeepCount(_) | Node::LeastOfLargest(_)
        );
        if is_cut && step.sink != Some(Sink::Store) {
            nodes.truncate(1);
        }
        let place = |node: &NodeId| match registers.get(node) {
            Some(&register) if self.graph.is_tensor(*node) => Operand::Register(register),
            _ => Operand::Scalar(self.scalars[node]),
        };
        nodes.iter().map(place).collect()
    }

    fn instruction(&mut self, step: &Step, operands: &[Operand], to: u32) -> Instruction {
        let register = |position: usize| match operands[position] {
            Operand::Register(register) => register,
            Operand::Scalar(_) => unreachable!("operand {position} of a tensor op is a tensor"),
        };
        let spread =
            |position: usize| operands.get(position).copied().unwrap_or(Operand::Scalar(0));
        match (step.sink, &self.graph.nodes[step.node]) {
            (Some(Sink::Store), _) => Instruction::Store { from: operands[0] },
            (Some(Sink::Select(slot)), _) => Instruction::Select { from: register(0), slot },
            (Some(Sink::Reduce(slot)), Node::Reduce(reduction, _)) => Instruction::Reduce {
                reduction: *reduction,
                arguments: [spread(0), spread(1)],
                slot,
            },
            (None, Node::Leaf(leaf)) => {
                let next = self.leaf_order.len() as u32;
                let input = *self.leaves.entry(*leaf).or_insert_with(|| {
                    self.leaf_order.push(*leaf);
                    next
                });
                Instruction::Load { input, to }
            }
            (None, Node::Round(dtype)) => {
                Instruction::Round { from: register(0), dtype: *dtype, to }
            }
            (None, Node::KeepLargest(..) | Node::KeepCount(_)) => {
                Instruction::KeepLargest { from: register(0), cut: self.cuts[&step.node], to }
            }
            (None, Node::KeepRandom(stream)) => {
                let key = self.graph.streams[*stream as usize];
                let stream =
                    self.streams.iter().position(|&known| known == key).unwrap_or_else(|| {
                        self.streams.push(key);
                        self.streams.len() - 1
                    });
                let stream = stream as u32;
                Instruction::KeepRandom { from: register(0), density: operands[1], stream, to }
            }
            (None, Node::Map(op)) => {
                Instruction::Map { op: *op, arguments: [spread(0), spread(1), spread(2)], to }
            }
            (sink, node) => unreachable!("{node:?} as {sink:?}"),
        }
    }
}

/// Nodes in the order in which they are computed.
#[derive(Default)]
struct Steps {
    list: Vec<Step>,
    listed: std::collections::HashSet<NodeId>,
}

/// One instruction to be: a node computed into a register, or a value handed on.
struct Step {
    node: NodeId,
    sink: Option<Sink>,
}

/// Where a value goes that no register receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Reduce(u32),
    Select(u32),
    Store,
}

#[cfg(test)]
mod tests {
    use mixdown_ops::MapOp;
    use mixdown_ops::program::Reduction;

    use super::*;
    use crate::plan::{Leaf, TensorRef};

    fn leaf(graph: &mut Graph, position: u32) -> NodeId {
        graph.leaf(Leaf::Tensor(TensorRef { model: position, tensor: 0 }))
    }

    #[test]
    fn a_weighted_sum_is_one_pass_with_few_registers() {
        let mut graph = Graph::default();
        let mut sum = None;
        for position in 0..8 {
            let tensor = leaf(&mut graph, position);
            let weight = graph.constant(0.5 + f64::from(position));
            let term = graph.map(MapOp::Multiply, &[weight, tensor]);
            sum = Some(match sum {
                None => term,
                Some(sum) => graph.map(MapOp::Add, &[sum, term]),
            });
        }
        let compiled = compile(&graph, sum.unwrap(), &[]).job;
        assert_eq!(compiled.program.passes.len(), 1);
        assert_eq!(compiled.program.passes[0].registers, 2);
        assert_eq!(compiled.program.inputs, 8);
        assert_eq!(compiled.constants.len(), 8);
    }

    #[test]
    fn a_norm_makes_a_pass_before_the_one_that_stores() {
        let mut graph = Graph::default();
        let (a, b) = (leaf(&mut graph, 0), leaf(&mut graph, 1));
        let square = graph.add(Node::Reduce(Reduction::SumProduct, Reach::Tensor), &[b, b]);
        let norm = graph.map(MapOp::Sqrt, &[square]);
        let unit = graph.map(MapOp::Divide, &[a, norm]);
        let compiled = compile(&graph, unit, &[]).job;
        let passes = &compiled.program.passes;
        assert_eq!(passes.len(), 2);
        assert_eq!(
            (passes[0].inputs.as_slice(), passes[1].inputs.as_slice()),
            (&[0][..], &[1][..])
        );
        assert_eq!(passes[0].reductions.len(), 1);
        assert_eq!(passes[1].prelude.len(), 1);
        assert!(matches!(passes[1].instructions.last(), Some(Instruction::Store { .. })));
    }

    #[test]
    fn a_threshold_is_found_before_it_is_applied() {
        let mut graph = Graph::default();
        let (a, b) = (leaf(&mut graph, 0), leaf(&mut graph, 1));
        let delta = graph.map(MapOp::Subtract, &[a, b]);
        let density = graph.constant(0.5);
        let kept = graph.add(Node::KeepLargest(Ties::Exact, Reach::Tensor), &[delta, density]);
        let output = graph.map(MapOp::Add, &[b, kept]);
        let compiled = compile(&graph, output, &[]).job;
        let passes = &compiled.program.passes;
        assert_eq!(passes.len(), 2);
        assert_eq!(passes[0].selections.len(), 1);
        assert!(matches!(passes[0].instructions.last(), Some(Instruction::Select { slot: 0, .. })));
        assert!(
            passes[1]
                .instructions
                .iter()
                .any(|i| matches!(i, Instruction::KeepLargest { cut: 0, .. }))
        );
    }

    #[test]
    fn what_the_output_does_not_need_is_not_computed() {
        let mut graph = Graph::default();
        let (a, b) = (leaf(&mut graph, 0), leaf(&mut graph, 1));
        graph.add(Node::Reduce(Reduction::Sum, Reach::Tensor), &[b]);
        let two = graph.constant(2.0);
        let output = graph.map(MapOp::Multiply, &[a, two]);
        let compiled = compile(&graph, output, &[]).job;
        assert_eq!((compiled.program.passes.len(), compiled.program.inputs), (1, 1));
    }
}
