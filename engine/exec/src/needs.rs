//! How much memory the parts of a plan need, found from the plan and the indexes alone.

use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::index::{Index, TensorEntry};
use mixdown_ops::program::{PIECE, Scope};
use mixdown_ops::{Backend, Pass, Precision};
use mixdown_plan::{Job, Leaf, Merge, Plan, RowSource, TensorRef, Work};
use mixdown_tensor::DType;

use crate::assembled;
use crate::encoded;
use crate::hands::Arena;
use crate::held::held_dtype;
use crate::matrix_needs::MatrixNeeds;
use crate::resources::product_bytes;
use crate::rounds::key_budget;
use crate::rows::{self, gathered};
use crate::stages::{Gathering, Stretch};

/// What a thread holds besides buffers and its backend's worker: its stack, as far as it is touched,
/// and the state of a hash.
const THREAD_BYTES: u64 = 64 << 10;

/// What each flow holds whatever it does.
const FLOW_BYTES: u64 = 4 << 10;

/// Per piece of a tensor that is written: the piece's hash, and a copy while all are joined.
const HASH_BYTES: u64 = 72;

/// Per piece and selection: what a selection keeps of a piece besides its keys, in a list that has
/// room for twice as many.
const TALLY_BYTES: u64 = 160;

/// Per selection: counts of a histogram, and those of the bits of collected keys.
const SELECTION_BYTES: u64 = 48 << 10;

/// A flow to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A job that copies.
    Copy(u32),
    /// Passes of a job.
    Merge(Stretch),
    /// One pass of several jobs.
    Gathering(Gathering),
    /// The mean of the rows of an embedding.
    RowMeans(u32),
}

/// The indexes of a plan's models.
#[derive(Clone, Copy)]
pub(crate) struct Indexes<'a>(pub(crate) &'a [&'a Index]);

impl<'a> Indexes<'a> {
    pub(crate) fn entry(&self, tensor: TensorRef) -> &'a TensorEntry {
        &self.0[tensor.model as usize].tensors()[tensor.tensor as usize]
    }

    /// Bytes that blocks of packed tensors take, and what computed tensors hold.
    fn blocks_bytes(&self) -> u64 {
        let is_packed = |index: &&Index| {
            let mut encodings = index.tensors().iter().filter_map(|one| one.encoding.as_ref());
            encodings.any(|encoding| !encoding.is_computed())
        };
        let read = if self.0.iter().any(is_packed) { Blocks::BYTES } else { 0 };
        read + Blocks::room_for(self.0.iter().copied())
    }

    /// Bytes that a thread takes for itself while it reads a packed tensor.
    fn reading_bytes(&self) -> u64 {
        let encodings = self.0.iter().flat_map(|index| index.tensors());
        let encodings = encodings.filter_map(|one| one.encoding.as_ref());
        encodings.map(|encoding| encoding.reading_bytes()).max().unwrap_or(0)
    }

    fn leaf_dtype(&self, leaf: Leaf, precision: Precision) -> DType {
        match leaf {
            Leaf::Tensor(tensor) => self.entry(tensor).dtype,
            Leaf::Rows(_) => gathered(precision),
            Leaf::Assembled(_, dtype) => dtype,
            Leaf::Product(_) | Leaf::Matrix(_) | Leaf::Part(..) | Leaf::Factor => {
                held_dtype(precision)
            }
        }
    }
}

/// Bytes per element of the buffers of a stretch: one for each leaf, then the output, then scratch.
#[derive(Debug)]
pub(crate) struct StretchNeeds(Vec<usize>);

impl StretchNeeds {
    /// Of a pass of a job. Leaves that it does not load need nothing.
    pub(crate) fn new(
        job: &Job,
        merge: &Merge,
        pass: &Pass,
        stores: bool,
        dtype: impl Fn(Leaf) -> DType,
    ) -> Self {
        let mut widths = vec![0; merge.leaves.len()];
        let mut scratch = 0;
        for &input in &pass.inputs {
            let leaf = merge.leaves[input as usize];
            widths[input as usize] = dtype(leaf).bytes();
            scratch = scratch.max(match leaf {
                Leaf::Rows(_) => rows::SCRATCH_BYTES,
                Leaf::Assembled(..) => assembled::SCRATCH_BYTES,
                _ => 0,
            });
        }
        widths.push(if stores { job.dtype.bytes() } else { 0 });
        widths.push(scratch);
        Self(widths)
    }

    /// Bytes of each buffer, for so many elements.
    pub(crate) fn sizes(&self, elements: usize) -> Vec<usize> {
        self.0.iter().map(|width| width * elements).collect()
    }

    fn per_element(&self) -> u64 {
        self.0.iter().sum::<usize>() as u64
    }
}

/// The most that any part of a plan needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Held from start to end.
    pub(crate) fixed: u64,
    /// Buffers of a worker, per element of a stripe.
    pub(crate) per_element: u64,
    /// What a worker holds besides buffers.
    pub(crate) per_worker: u64,
    /// What one flow holds when one thread works on it, without keys.
    pub(crate) flow: u64,
    /// What it holds more for each further thread.
    pub(crate) flow_per_thread: u64,
    /// Keys that the selections of one flow would like to collect, in bytes.
    pub(crate) keys: u64,
}

