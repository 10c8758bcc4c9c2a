//! Reads a recipe, those it names, and the method files beside it; then the models of all of them.
//! What is wrong is collected, so that all of it can be told at once.

mod adapters;
mod apart;
pub mod maps;
mod reading;
mod series;
mod spelling;
pub(crate) mod tokens;
mod versions;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mixdown_checkpoint::adapter::is_adapter;
use mixdown_checkpoint::{Adapter, shown_path};
use mixdown_diagnostics::{Code, Diagnostic, Source, codes};
use mixdown_plan::{
    AdapterInput, CheckpointInput, Library, MapInput, ModelSource, Outcome, Request, TokenizerFile,
};
use mixdown_recipe::modality::Reading;
use mixdown_recipe::recipe::{Model as Named, ModelId, ModelReference};
use mixdown_recipe::{LoadedRecipe, Recipe};
use serde_json::Value;

use crate::Session;
use crate::modality::Composition;
use crate::models::{Model, Reference};

use maps::Through;

/// Recipes are written by hand; what is larger is another kind of file.
const LARGEST: u64 = 16 << 20;

/// The recipes of a merge with their models, as far as these could be opened.
#[derive(Debug)]
pub struct Loaded {
    /// The text of the recipe that was asked for, without overrides.
    pub text: String,
    /// The recipe that was asked for, and after it those that it names.
    pub recipes: Vec<Recipe>,
    /// Whether something is left out of the recipes because it is wrong.
    pub is_partial: bool,
    /// For each recipe, for each of its models: what it is.
    pub sources: Vec<Vec<ModelSource>>,
    /// The models, each once. The tensors of adapters are among them.
    pub models: Vec<Input>,
    /// Adapters on some of them.
    pub adapters: Vec<OnBase>,
    /// Models seen through maps.
    pub mapped: Vec<Through>,
    /// The methods that the recipes can name.
    pub library: Library,
    /// What becomes of configurations and encoders, of a recipe of modalities.
    pub composition: Option<Composition>,
    /// Whether models that are to be fetched were not, and their headers stand for them.
    pub of_headers: bool,
    /// What is wrong so far, and what the user should know.
    pub diagnostics: Vec<Diagnostic>,
}

/// An adapter on a base.
#[derive(Debug)]
pub struct OnBase {
    /// Position of the base among the models.
    pub base: u32,
    /// Position of the adapter's own tensors among the models.
    pub own: u32,
    /// Which of its tensors change which of the base's.
    pub adapter: Adapter,
}

/// A model that goes into the merge.
#[derive(Debug)]
pub struct Input {
    /// Its name in the recipe that names it first.
    pub name: String,
    /// What that recipe refers to.
    pub reference: String,
    /// The opened model.
    pub model: Model,
    tokenizer: Option<TokenizerFile>,
    tokenizer_config: Option<Value>,
}

impl Input {
    /// What was merged, as one more model.
    pub(crate) fn of_output(model: Model) -> Self {
        let (name, reference) = ("the output".to_owned(), String::new());
        Self { name, reference, model, tokenizer: None, tokenizer_config: None }
    }
}

