//! Which tensors of the output are written in fewer bits, and how: the first rule of `quantize` that matches
//! one decides. Where a rule names neither tensors nor roles, only the weights of linear layers are meant.

use std::collections::BTreeSet;
use std::sync::Arc;

use mixdown_checkpoint::experts::layouts;
use mixdown_checkpoint::quantize::{Form, Quantizer, Settings, Words, Written};
use mixdown_checkpoint::ties;
use mixdown_diagnostics::{Diagnostic, Span, codes, suggest};
use mixdown_ops::Program;
use mixdown_recipe::architecture::{Architecture, Role};
use mixdown_recipe::pattern::Pattern;
use mixdown_recipe::recipe::{QuantizeRule, Recipe};
use mixdown_recipe::setting::Spanned;

use crate::families::knowledge::{self, Architectures, Facts};
use crate::families::layer;
use crate::jobs::kept_codes::write_with;
use crate::models::request::Request;
use crate::plan::Job;
use crate::report::Reporter;

/// Gives jobs the forms that the recipe wants for them.
pub(crate) fn choose(
    request: &Request<'_>,
    files_from: Option<u32>,
    (jobs, programs): (&mut [Job], &[Arc<Program>]),
    reporter: &mut Reporter,
) {
    warn_of_inner(request, reporter);
    let recipe = &request.recipes[0];
    let Some(wanted) = &recipe.quantize else { return };
    let rules: Vec<Prepared<'_>> =
        wanted.rules.iter().map(|rule| Prepared::new(rule, recipe, reporter)).collect();
    let config = files_from.and_then(|model| request.checkpoints[model as usize].config);
    let names = jobs.iter().map(|job| job.name.as_str());
    let architecture = Architectures::built_in().recognize(names, config);
    let chooser = Chooser { recipe, architecture, rules };
    if !chooser.is_sound(jobs, reporter) {
        return;
    }
    let (mut matched, mut refused) = (vec![0_usize; chooser.rules.len()], Vec::new());
    let mut stacked: Vec<&str> = Vec::new();
    let mut chosen = Vec::new();
    for (number, job) in jobs.iter().enumerate() {
        let facts = chooser.facts(&job.name);
        let Some((position, rule)) = chooser.rule(&job.name, facts.as_ref()) else { continue };
        let is_named = rule.is_explicit();
        matched[position] += 1;
        let Some(form) = &rule.form else { continue };
        match kind(job, facts.as_ref()) {
            Kind::Linear => {}
            Kind::Other if is_named && job.shape.dimensions().len() == 2 => {}
            Kind::Other => continue,
            Kind::Stacked | Kind::Turned => {
                stacked.push(&job.name);
                continue;
            }
        }
        match Quantizer::new(form, &job.name, &job.shape, job.dtype, words_of(recipe)) {
            Ok(quantizer) => chosen.push((number, quantizer)),
            Err(error) => refused.push((position, *error)),
        }
    }
    chooser.report(&matched, refused, &stacked, reporter);
    if chosen.is_empty() && !reporter.has_error() {
        let headline = "no tensor of the output is left to be quantized";
        let error = Diagnostic::error(codes::CANNOT_QUANTIZE, headline)
            .note("norms, routers, embeddings and output layers are quantized only by rules that name them");
        let error = error.help(match words_of(recipe) {
            Words::Recipe => "name others with `tensors` or `role`",
            Words::Flags => "write a recipe with `output: {quantize: …}`, whose rules name others",
        });
        reporter.add(error.at(&recipe.source, wanted.span));
    }
    for (number, quantizer) in chosen {
        write_with(request, programs, &mut jobs[number], quantizer);
    }
}

/// How messages speak of settings: where nobody wrote a recipe, a command has them as flags.
fn words_of(recipe: &Recipe) -> Words {
    if recipe.source.name().is_empty() { Words::Flags } else { Words::Recipe }
}

