//! From recipes and indexes to made tensors: each recipe after those it names, its models seen as views.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mixdown_checkpoint::adapter::Adapter;
use mixdown_checkpoint::index::Index;
use mixdown_diagnostics::{Diagnostic, Span, any_error, codes, suggest};
use mixdown_recipe::recipe::{Attached, Body, Form, Model, ModelId, Recipe, SourceModel};
use mixdown_recipe::setting::{Settings, Spanned};
use mixdown_recipe::{Architecture, ArchitectureMap, Method, method::Per};
use mixdown_tensor::DType;
use serde_json::Value;

use crate::assembled::Assembled;
use crate::graph::Shapes;
use crate::library::Library;
use crate::map::{self, MapSettings};
use crate::pair::{Detail, Section, Wanted};
use crate::plan::{LayerChange, Origin, Plan, Rows};
use crate::report::Reporter;
use crate::view::{How, Made, View};
use crate::{beside, finish, like, modules, parameters, rules, treatment, vocabulary};

/// A checkpoint that a recipe names.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointInput<'a> {
    /// As messages name it.
    pub name: &'a str,
    /// Its tensors.
    pub index: &'a Index,
    /// Its config.json.
    pub config: Option<&'a Value>,
    /// Its tokenizer.json, read when the recipe rebuilds the vocabulary.
    pub tokenizer: Option<&'a Value>,
    /// Its tokenizer_config.json, likewise.
    pub tokenizer_config: Option<&'a Value>,
}

/// A low-rank adapter on a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct AdapterInput<'a> {
    /// What it is on: position in [`Request::checkpoints`].
    pub base: u32,
    /// Its own tensors: position in [`Request::checkpoints`].
    pub checkpoint: u32,
    /// Which of its tensors change which of the base's.
    pub adapter: &'a Adapter,
}

/// A checkpoint seen through a map.
#[derive(Clone, Debug)]
pub struct MapInput<'a> {
    /// The map.
    pub map: &'a ArchitectureMap,
    /// What the recipe states otherwise.
    pub settings: MapSettings,
    /// What is read: position in [`Request::checkpoints`].
    pub source: u32,
    /// Whose names and shapes result: position in [`Request::checkpoints`].
    pub target: u32,
}

/// What a model of a recipe turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A checkpoint: position in [`Request::checkpoints`].
    Checkpoint(u32),
    /// An adapter on a checkpoint: position in [`Request::adapters`].
    Adapted(u32),
    /// A checkpoint seen through a map: position in [`Request::mapped`].
    Mapped(u32),
    /// The result of another recipe: position in [`Request::recipes`].
    Recipe(u32),
    /// The names and shapes of a checkpoint, with nothing but zeros: position in [`Request::checkpoints`].
    Zero(u32),
    /// It could not be opened, which has been reported; other mistakes are still found.
    Failed,
}

/// What is to be planned.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The recipe, and after it those that it names, directly or not. None includes itself.
    pub recipes: &'a [Recipe],
    /// For each recipe, for each of its models: what it is.
    pub models: Vec<Vec<ModelSource>>,
    /// The methods they can name.
    pub library: &'a Library,
    /// The checkpoints.
    pub checkpoints: &'a [CheckpointInput<'a>],
    /// The adapters.
    pub adapters: &'a [AdapterInput<'a>],
    /// The checkpoints seen through maps.
    pub mapped: &'a [MapInput<'a>],
    /// An output tensor whose making is wanted in detail.
    pub explain: Option<&'a str>,
}

/// A plan, or why there is none.
#[derive(Debug)]
pub struct Outcome {
    /// The plan; none if any diagnostic is an error.
    pub plan: Option<Plan>,
    /// Errors and warnings, sorted by place.
    pub diagnostics: Vec<Diagnostic>,
    /// How the tensor of [`Request::explain`] is made.
    pub detail: Option<Detail>,
}

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
    origins: &'r mut Vec<Origin>,
    /// The nodes of their graphs.
    shapes: &'r mut Shapes,
    /// Tensors made so far.
    pub made: Vec<Made>,
    names: BTreeSet<String>,
    /// Layers stacked anew.
    pub layers: Vec<LayerChange>,
    /// Why tensors of inputs are not read, by name.
    pub reasons: HashMap<String, String>,
    explain: Option<&'r str>,
    detail: &'r mut Option<Detail>,
    /// Methods that were asked for and cannot be used.
    broken: &'r mut BTreeSet<String>,
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

