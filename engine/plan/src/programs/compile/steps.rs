//! The programs of a job with matrix ops: one that finds facts and stores, and one for each operand.
//!
//! Facts that operands need are found by passes of the job's program, like those that its output needs;
//! a matrix op runs when the passes before it are done, and its operands' programs are given what these
//! found. Several operands, and the output, then share one reading.

use std::collections::{BTreeSet, HashMap};

use super::{Compiled, Compiler, Sink, Step, Steps};
use crate::formulas::graph::{Graph, Node, NodeId};
use crate::plan::Leaf;
use crate::programs::fuse::fuse;
use crate::programs::matrices::SplitStep;

/// The programs of a job.
pub(crate) struct Stepped {
    /// Finds the facts, and stores.
    pub job: Compiled,
    /// For each matrix op.
    pub steps: Vec<StepPrograms>,
    /// The scalars that the measures asked for are.
    pub measures: Vec<u32>,
}

/// The programs of a matrix op.
pub(crate) struct StepPrograms {
    /// The pass of the job's program before which it runs.
    pub before: u32,
    pub operands: Vec<OperandProgram>,
}

/// The program of an operand, of one pass.
pub(crate) struct OperandProgram {
    pub compiled: Compiled,
    /// Entries of the job's scalar table that follow the constants in its own.
    pub scalars: Vec<u32>,
    /// Cuts of the job that are its own.
    pub cuts: Vec<u32>,
}

/// Compiles the part of the graph that `output` needs; its matrix ops were taken out as `steps`. `measures`
/// are scalars about what is stored, found while it is.
pub(crate) fn compile_with(
    graph: &Graph,
    output: NodeId,
    steps: &[SplitStep],
    measures: &[NodeId],
) -> Stepped {
    let levels = levels(graph, steps);
    let operands: Vec<NodeId> = steps.iter().flat_map(|step| step.operands.clone()).collect();
    let mut roots = vec![output];
    roots.extend(measures);
    roots.extend(graph.needed(&operands).into_iter().filter(|&id| is_fact(graph, id)));
    let (fused, here) = fuse(graph, &roots, &graph.needed(&roots));
    let roots: Vec<NodeId> = roots.iter().map(|root| here[root]).collect();
    let needed = fused.needed(&roots);
    let mut of_fused = vec![0; fused.nodes.node_count()];
    for (id, new) in &here {
        of_fused[new.index()] = levels[id.index()];
    }
    let (output, last) = (here[&output], levels[output.index()]);
    let mut compiler = Compiler::new(&fused, of_fused);
    compiler.number_scalars(&needed);
    let passes = (0..=last)
        .map(|level| compiler.pass(level, &needed, (level == last).then_some(output)))
        .collect();
    let place = |id: &NodeId| {
        let id = here[id];
        (compiler.scalars.get(&id).copied(), compiler.cuts.get(&id).copied())
    };
    let steps = steps.iter().map(|step| StepPrograms {
        before: before(&levels, step) as u32,
        operands: step
            .operands
            .iter()
            .map(|&operand| compile_operand(graph, operand, place))
            .collect(),
    });
    let steps = steps.collect();
    let measures = measures.iter().map(|measure| compiler.scalars[&here[measure]]).collect();
    Stepped { job: compiler.finish(passes), steps, measures }
}

/// Whether a pass finds it: a threshold, or a number that depends on all elements.
fn is_fact(graph: &Graph, id: NodeId) -> bool {
    let is_computed = !graph.is_tensor(id) && graph.value(id).is_none();
    is_computed || matches!(graph.nodes[id], Node::KeepLargest(..) | Node::KeepCount(_))
}

/// The first pass in which each node can be computed.
fn levels(graph: &Graph, steps: &[SplitStep]) -> Vec<usize> {
    let mut levels = vec![0; graph.nodes.node_count()];
    // Indexes are given in a topological order, in which results come after their operands.
    for id in graph.nodes.node_indices() {
        let operands = graph.operands(id);
        let above = operands.iter().map(|operand| levels[operand.index()]).max().unwrap_or(0);
        levels[id.index()] = match &graph.nodes[id] {
            Node::Reduce(..)
            | Node::KeepLargest(..)
            | Node::KeepCount(_)
            | Node::LeastOfLargest(_)
            | Node::Standing(..) => above + 1,
            Node::Leaf(position) => match graph.leaves[*position as usize] {
                Leaf::Matrix(step) | Leaf::Part(step, _) => {
                    steps.get(step as usize).map_or(0, |step| before(&levels, step))
                }
                // A side of a matrix is there when all ops are done.
                Leaf::Factor => steps.iter().map(|step| before(&levels, step)).max().unwrap_or(0),
                _ => 0,
            },
            _ => above,
        };
    }
    levels
}

/// The pass before which a matrix op can run.
fn before(levels: &[usize], step: &SplitStep) -> usize {
    step.operands.iter().map(|operand| levels[operand.index()]).max().unwrap_or(0)
}

/// The program of an operand. `place` tells where the job has a scalar and a cut.
fn compile_operand(
    graph: &Graph,
    operand: NodeId,
    place: impl Fn(&NodeId) -> (Option<u32>, Option<u32>),
) -> OperandProgram {
    let (fused, here) = fuse(graph, &[operand], &graph.needed(&[operand]));
    let there: HashMap<NodeId, NodeId> = here.iter().map(|(id, new)| (*new, *id)).collect();
    let output = here[&operand];
    let mut compiler = Compiler::new(&fused, vec![0; fused.nodes.node_count()]);
    let mut steps = Steps::default();
    compiler.require(output, &mut steps);
    steps.list.push(Step { node: output, sink: Some(Sink::Store) });
    let (mut read, mut cuts) = (BTreeSet::new(), Vec::new());
    for step in &steps.list {
        let operands = match (&fused.nodes[step.node], step.sink) {
            (_, Some(_)) => vec![output],
            (Node::KeepLargest(..) | Node::KeepCount(_), None) => {
                compiler.cuts.insert(step.node, cuts.len() as u32);
                cuts.push(step.node);
                // Its density was needed to find the cut.
                fused.operands(step.node)[..1].to_vec()
            }
            (_, None) => fused.operands(step.node),
        };
        read.extend(operands.into_iter().filter(|&id| !fused.is_tensor(id)));
    }
    let read: Vec<NodeId> = read.into_iter().collect();
    compiler.number_scalars(&read);
    let mut pass = mixdown_ops::Pass::default();
    compiler.allocate(&steps.list, &mut pass);
    let facts = read.iter().filter(|&&id| fused.value(id).is_none());
    let scalars = facts.filter_map(|id| place(&there[id]).0).collect();
    let cuts = cuts.iter().filter_map(|id| place(&there[id]).1).collect();
    OperandProgram { compiled: compiler.finish(vec![pass]), scalars, cuts }
}
