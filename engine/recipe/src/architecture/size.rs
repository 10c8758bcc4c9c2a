//! Sizes of axes as formulas over configuration keys: `num_key_value_heads * head_dim`.

/// A size.
#[derive(Clone, Debug, PartialEq)]
pub enum Size {
    /// Not known from the configuration.
    Any,
    /// A number.
    Number(u64),
    /// A named size, or a key of the configuration with its path.
    Name(String),
    /// The first, or the second where the first has no value.
    Or(Box<Size>, Box<Size>),
    /// Both with `+`, `-`, `*` or `/` between them.
    Both(char, Box<Size>, Box<Size>),
}

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeError {
    /// First character, from 0.
    pub start: usize,
    /// The character after the last.
    pub end: usize,
    /// What is wrong.
    pub message: String,
}

/// Parentheses within parentheses, and operators in a row.
const MOST_LEVELS: usize = 32;

impl Size {
    /// Reads a formula of numbers, names, `+ - * /`, `or` and parentheses.
    pub fn new(text: &str) -> Result<Self, SizeError> {
        let words = words(text)?;
        let end = text.chars().count();
        let mut reader = Reader { words: &words, at: 0, end };
        let size = reader.alternatives(0)?;
        match reader.words.get(reader.at) {
            None => Ok(size),
            Some((start, word)) => Err(SizeError {
                start: *start,
                end: start + word.chars().count(),
                message: format!("`{word}` is out of place"),
            }),
        }
    }

    /// Its value, where `known` gives that of each name; none if a name has none, or a division leaves
    /// a remainder.
    pub fn value(&self, known: &impl Fn(&str) -> Option<u64>) -> Option<u64> {
        match self {
            Self::Any => None,
            Self::Number(value) => Some(*value),
            Self::Name(name) => known(name),
            Self::Or(first, second) => first.value(known).or_else(|| second.value(known)),
            Self::Both(operator, left, right) => {
                let (left, right) = (left.value(known)?, right.value(known)?);
                match operator {
                    '+' => left.checked_add(right),
                    '-' => left.checked_sub(right),
                    '*' => left.checked_mul(right),
                    _ => left.checked_div(right).filter(|whole| whole * right == left),
                }
            }
        }
    }

    /// Calls with each name in it.
    pub fn for_each_name(&self, call: &mut impl FnMut(&str)) {
        match self {
            Self::Any | Self::Number(_) => {}
            Self::Name(name) => call(name),
            Self::Or(left, right) | Self::Both(_, left, right) => {
                left.for_each_name(call);
                right.for_each_name(call);
            }
        }
    }
}

/// The words of a formula, each with its first character.
fn words(text: &str) -> Result<Vec<(usize, String)>, SizeError> {
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (at, c) in text.chars().enumerate() {
        let is_letter = c.is_ascii_alphanumeric() || c == '_' || c == '.';
        match words.last_mut() {
            Some((_, word)) if open && is_letter => word.push(c),
            _ if is_letter || "+-*/()".contains(c) => words.push((at, c.to_string())),
            _ if c == ' ' => {}
            _ => {
                let message = format!("`{c}` has no meaning in a size");
                return Err(SizeError { start: at, end: at + 1, message });
            }
        }
        open = is_letter;
    }
    Ok(words)
}

struct Reader<'a> {
    words: &'a [(usize, String)],
    at: usize,
    end: usize,
}

impl Reader<'_> {
    fn next_is(&mut self, wanted: &[&str]) -> Option<char> {
        let (_, word) = self.words.get(self.at)?;
        let found = wanted.iter().find(|wanted| *wanted == word)?;
        self.at += 1;
        found.chars().next()
    }

    fn alternatives(&mut self, level: usize) -> Result<Size, SizeError> {
        let first = self.sum(level)?;
        if self.next_is(&["or"]).is_none() {
            return Ok(first);
        }
        if level >= MOST_LEVELS {
            return Err(self.error("the size is nested too deeply"));
        }
        let second = self.alternatives(level + 1)?;
        Ok(Size::Or(Box::new(first), Box::new(second)))
    }

    fn sum(&mut self, level: usize) -> Result<Size, SizeError> {
        let mut sum = self.product(level)?;
        while let Some(operator) = self.next_is(&["+", "-"]) {
            let right = self.product(level)?;
            sum = Size::Both(operator, Box::new(sum), Box::new(right));
        }
        Ok(sum)
    }

    fn product(&mut self, level: usize) -> Result<Size, SizeError> {
        let mut product = self.one(level)?;
        while let Some(operator) = self.next_is(&["*", "/"]) {
            let right = self.one(level)?;
            product = Size::Both(operator, Box::new(product), Box::new(right));
        }
        Ok(product)
    }

    fn one(&mut self, level: usize) -> Result<Size, SizeError> {
        if self.next_is(&["("]).is_some() {
            if level >= MOST_LEVELS {
                return Err(self.error("the size is nested too deeply"));
            }
            let inside = self.alternatives(level + 1)?;
            return match self.next_is(&[")"]) {
                Some(_) => Ok(inside),
                None => Err(self.error("a `)` is missing")),
            };
        }
        let Some((start, word)) = self.words.get(self.at) else {
            return Err(self.error("the size ends too early"));
        };
        self.at += 1;
        if word == "any" {
            return Ok(Size::Any);
        }
        if let Ok(value) = word.parse() {
            return Ok(Size::Number(value));
        }
        let sound = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if word != "or" && word.split('.').all(sound) {
            return Ok(Size::Name(word.clone()));
        }
        Err(SizeError {
            start: *start,
            end: start + word.chars().count(),
            message: format!("`{word}` is neither a number nor a name"),
        })
    }

    fn error(&self, message: &str) -> SizeError {
        let (start, end) = match self.words.get(self.at) {
            Some((start, word)) => (*start, start + word.chars().count()),
            None => (self.end, self.end + 1),
        };
        SizeError { start, end, message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        let known = |name: &str| match name {
            "heads" => Some(4),
            "hidden" => Some(64),
            "vision.depth" => Some(2),
            _ => None,
        };
        assert_eq!(Size::new(text).unwrap().value(&known), expected, "{text}");
    }

    #[test]
    fn formulas_have_values() {
        check("7", Some(7));
        check("hidden / heads", Some(16));
        check("head_dim or hidden / heads", Some(16));
        check("heads * (head_dim or 5)", Some(20));
        check("hidden - heads * 2 + 1", Some(57));
        check("vision.depth", Some(2));
        check("any", None);
        check("any or 3", Some(3));
        check("hidden / 3", None);
        check("hidden / (heads - 4)", None);
        check("heads - hidden", None);
        check("other * 2", None);
    }

    #[track_caller]
    fn refuse(text: &str, marks: &str, message: &str) {
        let error = Size::new(text).unwrap_err();
        let shown = format!("{}{}", " ".repeat(error.start), "^".repeat(error.end - error.start));
        assert_eq!((shown.as_str(), error.message.as_str()), (marks, message));
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        refuse("", "^", "the size ends too early");
        refuse("a *", "   ^", "the size ends too early");
        refuse("a b", "  ^", "`b` is out of place");
        refuse("a % b", "  ^", "`%` has no meaning in a size");
        refuse("2x", "^^", "`2x` is neither a number nor a name");
        refuse("a..b", "^^^^", "`a..b` is neither a number nor a name");
        refuse("(a", "  ^", "a `)` is missing");
        let deep = format!("{}a", "(".repeat(60));
        assert_eq!(Size::new(&deep).unwrap_err().message, "the size is nested too deeply");
    }
}