/// Plans a merge. All mistakes of all recipes are found at once.
pub fn compile(request: &Request<'_>) -> Outcome {
    let mut reporter = Reporter::default();
    let mut origins = Vec::new();
    let mut detail = None;
    let mut broken = BTreeSet::new();
    let mut shapes = Shapes::default();
    let mut rows: Vec<Arc<Rows>> = Vec::new();
    let mut assembled: Vec<Arc<Assembled>> = Vec::new();
    let results: Vec<OnceCell<Solved>> = request.recipes.iter().map(|_| OnceCell::new()).collect();
    let views: Vec<OnceCell<Vec<Option<View<'_>>>>> =
        request.recipes.iter().map(|_| OnceCell::new()).collect();
    let sources: Vec<Option<SourceModel>> = request.recipes.iter().map(base_source).collect();
    for number in order(request) {
        let recipe = &request.recipes[number];
        reporter.extend(recipe.warnings.iter().cloned());
        let mut own = own_views(request, number, &results, &mut assembled, &mut reporter);
        like::bring_together(recipe, &mut own, &mut rows, &mut reporter);
        let tokenizer =
            vocabulary::bring_together(request, number, &mut own, &mut rows, &mut reporter);
        let own = views[number].get_or_init(|| own);
        let mut context = RecipeContext {
            number: number as u32,
            recipe,
            library: request.library,
            views: own.iter().map(Option::as_ref).collect(),
            method: None,
            dtype: None,
            out_dtype: None,
            base_source: sources[number].as_ref(),
            classes: classes(request, number),
            reporter: &mut reporter,
            origins: &mut origins,
            shapes: &mut shapes,
            made: Vec::new(),
            names: BTreeSet::new(),
            layers: Vec::new(),
            reasons: HashMap::new(),
            explain: if number == 0 { request.explain } else { None },
            detail: &mut detail,
            broken: &mut broken,
        };
        solve(&mut context);
        let first = recipe.base.as_ref().map_or(ModelId(0), |base| base.value);
        let view = context.views.get(first.0 as usize).copied().flatten();
        let architecture = view.and_then(|view| view.architecture);
        let RecipeContext { made, layers, reasons, dtype, out_dtype, .. } = context;
        let declared = out_dtype.or(dtype);
        if let Some(warning) = treatment::warning(recipe, &made) {
            reporter.add(warning);
        }
        let solved = Solved { made, layers, reasons, declared, tokenizer, architecture };
        // Each recipe is solved once, after those it names.
        let _ = results[number].set(solved);
    }
    for (name, mistakes) in request.library.broken().filter(|(name, _)| !broken.contains(*name)) {
        reporter.extend(mistakes.first().map(|first| unused_method(name, first, mistakes.len())));
    }
    let plan = match results.first().and_then(OnceCell::get) {
        Some(_) => finish::plan(request, &results, origins, (rows, assembled), &mut reporter),
        None => None,
    };
    let mut diagnostics = reporter.finish();
    mixdown_diagnostics::sort(&mut diagnostics);
    let plan = plan.filter(|_| !any_error(&diagnostics));
    Outcome { plan, diagnostics, detail }
}

