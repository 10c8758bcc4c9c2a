//! YAML text to a tree with places. The only file that names the YAML library.
//!
//! The library gives events; anchors, aliases, merge keys, types and limits are handled here, so that
//! every value keeps its place and no text can unfold into more than the limits allow.

mod scalar;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Tag};
use mixdown_diagnostics::{Diagnostic, Source, Span, codes};

use crate::tree::{Dialect, Entry, Key, Node, NodeKind, ScalarValue, Style, Tree, YamlScalar};

/// Bytes of the largest text that is read; the largest recipes people wrote are below 1 MB.
const MOST_BYTES: usize = 4 << 20;
/// Values of a tree after aliases are replaced. A recipe of 5000 models has about 40 000.
const MOST_VALUES: u32 = 250_000;
/// Levels of a tree. The recipe with the most levels has about ten.
const MOST_LEVELS: u32 = 64;
/// Keys given twice that are reported.
const MOST_MESSAGES: usize = 200;
/// The key that makes a recipe strict.
const STRICT_KEY: &str = "mixdown";

/// Reads a text. Without a dialect it is 1.2 if the outermost map has the key `mixdown`, else 1.1.
pub fn parse(source: &Source, dialect: Option<Dialect>) -> Result<Tree, Vec<Diagnostic>> {
    if source.text().len() > MOST_BYTES {
        let found = format!("{} bytes", source.text().len());
        let error = Diagnostic::error(codes::YAML_TOO_LARGE, "the file is too large for a recipe")
            .in_file(source.name())
            .fact("found", found)
            .fact("limit", format!("{MOST_BYTES} bytes"));
        return Err(vec![error]);
    }
    let mut root = Builder::new(source).build().map_err(|error| vec![*error])?;
    let dialect = dialect.unwrap_or_else(|| match root.get(STRICT_KEY) {
        Some(_) => Dialect::Yaml12,
        None => Dialect::Yaml11,
    });
    let mut finisher = Finisher { source, dialect, diagnostics: Vec::new() };
    finisher.finish(&mut root);
    let mut diagnostics = finisher.diagnostics;
    mixdown_diagnostics::sort(&mut diagnostics);
    if mixdown_diagnostics::any_error(&diagnostics) {
        return Err(diagnostics);
    }
    Ok(Tree { source: source.clone(), dialect, root, warnings: diagnostics })
}

type Failure = Box<Diagnostic>;

/// Gathers events into nodes whose scalars are not typed yet.
struct Builder<'a> {
    source: &'a Source,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    values: u32,
    root: Option<Node>,
}

