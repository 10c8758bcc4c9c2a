//! Vocabularies brought together: which row of which embedding each row of the output comes from.

mod files;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mixdown_checkpoint::{known, shown};
use mixdown_diagnostics::{Diagnostic, codes, suggest};
use mixdown_recipe::recipe::{
    Body, ModelId, ModuleContent, Recipe, Slice, SourceModel, TokenSource, Tokenizer, Vocabulary,
};
use mixdown_tensor::Shape;
use serde_json::Value;

use crate::families::layer;
use crate::models::imported::{Imported, imported};
use crate::models::request::{ModelSource, Request};
use crate::models::tokenizer::{NewToken, Tokens};
use crate::models::view::View;
use crate::plan::{RowSource, Rows, TensorRef};
use crate::report::Reporter;

use files::{files, unwritten};

/// A vocabulary that a recipe rebuilt.
#[derive(Clone, Debug)]
pub(crate) struct Rebuilt {
    /// Rows of the embedding.
    pub rows: u64,
    /// Replaced files, name and text.
    pub files: Vec<(String, String)>,
}

/// Rebuilds the vocabulary if the recipe asks for it: the embeddings of the views get their new rows.
pub(crate) fn bring_together(
    request: &Request<'_>,
    number: usize,
    views: &mut [Option<View<'_>>],
    rows: &mut Vec<Arc<Rows>>,
    reporter: &mut Reporter,
) -> Option<Rebuilt> {
    let recipe = &request.recipes[number];
    let tokenizer = recipe.tokenizer.as_ref()?;
    if views.iter().any(Option::is_none) {
        return None;
    }
    let mut found = Vec::new();
    let models = read_models(request, number, views, &mut found);
    let built = models.and_then(|models| build(recipe, tokenizer, models, views, rows, &mut found));
    reporter.extend(found.into_iter().map(|one| match one.place {
        Some(_) => one,
        None => one.at(&recipe.source, tokenizer.span),
    }));
    built
}

/// A model's tokens and how many rows of its embedding count.
struct Own<'a> {
    tokens: Tokens<'a>,
    config: Option<&'a Value>,
    size: u64,
    /// Token to id, for ids that have a row.
    ids: BTreeMap<&'a str, u64>,
}

fn problem(headline: String) -> Diagnostic {
    Diagnostic::error(codes::VOCABULARY, headline)
}

fn read_models<'a>(
    request: &Request<'a>,
    number: usize,
    views: &[Option<View<'_>>],
    found: &mut Vec<Diagnostic>,
) -> Option<Vec<Own<'a>>> {
    let mut all = Vec::new();
    let models = request.recipes[number].models.iter().zip(&request.models[number]);
    for ((model, source), view) in models.zip(views.iter().flatten()) {
        if model.attached_as.is_some() {
            // Facts about weights, which no row is taken from.
            all.push(own(Tokens::none(), None, None, view));
            continue;
        }
        // An adapter that brings a tokenizer means that one, and another its base's.
        let position = match source {
            ModelSource::Checkpoint(position) => Some(*position),
            ModelSource::Adapted(number) => {
                let on_base = &request.adapters[*number as usize];
                let has_own = request.checkpoints[on_base.checkpoint as usize].tokenizer.is_some();
                Some(if has_own { on_base.checkpoint } else { on_base.base })
            }
            ModelSource::Mapped(_)
            | ModelSource::Recipe(_)
            | ModelSource::Zero(_)
            | ModelSource::Failed => None,
        };
        let Some(position) = position else {
            let headline = format!(
                "the vocabulary of `{}`, no plain checkpoint, cannot be rebuilt",
                view.name
            );
            let help = "rebuild it in a recipe that reads checkpoints, and name that recipe";
            found.push(problem(headline).help(help));
            continue;
        };
        let input = &request.checkpoints[position as usize];
        let Some(file) = input.tokenizer else {
            let headline = format!("`{}` has no tokenizer that is read", view.name);
            let help = "tokenizer.json, tokenizer.model, spiece.model, tiktoken's ranks or vocab.json say which tokens it has; save it in the fast format, or leave `tokenizer` out";
            found.push(problem(headline).help(help));
            continue;
        };
        match Tokens::read(file) {
            Ok(tokens) => {
                // An adapter's folder has no config.json: sizes are its base's.
                let config = input.config.or(view.config);
                all.push(own(tokens, config, input.tokenizer_config, view));
            }
            Err(words) => {
                let headline = format!("the tokenizer.json of `{}` cannot be used", view.name);
                found.push(problem(headline).note(words));
            }
        }
    }
    found.is_empty().then_some(all)
}