impl Needs {
    pub(crate) fn of<'a>(
        plan: &Plan,
        indexes: Indexes<'_>,
        backend: &dyn Backend,
        matrices: &MatrixNeeds,
        items: impl Iterator<Item = &'a Item>,
    ) -> Self {
        let mut needs = Self {
            fixed: plan_bytes(plan) + indexes.blocks_bytes(),
            per_worker: THREAD_BYTES + Arena::bytes([]) + indexes.reading_bytes(),
            ..Self::default()
        };
        let mut scratch = 0;
        for job in &plan.jobs {
            match &job.work {
                Work::Copy { equal_to, .. } => {
                    let others = equal_to.iter().map(|&other| indexes.entry(other).dtype.bytes());
                    let all = job.dtype.bytes() + others.max().unwrap_or(0);
                    needs.per_element = needs.per_element.max(all as u64);
                }
                Work::Merge(merge) => {
                    for operand in merge.matrices.iter().flat_map(|step| &step.operands) {
                        let width = held_dtype(merge.precision).bytes() + rows::SCRATCH_BYTES;
                        let leaves = operand.merge.leaves.iter();
                        let read =
                            leaves.map(|&leaf| indexes.leaf_dtype(leaf, merge.precision).bytes());
                        let all = (read.sum::<usize>() + width) as u64;
                        needs.per_element = needs.per_element.max(all);
                        let pass = &plan.programs[operand.merge.program as usize].passes[0];
                        scratch = scratch.max(backend.worker_bytes(pass, merge.precision));
                    }
                    let program = &plan.programs[merge.program as usize];
                    for (index, pass) in program.passes.iter().enumerate() {
                        let stores = index + 1 == program.passes.len();
                        let dtype = |leaf| indexes.leaf_dtype(leaf, merge.precision);
                        let stretch = StretchNeeds::new(job, merge, pass, stores, dtype);
                        needs.per_element = needs.per_element.max(stretch.per_element());
                        scratch = scratch.max(backend.worker_bytes(pass, merge.precision));
                    }
                }
            }
        }
        if assembled::has_bands(plan) {
            needs.per_worker += assembled::BYTES_PER_THREAD;
        }
        needs.per_worker += scratch;
        for item in items {
            if let Item::RowMeans(_) = item {
                needs.per_element = needs.per_element.max(8 + rows::SCRATCH_BYTES as u64);
            }
            let one = flow_bytes(plan, item, 0, matrices, 1);
            let two = flow_bytes(plan, item, 0, matrices, 2);
            needs.flow = needs.flow.max(one);
            needs.flow_per_thread = needs.flow_per_thread.max(two - one);
            needs.keys = needs.keys.max(key_bytes(plan, item, u64::MAX));
        }
        needs
    }

    /// Bytes of one worker with this stripe.
    pub(crate) fn worker(&self, stripe: usize) -> u64 {
        self.per_worker + self.per_element * stripe as u64
    }
}

/// Bytes that a flow holds when its selections may collect keys in `key_limit` bytes.
pub(crate) fn flow_bytes(
    plan: &Plan,
    item: &Item,
    key_limit: u64,
    matrices: &MatrixNeeds,
    threads: usize,
) -> u64 {
    let own = match item {
        Item::Copy(job) => {
            let quantized = encoded::bytes(&plan.jobs[*job as usize], threads);
            pieces(plan, *job) * HASH_BYTES + quantized
        }
        Item::Merge(stretch) => {
            let passes = stretch.passes.clone();
            let passes = passes.map(|pass| pass_bytes(plan, &[(stretch.job, pass)])).max();
            let quantized = encoded::bytes(&plan.jobs[stretch.job as usize], threads);
            passes.unwrap_or(0) + held_bytes(plan, stretch, matrices, threads) + quantized
        }
        Item::Gathering(members) => {
            let products = members.iter().map(|&(job, _)| match &plan.jobs[job as usize].work {
                Work::Merge(merge) => {
                    product_bytes(merge) + matrices.factors_of_others(job, merge, &[])
                }
                Work::Copy { .. } => 0,
            });
            pass_bytes(plan, members) + products.sum::<u64>()
        }
        // The sum, and parts of it that wait for their turn.
        Item::RowMeans(rows) => plan.rows[*rows as usize].row_elements.saturating_mul(8 * 8),
    };
    FLOW_BYTES + own + key_bytes(plan, item, key_limit)
}

/// Bytes that the flow of a job holds for adapters and matrix ops.
fn held_bytes(plan: &Plan, stretch: &Stretch, matrices: &MatrixNeeds, threads: usize) -> u64 {
    match &plan.jobs[stretch.job as usize].work {
        Work::Merge(merge) => matrices.bytes(stretch.job, merge, &stretch.steps, threads),
        Work::Copy { .. } => 0,
    }
}