/// Reads everything that a recipe needs. `set` are overrides of the recipe itself; `text` is what it
/// says if it is no file, and `path` then only its name. `memory_bytes` are for reading tokenizers.
///
/// **Errors.** What is wrong when nothing can be understood of the recipe. Else what is wrong is among
/// the diagnostics, so that the mistakes of the plan can be told together with it.
pub fn load(
    path: &Path,
    text: Option<&str>,
    set: &[(String, String)],
    memory_bytes: u64,
    session: &Session<'_>,
) -> Result<Loaded, Vec<Diagnostic>> {
    // Asked for again and again, a recipe that comes from a pipe would be empty the second time.
    let first = RefCell::new(None);
    let read = |path: &Path| {
        let is_first = first.borrow().is_none();
        let text = match text.filter(|_| is_first) {
            Some(text) => text.to_owned(),
            None => read(path)?,
        };
        first.borrow_mut().get_or_insert_with(|| text.clone());
        Ok(text)
    };
    // Asked for once, and given on: a recipe that comes from a pipe would be empty the second time.
    let asked_for = read(path);
    let composition = match &asked_for {
        Ok(given) => match text {
            // Only a command writes the text of a transplant.
            Some(text) => {
                crate::transplant::composition(text, memory_bytes, session).transpose()?
            }
            None => crate::moe::composition(path, given, session).transpose()?,
        },
        Err(_) => None,
    };
    let shuffled = match (&asked_for, text) {
        (Ok(given), None) => crate::shuffle::recipe(path, given, set, session).transpose()?,
        _ => None,
    };
    let stands_for = composition.as_ref().map(|composition| Ok(composition.recipe.clone()));
    let stands_for = stands_for.or_else(|| Some(Ok(shuffled.as_ref()?.recipe.clone())));
    let asked_for = RefCell::new(Some(stands_for.unwrap_or(asked_for)));
    let read = |path: &Path| match asked_for.borrow_mut().take() {
        Some(asked_for) => asked_for,
        None => read(path),
    };
    let (mut found, errors) = mixdown_recipe::load_partly(path, &read, set);
    if found.recipes.is_empty() {
        return Err(errors);
    }
    let mut is_partial = mixdown_diagnostics::any_error(&errors);
    let mut loader = Loader::new(*session, memory_bytes, errors);
    loader.diagnostics.extend(shuffled.into_iter().flat_map(|shuffled| shuffled.warnings));
    if let Some(composition) = composition {
        loader.diagnostics.extend(composition.warnings);
        loader.composed = Some((composition.name, composition.model));
    }
    match Library::built_in() {
        Ok(library) => loader.library = library,
        Err(found) => loader.diagnostics.extend(found),
    }
    let mut sources = Vec::with_capacity(found.recipes.len());
    for loaded in &mut found.recipes {
        let (told, failed) = series::expand(&mut loaded.recipe);
        is_partial |= mixdown_diagnostics::any_error(&told);
        loader.diagnostics.extend(told);
        sources.push(loader.models_of(loaded, &failed));
        if text.is_none() {
            loader.add_methods(&loaded.path);
        }
    }
    let recipes: Vec<Recipe> = found.recipes.into_iter().map(|loaded| loaded.recipe).collect();
    if recipes.iter().any(|recipe| recipe.tokenizer.is_some()) {
        is_partial |= !loader.read_tokenizers();
    }
    let Loader { models, adapters, mapped, library, diagnostics, .. } = loader;
    let text = first.into_inner().unwrap_or_default();
    let composition = None;
    let mut loaded = Loaded {
        text,
        recipes,
        is_partial,
        sources,
        models,
        adapters,
        mapped,
        library,
        composition,
        of_headers: session.places.hub.headers_only && !session.places.remote,
        diagnostics,
    };
    let (composition, found) = Composition::of(&loaded, session);
    loaded.composition = composition;
    loaded.diagnostics.extend(found);
    Ok(loaded)
}

/// The built-in methods, and those beside a recipe.
pub fn library_beside(recipe: &Path) -> Result<Library, Vec<Diagnostic>> {
    let mut library = Library::built_in()?;
    library.add(method_files(recipe)?)?;
    Ok(library)
}

impl Loaded {
    /// Whether a model stores weights as codes and scales.
    pub fn has_packed_weights(&self) -> bool {
        let indexes = self.models.iter().map(|input| &input.model.checkpoint.index);
        let mut encodings =
            indexes.flat_map(|index| index.tensors()).filter_map(|one| one.encoding.as_ref());
        encodings.any(|encoding| !encoding.is_computed())
    }

    /// Whether the recipe declares a value of this name.
    pub fn is_declared(&self, name: &str) -> bool {
        self.recipes.first().is_some_and(|recipe| recipe.declared.iter().any(|own| own == name))
    }

