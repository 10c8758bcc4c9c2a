//! The state of planning one recipe, and what it leaves.

use std::collections::{BTreeSet, HashMap};

use mixdown_diagnostics::{Diagnostic, codes, suggest};
use mixdown_recipe::recipe::{Attached, Attachment, ModelId, Recipe, SourceModel};
use mixdown_recipe::setting::Spanned;
use mixdown_recipe::{Architecture, Method};
use mixdown_tensor::DType;

use crate::detail::Detail;
use crate::formulas::graph::Shapes;
use crate::formulas::library::Library;
use crate::models::view::{How, Made, View};
use crate::models::vocabulary;
use crate::plan::{LayerChange, Origin};
use crate::report::Reporter;
use crate::sections::beside::{Companions, Named};
use crate::sections::pair::{Section, Wanted};

/// The state of planning one recipe.
pub(crate) struct RecipeContext<'r> {
    pub number: u32,
    pub recipe: &'r Recipe,
    pub library: &'r Library,
    /// For each model of the recipe; none where it failed.
    pub views: Vec<Option<&'r View<'r>>>,
    /// The method at the top.
    pub method: Option<&'r Method>,
    pub dtype: Option<DType>,
    pub out_dtype: Option<DType>,
    /// The base as a source without parameters, for where it joins the models.
    pub base_source: Option<&'r SourceModel>,
    /// `architectures` of the models' configs.
    pub classes: BTreeSet<String>,
    pub reporter: &'r mut Reporter,
    pub origins: &'r mut Vec<Origin>,
    /// The nodes of their graphs.
    pub shapes: &'r mut Shapes,
    /// Tensors made so far.
    pub made: Vec<Made>,
    pub names: BTreeSet<String>,
    /// Layers stacked anew.
    pub layers: Vec<LayerChange>,
    /// Why tensors of inputs are not read, by name.
    pub reasons: HashMap<String, String>,
    pub explain: Option<&'r str>,
    pub detail: &'r mut Option<Detail>,
    /// Methods that were asked for and cannot be used.
    pub broken: &'r mut BTreeSet<String>,
}

impl<'r> RecipeContext<'r> {
    /// The position of an origin.
    pub fn origin(&mut self, origin: Origin) -> u32 {
        if let Some(known) = self.origins.iter().position(|known| *known == origin) {
            return known as u32;
        }
        self.origins.push(origin);
        (self.origins.len() - 1) as u32
    }

    /// Makes one output tensor by a section.
    pub fn make(&mut self, section: &Section<'_>, wanted: &Wanted<'_>) {
        let detail = (self.explain == Some(wanted.output)).then_some(&mut *self.detail);
        if let Some(made) = section.make(wanted, self.reporter, detail) {
            self.push(made);
        }
    }

    /// Adds a tensor to the output. The first of a name stands: modules may share tensors.
    pub fn push(&mut self, mut made: Made) {
        if self.names.insert(made.name.clone()) {
            if let How::Graph { graph, .. } = &mut made.how {
                graph.settle(self.shapes);
            }
            self.made.push(made);
        }
    }

    /// The models that are not only there beside others.
    pub fn models(&self) -> impl Iterator<Item = &'r View<'r>> {
        self.recipe.merged().into_iter().filter_map(|model| self.view(model))
    }

    /// The view of a model; none if it failed.
    pub fn view(&self, model: ModelId) -> Option<&'r View<'r>> {
        self.views[model.0 as usize]
    }

    /// The method a name means, with the mistakes that naming it can have.
    pub fn find_method(&mut self, name: &Spanned<String>) -> Option<&'r Method> {
        let found = self.library.get(&name.value);
        if let Some(mistakes) = self.library.mistakes(&name.value) {
            self.reporter.extend(mistakes.iter().cloned());
            self.broken.insert(name.value.clone());
        } else if found.is_none() {
            let unknown = self.library.unknown(&name.value);
            self.reporter.add(unknown.at(&self.recipe.source, name.span));
        }
        found
    }

    /// Reports an element type that does not exist or is no float.
    pub fn find_dtype(&mut self, name: Option<&Spanned<String>>) -> Option<DType> {
        let name = name?;
        match name.value.parse::<DType>() {
            Ok(dtype) if dtype.is_float() => return Some(dtype),
            _ => {}
        }
        let known = ["float32", "bfloat16", "float16", "float64"];
        let headline = format!("`{}` is no element type that merging can use", name.value);
        let diagnostic = Diagnostic::error(codes::UNKNOWN_DTYPE, headline);
        let diagnostic = match suggest::nearest(&name.value, known) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic.help(format!("one of {}", known.join(", "))),
        };
        self.reporter.add(diagnostic.at(&self.recipe.source, name.span));
        None
    }
}

impl<'r> RecipeContext<'r> {
    /// What goes with a model, as far as a method reads it; nothing if one could not be opened.
    pub fn companions(&self, method: &Method, attached: &Attached) -> Option<Companions<'r>> {
        let named = |kind| match attached.get(kind) {
            Some(model) if method.attachments.contains(&kind) => self.named(model).map(Some),
            _ => Some(None),
        };
        let (importance, gram) = (named(Attachment::Importance)?, named(Attachment::Gram)?);
        Some(Companions { importance, gram })
    }

    /// The model to compare with, if a method does; nothing if it could not be opened.
    pub fn reference(
        &self,
        method: &Method,
        reference: Option<&Spanned<ModelId>>,
    ) -> Option<Option<Named<'r>>> {
        match reference {
            Some(model) if method.reference => self.named(model).map(Some),
            _ => Some(None),
        }
    }

    fn named(&self, model: &Spanned<ModelId>) -> Option<Named<'r>> {
        Some(Named { view: self.view(model.value)?, span: model.span })
    }
}

/// What planning one recipe gave.
#[derive(Debug)]
pub(crate) struct Solved {
    pub made: Vec<Made>,
    pub layers: Vec<LayerChange>,
    pub reasons: HashMap<String, String>,
    /// Type of the weights that the recipe states.
    pub declared: Option<DType>,
    pub tokenizer: Option<vocabulary::Rebuilt>,
    /// The family of its base, or of its first model.
    pub architecture: Option<&'static Architecture>,
}
