//! Adapters that a recipe names, brought together with the models that they are on.

use std::path::Path;

use mixdown_checkpoint::adapter::Doubled;
use mixdown_checkpoint::{Adapter, Checkpoint, open_adapter};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::Recipe;
use mixdown_recipe::modality::{Mode, Reading};
use mixdown_recipe::recipe::Model as Named;

use super::{Input, Loader, OnBase, reading};
use crate::models::{Model, Reference};

impl Loader<'_> {
    /// An adapter that is named without a base: it is on the recipe's base, or on the one that it was
    /// made on.
    pub(super) fn alone(&mut self, recipe: &Recipe, position: usize, path: &str) -> Option<u32> {
        let (source, model) = (&recipe.source, &recipe.models[position]);
        let base = recipe.base.as_ref().map(|base| base.value.0 as usize);
        let base = match base.filter(|&base| base != position).map(|base| &recipe.models[base]) {
            Some(base) => {
                // Names that are said of the adapter are those of its base, unless that has them.
                let of_base = recipe.base.as_ref().map(|base| base.value);
                let is_other = model.reading.like.is_some() && model.reading.like != of_base;
                let like = self.like(recipe, if is_other { model } else { base })?;
                self.named(source, base, (Reading::default(), like))?
            }
            None => {
                let files = self.or_note(open_adapter(Path::new(path)), source, model)?;
                let Some(made_on) = files.config.base_model else {
                    let headline =
                        format!("`{}` is an adapter, and nothing says on what", model.name);
                    let diagnostic = Diagnostic::error(codes::BAD_REFERENCE, headline)
                        .help("name its base: `BASE+ADAPTER`, or `base` of the recipe");
                    self.diagnostics.push(diagnostic.at(source, model.span));
                    return None;
                };
                let reference = Reference { path: made_on, revision: None, prefix: None };
                let like = self.like(recipe, model)?;
                self.checkpoint(source, model, reference, None, (Reading::default(), like))?
            }
        };
        self.adapter(recipe, model, base, path, None)
    }

    /// Opens an adapter and brings it together with its base, or finds that it is there already.
    pub(super) fn adapter(
        &mut self,
        recipe: &Recipe,
        model: &Named,
        base: u32,
        path: &str,
        revision: Option<&str>,
    ) -> Option<u32> {
        let revision = revision.map(str::to_owned);
        let reference = Reference { path: path.to_owned(), revision, prefix: None };
        let key = (base, reference, model.reading.clone());
        if let Some(known) = self.known_adapters.get(&key) {
            return *known;
        }
        let found = self.resolved(&key.1, recipe, model, base);
        let position = found.map(|(mut adapter, checkpoint, revision)| {
            self.diagnostics.append(&mut adapter.warnings);
            self.models.push(Input {
                name: model.name.clone(),
                reference: key.1.shown(),
                model: Model::of_files(checkpoint, revision),
                tokenizer: None,
                tokenizer_config: None,
            });
            let own = (self.models.len() - 1) as u32;
            self.adapters.push(OnBase { base, own, adapter });
            (self.adapters.len() - 1) as u32
        });
        self.known_adapters.insert(key, position);
        position
    }

    /// An adapter against its base, its own tensors, and the commit that it is from.
    fn resolved(
        &mut self,
        reference: &Reference,
        recipe: &Recipe,
        model: &Named,
        base: u32,
    ) -> Option<(Adapter, Checkpoint, Option<String>)> {
        let source = &recipe.source;
        if let Some(factors) = &model.factors {
            let found = reading::factors(reference, factors, &model.reading, &self.session);
            let (file, revision) = self.or_note(found, source, model)?;
            let on = &self.models[base as usize].model.checkpoint;
            let resolved = file.resolve(&on.index, on.config.as_ref()).map_err(unclaimed);
            let adapter = self.or_note(resolved, source, model)?;
            let are_copied =
                recipe.modality.as_ref().is_some_and(|modality| modality.mode == Mode::Damc);
            self.diagnostics.extend(reading::overridden_alpha(&file, source, model));
            if !are_copied {
                self.diagnostics.extend(reading::left(&file, source, model));
            }
            let checkpoint = Checkpoint { config: file.config, ..file.files.checkpoint() };
            return Some((adapter, checkpoint, revision));
        }
        let found = Model::find_adapter(reference, &self.session);
        let (mut files, revision) = self.or_note(found, source, model)?;
        let seen = reading::index(&files.index, &model.reading, None, &files.name);
        files.index = self.or_note(seen, source, model)?;
        let on = &self.models[base as usize].model.checkpoint;
        let config = files.config.clone();
        let doubled = match self.models[base as usize].model.held.is_none() {
            true => Doubled::of(&files.index, &on.index, on.config.as_ref()),
            false => Ok(None),
        };
        let doubled = doubled.map_err(|error| vec![error.diagnostic()]);
        let doubled = self.or_note(doubled, source, model)?;
        let on = &self.models[base as usize].model.checkpoint;
        let under = doubled.as_ref().map_or(&on.index, |doubled| &doubled.index);
        let resolved = Adapter::resolve(&files.index, config, under, on.config.as_ref());
        let resolved = resolved.map(|adapter| match &doubled {
            Some(doubled) => doubled.whole(adapter, &on.index),
            None => adapter,
        });
        let mut adapter = self.or_note(resolved, source, model)?;
        adapter.warnings.append(&mut files.warnings);
        if self.models[base as usize].model.held.is_none() {
            let index = adapter.index.as_ref().unwrap_or(&files.index).clone();
            let on = &self.models[base as usize].model.checkpoint;
            let forgotten = adapter.forget_copies(&index, &on.index);
            self.or_note(forgotten.map_err(|error| vec![error.diagnostic()]), source, model)?;
        }
        if let Some(index) = adapter.index.take() {
            let needs_files = index.shards().len() > files.index.shards().len();
            if needs_files && self.models[base as usize].model.held.is_some() {
                let headline =
                    format!("`{}` is computed from its base, which has no files", model.name);
                let fault = Diagnostic::error(codes::ADAPTER_KIND, headline);
                self.diagnostics.push(
                    fault.at(source, model.span).help("write the base to a folder, and name that"),
                );
                return None;
            }
            files.index = index;
        }
        let has_effect = adapter.has_effect(&files.index).map_err(|error| vec![error.diagnostic()]);
        if !self.or_note(has_effect, source, model)? {
            let headline = format!("`{}` changes nothing", model.name);
            let warning = Diagnostic::warning(codes::NO_EFFECT, headline)
                .note("one factor of each of its products is zero: it was saved before it was trained, or without what was trained");
            adapter.warnings.push(warning.at(source, model.span));
        }
        Some((adapter, files.checkpoint(), revision))
    }
}

/// Says what to do about tensors of a modality's file that the base knows nothing of.
fn unclaimed(faults: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let with_help = |fault: Diagnostic| {
        match fault.code == codes::ADAPTER_UNMATCHED {
        true => fault.help("what is the modality's own is named in its input: `connector: {prefix: …}`, `encoder: …`, or `drop: PATTERN`"),
        false => fault,
    }
    };
    faults.into_iter().map(with_help).collect()
}
