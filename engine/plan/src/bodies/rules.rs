//! Recipes with `rules`: for each tensor of the models the first rule that matches its name decides.

use std::collections::{BTreeSet, HashMap, HashSet};

use mixdown_diagnostics::{Diagnostic, codes, suggest};
use mixdown_recipe::method::{BaseUse, Method};
use mixdown_recipe::pattern::Pattern;
use mixdown_recipe::recipe::{Action, Model, ModelId, Rule, SourceModel};
use mixdown_recipe::setting::{Settings, Spanned};

use crate::bodies::context::RecipeContext;
use crate::bodies::unused::check_unused;
use crate::families::layer;
use crate::models::view::{How, Made, View};
use crate::plan::{Origin, TensorRef};
use crate::sections::alike::Makings;
use crate::sections::beside::Companions;
use crate::sections::pair::{Input, Section, Wanted, take};
use crate::sections::parameters;

/// Parameters of an expert that sets none.
static NO_SETTINGS: Settings = Settings(Vec::new());

/// Makes the tensors of a recipe of rules.
pub(crate) fn make<'r>(context: &mut RecipeContext<'r>, rules: &'r [Rule]) {
    let mut prepared: Vec<Prepared<'_>> = Vec::with_capacity(rules.len());
    for (number, rule) in rules.iter().enumerate() {
        prepared.push(Prepared::new(context, number, rule));
    }
    check_top_settings(context, &prepared);
    let merges = prepared.iter().filter(|rule| matches!(rule.rule.action, Action::Merge { .. }));
    let methods: Vec<Option<&Method>> = merges.map(|rule| rule.method).collect();
    check_unused(context, &methods);
    if context.views.iter().any(Option::is_none) {
        // Names of the missing model are unknown: whether rules match cannot be told.
        return;
    }
    let order = Order::of(&prepared);
    let mut unmatched: Vec<String> = Vec::new();
    for name in names(context) {
        let Some(number) = order.first(&prepared, &name) else {
            unmatched.push(name);
            continue;
        };
        prepared[number].matched += 1;
        if !prepared[number].broken {
            apply(context, &prepared[number], &name);
        }
    }
    report_unmatched(context, &unmatched);
    report_dead(context, &prepared, &order);
}

/// Which rules to ask about a name: recipes that are written by programs list tens of thousands of names,
/// in one rule or in one each.
struct Order {
    /// The rules that list a name as it is.
    listed: HashMap<String, Vec<usize>>,
    /// The rules that may match other names too.
    others: Vec<usize>,
}

impl Order {
    fn of(prepared: &[Prepared<'_>]) -> Self {
        let mut order = Self { listed: HashMap::new(), others: Vec::new() };
        for rule in prepared {
            for name in &rule.listed {
                order.listed.entry(name.clone()).or_default().push(rule.number);
            }
            if !rule.patterns.is_empty() || rule.rule.tensors.is_empty() || rule.broken {
                order.others.push(rule.number);
            }
        }
        order
    }

    /// The first rule that matches.
    fn first(&self, prepared: &[Prepared<'_>], name: &str) -> Option<usize> {
        let matches = |number: &&usize| prepared[**number].matches(name);
        let listed = self.listed.get(name).and_then(|rules| rules.iter().find(matches));
        let before = |number: &&usize| listed.is_none_or(|listed| *number < listed);
        let other = self.others.iter().take_while(before).find(matches);
        other.or(listed).copied()
    }
}

/// A rule with what its words mean.
struct Prepared<'r> {
    rule: &'r Rule,
    number: usize,
    /// The names that it lists as they are.
    listed: HashSet<String>,
    /// Its patterns with wildcards.
    patterns: Vec<Pattern>,
    /// Whether a pattern, module or role could not be understood; then nothing is known of what it matches.
    broken: bool,
    /// For a merge that is sound.
    section: Option<Section<'r>>,
    method: Option<&'r Method>,
    /// The models that it is about, the one that decides first; where it names modules or roles.
    views: Vec<&'r View<'r>>,
    /// Tensors it decided about.
    matched: usize,
}

impl<'r> Prepared<'r> {
    fn new(context: &mut RecipeContext<'r>, number: usize, rule: &'r Rule) -> Self {
        let (mut listed, mut patterns) = (HashSet::new(), Vec::new());
        let mut broken = false;
        for text in &rule.tensors {
            match Pattern::new(&text.value) {
                Ok(pattern) => match pattern.literal() {
                    Some(name) => drop(listed.insert(name)),
                    None => patterns.push(pattern),
                },
                // The reader of recipes has reported it.
                Err(_) => broken = true,
            }
        }
        let views = Vec::new();
        let (section, method, matched) = (None, None, 0);
        let mut prepared =
            Self { rule, number, listed, patterns, broken, section, method, views, matched };
        if let Action::Merge { method, inline_method, .. } = &rule.action {
            prepared.method = match (inline_method, method) {
                (Some(method), _) => {
                    context.reporter.extend(crate::formulas::check::check_method(method));
                    Some(method)
                }
                (None, Some(name)) => context.find_method(name),
                (None, None) => context.method,
            };
            prepared.section =
                prepared.section(context).filter(|section| section.check(context.reporter));
        }
        if !rule.modules.is_empty() || !rule.roles.is_empty() {
            prepared.views = prepared.models(context);
            prepared.broken |= !prepared.check_words(context);
        }
        prepared
    }

