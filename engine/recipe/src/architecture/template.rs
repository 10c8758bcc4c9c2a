//! Names of tensors with their numbers left open: `layers.{i}.self_attn.{q,k,v}_proj.weight`.

/// A name whose numbers are left open. Alternatives are written out: a text with them is several templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Number(char),
}

/// The numbers in a name, each with the letter that stands for it.
pub type Captures = Vec<(char, u64)>;

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// First character, from 0.
    pub start: usize,
    /// The character after the last.
    pub end: usize,
    /// What is wrong.
    pub message: String,
}

/// Templates that one text may stand for.
const MOST: usize = 256;

impl Template {
    /// Reads a text: `{i}` is a number, `{a,b}` either. One template for each choice of alternatives,
    /// the first braces changing slowest.
    pub fn read(text: &str) -> Result<Vec<Self>, TemplateError> {
        let error = |start: usize, end: usize, message: &str| TemplateError {
            start,
            end,
            message: message.to_owned(),
        };
        let chars: Vec<char> = text.chars().collect();
        let mut found = vec![Self { pieces: Vec::new() }];
        let mut at = 0;
        while at < chars.len() {
            let start = at;
            at += 1;
            match chars[start] {
                '{' => {
                    let Some(length) = chars[at..].iter().position(|&c| c == '}') else {
                        return Err(error(start, chars.len(), "this `{` is not closed"));
                    };
                    let inside: String = chars[at..at + length].iter().collect();
                    at += length + 1;
                    if let [letter @ 'a'..='z'] = &chars[start + 1..at - 1] {
                        if found[0].letters().any(|known| known == *letter) {
                            return Err(error(start, at, "the letter stands for two numbers"));
                        }
                        found.iter_mut().for_each(|one| one.pieces.push(Piece::Number(*letter)));
                        continue;
                    }
                    let choices: Vec<&str> = inside.split(',').collect();
                    if choices.len() < 2 || inside.contains('{') {
                        let message = "braces hold one letter, or alternatives with commas";
                        return Err(error(start, at, message));
                    }
                    if found.len() * choices.len() > MOST {
                        return Err(error(start, at, "the text stands for too many names"));
                    }
                    let with = |one: &Self, choice: &str| {
                        let mut one = one.clone();
                        one.text(choice);
                        one
                    };
                    found = found
                        .iter()
                        .flat_map(|one| choices.iter().map(|choice| with(one, choice)))
                        .collect();
                }
                '}' => return Err(error(start, at, "this `}` closes nothing")),
                c if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') => {
                    found.iter_mut().for_each(|one| one.text(c.encode_utf8(&mut [0; 4])));
                }
                _ => return Err(error(start, at, "names of tensors have no such character")),
            }
        }
        match chars.is_empty() {
            true => Err(error(0, 1, "the name is empty")),
            false => Ok(found),
        }
    }

    fn text(&mut self, more: &str) {
        match self.pieces.last_mut() {
            _ if more.is_empty() => {}
            Some(Piece::Text(text)) => text.push_str(more),
            _ => self.pieces.push(Piece::Text(more.to_owned())),
        }
    }

    /// The letters that stand for numbers, in order.
    pub fn letters(&self) -> impl Iterator<Item = char> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Number(letter) => Some(*letter),
            Piece::Text(_) => None,
        })
    }

    /// Whether the name ends so.
    pub fn ends_with(&self, end: &str) -> bool {
        matches!(self.pieces.last(), Some(Piece::Text(text)) if text.ends_with(end))
    }

    /// The same name with another ending.
    pub fn with_end(&self, end: &str, other: &str) -> Option<Self> {
        let mut pieces = self.pieces.clone();
        let Some(Piece::Text(text)) = pieces.last_mut() else { return None };
        *text = format!("{}{other}", text.strip_suffix(end)?);
        Some(Self { pieces })
    }

    /// The numbers in a name that it fits as a whole. Numbers have no leading zeros.
    pub fn captures(&self, name: &str) -> Option<Captures> {
        let mut rest = name;
        let mut found = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Piece::Number(letter) => {
                    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                    let digits = &rest[..end];
                    if digits.starts_with('0') && digits.len() > 1 {
                        return None;
                    }
                    found.push((*letter, digits.parse().ok()?));
                    rest = &rest[end..];
                }
            }
        }
        rest.is_empty().then_some(found)
    }

    /// The name with these numbers.
    pub fn name(&self, numbers: &[(char, u64)]) -> String {
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Number(letter) => match numbers.iter().find(|(known, _)| known == letter) {
                    Some((_, number)) => name.push_str(&number.to_string()),
                    None => name.push_str(&format!("{{{letter}}}")),
                },
            }
        }
        name
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        Template::read(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn alternatives_are_written_out() {
        assert_eq!(texts("a.{i}.b"), ["a.{i}.b"]);
        assert_eq!(texts("{q,k}_proj.{weight,bias}").join(" "), {
            "q_proj.weight q_proj.bias k_proj.weight k_proj.bias"
        });
        assert_eq!(texts("multiway.{0,1}"), ["multiway.0", "multiway.1"]);
    }

    #[test]
    fn numbers_are_captured_and_put_back() {
        let template = &Template::read("layers.{i}.k_proj_{t}.0.weight").unwrap()[0];
        let captures = template.captures("layers.12.k_proj_3.0.weight").unwrap();
        assert_eq!(captures, [('i', 12), ('t', 3)]);
        assert_eq!(template.name(&captures), "layers.12.k_proj_3.0.weight");
        for name in [
            "layers.12.k_proj_3.0.weight2",
            "layers..k_proj_3.0.weight",
            "layers.01.k_proj_3.0.weight",
            "layers.x.k_proj_3.0.weight",
            "layers.99999999999999999999999.k_proj_3.0.weight",
        ] {
            assert_eq!(template.captures(name), None, "{name}");
        }
    }

    #[track_caller]
    fn refuse(text: &str, marks: &str, message: &str) {
        let error = Template::read(text).unwrap_err();
        let shown = format!("{}{}", " ".repeat(error.start), "^".repeat(error.end - error.start));
        assert_eq!((shown.as_str(), error.message.as_str()), (marks, message));
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        refuse("", "^", "the name is empty");
        refuse("a{i", " ^^", "this `{` is not closed");
        refuse("a}", " ^", "this `}` closes nothing");
        refuse("a{name}", " ^^^^^^", "braces hold one letter, or alternatives with commas");
        refuse("{i}.{i}", "    ^^^", "the letter stands for two numbers");
        refuse("a*", " ^", "names of tensors have no such character");
        refuse(&"{a,b}".repeat(9), &format!("{}^^^^^", " ".repeat(40)), {
            "the text stands for too many names"
        });
    }
}