/// Bytes of keys that the selections of a flow collect at most, if `limit` bytes are allowed.
fn key_bytes(plan: &Plan, item: &Item, limit: u64) -> u64 {
    match item {
        Item::Copy(_) | Item::RowMeans(_) => 0,
        Item::Merge(stretch) => {
            let passes = stretch.passes.clone();
            passes.map(|pass| pass_keys(plan, &[(stretch.job, pass)], limit)).max().unwrap_or(0)
        }
        Item::Gathering(members) => pass_keys(plan, members, limit),
    }
}

/// What one pass of these jobs holds, without keys.
fn pass_bytes(plan: &Plan, members: &[(u32, usize)]) -> u64 {
    let mut bytes = 0;
    for &(job, index) in members {
        let Some((merge, pass, stores)) = pass_of(plan, job, index) else { continue };
        let program = &plan.programs[merge.program as usize];
        // Facts are there twice while they change.
        bytes += 2 * (u64::from(program.scalars) * 8 + u64::from(program.cuts) * 16);
        if stores {
            bytes += pieces(plan, job) * HASH_BYTES;
        } else {
            let selections = pass.selections.len() as u64;
            let elements = merge.elements(plan.jobs[job as usize].shape.elements(), stores);
            bytes += selections * (elements.div_ceil(PIECE) * TALLY_BYTES + SELECTION_BYTES);
        }
    }
    bytes
}

/// Bytes of keys that one pass of these jobs collects at most.
fn pass_keys(plan: &Plan, members: &[(u32, usize)], limit: u64) -> u64 {
    let (mut elements, mut shared, mut own, mut width) = (0_u64, 0, 0, 4);
    for &(job, index) in members {
        let Some((merge, pass, false)) = pass_of(plan, job, index) else { continue };
        let of_tensor = |scope| usize::from(scope == Scope::Tensor);
        let alone: usize = pass.selections.iter().map(|slot| of_tensor(slot.scope)).sum();
        own += alone;
        shared = shared.max(pass.selections.len() - alone);
        let of_job = merge.elements(plan.jobs[job as usize].shape.elements(), false);
        elements = elements.saturating_add(of_job);
        if merge.precision == Precision::Double {
            width = 8;
        }
    }
    let selections = (own + shared) as u64;
    let precision = if width == 8 { Precision::Double } else { Precision::Single };
    let each = limit / selections.max(1);
    selections.saturating_mul(key_budget(elements, precision, each) as u64 * width)
}

fn pass_of(plan: &Plan, job: u32, index: usize) -> Option<(&Merge, &Pass, bool)> {
    let Work::Merge(merge) = &plan.jobs[job as usize].work else { return None };
    let passes = &plan.programs[merge.program as usize].passes;
    Some((merge, passes.get(index)?, index + 1 == passes.len()))
}

fn pieces(plan: &Plan, job: u32) -> u64 {
    plan.jobs[job as usize].shape.elements().div_ceil(PIECE)
}

/// Whether the mean of the rows of an embedding is needed.
pub(crate) fn needs_mean(plan: &Plan, rows: u32) -> bool {
    plan.rows[rows as usize].rows.contains(&RowSource::MeanOfRows)
}

fn merge_bytes(merge: &Merge) -> usize {
    size_of_val(merge)
        + size_of_val(&merge.leaves[..])
        + size_of_val(&merge.constants[..])
        + size_of_val(&merge.streams[..])
        + size_of_val(&merge.groups[..])
        + size_of_val(&merge.matrices[..])
}

/// About how many bytes the plan itself holds, with what the run keeps per job.
fn plan_bytes(plan: &Plan) -> u64 {
    // An item of the queue, and its place in the order of reading.
    let per_job = size_of::<Job>() + size_of::<Item>() + 48;
    let mut bytes = plan.jobs.len() * per_job;
    for job in &plan.jobs {
        bytes += job.name.len() + job.shape.dimensions().len() * 8;
        bytes += match &job.work {
            Work::Copy { equal_to, .. } => size_of_val(&equal_to[..]),
            Work::Merge(merge) => {
                let operands = merge.matrices.iter().flat_map(|step| &step.operands);
                let merges = operands.map(|operand| &operand.merge).chain([merge]);
                merges.map(merge_bytes).sum()
            }
        };
    }
    for rows in &plan.rows {
        bytes += size_of_val(&rows.rows[..]);
        for row in &rows.rows {
            if let RowSource::Mean(sources) = row {
                bytes += size_of_val(&sources[..]);
            }
        }
        if rows.rows.contains(&RowSource::MeanOfRows) {
            bytes += rows.row_elements as usize * 8;
        }
    }
    for assembled in &plan.assembled {
        bytes += size_of_val(&**assembled) + size_of_val(&assembled.patches[..]);
    }
    bytes +=
        plan.origins.iter().map(|o| size_of_val(o) + o.rule.len() + o.method.len()).sum::<usize>();
    bytes += plan.left_out.iter().map(|l| size_of_val(l) + l.reason.len()).sum::<usize>();
    bytes as u64
}
