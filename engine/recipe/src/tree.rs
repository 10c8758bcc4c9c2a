//! YAML as a tree in which every key and value knows its place. What the tree means is for the decoders.

use std::ops::Range;
use std::sync::Arc;

use mixdown_diagnostics::{Diagnostic, Source, Span};

/// Which version of YAML decides what a plain scalar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// 1.1, as mergekit reads it: `yes` is true, `010` is eight, `1e-5` is text. A key given twice is a warning.
    Yaml11,
    /// 1.2: `yes` is text, `010` is ten, `1e-5` is a number. A key given twice is an error.
    Yaml12,
}

/// A whole text as a tree.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The text.
    pub source: Source,
    /// How its scalars were read.
    pub dialect: Dialect,
    /// The outermost value.
    pub root: Node,
    /// Keys given twice, in a dialect that forgives them.
    pub warnings: Vec<Diagnostic>,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Its place: of a scalar its first line, of a list or map its first character.
    pub span: Span,
    /// Its bytes in the source; of a list or map the first one only.
    pub(crate) range: Range<usize>,
    /// Number of values in it, itself included.
    pub(crate) size: u32,
    /// Number of levels in it, itself included.
    pub(crate) height: u32,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// A single value.
    Scalar(YamlScalar),
    /// A list.
    Sequence(Vec<Node>),
    /// A map, in order, each key once.
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Node,
}

/// A key of a map. Keys are always text.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its text.
    pub text: Arc<str>,
    /// Its place.
    pub span: Span,
}

/// A single value, typed, with its text as it was written.
#[derive(Clone, Debug)]
pub struct YamlScalar {
    /// Its text, without quotes: `1_000` stays `1_000`.
    pub text: Arc<str>,
    /// What the dialect takes it for.
    pub value: ScalarValue,
    /// How it was written.
    pub style: Style,
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// In quotes, or as a block of text.
    Quoted,
}

/// What a scalar is taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScalarValue {
    /// Nothing, `null`, `~`.
    Null,
    /// A truth value.
    Boolean(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    Text,
}

impl Node {
    /// The scalar, if it is one.
    pub fn scalar(&self) -> Option<&YamlScalar> {
        match &self.kind {
            NodeKind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn items(&self) -> Option<&[Node]> {
        match &self.kind {
            NodeKind::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The entries, if it is a map.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            NodeKind::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a key, if it is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|entry| &*entry.key.text == key).map(|entry| &entry.value)
    }

    /// Whether nothing is written here.
    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.value == ScalarValue::Null)
    }

    /// What it is, for messages: "a list", "the text `x`".
    pub fn describe(&self) -> String {
        match &self.kind {
            NodeKind::Sequence(items) if items.is_empty() => "an empty list".into(),
            NodeKind::Sequence(_) => "a list".into(),
            NodeKind::Mapping(_) => "a map".into(),
            NodeKind::Scalar(scalar) => match scalar.value {
                ScalarValue::Null => "nothing".into(),
                ScalarValue::Boolean(_) => format!("the truth value `{}`", scalar.text),
                ScalarValue::Integer(_) | ScalarValue::Float(_) => {
                    format!("the number {}", scalar.text)
                }
                ScalarValue::Text => format!("the text `{}`", shorten(&scalar.text)),
            },
        }
    }

    /// Place of each character of a scalar's text, and of its end, through quotes, escapes and line
    /// breaks. Where text and source cannot be brought together, the nearest place before.
    pub fn text_places(&self, source: &Source) -> Vec<Span> {
        let Some(scalar) = self.scalar() else { return vec![self.span] };
        let raw = source.text().get(self.range.clone()).unwrap_or_default();
        let mut cursor = self.span;
        cursor.length = 1;
        let mut raw = raw.chars().peekable();
        let mut places = Vec::with_capacity(scalar.text.len() + 1);
        for wanted in scalar.text.chars() {
            // A space of the text may be a line break of the source, and the other way around.
            while let Some(&found) = raw.peek() {
                if found == wanted || (wanted.is_whitespace() && found.is_whitespace()) {
                    break;
                }
                if wanted.is_whitespace() {
                    break;
                }
                raw.next();
                advance(&mut cursor, found);
            }
            places.push(cursor);
            if wanted.is_whitespace() && !raw.peek().is_some_and(|c| c.is_whitespace()) {
                continue;
            }
            if let Some(found) = raw.next() {
                advance(&mut cursor, found);
            }
        }
        places.push(cursor);
        places
    }
}

fn advance(place: &mut Span, over: char) {
    if over == '\n' {
        place.line += 1;
        place.column = 1;
    } else {
        place.column += 1;
    }
}

/// The text, cut where it is too long for a message.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}
