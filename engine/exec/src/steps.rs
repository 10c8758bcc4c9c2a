//! Which matrix ops a flow runs, and which results it must put aside because a later flow reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mixdown_diagnostics::Diagnostic;
use mixdown_plan::{Leaf, Merge, Plan, Work};

use crate::context::internal;
use crate::matrix_needs::MatrixNeeds;
use crate::stages::Stages;

/// The matrix ops whose results these passes read, directly or through other ops, in the order in which
/// they run.
pub(crate) fn needed(plan: &Plan, merge: &Merge, passes: Range<usize>) -> Vec<usize> {
    let program = &plan.programs[merge.program as usize];
    let read = program.passes[passes].iter().flat_map(|pass| &pass.inputs);
    let mut open: Vec<usize> =
        read.flat_map(|&input| steps_of(merge, &merge.leaves[input as usize])).collect();
    let mut found = BTreeSet::new();
    while let Some(step) = open.pop() {
        if found.insert(step) {
            open.extend(operands_of(merge, step));
        }
    }
    let mut order = merge.matrix_order();
    order.retain(|step| found.contains(step));
    order
}

/// The matrix ops that a leaf is made from.
fn steps_of(merge: &Merge, leaf: &Leaf) -> Vec<usize> {
    match (leaf, &merge.factor) {
        (Leaf::Factor, Some(factor)) => {
            factor.terms.iter().filter_map(|(leaf, _)| leaf.step()).collect()
        }
        (leaf, _) => leaf.step().into_iter().collect(),
    }
}

/// The matrix ops whose results an op reads.
fn operands_of(merge: &Merge, step: usize) -> Vec<usize> {
    let leaves = merge.matrices[step].operands.iter().flat_map(|operand| &operand.merge.leaves);
    leaves.filter_map(Leaf::step).collect()
}

/// Where results lie that later flows read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    /// For each job and matrix op: the first byte.
    places: BTreeMap<(u32, usize), u64>,
    /// Bytes of all.
    pub(crate) bytes: u64,
}

impl Aside {
    /// The results that the stages of a run compute before they are read for the last time.
    pub(crate) fn new(
        plan: &Plan,
        stages: &Stages,
        needs: &MatrixNeeds,
    ) -> Result<Self, Box<Diagnostic>> {
        let mut found = Self::default();
        // Of each job: the flow that runs a matrix op, and what each flow reads, in order.
        for (&job, flows) in &stages.flows {
            let Work::Merge(merge) = &plan.jobs[job as usize].work else { continue };
            let program = &plan.programs[merge.program as usize];
            let run_in = |step: &usize| flows.iter().position(|flow| flow.steps.contains(step));
            for step in flows.iter().flat_map(|flow| &flow.steps) {
                let own = run_in(step);
                // What the last flow of the job runs, the one that stores, is there as long as it is needed.
                let by_passes = flows.iter().enumerate().any(|(index, flow)| {
                    let passes = &program.passes[flow.passes.clone()];
                    let mut leaves = passes.iter().flat_map(|pass| &pass.inputs);
                    let reads = |input: &u32| {
                        steps_of(merge, &merge.leaves[*input as usize]).contains(step)
                    };
                    Some(index) != own && leaves.any(reads)
                });
                let mut others = (0..merge.matrices.len())
                    .filter(|other| operands_of(merge, *other).contains(step));
                let by_steps =
                    others.any(|other| run_in(&other).is_some_and(|flow| Some(flow) != own));
                if by_passes || by_steps {
                    let bytes = needs.result_bytes(job, merge, *step);
                    found.places.insert((job, *step), found.bytes);
                    let total = found.bytes.checked_add(bytes);
                    found.bytes = total.ok_or_else(|| internal("results exceed all numbers"))?;
                }
            }
        }
        Ok(found)
    }

    /// Where a result goes; none where it is not read again.
    pub(crate) fn place(&self, job: u32, step: usize) -> Option<u64> {
        self.places.get(&(job, step)).copied()
    }
}

/// A result that was put aside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put {
    /// Its first byte.
    pub(crate) offset: u64,
    pub(crate) form: Form,
}

/// How a result lies there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// Its elements.
    Dense,
    /// Both factors, one after the other: rows of the left one, directions, columns.
    Factors(usize, usize, usize),
}