/// What config.json must know of each module: how its weight is written.
pub fn modules(jobs: &[Job]) -> Vec<Written> {
    let mut found: Vec<Written> = Vec::new();
    for job in jobs {
        let Some(module) = job.name.strip_suffix(".weight") else { continue };
        let form = job.quantized.as_ref().map(|quantizer| quantizer.form().clone());
        let is_matrix = job.shape.dimensions().len() == 2;
        // An embedding is looked up, and is no layer that programs would take for a quantized one.
        let head = ties::head_of(&job.name);
        if form.is_some() || (is_matrix && head.is_none()) {
            found.push(Written { module: module.to_owned(), form });
        }
        // The output layer of a model that stores none is the embedding, and has no codes.
        let head = head.filter(|head| !jobs.iter().any(|job| job.name == *head));
        if let Some(module) = head.as_deref().and_then(|head| head.strip_suffix(".weight")) {
            found.push(Written { module: module.to_owned(), form: None });
        }
    }
    found
}

/// Says that what is said in a recipe that is an input has no effect.
fn warn_of_inner(request: &Request<'_>, reporter: &mut Reporter) {
    for recipe in request.recipes.iter().skip(1) {
        let Some(quantize) = &recipe.quantize else { continue };
        let headline = "`quantize` of a recipe that is an input has no effect";
        let diagnostic = Diagnostic::warning(codes::IGNORED_KEY, headline)
            .note("its result goes into the merge as it is");
        reporter.add(diagnostic.at(&recipe.source, quantize.span));
    }
}

/// What a tensor is to quantizing.
enum Kind {
    /// The weight of a linear layer.
    Linear,
    /// Matrices of several experts in one tensor.
    Stacked,
    /// The weight of a linear layer whose rows are inputs.
    Turned,
    /// Anything else.
    Other,
}

fn kind(job: &Job, facts: Option<&Facts<'_>>) -> Kind {
    let is_linear = match facts {
        Some(facts) => facts.role.is_linear() && facts.role != Role::Router,
        None => looks_linear(&job.name),
    };
    let is_turned = facts.is_some_and(|facts| facts.tensor.is_transposed);
    // Stacks have names of their own also where the family stores each expert by itself.
    let is_stack = layouts().iter().any(|layout| layout.stack_of(&job.name).is_some());
    match job.shape.dimensions().len() {
        3 if is_stack && job.dtype.is_float() => Kind::Stacked,
        _ if !is_linear || !job.dtype.is_float() => Kind::Other,
        2 if is_turned => Kind::Turned,
        2 if job.name.ends_with(".weight") => Kind::Linear,
        3 => Kind::Stacked,
        _ => Kind::Other,
    }
}

/// Whether a name that no family describes is that of a linear layer's weight, and of none that should
/// stay as it is.
fn looks_linear(name: &str) -> bool {
    const OTHERS: [&str; 10] =
        ["embed", "norm", "router", "lm_head", "wte", "wpe", "ln_", "conv", "score", "classifier"];
    // The gate of a mixture, not that of an MLP.
    let is_router = name.ends_with(".gate.weight") || name.ends_with("shared_expert_gate.weight");
    let is_other =
        is_router || ties::is_head(name) || OTHERS.iter().any(|part| name.contains(part));
    name.ends_with(".weight") && !is_other
}

/// A rule with what its words mean.
struct Prepared<'r> {
    rule: &'r QuantizeRule,
    patterns: Vec<Pattern>,
    /// None leaves tensors as they are.
    form: Option<Form>,
    /// Whether a word could not be understood, which is reported.
    is_broken: bool,
}

