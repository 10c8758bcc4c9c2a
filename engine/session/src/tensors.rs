//! Merges without files: models whose tensors the caller holds, and results that it takes one by one.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mixdown_checkpoint::index::Identity;
use mixdown_checkpoint::layout::OutputTensor;
use mixdown_checkpoint::tensor_digest::TensorDigest;
use mixdown_checkpoint::{ByteSource, Checkpoint, Form, Index, ReadError, Shard, TensorEntry};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::{NoResults, Outcome, Report, Sink, Told};
use mixdown_tensor::{DType, Shape};
use serde_json::Value;

use crate::planning::{self, Planned, RecipeInput};
use crate::progress::Task;
use crate::{Machine, Session, Trouble, merge};

/// A model whose tensors the caller holds. A recipe names it as it would a path.
pub struct GivenModel {
    /// What recipes call it.
    pub name: String,
    /// Its config.json, if there is one.
    pub config: Option<Value>,
    /// Its tensors, each name once.
    pub tensors: Vec<GivenTensor>,
}

/// A tensor that the caller holds.
pub struct GivenTensor {
    /// Its name in the model.
    pub name: String,
    /// Its storage type.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: Shape,
    /// Its elements, little-endian, row by row.
    pub data: Arc<dyn ByteSource>,
}

/// A tensor of the output.
#[derive(Debug)]
pub struct MergedTensor {
    /// Its name.
    pub name: String,
    /// Its storage type.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: Shape,
    /// Its elements, little-endian, row by row.
    pub data: Vec<u8>,
}

/// The data of a given model, one source for each shard of its index.
#[derive(Clone)]
pub(crate) struct Held(pub(crate) Vec<Arc<dyn ByteSource>>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sources", self.0.len())
    }
}

impl Held {
    pub(crate) fn sources(&self) -> Vec<Box<dyn ByteSource>> {
        self.0.iter().map(|source| Box::new(Shared(Arc::clone(source))) as _).collect()
    }
}

/// A source that others hold too.
struct Shared(Arc<dyn ByteSource>);

impl ByteSource for Shared {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_exact_at(offset, buffer)
    }

    fn will_need(&self, offset: u64, len: u64) {
        self.0.will_need(offset, len);
    }

    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl GivenModel {
    /// The model as a checkpoint whose every tensor is a file of its own, and its data.
    ///
    /// **Errors.** Two tensors of one name; data that is not as long as type and shape say.
    pub(crate) fn open(&self) -> Result<(Checkpoint, Held), Vec<Diagnostic>> {
        let (mut shards, mut entries) = (Vec::new(), Vec::new());
        for (position, tensor) in (0..).zip(&self.tensors) {
            let size = tensor.data.len();
            let shown = format!("{} in memory", self.name);
            let identity = Identity { size, ..Identity::default() };
            shards.push(Shard { path: PathBuf::from(&tensor.name), shown, size, identity });
            let (name, dtype, shape) = (tensor.name.clone(), tensor.dtype, tensor.shape.clone());
            let (shard, encoding) = (position, None);
            let entry = TensorEntry { name, dtype, shape, shard, offset: 0, encoding };
            if entry.bytes() != size {
                let headline = format!("`{}` has other data than its shape says", entry.name);
                return Err(vec![
                    Diagnostic::error(codes::TENSOR_DATA, headline)
                        .fact(
                            "shape",
                            format!("{} {}, {} bytes", entry.shape, dtype, entry.bytes()),
                        )
                        .fact("data", format!("{size} bytes"))
                        .help("give tensors that are contiguous and of the type that is said"),
                ]);
            }
            entries.push(entry);
        }
        let index = Index::new(shards, entries).map_err(|error| {
            vec![Diagnostic::error(codes::DUPLICATE_TENSOR, error.to_string()).in_file(&self.name)]
        })?;
        let checkpoint = Checkpoint {
            name: self.name.clone(),
            root: PathBuf::from(&self.name),
            form: Form::File,
            index,
            config: self.config.clone(),
            warnings: Vec::new(),
        };
        let data = self.tensors.iter().map(|tensor| Arc::clone(&tensor.data));
        Ok((checkpoint, Held(data.collect())))
    }
}

