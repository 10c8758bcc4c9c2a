//! Names of a map's source tensors: text with parts that the target's name gives.

use std::fmt;

use crate::pattern::PatternError;

/// A name with parts left open: `language_model.layers.{i}.{**rest}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Part(String),
}

/// Named parts of a name, as a pattern captures them.
pub type Parts<'p> = Vec<(&'p str, String)>;

impl NameTemplate {
    /// Reads a name; what `{i}`, `{name}`, `{**name}` or `<i>` stand for is left open. Alternatives
    /// after a colon have been chosen where the name is captured, and say nothing here.
    ///
    /// **Errors.** Brackets that are not closed or name nothing, and no text at all.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let error = |start: usize, end: usize, message: &str, help: &str| PatternError {
            start,
            end,
            message: message.to_owned(),
            help: Some(help.to_owned()),
        };
        let chars: Vec<char> = text.chars().collect();
        if chars.is_empty() {
            return Err(error(0, 1, "the name is empty", "write the name of a tensor"));
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while at < chars.len() {
            let start = at;
            at += 1;
            let close = match chars[start] {
                '{' => '}',
                '<' => '>',
                c @ ('}' | '>') => {
                    let message = format!("this `{c}` closes nothing");
                    return Err(error(start, at, &message, "remove it"));
                }
                '*' => {
                    let help = "write `{**name}` here and on the other side of the rule";
                    return Err(error(start, at, "a name has no wildcards", help));
                }
                c => {
                    literal.push(c);
                    continue;
                }
            };
            let Some(length) = chars[at..].iter().position(|&c| c == close) else {
                let message = format!("this `{}` is not closed", chars[start]);
                let help = format!("add `{close}`");
                return Err(error(start, chars.len(), &message, &help));
            };
            let inside: String = chars[at..at + length].iter().collect();
            at += length + 1;
            let name = inside.strip_prefix("**").unwrap_or(&inside);
            let name = name.split(':').next().unwrap_or_default();
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name {
                let help = "name the part, here and in `to`: `{i}`, `{name}` or `{**name}`";
                return Err(error(start, at, "these brackets name no part", help));
            }
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Part(name.to_owned()));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }

    /// The names of the parts that are open.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Part(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The name with these parts; a part that is not among them stays open.
    pub fn with(&self, parts: &Parts<'_>) -> String {
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Part(part) => match parts.iter().find(|(known, _)| known == part) {
                    Some((_, text)) => name.push_str(text),
                    None => name.push_str(&format!("{{{part}}}")),
                },
            }
        }
        name
    }
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with(&Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_in() {
        let name = NameTemplate::new("lm.layers.<i>.{p:q|k}_proj.{**rest}").unwrap();
        assert_eq!(name.parts().collect::<Vec<_>>(), ["i", "p", "rest"]);
        let parts = vec![("i", "3".to_owned()), ("p", "q".to_owned()), ("rest", "a.b".to_owned())];
        assert_eq!(name.with(&parts), "lm.layers.3.q_proj.a.b");
        assert_eq!(name.to_string(), "lm.layers.{i}.{p}_proj.{rest}");
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        for (text, start, end) in [
            ("", 0, 1),
            ("a.{i", 2, 4),
            ("a}", 1, 2),
            ("a.*", 2, 3),
            ("a.{**}", 2, 6),
            ("{}", 0, 2),
        ] {
            let error = NameTemplate::new(text).unwrap_err();
            assert_eq!((error.start, error.end), (start, end), "{text}: {}", error.message);
        }
    }
}
