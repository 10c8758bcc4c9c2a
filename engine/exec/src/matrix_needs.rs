//! What the matrix ops of a plan hold, asked of the backend before anything is read.

use std::collections::HashMap;

use mixdown_diagnostics::Diagnostic;
use mixdown_ops::matrix::{Needs, OperandShapes};
use mixdown_ops::{Backend, Placement};
use mixdown_plan::{Leaf, MatrixOperand, MatrixStep, Merge, Plan, Work};

use crate::matrix::{result_bytes, stop_diagnostic};
use crate::resources::{factor_bytes, product_bytes};
use crate::turned;

/// For each job with matrix ops, what each of them holds, and where it is done.
#[derive(Clone, Debug, Default)]
pub(crate) struct MatrixNeeds {
    needs: HashMap<u32, Vec<Needs>>,
    places: Placements,
}

/// Where each matrix op of a plan is done, by the position of its job and its own in the job. Ops that are not
/// here are the backend's own.
pub type Placements = HashMap<(u32, usize), Placement>;

/// Asks a backend where it would do the matrix ops of a plan.
///
/// **Errors.** The first op that it refuses for these shapes.
pub fn placements(plan: &Plan, backend: &dyn Backend) -> Result<Placements, Box<Diagnostic>> {
    Ok(MatrixNeeds::new(plan, backend)?.places)
}

impl MatrixNeeds {
    /// Asks the backend.
    ///
    /// **Errors.** The first op that it refuses for these shapes.
    pub(crate) fn new(plan: &Plan, backend: &dyn Backend) -> Result<Self, Box<Diagnostic>> {
        let (mut found, mut places) = (HashMap::new(), Placements::new());
        for (number, job) in (0..).zip(&plan.jobs) {
            let Work::Merge(merge) = &job.work else { continue };
            if merge.matrices.is_empty() {
                continue;
            }
            let mut needs: Vec<Needs> = Vec::with_capacity(merge.matrices.len());
            for (position, step) in merge.matrices.iter().enumerate() {
                let shapes = shapes(step, &needs);
                let seen = match step.layout.is_plain() {
                    true => shapes.clone(),
                    false => turned::shapes(&step.layout, &shapes),
                };
                let place = backend.place(&step.op, &seen, merge.precision);
                if place != Placement::Own {
                    places.insert((number, position), place);
                }
                let of_one =
                    |shapes: &OperandShapes| backend.needs(&step.op, shapes, merge.precision);
                let of_step = match step.layout.is_plain() {
                    true => of_one(&shapes),
                    false => {
                        turned::needs(&step.op, &step.layout, &shapes, merge.precision, of_one)
                    }
                };
                needs.push(
                    of_step.map_err(|stop| Box::new(stop_diagnostic(stop, step, &job.name)))?,
                );
            }
            found.insert(number, needs);
        }
        Ok(Self { needs: found, places })
    }

    /// Of the ops of one job.
    pub(crate) fn of(&self, job: u32) -> &[Needs] {
        self.needs.get(&job).map_or(&[], Vec::as_slice)
    }

    /// The most bytes that a flow holds for adapters and the matrix ops that it runs.
    pub(crate) fn bytes(&self, job: u32, merge: &Merge, steps: &[usize], threads: usize) -> u64 {
        let of_others = self.factors_of_others(job, merge, steps);
        let mut held = product_bytes(merge) + factor_bytes(merge) + of_others;
        let mut most = held;
        for &number in steps {
            let (step, needs) = (&merge.matrices[number], &self.of(job)[number]);
            let result = self.result_bytes(job, merge, number);
            let block = (needs.block_rows as u64).min(step.rows) * step.columns * 8;
            // One thread takes a whole matrix of a tensor that is not one itself.
            let most_threads = match step.layout.is_plain() {
                true => threads as u64,
                false => step.layout.matrices.min(threads as u64),
            };
            let rows = (needs.rows_bytes + block) * most_threads;
            let working = needs.prepare_bytes.max(needs.held_bytes + rows + result);
            most = most.max(held + working);
            held += result;
        }
        most.max(held)
    }

    /// Bytes of a result in the type of the arithmetic.
    pub(crate) fn result_bytes(&self, job: u32, merge: &Merge, step: usize) -> u64 {
        result_bytes(&merge.matrices[step], self.of(job)[step].result_rank, merge.precision)
    }

    /// Bytes of the results of other ops that are factors, which a flow holds where it reads them.
    pub(crate) fn factors_of_others(&self, job: u32, merge: &Merge, steps: &[usize]) -> u64 {
        let others = (0..merge.matrices.len()).filter(|step| !steps.contains(step));
        let factors = others.filter(|&step| self.of(job)[step].result_rank.is_some());
        factors.map(|step| self.result_bytes(job, merge, step)).sum()
    }

    /// The most bytes that ops put aside: one is under way for each thread, or with stacks a matrix of one.
    pub(crate) fn bytes_aside(&self, threads: usize) -> u64 {
        let largest = self.needs.values().flatten().map(|needs| needs.aside_bytes).max();
        largest.unwrap_or(0).saturating_mul(threads as u64)
    }

    /// Where ops are done that are not the backend's own.
    pub(crate) fn places(&self) -> &Placements {
        &self.places
    }

    /// Operations of all matrix ops.
    pub(crate) fn flops(&self) -> u64 {
        self.needs.values().flatten().map(|needs| needs.flops).fold(0, u64::saturating_add)
    }
}

/// What is known of a step's operands, given the needs of the steps before it.
fn shapes(step: &MatrixStep, before: &[Needs]) -> OperandShapes {
    let of_leaf = |leaf: &Leaf| match leaf {
        Leaf::Product(product) => Some(product.rank as usize),
        Leaf::Matrix(earlier) => before.get(*earlier as usize)?.result_rank,
        Leaf::Tensor(_) | Leaf::Rows(_) | Leaf::Assembled(..) | Leaf::Part(..) | Leaf::Factor => {
            None
        }
    };
    let rank = |operand: &MatrixOperand| {
        let terms = operand.combination.as_ref()?;
        terms.iter().map(|(leaf, _)| of_leaf(leaf)).sum()
    };
    let first = step.operands.first();
    let (rows, columns) =
        first.map_or((step.rows, step.columns), |operand| (operand.rows, operand.columns));
    OperandShapes {
        rows: rows as usize,
        columns: columns as usize,
        ranks: step.operands.iter().map(rank).collect(),
    }
}
