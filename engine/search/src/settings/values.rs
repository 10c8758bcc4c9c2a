//! Values that several parts of the settings have: commands, times, counts.

use std::time::Duration;

use mixdown_diagnostics::{Diagnostic, Span, codes, suggest};
use mixdown_recipe::setting::Spanned;
use mixdown_recipe::tree::ScalarValue;
use mixdown_recipe::{Decoder, Fields};

use crate::process::unknown_placeholders;

/// A program and its arguments, with placeholders of these names.
pub(super) fn argv(
    decoder: &mut Decoder<'_>,
    fields: Fields<'_>,
    key: &str,
    placeholders: &[&str],
) -> Option<Vec<String>> {
    let node = fields.get(key)?;
    if node.items().is_none() {
        let headline = format!("`{key}` must be a list, found {}", node.describe());
        let error = Diagnostic::error(codes::WRONG_TYPE, headline);
        decoder.report(
            node.span,
            error.help("write the program and each argument as an item: no shell reads it"),
        );
        return None;
    }
    let items = node.items().unwrap_or_default();
    if items.is_empty() {
        decoder.error(codes::WRONG_TYPE, node.span, format!("`{key}` names no program"));
    }
    let mut argv = Vec::new();
    for item in items {
        let text = decoder.text(item, "an argument")?;
        for unknown in unknown_placeholders(&text.value, placeholders) {
            unknown_placeholder(decoder, text.span, unknown, placeholders);
        }
        argv.push(text.value);
    }
    (!argv.is_empty()).then_some(argv)
}

pub(super) fn unknown_placeholder(
    decoder: &mut Decoder<'_>,
    span: Span,
    found: &str,
    known: &[&str],
) {
    let headline = format!("`{{{found}}}` is not a placeholder here");
    let mut error = Diagnostic::error(codes::UNKNOWN_NAME, headline);
    error = match suggest::nearest(found, known.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{{{near}}}`?")),
        None => {
            let known: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
            error.note(format!("known placeholders: {}", known.join(", ")))
        }
    };
    decoder.report(span, error);
}

/// A time above 0, in seconds.
pub(super) fn seconds(
    decoder: &mut Decoder<'_>,
    fields: Fields<'_>,
    key: &str,
) -> Option<Duration> {
    let node = fields.get(key)?;
    let value = match node.scalar().map(|scalar| scalar.value) {
        Some(ScalarValue::Integer(value)) => Some(value as f64),
        Some(ScalarValue::Float(value)) => Some(value),
        _ => None,
    };
    let time = value.filter(|&value| value > 0.0).and_then(|v| Duration::try_from_secs_f64(v).ok());
    if time.is_none() {
        decoder.wrong_type(node, &format!("`{key}`"), "a number of seconds above 0");
    }
    time
}

/// A whole number from 1.
pub(super) fn positive(decoder: &mut Decoder<'_>, fields: Fields<'_>, key: &str) -> Option<usize> {
    let node = fields.get(key)?;
    let what = format!("`{key}`");
    let value = decoder.count(node, &what)?;
    if value == 0 {
        decoder.wrong_type(node, &what, "a whole number from 1");
        return None;
    }
    Some(usize::try_from(value).unwrap_or(usize::MAX))
}

/// Keys that have no meaning beside others.
pub(super) fn refuse(decoder: &mut Decoder<'_>, fields: Fields<'_>, keys: &[&str], why: &str) {
    for key in keys {
        if let Some(entry) = fields.entry(key) {
            let headline = format!("`{key}` has no meaning here: {why}");
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            decoder.report(entry.key.span, error.help("remove this key"));
        }
    }
}

/// The name of a variable of the environment. A key itself in its place would be kept with the file.
pub(super) fn variable(decoder: &mut Decoder<'_>, fields: Fields<'_>, key: &str) -> Option<String> {
    let name = decoder.text_at(fields, key)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_well = name.value.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if starts_well && name.value.bytes().all(is_name) {
        return Some(name.value);
    }
    // What was written may be the key itself: its line is not shown.
    let headline = format!("`{key}` must name a variable of the environment");
    let place = format!("{}:{}:{}", decoder.source.name(), name.span.line, name.span.column);
    let error = Diagnostic::error(codes::WRONG_TYPE, headline)
        .in_file(place)
        .note("letters, digits and `_`; the key itself does not belong into this file")
        .help(format!("write `{key}: MY_KEY`, and set `MY_KEY` before the search"));
    decoder.diagnostics.push(error);
    None
}

/// The address of a server.
pub(super) fn address(
    decoder: &mut Decoder<'_>,
    fields: Fields<'_>,
    key: &str,
) -> Option<Spanned<String>> {
    let text = decoder.text_at(fields, key)?;
    if text.value.starts_with("http://") || text.value.starts_with("https://") {
        // It is shown where a server does not answer, and stands in reports.
        if text.value.contains('@') {
            let headline = format!("`{key}` has a name or password in it");
            decoder.error(codes::WRONG_TYPE, text.span, headline);
            return None;
        }
        return Some(text);
    }
    let headline =
        format!("`{key}` must begin with `http://` or `https://`, found `{}`", text.value);
    decoder.error(codes::WRONG_TYPE, text.span, headline);
    None
}