    fn title(&self) -> String {
        match &self.rule.implied {
            Some(implied) => implied.title.clone(),
            None => format!("rules[{}]", self.number),
        }
    }

    fn matches(&self, name: &str) -> bool {
        let in_layers = || match &self.rule.layers {
            None => true,
            Some(Spanned { value: (start, end), .. }) => {
                layer::split(name).is_some_and(|name| (*start..*end).contains(&name.layer))
            }
        };
        self.matches_name(name) && in_layers() && self.matches_facts(name)
    }

    /// Whether the tensor is of a module and a role that the rule names, as the first model of the rule
    /// that has it says.
    fn matches_facts(&self, name: &str) -> bool {
        if self.broken || (self.rule.modules.is_empty() && self.rule.roles.is_empty()) {
            return true;
        }
        let Some(view) = self.views.iter().find(|view| view.find(name).is_some()) else {
            return false;
        };
        let has = |words: &[Spanned<String>], word: &str| {
            words.is_empty() || words.iter().any(|known| known.value == word)
        };
        view.facts(name).is_some_and(|facts| {
            has(&self.rule.modules, &facts.module.name) && has(&self.rule.roles, facts.role.word())
        })
    }

    /// The models that the rule is about: the one that is kept, the base and the experts of a merge, or all.
    fn models(&self, context: &RecipeContext<'r>) -> Vec<&'r View<'r>> {
        let all = || context.views.iter().copied().flatten();
        let base = context.recipe.base.as_ref();
        match &self.rule.action {
            Action::Keep(model) => context.view(model.value).into_iter().collect(),
            Action::Merge { base: own, experts: Some(experts), .. } => {
                let base = own.as_ref().or(base).map(|base| base.value);
                let experts = experts.iter().map(|expert| expert.model.value);
                base.into_iter().chain(experts).filter_map(|model| context.view(model)).collect()
            }
            Action::Merge { base: own, .. } => {
                let base = own.as_ref().or(base).and_then(|base| context.view(base.value));
                base.into_iter().chain(all()).collect()
            }
            Action::Drop => {
                base.and_then(|base| context.view(base.value)).into_iter().chain(all()).collect()
            }
        }
    }

    /// Reports models whose family is not known, and modules and roles that no model has.
    fn check_words(&self, context: &mut RecipeContext<'_>) -> bool {
        let words = self.rule.modules.iter().chain(&self.rule.roles);
        let Some(first) = words.clone().next() else { return true };
        let source = &context.recipe.source;
        let mut named: Vec<&str> = Vec::new();
        for view in self.views.iter().filter(|view| view.architecture.is_none()) {
            if named.contains(&view.name.as_str()) {
                continue;
            }
            named.push(&view.name);
            let headline = format!("the architecture of `{}` is not known", view.name);
            let diagnostic = Diagnostic::error(codes::UNKNOWN_ARCHITECTURE, headline)
                .note("a rule can name modules and roles only where the architecture is known")
                .help("say which tensors the rule is for with `tensors`");
            context.reporter.add(diagnostic.at(source, first.span));
        }
        // What could not be opened is reported already; the words may be its.
        if !named.is_empty() || self.views.is_empty() {
            return false;
        }
        let (mut modules, mut roles) = (BTreeSet::new(), BTreeSet::new());
        for view in &self.views {
            for tensor in view.iter() {
                let Some(facts) = view.facts(tensor.name) else { continue };
                modules.insert(facts.module.name.clone());
                roles.insert(facts.role.word().to_owned());
            }
        }
        let mut sound = true;
        let kinds = [
            ("module", codes::UNKNOWN_MODULE, &self.rule.modules, modules),
            ("role", codes::UNKNOWN_ROLE, &self.rule.roles, roles),
        ];
        for (kind, code, words, known) in kinds {
            for word in words.iter().filter(|word| !known.contains(&word.value)) {
                sound = false;
                let headline = match kind {
                    "module" => format!("the models have no module `{}`", word.value),
                    _ => format!("no tensor of the models has the role `{}`", word.value),
                };
                let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                let mut diagnostic =
                    Diagnostic::error(code, headline).fact(format!("{kind}s"), list.join(", "));
                if let Some(near) = suggest::nearest(&word.value, known.iter()) {
                    diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
                }
                context.reporter.add(diagnostic.at(source, word.span));
            }
        }
        sound
    }

