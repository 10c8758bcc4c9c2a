//! What all decoders share: reporting, maps with known keys, and single values.

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Code, Diagnostic, Source, Span, any_error, codes, sort};

use super::models::Models;
use crate::recipe::{Form, Model};
use crate::setting::{Spanned, truth_of};
use crate::tree::{Entry, Node, ScalarValue};

/// A text while it is decoded. Everything that is wrong is reported here, and decoding goes on.
pub struct Decoder<'a> {
    /// The text.
    pub source: &'a Source,
    /// How unknown keys are taken.
    pub form: Form,
    pub(crate) models: Models,
    /// What is wrong so far.
    pub diagnostics: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
}

/// Errors, and warnings, that one file is worth.
const MOST_MESSAGES: usize = 200;

/// The entries of a map whose keys were checked.
#[derive(Clone, Copy)]
pub struct Fields<'t> {
    entries: &'t [Entry],
}

impl<'t> Fields<'t> {
    /// Of a map whose keys were checked before.
    pub fn of(entries: &'t [Entry]) -> Self {
        Self { entries }
    }

    /// The entry of a key that has a value.
    pub fn entry(&self, key: &str) -> Option<&'t Entry> {
        self.entries.iter().find(|entry| &*entry.key.text == key && !entry.value.is_null())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'t Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Whether a key is there that was probably meant to be this one.
    pub fn has_near(&self, key: &str) -> bool {
        nearest(key, self.entries.iter().map(|entry| &*entry.key.text)).is_some()
    }

    /// Whether the key is there, with or without a value.
    pub fn mentions(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.key.text == key)
    }
}

impl<'a> Decoder<'a> {
    /// Nothing is decoded yet.
    pub fn new(source: &'a Source, form: Form) -> Self {
        Self {
            source,
            form,
            models: Models::default(),
            diagnostics: Vec::new(),
            errors: 0,
            warnings: 0,
        }
    }

    /// What was read with the models that it names and what should be known of it, or all that is wrong.
    pub(crate) fn finish<T>(
        mut self,
        found: Option<T>,
    ) -> Result<(T, Vec<Model>, Vec<Diagnostic>), Vec<Diagnostic>> {
        sort(&mut self.diagnostics);
        match found {
            Some(found) if !any_error(&self.diagnostics) => {
                Ok((found, self.models.list, self.diagnostics))
            }
            _ => Err(self.diagnostics),
        }
    }

    /// Whether an unknown key is an error.
    pub fn is_strict(&self) -> bool {
        self.form == Form::Strict
    }

    /// Keeps a message. Errors and warnings are bounded each, so that a file of nothing but mistakes
    /// ends quickly, and warnings cannot crowd out an error.
    pub fn report(&mut self, span: Span, diagnostic: Diagnostic) {
        let count = if diagnostic.is_error() { &mut self.errors } else { &mut self.warnings };
        *count += 1;
        if *count > MOST_MESSAGES {
            return;
        }
        let diagnostic = match *count {
            MOST_MESSAGES => diagnostic.note("what follows is not reported"),
            _ => diagnostic,
        };
        self.diagnostics.push(diagnostic.at(self.source, span));
    }

    /// Keeps an error that is said by its headline alone.
    pub fn error(&mut self, code: Code, span: Span, headline: impl Into<String>) {
        self.report(span, Diagnostic::error(code, headline));
    }

    /// The node has another type than `what` must have.
    pub fn wrong_type(&mut self, node: &Node, what: &str, wanted: &str) {
        let headline = format!("{what} must be {wanted}, found {}", node.describe());
        self.error(codes::WRONG_TYPE, node.span, headline);
    }