fn own<'a>(
    tokens: Tokens<'a>,
    config: Option<&Value>,
    tokenizer_config: Option<&'a Value>,
    view: &View<'_>,
) -> Own<'a> {
    let stated = config.and_then(|config| {
        let nested = config.get("text_config").and_then(|text| text.get("vocab_size"));
        config.get("vocab_size").or(nested)?.as_u64()
    });
    let height = embeddings(view).into_iter().map(|position| height(view, position)).min();
    let size = stated.or(height).unwrap_or(u64::MAX).min(height.unwrap_or(u64::MAX));
    let ids = tokens.ids().into_iter().filter(|(_, id)| *id < size);
    let ids = ids.collect();
    Own { tokens, config: tokenizer_config, size, ids }
}

/// The tensors of a model with one row for each token.
pub(crate) fn embeddings(view: &View<'_>) -> Vec<u32> {
    view.iter()
        .filter(|t| known::is_of_vocabulary(t.name) && !t.shape.dimensions().is_empty())
        .map(|t| t.position)
        .collect()
}

fn height(view: &View<'_>, position: u32) -> u64 {
    view.get(position).shape.dimensions().first().copied().unwrap_or(0)
}

/// The output's tokens, by id, with what has to change in the file they come from.
struct Target<'a> {
    /// The model whose tokenizer is the ground.
    ground: usize,
    tokens: BTreeMap<u64, &'a str>,
    removed: BTreeSet<u64>,
    new: Vec<NewToken<'a>>,
}