impl<'r> Prepared<'r> {
    fn new(rule: &'r QuantizeRule, recipe: &Recipe, reporter: &mut Reporter) -> Self {
        let patterns =
            rule.tensors.iter().filter_map(|text| Pattern::new(&text.value).ok()).collect();
        let text = |said: &Option<Spanned<String>>| said.as_ref().map(|said| said.value.clone());
        let settings = Settings {
            words: words_of(recipe),
            library: text(&rule.library),
            scales: text(&rule.scales),
            group: rule.group.as_ref().map(|group| group.value),
            symmetric: rule.symmetric.as_ref().map(|symmetric| symmetric.value),
            fit: text(&rule.fit),
        };
        let (mut form, mut is_broken) = (None, false);
        if rule.to.value != "none" {
            match Form::new(&rule.to.value, &settings) {
                Ok(found) => form = Some(found),
                Err(fault) => {
                    is_broken = true;
                    let span_of =
                        |said: &Option<Spanned<String>>| said.as_ref().map(|said| said.span);
                    let span = match fault.key {
                        "as" => span_of(&rule.library),
                        "scales" => span_of(&rule.scales),
                        "fit" => span_of(&rule.fit),
                        "group" => rule.group.as_ref().map(|group| group.span),
                        "symmetric" => rule.symmetric.as_ref().map(|symmetric| symmetric.span),
                        _ => None,
                    };
                    let error = Diagnostic::error(codes::QUANTIZE_FORM, fault.headline);
                    let error = error.help(fault.help);
                    reporter.add(error.at(&recipe.source, span.unwrap_or(rule.to.span)));
                }
            }
        }
        Self { rule, patterns, form, is_broken }
    }

    /// Whether it names tensors by what they are, so that those are meant that stay as they are otherwise.
    fn is_explicit(&self) -> bool {
        !self.rule.tensors.is_empty() || !self.rule.roles.is_empty()
    }

    fn matches(&self, name: &str, facts: Option<&Facts<'_>>) -> bool {
        let rule = self.rule;
        let has = |words: &[Spanned<String>], word: &str| {
            words.is_empty() || words.iter().any(|known| known.value == word)
        };
        let is_of_facts = (rule.modules.is_empty() && rule.roles.is_empty())
            || facts.is_some_and(|facts| {
                has(&rule.modules, &facts.module.name) && has(&rule.roles, facts.role.word())
            });
        let is_in_layers =
            rule.layers.as_ref().is_none_or(|Spanned { value: (start, end), .. }| {
                layer::split(name).is_some_and(|name| (*start..*end).contains(&name.layer))
            });
        let is_named =
            rule.tensors.is_empty() || self.patterns.iter().any(|pattern| pattern.matches(name));
        is_of_facts && is_in_layers && is_named
    }
}

struct Chooser<'r> {
    recipe: &'r Recipe,
    architecture: Option<&'static Architecture>,
    rules: Vec<Prepared<'r>>,
}

