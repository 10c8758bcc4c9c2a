//! What mixdown tells a person when something is wrong: facts here, words for the terminal in [`render`].
//!
//! A [`Diagnostic`] answers four questions in order: what is wrong, where, what was found against
//! what was expected, and what to do.

pub mod codes;
mod line;
pub mod render;
mod source;
pub mod suggest;

pub use codes::Code;
pub use line::{escape, is_dangerous};
pub use source::{Source, Span};

/// Whether the work can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The user can act on it and may rightly ignore it.
    Warning,
    /// The work stops before anything is written.
    Error,
}

/// Where a diagnostic points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A place in a text that is at hand: the line is shown with a mark under it.
    Text(Source, Span),
    /// A file as a whole.
    File(String),
    /// A byte of a binary file.
    Byte(String, u64),
}

/// One message: a headline, a place, facts in aligned pairs, notes, and at most one help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Listed in [`codes`].
    pub code: Code,
    /// One sentence, lower case, no full stop, names in backticks.
    pub headline: String,
    /// Where it is.
    pub place: Option<Place>,
    /// Both sides of a disagreement, aligned when shown: `("base", "[3, 4] bf16, ./a.safetensors")`.
    pub facts: Vec<(String, String)>,
    /// What else helps to understand.
    pub notes: Vec<String>,
    /// One concrete action, with the text to type.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error with this headline.
    pub fn error(code: Code, headline: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            headline: headline.into(),
            place: None,
            facts: Vec::new(),
            notes: Vec::new(),
            help: None,
        }
    }

    /// A warning with this headline.
    pub fn warning(code: Code, headline: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, headline) }
    }

    /// Points to a place in a text.
    pub fn at(mut self, source: &Source, span: Span) -> Self {
        if !source.name().is_empty() {
            self.place = Some(Place::Text(source.clone(), span));
        }
        self
    }

    /// Points to a file as a whole.
    pub fn in_file(mut self, path: impl Into<String>) -> Self {
        let path = path.into();
        if !path.is_empty() {
            self.place = Some(Place::File(path));
        }
        self
    }

    /// Points to a byte of a binary file.
    pub fn at_byte(mut self, path: impl Into<String>, offset: u64) -> Self {
        self.place = Some(Place::Byte(path.into(), offset));
        self
    }

    /// Adds a labelled fact.
    pub fn fact(mut self, label: impl Into<String>, text: impl Into<String>) -> Self {
        self.facts.push((label.into(), text.into()));
        self
    }

    /// Adds a note.
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Says what to do.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// Whether the work stops.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Whether any of these stops the work.
pub fn any_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(Diagnostic::is_error)
}

/// Puts diagnostics in the order of their places, text by text in the order of the texts' names, and
/// drops repetitions. Those without a place come last.
pub fn sort(diagnostics: &mut Vec<Diagnostic>) {
    fn key(diagnostic: &Diagnostic) -> (bool, &str, u64, u32) {
        match &diagnostic.place {
            Some(Place::Text(source, span)) => {
                (false, source.name(), u64::from(span.line), span.column)
            }
            Some(Place::File(path)) => (false, path, 0, 0),
            Some(Place::Byte(path, offset)) => (false, path, *offset, 0),
            None => (true, "", 0, 0),
        }
    }
    diagnostics.sort_by(|a, b| key(a).cmp(&key(b)));
    let mut kept: Vec<Diagnostic> = Vec::with_capacity(diagnostics.len());
    for diagnostic in diagnostics.drain(..) {
        // Repetitions have one place, so that only the run of that place needs a look.
        let repeated = kept
            .iter()
            .rev()
            .take_while(|other| key(other) == key(&diagnostic))
            .any(|other| *other == diagnostic);
        if !repeated {
            kept.push(diagnostic);
        }
    }
    *diagnostics = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_are_sorted_by_place_without_repetitions() {
        let source = Source::new("a.yaml", "x: 1\ny: 2\n");
        let at = |line, column| {
            Diagnostic::error(codes::WRONG_TYPE, "wrong")
                .at(&source, Span { line, column, length: 1 })
        };
        let bare = Diagnostic::error(codes::MISSING_KEY, "missing");
        let mut all = vec![bare.clone(), at(2, 4), at(1, 4), at(2, 1), at(1, 4)];
        sort(&mut all);
        assert_eq!(all, [at(1, 4), at(2, 1), at(2, 4), bare]);
    }

    #[test]
    fn codes_are_unique_and_sorted() {
        let ids: Vec<&str> = codes::ALL.iter().map(|code| &code.id[1..]).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(ids, sorted);
    }
}