    fn matches_name(&self, name: &str) -> bool {
        self.rule.tensors.is_empty()
            || self.broken
            || self.listed.contains(name)
            || self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    /// The merge that a rule asks for.
    fn section(&self, context: &mut RecipeContext<'r>) -> Option<Section<'r>> {
        let Action::Merge { base, reference, experts, settings, out_dtype, .. } = &self.rule.action
        else {
            return None;
        };
        let method = self.method?;
        let recipe = context.recipe;
        let base = base.as_ref().or(recipe.base.as_ref());
        let reference = reference.as_ref().or(recipe.reference.as_ref());
        let mut inputs = Vec::new();
        if let (Some(base), true) = (base, method.base != BaseUse::Ignored) {
            let view = context.view(base.value)?;
            let (settings, companions) = (&NO_SETTINGS, Companions::default());
            inputs.push(Input { view, settings, span: base.span, is_base: true, companions });
        }
        match experts {
            Some(experts) => {
                for source in experts {
                    let view = context.view(source.model.value)?;
                    let (span, settings) = (source.model.span, &source.settings);
                    let companions = context.companions(method, &source.attached)?;
                    inputs.push(Input { view, settings, span, is_base: false, companions });
                }
            }
            None => {
                let skipped = [base, reference].map(|model| model.map(|model| model.value));
                let all = recipe.merged().into_iter();
                for model in all.filter(|model| !skipped.contains(&Some(*model))) {
                    let view = context.view(model)?;
                    let Model { settings, attached, .. } = &recipe.models[model.0 as usize];
                    let span = self.rule.span;
                    let companions = context.companions(method, attached)?;
                    inputs.push(Input { view, settings, span, is_base: false, companions });
                }
            }
        }
        let reference = context.reference(method, reference)?;
        let own_dtype = context.find_dtype(out_dtype.as_ref());
        let line = self.rule.span.line;
        let origin = Origin { rule: self.title(), line, method: method.name.value.clone() };
        self.check_settings(context, method, experts.as_deref(), settings);
        Some(Section {
            id: (context.number, self.number as u64),
            span: self.rule.span,
            source: &recipe.source,
            form: recipe.form,
            method,
            inputs,
            reference,
            shared: vec![("rule", settings), ("top", &recipe.settings)],
            dtype: context.dtype,
            out_dtype: own_dtype.or(context.out_dtype),
            seed: recipe.seed,
            is_implied: self.rule.implied.is_some(),
            origin: context.origin(origin),
            makings: Makings::default(),
        })
    }

    fn check_settings(
        &self,
        context: &mut RecipeContext<'r>,
        method: &Method,
        experts: Option<&[SourceModel]>,
        settings: &Settings,
    ) {
        let (form, source) = (context.recipe.form, &context.recipe.source);
        let mut diagnostics = Vec::new();
        parameters::check(settings, &[method], false, form, source, &mut diagnostics);
        for expert in experts.unwrap_or_default() {
            parameters::check(&expert.settings, &[method], true, form, source, &mut diagnostics);
        }
        context.reporter.extend(diagnostics);
    }
}

/// Parameters at the top and beside models serve all rules; one that no rule's method has is a mistake.
fn check_top_settings(context: &mut RecipeContext<'_>, prepared: &[Prepared<'_>]) {
    let methods: Vec<&Method> = prepared.iter().filter_map(|rule| rule.method).collect();
    if methods.is_empty() {
        return;
    }
    let recipe = context.recipe;
    let mut diagnostics = Vec::new();
    let (form, source) = (recipe.form, &recipe.source);
    parameters::check(&recipe.settings, &methods, false, form, source, &mut diagnostics);
    // Beside a model they serve the rules that name no experts of their own.
    for model in &recipe.models {
        parameters::check(&model.settings, &methods, true, form, source, &mut diagnostics);
    }
    context.reporter.extend(diagnostics);
}

/// The names of all tensors: those of the base in the order of its files, then what others add.
fn names(context: &RecipeContext<'_>) -> Vec<String> {
    let mut order: Vec<ModelId> = context.recipe.merged();
    if let Some(base) = &context.recipe.base {
        order.retain(|&model| model != base.value);
        order.insert(0, base.value);
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut names = Vec::new();
    for view in order.into_iter().filter_map(|model| context.view(model)) {
        names.extend(view.iter().filter(|t| seen.insert(t.name)).map(|t| t.name.to_owned()));
    }
    names
}

fn apply(context: &mut RecipeContext<'_>, prepared: &Prepared<'_>, name: &str) {
    match &prepared.rule.action {
        Action::Drop => {
            context.reasons.insert(name.to_owned(), format!("dropped by {}", prepared.title()));
        }
        Action::Keep(model) => keep(context, prepared, model, name),
        Action::Merge { .. } => {
            let Some(section) = &prepared.section else { return };
            let names = vec![name.to_owned(); section.inputs.len()];
            let wanted =
                Wanted { output: name, names: &names, t: place(section, prepared.rule, name) };
            context.make(section, &wanted);
            let reason = format!("its model does not take part in {}", prepared.title());
            context.reasons.insert(name.to_owned(), reason);
        }
    }
}

/// Place of a tensor's layer: among the rule's layers if it names some, else among all of its stack.
fn place(section: &Section<'_>, rule: &Rule, name: &str) -> f64 {
    let Some(name) = layer::split(name) else { return 0.0 };
    let (start, end) = match &rule.layers {
        Some(layers) => layers.value,
        None => {
            let counts =
                section.inputs.iter().filter_map(|input| input.view.layers.get(name.prefix));
            (0, counts.max().copied().unwrap_or(0))
        }
    };
    match end.saturating_sub(start) {
        0 | 1 => 1.0,
        count => (name.layer.saturating_sub(start)) as f64 / (count - 1) as f64,
    }
}

fn keep(
    context: &mut RecipeContext<'_>,
    prepared: &Prepared<'_>,
    model: &Spanned<ModelId>,
    name: &str,
) {
    let Some(view) = context.view(model.value) else { return };
    let Some(tensor) = view.find(name) else {
        let headline = format!("`{}` has no tensor `{name}` to keep", view.name);
        let owners: Vec<&str> = context
            .models()
            .filter(|other| other.find(name).is_some())
            .map(|other| other.name.as_str())
            .collect();
        let diagnostic = Diagnostic::error(codes::TENSOR_MISSING, headline)
            .fact("found in", owners.join(", "))
            .help(match &prepared.rule.implied {
                None => "say what becomes of it in a rule above this one: `keep: NAME` or `drop: true`",
                Some(_) => "name it as a `connector` or `encoder`, or leave it out: `drop: PATTERN` in its input",
            });
        let id = (context.number, prepared.number as u64);
        context.reporter.tensor(id, diagnostic.at(&context.recipe.source, model.span));
        return;
    };
    let out = match context.out_dtype.or(context.dtype) {
        Some(dtype) if tensor.dtype.is_float() => dtype,
        _ => tensor.dtype,
    };
    let line = prepared.rule.span.line;
    let method = format!("keep {}", view.name);
    let origin = context.origin(Origin { rule: prepared.title(), line, method });
    let shape = tensor.shape.clone();
    let mut how = take(view, tensor, out);
    if let Some(implied) = &prepared.rule.implied {
        for other in &implied.same_in {
            let Some(found) = same_in(context, prepared, view, name, other) else { continue };
            if let How::Copy { from, equal_to, within } = &mut how
                && found != *from
                && !equal_to.contains(&found)
            {
                equal_to.push(found);
                *within = Some(implied.within);
            }
        }
    }
    let treatment = None;
    context.push(Made { name: name.to_owned(), shape, dtype: out, how, origin, treatment });
    let reason = format!("{} keeps that of `{}`", prepared.title(), view.name);
    context.reasons.insert(name.to_owned(), reason);
}

/// Where another model stores a tensor that is kept of `view` and must be the same in both. What shows in
/// headers already is reported; none then, and where the other model takes the tensor from this one.
fn same_in(
    context: &mut RecipeContext<'_>,
    prepared: &Prepared<'_>,
    view: &View<'_>,
    name: &str,
    other: &Spanned<ModelId>,
) -> Option<TensorRef> {
    let kept = view.find(name)?;
    let theirs = context.view(other.value)?;
    let refuse = |context: &mut RecipeContext<'_>, diagnostic: Diagnostic| {
        let span = context.recipe.models[other.value.0 as usize].span;
        let id = (context.number, prepared.number as u64);
        context.reporter.tensor(id, diagnostic.at(&context.recipe.source, span));
        None
    };
    let Some(found) = theirs.find(name).or_else(|| theirs.tied_embedding(name)) else {
        let headline =
            format!("`{}` has no tensor `{name}`, which `{}` has", theirs.name, view.name);
        let diagnostic = Diagnostic::error(codes::TENSOR_MISSING, headline).help(
            "a body has all tensors of its base; state the `prefix` of its names if they differ",
        );
        return refuse(context, diagnostic);
    };
    // Within a distance, numbers of another type can be as good as the same.
    let is_near = prepared.rule.implied.as_ref().is_some_and(|implied| implied.within > 0.0)
        && found.dtype.is_float()
        && kept.dtype.is_float();
    if found.shape != kept.shape || (found.dtype != kept.dtype && !is_near) {
        let headline =
            format!("`{name}` is another tensor in `{}` than in `{}`", theirs.name, view.name);
        let diagnostic = Diagnostic::error(codes::SHAPE_MISMATCH, headline)
            .fact(view.name.clone(), format!("{} {}", kept.shape, kept.dtype))
            .fact(theirs.name.clone(), format!("{} {}", found.shape, found.dtype))
            .help("only models that were tuned from one base can be merged");
        return refuse(context, diagnostic);
    }
    let stored = theirs.stored(found.position);
    if stored.is_none() {
        let headline =
            format!("`{}` changes `{name}`, which is kept as in `{}`", theirs.name, view.name);
        let diagnostic = Diagnostic::error(codes::BODY_DIFFERS, headline)
            .help("merge it too, with a pattern under `include`, or write `rest: mean`");
        return refuse(context, diagnostic);
    }
    stored
}

fn report_unmatched(context: &mut RecipeContext<'_>, unmatched: &[String]) {
    let Some(first) = unmatched.first() else { return };
    let headline = match unmatched.len() {
        1 => format!("no rule says what becomes of the tensor `{first}`"),
        count => format!("no rule says what becomes of {count} tensors"),
    };
    let mut diagnostic = Diagnostic::error(codes::UNMATCHED_TENSOR, headline);
    if unmatched.len() > 1 {
        for name in unmatched.iter().take(5) {
            diagnostic = diagnostic.fact("tensor", format!("`{name}`"));
        }
    }
    if unmatched.len() > 5 {
        diagnostic = diagnostic.note(format!("and {} more", unmatched.len() - 5));
    }
    let diagnostic = diagnostic
        .help("add a last rule for the rest, without `tensors`: `- {keep: NAME}`, `- {drop: true}` or `- {method: …}`");
    context.reporter.add(diagnostic.in_file(context.recipe.source.name()));
}

fn report_dead(context: &mut RecipeContext<'_>, prepared: &[Prepared<'_>], order: &Order) {
    if prepared.iter().any(|rule| rule.broken) {
        return;
    }
    let names = names(context);
    for rule in prepared {
        let may_be_idle = rule.rule.implied.as_ref().is_some_and(|implied| implied.may_be_idle);
        if rule.matched > 0 || rule.broken || may_be_idle {
            continue;
        }
        if context.reporter.is_full(codes::DEAD_RULE) {
            context.reporter.count(codes::DEAD_RULE);
            continue;
        }
        let headline = format!("{} can never match", rule.title());
        let mut diagnostic = Diagnostic::error(codes::DEAD_RULE, headline);
        match names.iter().find(|name| rule.matches(name)) {
            Some(name) => {
                let above = order.first(prepared, name).map(|above| &prepared[above]);
                let above = above.map_or_else(String::new, |above| {
                    format!("{} on line {}", above.title(), above.rule.span.line)
                });
                diagnostic = diagnostic
                    .fact("tensor", format!("`{name}`"))
                    .fact("taken by", above)
                    .help("move it above that rule, or remove it");
            }
            None => {
                let named = names.iter().filter(|name| rule.matches_name(name)).count();
                let why = match named {
                    0 => "no tensor has such a name",
                    _ if rule.rule.modules.is_empty() && rule.rule.roles.is_empty() => {
                        "none is in these layers"
                    }
                    _ => "none of these names has such a module, role and layer",
                };
                diagnostic = diagnostic.note(why);
                let plain = rule.rule.tensors.first().map(|text| text.value.as_str());
                let near = plain.and_then(|text| suggest::nearest(text, names.iter()));
                diagnostic = match near {
                    Some(near) if named == 0 => diagnostic.help(format!("did you mean `{near}`?")),
                    _ => diagnostic.help("`mixdown inspect MODEL --tensors` lists the names"),
                };
            }
        }
        context.reporter.add(diagnostic.at(&context.recipe.source, rule.rule.span));
    }
}
