//! From recipes and indexes to made tensors: each recipe after those it names, its models seen as views.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, Span, any_error, codes};
use mixdown_recipe::recipe::{Attached, Body, Form, Model, ModelId, Recipe, SourceModel};
use mixdown_recipe::setting::{Settings, Spanned};
use mixdown_recipe::{Method, method::Per};

use crate::bodies::context::{RecipeContext, Solved};
use crate::bodies::{averaged, modules, rules, unused};
use crate::detail::Detail;
use crate::formulas::check::check_method;
use crate::formulas::graph::Shapes;
use crate::jobs::finish;
use crate::models::experts;
use crate::models::like;
use crate::models::map::{self};
use crate::models::request::{CheckpointInput, MapInput, ModelSource, Request};
use crate::models::view::View;
use crate::models::vocabulary;
use crate::plan::Assembled;

use crate::plan::{Plan, Rows};
use crate::report::Reporter;
use crate::sections::parameters;

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

/// Plans a merge. All mistakes of all recipes are found at once.
pub fn plan(request: &Request<'_>) -> Outcome {
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
        if let Some(warning) = averaged::warning(recipe, &made) {
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
    let mut views: Vec<Option<View<'r>>> =
        recipe.models.iter().zip(&request.models[number]).map(&mut of).collect();
    bring_experts_together(request, number, &mut views, assembled, reporter);
    views
}

/// The checkpoint whose layout the result of a recipe has: that of its base, or of its first model.
fn first_stored<'r>(request: &Request<'r>, number: usize) -> Option<experts::Stored<'r>> {
    let recipe = &request.recipes[number];
    let base = recipe.base.as_ref().map(|base| base.value);
    let first = base.or_else(|| recipe.merged().first().copied())?;
    let position = match request.models[number][first.0 as usize] {
        ModelSource::Checkpoint(position) => position,
        ModelSource::Adapted(position) => request.adapters[position as usize].base,
        // Recipes that name each other are refused before anything is planned.
        ModelSource::Recipe(inner) if (inner as usize) != number => {
            return first_stored(request, inner as usize);
        }
        _ => return None,
    };
    let CheckpointInput { index, config, .. } = request.checkpoints[position as usize];
    Some(experts::Stored { index, model: position, config })
}

/// Sees models whose experts lie otherwise than those of the base, or of the first model, in its layout.
fn bring_experts_together<'r>(
    request: &Request<'r>,
    number: usize,
    views: &mut [Option<View<'r>>],
    assembled: &mut Vec<Arc<Assembled>>,
    reporter: &mut Reporter,
) {
    let recipe = &request.recipes[number];
    let stored = |model: ModelId| match request.models[number][model.0 as usize] {
        ModelSource::Checkpoint(position) => {
            let CheckpointInput { index, config, .. } = request.checkpoints[position as usize];
            Some(experts::Stored { index, model: position, config })
        }
        ModelSource::Adapted(position) => {
            let position = request.adapters[position as usize].base;
            let CheckpointInput { index, config, .. } = request.checkpoints[position as usize];
            Some(experts::Stored { index, model: position, config })
        }
        ModelSource::Recipe(inner) => first_stored(request, inner as usize),
        _ => None,
    };
    let merged = recipe.merged();
    let first = recipe.base.as_ref().map(|base| base.value).or(merged.first().copied());
    let Some((first, other)) = first.and_then(|first| Some((first, stored(first)?))) else {
        return;
    };
    for &model in merged.iter().filter(|model| **model != first) {
        let at = model.0 as usize;
        let Some(own) = stored(model).filter(|own| own.model != other.model) else { continue };
        let position = match request.models[number][at] {
            ModelSource::Checkpoint(position) => Some(position),
            _ => None,
        };
        let undecided = experts::undecided(own, other, position.is_none());
        if let Some(view) = &mut views[at] {
            view.undecided = undecided.clone();
        }
        let Some(position) = position else { continue };
        let Some(found) = experts::together(own, other) else { continue };
        let CheckpointInput { config, .. } = request.checkpoints[position as usize];
        let named = &recipe.models[at];
        let headline = format!(
            "the experts of `{}` lie otherwise than those of `{}`, and are read as these do",
            named.name, recipe.models[first.0 as usize].name
        );
        let [wanted, made_of] = found.example;
        let warning = Diagnostic::warning(codes::NAMES_OF_VERSION, headline)
            .fact(recipe.models[first.0 as usize].name.clone(), format!("`{wanted}`"))
            .fact(named.name.clone(), format!("`{made_of}`"))
            .note("versions of transformers stack the experts of a layer, or store each by itself");
        reporter.add(warning.at(&recipe.source, named.span));
        let mut view = View::mapped(&named.name, found.mapped, config, assembled);
        view.config = config;
        view.undecided = undecided;
        views[at] = Some(view);
    }
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
            context.reporter.extend(check_method(method));
            Some(method)
        }
        (None, Some(name)) => context.find_method(name),
        (None, None) => None,
    };
    match &recipe.body {
        Body::Modules(found) => {
            check_settings(context, found);
            unused::check_unused(context, &[context.method]);
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