/// A method beside the recipe that has mistakes, and that nothing uses.
fn unused_method(name: &str, first: &Diagnostic, mistakes: usize) -> Diagnostic {
    let headline = format!("the method `{name}` has mistakes; this recipe does not use it");
    let mut diagnostic =
        Diagnostic::warning(codes::METHOD_UNUSED, headline).note(first.headline.clone());
    diagnostic.place = first.place.clone();
    let more = if mistakes > 1 { " all of them" } else { "" };
    diagnostic.help(format!("a recipe that uses it is told{more}"))
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

/// Recipes in an order in which each comes after those it names.
fn order(request: &Request<'_>) -> Vec<usize> {
    let mut graph = petgraph::graph::DiGraph::<(), ()>::new();
    let nodes: Vec<_> = request.recipes.iter().map(|_| graph.add_node(())).collect();
    for (number, models) in request.models.iter().enumerate() {
        for model in models {
            if let ModelSource::Recipe(inner) = model {
                graph.add_edge(nodes[*inner as usize], nodes[number], ());
            }
        }
    }
    // The loader refuses cycles; should one come through, nothing is planned and nothing loops.
    petgraph::algo::toposort(&graph, None)
        .map(|order| order.into_iter().map(|node| node.index()).collect())
        .unwrap_or_default()
}

fn own_views<'r>(
    request: &Request<'r>,
    number: usize,
    results: &'r [OnceCell<Solved>],
    assembled: &mut Vec<Arc<Assembled>>,
    reporter: &mut Reporter,
) -> Vec<Option<View<'r>>> {
    let recipe = &request.recipes[number];
    let mut of = |(model, source): (&mixdown_recipe::recipe::Model, &ModelSource)| match source {
        ModelSource::Failed => None,
        ModelSource::Checkpoint(position) => {
            let input = &request.checkpoints[*position as usize];
            Some(View::checkpoint(&model.name, *position, input.index, input.config))
        }
        ModelSource::Zero(position) => {
            let index = request.checkpoints[*position as usize].index;
            Some(View::zeros(&model.name, *position, index))
        }
        ModelSource::Adapted(position) => {
            let input = &request.adapters[*position as usize];
            let base = &request.checkpoints[input.base as usize];
            let own = request.checkpoints[input.checkpoint as usize].index;
            let of_base = (input.base, base.index);
            let adapter = (input.adapter, own);
            Some(View::adapted(&model.name, of_base, base.config, input.checkpoint, adapter))
        }
        ModelSource::Mapped(position) => {
            let input = &request.mapped[*position as usize];
            mapped_view(request, recipe, model, input, assembled, reporter)
        }
        ModelSource::Recipe(inner) => {
            let solved = results[*inner as usize].get()?;
            let mut view = View::recipe(&model.name, &solved.made, None);
            view.architecture = solved.architecture;
            Some(view)
        }
    };
    recipe.models.iter().zip(&request.models[number]).map(&mut of).collect()
}

/// A model seen through a map; none if anything is wrong with that, which is reported.
fn mapped_view<'r>(
    request: &Request<'r>,
    recipe: &Recipe,
    model: &Model,
    input: &MapInput<'r>,
    assembled: &mut Vec<Arc<Assembled>>,
    reporter: &mut Reporter,
) -> Option<View<'r>> {
    let side = |position: u32, name: &'r str| {
        let checkpoint = &request.checkpoints[position as usize];
        let CheckpointInput { index, config, .. } = *checkpoint;
        map::Side { name, model: position, index, config }
    };
    let name = |position: u32| request.checkpoints[position as usize].name;
    let target = side(input.target, name(input.target));
    let source = side(input.source, name(input.source));
    let applied = map::apply(input.map, &input.settings, target, source);
    let is_sound = !any_error(&applied.diagnostics);
    let Span { line, column, .. } = model.map.as_ref().map_or(model.span, |map| map.name.span);
    let place = format!("{}:{line}:{column}", recipe.source.name());
    for diagnostic in applied.diagnostics {
        reporter.add(diagnostic.note(format!("`{}` is seen through it in {place}", model.name)));
    }
    if let Some(embedding) = &applied.report.tied {
        let headline = format!(
            "`{}` stores no output layer; its input embedding, which is tied to it, stands in",
            model.name
        );
        let warning = Diagnostic::warning(codes::TIED_EMBEDDING, headline);
        let warning = warning.fact("tensor", format!("`{embedding}`"));
        reporter.add(warning.at(&recipe.source, model.span));
    }
    is_sound.then(|| View::mapped(&model.name, applied.mapped, target.config, assembled))
}

fn base_source(recipe: &Recipe) -> Option<SourceModel> {
    let base = recipe.base.as_ref()?;
    Some(SourceModel {
        model: Spanned { value: base.value, span: base.span },
        layers: None,
        settings: Settings::default(),
        attached: Attached::default(),
    })
}

