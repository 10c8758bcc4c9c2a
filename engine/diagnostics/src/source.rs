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

    /// The name it is shown by: a path as the user wrote it. Empty where nobody wrote the text, into which
    /// messages then do not point.
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

    /// What is marked, if it lies in the text.
    pub fn marked(&self, span: Span) -> Option<&str> {
        let line = self.line(span.line)?;
        let first = (span.column as usize).checked_sub(1)?;
        let mut places = line.char_indices().map(|(at, _)| at).chain([line.len()]).skip(first);
        let start = places.next()?;
        let end = match span.length {
            0 => start,
            length => places.nth(length as usize - 1)?,
        };
        line.get(start..end)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_is_cut_by_characters() {
        let source = Source::new("file", "first\nγ: rank=größe");
        let marked = |line, column, length| source.marked(Span { line, column, length });
        assert_eq!(marked(2, 4, 4), Some("rank"));
        assert_eq!(marked(2, 9, 5), Some("größe"));
        assert_eq!(marked(1, 1, 0), Some(""));
        assert_eq!(marked(2, 9, 6), None);
        assert_eq!(marked(3, 1, 1), None);
        assert_eq!(marked(0, 0, 0), None);
    }
}