/// Merges, and gives each tensor of the output to `take` as soon as it is made, from the thread that
/// finished it. `take` says whether it wants more. Models are those that the session was given and all
/// that recipes can name; nothing is written, and no results are kept.
///
/// Beside the budget, the tensors that are being made are held.
///
/// **Errors.** As [`merge::merge`].
pub fn merge_tensors(
    recipe: &RecipeInput,
    machine: &Machine,
    session: &Session<'_>,
    take: &(dyn Fn(MergedTensor) -> bool + Sync),
) -> Result<Report, Trouble> {
    let planned = planning::plan(recipe, session, None)?;
    let mut chosen = planned.backend(machine, session)?;
    chosen.open()?;
    let backend = chosen.backend();
    let (_, options) = planned.costs(backend, machine)?;
    session.warn(&planned.warnings);
    chosen.tell(session);
    let sink = Handing::new(&planned, session, take);
    let (meter, sources) = (session.meter(Task::Merging), planned.sources());
    let report = session.watch(&meter, || {
        let results = &NoResults;
        let (plan, cancel) = (&planned.plan, session.cancel);
        mixdown_exec::run(plan, &sources, backend, &sink, results, &options, &meter, cancel)
    })?;
    if report.outcome == Outcome::Interrupted {
        return Err(Trouble::Interrupted("interrupted: the merge was not finished".to_owned()));
    }
    session.warn(
        &[report.warnings.clone(), merge::matrices::warnings(&report.told.matrices)].concat(),
    );
    Ok(report)
}

/// Holds tensors until they are whole, and hands them over.
struct Handing<'a> {
    session: &'a Session<'a>,
    take: &'a (dyn Fn(MergedTensor) -> bool + Sync),
    /// For each stored tensor, its bytes so far; none are held before the first comes.
    made: Vec<Mutex<Vec<u8>>>,
    /// The tensors that are handed over.
    stored: Vec<OutputTensor>,
    aside: Mutex<Vec<u8>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Handing<'a> {
    fn new(
        planned: &'a Planned,
        session: &'a Session<'a>,
        take: &'a (dyn Fn(MergedTensor) -> bool + Sync),
    ) -> Self {
        let stored: Vec<OutputTensor> = planned.plan.stored().collect();
        let made = stored.iter().map(|_| Mutex::default()).collect();
        Self { session, take, made, stored, aside: Mutex::default() }
    }

    fn bytes(&self, tensor: usize) -> usize {
        let stored = &self.stored[tensor];
        stored.shape.bytes(stored.dtype) as usize
    }
}

/// Puts bytes at a place, where zeros stand for what has not come yet.
///
/// Of what is put aside nobody knows the length before.
fn put(held: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if held.len() < end {
        held.resize(end, 0);
    }
    held[start..end].copy_from_slice(bytes);
}

impl Sink for Handing<'_> {
    fn is_complete(&self, _: usize) -> bool {
        false
    }

    fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        let mut held = lock(&self.made[tensor]);
        if held.is_empty() {
            // Pages of zeros cost nothing until something is written to them.
            *held = vec![0; self.bytes(tensor)];
        }
        let start = offset as usize;
        held[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn put_aside(&self, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        put(&mut lock(&self.aside), offset, bytes);
        Ok(())
    }

    fn read_aside(&self, offset: u64, out: &mut [u8]) -> Result<(), Box<Diagnostic>> {
        let aside = lock(&self.aside);
        let start = offset as usize;
        out.copy_from_slice(&aside[start..start + out.len()]);
        Ok(())
    }

    fn complete(&self, tensor: usize, _: TensorDigest, _: &Told) -> Result<(), Box<Diagnostic>> {
        let stored = &self.stored[tensor];
        let data = std::mem::take(&mut *lock(&self.made[tensor]));
        let (name, shape) = (stored.name.clone(), stored.shape.clone());
        if !(self.take)(MergedTensor { name, dtype: stored.dtype, shape, data }) {
            self.session.cancel.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}
