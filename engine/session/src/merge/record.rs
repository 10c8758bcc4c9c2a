//! What a merge leaves behind about itself: the identity by which an interrupted one is continued,
//! and the manifest.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::digest::{Digests, FileDigest};
use mixdown_checkpoint::hub::far;
use mixdown_checkpoint::manifest::{
    DroppedRecord, InputFile, InputRecord, MergeRecord, OriginRecord, RecipeRecord,
};
use mixdown_checkpoint::output::PlanIdentity;
use mixdown_checkpoint::{Checkpoint, Identity, Shard, TensorEntry};
use mixdown_diagnostics::Diagnostic;
use mixdown_ops::account::Account;
use mixdown_plan::identity::{self, Digest};

use super::MergeRequest;
use crate::models::Model;
use crate::planning::Planned;
use crate::progress::Task;
use crate::recipes::Input;
use crate::{Chosen, Session, Trouble};

/// What an output is of. Everything is in it that can change a byte of the output, and what tells
/// whether an input is still the same file.
pub fn identity(
    planned: &Planned,
    request: &MergeRequest,
    chosen: &Chosen,
    shards: usize,
) -> PlanIdentity {
    let mut digest = Digest::default();
    let to: &mut dyn Account = &mut digest;
    to.word("mixdown", env!("CARGO_PKG_VERSION"));
    to.count("shards", shards as u64);
    to.flag("non-finite results allowed", request.allow_nonfinite);
    for recipe in &planned.loaded.recipes {
        to.word("recipe", recipe.source.text());
    }
    to.thing("set", |to| request.recipe.overrides().iter().for_each(|set| to.word("", set)));
    to.word("plan", &identity::digest(&planned.plan));
    for shard in planned.loaded.models.iter().flat_map(|one| one.model.checkpoint.index.shards()) {
        let Identity { size, modified_ns, changed_ns, inode, device } = shard.identity;
        // Machines that share a file system have numbers of their own for it.
        let device = if request.part.is_none() { device } else { 0 };
        to.thing("file", |to| {
            to.counts("", [size, inode, device]);
            to.word("written", &modified_ns.to_string());
            to.word("changed", &changed_ns.to_string());
        });
    }
    let identity = PlanIdentity::new(&digest.bytes());
    match chosen.device_word() {
        Some(device) => identity.on(&device),
        None => identity,
    }
}

/// Input files of at most this many bytes together are hashed unasked: SHA-256 takes 0.15 s for them
/// (1.7 GB/s on one core of a Zen 4), while for four models of 1 GB it would take longer than the merge.
const HASHED_UNASKED: u64 = 256_000_000;

/// Digests of input files, by path: those that are known, those of `needed`, and all when that takes no
/// time. With `compute` all files are read, and nothing is believed that an earlier run remembered.
pub fn digests(
    planned: &Planned,
    needed: &[&Shard],
    compute: bool,
    session: &Session<'_>,
) -> Result<HashMap<PathBuf, FileDigest>, Trouble> {
    let digests = session.places.digests();
    let all: Vec<&Shard> = planned
        .loaded
        .models
        .iter()
        .flat_map(|input| input.model.of_disk())
        .flat_map(|model| model.checkpoint.index.shards())
        .collect();
    let bytes: u64 = all.iter().map(|shard| shard.size).sum();
    let mut known: HashMap<&Path, FileDigest> = HashMap::new();
    for shard in all.iter().filter(|_| !compute) {
        known.extend(digests.known_sha256(shard).map(|digest| (shard.path.as_path(), digest)));
    }
    let wanted = if compute || bytes <= HASHED_UNASKED { all.as_slice() } else { needed };
    // What lies elsewhere would come over the network twice.
    let is_here = |shard: &&Shard| compute || !far::is_stand_in(&shard.path);
    let wanted: Vec<&Shard> = wanted.iter().copied().filter(is_here).collect();
    if !wanted.is_empty() {
        compute_digests(&digests, &wanted, &mut known, session)?;
    }
    Ok(known.into_iter().map(|(path, digest)| (path.to_owned(), digest)).collect())
}

/// The models as the manifest records them.
pub fn inputs(planned: &Planned, known: &HashMap<PathBuf, FileDigest>) -> Vec<InputRecord> {
    let of_input = |input: &Input| -> Vec<InputRecord> {
        let whole = |model: &Model| input_record(&input.name, &input.reference, model, known);
        // What a model was put together from is what was read.
        let part = |part: &Model| {
            let name = &part.checkpoint.name;
            input_record(name, name, part, known)
        };
        match input.model.parts.is_empty() {
            true => vec![whole(&input.model)],
            false => input.model.parts.iter().map(part).collect(),
        }
    };
    planned.loaded.models.iter().flat_map(of_input).collect()
}

