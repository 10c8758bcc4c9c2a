//! The maps a recipe can name: those built in, and those that lie beside it.

use std::collections::BTreeMap;

use mixdown_diagnostics::{Diagnostic, Source, any_error, codes, suggest};
use mixdown_recipe::ArchitectureMap;

/// File name and text of each built-in map.
static BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/maps.rs"));

/// Maps by name.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    maps: BTreeMap<String, ArchitectureMap>,
}

impl Maps {
    /// The maps that are part of mixdown.
    ///
    /// **Errors.** Mistakes in their files, which a test excludes.
    pub fn built_in() -> Result<Self, Vec<Diagnostic>> {
        let mut maps = Self::default();
        let files = BUILT_IN
            .iter()
            .map(|(name, text)| Source::new(format!("recipes/maps/{name}"), (*text).to_owned()));
        maps.add(files)?;
        Ok(maps)
    }

    /// The text of a built-in map's file.
    pub fn text(name: &str) -> Option<&'static str> {
        let file = format!("{name}.yaml");
        BUILT_IN.iter().find(|(known, _)| *known == file).map(|(_, text)| *text)
    }

    /// Adds maps from files; one of the same name takes the place of the one before.
    ///
    /// **Errors.** Every mistake in the files, and a map whose name is not its file's.
    pub fn add(&mut self, files: impl IntoIterator<Item = Source>) -> Result<(), Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        for file in files {
            match mixdown_recipe::read_map(&file) {
                Ok(map) => {
                    diagnostics.extend(other_name(&map));
                    self.maps.insert(map.name.value.clone(), map);
                }
                Err(found) => diagnostics.extend(found),
            }
        }
        if any_error(&diagnostics) { Err(diagnostics) } else { Ok(()) }
    }

    /// The map of this name.
    pub fn get(&self, name: &str) -> Option<&ArchitectureMap> {
        self.maps.get(name)
    }

    /// All maps, by name.
    pub fn iter(&self) -> impl Iterator<Item = &ArchitectureMap> {
        self.maps.values()
    }

    /// Says that there is no map of this name, and which is nearest.
    pub fn unknown(&self, name: &str) -> Diagnostic {
        let diagnostic = Diagnostic::error(codes::UNKNOWN_MAP, format!("there is no map `{name}`"));
        match suggest::nearest(name, self.maps.keys()) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic
                .note(format!("known: {}", self.maps.keys().cloned().collect::<Vec<_>>().join(", ")))
                .help("a map of your own goes into `maps/` beside the recipe, or is named by its path"),
        }
    }
}

/// A map that is found by its name lies in a file of that name.
fn other_name(map: &ArchitectureMap) -> Option<Diagnostic> {
    let stem = map.file.name().rsplit('/').next().and_then(|last| last.split('.').next());
    if stem == Some(map.name.value.as_str()) {
        return None;
    }
    let headline = format!("a map's file is called like it, `{}.yaml`", map.name.value);
    let diagnostic = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
    Some(diagnostic.at(&map.file, map.name.span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_maps_are_without_mistakes() {
        let maps = Maps::built_in().unwrap_or_else(|found| panic!("{found:#?}"));
        assert!(maps.get("llava-to-cogvlm").is_some());
        assert_eq!(
            maps.unknown("lava-to-cogvlm").help.as_deref(),
            Some("did you mean `llava-to-cogvlm`?")
        );
    }
}
