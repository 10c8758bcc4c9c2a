//! `models`, `slices` and `modules`: what is merged with what in mergekit's form.

use mixdown_diagnostics::{Diagnostic, Span, codes};

use super::reader::{Decoder, Fields};
use crate::recipe::{Module, ModuleContent, Slice, SourceModel};
use crate::schema::Keys;
use crate::schema::mergekit::{ModelEntryKeys, ModuleKeys, SliceKeys, SourceKeys};
use crate::setting::{Settings, Spanned};
use crate::tree::{Node, NodeKind, ScalarValue};

/// Parameters that configurations of mergekit's first months write directly on a source.
const OLD_SETTINGS: &[&str] = &["weight", "density"];

impl Decoder<'_> {
    /// Exactly one of `keys` must say something; an empty list says nothing.
    pub(crate) fn exactly_one<'t>(
        &mut self,
        fields: Fields<'t>,
        keys: &[&'static str],
        place: Span,
        what: &str,
    ) -> Option<(&'static str, &'t Node)> {
        let shown = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let mut found = None;
        for &key in keys {
            let Some(entry) = fields.entry(key).filter(|entry| !is_empty(&entry.value)) else {
                continue;
            };
            if let Some((first, _)) = found {
                let headline = format!("{what} has both `{first}` and `{key}`");
                let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
                self.report(entry.key.span, error.help(format!("keep one of {shown}")));
            } else {
                found = Some((key, &entry.value));
            }
        }
        let mistyped = self.is_strict() && keys.iter().any(|key| fields.has_near(key));
        if found.is_none() && !mistyped {
            let error =
                Diagnostic::error(codes::CONFLICTING_KEYS, format!("{what} has none of {shown}"));
            self.report(place, error.help("say what is merged, for example with `models:`"));
        }
        found
    }

    pub(crate) fn modules(&mut self, node: &Node) -> Vec<Module> {
        let mut modules = Vec::new();
        for entry in self.map(node, "`modules`").unwrap_or_default() {
            let name = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
            let what = format!("module `{}`", name.value);
            let Some(fields) = self.fields(&entry.value, ModuleKeys::KEYS, &what) else { continue };
            let settings = self.settings_at(fields, "parameters");
            let Some((key, node)) =
                self.exactly_one(fields, &["models", "slices"], entry.key.span, &what)
            else {
                continue;
            };
            let content = match key {
                "models" => ModuleContent::Models(self.listed_models(node)),
                _ => ModuleContent::Slices(self.slices(node)),
            };
            modules.push(Module { name: Some(name), content, settings });
        }
        modules
    }

    /// `models:` as a list.
    pub(crate) fn listed_models(&mut self, node: &Node) -> Vec<SourceModel> {
        let items = self.list(node, "`models`").unwrap_or_default();
        items
            .iter()
            .filter_map(|item| {
                self.source_model(item, ModelEntryKeys::KEYS, "an entry of `models`")
            })
            .collect()
    }

    pub(crate) fn slices(&mut self, node: &Node) -> Vec<Slice> {
        let items = self.list(node, "`slices`").unwrap_or_default();
        items.iter().filter_map(|item| self.slice(item)).collect()
    }

    fn slice(&mut self, node: &Node) -> Option<Slice> {
        let fields = self.fields(node, SliceKeys::KEYS, "a slice")?;
        if let Some(entry) = fields.entry("residual_weight") {
            let headline = "`residual_weight` has no effect";
            self.report(
                entry.key.span,
                Diagnostic::warning(codes::IGNORED_KEY, headline).help("remove the key"),
            );
        }
        let base = fields.get("base_model").and_then(|node| self.model(node, "`base_model`"));
        let settings = self.settings_at(fields, "parameters");
        let Some(sources) = fields.get("sources") else {
            self.missing_key(node, "sources", "a slice");
            return None;
        };
        let items = self.list(sources, "`sources`")?;
        if items.is_empty() {
            self.error(codes::WRONG_TYPE, sources.span, "a slice has no sources");
            return None;
        }
        let sources: Vec<SourceModel> = items
            .iter()
            .filter_map(|item| self.source_model(item, SourceKeys::KEYS, "a source of a slice"))
            .collect();
        self.check_lengths(&sources);
        Some(Slice { sources, base, settings, span: node.span })
    }

    fn check_lengths(&mut self, sources: &[SourceModel]) {
        let mut ranges = sources.iter().filter_map(|source| source.layers.as_ref());
        let Some(first) = ranges.next() else { return };
        let length = |range: &Spanned<(u64, u64)>| range.value.1 - range.value.0;
        if let Some(other) = ranges.find(|range| length(range) != length(first)) {
            let error = Diagnostic::error(
                codes::BAD_LAYER_RANGE,
                "the sources of a slice have different numbers of layers",
            )
            .fact("first", format!("{} layers, line {}", length(first), first.span.line))
            .fact("here", format!("{} layers", length(other)))
            .help("give all sources of a slice the same number of layers");
            self.report(other.span, error);
        }
    }

    fn source_model(&mut self, node: &Node, keys: &[&str], what: &str) -> Option<SourceModel> {
        let with_old: Vec<&str> = keys.iter().chain(OLD_SETTINGS).copied().collect();
        let fields = self.fields(node, if self.is_strict() { keys } else { &with_old }, what)?;
        let mut settings = self.settings_at(fields, "parameters");
        if !self.is_strict() {
            OLD_SETTINGS.iter().for_each(|key| self.old_setting(fields, key, &settings));
        }
        let needs_layers = keys.contains(&"layer_range");
        let layers = match fields.get("layer_range") {
            Some(range) if needs_layers => self.layers(range, "`layer_range`"),
            _ => None,
        };
        if needs_layers && !fields.mentions("layer_range") {
            self.missing_key(node, "layer_range", what);
        }
        let Some(model) = fields.get("model") else {
            self.missing_key(node, "model", what);
            return None;
        };
        let model = self.model(model, "`model`")?;
        let attached = self.attached(fields, self.models.like(model.value));
        let attached = attached.or(&self.models.list[model.value.0 as usize].attached);
        if self.models.named {
            let beside_name = self.models.list[model.value.0 as usize].settings.clone();
            add_missing(&mut settings, beside_name);
        }
        if needs_layers && layers.is_none() {
            return None;
        }
        Some(SourceModel { model, layers, settings, attached })
    }

    fn old_setting(&mut self, fields: Fields<'_>, key: &str, settings: &Settings) {
        let Some(entry) = fields.entry(key) else { return };
        let headline = format!("`{key}` beside `model` has no effect");
        let warning = Diagnostic::warning(codes::IGNORED_KEY, headline);
        let warning = match settings.get(key) {
            Some(_) => warning.note("the one under `parameters` counts").help("remove the key"),
            None => warning
                .note("as in mergekit, which reads parameters under `parameters` alone")
                .help(format!("write `parameters: {{{key}: …}}`")),
        };
        self.report(entry.key.span, warning);
    }

    /// First layer, and the one after the last.
    pub(crate) fn layers(&mut self, node: &Node, what: &str) -> Option<Spanned<(u64, u64)>> {
        let items = node.items().unwrap_or_default();
        let [start, end] = items else {
            self.wrong_layers(
                node,
                format!("{what} must be two layers `[first, end]`, found {}", describe(node)),
            );
            return None;
        };
        let quoted = |node: &Node| {
            let quoted = node.scalar().filter(|_| !self.is_strict())?;
            quoted.text.trim().parse::<i128>().ok()
        };
        let numbers = (whole(start).or_else(|| quoted(start)), whole(end).or_else(|| quoted(end)));
        let (Some(start), Some(end)) = numbers else {
            self.wrong_layers(node, format!("{what} must be two whole numbers"));
            return None;
        };
        let span = Span { length: range_length(node), ..node.span };
        if start < 0 || end < 0 {
            self.error(codes::BAD_LAYER_RANGE, span, format!("{what} has a negative layer"));
            return None;
        }
        if start > end && !self.is_strict() {
            let headline =
                format!("{what} ends at {end}, before its start {start}, and has no layers");
            let warning = Diagnostic::warning(codes::COMPATIBILITY, headline)
                .note("as in mergekit")
                .help(format!("write `[{end}, {start}]` for the layers between them"));
            self.report(span, warning);
            let start = u64::try_from(start).ok()?;
            return Some(Spanned { value: (start, start), span });
        }
        if start > end {
            let error = Diagnostic::error(
                codes::BAD_LAYER_RANGE,
                format!("{what} starts at {start}, after its end {end}"),
            );
            self.report(span, error.help(format!("write `[{end}, {start}]`")));
            return None;
        }
        let value = (u64::try_from(start).ok()?, u64::try_from(end).ok()?);
        Some(Spanned { value, span })
    }

    fn wrong_layers(&mut self, node: &Node, headline: String) {
        let error = Diagnostic::error(codes::BAD_LAYER_RANGE, headline);
        self.report(
            node.span,
            error.note(
                "the second number is the layer after the last: `[0, 16]` are the first sixteen",
            ),
        );
    }
}