    /// Opens a map and reports the keys that it must not have.
    pub fn fields<'t>(&mut self, node: &'t Node, keys: &[&str], what: &str) -> Option<Fields<'t>> {
        let Some(entries) = node.entries() else {
            self.wrong_type(node, what, "a map");
            return None;
        };
        let is_missing = |key: &&&str| !entries.iter().any(|entry| *entry.key.text == ***key);
        let missing: Vec<&str> = keys.iter().filter(is_missing).copied().collect();
        for entry in entries {
            let key = &*entry.key.text;
            if !keys.contains(&key) {
                self.unknown_key(entry, keys, &missing, what);
            } else if self.is_strict() && entry.value.is_null() {
                let error = Diagnostic::error(codes::WRONG_TYPE, format!("`{key}` has no value"));
                self.report(entry.key.span, error.help("give it a value or remove the key"));
            }
        }
        Some(Fields { entries })
    }

    fn unknown_key(&mut self, entry: &Entry, keys: &[&str], missing: &[&str], what: &str) {
        let key = &*entry.key.text;
        let is_top = what == RECIPE;
        let what = if is_top && !self.is_strict() { "a mergekit configuration" } else { what };
        let suggestion = nearest(key, missing.iter().copied())
            .map(|near| format!("did you mean `{near}`?"))
            .or_else(|| advice(key, keys).map(str::to_owned));
        let needs_strict_form = matches!(key, "rules" | "declare" | "steps" | "output") && is_top;
        let mut diagnostic = if self.is_strict() {
            Diagnostic::error(codes::UNKNOWN_KEY, format!("`{key}` is not a key of {what}"))
        } else if needs_strict_form {
            let headline = format!("`{key}` is not a key of a mergekit configuration");
            Diagnostic::error(codes::UNKNOWN_KEY, headline).help("begin the file with `mixdown: 1`")
        } else {
            let headline = format!("`{key}` is not a key of {what} and has no effect");
            Diagnostic::warning(codes::IGNORED_KEY, headline)
        };
        if diagnostic.help.is_none() {
            diagnostic.help = suggestion;
        }
        if diagnostic.help.is_none() && self.is_strict() {
            diagnostic = diagnostic.note(format!("known keys: {}", keys.join(", ")));
        }
        self.report(entry.key.span, diagnostic);
    }

    /// A required key is not there. What stands near it, and looks like it, is suggested.
    pub fn missing_key(&mut self, node: &Node, key: &str, what: &str) {
        let present = node.entries().unwrap_or_default();
        let mut error = Diagnostic::error(codes::MISSING_KEY, format!("{what} has no `{key}`"));
        if let Some(near) = nearest(key, present.iter().map(|entry| &*entry.key.text)) {
            if self.is_strict() {
                // The mistyped key is an error already, and says so.
                return;
            }
            error = error.help(format!("write `{key}` instead of `{near}`"));
        }
        self.report(node.span, error);
    }

    /// Text as it is written; numbers and truth values are text where text is wanted.
    pub fn text(&mut self, node: &Node, what: &str) -> Option<Spanned<String>> {
        match node.scalar() {
            Some(scalar) if scalar.value != ScalarValue::Null => {
                Some(Spanned { value: scalar.text.to_string(), span: node.span })
            }
            _ => {
                self.wrong_type(node, what, "text");
                None
            }
        }
    }

    /// The text of a key, if it is there.
    pub fn text_at(&mut self, fields: Fields<'_>, key: &str) -> Option<Spanned<String>> {
        let node = fields.get(key)?;
        self.text(node, &format!("`{key}`"))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        match node.scalar().map(|scalar| (scalar.value, &*scalar.text)) {
            Some((ScalarValue::Boolean(value), _)) => Some(value),
            // mergekit takes the words and numbers that stand for truth values.
            Some((ScalarValue::Integer(value @ 0..=1), _)) if !self.is_strict() => Some(value == 1),
            Some((ScalarValue::Text, text)) if !self.is_strict() && truth_of(text).is_some() => {
                truth_of(text)
            }
            _ => {
                self.wrong_type(node, what, "`true` or `false`");
                None
            }
        }
    }

    /// A whole number from 0.
    pub fn count(&mut self, node: &Node, what: &str) -> Option<u64> {
        let value = match node.scalar().map(|scalar| scalar.value) {
            Some(ScalarValue::Integer(value)) => u64::try_from(value).ok(),
            Some(ScalarValue::Text) if !self.is_strict() => {
                node.scalar().and_then(|scalar| scalar.text.trim().parse().ok())
            }
            _ => None,
        };
        if value.is_none() {
            self.wrong_type(node, what, "a whole number from 0");
        }
        value
    }

    /// The items of a list.
    pub fn list<'t>(&mut self, node: &'t Node, what: &str) -> Option<&'t [Node]> {
        let items = node.items();
        if items.is_none() {
            self.wrong_type(node, what, "a list");
        }
        items
    }

    /// The entries of a map whose keys are free.
    pub fn map<'t>(&mut self, node: &'t Node, what: &str) -> Option<&'t [Entry]> {
        let entries = node.entries();
        if entries.is_none() {
            self.wrong_type(node, what, "a map");
        }
        entries
    }

    /// Of two spellings of one key, the one that is there.
    pub fn either<'t>(&mut self, fields: Fields<'t>, key: &str, alias: &str) -> Option<&'t Node> {
        if let (Some(_), Some(second)) = (fields.entry(key), fields.entry(alias)) {
            let headline = format!("`{key}` and `{alias}` are the same key");
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            self.report(second.key.span, error.help("remove one of the two"));
        }
        fields.get(key).or_else(|| fields.get(alias))
    }

    /// A whole word of these.
    pub fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let known =
                words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            let headline = format!("{what} must be one of {known}, found `{}`", text.value);
            let mut error = Diagnostic::error(codes::WRONG_TYPE, headline);
            if let Some(near) = nearest(&text.value, words.iter().map(|(word, _)| *word)) {
                error = error.help(format!("did you mean `{near}`?"));
            }
            self.report(node.span, error);
        }
        found.map(|(_, value)| *value)
    }
}

/// What messages call the outermost map.
pub(crate) const RECIPE: &str = "a recipe";

/// Words for keys that are right elsewhere.
fn advice(key: &str, keys: &[&str]) -> Option<&'static str> {
    match key {
        "layer_range" => Some("layer ranges belong to `sources` of `slices`"),
        "lambda" | "normalize" | "t" | "int8_mask" | "weight" | "density"
            if keys.contains(&"parameters") =>
        {
            Some("parameters of the method stand under `parameters`")
        }
        "keep" | "drop" | "tensors" | "experts" if keys.contains(&"rules") => {
            Some("this belongs into an entry of `rules`")
        }
        "lora" => Some("write `adapter`"),
        "alpha" | "arith" | "method" if keys.contains(&"extra") => {
            Some("state it in a rule of the recipe: `{tensors: …, parameters: {alpha: …}}`")
        }
        "importance" | "gram" => Some("this belongs beside a model"),
        "seed" | "files_from" | "shard_size" | "base" | "method" => {
            Some("for this key begin the file with `mixdown: 1`")
        }
        _ => None,
    }
}
