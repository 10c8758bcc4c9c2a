//! Runs a plan: chooses the sizes, lines up the flows of each stage, and reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use mixdown_checkpoint::index::Index;
use mixdown_diagnostics::Diagnostic;
use mixdown_ops::Backend;
use mixdown_ops::program::PIECE;
use mixdown_plan::{Plan, Work};

use crate::assembled::Bands;
use crate::budget::Budget;
use crate::check::check;
use crate::codes::CodesFlow;
use crate::context::{Context, internal, lock};
use crate::copy::CopyFlow;
use crate::footprint::expected_bytes;
use crate::hands::{Arena, Hands};
use crate::lineup::Lineup;
use crate::matrix_needs::MatrixNeeds;
use crate::merge::{MergeFlow, TwinFlow};
use crate::messages;
use crate::needs::{Indexes, Item, Needs, flow_bytes};
use crate::places::Places;
use crate::progress::Progress;
use crate::read::{Inputs, Source};
use crate::report::{Outcome, Report, Told};
use crate::results::Results;
use crate::row_means::RowMeansFlow;
use crate::scheduler::{self, End, Failure, Flow, Queue};
use crate::sink::Sink;
use crate::sizing::{self, Sizing};
use crate::stages::Stretch;

/// How a plan is run. Only `allow_nonfinite` can change what the output holds.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most threads that work; fewer where the budget is small.
    pub threads: usize,
    /// Bytes that may be in use, with those of `held_bytes`.
    pub memory_bytes: u64,
    /// What the process holds already and keeps: indexes, its own code.
    pub held_bytes: u64,
    /// Whether NaN and infinity in the inputs are merged like numbers.
    pub allow_nonfinite: bool,
    /// Most elements that a thread reads and computes at a time.
    pub stripe_elements: usize,
}

impl Default for Options {
    /// One thread and 2 GB.
    fn default() -> Self {
        Self {
            threads: 1,
            memory_bytes: 2_000_000_000,
            held_bytes: 0,
            allow_nonfinite: false,
            stripe_elements: PIECE as usize,
        }
    }
}

