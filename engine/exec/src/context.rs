//! What all flows of a run share: the inputs, the output, and facts kept from one stage to the next.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use mixdown_checkpoint::tensor_digest::{
    PieceHash, PieceHasher, Pieces, TensorDigest, TensorHasher,
};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::program::PIECE;
use mixdown_ops::selection::Cut;
use mixdown_ops::{Backend, Precision, Program, Worker};
use mixdown_plan::{Job, Leaf, Merge, Plan, TensorRef, Work};
use mixdown_tensor::DType;

use crate::assembled::{self, Bands, is_banded};
use crate::encoded::Sums;
use crate::held::held_dtype;
use crate::matrix_needs::MatrixNeeds;
use crate::messages;
use crate::places::Places;
use crate::progress::Progress;
use crate::read::Inputs;
use crate::report::{QuantizeLoss, Told};
use crate::resources::Resources;
use crate::results::Results;
use crate::rows::{Embedding, gathered};
use crate::scheduler::Failure;
use crate::sink::Sink;
use crate::steps::{Aside, Put};

/// What all flows of a run share.
pub(crate) struct Context<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) inputs: Inputs<'a>,
    pub(crate) sink: &'a dyn Sink,
    pub(crate) progress: &'a dyn Progress,
    /// What runs block programs and matrix ops.
    pub(crate) backend: &'a dyn Backend,
    /// For each job the position of its first stored tensor.
    pub(crate) first_stored: Vec<usize>,
    /// Where results of matrix ops are kept.
    pub(crate) results: &'a dyn Results,
    /// Where results of matrix ops go that later flows read, and those that are there.
    pub(crate) aside: Aside,
    pub(crate) put: Mutex<HashMap<(u32, usize), Put>>,
    /// Where matrix ops put things behind those results until they are done.
    pub(crate) places: Places,
    /// What matrix ops hold.
    pub(crate) matrix_needs: MatrixNeeds,
    /// Most elements that are read and computed at a time: a multiple of a block, up to a piece.
    pub(crate) stripe: usize,
    /// Bytes of keys that the selections of one flow may collect together.
    pub(crate) key_bytes: u64,
    /// Raised when the run is to end.
    pub(crate) cancel: &'a AtomicBool,
    /// Whether NaN and infinity in the inputs are errors.
    pub(crate) check_finite: bool,
    /// Facts of jobs that are between two stages.
    pub(crate) kept: Mutex<HashMap<u32, Facts>>,
    /// For each embedding: the mean of its rows, where it is needed.
    pub(crate) padding: Vec<OnceLock<Vec<f64>>>,
    /// Rows of transposed tensors that were read last.
    pub(crate) bands: Bands,
    /// What jobs have told.
    pub(crate) told: Mutex<BTreeMap<u32, Told>>,
    /// Output tensors finished.
    pub(crate) finished: AtomicUsize,
    /// Bytes written.
    pub(crate) written: AtomicU64,
    /// Bytes that the output shares with inputs.
    pub(crate) shared: AtomicU64,
}

/// What is known of a job between its passes.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) scalars: Vec<f64>,
    pub(crate) cuts: Vec<Cut>,
    /// Per input: whether a pass has looked for NaN and infinity in all of it.
    pub(crate) checked: Vec<bool>,
}

impl Facts {
    fn new(program: &Program, merge: &Merge) -> Self {
        let mut scalars = merge.constants.clone();
        scalars.resize(program.scalars as usize, 0.0);
        Self {
            scalars,
            cuts: vec![Cut::NONE; program.cuts as usize],
            checked: vec![false; program.inputs as usize],
        }
    }
}

