//! Recipes with `models`, `slices` or `modules`: one method for all tensors, layers stacked as mergekit stacks them.

use std::collections::{BTreeMap, BTreeSet};

use mixdown_diagnostics::{Diagnostic, Span, codes};
use mixdown_recipe::method::BaseUse;
use mixdown_recipe::recipe::{Form, ModelId, Module, ModuleContent, Slice, SourceModel};
use mixdown_recipe::setting::{Settings, Spanned};

use crate::bodies::context::RecipeContext;
use crate::bodies::module_names;
use crate::families::layer;
use crate::models::view::View;
use crate::plan::{LayerChange, Origin};
use crate::sections::alike::Makings;
use crate::sections::pair::{Input, Section, Wanted};

/// Makes the tensors of all modules.
pub(crate) fn make<'r>(context: &mut RecipeContext<'r>, modules: &'r [Module]) {
    for (position, module) in modules.iter().enumerate() {
        let named = match &module.name {
            None => None,
            Some(name) => match module_names::find(context, &name.value) {
                Some(part) => Some(part),
                None => {
                    let diagnostic = module_names::unknown(context, name);
                    context.reporter.add(diagnostic);
                    continue;
                }
            },
        };
        let part = Part { module, position: position as u32, named };
        match &module.content {
            ModuleContent::Models(sources) => part.whole(context, sources),
            ModuleContent::Slices(slices) => part.stacked(context, slices),
        }
    }
    if modules.iter().any(|module| module.name.is_some()) {
        warn_of_modules_left_out(context);
    }
}

/// A module and the tensors that belong to it.
struct Part<'r> {
    module: &'r Module,
    position: u32,
    named: Option<module_names::Part>,
}

impl<'r> Part<'r> {
    fn belongs(&self, name: &str) -> bool {
        self.named.as_ref().is_none_or(|part| part.holds(name))
    }

    /// A section of this part; nothing if a model could not be opened or the method is unknown.
    fn section(
        &self,
        context: &mut RecipeContext<'r>,
        number: usize,
        title: String,
        span: Span,
        inputs: Vec<(&'r SourceModel, bool)>,
        own: Option<(&'static str, &'r Settings)>,
    ) -> Option<Section<'r>> {
        let method = context.method?;
        let mut built = Vec::with_capacity(inputs.len());
        for (source, is_base) in inputs {
            let view = context.views[source.model.value.0 as usize]?;
            let is_base = is_base && method.base != BaseUse::Ignored;
            built.push(Input {
                view,
                settings: &source.settings,
                span: source.model.span,
                is_base,
                companions: context.companions(method, &source.attached)?,
            });
        }
        let reference = context.reference(method, context.recipe.reference.as_ref())?;
        let mut shared = Vec::new();
        shared.extend(own);
        shared.push(("module", &self.module.settings));
        shared.push(("top", &context.recipe.settings));
        let name = &method.name.value;
        let origin = Origin { rule: title, line: span.line, method: name.clone() };
        Some(Section {
            // The module above, the slice below: no count of slices reaches the next module.
            id: (context.number, (u64::from(self.position) << 32) | number as u64),
            span,
            source: &context.recipe.source,
            form: context.recipe.form,
            method,
            inputs: built,
            reference,
            shared,
            dtype: context.dtype,
            out_dtype: context.out_dtype,
            seed: context.recipe.seed,
            is_implied: false,
            origin: context.origin(origin),
            makings: Makings::default(),
        })
    }

