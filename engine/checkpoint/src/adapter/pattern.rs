//! The keys of `rank_pattern` and `alpha_pattern`: which modules they mean.

use regex_automata::meta::{BuildError, Config, Regex};

/// Bytes that a compiled pattern may take; a key is a short text.
const LARGEST: usize = 1 << 20;

/// A pattern for names of modules.
///
/// To peft a key is a regular expression for the end of a name, after a dot or from the start.
#[derive(Clone, Debug)]
pub struct ModulePattern {
    text: String,
    meaning: Regex,
}

impl PartialEq for ModulePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl ModulePattern {
    /// Reads a key.
    ///
    /// **Errors.** Why it is no regular expression that can be followed, in words: Python knows looks ahead and
    /// behind, which need more than one way through a name.
    pub fn parse(key: &str) -> Result<Self, String> {
        if key.is_empty() {
            return Err("it is empty".to_owned());
        }
        // Alone first, so that brackets of the key cannot close those around it.
        build(key)?;
        // `$` of Python is before a line's end, which no name has; `match` begins at the start.
        let whole = format!(r"\A(?:.*\.)?(?:{key})\z");
        Ok(Self { text: key.to_owned(), meaning: build(&whole)? })
    }

    /// Whether it means this module.
    pub fn matches(&self, module: &str) -> bool {
        self.meaning.is_match(module)
    }

    /// The key.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn build(pattern: &str) -> Result<Regex, String> {
    let config = Config::new().nfa_size_limit(Some(LARGEST));
    let why = |error: BuildError| {
        let text = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
        // The last line says what is wrong; those above show the pattern.
        let last = text.lines().last().unwrap_or_default();
        last.trim_start_matches("error: ").to_owned()
    };
    Regex::builder().configure(config).build(pattern).map_err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ends_of_names() {
        let cases = [
            ("q_proj", "model.layers.0.q_proj", true),
            ("q_proj", "q_proj", true),
            ("q_proj", "model.layers.0.xq_proj", false),
            ("layers.1.q_proj", "model.layers.1.q_proj", true),
            ("layers.1.q_proj", "model.layers.11.q_proj", false),
            ("1.q_proj", "model.layers.11.q_proj", false),
            ("^layers.1", "layers.1", true),
            ("^layers.1", "model.layers.1", false),
            (r"layers\.1$", "model.layers.1", true),
            ("model.layers.0.q_proj", "layers.0.q_proj", false),
        ];
        for (key, module, matches) in cases {
            assert_eq!(
                ModulePattern::parse(key).unwrap().matches(module),
                matches,
                "{key} {module}"
            );
        }
    }

    /// As `re.match(r"(.*\.)?(KEY)$", module)` in Python 3.12.
    #[test]
    fn regular_expressions_mean_what_they_mean_to_peft() {
        let cases = [
            (r"layers\.\d+\.q", "model.layers.12.q", true),
            (r"layers\.[01]\.q", "model.layers.2.q", false),
            (r".*\.(0|1)\..*q_proj", "model.layers.1.self_attn.q_proj", true),
            ("q|k", "layers.0.k", true),
            ("q|k", "layers.0.kk", false),
            ("layers.1.q", "layersX1.q", true),
        ];
        for (key, module, matches) in cases {
            assert_eq!(
                ModulePattern::parse(key).unwrap().matches(module),
                matches,
                "{key} {module}"
            );
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for key in ["", "(q", "q)|(k", "(?!q)k", r"(q)\1"] {
            assert!(!ModulePattern::parse(key).unwrap_err().is_empty(), "{key}");
        }
        assert!(ModulePattern::parse("(?:a{1000}){1000}").is_err());
    }
}
