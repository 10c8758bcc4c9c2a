//! Files of one JSON object per line, with places for what is wrong in them.

use std::path::Path;

use mixdown_diagnostics::{Code, Diagnostic, Source, Span, codes};
use mixdown_files::read_given;
use serde_json::{Map, Value};

/// Mistakes of one file that are told.
pub const MOST_MESSAGES: usize = 20;

/// Longest file of prompts or answers: texts and numbers, while media are files of their own.
pub const LONGEST: u64 = 1 << 30;

const HELP: &str = "write one JSON object on each line, as `{\"id\": \"a\", …}`";

/// A line that holds an object.
#[derive(Debug)]
pub struct Line {
    /// From 1.
    pub number: u32,
    /// Its keys.
    pub object: Map<String, Value>,
}

/// A file of lines while it is read.
#[derive(Debug)]
pub struct Lines {
    /// The text.
    pub source: Source,
    /// What is wrong so far.
    pub found: Vec<Diagnostic>,
    code: Code,
}

impl Lines {
    /// Reads a file.
    pub fn open(path: &Path, code: Code) -> Result<Self, Box<Diagnostic>> {
        let name = path.to_string_lossy().into_owned();
        let bytes = read_given(path, LONGEST).map_err(|error| {
            Diagnostic::error(codes::UNREADABLE, format!("the file cannot be read: {error}"))
                .in_file(&name)
        })?;
        Self::new(&name, bytes, code)
    }

    /// The lines of a text that was read from `name`.
    pub fn new(name: &str, bytes: Vec<u8>, code: Code) -> Result<Self, Box<Diagnostic>> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
            Diagnostic::error(code, format!("line {line} is not UTF-8"))
                .at_byte(name, at as u64)
                .help("write the file as UTF-8")
        })?;
        Ok(Self { source: Source::new(name, text), found: Vec::new(), code })
    }

    /// The objects, each with its line. Empty lines are passed over; what is no object is reported.
    pub fn objects(&mut self) -> Vec<Line> {
        let source = self.source.clone();
        let mut lines = Vec::new();
        for (position, text) in source.text().lines().enumerate() {
            let number = u32::try_from(position + 1).unwrap_or(u32::MAX);
            if text.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(text) {
                Ok(Value::Object(object)) => lines.push(Line { number, object }),
                Ok(_) => {
                    let error = Diagnostic::error(self.code, "the line is not a JSON object");
                    self.explain(number, error.help(HELP));
                }
                Err(error) => {
                    let before = text.get(..error.column().saturating_sub(1)).unwrap_or(text);
                    let column = before.chars().count() as u32 + 1;
                    // serde_json ends with the place, which is ours to tell.
                    let words = error.to_string();
                    let words = words.split(" at line ").next().unwrap_or_default();
                    let headline = format!("the line is not JSON: {words}");
                    let span = Span { line: number, column, length: 1 };
                    let error = Diagnostic::error(self.code, headline).help(HELP);
                    self.keep(error.at(&self.source, span));
                }
            }
        }
        lines
    }

    /// Reports what is wrong with a line.
    pub fn report(&mut self, line: u32, headline: impl Into<String>) {
        let diagnostic = Diagnostic::error(self.code, headline);
        self.explain(line, diagnostic);
    }

    /// Reports what is wrong with a line, with more words than a headline.
    pub fn explain(&mut self, line: u32, diagnostic: Diagnostic) {
        let length = self.source.line(line).map_or(1, |text| text.chars().count().clamp(1, 60));
        let span = Span { line, column: 1, length: length as u32 };
        self.keep(diagnostic.at(&self.source.clone(), span));
    }

    /// Reports what is wrong with the file as a whole.
    pub fn keep(&mut self, diagnostic: Diagnostic) {
        if self.found.len() < MOST_MESSAGES {
            self.found.push(diagnostic);
        }
    }

    /// The text of a key, reported where it is missing or something else.
    pub fn text<'o>(&mut self, line: &'o Line, key: &str) -> Option<&'o str> {
        match line.object.get(key) {
            Some(Value::String(text)) => Some(text),
            Some(_) => {
                self.report(line.number, format!("`{key}` must be text"));
                None
            }
            None => {
                self.report(line.number, format!("the line has no `{key}`"));
                None
            }
        }
    }
}

/// JSON with sorted keys and no spaces: equal values give equal text.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let entries: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{}:{}", Value::from(key.as_str()), canonical(&map[key])))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}
