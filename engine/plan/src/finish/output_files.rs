//! What config.json and the other files of an output are made from.

use std::cell::OnceCell;

use mixdown_recipe::recipe::ModelId;
use mixdown_tensor::DType;

use crate::layer;
use crate::plan::{Job, LayerChange, OutputFiles};
use crate::resolve::{ModelSource, Request, Solved};
use crate::view::tied_flag;

/// What config.json and the other files are made from.
pub(super) fn output_files(
    request: &Request<'_>,
    results: &[OnceCell<Solved>],
    jobs: &[Job],
) -> OutputFiles {
    let (files_from, mut layers) = files_from(request, results, 0);
    let solved = results[0].get();
    for change in &mut layers {
        let index = files_from.map(|model| request.checkpoints[model as usize].index);
        let names = index.iter().flat_map(|index| index.tensors());
        let of_stack = names.filter_map(|tensor| layer::split(&tensor.name));
        let own = of_stack.filter(|name| name.prefix == change.prefix);
        change.before = own.map(|name| name.layer + 1).max().unwrap_or(0);
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
        tied: tied(request, files_from, jobs),
        vocabulary: rebuilt.map(|rebuilt| rebuilt.rows),
        adapter: None,
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

/// Whether the output layer is tied to the embedding, judged by what is written.
fn tied(request: &Request<'_>, files_from: Option<u32>, jobs: &[Job]) -> Option<bool> {
    let has = |suffix: &str| jobs.iter().any(|job| job.name.ends_with(suffix));
    let embeds = has("embed_tokens.weight") || has("wte.weight") || has("embed_in.weight");
    let heads = has("lm_head.weight") || has("embed_out.weight");
    if !embeds {
        return None;
    }
    if heads {
        return Some(false);
    }
    let config = request.checkpoints[files_from? as usize].config?;
    let class = config.get("architectures")?.as_array()?.first()?.as_str()?.to_owned();
    let generates = class.ends_with("ForCausalLM") || class.ends_with("ForConditionalGeneration");
    // Without a flag the family's default speaks, as it did for the input.
    (generates && tied_flag(config).is_some()).then_some(true)
}