    /// The inputs that are models, and not only there beside one.
    pub fn own_models(&self) -> impl Iterator<Item = &Input> {
        let is_own = |position: usize| {
            let checkpoint = ModelSource::Checkpoint(position as u32);
            let recipes = self.recipes.iter().zip(&self.sources);
            let mut uses = recipes.flat_map(|(recipe, sources)| recipe.models.iter().zip(sources));
            let on_base = |one: &OnBase| [one.base, one.own].contains(&(position as u32));
            let is_side = |one: &Through| [one.source, one.target].contains(&(position as u32));
            uses.any(|(model, source)| *source == checkpoint && model.attached_as.is_none())
                || self.adapters.iter().any(on_base)
                || self.mapped.iter().any(is_side)
        };
        self.models.iter().enumerate().filter(move |(at, _)| is_own(*at)).map(|(_, input)| input)
    }

    /// The data of the models, in their order. Files are opened when they are read.
    pub fn open(&self) -> Vec<mixdown_exec::Source<'_>> {
        let pool = mixdown_checkpoint::FilePool::new(mixdown_checkpoint::FilePool::DEFAULT_LIMIT);
        let source = |model: &'_ Model| -> Vec<Box<dyn mixdown_checkpoint::ByteSource>> {
            if let Some(held) = &model.held {
                return held.sources();
            }
            let shards = model.checkpoint.index.shards().iter();
            shards.map(|shard| Box::new(pool.source(shard)) as _).collect()
        };
        let mut sources = Vec::with_capacity(self.models.len());
        for Input { model, .. } in &self.models {
            let index = &model.checkpoint.index;
            sources.push(mixdown_exec::Source { index, shards: source(model) });
        }
        sources
    }

    /// Plans the merge.
    pub fn compile(&self, explain: Option<&str>) -> Outcome {
        let checkpoints: Vec<CheckpointInput<'_>> = self
            .models
            .iter()
            .map(|input| CheckpointInput {
                name: &input.name,
                index: &input.model.checkpoint.index,
                config: input.model.checkpoint.config.as_ref(),
                tokenizer: input.tokenizer.as_ref(),
                tokenizer_config: input.tokenizer_config.as_ref(),
            })
            .collect();
        let adapters = self.adapters.iter().map(|on_base| AdapterInput {
            base: on_base.base,
            checkpoint: on_base.own,
            adapter: &on_base.adapter,
        });
        let adapters: Vec<AdapterInput<'_>> = adapters.collect();
        let mapped = self.mapped.iter().map(|through| MapInput {
            map: &through.map,
            settings: through.settings.clone(),
            source: through.source,
            target: through.target,
        });
        let mapped: Vec<MapInput<'_>> = mapped.collect();
        let mut outcome = mixdown_plan::plan(&Request {
            recipes: &self.recipes,
            models: self.sources.clone(),
            library: &self.library,
            checkpoints: &checkpoints,
            adapters: &adapters,
            mapped: &mapped,
            explain,
        });
        if self.is_partial {
            outcome.plan = None;
            outcome.diagnostics.retain(|diagnostic| !may_be_a_consequence(diagnostic));
        }
        outcome
    }
}

/// Whether a mistake may be there only because something else that is wrong was left out.
fn may_be_a_consequence(diagnostic: &Diagnostic) -> bool {
    // What is wrong with a thing that stands there, whatever else is missing.
    const OWN: [Code; 10] = [
        codes::BAD_EXPRESSION,
        codes::BAD_LAYER_RANGE,
        codes::BAD_PATTERN,
        codes::DUPLICATE_MODEL,
        codes::LAYERS_PAST_END,
        codes::OUT_OF_RANGE,
        codes::UNKNOWN_DTYPE,
        codes::UNKNOWN_METHOD,
        codes::UNKNOWN_PARAMETER,
        codes::WRONG_TYPE,
    ];
    diagnostic.is_error() && !OWN.contains(&diagnostic.code)
}

/// How names are read, and the model whose names are looked for: position among the models.
type SeenAs = (Reading, Option<u32>);

