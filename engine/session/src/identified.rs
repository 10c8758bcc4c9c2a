//! By what results are known, and what went into that: the answer to "why was this computed again?"

use std::collections::HashMap;
use std::path::PathBuf;

use mixdown_checkpoint::digest::FileDigest;
use mixdown_checkpoint::{Index, TensorEntry};
use mixdown_exec::{Placements, placements};
use mixdown_ops::account::Account;
use mixdown_ops::{Backend, Placement};
use mixdown_plan::identity::{Digest, Identities, Tree};
use mixdown_plan::{TensorRef, Work};
use mixdown_store::{Key, Store};

use crate::planning::Planned;
use crate::{Session, Trouble, kept, merge};

/// By what a result is known.
#[derive(Debug)]
pub struct Identified {
    /// The op whose result it is; none for a tensor without results that are kept.
    pub op: Option<&'static str>,
    /// The key that the store has it under; none where a file that it is made from has not been hashed.
    pub key: Option<Key>,
    /// Whether the store has it.
    pub is_stored: bool,
    /// What went into the key, or how the tensor is made.
    pub told: Tree,
}

/// What a tensor of an input holds, as far as its files have been hashed.
pub(crate) fn content(
    planned: &Planned,
    tensor: TensorRef,
    digests: &HashMap<PathBuf, FileDigest>,
) -> Option<String> {
    let index = &planned.loaded.models[tensor.model as usize].model.checkpoint.index;
    held(index, &index.tensors()[tensor.tensor as usize], digests)
}

/// Where a tensor lies in which file, or what it is made of, whose parts may be made themselves.
fn held(
    index: &Index,
    entry: &TensorEntry,
    digests: &HashMap<PathBuf, FileDigest>,
) -> Option<String> {
    let Some(encoding) = &entry.encoding else {
        let digest = digests.get(&index.shard_of(entry).path)?;
        let (offset, dtype) = (entry.offset, entry.dtype.name());
        return Some(format!("{digest} {offset} {dtype} {}", entry.shape));
    };
    let parts = encoding.parts().iter().map(|part| held(index, part, digests));
    let parts: Option<Vec<String>> = parts.collect();
    Some(format!("{} {} of {}", entry.shape, encoding.identity(), parts?.join(" and ")))
}

/// Tells what determines a result of a matrix op on a backend.
pub(crate) fn result(
    identities: &Identities<'_>,
    (backend, places): (&dyn Backend, &Placements),
    job: u32,
    step: usize,
    to: &mut dyn Account,
) -> Option<()> {
    // Matrix products may differ in their last bits from one instruction set to another.
    to.word("backend", backend.name());
    to.word("instructions", &backend.describe());
    if let Some(Placement::Device(place)) = places.get(&(job, step)) {
        to.word("device", &place.identity);
    }
    identities.matrix(job, step, to)
}

/// By what the results for a tensor of the output are known: those of its matrix ops, or without any the
/// tensor's own making. `job` is its position in the plan. Files whose digests are not known are hashed
/// where `hash` says so, or where all of them are small.
///
/// **Errors.** A file that cannot be read, and an interruption.
pub fn identified(
    planned: &Planned,
    job: u32,
    backend: &dyn Backend,
    hash: bool,
    session: &Session<'_>,
) -> Result<Vec<Identified>, Trouble> {
    let needed =
        if hash { kept::files(planned, &(0..planned.plan.jobs.len())) } else { Vec::new() };
    let digests = merge::record::digests(planned, &needed, false, session)?;
    let content_of = |tensor: TensorRef| content(planned, tensor, &digests);
    let shown = |tensor: TensorRef| {
        let input = &planned.loaded.models[tensor.model as usize];
        let index = &input.model.checkpoint.index;
        let entry = &index.tensors()[tensor.tensor as usize];
        let content = content_of(tensor).unwrap_or_else(|| "of a file not hashed yet".to_owned());
        Some(format!("{content} ({} of {})", entry.name, input.name))
    };
    let identities = Identities::new(&planned.plan, &content_of);
    let for_people = Identities::new(&planned.plan, &shown);
    let steps = match &planned.plan.jobs[job as usize].work {
        Work::Merge(merge) => merge.matrices.as_slice(),
        Work::Copy { .. } => &[],
    };
    if steps.is_empty() {
        let mut told = Tree::default();
        for_people.tensor(job, &mut told);
        return Ok(vec![Identified { op: None, key: None, is_stored: false, told }]);
    }
    let places = placements(&planned.plan, backend)?;
    let store = Store::new(session.places.store());
    let of_step = |step: usize| {
        let mut digest = Digest::default();
        let is_known = result(&identities, (backend, &places), job, step, &mut digest).is_some();
        let key = is_known.then(|| Key::from_bytes(digest.bytes()));
        let is_stored = key.is_some_and(|key| matches!(store.contains(&key), Ok(Some(_))));
        let mut told = Tree::default();
        // Whatever lacks a digest is shown with words in its place.
        let _ = result(&for_people, (backend, &places), job, step, &mut told);
        Identified { op: Some(steps[step].op.name()), key, is_stored, told }
    };
    Ok((0..steps.len()).map(of_step).collect())
}