fn compute_digests<'s>(
    digests: &Digests,
    shards: &[&'s Shard],
    known: &mut HashMap<&'s Path, FileDigest>,
    session: &Session<'_>,
) -> Result<(), Trouble> {
    let unknown: Vec<&Shard> =
        shards.iter().copied().filter(|shard| !known.contains_key(shard.path.as_path())).collect();
    let meter = session.meter(Task::Hashing);
    meter.enter("hashing the inputs");
    meter.expect(0, unknown.iter().map(|shard| shard.size).sum());
    session.watch(&meter, || {
        for shard in unknown {
            let mut before = 0;
            let digest = digests.computed_sha256(shard, &mut |done| {
                meter.add(done - before, 0);
                before = done;
            })?;
            // A file written a moment ago is not remembered beyond this run; the record has it.
            known.insert(&shard.path, digest);
            if session.is_cancelled() {
                let text = "interrupted: digests so far are remembered; run the same command again";
                return Err(Trouble::Interrupted(text.to_owned()));
            }
        }
        Ok(())
    })
}

fn input_record(
    name: &str,
    reference: &str,
    model: &Model,
    known: &HashMap<PathBuf, FileDigest>,
) -> InputRecord {
    let checkpoint = &model.checkpoint;
    // What an adapter computes from its base lies in the base's files, which are that model's.
    let is_own = |shard: &&Shard| {
        !checkpoint.index.tensors().iter().any(is_computed)
            || shard.path.starts_with(&checkpoint.root)
    };
    let files = checkpoint.index.shards().iter().filter(is_own).map(|shard| InputFile {
        name: name_within(checkpoint, shard),
        bytes: shard.size,
        sha256: known.get(&shard.path).map(ToString::to_string),
    });
    InputRecord {
        name: name.to_owned(),
        reference: reference.to_owned(),
        revision: model.revision.clone(),
        headers: headers_digest(checkpoint),
        files: files.collect(),
    }
}

fn is_computed(tensor: &TensorEntry) -> bool {
    tensor.encoding.as_ref().is_some_and(|encoding| encoding.is_computed())
}

/// The name of a file within its model, whatever folder that is in.
fn name_within(checkpoint: &Checkpoint, shard: &Shard) -> String {
    let inside = shard.path.strip_prefix(&checkpoint.root).ok();
    let name = inside.or(shard.path.file_name().map(AsRef::as_ref)).unwrap_or(&shard.path);
    name.to_string_lossy().into_owned()
}

/// Digest of names, types, shapes and places of all tensors.
fn headers_digest(checkpoint: &Checkpoint) -> String {
    let mut digest = Digest::default();
    let place = |tensor: &TensorEntry, to: &mut dyn Account| {
        to.word("name", &tensor.name);
        to.word("type", tensor.dtype.name());
        to.counts("shape", tensor.shape.dimensions().iter().copied());
        to.count("file", tensor.shard);
        to.count("offset", tensor.offset);
    };
    let to: &mut dyn Account = &mut digest;
    for tensor in checkpoint.index.by_name() {
        to.thing("tensor", |to| {
            place(tensor, to);
            if let Some(encoding) = tensor.encoding.as_ref().filter(|_| is_computed(tensor)) {
                to.word("computed", &encoding.identity());
            }
            for part in tensor.encoding.iter().flat_map(|encoding| encoding.parts()) {
                to.thing("part", |to| place(part, to));
            }
        });
    }
    digest.text()
}

/// All that the manifest says and the output folder, which has these jobs, does not know.
pub fn of(
    planned: &Planned,
    request: &MergeRequest,
    chosen: &Chosen,
    (inputs, jobs): (Vec<InputRecord>, &Range<usize>),
    warnings: &[Diagnostic],
) -> MergeRecord {
    let plan = &planned.plan;
    let recipe = &planned.loaded.recipes[0];
    let origins = plan.jobs[jobs.clone()].iter().flat_map(|job| {
        let origin = &plan.origins[job.origin as usize];
        let treatment = job.treatment.map(|treatment| treatment.word().to_owned());
        let record =
            OriginRecord { method: origin.method.clone(), rule: origin.rule.clone(), treatment };
        // Each of the tensors that are stored for a job has its origin.
        std::iter::repeat_n(record, job.stored_count())
    });
    let dropped = plan.left_out.iter().map(|left_out| {
        let input = &planned.loaded.models[left_out.tensor.model as usize];
        let tensor = &input.model.checkpoint.index.tensors()[left_out.tensor.tensor as usize];
        DroppedRecord {
            input: input.name.clone(),
            name: tensor.name.clone(),
            reason: left_out.reason.clone(),
        }
    });
    MergeRecord {
        mixdown: env!("CARGO_PKG_VERSION").to_owned(),
        recipe: RecipeRecord::new(&planned.loaded.text, request.recipe.overrides()),
        plan: identity::digest(plan),
        seed: recipe.seed,
        backend: chosen.word(),
        inputs,
        origins: origins.collect(),
        dropped: dropped.collect(),
        warnings: warnings.iter().map(|warning| warning.headline.clone()).collect(),
    }
}