struct Loader<'a> {
    session: Session<'a>,
    /// What reading tokenizers may take.
    memory_bytes: u64,
    models: Vec<Input>,
    library: Library,
    diagnostics: Vec<Diagnostic>,
    adapters: Vec<OnBase>,
    mapped: Vec<Through>,
    /// The position of each adapter on each base, none if it cannot be used.
    known_adapters: HashMap<(u32, Reference, Reading), Option<u32>>,
    /// The position of each model, none if it cannot be opened.
    known: HashMap<(Reference, Option<String>, SeenAs), Option<u32>>,
    /// The base of the recipe whose models are opened, whose spelling of names others get.
    base: Option<u32>,
    /// A model that was put together, by the name that the recipe has for it.
    composed: Option<(String, Model)>,
    /// Method files so far, by file name.
    methods: HashMap<String, Source>,
}

impl<'a> Loader<'a> {
    /// Nothing is loaded yet.
    fn new(session: Session<'a>, memory_bytes: u64, diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            base: None,
            session,
            memory_bytes,
            models: Vec::new(),
            library: Library::default(),
            diagnostics,
            adapters: Vec::new(),
            mapped: Vec::new(),
            known_adapters: HashMap::new(),
            known: HashMap::new(),
            composed: None,
            methods: HashMap::new(),
        }
    }

    /// Finds out what each model of a recipe is.
    fn models_of(&mut self, loaded: &LoadedRecipe, failed: &[ModelId]) -> Vec<ModelSource> {
        let source = &loaded.recipe.source;
        let mut sources = Vec::with_capacity(loaded.recipe.models.len());
        for (position, model) in loaded.recipe.models.iter().enumerate() {
            let child = loaded.children.get(&ModelId(position as u32));
            let found = match (&model.reference, child) {
                _ if failed.contains(&ModelId(position as u32)) => ModelSource::Failed,
                (_, Some(child)) => ModelSource::Recipe(*child as u32),
                (ModelReference::Recipe { .. }, None) => ModelSource::Failed,
                (ModelReference::Checkpoint { path, adapter: None, .. }, None)
                    if !self.is_given(path)
                        && !is_part(&loaded.recipe, model)
                        && is_adapter(Path::new(path)) =>
                {
                    self.alone(&loaded.recipe, position, path)
                        .map_or(ModelSource::Failed, ModelSource::Adapted)
                }
                (ModelReference::Checkpoint { adapter: None, .. }, None) => {
                    let seen = self.seen(&loaded.recipe, model);
                    self.base = self.base_beside(&loaded.recipe, position);
                    let found = seen.and_then(|seen| self.named(source, model, seen));
                    self.base = None;
                    match found {
                        None => ModelSource::Failed,
                        Some(position) if model.reading.is_zero => ModelSource::Zero(position),
                        Some(position) => ModelSource::Checkpoint(position),
                    }
                }
                (ModelReference::Checkpoint { path, adapter: Some((more, None)), .. }, None)
                    if is_one_path(path, more) =>
                {
                    self.whole_path(&loaded.recipe, model, &format!("{path}+{more}"))
                }
                (ModelReference::Checkpoint { adapter: Some((path, revision)), .. }, None) => self
                    .base_of(&loaded.recipe, model)
                    .and_then(|base| {
                        self.adapter(&loaded.recipe, model, base, path, revision.as_deref())
                    })
                    .map_or(ModelSource::Failed, ModelSource::Adapted),
            };
            sources.push(match &model.map {
                Some(map) => self.through(loaded, position, map, found),
                None => found,
            });
        }
        let tokens: Vec<(usize, u32)> = (loaded.recipe.merged().iter())
            .filter_map(|model| match sources[model.0 as usize] {
                ModelSource::Checkpoint(at) => Some((model.0 as usize, at)),
                ModelSource::Adapted(at) => {
                    Some((model.0 as usize, self.adapters[at as usize].base))
                }
                _ => None,
            })
            .collect();
        self.compare_tokens(&loaded.recipe, &tokens);
        sources
    }

    /// A model whose path has a plus in it.
    fn whole_path(&mut self, recipe: &Recipe, model: &Named, path: &str) -> ModelSource {
        let reference = Reference { path: path.to_owned(), revision: None, prefix: None };
        let seen = self.seen(recipe, model);
        let class = match &model.reference {
            ModelReference::Checkpoint { override_architecture, .. } => {
                override_architecture.clone()
            }
            ModelReference::Recipe { .. } => None,
        };
        let found =
            seen.and_then(|seen| self.checkpoint(&recipe.source, model, reference, class, seen));
        found.map_or(ModelSource::Failed, ModelSource::Checkpoint)
    }

    /// Whether the caller holds the model of this name.
    fn is_given(&self, path: &str) -> bool {
        self.session.given.iter().any(|given| given.name == path)
    }

    /// How the names of a model are read; none if the model whose names it has failed.
    fn seen(&mut self, recipe: &Recipe, model: &Named) -> Option<SeenAs> {
        let mut reading = model.reading.clone();
        // What the numbers count for changes nothing in the files.
        reading.is_zero = false;
        reading.like = None;
        Some((reading, self.like(recipe, model)?))
    }

    /// The recipe's base as a checkpoint of its own, for a model that is another one.
    fn base_beside(&mut self, recipe: &Recipe, position: usize) -> Option<u32> {
        let base = recipe.base.as_ref()?.value;
        let model = &recipe.models[base.0 as usize];
        let is_plain = matches!(
            &model.reference,
            ModelReference::Checkpoint { adapter: None, path, .. } if !is_adapter(Path::new(path))
        );
        let is_other = base.0 as usize != position
            && is_plain
            && model.reading == Reading::default()
            && recipe.models[position].attached_as.is_none();
        if is_other { self.named(&recipe.source, model, SeenAs::default()) } else { None }
    }

    /// The checkpoint that an adapter is on. What names are seen is said of the adapter's own tensors, but
    /// whose names the parts of a model get is said of the whole.
    fn base_of(&mut self, recipe: &Recipe, model: &Named) -> Option<u32> {
        let like = self.like(recipe, model)?;
        self.named(&recipe.source, model, (Reading::default(), like))
    }

    /// The model whose names another one gets, if there is one; none if it has failed.
    fn like(&mut self, recipe: &Recipe, model: &Named) -> Option<Option<u32>> {
        let Some(like) = model.reading.like else { return Some(self.same_model(recipe, model)) };
        let other = &recipe.models[like.0 as usize];
        self.named(&recipe.source, other, SeenAs::default()).map(Some)
    }

    /// The checkpoint that a model's reference names, without an adapter on it.
    fn named(&mut self, source: &Source, model: &Named, seen: SeenAs) -> Option<u32> {
        let ModelReference::Checkpoint { path, revision, prefix, override_architecture, .. } =
            &model.reference
        else {
            return None;
        };
        let (path, revision, prefix) = (path.clone(), revision.clone(), prefix.clone());
        let reference = Reference { path, revision, prefix };
        self.checkpoint(source, model, reference, override_architecture.clone(), seen)
    }

    /// What was found, or nothing once the faults are noted where the recipe names the model.
    fn or_note<T>(
        &mut self,
        found: Result<T, Vec<Diagnostic>>,
        source: &Source,
        model: &Named,
    ) -> Option<T> {
        found
            .map_err(|faults| {
                let faults = faults.into_iter().map(|fault| named_in(fault, source, model));
                self.diagnostics.extend(faults);
            })
            .ok()
    }

    /// Opens a model, or finds that it is open already.
    fn checkpoint(
        &mut self,
        source: &Source,
        model: &Named,
        reference: Reference,
        class: Option<String>,
        seen: SeenAs,
    ) -> Option<u32> {
        let key = (reference, class, seen);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let shown = key.0.shown();
        let composed = self.composed.take_if(|(name, _)| *name == key.0.path);
        let opened = match composed {
            Some((_, model)) => Ok(model),
            None => Model::find(&key.0, &shown, &self.session),
        };
        let opened = opened.and_then(|mut opened| {
            let (reading, like) = &key.2;
            let like = like.map(|other| &self.models[other as usize]);
            let like = like.map(|other| (other.name.as_str(), &other.model.checkpoint.index));
            let base = self.base.filter(|_| like.is_none() && *reading == Reading::default());
            let base = base.map(|base| &self.models[base as usize]);
            if let Some(base) = base.and_then(|base| spelling::of_base(base, &opened.checkpoint)) {
                opened.checkpoint.index = base.index;
                opened.checkpoint.warnings.push(base.told.at(source, model.span));
            }
            let index = &opened.checkpoint.index;
            if let Some(fault) = versions::not_merged(index, &shown) {
                return Err(vec![fault]);
            }
            let seen = reading::index(index, reading, like, &shown)?;
            opened.checkpoint.warnings.extend(reading::rest(index, reading, source, model));
            opened.checkpoint.index = seen;
            Ok(opened)
        });
        let position = match opened {
            Ok(mut opened) => {
                if let (Some(config), Some(class)) = (&mut opened.checkpoint.config, &key.1) {
                    config["architectures"] = Value::from(vec![class.as_str()]);
                }
                self.diagnostics.append(&mut opened.checkpoint.warnings);
                self.models.push(Input {
                    name: model.name.clone(),
                    reference: shown,
                    model: opened,
                    tokenizer: None,
                    tokenizer_config: None,
                });
                Some((self.models.len() - 1) as u32)
            }
            Err(found) => {
                let found = found.into_iter().map(|diagnostic| named_in(diagnostic, source, model));
                self.diagnostics.extend(found);
                None
            }
        };
        self.known.insert(key, position);
        position
    }

    /// Adds the methods beside a recipe. All recipes of a merge share them, so two recipes must not
    /// mean different things by one name.
    fn add_methods(&mut self, recipe: &Path) {
        let files = match method_files(recipe) {
            Ok(files) => files,
            Err(found) => return self.diagnostics.extend(found),
        };
        for file in files {
            let name = file.name().rsplit('/').next().unwrap_or_default().to_owned();
            match self.methods.get(&name) {
                Some(known) if known.text() == file.text() => continue,
                Some(known) => {
                    let headline = format!("two recipes bring different methods in `{name}`");
                    let diagnostic = Diagnostic::error(codes::CONFLICTING_KEYS, headline)
                        .fact("one", known.name())
                        .fact("other", file.name())
                        .help("give one of the methods another name");
                    self.diagnostics.push(diagnostic);
                    continue;
                }
                None => {}
            }
            self.methods.insert(name, file.clone());
            self.library.add_beside(&file);
        }
    }
}

