//! What config.json and the other files of an output are made from.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use mixdown_checkpoint::ties;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::recipe::ModelId;
use mixdown_tensor::DType;

use crate::bodies::context::Solved;
use crate::families::layer;
use crate::families::tied::tied_flag;
use crate::models::request::{ModelSource, Request};
use crate::plan::{Job, LayerChange, OutputFiles};
use crate::report::Reporter;
use crate::report::whole;

/// What config.json and the other files are made from.
pub(super) fn output_files(
    request: &Request<'_>,
    results: &[OnceCell<Solved>],
    jobs: &[Job],
) -> OutputFiles {
    let (files_from, mut layers) = files_from(request, results, 0);
    let solved = results[0].get();
    let index = files_from.map(|model| request.checkpoints[model as usize].index);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let names = index.iter().flat_map(|index| index.tensors());
    for name in names.filter_map(|tensor| layer::split(&tensor.name)) {
        let count = counts.entry(name.prefix).or_default();
        *count = (*count).max(name.layer + 1);
    }
    for change in &mut layers {
        change.before = counts.get(change.prefix.as_str()).copied().unwrap_or(0);
    }
    layers.retain(|change| !change.sources.iter().copied().eq(0..change.before));
    let mut floats = jobs.iter().map(|job| job.dtype).filter(|dtype| dtype.is_float());
    let first: Option<DType> = floats.next();
    let agreed = first.filter(|first| floats.all(|dtype| dtype == *first));
    let rebuilt = solved.and_then(|solved| solved.tokenizer.as_ref());
    OutputFiles {
        files_from,
        dtype: solved.and_then(|solved| solved.declared).or(agreed),
        layers,
        stacks: counts.into_keys().map(str::to_owned).collect(),
        tied: tied(request, files_from, jobs),
        vocabulary: rebuilt
            .map(|rebuilt| rebuilt.rows)
            .or_else(|| resized(request, files_from, jobs)),
        adapter: None,
        gguf: None,
        files: rebuilt.map(|rebuilt| rebuilt.files.clone()).unwrap_or_default(),
    }
}

/// The checkpoint whose files a recipe's output gets, and how layers were stacked on the way.
fn files_from(
    request: &Request<'_>,
    results: &[OnceCell<Solved>],
    number: usize,
) -> (Option<u32>, Vec<LayerChange>) {
    let recipe = &request.recipes[number];
    let own = results[number].get().map(|solved| solved.layers.clone()).unwrap_or_default();
    let chosen = recipe.files_from.as_ref().or(recipe.base.as_ref()).map(|model| model.value);
    let chosen = chosen.or(recipe.merged().first().copied()).unwrap_or(ModelId(0));
    // Files that are stated count; else they are those of the model whose names the tensors have.
    let like = recipe.models.get(chosen.0 as usize).and_then(|model| model.reading.like);
    let chosen = like.filter(|_| recipe.files_from.is_none()).unwrap_or(chosen);
    match request.models[number].get(chosen.0 as usize) {
        Some(ModelSource::Checkpoint(model)) => (Some(*model), own),
        Some(ModelSource::Adapted(adapter)) => {
            (Some(request.adapters[*adapter as usize].base), own)
        }
        Some(ModelSource::Mapped(mapped)) => (Some(request.mapped[*mapped as usize].target), own),
        Some(ModelSource::Recipe(inner)) => {
            let (model, inner) = files_from(request, results, *inner as usize);
            (model, through(own, inner))
        }
        _ => (None, own),
    }
}

/// Layers stacked by a recipe over those that the recipe beneath it stacked.
fn through(outer: Vec<LayerChange>, inner: Vec<LayerChange>) -> Vec<LayerChange> {
    let mut all = inner;
    for mut change in outer {
        match all.iter_mut().find(|known| known.prefix == change.prefix) {
            None => all.push(change),
            Some(known) => {
                for source in &mut change.sources {
                    *source = known.sources.get(*source as usize).copied().unwrap_or(*source);
                }
                known.sources = change.sources;
            }
        }
    }
    all
}

/// Whether the output's config must say that embedding and output layer are two tensors: where an output
/// layer is written that the model of the config does not store. Nothing else changes the flag, which some
/// families read for more than the tie.
fn tied(request: &Request<'_>, files_from: Option<u32>, jobs: &[Job]) -> Option<bool> {
    let donor = &request.checkpoints[files_from? as usize];
    let is_stored = |name: &str| donor.index.position(name).is_some();
    // Files of families with many names for one tensor store more or less of them as they please; an adapter
    // stores another one only where it differs.
    let is_of_adapter = |name: &str| {
        let mut additions = request.adapters.iter().flat_map(|one| &one.adapter.additions);
        ties::is_copied_head(name) && additions.any(|addition| addition.name == name)
    };
    let is_new_head = |name: &str| {
        let is_beside = || ties::embeddings_of(name).any(|embedding| is_stored(&embedding));
        !is_stored(name) && ((ties::is_head(name) && is_beside()) || is_of_adapter(name))
    };
    let is_untied = jobs.iter().any(|job| is_new_head(&job.name))
        || request.adapters.iter().any(|one| one.adapter.is_untied);
    (is_untied && donor.config.and_then(tied_flag) != Some(false)).then_some(false)
}

/// Warns where the model of the config generates text with an output layer of its own, and neither it nor the
/// output has one: it was lost, and other programs make it anew or take the embedding for it.
pub(super) fn warn_of_missing_head(
    request: &Request<'_>,
    output: &OutputFiles,
    jobs: &[Job],
    reporter: &mut Reporter,
) {
    let Some(donor) = output.files_from.map(|model| &request.checkpoints[model as usize]) else {
        return;
    };
    let generates = donor.config.is_some_and(ties::generates);
    let is_untied = donor.config.and_then(tied_flag) == Some(false);
    let embedding = jobs.iter().find(|job| ties::head_of(&job.name).is_some());
    let Some(embedding) = embedding.filter(|_| generates && is_untied) else { return };
    // An output layer that the recipe drops is left out on purpose.
    let is_stored = donor.index.tensors().iter().any(|tensor| ties::is_head(&tensor.name));
    if is_stored || jobs.iter().any(|job| ties::is_head(&job.name)) {
        return;
    }
    let head = ties::head_of(&embedding.name).unwrap_or_default();
    let headline = format!("the output has no `{head}`, which its config promises");
    let warning = Diagnostic::warning(codes::HEAD_MISSING, headline)
        .fact("config", format!("`tie_word_embeddings: false`, {}", donor.name))
        .note("the output layer is lost; programs that load the output make a random one")
        .help("fetch the model again, or set `tie_word_embeddings` to true if the embedding is its output layer");
    let recipe = &request.recipes[0];
    reporter.add(warning.at(&recipe.source, whole(recipe)));
}

/// Rows of the embedding, where they are others than those of the model of the config.
fn resized(request: &Request<'_>, files_from: Option<u32>, jobs: &[Job]) -> Option<u64> {
    let index = request.checkpoints[files_from? as usize].index;
    jobs.iter().filter(|job| ties::head_of(&job.name).is_some()).find_map(|job| {
        let stored = index.tensors()[index.position(&job.name)?].shape.dimensions().first()?;
        let rows = job.shape.dimensions().first()?;
        (rows != stored).then_some(*rows)
    })
}