/// Runs a plan. `sources` are the data of its models, in order.
///
/// Tensors that the sink has already are left alone. The bytes written are the same whatever the
/// threads, the budget and the order in which threads happen to work.
///
/// **Errors.** `BUDGET_TOO_SMALL` before anything is read. `NONFINITE`, `COPIES_DIFFER` and what is
/// wrong with a file: of several, that of the tensor whose turn came first, in the order of the
/// inputs' places, and in it the first element; it does not depend on the threads. What the sink
/// refuses ends the run at once.
#[expect(clippy::too_many_arguments, reason = "each is a part of the world that tests replace")]
pub fn run(
    plan: &Plan,
    sources: &[Source<'_>],
    backend: &dyn Backend,
    sink: &dyn Sink,
    results: &dyn Results,
    options: &Options,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Report, Vec<Diagnostic>> {
    let indexes: Vec<&Index> = sources.iter().map(|source| source.index).collect();
    let indexes = Indexes(&indexes);
    let alone = |error: Box<Diagnostic>| vec![*error];
    check(plan, indexes).map_err(alone)?;
    let matrix_needs = MatrixNeeds::new(plan, backend).map_err(alone)?;
    let all = Lineup::new(plan, indexes, &matrix_needs, |_| true).map_err(alone)?;
    let fitted = fit(plan, indexes, backend, &matrix_needs, &all, options);
    let (needs, sizing) = fitted.map_err(alone)?;
    let first_stored = plan.first_stored();
    let is_left = |job: u32| {
        let first = first_stored[job as usize];
        let count = plan.jobs[job as usize].stored_count();
        !(first..first + count).all(|tensor| sink.is_complete(tensor))
    };
    let mut lineup = Lineup::new(plan, indexes, &matrix_needs, is_left).map_err(alone)?;
    let told = told_before(plan, sink, is_left);
    let todo = lineup.jobs;
    progress.started(todo, expected_bytes(plan, indexes, &lineup));
    let aside = std::mem::take(&mut lineup.aside);
    let context = Context {
        plan,
        inputs: Inputs::new(&plan.models, sources, progress),
        sink,
        progress,
        backend,
        first_stored,
        results,
        places: Places::from(aside.bytes.next_multiple_of(4096)),
        aside,
        put: Mutex::default(),
        matrix_needs,
        cancel,
        stripe: sizing.stripe,
        key_bytes: sizing.key_bytes,
        check_finite: !options.allow_nonfinite,
        kept: Mutex::default(),
        padding: plan.rows.iter().map(|_| OnceLock::new()).collect(),
        bands: Bands::new(sizing.threads),
        told: Mutex::new(told),
        finished: AtomicUsize::new(0),
        written: AtomicU64::new(0),
        shared: AtomicU64::new(0),
    };
    let budget = Budget::new(options.memory_bytes);
    let base = options.held_bytes.saturating_add(base_bytes(&needs, &sizing));
    let fits = budget.try_admit(base);
    debug_assert!(fits, "the sizes were chosen to fit");
    let mut hands: Vec<Hands> = (0..sizing.threads)
        .map(|_| Hands { worker: backend.worker(), arena: Arena::default() })
        .collect();
    let mut report = Report {
        outcome: Outcome::Finished,
        stages: Vec::new(),
        bytes_read: 0,
        bytes_written: 0,
        bytes_shared: 0,
        tensors_computed: 0,
        tensors_reused: plan.jobs.len() - todo,
        peak_bytes: 0,
        threads: sizing.threads,
        stripe_elements: sizing.stripe,
        codes_kept: plan.jobs.iter().filter(|job| job.keeps_codes()).count(),
        told: Told::default(),
        warnings: Vec::new(),
    };
    for stage in &lineup.stages {
        let begun = Instant::now();
        progress.stage(stage.title);
        let queue = ItemQueue { context: &context, items: &stage.items, threads: sizing.threads };
        let end = scheduler::run(&queue, &mut hands, &budget, cancel);
        report.stages.push((stage.title.to_owned(), begun.elapsed().as_secs_f64()));
        match end {
            End::Done => {}
            End::Interrupted => {
                report.outcome = Outcome::Interrupted;
                break;
            }
            End::Failed(failure) => return Err(vec![explain(failure)]),
        }
    }
    Ok(finish(report, context, &budget))
}

/// What was told of the jobs that an earlier run had finished.
fn told_before(plan: &Plan, sink: &dyn Sink, is_left: impl Fn(u32) -> bool) -> BTreeMap<u32, Told> {
    let first_stored = (0_u32..).zip(plan.first_stored());
    let finished = first_stored.take(plan.jobs.len()).filter(|(job, _)| !is_left(*job));
    let told = finished.map(|(job, tensor)| (job, sink.told(tensor)));
    told.filter(|(_, told)| !told.is_empty()).collect()
}

/// What the parts of a plan need, and the sizes with which they fit.
pub(crate) fn fit(
    plan: &Plan,
    indexes: Indexes<'_>,
    backend: &dyn Backend,
    matrices: &MatrixNeeds,
    lineup: &Lineup,
    options: &Options,
) -> Result<(Needs, Sizing), Box<Diagnostic>> {
    let needs = Needs::of(plan, indexes, backend, matrices, lineup.items());
    let held = Needs { fixed: needs.fixed.saturating_add(options.held_bytes), ..needs };
    let longest = options.stripe_elements;
    let sizing = sizing::choose(&held, options.memory_bytes, options.threads, longest)?;
    Ok((needs, sizing))
}

/// What is held from start to end: the plan, and what the threads work with.
pub(crate) fn base_bytes(needs: &Needs, sizing: &Sizing) -> u64 {
    needs.fixed + needs.worker(sizing.stripe) * sizing.threads as u64
}

fn finish(mut report: Report, context: Context<'_>, budget: &Budget) -> Report {
    report.bytes_read = context.inputs.bytes_read();
    report.bytes_written = context.written.into_inner();
    report.bytes_shared = context.shared.into_inner();
    report.tensors_computed = context.finished.into_inner();
    report.peak_bytes = budget.peak();
    for (_, told) in std::mem::take(&mut *lock(&context.told)) {
        report.told.extend(told);
    }
    report.told.matrices.sort_by(|a, b| a.tensor.cmp(&b.tensor));
    report.warnings.extend(messages::overflow(&report.told.overflows));
    report
}

fn explain(failure: Failure) -> Diagnostic {
    match failure {
        Failure::Input(diagnostic) | Failure::Fatal(diagnostic) => *diagnostic,
        Failure::Interrupted => *internal("an interruption is told as a failure"),
        Failure::Panic(message) => *internal(format!("a thread stopped with `{message}`")),
    }
}

/// The flows of one stage.
struct ItemQueue<'a> {
    context: &'a Context<'a>,
    items: &'a [Item],
    /// How many may work on one flow.
    threads: usize,
}

impl Queue<Hands> for ItemQueue<'_> {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn bytes(&self, position: usize) -> u64 {
        let Context { plan, key_bytes, matrix_needs, .. } = self.context;
        flow_bytes(plan, &self.items[position], *key_bytes, matrix_needs, self.threads)
    }

    fn start(&self, position: usize) -> Result<Arc<dyn Flow<Hands> + '_>, Failure> {
        let context = self.context;
        // While this one is read, the next one's start comes into memory.
        if let Some(Item::Copy(job)) = self.items.get(position + 1) {
            context.expect_job(*job);
        } else if let Some(Item::Merge(stretch)) = self.items.get(position + 1) {
            context.expect_job(stretch.job);
        }
        Ok(match &self.items[position] {
            Item::Merge(stretch @ Stretch { twin: None, .. }) => {
                Arc::new(MergeFlow::of_job(context, stretch)?)
            }
            Item::Merge(stretch @ Stretch { twin: Some(twin), .. }) => {
                Arc::new(TwinFlow::new(MergeFlow::of_job(context, stretch)?, *twin))
            }
            Item::Gathering(gathering) => Arc::new(MergeFlow::of_gathering(context, gathering)?),
            Item::RowMeans(rows) => Arc::new(RowMeansFlow::new(context, *rows)),
            Item::Copy(job) => match &context.job(*job).work {
                Work::Copy { from, .. } if context.job(*job).keeps_codes() => {
                    Arc::new(CodesFlow::new(context, *job, *from))
                }
                Work::Copy { from, equal_to, within } => {
                    Arc::new(CopyFlow::new(context, *job, *from, equal_to, *within))
                }
                Work::Merge(_) => return Err(Failure::Fatal(internal("a merge is no copy"))),
            },
        })
    }
}
