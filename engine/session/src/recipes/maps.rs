//! Models seen through architecture maps: which map, and whose names and shapes result.

use std::io;
use std::path::{Path, PathBuf};

use mixdown_checkpoint::shown_path;
use mixdown_diagnostics::{Diagnostic, Source, codes, suggest};
use mixdown_plan::ModelSource;
use mixdown_plan::map::{MapSettings, Maps};
use mixdown_recipe::map::MapSize;
use mixdown_recipe::recipe::{MapUse, Model as Named, ModelReference};
use mixdown_recipe::{ArchitectureMap, LoadedRecipe, Recipe};

use super::{Loader, SeenAs, read, yaml_files};

/// A model seen through a map.
#[derive(Debug)]
pub struct Through {
    /// The map.
    pub map: ArchitectureMap,
    /// What the recipe states otherwise.
    pub settings: MapSettings,
    /// Position of what is read among the models.
    pub source: u32,
    /// Position of the model whose names and shapes result.
    pub target: u32,
}

impl Loader<'_> {
    /// What a model is that is seen through a map, where its files are `seen`.
    pub(super) fn through(
        &mut self,
        loaded: &LoadedRecipe,
        position: usize,
        map: &MapUse,
        seen: ModelSource,
    ) -> ModelSource {
        let recipe = &loaded.recipe;
        let found = find(&map.name.value, &loaded.path);
        let target = self.target(recipe, position, map);
        let found = match found {
            Ok(found) => Some(found),
            Err(faults) => {
                for fault in faults {
                    let fault = match fault.place {
                        None => fault.at(&recipe.source, map.name.span),
                        Some(_) => fault,
                    };
                    self.diagnostics.push(fault);
                }
                None
            }
        };
        let source = match seen {
            ModelSource::Checkpoint(source) => Some(source),
            ModelSource::Failed => None,
            _ => {
                let headline = format!(
                    "`{}` is no plain checkpoint, and only those are seen through maps",
                    recipe.models[position].name
                );
                let diagnostic = Diagnostic::error(codes::UNSUPPORTED, headline)
                    .help("merge it first, and name the result");
                self.diagnostics.push(diagnostic.at(&recipe.source, map.name.span));
                None
            }
        };
        let Some(found) = found else { return ModelSource::Failed };
        let known = self.check_numbers(recipe, map, &found);
        let (Some(target), Some(source), true) = (target, source, known) else {
            return ModelSource::Failed;
        };
        let numbers = map.numbers.iter().map(|(name, value)| (name.value.clone(), *value));
        let settings = MapSettings { policy: map.policy, numbers: numbers.collect() };
        self.mapped.push(Through { map: found, settings, source, target });
        ModelSource::Mapped((self.mapped.len() - 1) as u32)
    }

    /// The model whose names and shapes result; none if there is none, which is reported.
    fn target(&mut self, recipe: &Recipe, position: usize, map: &MapUse) -> Option<u32> {
        let named = map.target.as_ref().or(recipe.base.as_ref());
        let is_plain = |model: &Named| {
            let reference = &model.reference;
            model.map.is_none()
                && matches!(reference, ModelReference::Checkpoint { adapter: None, .. })
        };
        let chosen = named.filter(|named| named.value.0 as usize != position);
        let chosen = chosen.map(|named| &recipe.models[named.value.0 as usize]);
        let name = &recipe.models[position].name;
        let (headline, help) = match chosen {
            Some(model) if is_plain(model) => {
                return self.named(&recipe.source, model, SeenAs::default());
            }
            Some(model) => (
                format!("`{}` is no plain checkpoint, and a map leads to one", model.name),
                "name another model: `map: {name: MAP, target: NAME}`",
            ),
            None => (
                format!("nothing says whose names and shapes `{name}` is to have"),
                "name the model: `map: {name: MAP, target: NAME}`, or `base: NAME` of the recipe",
            ),
        };
        let span = map.target.as_ref().map_or(map.name.span, |target| target.span);
        let diagnostic = Diagnostic::error(codes::MAP_TARGET, headline).help(help);
        self.diagnostics.push(diagnostic.at(&recipe.source, span));
        None
    }

    /// Whether the map has all numbers that the recipe states; those that it has not are reported.
    fn check_numbers(&mut self, recipe: &Recipe, map: &MapUse, found: &ArchitectureMap) -> bool {
        let own = found.numbers.iter().map(|(name, _)| name.as_str());
        let known: Vec<&str> = own.chain(MapSize::KNOWN.iter().map(|(name, _)| *name)).collect();
        let mut sound = true;
        for (name, _) in &map.numbers {
            if known.contains(&name.value.as_str()) {
                continue;
            }
            sound = false;
            let headline = format!("the map `{}` has no number `{}`", found.name.value, name.value);
            let diagnostic = Diagnostic::error(codes::UNKNOWN_NAME, headline);
            let diagnostic = match suggest::nearest(&name.value, known.iter().copied()) {
                Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                None => diagnostic.note(format!("it has {}", known.join(", "))),
            };
            self.diagnostics.push(diagnostic.at(&recipe.source, name.span));
        }
        sound
    }
}

/// A map by its path, relative to the folder of a recipe, or by its name: from `maps/` beside the recipe,
/// or built in.
///
/// **Errors.** There is none, or its file has mistakes.
pub fn find(name: &str, recipe: &Path) -> Result<ArchitectureMap, Vec<Diagnostic>> {
    let folder = recipe.parent().unwrap_or(Path::new(""));
    let is_path = name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml");
    let path = if is_path { folder.join(name) } else { folder.join(format!("maps/{name}.yaml")) };
    if is_path {
        return mixdown_recipe::read_map(&map_source(&path)?);
    }
    let mut maps = Maps::built_in()?;
    if path.symlink_metadata().is_ok() {
        maps.add([map_source(&path)?])?;
    }
    match maps.get(name) {
        Some(map) => Ok(map.clone()),
        None => {
            // Those beside the recipe are among the suggestions; what is wrong with them is not asked.
            for file in files_beside(recipe)? {
                let _ = map_source(&file).and_then(|source| maps.add([source]));
            }
            Err(vec![maps.unknown(name)])
        }
    }
}

/// The built-in maps, and those beside a recipe.
///
/// **Errors.** Every mistake in those that lie there.
pub fn beside(recipe: Option<&Path>) -> Result<Maps, Vec<Diagnostic>> {
    let mut maps = Maps::built_in()?;
    let mut faults = Vec::new();
    for file in recipe.map_or(Ok(Vec::new()), files_beside)? {
        if let Err(found) = map_source(&file).and_then(|source| maps.add([source])) {
            faults.extend(found);
        }
    }
    if faults.is_empty() { Ok(maps) } else { Err(faults) }
}

fn map_source(path: &Path) -> Result<Source, Vec<Diagnostic>> {
    let shown = shown_path(path);
    match read(path) {
        Ok(text) => Ok(Source::new(shown, text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let headline = format!("there is no map `{shown}`");
            let diagnostic = Diagnostic::error(codes::UNKNOWN_MAP, headline);
            Err(vec![diagnostic.help("paths of maps start from the folder of the recipe")])
        }
        Err(error) => {
            let headline = format!("a map cannot be read: {error}");
            Err(vec![Diagnostic::error(codes::UNREADABLE, headline).in_file(shown)])
        }
    }
}

fn files_beside(recipe: &Path) -> Result<Vec<PathBuf>, Vec<Diagnostic>> {
    yaml_files(&recipe.parent().unwrap_or(Path::new("")).join("maps"))
}