impl<'a> Context<'a> {
    pub(crate) fn job(&self, job: u32) -> &'a Job {
        &self.plan.jobs[job as usize]
    }

    /// The merge of a job, which is one.
    pub(crate) fn merge(&self, job: u32) -> Option<&'a Merge> {
        match &self.job(job).work {
            Work::Merge(merge) => Some(merge),
            Work::Copy { .. } => None,
        }
    }

    pub(crate) fn program(&self, merge: &Merge) -> &'a Program {
        &self.plan.programs[merge.program as usize]
    }

    /// What an earlier stage found, or what the job begins with.
    pub(crate) fn take_facts(&self, job: u32, merge: &Merge) -> Facts {
        let kept = lock(&self.kept).remove(&job);
        kept.unwrap_or_else(|| Facts::new(self.program(merge), merge))
    }

    /// The type in which an input comes to the backend.
    pub(crate) fn leaf_dtype(&self, leaf: Leaf, precision: Precision) -> DType {
        match leaf {
            Leaf::Tensor(tensor) => self.inputs.entry(tensor).dtype,
            Leaf::Rows(_) => gathered(precision),
            Leaf::Assembled(_, dtype) => dtype,
            Leaf::Product(_) | Leaf::Matrix(_) | Leaf::Part(..) | Leaf::Factor => {
                held_dtype(precision)
            }
        }
    }

    pub(crate) fn embedding(&self, rows: u32) -> Embedding<'_> {
        let padding = self.padding[rows as usize].get().map_or(&[][..], Vec::as_slice);
        Embedding { rows: &self.plan.rows[rows as usize], padding }
    }

    /// Reads a stretch of a leaf. `resources` have what comes from no file, and the worker multiplies out
    /// what is there as factors; `scratch` is used by embeddings and tensors that are put together.
    pub(crate) fn read_leaf(
        &self,
        leaf: Leaf,
        (resources, worker): (&Resources, &mut (dyn Worker + 'static)),
        first: u64,
        dtype: DType,
        out: &mut [u8],
        scratch: &mut [u8],
    ) -> Result<(), Failure> {
        match leaf {
            Leaf::Tensor(tensor) => self.inputs.read(tensor, first, out),
            Leaf::Rows(rows) => {
                self.embedding(rows).gather(&self.inputs, first, dtype, out, scratch)
            }
            Leaf::Assembled(number, _) => {
                let one = &self.plan.assembled[number as usize];
                if is_banded(one) {
                    return self.bands.read(&self.inputs, (number, one), first, out);
                }
                assembled::read(&self.inputs, one, first, out, scratch)
            }
            Leaf::Product(_) | Leaf::Matrix(_) | Leaf::Part(..) | Leaf::Factor => {
                resources.read(&leaf, first, dtype, out, self.sink, worker)
            }
        }
    }

    /// The failure for a NaN or an infinity in a leaf, with the stored element that it comes from.
    pub(crate) fn nonfinite(&self, leaf: Leaf, element: u64) -> Failure {
        let inputs = &self.inputs;
        let of = |found| match found {
            Some((tensor, element)) => messages::nonfinite(inputs, tensor, element),
            None => Failure::Fatal(internal("numbers became infinite though none that is read is")),
        };
        match leaf {
            Leaf::Tensor(tensor) => messages::nonfinite(inputs, tensor, element),
            Leaf::Rows(rows) => match self.embedding(rows).culprit(inputs, element) {
                Ok(found) => of(found),
                Err(failure) => failure,
            },
            Leaf::Assembled(number, _) => {
                of(assembled::culprit(&self.plan.assembled[number as usize], element))
            }
            Leaf::Product(product) => messages::overflown_update(inputs, &product, element),
            Leaf::Matrix(_) | Leaf::Part(..) | Leaf::Factor => {
                Failure::Fatal(internal("a result that was finite is not"))
            }
        }
    }

    /// Asks for the start of what a job reads.
    pub(crate) fn expect_job(&self, job: u32) {
        match &self.job(job).work {
            Work::Copy { from, equal_to, .. } => {
                for &tensor in [from].into_iter().chain(equal_to) {
                    self.inputs.expect_start(tensor);
                }
            }
            Work::Merge(merge) => {
                for tensor in merge.leaves.iter().filter_map(tensor_of) {
                    self.inputs.expect_start(tensor);
                }
            }
        }
    }

    /// How the bytes of a job are cut for hashing: by the pieces that it is computed in.
    pub(crate) fn pieces(&self, job: u32) -> Pieces {
        let job = self.job(job);
        Pieces::new(job.shape.bytes(job.dtype), PIECE * job.dtype.bytes() as u64)
    }

    /// A hasher for a job's tensor. One without elements has no piece that a thread would run, so
    /// its empty piece is added at once.
    pub(crate) fn tensor_hasher(&self, job: u32) -> TensorHasher {
        let pieces = self.pieces(job);
        let mut hasher = TensorHasher::new(pieces);
        if pieces.is_empty() {
            hasher.add(pieces.hasher(0).finish());
        }
        hasher
    }

    /// Writes bytes of a job's tensor.
    pub(crate) fn write(&self, job: u32, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.write_part(job, 0, offset, bytes)
    }

    /// Writes bytes of one of the tensors that are stored for a job.
    pub(crate) fn write_part(
        &self,
        job: u32,
        part: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let tensor = self.first_stored[job as usize] + part;
        self.sink.write_at(tensor, offset, bytes).map_err(Failure::Fatal)?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.progress.bytes(0, bytes.len() as u64);
        Ok(())
    }

    /// Lets a job's tensor share the bytes of an input, where the file system can. Returns which are
    /// in place.
    pub(crate) fn share(&self, job: u32, from: TensorRef) -> Result<Range<u64>, Failure> {
        let entry = self.inputs.entry(from);
        if entry.encoding.is_some() {
            return Ok(0..0);
        }
        let Some(file) = self.inputs.shard(from).file() else { return Ok(0..0) };
        let tensor = self.first_stored[job as usize];
        let shared = self.sink.share(tensor, (&file, entry.offset), entry.bytes());
        let shared = shared.map_err(Failure::Fatal)?;
        self.shared.fetch_add(shared, Ordering::Relaxed);
        self.progress.bytes(0, shared);
        Ok(0..shared)
    }

    /// Notes what a job tells. What is finished was told by the run that finished it, though a matrix op that
    /// others need, too, may run again.
    pub(crate) fn note(&self, job: u32, add: impl FnOnce(&mut Told)) {
        if !self.is_complete(job) {
            add(lock(&self.told).entry(job).or_default());
        }
    }

    /// Whether the sink has all tensors of a job.
    pub(crate) fn is_complete(&self, job: u32) -> bool {
        let first = self.first_stored[job as usize];
        let count = self.job(job).stored_count();
        (first..first + count).all(|tensor| self.sink.is_complete(tensor))
    }

    /// Notes what writing in fewer bits did to a job's tensor.
    pub(crate) fn note_quantized(&self, number: u32, job: &Job, sums: Sums, update: Option<f64>) {
        let Some(quantizer) = &job.quantized else { return };
        let (tensor, form) = (job.name.clone(), quantizer.form().to_string());
        let Sums { lost, exact } = sums;
        let loss = QuantizeLoss { tensor, form, lost, exact, update };
        self.note(number, |told| told.quantized.push(loss));
    }

    /// Records a job's tensor as finished.
    pub(crate) fn complete(&self, job: u32, hasher: &TensorHasher) -> Result<(), Failure> {
        self.complete_parts(job, vec![hasher.finish()])
    }

    /// Records all tensors that are stored for a job as finished.
    pub(crate) fn complete_parts(
        &self,
        job: u32,
        digests: Vec<TensorDigest>,
    ) -> Result<(), Failure> {
        // With the first of its tensors: where another one is made again, so is the job.
        let mut told = lock(&self.told).get(&job).cloned().unwrap_or_default();
        for (tensor, digest) in (self.first_stored[job as usize]..).zip(digests) {
            self.sink
                .complete(tensor, digest, &std::mem::take(&mut told))
                .map_err(Failure::Fatal)?;
        }
        self.finished.fetch_add(1, Ordering::Relaxed);
        self.progress.tensor_done(&self.job(job).name);
        Ok(())
    }
}

/// The tensor of a leaf that is one.
pub(crate) fn tensor_of(leaf: &Leaf) -> Option<TensorRef> {
    match leaf {
        Leaf::Tensor(tensor) => Some(*tensor),
        Leaf::Rows(_)
        | Leaf::Assembled(..)
        | Leaf::Product(_)
        | Leaf::Matrix(_)
        | Leaf::Part(..)
        | Leaf::Factor => None,
    }
}

/// Writes and hashes one piece of an output tensor, stretch by stretch.
pub(crate) struct PieceWriter {
    job: u32,
    hasher: PieceHasher,
    /// Where the next stretch goes.
    offset: u64,
}

impl PieceWriter {
    pub(crate) fn new(context: &Context<'_>, job: u32, piece: u64) -> Self {
        let pieces = context.pieces(job);
        let index = piece as usize;
        Self { job, hasher: pieces.hasher(index), offset: pieces.offset(index) }
    }

    /// Adds the next bytes; those that the output holds already are only hashed.
    pub(crate) fn add(
        &mut self,
        context: &Context<'_>,
        bytes: &[u8],
        held: &Range<u64>,
    ) -> Result<(), Failure> {
        self.hasher.update(bytes);
        let end = self.offset + bytes.len() as u64;
        let clamp = |at: u64| at.clamp(self.offset, end);
        let (from, to) = (clamp(held.start), clamp(held.end));
        // Nothing held here: one stretch to write, all of it before the place where it ends.
        let (from, to) = if from < to { (from, to) } else { (end, end) };
        for (start, stop) in [(self.offset, from), (to, end)] {
            if start < stop {
                let range = (start - self.offset) as usize..(stop - self.offset) as usize;
                context.write(self.job, start, &bytes[range])?;
            }
        }
        self.offset = end;
        Ok(())
    }

    pub(crate) fn finish(self) -> PieceHash {
        self.hasher.finish()
    }
}

/// A lock that a panicking thread cannot take away: the run stops anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A promise of ours that does not hold.
pub(crate) fn internal(what: impl std::fmt::Display) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(codes::INTERNAL, format!("mixdown broke a promise of its own: {what}"))
            .note("this is a fault of mixdown, not of the recipe or the models")
            .help("report it with the command and the output of `mixdown --version`"),
    )
}
