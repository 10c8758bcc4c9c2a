//! What is done to an answer before it is compared.

use regex_automata::meta::Regex;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Lower case, as Python's `str.lower` on text without special cases.
    Lower,
    /// No white space at the ends.
    Strip,
    /// Each run of white space is one space.
    CollapseSpace,
}

/// The words for steps in a search's settings.
pub const WORDS: [(&str, Step); 3] =
    [("lower", Step::Lower), ("strip", Step::Strip), ("collapse_ws", Step::CollapseSpace)];

/// The part of an answer that counts.
#[derive(Clone, Debug)]
pub struct Extract(Regex);

impl Extract {
    /// The first group of the expression, or all that it matches where it has none.
    pub fn new(expression: &str) -> Result<Self, String> {
        Regex::new(expression).map(Self).map_err(|error| {
            // The cause is what a person can correct.
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        })
    }

    fn apply<'t>(&self, text: &'t str) -> Option<&'t str> {
        let mut captures = self.0.create_captures();
        self.0.captures(text, &mut captures);
        let found = captures.get_group(1).or_else(|| captures.get_group(0))?;
        text.get(found.range())
    }
}

/// All that is done to an answer.
#[derive(Clone, Debug)]
pub struct Normalize {
    /// The part that counts is taken first.
    pub extract: Option<Extract>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

impl Default for Normalize {
    fn default() -> Self {
        Self { extract: None, steps: vec![Step::Lower] }
    }
}

impl Normalize {
    /// The text to compare. An answer in which the expression finds nothing counts as a whole.
    pub fn apply(&self, text: &str) -> String {
        let part = self.extract.as_ref().and_then(|extract| extract.apply(text));
        let mut text = part.unwrap_or(text).to_owned();
        for step in &self.steps {
            text = match step {
                Step::Lower => text.to_lowercase(),
                Step::Strip => text.trim().to_owned(),
                Step::CollapseSpace => collapse(&text),
            };
        }
        text
    }
}

fn collapse(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_space = false;
    for letter in text.chars() {
        if !letter.is_whitespace() {
            out.push(letter);
        } else if !in_space {
            out.push(' ');
        }
        in_space = letter.is_whitespace();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(steps: &[Step], extract: Option<&str>, text: &str, expected: &str) {
        let extract = extract.map(|expression| Extract::new(expression).unwrap());
        assert_eq!(Normalize { extract, steps: steps.to_vec() }.apply(text), expected);
    }

    #[test]
    fn steps_are_done_in_order() {
        assert_eq!(Normalize::default().apply(" Yes "), " yes ", "lower alone trims nothing");
        check(&[], None, " Yes ", " Yes ");
        check(&[Step::Strip], None, "\tYes \n", "Yes");
        check(&[Step::CollapseSpace], None, "a \n\n b ", "a b ");
        check(&[Step::CollapseSpace, Step::Strip, Step::Lower], None, " A  ß ", "a ß");
    }

    #[test]
    fn the_part_that_counts_is_taken() {
        check(&[Step::Lower], Some(r"\(([A-D])\)"), "I say (B), not (C)", "b");
        check(&[], Some(r"\d+"), "it is 42.", "42");
        check(&[], Some(r"\d+"), "none", "none");
        assert!(Extract::new("(").unwrap_err().contains("unclosed"), "it says what is wrong");
    }
}
