//! Lines up the flows of a run, stage by stage, in the order in which their inputs lie in the files.

use std::collections::{BTreeSet, HashMap};

use mixdown_diagnostics::Diagnostic;
use mixdown_plan::{Leaf, Plan, TensorRef, Work};

use crate::matrix_needs::MatrixNeeds;
use crate::needs::{Indexes, Item, needs_mean};
use crate::stages::{Part, Stages, Stretch};
use crate::steps::Aside;

/// All flows of a run.
#[derive(Debug, Default)]
pub(crate) struct Lineup {
    pub(crate) stages: Vec<LineupStage>,
    /// Count of output tensors that it finishes.
    pub(crate) jobs: usize,
    /// Results of matrix ops that later flows read.
    pub(crate) aside: Aside,
}

/// Flows that may run at the same time.
#[derive(Debug)]
pub(crate) struct LineupStage {
    /// For people.
    pub(crate) title: &'static str,
    pub(crate) items: Vec<Item>,
}

impl Lineup {
    /// The flows that finish the jobs for which `wanted` holds.
    pub(crate) fn new(
        plan: &Plan,
        indexes: Indexes<'_>,
        matrices: &MatrixNeeds,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<Self, Box<Diagnostic>> {
        let stages = Stages::new(plan, &wanted)?;
        let jobs = 0..plan.jobs.len() as u32;
        let order = Order { plan, indexes };
        let aside = Aside::new(plan, &stages, matrices)?;
        let mut lineup = Self { aside, ..Self::default() };
        let reads = |job: &u32| wanted(*job) || stages.flows.contains_key(job);
        lineup.add("means of rows", row_means(plan, jobs.clone().filter(reads)));
        for stage in &stages.stages {
            let mut lead_ins = stage.lead_ins.clone();
            lead_ins.sort_by_key(|stretch| order.place(stretch.job));
            lineup.add("facts about tensors", lead_ins.into_iter().map(Item::Merge));
            let gatherings = stage.gatherings.iter().map(|gathering| {
                let mut gathering = gathering.clone();
                gathering.sort_by_key(|&(job, _)| job);
                Item::Gathering(gathering)
            });
            lineup.add("facts about the model", gatherings);
        }
        let mut wanted: Vec<u32> = jobs.filter(|job| wanted(*job)).collect();
        wanted.sort_by_cached_key(|&job| order.place(job));
        let twins = twins(plan, &wanted);
        let item = |job: u32| match &plan.jobs[job as usize].work {
            Work::Copy { .. } => Ok(Item::Copy(job)),
            Work::Merge(_) => {
                let Part { passes, steps } = stages.last(plan, job)?;
                Ok(Item::Merge(Stretch { job, passes, steps, twin: twins.get(&job).copied() }))
            }
        };
        lineup.jobs = wanted.len();
        let seconds: BTreeSet<u32> = twins.values().copied().collect();
        let firsts = wanted.into_iter().filter(|job| !seconds.contains(job));
        let items: Result<Vec<Item>, Box<Diagnostic>> = firsts.map(item).collect();
        lineup.add("tensors", items?);
        Ok(lineup)
    }

    fn add(&mut self, title: &'static str, items: impl IntoIterator<Item = Item>) {
        let items: Vec<Item> = items.into_iter().collect();
        if !items.is_empty() {
            self.stages.push(LineupStage { title, items });
        }
    }

    /// All flows, in order.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Item> {
        self.stages.iter().flat_map(|stage| &stage.items)
    }
}

/// For jobs that write one side of a low-rank matrix the job of the other side, so that the matrix is
/// computed once.
fn twins(plan: &Plan, wanted: &[u32]) -> HashMap<u32, u32> {
    let mut firsts: HashMap<u32, u32> = HashMap::new();
    let mut found = HashMap::new();
    for &job in wanted {
        let Work::Merge(merge) = &plan.jobs[job as usize].work else { continue };
        let Some(factor) = &merge.factor else { continue };
        match firsts.get(&factor.pair) {
            None => {
                firsts.insert(factor.pair, job);
            }
            Some(&first) => {
                found.insert(first, job);
            }
        }
    }
    found
}

/// The embeddings of these jobs that have padding to fill.
fn row_means(plan: &Plan, jobs: impl Iterator<Item = u32>) -> Vec<Item> {
    let mut found = BTreeSet::new();
    for job in jobs {
        if let Work::Merge(merge) = &plan.jobs[job as usize].work {
            for leaf in &merge.leaves {
                if let Leaf::Rows(rows) = leaf {
                    found.insert(*rows);
                }
            }
        }
    }
    found.into_iter().filter(|&rows| needs_mean(plan, rows)).map(Item::RowMeans).collect()
}

struct Order<'a> {
    plan: &'a Plan,
    indexes: Indexes<'a>,
}

impl Order<'_> {
    /// Where the first input of a job lies: model, shard, byte; then the job, so that the order is
    /// the same each time.
    fn place(&self, job: u32) -> (u32, u32, u64, u32) {
        let first = match &self.plan.jobs[job as usize].work {
            Work::Copy { from, .. } => Some(*from),
            Work::Merge(merge) if merge.factor.is_some() => {
                merge.tensors(&self.plan.parts()).first().copied()
            }
            Work::Merge(merge) => merge.leaves.first().and_then(|leaf| self.first_tensor(*leaf)),
        };
        match first {
            Some(tensor) => {
                let entry = self.indexes.entry(tensor);
                (tensor.model, entry.shard, entry.offset, job)
            }
            None => (0, 0, 0, job),
        }
    }

    fn first_tensor(&self, leaf: Leaf) -> Option<TensorRef> {
        match leaf {
            Leaf::Tensor(tensor) => Some(tensor),
            Leaf::Rows(rows) => self.plan.rows[rows as usize].tensors.first().copied(),
            Leaf::Assembled(number, _) => {
                self.plan.assembled[number as usize].tensors().first().copied()
            }
            Leaf::Product(product) => Some(product.left),
            Leaf::Matrix(_) | Leaf::Part(..) | Leaf::Factor => None,
        }
    }
}