    /// `models`: all layers of each, and a base that is not among them joins them.
    fn whole(&self, context: &mut RecipeContext<'r>, sources: &'r [SourceModel]) {
        let base = context.recipe.base.as_ref();
        let mut inputs: Vec<(&SourceModel, bool)> = sources
            .iter()
            .map(|source| (source, base.is_some_and(|base| base.value == source.model.value)))
            .collect();
        if report_twice(context, sources) {
            return;
        }
        if let (Some(source), false) =
            (context.base_source, inputs.iter().any(|(_, is_base)| *is_base))
        {
            inputs.push((source, true));
        }
        let span = sources.first().map_or(Span::default(), |source| source.model.span);
        let title = match &self.module.name {
            Some(name) => format!("modules.{}.models", name.value),
            None => "models".to_owned(),
        };
        let Some(section) = self.section(context, 0, title, span, inputs, None) else { return };
        if !section.check(context.reporter) {
            return;
        }
        // The base's order of tensors, so that reading follows its files; then what others add.
        let mut order: Vec<&View<'_>> = section.inputs.iter().map(|input| input.view).collect();
        if let Some(base) = section.inputs.iter().position(|input| input.is_base) {
            order.swap(0, base);
        }
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for view in order {
            for tensor in view.iter() {
                if !self.belongs(tensor.name) || !seen.insert(tensor.name) {
                    continue;
                }
                let names = vec![tensor.name.to_owned(); section.inputs.len()];
                let wanted = Wanted {
                    output: tensor.name,
                    names: &names,
                    t: whole_t(&section, tensor.name),
                };
                context.make(&section, &wanted);
            }
        }
    }

    /// `slices`: stretches of layers, renumbered from 0.
    fn stacked(&self, context: &mut RecipeContext<'r>, slices: &'r [Slice]) {
        let mut sections = Vec::with_capacity(slices.len());
        for (number, slice) in slices.iter().enumerate() {
            let base = slice.base.as_ref().or(context.recipe.base.as_ref());
            let inputs: Vec<(&SourceModel, bool)> = slice
                .sources
                .iter()
                .map(|source| (source, base.is_some_and(|base| base.value == source.model.value)))
                .collect();
            if report_twice(context, &slice.sources) {
                return;
            }
            let title = match &self.module.name {
                Some(name) => format!("modules.{}.slices[{number}]", name.value),
                None => format!("slices[{number}]"),
            };
            let own = Some(("slice", &slice.settings));
            let section = self.section(context, number, title, slice.span, inputs, own);
            sections.push((slice, section));
        }
        let mut complete = Vec::with_capacity(sections.len());
        let mut sound = true;
        for (slice, section) in sections {
            let Some(section) = section else {
                sound = false;
                continue;
            };
            // A base-aware method needs the base among the sources, which `check` says.
            sound &= section.check(context.reporter);
            complete.push((slice, section));
        }
        let Some(prefix) = self.layer_prefix(context, &complete) else { return };
        sound &= check_ranges(context, &complete, &prefix);
        if sound {
            self.stack(context, &complete, &prefix);
        }
    }

