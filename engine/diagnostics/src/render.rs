//! Draws diagnostics as text or as JSON. The only place that makes words for a terminal.

use serde_json::{Value, json};

use crate::line::{Line, escape};
use crate::{Diagnostic, Place, Severity, Source, Span};

/// Whether text carries terminal colors. Meaning never depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// No escape sequences.
    Plain,
    /// ANSI escape sequences.
    Ansi,
}

/// Draws diagnostics one below the other, with an empty line between them.
pub fn render_all(diagnostics: &[Diagnostic], color: Color) -> String {
    diagnostics.iter().map(|diagnostic| render(diagnostic, color)).collect::<Vec<_>>().join("\n")
}

/// Draws one diagnostic, ending in a line break.
pub fn render(diagnostic: &Diagnostic, color: Color) -> String {
    let ink = Ink(color);
    let (word, tone) = match diagnostic.severity {
        Severity::Error => ("error", Tone::Error),
        Severity::Warning => ("warning", Tone::Warning),
    };
    let label = ink.paint(tone, &format!("{word}[{}]", diagnostic.code.id));
    let mut out = format!(
        "{label}{}\n",
        ink.paint(Tone::Strong, &format!(": {}", escape(&diagnostic.headline)))
    );
    let width = gutter_width(diagnostic.place.as_ref());
    match &diagnostic.place {
        Some(Place::Text(source, span)) => {
            draw_text_place(&mut out, ink, tone, width, source, *span)
        }
        Some(Place::File(path)) => draw_arrow(&mut out, ink, width, &escape(path)),
        Some(Place::Byte(path, offset)) => {
            draw_arrow(
                &mut out,
                ink,
                width,
                &format!("{}: byte {}", escape(path), grouped(*offset)),
            );
        }
        None => {}
    }
    let longest =
        diagnostic.facts.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    for (label, text) in &diagnostic.facts {
        let padding = " ".repeat(longest - label.chars().count());
        draw_remark(&mut out, ink, width, &format!("{}:{padding}", escape(label)), text);
    }
    for note in &diagnostic.notes {
        draw_remark(&mut out, ink, width, "note:", note);
    }
    if let Some(help) = &diagnostic.help {
        draw_remark(&mut out, ink, width, "help:", help);
    }
    out
}

/// Digits of the line number, two at least.
fn gutter_width(place: Option<&Place>) -> usize {
    match place {
        Some(Place::Text(_, span)) => span.line.to_string().len().max(2),
        _ => 2,
    }
}

fn draw_arrow(out: &mut String, ink: Ink, width: usize, place: &str) {
    let arrow = ink.paint(Tone::Frame, &format!("{:width$}-->", ""));
    out.push_str(&format!("{arrow} {place}\n"));
}

fn draw_text_place(
    out: &mut String,
    ink: Ink,
    tone: Tone,
    width: usize,
    source: &Source,
    span: Span,
) {
    draw_arrow(
        out,
        ink,
        width,
        &format!("{}:{}:{}", escape(source.name()), span.line, span.column),
    );
    let Some(text) = source.line(span.line) else { return };
    let line = Line::new(text, span.column, span.length);
    let bar = ink.paint(Tone::Frame, &format!("{:width$} |", ""));
    let number = ink.paint(Tone::Frame, &format!("{:>width$} |", span.line));
    let marks = ink.paint(tone, &"^".repeat(line.mark_width));
    out.push_str(&format!("{bar}\n{number} {}\n", line.text));
    out.push_str(&format!("{bar} {}{marks}\n", " ".repeat(line.mark_start)));
}

fn draw_remark(out: &mut String, ink: Ink, width: usize, label: &str, text: &str) {
    let sign = ink.paint(Tone::Frame, &format!("{:width$} =", ""));
    let indent = " ".repeat(width + 4 + label.chars().count());
    for (i, line) in text.lines().enumerate() {
        if i == 0 {
            out.push_str(&format!("{sign} {} {}\n", ink.paint(Tone::Strong, label), escape(line)));
        } else {
            out.push_str(&format!("{indent}{}\n", escape(line)));
        }
    }
}

/// `4961861632` as `4 961 861 632`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[derive(Clone, Copy)]
enum Tone {
    Error,
    Warning,
    Frame,
    Strong,
}

#[derive(Clone, Copy)]
struct Ink(Color);

impl Ink {
    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if self.0 == Color::Plain || text.is_empty() => return text.to_owned(),
            Tone::Error => "1;31",
            Tone::Warning => "1;33",
            Tone::Frame => "34",
            Tone::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// The same facts for programs: an array with one object for each diagnostic.
pub fn render_json(diagnostics: &[Diagnostic]) -> Value {
    diagnostics.iter().map(json_of).collect()
}

fn json_of(diagnostic: &Diagnostic) -> Value {
    let place = match &diagnostic.place {
        Some(Place::Text(source, span)) => {
            json!({"file": source.name(), "line": span.line, "column": span.column, "length": span.length})
        }
        Some(Place::File(path)) => json!({"file": path}),
        Some(Place::Byte(path, offset)) => json!({"file": path, "byte": offset}),
        None => Value::Null,
    };
    let facts: Vec<Value> = diagnostic
        .facts
        .iter()
        .map(|(label, text)| json!({"label": label, "text": text}))
        .collect();
    json!({
        "severity": match diagnostic.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "code": diagnostic.code.id,
        "headline": diagnostic.headline,
        "place": place,
        "facts": facts,
        "notes": diagnostic.notes,
        "help": diagnostic.help,
    })
}

/// `3 errors, 1 warning`; nothing where there is nothing to count.
pub fn summary(diagnostics: &[Diagnostic]) -> Option<String> {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = diagnostics.len() - errors;
    let part = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{count} {word}s")),
    };
    let parts: Vec<String> =
        [part(errors, "error"), part(warnings, "warning")].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests;
