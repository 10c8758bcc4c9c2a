//! What a run will read, write and hold, told before it starts.

use std::collections::BTreeMap;
use std::sync::Arc;

use mixdown_checkpoint::index::Index;
use mixdown_checkpoint::quantize::Quantizer;
use mixdown_diagnostics::Diagnostic;
use mixdown_ops::program::{BLOCK, PIECE};
use mixdown_ops::selection::SAMPLE_BLOCKS;
use mixdown_ops::{Backend, Pass, Placement};
use mixdown_plan::{Job, Leaf, Merge, Patch, PatchSource, Plan, RowSource, TensorRef, Work};

use crate::check::check;
use crate::lineup::Lineup;
use crate::matrix_needs::MatrixNeeds;
use crate::needs::{Indexes, Item, flow_bytes};
use crate::run::{Options, base_bytes, fit};
use crate::stages::Stretch;

/// What a run will read, write and hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes read by the first pass of all jobs, by their second, and so on; copies count as a first
    /// pass. Means of embedding rows are not among them.
    pub bytes_read_by_pass: Vec<u64>,
    /// Bytes read in all. A selection whose sample misled reads more.
    pub bytes_read: u64,
    /// Floating-point operations of matrix ops; what block programs do is bound by reading.
    pub flops: u64,
    /// Bytes of all output tensors.
    pub bytes_written: u64,
    /// Bytes that lie on the output's disk: results until all facts about the model are known, and what matrix ops
    /// put aside, at most.
    pub bytes_aside: u64,
    /// The most memory that the run will admit, with what is held already.
    pub peak_bytes: u64,
    /// Threads that will work.
    pub threads: usize,
    /// Elements that a thread reads and computes at a time.
    pub stripe_elements: usize,
    /// What devices do, by their names; empty where the backend has none, or none of its ops is for one.
    pub devices: Vec<DeviceUse>,
    /// Ops that a device would not do, by the reason, and how many.
    pub declined: Vec<(String, usize)>,
}

/// What one device, or several that take turns, do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceUse {
    /// Which.
    pub device: String,
    /// The matrix op.
    pub op: &'static str,
    /// How many of them.
    pub ops: usize,
    /// The most bytes of the device's memory that one of them needs.
    pub device_bytes: u64,
    /// The fewest rows that are there at a time of a tensor that does not fit as a whole; none where all fit.
    pub block_rows: Option<u64>,
    /// Milliseconds of all of them there and on the processor, by the cost model. No measurement.
    pub milliseconds: [u64; 2],
}

/// Tells what [`run`](crate::run()) will do with the same options, from headers alone.
///
/// **Errors.** `BUDGET_TOO_SMALL`.
pub fn footprint(
    plan: &Plan,
    indexes: &[&Index],
    backend: &dyn Backend,
    options: &Options,
) -> Result<Footprint, Box<Diagnostic>> {
    let indexes = Indexes(indexes);
    check(plan, indexes)?;
    let matrices = MatrixNeeds::new(plan, backend)?;
    let lineup = Lineup::new(plan, indexes, &matrices, |_| true)?;
    let (needs, sizing) = fit(plan, indexes, backend, &matrices, &lineup, options)?;
    let mut bytes_read_by_pass = Vec::new();
    let mut means = 0;
    for item in lineup.items() {
        for (pass, bytes) in reads(plan, indexes, item) {
            match pass {
                None => means += bytes,
                Some(pass) => {
                    bytes_read_by_pass.resize(bytes_read_by_pass.len().max(pass + 1), 0);
                    bytes_read_by_pass[pass] += bytes;
                }
            }
        }
    }
    let base = options.held_bytes + base_bytes(&needs, &sizing);
    // Flows are in flight one for each thread at most, as far as the budget has room for them.
    let mut flows: Vec<u64> = lineup
        .items()
        .map(|item| flow_bytes(plan, item, sizing.key_bytes, &matrices, sizing.threads))
        .collect();
    flows.sort_unstable_by(|a, b| b.cmp(a));
    let flows: u64 = flows.iter().take(sizing.threads).sum();
    Ok(Footprint {
        bytes_read: bytes_read_by_pass.iter().sum::<u64>() + means,
        bytes_read_by_pass,
        flops: matrices.flops(),
        bytes_aside: lineup.aside.bytes + matrices.bytes_aside(sizing.threads),
        bytes_written: plan.jobs.iter().map(Job::stored_bytes).sum(),
        peak_bytes: (base + flows).min(options.memory_bytes),
        threads: sizing.threads,
        stripe_elements: sizing.stripe,
        devices: devices(plan, &matrices),
        declined: declined(&matrices),
    })
}