/// Whether a model is a modality's encoder or connector, which trainers save among the weights of an adapter.
fn is_part(recipe: &Recipe, model: &Named) -> bool {
    recipe.modality.is_some() && model.reading != Reading::default()
}

/// Whether `PATH+MORE` is the name of something that is there, and `PATH` is not: a path with a plus in it.
fn is_one_path(path: &str, more: &str) -> bool {
    let is_there = |path: &str| Path::new(path).symlink_metadata().is_ok();
    is_there(&format!("{path}+{more}")) && !is_there(path)
}

/// Adds to a message about a model where it is named. A model that is not there is a mistake there.
fn named_in(diagnostic: Diagnostic, source: &Source, model: &Named) -> Diagnostic {
    match diagnostic.place {
        None => diagnostic.at(source, model.span),
        // What is wrong with the cache is no matter of the model that is looked for first.
        Some(_) if source.name().is_empty() || diagnostic.code == codes::CACHE_NOT_OWN => {
            diagnostic
        }
        Some(_) => {
            let place = format!("{}:{}:{}", source.name(), model.span.line, model.span.column);
            diagnostic.note(format!("named in {place}"))
        }
    }
}

/// The text of a recipe or a method.
pub fn read(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return Err(io::Error::other("it is a folder, and a recipe is a file"));
    }
    let mut text = String::new();
    // A pipe has no length, so what is read is bounded instead.
    fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other("it is too large to be a recipe"));
    }
    Ok(text)
}