fn classes(request: &Request<'_>, number: usize) -> BTreeSet<String> {
    let models = request.recipes[number].merged();
    let sources = models.iter().map(|model| &request.models[number][model.0 as usize]);
    let configs = sources.filter_map(|source| match source {
        ModelSource::Checkpoint(position) => request.checkpoints[*position as usize].config,
        ModelSource::Adapted(position) => {
            let base = request.adapters[*position as usize].base;
            request.checkpoints[base as usize].config
        }
        ModelSource::Mapped(position) => {
            let target = request.mapped[*position as usize].target;
            request.checkpoints[target as usize].config
        }
        _ => None,
    });
    configs
        .filter_map(|config| config.get("architectures")?.as_array())
        .flatten()
        .filter_map(|class| class.as_str().map(str::to_owned))
        .collect()
}

/// Plans one recipe.
fn solve(context: &mut RecipeContext<'_>) {
    let recipe = context.recipe;
    context.dtype = context.find_dtype(recipe.dtype.as_ref());
    context.out_dtype = context.find_dtype(recipe.out_dtype.as_ref());
    context.method = match (&recipe.inline_method, &recipe.method) {
        (Some(method), _) => {
            context.reporter.extend(crate::check::check_method(method));
            Some(method)
        }
        (None, Some(name)) => context.find_method(name),
        (None, None) => None,
    };
    match &recipe.body {
        Body::Modules(found) => {
            check_settings(context, found);
            beside::check_unused(context, &[context.method]);
            modules::make(context, found);
        }
        Body::Rules(found) => rules::make(context, found),
    }
}

/// Checks all that a recipe of modules sets.
fn check_settings(context: &mut RecipeContext<'_>, found: &[mixdown_recipe::recipe::Module]) {
    use mixdown_recipe::recipe::ModuleContent;
    let Some(method) = context.method else { return };
    let (recipe, methods) = (context.recipe, [method]);
    let mut shared: Vec<&Settings> = vec![&recipe.settings];
    let mut own: Vec<(ModelId, &Settings)> = Vec::new();
    for module in found {
        shared.push(&module.settings);
        match &module.content {
            ModuleContent::Models(models) => {
                own.extend(models.iter().map(|source| (source.model.value, &source.settings)));
            }
            ModuleContent::Slices(slices) => {
                for slice in slices {
                    shared.push(&slice.settings);
                    let sources = slice.sources.iter();
                    own.extend(sources.map(|source| (source.model.value, &source.settings)));
                }
            }
        }
    }
    let mut diagnostics = Vec::new();
    for settings in shared {
        parameters::check(settings, &methods, false, recipe.form, &recipe.source, &mut diagnostics);
    }
    let base = recipe.base.as_ref().map(|base| base.value);
    for (model, settings) in own {
        let is_base =
            base == Some(model) && method.base != mixdown_recipe::method::BaseUse::Ignored;
        if is_base && !settings.0.is_empty() && recipe.form == Form::Mergekit {
            warn_of_base_parameters(context, settings, method);
        }
        parameters::check(settings, &methods, true, recipe.form, &recipe.source, &mut diagnostics);
    }
    context.reporter.extend(diagnostics);
}

/// Published configurations give the base a weight, which nothing reads.
fn warn_of_base_parameters(context: &mut RecipeContext<'_>, settings: &Settings, method: &Method) {
    let read = |name: &str| {
        method.parameters.iter().any(|known| known.per == Per::Expert && known.name.value == name)
    };
    for named in settings.0.iter().filter(|named| read(&named.name.value)) {
        let headline = format!("`{}` of the base model has no effect", named.name.value);
        let diagnostic = Diagnostic::warning(codes::IGNORED_PARAMETER, headline);
        context.reporter.add(diagnostic.at(&context.recipe.source, named.name.span));
    }
}

/// A place for what concerns a recipe as a whole.
pub(crate) fn whole(recipe: &Recipe) -> Span {
    recipe.method.as_ref().map_or(Span { line: 1, column: 1, length: 1 }, |method| method.span)
}