fn target<'a>(recipe: &Recipe, tokenizer: &'a Tokenizer, models: &[Own<'a>]) -> Target<'a> {
    let base = recipe.base.as_ref().map(|base| base.value.0 as usize);
    let base = base.or(own_models(recipe).next()).unwrap_or(0);
    let ground = match tokenizer.vocabulary {
        Vocabulary::Model(model) => model.0 as usize,
        Vocabulary::Base | Vocabulary::Union => base,
    };
    let own = &models[ground];
    let stripped = !matches!(tokenizer.vocabulary, Vocabulary::Model(_));
    let all: BTreeMap<u64, &'a str> =
        own.tokens.ids().into_iter().map(|(token, id)| (id, token)).collect();
    let removed: BTreeSet<u64> =
        all.keys().copied().filter(|id| stripped && *id >= own.size).collect();
    let tokens = all.into_iter().filter(|(id, _)| !removed.contains(id)).collect();
    let mut target = Target { ground, tokens, removed, new: Vec::new() };
    let mut known: HashSet<&'a str> = target.tokens.values().copied().collect();
    if tokenizer.vocabulary == Vocabulary::Union {
        let merged = merged(recipe);
        let merged: Vec<&Own<'a>> = merged.into_iter().map(|model| &models[model]).collect();
        target.unite(&merged, &mut known);
    }
    for rule in &tokenizer.tokens {
        target.append(&rule.token.value, None, &mut known);
    }
    target
}

/// The models that are not only there beside others.
fn own_models(recipe: &Recipe) -> impl Iterator<Item = usize> {
    recipe.merged().into_iter().map(|model| model.0 as usize)
}

/// The models that take part in the merge. Those that only give rows of single tokens add no tokens.
fn merged(recipe: &Recipe) -> BTreeSet<usize> {
    let Body::Modules(modules) = &recipe.body else { return own_models(recipe).collect() };
    let mut found: BTreeSet<ModelId> = recipe.base.iter().map(|base| base.value).collect();
    for module in modules {
        match &module.content {
            ModuleContent::Models(sources) => {
                found.extend(sources.iter().map(|source| source.model.value));
            }
            ModuleContent::Slices(slices) => {
                for slice in slices {
                    found.extend(slice.base.as_ref().map(|base| base.value));
                    found.extend(slice.sources.iter().map(|source| source.model.value));
                }
            }
        }
    }
    found.into_iter().map(|model| model.0 as usize).collect()
}

impl<'a> Target<'a> {
    /// Adds what other models have: ordinary tokens first, then added ones, by model and id.
    fn unite(&mut self, models: &[&Own<'a>], known: &mut HashSet<&'a str>) {
        for model in models {
            // Special tokens are often among the ordinary ones, too.
            let added: HashMap<&str, &'a Value> =
                model.tokens.added.values().map(|(token, entry)| (*token, *entry)).collect();
            for (_, token) in model.tokens.ordinary.iter().filter(|(id, _)| **id < model.size) {
                self.append(token, added.get(token).copied(), known);
            }
        }
        for model in models {
            for (token, entry) in model.tokens.added.values() {
                if model.ids.contains_key(token) {
                    self.append(token, Some(*entry), known);
                }
            }
        }
    }

    /// Adds a token that is not among `known` yet, which are those of `tokens` as a set: a union of two
    /// vocabularies asks for each token of both.
    fn append(&mut self, token: &'a str, like: Option<&'a Value>, known: &mut HashSet<&'a str>) {
        if !known.insert(token) {
            return;
        }
        let id = self.tokens.keys().next_back().map_or(0, |last| last + 1);
        self.tokens.insert(id, token);
        self.new.push(NewToken { id, content: token, like });
    }
}

fn build<'a>(
    recipe: &Recipe,
    tokenizer: &'a Tokenizer,
    models: Vec<Own<'a>>,
    views: &mut [Option<View<'_>>],
    rows: &mut Vec<Arc<Rows>>,
    found: &mut Vec<Diagnostic>,
) -> Option<Rebuilt> {
    let target = target(recipe, tokenizer, &models);
    let real = target.tokens.keys().next_back().map_or(0, |last| last + 1);
    let height = match tokenizer.pad_to_multiple_of {
        Some(multiple) if multiple > 0 => real.checked_next_multiple_of(multiple)?,
        _ => real,
    };
    let takers = Takers::of(recipe);
    let mut planned = Vec::new();
    let compared: Vec<usize> =
        recipe.references().into_iter().map(|model| model.0 as usize).collect();
    for (name, is_after) in names(recipe, views) {
        let (takers, base) = takers.of_tensor(is_after);
        let choices = choose(tokenizer, recipe, &models, (takers, base), &target, found)?;
        // What the others are compared with gets the same rows, and gives none.
        let others = compared.iter().filter(|model| !takers.contains(model));
        for &model in takers.iter().chain(others) {
            let Some(view) = &views[model] else { continue };
            let own = view.find(&name);
            let Some(tensor) = own.or_else(|| view.tied_embedding(&name)) else { continue };
            let (position, stands_in) = (tensor.position, own.is_none());
            let wanted =
                Wanted { model, name: &name, position, stands_in, choices: &choices, real, height };
            if let Some((list, shape)) = wanted.rows(views, &models, &target, found) {
                planned.push((model, name.clone(), position, stands_in, list, shape));
            }
        }
    }
    for (model, name, position, stands_in, list, shape) in planned {
        let known = rows.iter().position(|known| **known == list);
        let number = known.unwrap_or_else(|| {
            rows.push(Arc::new(list));
            rows.len() - 1
        });
        let Some(view) = &mut views[model] else { continue };
        if stands_in {
            view.stand_in(&name, position, (number as u32, shape));
        } else {
            view.rows.insert(position, (number as u32, shape));
        }
    }
    let ground = &models[target.ground];
    if let Some(error) = unwritten(recipe, tokenizer, ground, &target) {
        found.push(error);
        return None;
    }
    let others: Vec<&Tokens<'_>> = match tokenizer.vocabulary {
        Vocabulary::Union => {
            merged(recipe).into_iter().map(|model| &models[model].tokens).collect()
        }
        Vocabulary::Base | Vocabulary::Model(_) => Vec::new(),
    };
    let imported = imported(&ground.tokens, &others, &target.removed, &target.new);
    if tokenizer.vocabulary == Vocabulary::Union {
        found.extend(left_added(&target, &imported));
    }
    Some(Rebuilt { rows: height, files: files(ground, &target, tokenizer, &imported) })
}

/// Tells of ordinary tokens that become added ones.
fn left_added(target: &Target<'_>, imported: &Imported<'_>) -> Option<Diagnostic> {
    let left = |new: &&NewToken<'_>| new.like.is_none() && !imported.tokens.contains(new.content);
    let count = target.new.iter().filter(left).count();
    let first = target.new.iter().find(left)?;
    let headline = format!(
        "{count} {} of other models become added tokens",
        if count == 1 { "ordinary token" } else { "ordinary tokens" }
    );
    Some(
        Diagnostic::warning(codes::ADDED_TOKENS, headline)
            .fact("first", format!("`{}`", shown(first.content)))
            .note("no merges of BPE make them in the output: their tokenizers differ in more than tokens and merges, or the base's merges come first")
            .note("added tokens are cut out of texts before everything else, also from the midst of words"),
    )
}

/// Names of all tensors with one row for each token, and whether they come after the layers.
fn names(recipe: &Recipe, views: &[Option<View<'_>>]) -> BTreeMap<String, bool> {
    let views = own_models(recipe).filter_map(|model| views[model].as_ref());
    let all = views.flat_map(|view| {
        embeddings(view).into_iter().map(|position| view.get(position).name.to_owned())
    });
    all.map(|name| (name.clone(), layer::is_after_layers(&name))).collect()
}

/// The models whose embeddings are merged with each other, and the base among them. Only they fill
/// each other's gaps, as in mergekit.
struct Takers {
    before: (Vec<usize>, Option<usize>),
    after: (Vec<usize>, Option<usize>),
}

impl Takers {
    fn of(recipe: &Recipe) -> Self {
        let base = recipe.base.as_ref().map(|base| base.value.0 as usize);
        let alike =
            |models: Vec<usize>| Self { before: (models.clone(), base), after: (models, base) };
        let position = |source: &SourceModel| source.model.value.0 as usize;
        let Body::Modules(modules) = &recipe.body else {
            return alike(own_models(recipe).collect());
        };
        let [module] = modules.as_slice() else { return alike(own_models(recipe).collect()) };
        match &module.content {
            ModuleContent::Models(sources) => {
                let mut all: Vec<usize> = sources.iter().map(position).collect();
                all.extend(base.filter(|base| !all.contains(base)));
                alike(all)
            }
            ModuleContent::Slices(slices) => {
                // Tensors after the layers have at most as many sources as the first slice.
                let count = slices.first().map_or(0, |slice| slice.sources.len());
                let of_slice = |slice: Option<&Slice>| {
                    let own = slice.and_then(|slice| slice.base.as_ref());
                    let sources = slice.map_or(&[][..], |slice| &slice.sources);
                    let own = own.map(|own| own.value.0 as usize);
                    (sources.iter().take(count).map(position).collect(), own.or(base))
                };
                Self { before: of_slice(slices.first()), after: of_slice(slices.last()) }
            }
        }
    }

    fn of_tensor(&self, is_after: bool) -> (&[usize], Option<usize>) {
        let (models, base) = if is_after { &self.after } else { &self.before };
        (models, *base)
    }
}

/// Where the embedding of a token comes from for models that lack it, or for all if it is forced.
#[derive(Clone, Debug)]
enum Choice {
    Rows(Vec<(usize, u64)>),
    Zero,
}

type Choices = BTreeMap<u64, (Choice, bool)>;

/// Decides the source of each output token once.
fn choose(
    tokenizer: &Tokenizer,
    recipe: &Recipe,
    models: &[Own<'_>],
    (takers, base): (&[usize], Option<usize>),
    target: &Target<'_>,
    found: &mut Vec<Diagnostic>,
) -> Option<Choices> {
    let mut choices = Choices::new();
    let mut absent: Vec<&str> = Vec::new();
    let before = found.len();
    for (&id, token) in &target.tokens {
        let rule = tokenizer.tokens.iter().find(|rule| rule.token.value == *token);
        let owners: Vec<(usize, u64)> = takers
            .iter()
            .filter_map(|&model| Some((model, *models[model].ids.get(token)?)))
            .collect();
        let of_base = owners.iter().copied().find(|(model, _)| Some(*model) == base);
        let choice = match rule.and_then(|rule| rule.source.as_ref()) {
            Some(source) => match chosen(source, token, models, recipe) {
                Ok(choice) => choice,
                Err(diagnostic) => {
                    let place = rule.map(|rule| rule.token.span).unwrap_or(tokenizer.span);
                    let diagnostic = diagnostic.at(&recipe.source, place);
                    // Each embedding asks for its tokens again.
                    if !found.contains(&diagnostic) {
                        found.push(diagnostic);
                    }
                    continue;
                }
            },
            None if owners.is_empty() && rule.is_some() => {
                let headline = format!("no model that is merged has a token {token:?}");
                let error = problem(headline)
                    .help("give it a `source`: a model, `{kind: model_token, model: …, token: …}`, or `{kind: zero}`");
                found.push(match rule {
                    Some(rule) => error.at(&recipe.source, rule.token.span),
                    None => error,
                });
                continue;
            }
            None if owners.is_empty() => {
                absent.push(token);
                Choice::Zero
            }
            None => Choice::Rows(of_base.map_or(owners, |base| vec![base])),
        };
        choices.insert(id, (choice, rule.is_some_and(|rule| rule.force)));
    }
    if let [first, rest @ ..] = absent.as_slice() {
        let headline =
            format!("{} tokens have no embedding in any model; they get zeros", rest.len() + 1);
        let diagnostic = Diagnostic::warning(codes::VOCABULARY, headline);
        let mut diagnostic = diagnostic.fact("first", format!("{first:?}"));
        if takers.len() < models.len() {
            let words = "as in mergekit, only the models that are merged there give embeddings";
            diagnostic = diagnostic.note(words);
        }
        if !found.contains(&diagnostic) {
            found.push(diagnostic);
        }
    }
    found[before..].iter().all(|one| !one.is_error()).then_some(choices)
}

fn chosen(
    source: &TokenSource,
    token: &str,
    models: &[Own<'_>],
    recipe: &Recipe,
) -> Result<Choice, Box<Diagnostic>> {
    let row = |model: &ModelId, wanted: &str| {
        let own = &models[model.0 as usize];
        own.ids.get(wanted).map(|id| Choice::Rows(vec![(model.0 as usize, *id)])).ok_or_else(|| {
            let name = &recipe.models[model.0 as usize].name;
            let near = suggest::nearest(wanted, own.ids.keys().copied());
            let error = problem(format!("`{name}` has no token {wanted:?}"));
            Box::new(error.help(match near {
                Some(near) => format!("did you mean {near:?}?"),
                None => "give a token that the model has, with `{kind: model_token, model: …, token: …}`, or `{kind: zero}`".to_owned(),
            }))
        })
    };
    match source {
        TokenSource::Zero => Ok(Choice::Zero),
        TokenSource::Model(model) => row(model, token),
        TokenSource::TokenText(model, text) => row(model, text),
        TokenSource::TokenId(model, id) => {
            let own = &models[model.0 as usize];
            if *id < own.size {
                return Ok(Choice::Rows(vec![(model.0 as usize, *id)]));
            }
            let name = &recipe.models[model.0 as usize].name;
            let headline = format!("`{name}` has no token with the id {id}");
            Err(Box::new(
                problem(headline)
                    .fact("tokens", own.size.to_string())
                    .help(format!("ids are from 0 to {}", own.size.saturating_sub(1))),
            ))
        }
    }
}

/// One embedding of one model that is to be rebuilt.
struct Wanted<'c> {
    model: usize,
    /// The name it is asked for by: rows of other models come from their tensors of this name.
    name: &'c str,
    position: u32,
    /// Whether it stands in for an output layer that is tied to it.
    stands_in: bool,
    choices: &'c Choices,
    /// Rows that are tokens; the others up to `height` are padding.
    real: u64,
    height: u64,
}

impl Wanted<'_> {
    /// Its new rows and shape; none if they are the old ones.
    fn rows(
        &self,
        views: &[Option<View<'_>>],
        models: &[Own<'_>],
        target: &Target<'_>,
        found: &mut Vec<Diagnostic>,
    ) -> Option<(Rows, Shape)> {
        let view = views[self.model].as_ref()?;
        let tensor = view.get(self.position);
        let old = tensor.shape.dimensions();
        let row_elements: u64 = old[1..].iter().product();
        let mut list = Rows { tensors: Vec::new(), row_elements, rows: Vec::new() };
        let own = &models[self.model];
        // Rows of padding are made anew, whatever stood behind the model's own tokens.
        let mut is_same = !self.stands_in && self.height == old[0] && self.real == self.height;
        for id in 0..self.real {
            let token = target.tokens.get(&id);
            let (choice, forced) = match self.choices.get(&id) {
                Some((choice, forced)) => (choice.clone(), *forced),
                None => (Choice::Zero, false),
            };
            let own_row = token.and_then(|token| own.ids.get(token)).filter(|_| !forced);
            let choice = own_row.map_or(choice, |row| Choice::Rows(vec![(self.model, *row)]));
            is_same &=
                matches!(&choice, Choice::Rows(rows) if rows.as_slice() == [(self.model, id)]);
            let source = self.source(&choice, &mut list, self.name, views);
            list.rows.push(source.unwrap_or_else(|| {
                let headline = format!("no model gives a row of `{}` for a token", self.name);
                found.push(problem(headline).fact("token", format!("{token:?}")));
                RowSource::Zero
            }));
        }
        if is_same {
            return None;
        }
        list.rows.resize(self.height as usize, RowSource::MeanOfRows);
        let mut dimensions = old.to_vec();
        dimensions[0] = self.height;
        Some((list, Shape::new(dimensions).ok()?))
    }

    fn source(
        &self,
        choice: &Choice,
        list: &mut Rows,
        name: &str,
        views: &[Option<View<'_>>],
    ) -> Option<RowSource> {
        let Choice::Rows(rows) = choice else { return Some(RowSource::Zero) };
        let mut found = Vec::new();
        for &(model, row) in rows {
            let view = views[model].as_ref()?;
            let tensor = view.find(name).or_else(|| view.tied_embedding(name));
            let Some(tensor) = tensor else { continue };
            let same_rows =
                tensor.shape.dimensions()[1..].iter().product::<u64>() == list.row_elements;
            if !same_rows || row >= tensor.shape.dimensions()[0] {
                return None;
            }
            let stored = view.stored(tensor.position)?;
            found.push((reference(list, stored), u32::try_from(row).ok()?));
        }
        match found.as_slice() {
            [] => None,
            [(tensor, row)] => Some(RowSource::Row(*tensor, *row)),
            _ => Some(RowSource::Mean(found)),
        }
    }
}

/// The position of a tensor among those that rows come from.
fn reference(list: &mut Rows, tensor: TensorRef) -> u32 {
    let position = list.tensors.iter().position(|known| *known == tensor).unwrap_or_else(|| {
        list.tensors.push(tensor);
        list.tensors.len() - 1
    });
    position as u32
}