/// A list or map whose end was not seen yet.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<Key>,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Source) -> Self {
        Self { source, open: Vec::new(), anchors: HashMap::new(), values: 0, root: None }
    }

    fn build(mut self) -> Result<Node, Failure> {
        for event in Parser::new_from_str(self.source.text()) {
            let (event, span) = event.map_err(|error| self.not_yaml(&error))?;
            self.take(event, span)?;
        }
        self.root.ok_or_else(|| {
            Box::new(
                Diagnostic::error(codes::NOT_YAML, "the file is empty").in_file(self.source.name()),
            )
        })
    }

    fn take(&mut self, event: Event<'_>, span: granit_parser::Span) -> Result<(), Failure> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(&text, style, tag.as_deref(), span)?;
                self.finished(node, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.start(NodeKind::Sequence(Vec::new()), anchor, tag.as_deref(), "seq", span)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.start(NodeKind::Mapping(Vec::new()), anchor, tag.as_deref(), "map", span)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                self.finished(open.node, open.anchor)
            }
            Event::Alias(id) => self.alias(id, span),
            Event::DocumentStart(..) if self.root.is_some() => Err(Box::new(
                Diagnostic::error(codes::UNSUPPORTED, "the file holds more than one document")
                    .at(self.source, place(&span))
                    .note("one file is one recipe; another recipe can be a model of a strict one")
                    .help("put each document into a file of its own"),
            )),
            _ => Ok(()),
        }
    }

    fn not_yaml(&self, error: &granit_parser::ScanError) -> Failure {
        let marker = error.marker();
        let span =
            Span { line: number(marker.line()), column: number(marker.col()) + 1, length: 1 };
        if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
            return self.too_deep(span);
        }
        let diagnostic =
            Diagnostic::error(codes::NOT_YAML, "this is not YAML").at(self.source, span);
        Box::new(diagnostic.note(error.info()))
    }

    fn start(
        &mut self,
        kind: NodeKind,
        anchor: usize,
        tag: Option<&Tag>,
        name: &str,
        span: granit_parser::Span,
    ) -> Result<(), Failure> {
        self.check_tag(tag, &[name], &span)?;
        let node = Node { kind, span: place(&span), range: range(&span), size: 1, height: 1 };
        self.count(1, &node.span)?;
        // An alias inside the value it stands for would never end; it must not find an older anchor.
        self.anchors.remove(&anchor);
        self.open.push(Open { node, anchor, key: None });
        self.check_levels(0, &place(&span))
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: granit_parser::Span,
    ) -> Result<Node, Failure> {
        self.check_tag(tag, &["str", "int", "float", "bool", "null"], &span)?;
        self.count(1, &place(&span))?;
        let quoted = style != ScalarStyle::Plain
            || tag.is_some_and(|tag| tag.suffix() == "str" || is_plain_mark(tag));
        // The library writes `~` where nothing is written.
        let text = if range(&span).is_empty() && style == ScalarStyle::Plain { "" } else { text };
        let scalar = YamlScalar {
            text: Arc::from(text),
            value: ScalarValue::Text,
            style: if quoted { Style::Quoted } else { Style::Plain },
        };
        let kind = NodeKind::Scalar(scalar);
        let span = (place_in(self.source, &span), range(&span));
        Ok(Node { kind, span: span.0, range: span.1, size: 1, height: 1 })
    }

    fn alias(&mut self, id: usize, span: granit_parser::Span) -> Result<(), Failure> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(Box::new(
                Diagnostic::error(
                    codes::NOT_YAML,
                    "this alias stands inside the value it refers to",
                )
                .at(self.source, place_in(self.source, &span)),
            ));
        };
        let (size, height, node) = (node.size, node.height, node.clone());
        self.count(size, &place(&span))?;
        self.check_levels(height, &place(&span))?;
        self.finished(node, 0)
    }

    /// Puts a finished value where it belongs.
    fn finished(&mut self, node: Node, anchor: usize) -> Result<(), Failure> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let (size, height) = (node.size, node.height);
        match &mut open.node.kind {
            NodeKind::Sequence(items) => items.push(node),
            NodeKind::Mapping(entries) => match open.key.take() {
                Some(key) => entries.push(Entry { key, value: node }),
                None => {
                    let Some(scalar) = node.scalar() else {
                        return Err(Box::new(
                            Diagnostic::error(
                                codes::WRONG_TYPE,
                                format!("a key must be a word, found {}", node.describe()),
                            )
                            .at(self.source, node.span),
                        ));
                    };
                    let text = scalar.text.clone();
                    // Only a plain `<<` merges.
                    let text = match (&*text, scalar.style) {
                        ("<<", Style::Quoted) => Arc::from("\"<<\""),
                        _ => text,
                    };
                    open.key = Some(Key { text, span: node.span });
                }
            },
            NodeKind::Scalar(_) => {}
        }
        open.node.size = open.node.size.saturating_add(size);
        open.node.height = open.node.height.max(height.saturating_add(1));
        Ok(())
    }

    fn count(&mut self, values: u32, span: &Span) -> Result<(), Failure> {
        self.values = self.values.saturating_add(values);
        if self.values <= MOST_VALUES {
            return Ok(());
        }
        Err(Box::new(
            Diagnostic::error(codes::YAML_TOO_LARGE, "the file unfolds into too many values")
                .at(self.source, *span)
                .fact("limit", format!("{MOST_VALUES} values, aliases replaced"))
                .help("write fewer aliases of aliases"),
        ))
    }

    fn check_levels(&self, more: u32, span: &Span) -> Result<(), Failure> {
        if number(self.open.len()).saturating_add(more) <= MOST_LEVELS {
            return Ok(());
        }
        Err(self.too_deep(*span))
    }

    fn too_deep(&self, span: Span) -> Failure {
        Box::new(
            Diagnostic::error(codes::YAML_TOO_LARGE, "lists and maps are nested too deeply")
                .at(self.source, span)
                .fact("limit", format!("{MOST_LEVELS} levels")),
        )
    }

    fn check_tag(
        &self,
        tag: Option<&Tag>,
        known: &[&str],
        span: &granit_parser::Span,
    ) -> Result<(), Failure> {
        let Some(tag) = tag else { return Ok(()) };
        let core = tag.handle() == "tag:yaml.org,2002:";
        if (core && known.contains(&tag.suffix())) || is_plain_mark(tag) {
            return Ok(());
        }
        let shown = format!("{}{}", tag.original_handle(), tag.suffix());
        Err(Box::new(
            Diagnostic::error(codes::UNSUPPORTED, format!("the tag `{shown}` is not supported"))
                .at(self.source, place_in(self.source, span))
                .help("leave the tag out"),
        ))
    }
}

