//! Texts that diagnostics point into, and places in them.

use std::sync::Arc;

/// A text with the name it is shown by; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source(Arc<(String, String)>);

impl Source {
    /// A text read from `name`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self(Arc::new((name.into(), text.into())))
    }

    /// The name it is shown by: a path as the user wrote it.
    pub fn name(&self) -> &str {
        &self.0.0
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.0.1
    }

    /// Line `line` (from 1), without its end.
    pub fn line(&self, line: u32) -> Option<&str> {
        self.text().lines().nth((line as usize).checked_sub(1)?)
    }
}

/// A place in a text: line and column from 1, both in characters, and the length of what is marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Characters marked, on that line.
    pub length: u32,
}