    /// What the names of this part's layers begin with; there must be one stack of layers.
    fn layer_prefix(
        &self,
        context: &mut RecipeContext<'r>,
        sections: &[(&Slice, Section<'r>)],
    ) -> Option<String> {
        let mut prefixes: BTreeSet<&str> = BTreeSet::new();
        for (_, section) in sections {
            for input in &section.inputs {
                prefixes.extend(
                    input.view.layers.keys().map(String::as_str).filter(|p| self.belongs(p)),
                );
            }
        }
        if let (Some(only), 1) = (prefixes.first(), prefixes.len()) {
            return Some((*only).to_owned());
        }
        let (slice, section) = sections.first()?;
        let diagnostic = if prefixes.is_empty() {
            Diagnostic::error(codes::UNSUPPORTED, "the models have no numbered layers to slice")
                .help("merge them whole with `models`")
        } else {
            let list: Vec<String> = prefixes.iter().map(|prefix| format!("`{prefix}`")).collect();
            Diagnostic::error(codes::UNSUPPORTED, "the models have several stacks of layers")
                .fact("stacks", list.join(", "))
                .help("say which with `modules: {NAME: {slices: …}}`")
        };
        context.reporter.add(diagnostic.at(section.source, slice.span));
        None
    }

    fn stack(
        &self,
        context: &mut RecipeContext<'r>,
        sections: &[(&'r Slice, Section<'r>)],
        prefix: &str,
    ) {
        let (Some((_, first)), Some((_, last))) = (sections.first(), sections.last()) else {
            return;
        };
        self.outside(context, first, prefix, false);
        let mut layers: Vec<u64> = Vec::new();
        for (slice, section) in sections {
            let starts: Vec<u64> = starts(slice);
            let count = slice.sources.first().map_or(0, length);
            let suffixes: Vec<LayerSuffixes<'_>> =
                section.inputs.iter().map(|input| suffixes(input.view, prefix)).collect();
            for offset in 0..count {
                let output_layer = layers.len() as u64;
                let t = if count == 1 { 1.0 } else { offset as f64 / (count - 1) as f64 };
                let mut seen = BTreeSet::new();
                for (input, by_layer) in suffixes.iter().enumerate() {
                    for suffix in by_layer.get(&(starts[input] + offset)).into_iter().flatten() {
                        if !seen.insert(*suffix) {
                            continue;
                        }
                        let name = |layer: u64| format!("{prefix}{layer}{suffix}");
                        let names: Vec<String> =
                            starts.iter().map(|start| name(start + offset)).collect();
                        let output = name(output_layer);
                        context.make(section, &Wanted { output: &output, names: &names, t });
                    }
                }
                layers.push(starts[0] + offset);
            }
        }
        let kept = first.inputs.len();
        if last.inputs.len() > kept {
            let last = shortened(context, last, kept);
            self.outside(context, &last, prefix, true);
        } else {
            self.outside(context, last, prefix, true);
        }
        context.layers.push(LayerChange { prefix: prefix.to_owned(), before: 0, sources: layers });
    }

    /// The tensors before or after the layers, at the gradient's first knot.
    fn outside(
        &self,
        context: &mut RecipeContext<'r>,
        section: &Section<'r>,
        prefix: &str,
        after: bool,
    ) {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for input in &section.inputs {
            for tensor in input.view.iter() {
                let in_layers = layer::split(tensor.name).is_some_and(|name| name.prefix == prefix);
                if in_layers
                    || layer::is_after_layers(tensor.name) != after
                    || !self.belongs(tensor.name)
                    || !seen.insert(tensor.name)
                {
                    continue;
                }
                let names = vec![tensor.name.to_owned(); section.inputs.len()];
                context.make(section, &Wanted { output: tensor.name, names: &names, t: 0.0 });
            }
        }
    }
}

/// A section with its first inputs only.
fn shortened<'r>(
    context: &mut RecipeContext<'r>,
    section: &Section<'r>,
    count: usize,
) -> Section<'r> {
    let headline = format!(
        "tensors after the layers take only the first {count} of {} sources of the last slice",
        section.inputs.len()
    );
    let diagnostic = Diagnostic::warning(codes::COMPATIBILITY, headline)
        .note("as in mergekit, which counts the sources of the first slice")
        .help("give the first slice as many sources as the last");
    context.reporter.add(diagnostic.at(section.source, section.span));
    let inputs = section.inputs[..count]
        .iter()
        .map(|input| Input {
            view: input.view,
            settings: input.settings,
            span: input.span,
            is_base: input.is_base,
            companions: input.companions,
        })
        .collect();
    let (shared, makings) = (section.shared.clone(), Makings::default());
    Section { inputs, shared, makings, ..*section }
}

/// Layer to suffixes, in the order of the files.
type LayerSuffixes<'v> = BTreeMap<u64, Vec<&'v str>>;

fn suffixes<'v>(view: &'v View<'_>, prefix: &str) -> LayerSuffixes<'v> {
    let mut found: LayerSuffixes<'v> = BTreeMap::new();
    for position in 0..view.len() as u32 {
        let Some(name) = layer::split(view.get(position).name) else { continue };
        if name.prefix == prefix {
            found.entry(name.layer).or_default().push(name.suffix);
        }
    }
    found
}

fn starts(slice: &Slice) -> Vec<u64> {
    slice
        .sources
        .iter()
        .map(|source| source.layers.as_ref().map_or(0, |layers| layers.value.0))
        .collect()
}

fn length(source: &SourceModel) -> u64 {
    source.layers.as_ref().map_or(0, |layers| layers.value.1.saturating_sub(layers.value.0))
}

