//! What mixdown tells a person when something is wrong: facts here, words for the terminal in [`render`].
//!
//! A [`Diagnostic`] answers four questions in order: what is wrong, where, what was found against
//! what was expected, and what to do.

pub mod codes;
pub mod render;
mod source;
pub mod suggest;

pub use codes::Code;
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
        self.place = Some(Place::Text(source.clone(), span));
        self
    }

    /// Points to a file as a whole.
    pub fn in_file(mut self, path: impl Into<String>) -> Self {
        self.place = Some(Place::File(path.into()));
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
