//! `--set path=value`: values of a tree changed by their paths.
//!
//! Each change is appended to the text as a comment, and the new value has its place there, so that a
//! message about it shows what was typed.

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, Source, Span, codes};

use crate::schema::Keys;
use crate::schema::mergekit::MergekitKeys;
use crate::schema::strict::StrictKeys;
use crate::tree::{Dialect, Entry, Key, Node, NodeKind, Tree};
use crate::yaml;

/// Changes values: `strength` for a declared name, or a path such as `models[0].parameters.weight`.
pub fn apply_overrides(
    tree: &mut Tree,
    overrides: &[(String, String)],
) -> Result<(), Vec<Diagnostic>> {
    if overrides.is_empty() {
        return Ok(());
    }
    let mut text = tree.source.text().to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let mut starts = Vec::new();
    for (path, value) in overrides {
        starts.push(text.len());
        let line: String = format!("# --set {path}={value}")
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        text.push_str(&line);
        text.push('\n');
    }
    let source = Source::new(tree.source.name(), text);
    tree.source = source.clone();
    let mut errors = Vec::new();
    for ((path, value), start) in overrides.iter().zip(starts) {
        if let Err(error) = apply(tree, &source, path, value, start) {
            errors.push(*error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn apply(
    tree: &mut Tree,
    source: &Source,
    path: &str,
    value: &str,
    start: usize,
) -> Result<(), Box<Diagnostic>> {
    const LEAD: usize = "# --set ".len();
    let line = source.text()[..start].matches('\n').count();
    let line = u32::try_from(line).unwrap_or(u32::MAX - 1) + 1;
    let characters = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX / 2);
    let path_span = Span { line, column: LEAD as u32 + 1, length: characters(path).max(1) };
    let value_column = path_span.column + characters(path) + 1;
    let fail = |message: String| Diagnostic::error(codes::BAD_SET, message).at(source, path_span);

    let parsed = yaml::parse(&Source::new(source.name(), value.to_owned()), Some(tree.dialect));
    let mut node = match parsed {
        Ok(parsed) => parsed.root,
        Err(_) if value.trim().is_empty() => {
            return Err(Box::new(fail(format!("`--set {path}=` gives no value"))));
        }
        Err(errors) => {
            let mut error = Diagnostic::error(
                codes::BAD_SET,
                format!("the value of `--set {path}` is not YAML"),
            );
            if let Some(note) = errors.first().and_then(|error| error.notes.first()) {
                error = error.note(note.clone());
            }
            let span = Span { line, column: value_column, length: characters(value).max(1) };
            return Err(Box::new(error.at(source, span)));
        }
    };
    // The value's bytes follow the path in the comment, one for one unless it held control characters.
    move_to(&mut node, line, value_column, start + LEAD + path.len() + 1);

    let segments = split(path).map_err(|message| Box::new(fail(message)))?;
    let key_span = path_span;
    if tree.dialect == Dialect::Yaml12
        && let [Segment::Key(name)] = segments.as_slice()
        && let Some(declared) = declared_value(&mut tree.root, name, key_span)
    {
        *declared = node;
        return Ok(());
    }
    check_first_key(tree, &segments).map_err(|help| {
        let error = fail(format!("`{path}` is not part of the recipe"));
        Box::new(match help {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help("set a declared name, or a path such as `parameters.t`"),
        })
    })?;
    place(&mut tree.root, &segments, node, key_span).map_err(|(message, near)| {
        let error = fail(message);
        Box::new(match near {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error,
        })
    })
}

/// The node that holds the default of a declared name.
fn declared_value<'t>(root: &'t mut Node, name: &str, span: Span) -> Option<&'t mut Node> {
    let declaration = child(child(root, "declare")?, name)?;
    if declaration.entries().is_none() {
        return Some(declaration);
    }
    if declaration.get("default").is_none()
        && let NodeKind::Mapping(entries) = &mut declaration.kind
    {
        entries.push(empty_entry("default", span));
    }
    child(declaration, "default")
}

fn child<'t>(node: &'t mut Node, key: &str) -> Option<&'t mut Node> {
    match &mut node.kind {
        NodeKind::Mapping(entries) => {
            entries.iter_mut().find(|entry| &*entry.key.text == key).map(|entry| &mut entry.value)
        }
        _ => None,
    }
}

fn empty_entry(key: &str, span: Span) -> Entry {
    let kind = NodeKind::Mapping(Vec::new());
    let value = Node { kind, span, range: 0..0, size: 1, height: 1 };
    Entry { key: Key { text: key.into(), span }, value }
}