fn devices(plan: &Plan, matrices: &MatrixNeeds) -> Vec<DeviceUse> {
    let mut found: BTreeMap<(String, &'static str), (DeviceUse, [f64; 2])> = BTreeMap::new();
    for (&(job, step), placement) in matrices.places() {
        let Placement::Device(place) = placement else { continue };
        let Work::Merge(merge) = &plan.jobs[job as usize].work else { continue };
        let step = &merge.matrices[step];
        let new = || {
            let device = place.device.clone();
            let (op, milliseconds) = (step.op.name(), [0; 2]);
            let used =
                DeviceUse { device, op, ops: 0, device_bytes: 0, block_rows: None, milliseconds };
            (used, [0.0; 2])
        };
        let (used, seconds) =
            found.entry((place.device.clone(), step.op.name())).or_insert_with(new);
        used.ops += 1;
        used.device_bytes = used.device_bytes.max(place.device_bytes);
        let rows = place.block_rows as u64;
        if rows < step.rows {
            used.block_rows = Some(used.block_rows.map_or(rows, |least| least.min(rows)));
        }
        for (sum, one) in seconds.iter_mut().zip(place.seconds) {
            *sum += one * step.layout.matrices.max(1) as f64;
        }
    }
    let told = |(mut used, seconds): (DeviceUse, [f64; 2])| {
        used.milliseconds = seconds.map(|seconds| (seconds * 1e3).round() as u64);
        used
    };
    found.into_values().map(told).collect()
}

fn declined(matrices: &MatrixNeeds) -> Vec<(String, usize)> {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for placement in matrices.places().values() {
        if let Placement::Declined(why) = placement {
            *found.entry(why).or_default() += 1;
        }
    }
    found.into_iter().map(|(why, count)| (why.to_owned(), count)).collect()
}

/// What it takes to make one output tensor once all facts about others are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCost {
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes of the tensor.
    pub bytes_written: u64,
    /// Floating-point operations of matrix ops.
    pub flops: u64,
    /// The job that is computed together with this one: the other side of a low-rank matrix, whose costs
    /// are counted here.
    pub with: Option<u32>,
}

/// What each job of a plan costs, and the bytes that are read for facts about several of them.
///
/// **Errors.** A matrix op that the backend refuses.
pub fn job_costs(
    plan: &Plan,
    indexes: &[&Index],
    backend: &dyn Backend,
) -> Result<(Vec<JobCost>, u64), Box<Diagnostic>> {
    let indexes = Indexes(indexes);
    check(plan, indexes)?;
    let matrices = MatrixNeeds::new(plan, backend)?;
    let lineup = Lineup::new(plan, indexes, &matrices, |_| true)?;
    let of_job = |job: &Job| JobCost { bytes_written: job.stored_bytes(), ..JobCost::default() };
    let mut costs: Vec<JobCost> = plan.jobs.iter().map(of_job).collect();
    let mut for_facts = 0;
    for item in lineup.items() {
        let read: u64 = reads(plan, indexes, item).into_iter().map(|(_, bytes)| bytes).sum();
        let (job, twin) = match item {
            Item::Copy(job) => (*job, None),
            Item::Merge(stretch) if stores(plan, stretch) => (stretch.job, stretch.twin),
            Item::Merge(_) | Item::Gathering(_) | Item::RowMeans(_) => {
                for_facts += read;
                continue;
            }
        };
        let cost = &mut costs[job as usize];
        cost.bytes_read = read;
        cost.flops = matrices.of(job).iter().map(|needs| needs.flops).sum();
        cost.with = twin;
    }
    Ok((costs, for_facts))
}

/// Whether a flow makes the tensor of its job, and not only facts for it.
fn stores(plan: &Plan, stretch: &Stretch) -> bool {
    match &plan.jobs[stretch.job as usize].work {
        Work::Merge(merge) => {
            stretch.passes.end == plan.programs[merge.program as usize].passes.len()
        }
        Work::Copy { .. } => true,
    }
}

/// About how many bytes a lineup reads and writes.
pub(crate) fn expected_bytes(plan: &Plan, indexes: Indexes<'_>, lineup: &Lineup) -> u64 {
    let read: u64 =
        lineup.items().flat_map(|item| reads(plan, indexes, item)).map(|(_, bytes)| bytes).sum();
    let written = |item: &Item| {
        let job = match item {
            Item::Copy(job) => *job,
            Item::Merge(stretch) => {
                let Work::Merge(merge) = &plan.jobs[stretch.job as usize].work else { return 0 };
                let passes = plan.programs[merge.program as usize].passes.len();
                if stretch.passes.end < passes {
                    return 0;
                }
                let twin = stretch.twin.map(|twin| &plan.jobs[twin as usize]);
                let of_twin = twin.map_or(0, Job::stored_bytes);
                let job = &plan.jobs[stretch.job as usize];
                return job.stored_bytes() + of_twin;
            }
            Item::Gathering(_) | Item::RowMeans(_) => return 0,
        };
        plan.jobs[job as usize].stored_bytes()
    };
    read + lineup.items().map(written).sum::<u64>()
}