fn describe(node: &Node) -> String {
    match node.items() {
        Some(items) => format!("{} values", items.len()),
        None => node.describe(),
    }
}

fn whole(node: &Node) -> Option<i128> {
    match node.scalar()?.value {
        ScalarValue::Integer(value) => Some(value),
        // `[0, 16.0]` is what some generators of configurations write.
        ScalarValue::Float(value) if value.fract() == 0.0 && value.abs() < 1e9 => {
            Some(value as i128)
        }
        _ => None,
    }
}

/// `[0, 16]` with its brackets, where it stands on one line.
fn range_length(node: &Node) -> u32 {
    let last = node.items().and_then(<[Node]>::last).map(|item| item.span);
    match last {
        Some(last) if last.line == node.span.line => {
            (last.column + last.length + 1).saturating_sub(node.span.column)
        }
        _ => 1,
    }
}

/// Whether a list or map has nothing in it: such a part of a recipe counts as absent.
pub(super) fn is_empty(node: &Node) -> bool {
    match &node.kind {
        NodeKind::Sequence(items) => items.is_empty(),
        NodeKind::Mapping(entries) => entries.is_empty(),
        NodeKind::Scalar(_) => node.is_null(),
    }
}

/// Adds the settings whose names are not there yet.
pub(crate) fn add_missing(settings: &mut Settings, others: Settings) {
    for other in others.0 {
        if settings.get(&other.name.value).is_none() {
            settings.0.push(other);
        }
    }
}
