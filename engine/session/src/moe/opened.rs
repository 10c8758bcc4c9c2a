//! The models that a file of mergekit-moe names, and adapters on them.

use std::path::Path;
use std::sync::Arc;

use mixdown_checkpoint::adapter::is_adapter;
use mixdown_checkpoint::{Adapter, open_adapter};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_recipe::moe_file::MoeFile;
use mixdown_recipe::recipe::{Model as Named, ModelId, ModelReference};

use super::adapted::OnModel;
use crate::Session;
use crate::models::{Model, Reference};

/// All models of a file.
#[derive(Default)]
pub(super) struct Opened {
    /// Each checkpoint once.
    pub models: Vec<Model>,
    pub adapters: Vec<Attached>,
    /// What the user should know of adapters.
    pub warnings: Vec<Diagnostic>,
    /// For each model that the file names, which of these it is.
    of_file: Vec<Place>,
    /// What `models` are.
    references: Vec<Reference>,
}

/// An adapter with the model that it is on.
pub(super) struct Attached {
    pub on_model: Arc<OnModel>,
    /// Its own files.
    pub files: Model,
}

#[derive(Clone, Copy)]
struct Place {
    model: usize,
    adapter: Option<usize>,
}

impl Opened {
    /// **Errors.** All that is wrong with the models, each at its place.
    pub fn of(file: &MoeFile, session: &Session<'_>) -> Result<Self, Vec<Diagnostic>> {
        let (mut opened, mut errors) = (Self::default(), Vec::new());
        for (position, named) in file.models.iter().enumerate() {
            let is_base = file.base.value.0 as usize == position;
            let place = |found: Diagnostic| match found.place {
                None => found.at(&file.source, named.span),
                Some(_) => found,
            };
            let known = opened.warnings.len();
            match opened.open(named, is_base, session) {
                Ok(found) => opened.of_file.push(found),
                Err(found) => errors.extend(found.into_iter().map(place)),
            }
            let told = opened.warnings.split_off(known);
            opened.warnings.extend(told.into_iter().map(place));
        }
        if errors.is_empty() { Ok(opened) } else { Err(errors) }
    }

    /// The checkpoint of a model; an adapter's is that of its base.
    pub fn model(&self, id: ModelId) -> &Model {
        &self.models[self.position(id)]
    }

    /// The place of that in `models`.
    pub fn position(&self, id: ModelId) -> usize {
        self.of_file[id.0 as usize].model
    }

    /// The adapter that is on it, if the file names one.
    pub fn adapter(&self, id: ModelId) -> Option<&Attached> {
        self.of_file[id.0 as usize].adapter.map(|at| &self.adapters[at])
    }

    fn open(
        &mut self,
        named: &Named,
        is_base: bool,
        session: &Session<'_>,
    ) -> Result<Place, Vec<Diagnostic>> {
        let ModelReference::Checkpoint { path, revision, adapter, .. } = &named.reference else {
            let headline = format!("`{}` is no whole model", named.name);
            let error = Diagnostic::error(codes::UNSUPPORTED, headline);
            return Err(vec![error.help("write it first, and name its folder")]);
        };
        let reference = Reference { path: path.clone(), revision: revision.clone(), prefix: None };
        let is_alone = adapter.is_none() && is_adapter(Path::new(path));
        if is_base && (is_alone || adapter.is_some()) {
            let headline = format!("the base `{}` is an adapter", named.name);
            let error = Diagnostic::error(codes::UNSUPPORTED, headline)
                .note("gates are made of the base's own files");
            return Err(vec![error.help(
                "add the adapter to its base first: `mixdown fuse BASE ADAPTER --out DIR`",
            )]);
        }
        let (base, adapter) = match (is_alone, adapter) {
            (true, _) => (made_on(path)?, Some(reference)),
            (false, None) => (reference, None),
            (false, Some((path, revision))) => {
                let (path, revision) = (path.clone(), revision.clone());
                (reference, Some(Reference { path, revision, prefix: None }))
            }
        };
        let model = self.checkpoint(base, session)?;
        let adapter = match adapter {
            Some(adapter) => Some(self.attach(&adapter, model, named, session)?),
            None => None,
        };
        Ok(Place { model, adapter })
    }

    fn checkpoint(
        &mut self,
        reference: Reference,
        session: &Session<'_>,
    ) -> Result<usize, Vec<Diagnostic>> {
        if let Some(known) = self.references.iter().position(|known| *known == reference) {
            return Ok(known);
        }
        let model = Model::find(&reference, &reference.shown(), session)?;
        self.models.push(model);
        self.references.push(reference);
        Ok(self.models.len() - 1)
    }

    fn attach(
        &mut self,
        reference: &Reference,
        model: usize,
        named: &Named,
        session: &Session<'_>,
    ) -> Result<usize, Vec<Diagnostic>> {
        let (mut files, revision) = Model::find_adapter(reference, session)?;
        let base = &self.models[model].checkpoint;
        let config = files.config.clone();
        let mut adapter =
            Adapter::resolve(&files.index, config, &base.index, base.config.as_ref())?;
        self.warnings.append(&mut files.warnings);
        self.warnings.append(&mut adapter.warnings);
        let on_model = Arc::new(OnModel::new(adapter, &files.index, &base.index));
        let layers = base.index.tensors().iter().enumerate();
        let mut layers = layers.filter(|(_, entry)| entry.name.contains(".mlp."));
        if !layers.any(|(position, _)| on_model.changes(position as u32)) {
            let headline = format!("`{}` makes no expert of its own", named.name);
            let warning = Diagnostic::warning(codes::NO_EFFECT, headline)
                .note("the adapter changes no feed-forward layer, and nothing else of an expert is in a mixture");
            self.warnings.push(
                warning.help("name its base, or an adapter with `mlp` among its `target_modules`"),
            );
        }
        let files = Model::of_files(files.checkpoint(), revision);
        self.adapters.push(Attached { on_model, files });
        Ok(self.adapters.len() - 1)
    }
}

/// The model that an adapter was made on, as its configuration names it.
fn made_on(path: &str) -> Result<Reference, Vec<Diagnostic>> {
    let files = open_adapter(Path::new(path))?;
    match files.config.base_model {
        Some(path) => Ok(Reference { path, revision: None, prefix: None }),
        None => {
            let headline = format!("`{path}` is an adapter, and nothing says on what");
            let error = Diagnostic::error(codes::BAD_REFERENCE, headline);
            Err(vec![error.help("name its base: `BASE+ADAPTER`")])
        }
    }
}