/// Place of a tensor's layer among the layers of its stack; 0 outside of layers.
fn whole_t(section: &Section<'_>, name: &str) -> f64 {
    let Some(name) = layer::split(name) else { return 0.0 };
    let count = section.inputs.iter().filter_map(|input| input.view.layers.get(name.prefix)).max();
    match count {
        Some(&count) if count > 1 => name.layer as f64 / (count - 1) as f64,
        _ => 1.0,
    }
}

/// Reports a model that stands twice in one list. Different layers of one model are different sources.
fn report_twice(context: &mut RecipeContext<'_>, sources: &[SourceModel]) -> bool {
    let mut seen: Vec<(ModelId, Option<(u64, u64)>)> = Vec::new();
    let base = context.recipe.base.as_ref().map(|base| base.value);
    let mut twice = false;
    for source in sources {
        let layers = source.layers.as_ref().map(|layers| layers.value);
        let model = source.model.value;
        let is_seen = |known: &&(ModelId, Option<(u64, u64)>)| {
            known.0 == model && (known.1 == layers || base == Some(model))
        };
        if let Some(known) = seen.iter().find(is_seen) {
            let name = &context.recipe.models[model.0 as usize].name;
            let headline = format!("`{name}` is listed twice");
            let help = match known.1 == layers {
                true => "list it once, with the weights added up",
                false => "name another model as the base, which is one range of layers",
            };
            let diagnostic = Diagnostic::error(codes::DUPLICATE_MODEL, headline).help(help);
            context.reporter.add(diagnostic.at(&context.recipe.source, source.model.span));
            twice = true;
        }
        seen.push((model, layers));
    }
    twice
}

/// Reports layer ranges that go past a model's last layer.
fn check_ranges(
    context: &mut RecipeContext<'_>,
    sections: &[(&Slice, Section<'_>)],
    prefix: &str,
) -> bool {
    let mut sound = true;
    for (slice, section) in sections {
        for (source, input) in slice.sources.iter().zip(&section.inputs) {
            let Some(Spanned { value: (start, end), span }) = &source.layers else { continue };
            let count = input.view.layers.get(prefix).copied().unwrap_or(0);
            if *end <= count {
                continue;
            }
            sound = false;
            let headline =
                format!("the layer range goes past the last layer of `{}`", input.view.name);
            let diagnostic = Diagnostic::error(codes::LAYERS_PAST_END, headline)
                .fact("range", format!("[{start}, {end}]"))
                .fact("layers", count.to_string())
                .note("a range includes its start and excludes its end")
                .help(format!("the last range that fits is [{}, {count}]", (*start).min(count)));
            context.reporter.add(diagnostic.at(section.source, *span));
        }
    }
    sound
}

/// Modules that a recipe does not list are not written, which mergekit does in silence.
fn warn_of_modules_left_out(context: &mut RecipeContext<'_>) {
    let written: BTreeSet<String> = context.made.iter().map(|made| made.name.clone()).collect();
    let Some(view) = context.models().next() else { return };
    // Layers that slices leave out belong to a module that is listed.
    fn stack(name: &str) -> Option<&str> {
        layer::split(name).map(|split| split.prefix)
    }
    let stacks: BTreeSet<&str> = written.iter().filter_map(|name| stack(name)).collect();
    let is_left = |name: &&str| {
        !written.contains(*name) && stack(name).is_none_or(|prefix| !stacks.contains(prefix))
    };
    let left: Vec<&str> = view.iter().map(|tensor| tensor.name).filter(is_left).collect();
    if let (Some(first), Form::Mergekit) = (left.first(), context.recipe.form)
        && !context.made.is_empty()
    {
        let headline =
            format!("{} tensors belong to modules that the recipe does not list", left.len());
        let diagnostic = Diagnostic::warning(codes::DROPPED, headline)
            .fact("first", format!("`{first}`"))
            .note("as in mergekit, they are not in the output")
            .help("list their module under `modules`");
        context.reporter.add(diagnostic.in_file(context.recipe.source.name()));
    }
}