impl Chooser<'_> {
    fn facts<'n>(&'n self, name: &'n str) -> Option<Facts<'n>> {
        knowledge::facts(self.architecture?, name)
    }

    fn rule(&self, name: &str, facts: Option<&Facts<'_>>) -> Option<(usize, &Prepared<'_>)> {
        self.rules.iter().enumerate().find(|(_, rule)| rule.matches(name, facts))
    }

    /// Whether all words are known, which is reported where they are not.
    fn is_sound(&self, jobs: &[Job], reporter: &mut Reporter) -> bool {
        let mut is_sound = !self.rules.iter().any(|rule| rule.is_broken);
        let forms = || self.rules.iter().filter_map(|rule| Some((rule, rule.form.as_ref()?)));
        if let Some((_, first)) = forms().next()
            && let Some((other, form)) = forms().find(|(_, form)| form.library() != first.library())
        {
            let headline = "a folder has the forms of one library, and these rules name two";
            let error = Diagnostic::error(codes::QUANTIZE_FORM, headline)
                .fact("first", first.library())
                .fact("here", form.library())
                .help("give all rules the same `as`");
            reporter.add(error.at(&self.recipe.source, other.rule.span));
            is_sound = false;
        }
        // What transformers reads of bitsandbytes has one width for all.
        if let Some((other, _)) = forms().find(|(_, form)| **form == Form::LlmInt8)
            && forms().any(|(_, form)| *form == Form::Nf4)
        {
            let headline =
                "a folder of bitsandbytes has weights of one width, and these rules name two";
            let error = Diagnostic::error(codes::QUANTIZE_FORM, headline)
                .fact("forms", "nf4 and int8")
                .help("give all rules the same `to`");
            reporter.add(error.at(&self.recipe.source, other.rule.span));
            is_sound = false;
        }
        is_sound & self.check_words(jobs, reporter)
    }

    fn check_words(&self, jobs: &[Job], reporter: &mut Reporter) -> bool {
        let source = &self.recipe.source;
        let words =
            || self.rules.iter().flat_map(|rule| rule.rule.modules.iter().chain(&rule.rule.roles));
        let Some(first) = words().next() else { return true };
        if self.architecture.is_none() {
            let headline = "the architecture of the output is not known";
            let error = Diagnostic::error(codes::UNKNOWN_ARCHITECTURE, headline)
                .note("a rule can name modules and roles only where the architecture is known")
                .help("say which tensors the rule is for with `tensors`");
            reporter.add(error.at(source, first.span));
            return false;
        }
        let (mut modules, mut roles) = (BTreeSet::new(), BTreeSet::new());
        for facts in jobs.iter().filter_map(|job| self.facts(&job.name)) {
            modules.insert(facts.module.name.clone());
            roles.insert(facts.role.word().to_owned());
        }
        let mut unknown = |span: Span, word: &str, kind: &str, code, known: &BTreeSet<String>| {
            let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            let headline = format!("no tensor of the output has the {kind} `{word}`");
            let mut error =
                Diagnostic::error(code, headline).fact(format!("{kind}s"), list.join(", "));
            if let Some(near) = suggest::nearest(word, known.iter()) {
                error = error.help(format!("did you mean `{near}`?"));
            }
            reporter.add(error.at(source, span));
        };
        let mut is_sound = true;
        for rule in &self.rules {
            for word in rule.rule.modules.iter().filter(|word| !modules.contains(&word.value)) {
                unknown(word.span, &word.value, "module", codes::UNKNOWN_MODULE, &modules);
                is_sound = false;
            }
            for word in rule.rule.roles.iter().filter(|word| !roles.contains(&word.value)) {
                unknown(word.span, &word.value, "role", codes::UNKNOWN_ROLE, &roles);
                is_sound = false;
            }
        }
        is_sound
    }

    fn report(
        &self,
        matched: &[usize],
        refused: Vec<(usize, Diagnostic)>,
        stacked: &[&str],
        reporter: &mut Reporter,
    ) {
        let source = &self.recipe.source;
        // What is missing may be what a model that could not be read would have had.
        let dead = self.rules.iter().zip(matched).filter(|(_, count)| **count == 0);
        let is_whole = !reporter.has_error();
        for (rule, _) in dead.filter(|_| is_whole) {
            let headline = "a rule of `quantize` matches no tensor that is left to it";
            let error = Diagnostic::error(codes::DEAD_RULE, headline)
                .help("move it above others, or remove it; `mixdown inspect MODEL --tensors` lists the names");
            reporter.add(error.at(source, rule.rule.span));
        }
        for (position, error) in refused {
            let section = (0, position as u64);
            reporter.tensor(section, error.at(source, self.rules[position].rule.span));
        }
        if let [first, ..] = stacked {
            let headline =
                "linear layers stay as they are, because no form is for how they are stored";
            let warning = Diagnostic::warning(codes::KEPT_WIDE, headline)
                .fact("tensors", stacked.len().to_string())
                .fact("the first", format!("`{first}`"))
                .note("experts stacked in one tensor, and matrices whose rows are inputs, are no weights that programs would look for codes of");
            let span = self.recipe.quantize.as_ref().map(|wanted| wanted.span);
            reporter.add(warning.at(source, span.unwrap_or_default()));
        }
    }
}
