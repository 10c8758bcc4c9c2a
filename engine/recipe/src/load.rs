//! A recipe with all recipes that it uses as models.

mod stages;

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, Source, Span, codes};

use crate::decode;
use crate::recipe::{ModelId, ModelReference, Recipe};

/// Recipes within recipes; more are a mistake, or a tree that links to itself under ever new names.
const MOST_LEVELS: usize = 32;

/// Recipes, each once; the first is the one that was asked for.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// In order of first mention.
    pub recipes: Vec<LoadedRecipe>,
}

/// A recipe with the recipes among its models.
#[derive(Clone, Debug)]
pub struct LoadedRecipe {
    /// Where it was read from.
    pub path: PathBuf,
    /// What it says.
    pub recipe: Recipe,
    /// For each model that is a recipe: its position in [`Loaded::recipes`].
    pub children: BTreeMap<ModelId, usize>,
}

/// Reads a recipe and, relative to the folder of each, the recipes it uses. Overrides change the first.
pub fn load(
    path: &Path,
    read: &dyn Fn(&Path) -> io::Result<String>,
    overrides: &[(String, String)],
) -> Result<Loaded, Vec<Diagnostic>> {
    match load_partly(path, read, overrides) {
        (loaded, errors) if errors.is_empty() => Ok(loaded),
        (_, errors) => Err(errors),
    }
}

/// Like [`load`], but recipes with mistakes are there as far as they can be understood, so that other
/// mistakes can be found in them. Those that cannot be are left out.
pub fn load_partly(
    path: &Path,
    read: &dyn Fn(&Path) -> io::Result<String>,
    overrides: &[(String, String)],
) -> (Loaded, Vec<Diagnostic>) {
    let mut loader = Loader {
        read,
        recipes: Vec::new(),
        known: BTreeMap::new(),
        open: Vec::new(),
        errors: Vec::new(),
    };
    loader.load(path, overrides, None);
    (Loaded { recipes: loader.recipes }, loader.errors)
}

struct Loader<'a> {
    read: &'a dyn Fn(&Path) -> io::Result<String>,
    recipes: Vec<LoadedRecipe>,
    known: BTreeMap<PathBuf, usize>,
    open: Vec<PathBuf>,
    errors: Vec<Diagnostic>,
}

impl Loader<'_> {
    fn load(
        &mut self,
        path: &Path,
        overrides: &[(String, String)],
        from: Option<(&Source, Span)>,
    ) -> Option<usize> {
        let key = normal(path);
        if let Some(&index) = self.known.get(&key) {
            return Some(index);
        }
        let text = match (self.read)(path) {
            Ok(text) => text,
            Err(error) => {
                self.errors.push(unreadable(path, &error, from));
                return None;
            }
        };
        let texts = stages::documents(&text);
        if texts.len() > 1 {
            return self.load_stages(path, key, texts, overrides);
        }
        let source = Source::new(path.display().to_string(), text);
        let (recipe, errors) = decode::read_partly(&source, overrides);
        self.errors.extend(errors);
        let recipe = recipe?;
        let index = self.recipes.len();
        let models = recipe.models.clone();
        let source = recipe.source.clone();
        self.recipes.push(LoadedRecipe {
            path: path.to_owned(),
            recipe,
            children: BTreeMap::new(),
        });
        self.open.push(key.clone());
        for (i, model) in models.iter().enumerate() {
            let ModelReference::Recipe { path: child } = &model.reference else { continue };
            let child = path.parent().unwrap_or(Path::new("")).join(child);
            if !self.may_open(&child, &source, model.span) {
                continue;
            }
            let child = self.load(&child, &[], Some((&source, model.span)));
            if let (Some(child), Ok(id)) = (child, u32::try_from(i)) {
                self.recipes[index].children.insert(ModelId(id), child);
            }
        }
        self.open.pop();
        self.known.insert(key, index);
        Some(index)
    }

    /// A file of several merges that use each other's results.
    fn load_stages(
        &mut self,
        path: &Path,
        key: PathBuf,
        texts: Vec<String>,
        overrides: &[(String, String)],
    ) -> Option<usize> {
        let (stages, errors) = stages::read(&path.display().to_string(), texts, overrides);
        self.errors.extend(errors);
        let index = self.recipes.len();
        for (recipe, uses) in stages {
            let children = uses.into_iter().map(|(model, stage)| (model, index + stage)).collect();
            self.recipes.push(LoadedRecipe { path: path.to_owned(), recipe, children });
        }
        (self.recipes.len() > index).then(|| {
            self.known.insert(key, index);
            index
        })
    }

    fn may_open(&mut self, child: &Path, source: &Source, span: Span) -> bool {
        let key = normal(child);
        if let Some(at) = self.open.iter().position(|open| *open == key) {
            let chain = self.open[at..].iter().chain([&key]);
            let chain: Vec<String> = chain.map(|path| path.display().to_string()).collect();
            let error = Diagnostic::error(codes::RECIPE_CYCLE, "a recipe includes itself");
            self.errors.push(error.at(source, span).fact("chain", chain.join(" → ")));
            return false;
        }
        if self.open.len() >= MOST_LEVELS {
            let error = Diagnostic::error(codes::UNSUPPORTED, "recipes are nested too deeply");
            self.errors.push(error.at(source, span).fact("limit", format!("{MOST_LEVELS} levels")));
            return false;
        }
        true
    }
}

fn unreadable(path: &Path, error: &io::Error, from: Option<(&Source, Span)>) -> Diagnostic {
    let shown = path.display();
    let diagnostic = match error.kind() {
        io::ErrorKind::InvalidData => {
            Diagnostic::error(codes::NOT_YAML, format!("`{shown}` is not text in UTF-8"))
        }
        io::ErrorKind::NotFound => {
            Diagnostic::error(codes::UNREADABLE, format!("there is no recipe `{shown}`"))
        }
        _ => Diagnostic::error(codes::UNREADABLE, format!("`{shown}` cannot be read"))
            .note(error.to_string()),
    };
    match from {
        Some((source, span)) => diagnostic.at(source, span),
        None => diagnostic.in_file(shown.to_string()),
    }
}

/// The path without `.` and, as far as names alone allow, without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(out.components().next_back(), Some(Component::Normal(_))) =>
            {
                out.pop();
            }
            _ => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests;