enum Segment {
    Key(String),
    Index(usize),
}

/// `a.b[0].c` in its parts.
fn split(path: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    for part in path.split('.') {
        let (key, mut rest) = match part.find('[') {
            Some(at) => part.split_at(at),
            None => (part, ""),
        };
        if key.is_empty() {
            return Err(format!("`{path}` is not a path"));
        }
        segments.push(Segment::Key(key.to_owned()));
        while let Some(inner) = rest.strip_prefix('[') {
            let index =
                inner.split_once(']').and_then(|(index, after)| Some((index.parse().ok()?, after)));
            let Some((index, after)) = index else {
                return Err(format!("`{part}` has no whole number in its brackets"));
            };
            segments.push(Segment::Index(index));
            rest = after;
        }
        if !rest.is_empty() {
            return Err(format!("`{path}` is not a path"));
        }
    }
    Ok(segments)
}

/// The first key must be one that a recipe has; otherwise a mistyped name would be a new key.
fn check_first_key(tree: &Tree, segments: &[Segment]) -> Result<(), Option<String>> {
    let keys = match tree.dialect {
        Dialect::Yaml12 => StrictKeys::KEYS,
        Dialect::Yaml11 => MergekitKeys::KEYS,
    };
    let Some(Segment::Key(first)) = segments.first() else { return Err(None) };
    let present = tree.root.get(first).is_some();
    if present || (keys.contains(&first.as_str()) && first != "mixdown") {
        return Ok(());
    }
    let declared = tree.root.get("declare").and_then(Node::entries).unwrap_or_default();
    let names = declared.iter().map(|entry| &*entry.key.text).chain(keys.iter().copied());
    Err(nearest(first, names).map(str::to_owned))
}

type Misfit = (String, Option<String>);

/// Puts the value where the path leads. Only the last key may be new, and `parameters` anywhere.
fn place(node: &mut Node, path: &[Segment], value: Node, span: Span) -> Result<(), Misfit> {
    let Some((segment, rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    let found = node.describe();
    match (segment, &mut node.kind) {
        (Segment::Index(index), NodeKind::Sequence(items)) => {
            let count = items.len();
            match items.get_mut(*index) {
                Some(item) => place(item, rest, value, span),
                None => Err((
                    format!("there is no [{index}]: the list has {count}, counted from 0"),
                    None,
                )),
            }
        }
        (Segment::Key(key), NodeKind::Mapping(entries)) => {
            // Names of models and tokens may have dots: the longest key that fits is meant.
            let (at, used) = longest_key(entries, path).unwrap_or((entries.len(), 1));
            if at == entries.len() {
                if !rest.is_empty() && key != "parameters" {
                    let near = nearest(key, entries.iter().map(|entry| &*entry.key.text));
                    return Err((format!("there is no `{key}`"), near.map(str::to_owned)));
                }
                entries.push(empty_entry(key, span));
            }
            place(&mut entries[at].value, &path[used..], value, span)
        }
        (Segment::Index(index), _) => Err((format!("[{index}] needs a list, found {found}"), None)),
        (Segment::Key(key), _) => Err((format!("`{key}` needs a map, found {found}"), None)),
    }
}

/// The entry whose key is made of the most of the next parts of the path, and their number.
fn longest_key(entries: &[Entry], path: &[Segment]) -> Option<(usize, usize)> {
    let mut key = String::new();
    let mut best = None;
    for (i, segment) in path.iter().enumerate() {
        let Segment::Key(part) = segment else { break };
        if i > 0 {
            key.push('.');
        }
        key.push_str(part);
        if let Some(at) = entries.iter().position(|entry| *entry.key.text == key) {
            best = Some((at, i + 1));
        }
    }
    best
}

/// Gives a value and all in it places in the appended comment.
fn move_to(node: &mut Node, line: u32, column: u32, byte: usize) {
    let shift = |span: &mut Span| {
        span.column = if span.line == 1 { span.column.saturating_add(column - 1) } else { column };
        span.line = line;
    };
    shift(&mut node.span);
    node.range = node.range.start + byte..node.range.end + byte;
    match &mut node.kind {
        NodeKind::Scalar(_) => {}
        NodeKind::Sequence(items) => {
            items.iter_mut().for_each(|item| move_to(item, line, column, byte))
        }
        NodeKind::Mapping(entries) => entries.iter_mut().for_each(|entry| {
            shift(&mut entry.key.span);
            move_to(&mut entry.value, line, column, byte);
        }),
    }
}

#[cfg(test)]
mod tests;
