//! The keys of `rank_pattern` and `alpha_pattern`: which modules they mean.

/// A pattern for names of modules.
///
/// To peft a key is a regular expression for the end of a name, after a dot or the start. Names
/// of modules and their ends are all that is known to be written there, so those are read, with
/// `^`, `$` and `\.` around them, and every other use of a regular expression is refused: a rank
/// or a scale must not be taken from the wrong pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModulePattern {
    text: String,
    /// Whether it means the whole name, and not its end too.
    whole: bool,
}

impl ModulePattern {
    /// Reads a key.
    ///
    /// **Errors.** The first character, in its place, that only a regular expression has.
    pub fn parse(key: &str) -> Result<Self, Option<char>> {
        let (whole, rest) = match key.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, key),
        };
        let rest = rest.strip_suffix('$').unwrap_or(rest);
        let mut text = String::new();
        let mut letters = rest.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => match letters.next() {
                    Some(escaped @ ('.' | '-' | '_')) => text.push(escaped),
                    _ => return Err(Some('\\')),
                },
                '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$' => {
                    return Err(Some(letter));
                }
                letter => text.push(letter),
            }
        }
        if text.is_empty() { Err(None) } else { Ok(Self { text, whole }) }
    }

    /// Whether it means this module.
    pub fn matches(&self, module: &str) -> bool {
        match module.strip_suffix(self.text.as_str()) {
            Some("") => true,
            Some(before) => !self.whole && before.ends_with('.'),
            None => false,
        }
    }

    /// The name, or end of a name, that it means.
    pub fn text(&self) -> &str {
        &self.text
    }
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

    #[test]
    fn regular_expressions_are_not_guessed_at() {
        let cases = [
            (r"layers.\d+.q", '\\'),
            ("q|k", '|'),
            (".*q_proj", '*'),
            ("layers.[01].q", '['),
            ("(q)", '('),
        ];
        for (key, letter) in cases {
            assert_eq!(ModulePattern::parse(key), Err(Some(letter)), "{key}");
        }
        for key in ["", "^", "$", "^$"] {
            assert_eq!(ModulePattern::parse(key), Err(None), "{key}");
        }
    }
}
