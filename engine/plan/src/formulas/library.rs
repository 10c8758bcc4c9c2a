//! The methods a recipe can name: those built in, and those that lie beside it.

use std::collections::BTreeMap;

use mixdown_diagnostics::{Diagnostic, Source, codes, suggest};
use mixdown_recipe::Method;

/// File name and text of each built-in method.
static BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// Methods by name.
#[derive(Clone, Debug, Default)]
pub struct Library {
    methods: BTreeMap<String, Method>,
    /// What is wrong with methods that cannot be used, by name.
    broken: BTreeMap<String, Vec<Diagnostic>>,
}

impl Library {
    /// The methods that are part of mixdown.
    ///
    /// **Errors.** Mistakes in their files, which a test excludes.
    pub fn built_in() -> Result<Self, Vec<Diagnostic>> {
        let mut library = Self::default();
        let files = BUILT_IN
            .iter()
            .map(|(name, text)| Source::new(format!("recipes/methods/{name}"), (*text).to_owned()));
        library.add(files)?;
        Ok(library)
    }

    /// Adds methods from files; one of the same name takes the place of the one before.
    ///
    /// **Errors.** Every mistake in the files, and a method whose name is not its file's.
    pub fn add(&mut self, files: impl IntoIterator<Item = Source>) -> Result<(), Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        for file in files {
            let method = match mixdown_recipe::read_method(&file) {
                Ok(method) => method,
                Err(found) => {
                    diagnostics.extend(found);
                    continue;
                }
            };
            let name = method.name.value.clone();
            let stem = file.name().rsplit('/').next().and_then(|last| last.split('.').next());
            if stem != Some(name.as_str()) {
                let headline = format!("a method file is called like its method, `{name}.yaml`");
                let diagnostic = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
                diagnostics.push(diagnostic.at(&file, method.name.span));
                continue;
            }
            diagnostics.extend(crate::formulas::check::check_method(&method));
            self.methods.insert(name, method);
        }
        if mixdown_diagnostics::any_error(&diagnostics) { Err(diagnostics) } else { Ok(()) }
    }

    /// Adds a method from a file beside a recipe. Its mistakes count where a recipe uses it.
    pub fn add_beside(&mut self, file: &Source) {
        let stem = file.name().rsplit('/').next().and_then(|last| last.split('.').next());
        let stem = stem.unwrap_or_default().to_owned();
        match self.add([file.clone()]) {
            Ok(()) => {
                self.broken.remove(&stem);
            }
            Err(found) => {
                self.methods.remove(&stem);
                self.broken.insert(stem, found);
            }
        }
    }

    /// What is wrong with the method of this name, if it is there and cannot be used.
    pub fn mistakes(&self, name: &str) -> Option<&[Diagnostic]> {
        self.broken.get(name).map(Vec::as_slice)
    }

    /// Names and mistakes of the methods that cannot be used.
    pub fn broken(&self) -> impl Iterator<Item = (&str, &[Diagnostic])> {
        self.broken.iter().map(|(name, found)| (name.as_str(), found.as_slice()))
    }

    /// The method of this name.
    pub fn get(&self, name: &str) -> Option<&Method> {
        self.methods.get(name)
    }

    /// All methods, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Method> {
        self.methods.values()
    }

    /// Says that there is no method of this name, and which is nearest.
    pub fn unknown(&self, name: &str) -> Diagnostic {
        let diagnostic =
            Diagnostic::error(codes::UNKNOWN_METHOD, format!("there is no method `{name}`"));
        match suggest::nearest(name, self.methods.keys()) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic
                .note(format!(
                    "known: {}",
                    self.methods.keys().cloned().collect::<Vec<_>>().join(", ")
                ))
                .help("a method of your own goes into `methods/` beside the recipe"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_methods_are_without_mistakes() {
        let library = Library::built_in().unwrap_or_else(|found| panic!("{found:#?}"));
        for name in [
            "average",
            "dare_linear",
            "dare_ties",
            "linear",
            "passthrough",
            "slerp",
            "task_arithmetic",
            "ties",
        ] {
            assert!(library.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_misspelled_method_is_recognized() {
        let library = Library::built_in().unwrap();
        assert_eq!(library.unknown("tiez").help.as_deref(), Some("did you mean `ties`?"));
    }
}