/// Types scalars, applies merge keys and finds keys given twice.
struct Finisher<'a> {
    source: &'a Source,
    dialect: Dialect,
    diagnostics: Vec<Diagnostic>,
}

impl Finisher<'_> {
    fn finish(&mut self, node: &mut Node) {
        match &mut node.kind {
            NodeKind::Scalar(scalar) => {
                if scalar.style == Style::Plain {
                    scalar.value = scalar::resolve(&scalar.text, self.dialect);
                }
            }
            NodeKind::Sequence(items) => items.iter_mut().for_each(|item| self.finish(item)),
            NodeKind::Mapping(entries) => {
                entries.iter_mut().for_each(|entry| self.finish(&mut entry.value));
                let all = std::mem::take(entries);
                *entries = self.merge(all);
            }
        }
    }

    /// Replaces `<<` by the entries it names: they come first, and give way to the map's own.
    fn merge(&mut self, all: Vec<Entry>) -> Vec<Entry> {
        let (merges, own): (Vec<Entry>, Vec<Entry>) =
            all.into_iter().partition(|entry| &*entry.key.text == "<<");
        let own = self.without_repetition(own);
        if merges.is_empty() {
            return own;
        }
        let mut taken: HashSet<Arc<str>> = own.iter().map(|entry| entry.key.text.clone()).collect();
        let mut merged = Vec::new();
        for entry in merges {
            for map in self.merged_maps(entry) {
                merged.extend(map.into_iter().filter(|entry| taken.insert(entry.key.text.clone())));
            }
        }
        merged.extend(own);
        merged
    }

    fn merged_maps(&mut self, entry: Entry) -> Vec<Vec<Entry>> {
        let nodes = match entry.value.kind {
            NodeKind::Sequence(items) => items,
            kind => vec![Node { kind, ..entry.value }],
        };
        let mut maps = Vec::new();
        for node in nodes {
            let found = node.describe();
            match node.kind {
                NodeKind::Mapping(entries) => maps.push(entries),
                _ => self.diagnostics.push(
                    Diagnostic::error(
                        codes::WRONG_TYPE,
                        format!("`<<` takes a map or a list of maps, found {found}"),
                    )
                    .at(self.source, entry.key.span)
                    .help("refer to a map by its anchor, as in `<<: *name`"),
                ),
            }
        }
        maps
    }

    /// The last entry of each key, at the place of the first.
    fn without_repetition(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut positions: HashMap<Arc<str>, usize> = HashMap::new();
        let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(&at) = positions.get(&entry.key.text) else {
                positions.insert(entry.key.text.clone(), kept.len());
                kept.push(entry);
                continue;
            };
            if self.diagnostics.len() >= MOST_MESSAGES {
                kept[at] = entry;
                continue;
            }
            let headline = format!("`{}` is given twice", entry.key.text);
            let first = format!("line {}", kept[at].key.span.line);
            self.diagnostics.push(
                match self.dialect {
                    Dialect::Yaml12 => Diagnostic::error(codes::DUPLICATE_KEY, headline)
                        .help("remove one of the two"),
                    Dialect::Yaml11 => Diagnostic::warning(codes::IGNORED_KEY, headline)
                        .note("the last one counts"),
                }
                .at(self.source, entry.key.span)
                .fact("first", first),
            );
            kept[at] = entry;
        }
        kept
    }
}

/// `!` alone: a scalar is text, whatever it looks like.
fn is_plain_mark(tag: &Tag) -> bool {
    tag.original_handle().len() + tag.suffix().len() == 1
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn range(span: &granit_parser::Span) -> std::ops::Range<usize> {
    let start = span.start.byte_offset().unwrap_or(0);
    start..span.end.byte_offset().unwrap_or(start).max(start)
}

/// One character at the start.
fn place(span: &granit_parser::Span) -> Span {
    Span { line: number(span.start.line()), column: number(span.start.col()) + 1, length: 1 }
}

/// The part on the first line.
fn place_in(source: &Source, span: &granit_parser::Span) -> Span {
    let text = source.text().get(range(span)).unwrap_or_default();
    let first = text.lines().next().unwrap_or_default().trim_end();
    Span { length: number(first.chars().count()).max(1), ..place(span) }
}

#[cfg(test)]
mod tests;
