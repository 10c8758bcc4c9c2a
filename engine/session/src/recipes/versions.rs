//! Models that are one under names of different versions of transformers, and models that hold what a trainer
//! put around them.

use std::path::Path;

use mixdown_checkpoint::adapter::{is_adapter, name_in};
use mixdown_checkpoint::{Index, known, shown};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::Recipe;
use mixdown_recipe::recipe::{Model as Named, ModelReference};

use super::{Loader, SeenAs};

impl Loader<'_> {
    /// The model whose names another one has only by its version: the recipe's base, or its first model. None
    /// where the names are the same, or do not all have one counterpart.
    pub(super) fn same_model(&mut self, recipe: &Recipe, model: &Named) -> Option<u32> {
        if recipe.modality.is_some() || !model.reading.is_plain() || model.map.is_some() {
            return None;
        }
        // An adapter that is named alone is seen through the names of its base.
        if matches!(&model.reference, ModelReference::Checkpoint { path, .. } if is_adapter(Path::new(path)))
        {
            return None;
        }
        let plain = |model: &Named| {
            matches!(&model.reference, ModelReference::Checkpoint { adapter: None, .. })
                && model.reading.is_plain()
                && model.map.is_none()
                && model.attached_as.is_none()
        };
        let first = recipe.merged().first().map(|first| &recipe.models[first.0 as usize])?;
        let is_same = std::ptr::eq(first, model) || first.name == model.name;
        if is_same
            || !plain(first)
            || !matches!(&model.reference, ModelReference::Checkpoint { .. })
        {
            return None;
        }
        let other = self.named(&recipe.source, first, SeenAs::default())?;
        let own = self.named(&recipe.source, model, SeenAs::default())?;
        if own == other {
            return None;
        }
        let index = |position: u32| &self.models[position as usize].model.checkpoint.index;
        let example = counterparts(index(own), index(other))?;
        let headline =
            format!("`{}` has the names of another version than `{}`", model.name, first.name);
        let warning = Diagnostic::warning(codes::NAMES_OF_VERSION, headline)
            .fact(model.name.clone(), format!("`{}`", shown(&example.0)))
            .fact(first.name.clone(), format!("`{}`", shown(&example.1)))
            .note("each of its tensors has one counterpart, and is merged with that");
        self.diagnostics.push(warning.at(&recipe.source, model.span));
        Some(other)
    }
}

/// Whether the tensors of a model all have one counterpart under other names: the first that has.
fn counterparts(own: &Index, other: &Index) -> Option<(String, String)> {
    let mut example = None;
    for tensor in own.tensors().iter().filter(|tensor| other.position(&tensor.name).is_none()) {
        match name_in(other, &tensor.name) {
            Some(name) => {
                let counterpart = &other.tensors()[other.position(&name)?];
                if own.position(&name).is_some() || counterpart.shape != tensor.shape {
                    return None;
                }
                example.get_or_insert((tensor.name.clone(), name));
            }
            None if is_incidental(&tensor.name) => {}
            None => return None,
        }
    }
    example
}

/// Whether a tensor may be in the files of one version and not of another: masks, angles, tied output layers.
fn is_incidental(name: &str) -> bool {
    known::ends_with(name, &known::names().incidental)
}

/// The message about a model that still has an adapter around its layers.
pub(super) fn not_merged(index: &Index, name: &str) -> Option<Diagnostic> {
    let holds = |part: &str| index.tensors().iter().find(|tensor| tensor.name.contains(part));
    let (layer, _) = (holds(".base_layer.")?, holds(".lora_A.")?);
    let headline =
        format!("`{}` is a PEFT model whose adapter was not merged into it", shown(name));
    Some(
        Diagnostic::error(codes::NOT_MERGED, headline)
            .in_file(&index.shard_of(layer).shown)
            .fact("found", format!("`{}`", shown(&layer.name)))
            .note("its layers stand in `base_layer`, beside factors that are not added yet; peft's names begin with `base_model.model.`")
            .help("load it as it was trained, call peft's `merge_and_unload()`, and save that; or save the adapter alone"),
    )
}
