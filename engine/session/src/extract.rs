//! The adapter between two checkpoints.

use std::path::PathBuf;

use mixdown_checkpoint::TensorEntry;
use mixdown_checkpoint::encoding::Blocks;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::Source;
use mixdown_plan::ModelSource;
use serde_json::{Value, json};

use crate::merge::{self, MergeRequest, Merged};
use crate::planning::{self, RecipeInput};
use crate::progress::Task;
use crate::{Machine, Session, Trouble};

/// Which adapter to write, where to, and how.
#[derive(Clone, Debug)]
pub struct ExtractRequest {
    /// The model: a folder, a file, or an id at the hub.
    pub model: String,
    /// What it was made from, and what the adapter will be on.
    pub base: String,
    /// Most directions of each update, from 1; smaller matrices have fewer.
    pub rank: u32,
    /// The folder to make.
    pub out: PathBuf,
    /// What may be used of the machine.
    pub machine: Machine,
    /// Replace the output folder if there is one.
    pub force: bool,
    /// Whether files of models may be links out of the model's folder.
    pub follow_links: bool,
}

/// What messages call the recipe that the request stands for.
const NAME: &str = "extract";

/// Bytes that are compared at a time.
const CHUNK: usize = 1 << 20;

/// Writes what the model adds to its base as a LoRA adapter: of each linear layer that differs the leading
/// singular directions of the difference, and what else differs whole.
///
/// **Errors.** No tensor differs, the models do not fit, or all that a merge fails of.
pub fn extract(request: &ExtractRequest, session: &Session<'_>) -> Result<Merged, Trouble> {
    let mut merge = MergeRequest::new(recipe(request, session)?, &request.out);
    (merge.machine, merge.force) = (request.machine, request.force);
    merge::merge(&merge, session)
}

/// The recipe that extracts the adapter: the tensors that do not differ are kept.
fn recipe(request: &ExtractRequest, session: &Session<'_>) -> Result<RecipeInput, Trouble> {
    let of = |unchanged: &[&str]| RecipeInput {
        follow_links: request.follow_links,
        ..RecipeInput::of_text(NAME, text(request, unchanged))
    };
    let planned = planning::plan(&of(&[]), session, None)?;
    let (&[ModelSource::Checkpoint(base), ModelSource::Checkpoint(model)], sources) =
        (planned.loaded.sources[0].as_slice(), planned.sources())
    else {
        return Ok(of(&[]));
    };
    let unchanged = unchanged(&sources[base as usize], &sources[model as usize], session)?;
    if unchanged.len() == sources[base as usize].index.len() {
        return Err(Trouble::Found(vec![
            Diagnostic::error(
                codes::NOTHING_TO_WRITE,
                "no tensor of the model differs from the base",
            )
            .fact("model", request.model.as_str())
            .fact("base", request.base.as_str()),
        ]));
    }
    Ok(of(&unchanged))
}

fn text(request: &ExtractRequest, unchanged: &[&str]) -> String {
    let ExtractRequest { model, base, rank, .. } = request;
    // A text of JSON is one of YAML, whatever stands in it.
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text = format!(
        "mixdown: 1\nmodels:\n  base: {}\n  model: {}\nbase: base\noutput: {{as: adapter, rank: {rank}}}\nrules:\n",
        quoted(base),
        quoted(model)
    );
    if !unchanged.is_empty() {
        text.push_str(&format!("  - {{tensors: {}, keep: base}}\n", json!(unchanged)));
    }
    text.push_str("  - {keep: model}\n");
    text
}

/// The tensors of the base that the model has with the same bytes.
fn unchanged<'a>(
    base: &Source<'a>,
    model: &Source<'a>,
    session: &Session<'_>,
) -> Result<Vec<&'a str>, Trouble> {
    let same_kind = |one: &'a TensorEntry| {
        let other = &model.index.tensors()[model.index.position(&one.name)?];
        (one.dtype == other.dtype && one.shape == other.shape).then_some((one, other))
    };
    // A name that reads as a pattern cannot be listed; its tensor has an update of rank 0.
    let is_plain = |name: &str| !name.contains(['*', '{', '}', '?', '[', '\\']);
    let pairs: Vec<_> = base
        .index
        .tensors()
        .iter()
        .filter(|one| is_plain(&one.name))
        .filter_map(same_kind)
        .collect();
    let meter = session.meter(Task::Comparing);
    meter.enter("comparing");
    meter.expect(0, pairs.iter().map(|(one, _)| 2 * one.bytes()).sum());
    session.watch(&meter, || {
        let mut buffers = (vec![0; CHUNK], vec![0; CHUNK]);
        let blocks = [Blocks::default(), Blocks::default()];
        let mut found = Vec::new();
        for (one, other) in pairs {
            if session.is_cancelled() {
                return Err(Trouble::Interrupted("interrupted: nothing was written".to_owned()));
            }
            if is_equal((base, one), (model, other), &mut buffers, blocks.each_ref())? {
                found.push(one.name.as_str());
            }
            meter.add(2 * one.bytes(), 0);
        }
        Ok(found)
    })
}

/// Whether two tensors of one type and shape have the same bytes. Most differ in the first chunk.
fn is_equal(
    (first, one): (&Source<'_>, &TensorEntry),
    (second, other): (&Source<'_>, &TensorEntry),
    (a, b): &mut (Vec<u8>, Vec<u8>),
    blocks: [&Blocks; 2],
) -> Result<bool, Trouble> {
    let mut at = 0;
    while at < one.bytes() {
        let count = (one.bytes() - at).min(CHUNK as u64) as usize;
        let read = |source: &Source<'_>, entry: &TensorEntry, into: &mut [u8], blocks: &Blocks| {
            let from = |shard: u32, offset: u64, into: &mut [u8]| {
                source.shards[shard as usize].read_exact_at(offset, into)
            };
            // Chunks hold whole elements of every type.
            entry
                .read(at / entry.dtype.bytes() as u64, into, &from, blocks)
                .map_err(|error| Trouble::from(error.diagnostic()))
        };
        read(first, one, &mut a[..count], blocks[0])?;
        read(second, other, &mut b[..count], blocks[1])?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}