/// Bytes that a flow reads, by pass; of none for means of rows.
fn reads(plan: &Plan, indexes: Indexes<'_>, item: &Item) -> Vec<(Option<usize>, u64)> {
    let tensor = |tensor: TensorRef| indexes.entry(tensor).bytes();
    let pass = |job: u32, index: usize| match &plan.jobs[job as usize].work {
        Work::Merge(merge) => pass_reads(plan, indexes, job, merge, index),
        Work::Copy { .. } => 0,
    };
    match item {
        Item::Copy(job) => match &plan.jobs[*job as usize].work {
            Work::Copy { from, .. } if plan.jobs[*job as usize].keeps_codes() => {
                vec![(Some(0), indexes.entry(*from).stored_bytes())]
            }
            Work::Copy { from, equal_to, .. } => {
                let equal: u64 = equal_to.iter().map(|&other| tensor(other)).sum();
                vec![(Some(0), (tensor(*from) + equal) * readings(&plan.jobs[*job as usize]))]
            }
            Work::Merge(_) => Vec::new(),
        },
        Item::Merge(stretch) => {
            let of_passes = stretch.passes.clone();
            let of_passes = of_passes.map(|index| (Some(index), pass(stretch.job, index)));
            // Operands of matrix ops are read once at least.
            let Work::Merge(merge) = &plan.jobs[stretch.job as usize].work else {
                return of_passes.collect();
            };
            let steps = stretch.steps.iter().map(|&step| &merge.matrices[step]);
            let of_steps = steps.map(|step| {
                let leaves = step.operands.iter().flat_map(|operand| &operand.merge.leaves);
                let bytes = leaves.map(|&leaf| leaf_reads(plan, indexes, leaf, 0)).sum();
                (Some(step.before as usize), bytes)
            });
            of_passes.chain(of_steps).collect()
        }
        Item::Gathering(members) => {
            members.iter().map(|&(job, index)| (Some(index), pass(job, index))).collect()
        }
        Item::RowMeans(rows) => vec![(None, rows_bytes(plan, indexes, *rows))],
    }
}

/// How often the values of a job are computed to be stored: once more where codes depend on all of them.
fn readings(job: &Job) -> u64 {
    let needs_largest = |quantizer: &Arc<Quantizer>| quantizer.needs_largest();
    1 + u64::from(job.quantized.as_ref().is_some_and(needs_largest))
}

fn pass_reads(plan: &Plan, indexes: Indexes<'_>, job: u32, merge: &Merge, index: usize) -> u64 {
    let passes = &plan.programs[merge.program as usize].passes;
    let pass: &Pass = &passes[index];
    let stores = index + 1 == passes.len();
    if !stores && pass.reductions.is_empty() && pass.selections.is_empty() {
        return 0;
    }
    let elements = merge.elements(plan.jobs[job as usize].shape.elements(), stores);
    // A sample of a block per piece comes before the one reading of all elements.
    let sampled = match stores || pass.selections.is_empty() || elements <= PIECE {
        true => 0,
        false => elements.div_ceil(PIECE).min(SAMPLE_BLOCKS) * BLOCK as u64,
    };
    let leaves = pass.inputs.iter().map(|&input| merge.leaves[input as usize]);
    let terms = merge.factor.iter().filter(|_| stores).flat_map(|factor| &factor.terms);
    let once: u64 = leaves
        .chain(terms.map(|(leaf, _)| *leaf))
        .map(|leaf| leaf_reads(plan, indexes, leaf, sampled))
        .sum();
    if stores { once * readings(&plan.jobs[job as usize]) } else { once }
}

/// Bytes of the inputs that one reading of a leaf takes, and of so many elements of a sample.
fn leaf_reads(plan: &Plan, indexes: Indexes<'_>, leaf: Leaf, sampled: u64) -> u64 {
    match leaf {
        Leaf::Tensor(tensor) => {
            let entry = indexes.entry(tensor);
            entry.stored_bytes() + entry.stored_stretch(0, sampled).1
        }
        Leaf::Rows(rows) => rows_bytes(plan, indexes, rows),
        Leaf::Assembled(number, _) => {
            let assembled = &plan.assembled[number as usize];
            let width = assembled.dtype.bytes() as u64;
            let read = |patch: &&Patch| matches!(patch.from, PatchSource::Tensor { .. });
            assembled.patches.iter().filter(read).map(|patch| patch.elements() * width).sum()
        }
        Leaf::Product(product) => {
            indexes.entry(product.left).bytes() + indexes.entry(product.right).bytes()
        }
        Leaf::Matrix(_) | Leaf::Part(..) | Leaf::Factor => 0,
    }
}

/// Bytes that one reading of an embedding takes.
fn rows_bytes(plan: &Plan, indexes: Indexes<'_>, rows: u32) -> u64 {
    let rows = &plan.rows[rows as usize];
    let row = |tensor: u32| {
        let dtype = indexes.entry(rows.tensors[tensor as usize]).dtype;
        rows.row_elements * dtype.bytes() as u64
    };
    rows.rows
        .iter()
        .map(|source| match source {
            RowSource::Row(tensor, _) => row(*tensor),
            RowSource::Mean(sources) => sources.iter().map(|&(tensor, _)| row(tensor)).sum(),
            RowSource::Zero | RowSource::MeanOfRows => 0,
        })
        .sum()
}