/// The files of a folder beside a recipe that end in `.yaml`, in the order of their names. None where there is no
/// such folder; one that cannot be listed is an error, because what is built in would take its place.
pub(crate) fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>, Vec<Diagnostic>> {
    let unreadable = |error: io::Error| {
        let headline = format!("a folder beside the recipe cannot be read: {error}");
        vec![Diagnostic::error(codes::UNREADABLE, headline).in_file(shown_path(folder))]
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(_)
            if fs::symlink_metadata(folder)
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The method files in the folder `methods` beside a recipe, in the order of their names.
fn method_files(recipe: &Path) -> Result<Vec<Source>, Vec<Diagnostic>> {
    let folder = recipe.parent().unwrap_or(Path::new("")).join("methods");
    let paths = yaml_files(&folder)?;
    let mut files = Vec::new();
    let mut faults = Vec::new();
    for path in paths {
        let shown = shown_path(&path);
        match read(&path) {
            Ok(text) => files.push(Source::new(shown, text)),
            Err(error) => {
                let headline = format!("a method file cannot be read: {error}");
                faults.push(Diagnostic::error(codes::UNREADABLE, headline).in_file(shown));
            }
        }
    }
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::{Places, Silence};

    fn found(files: &[(&str, &str)]) -> Vec<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let places = Places::from_env(&|_| None);
        let cancel = AtomicBool::new(false);
        let session = Session::new(&places, &Silence, &cancel);
        let mut ids: Vec<&str> =
            match load(&folder.path().join(files[0].0), None, &[], 1 << 30, &session) {
                Err(found) => found.iter().map(|diagnostic| diagnostic.code.id).collect(),
                Ok(loaded) => {
                    let outcome = loaded.compile(None);
                    let all = loaded.diagnostics.iter().chain(&outcome.diagnostics);
                    all.filter(|diagnostic| diagnostic.is_error()).map(|d| d.code.id).collect()
                }
            };
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// A mistake in the text must not hide that a model is missing, or that a method does not exist.
    #[test]
    fn mistakes_of_all_kinds_are_found_together() {
        let text = "mixdown: 1\nmodels: {base: ./no-base, code: ./no-code}\nbase: base\n\
                    method: tiez\nparmeters: {density: 20}\n";
        let expected = [codes::MODEL_NOT_FOUND.id, codes::UNKNOWN_KEY.id, codes::UNKNOWN_METHOD.id];
        assert_eq!(found(&[("recipe.yaml", text)]), expected);
    }

    #[test]
    fn two_recipes_cannot_mean_different_methods_by_one_name() {
        let method = |factor: &str| {
            format!(
                "method: mine\ntitle: Mine\nsource: none\nsummary: Mine.\n\
                 inputs: {{base: ignored, experts: {{at_least: 1}}}}\n\
                 output: {factor} * mean(experts)\n"
            )
        };
        let outer =
            "mixdown: 1\nmodels: {a: ./no-a, b: {recipe: inner/recipe.yaml}}\nmethod: mine\n";
        let inner = "mixdown: 1\nmodels: {a: ./no-a}\nmethod: mine\n";
        let files = |factor| {
            [
                ("recipe.yaml", outer.to_owned()),
                ("inner/recipe.yaml", inner.to_owned()),
                ("methods/mine.yaml", method("1")),
                ("inner/methods/mine.yaml", method(factor)),
            ]
        };
        let check = |factor| {
            let files = files(factor);
            let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
            found(&files)
        };
        assert_eq!(check("1"), [codes::MODEL_NOT_FOUND.id]);
        assert_eq!(check("2"), [codes::MODEL_NOT_FOUND.id, codes::CONFLICTING_KEYS.id]);
    }

    #[test]
    fn what_is_no_recipe_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large.yaml");
        fs::File::create(&large).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(read(&large).unwrap_err().to_string().contains("too large"));
        assert!(read(folder.path()).unwrap_err().to_string().contains("folder"));
        fs::write(&large, [0xff, 0xfe]).unwrap();
        assert_eq!(read(&large).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
