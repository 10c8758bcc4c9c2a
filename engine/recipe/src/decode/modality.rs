//! `kind: modality`: what such a recipe says, as the models and rules of any other recipe.
//!
//! Decoding comes first, in `inputs.rs` for what concerns one modality; `check.rs` says what does not go
//! together, and `lower.rs` then makes the rules.

mod check;
mod inputs;
mod lower;

use std::collections::BTreeSet;

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, Span, codes};

use super::declare::Declared;
use super::reader::{Decoder, Fields};
use super::strict;
use crate::modality::{Mode, OutputLayout, Preferred};
use crate::recipe::{Model, ModelId, ModelReference, Recipe};
use crate::schema::Keys;
use crate::schema::modality::{
    BaseKeys, ComposedConfigKeys, MergedBodyKeys, ModalityKeys, ModalityOutputKeys,
};
use crate::setting::{Settings, Spanned};
use crate::tree::{Node, ScalarValue, Tree};
use inputs::Input;

/// What messages call the outermost map.
const WHAT: &str = "a modality recipe";

/// A modality recipe as it is written.
struct Written {
    base: Spanned<ModelId>,
    base_path: (String, Option<String>),
    base_prefix: Option<String>,
    inputs: Vec<Input>,
    body: MergedBody,
    output: Output,
    mode: Mode,
    /// For each input its coefficient, where the mode has them.
    coefficients: Vec<Spanned<f64>>,
    span: Span,
}

/// `body:` at the top.
struct MergedBody {
    method: Option<Spanned<String>>,
    params: Settings,
    space: Space,
    include: Vec<Spanned<String>>,
    rest: Rest,
    /// How far what is kept as in the base may be from it in the bodies.
    tolerance: f64,
    span: Span,
    rest_span: Span,
}

/// What is merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Dense,
    Factors,
}

/// What tensors get that are not merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Base,
    Mean,
    First,
}

/// `output:`.
struct Output {
    layout: OutputLayout,
    rank: Option<Spanned<u32>>,
    prefer: Vec<(Spanned<String>, Preferred)>,
    span: Span,
}

/// Whether a recipe says of which kind it is, and so is none of plain merges.
pub(super) fn has_kind(root: &Node) -> bool {
    root.get("kind").is_some()
}

/// Reads a recipe that says of which kind it is.
pub(super) fn recipe(
    decoder: &mut Decoder<'_>,
    tree: &Tree,
    root: &Node,
    declared: &Declared,
) -> Option<Recipe> {
    let kind = root.get("kind")?;
    let is_modality = kind.scalar().is_some_and(|scalar| &*scalar.text == "modality");
    if !is_modality {
        let headline = format!("`kind` must be `modality`, found {}", kind.describe());
        let error = Diagnostic::error(codes::RECIPE_KIND, headline);
        let help = match kind.scalar().and_then(|scalar| nearest(&scalar.text, ["modality"])) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "leave `kind` out for a merge of whole models".to_owned(),
        };
        decoder.report(kind.span, error.help(help));
        return None;
    }
    let fields = decoder.fields(root, ModalityKeys::KEYS, WHAT)?;
    strict::check_version(decoder, root);
    let seed = fields.get("seed").and_then(|node| decoder.count(node, "`seed`")).unwrap_or(0);
    let shard_size = fields.get("shard_size").and_then(|node| strict::size(decoder, node));
    let written = decoder.written(fields, root)?;
    let is_one_file = written.output.layout == OutputLayout::ModelCompose;
    if let (Some(size), true) = (shard_size.as_ref().map(|size| size.span), is_one_file) {
        let headline = "`shard_size` has no effect: `layout: modelcompose` is one file of weights";
        let warning = Diagnostic::warning(codes::IGNORED_KEY, headline);
        decoder.report(size, warning.help("remove the key"));
    }
    let mut recipe = lower::recipe(decoder, tree, written)?;
    (recipe.seed, recipe.shard_size) = (seed, shard_size);
    recipe.declared.clone_from(&declared.names);
    recipe.models = std::mem::take(&mut decoder.models.list);
    Some(recipe)
}

impl Decoder<'_> {
    fn written(&mut self, fields: Fields<'_>, root: &Node) -> Option<Written> {
        self.models.named = true;
        let span = Span { length: 1, ..root.span };
        let base = match fields.entry("base") {
            Some(entry) => self.modality_base(&entry.value),
            None => {
                self.missing_key(root, "base", WHAT);
                None
            }
        };
        let mode = fields.get("mode").and_then(|node| {
            let words = [("static", Mode::Static), ("online", Mode::Online), ("damc", Mode::Damc)];
            self.word(node, "`mode`", &words)
        });
        let inputs = match fields.get("inputs") {
            Some(node) => self.modality_inputs(node),
            None => {
                self.missing_key(root, "inputs", WHAT);
                Vec::new()
            }
        };
        let names: Vec<String> = inputs.iter().map(|input| input.name.value.clone()).collect();
        let body = self.merged_body(fields, span);
        let output = self.modality_output(fields, &names, span);
        let mode = mode.unwrap_or(Mode::Static);
        let coefficients = self.coefficients(fields, mode, &names);
        let (base, base_path, base_prefix) = base?;
        // What is missing of them is reported.
        if inputs.is_empty() || coefficients.len() != inputs.len() {
            return None;
        }
        let body = body?;
        Some(Written {
            base,
            base_path,
            base_prefix,
            inputs,
            body,
            output,
            mode,
            coefficients,
            span,
        })
    }

    /// The base, as a model of that name.
    #[allow(clippy::type_complexity)]
    fn modality_base(
        &mut self,
        node: &Node,
    ) -> Option<(Spanned<ModelId>, (String, Option<String>), Option<String>)> {
        let mut prefix = None;
        let path = match node.entries() {
            None => self.path(node, "`base`")?,
            Some(_) => {
                let fields = self.fields(node, BaseKeys::KEYS, "`base`")?;
                prefix = self.text_at(fields, "prefix").map(|text| text.value);
                let Some(path) = self.text_at(fields, "path") else {
                    self.missing_key(node, "path", "`base`");
                    return None;
                };
                (path.value, self.text_at(fields, "revision").map(|text| text.value))
            }
        };
        let reference = ModelReference::Checkpoint {
            path: path.0.clone(),
            revision: path.1.clone(),
            prefix: prefix.clone(),
            adapter: None,
            override_architecture: None,
        };
        let model = Model::plain("base".to_owned(), reference, node.span);
        let value = self.models.add(model, Settings::default());
        Some((Spanned { value, span: node.span }, path, prefix))
    }

    fn merged_body(&mut self, fields: Fields<'_>, start: Span) -> Option<MergedBody> {
        let mut body = MergedBody {
            method: None,
            params: Settings::default(),
            space: Space::Dense,
            include: Vec::new(),
            rest: Rest::Base,
            tolerance: 0.0,
            span: start,
            rest_span: start,
        };
        let Some(entry) = fields.entry("body") else { return Some(body) };
        let node = &entry.value;
        let fields = self.fields(node, MergedBodyKeys::KEYS, "`body`")?;
        body.span = entry.key.span;
        body.method = self.text_at(fields, "method");
        body.params = self.settings_at(fields, "params");
        if let Some(node) = fields.get("space") {
            let words = [("dense", Space::Dense), ("factors", Space::Factors)];
            body.space = self.word(node, "`space`", &words)?;
        }
        if let Some(node) = fields.get("include") {
            body.include = self.modality_patterns(node);
            if body.include.is_empty() {
                return None;
            }
        }
        body.rest_span = body.span;
        if let Some(node) = fields.get("rest") {
            let words = [("base", Rest::Base), ("mean", Rest::Mean), ("first", Rest::First)];
            body.rest = self.word(node, "`rest`", &words)?;
            body.rest_span = node.span;
        }
        if let Some(entry) = fields.entry("tolerance") {
            let tolerance = self.number(&entry.value, "`tolerance`")?;
            if tolerance.value < 0.0 {
                let headline = "`tolerance` must be a distance from 0";
                self.error(codes::OUT_OF_RANGE, tolerance.span, headline);
                return None;
            }
            if body.rest != Rest::Base || body.space == Space::Factors {
                let headline = "`tolerance` is about what is kept as in the base";
                let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
                let help = "remove it, or write `rest: base` with `space: dense`";
                self.report(entry.key.span, error.help(help));
                return None;
            }
            body.tolerance = tolerance.value;
        }
        Some(body)
    }

    /// Patterns; `{**}` is another spelling of `**`.
    fn modality_patterns(&mut self, node: &Node) -> Vec<Spanned<String>> {
        let mut node = node.clone();
        let plain = |node: &mut Node| {
            if let crate::tree::NodeKind::Scalar(scalar) = &mut node.kind {
                scalar.text = scalar.text.replace("{**}", "**").into();
            }
        };
        match &mut node.kind {
            crate::tree::NodeKind::Sequence(items) => items.iter_mut().for_each(plain),
            _ => plain(&mut node),
        }
        self.patterns(&node)
    }

    fn modality_output(&mut self, fields: Fields<'_>, inputs: &[String], start: Span) -> Output {
        let (layout, rank, prefer) = (OutputLayout::Omni, None, Vec::new());
        let mut output = Output { layout, rank, prefer, span: start };
        let Some(entry) = fields.entry("output") else { return output };
        output.span = entry.key.span;
        let Some(fields) = self.fields(&entry.value, ModalityOutputKeys::KEYS, "`output`") else {
            return output;
        };
        let layouts = [("omni", OutputLayout::Omni), ("modelcompose", OutputLayout::ModelCompose)];
        if let Some(layout) =
            fields.get("layout").and_then(|node| self.word(node, "`layout`", &layouts))
        {
            output.layout = layout;
        }
        output.rank = fields.get("rank").and_then(|node| self.rank(node));
        let Some(config) = fields.get("config") else { return output };
        let Some(fields) = self.fields(config, ComposedConfigKeys::KEYS, "`config`") else {
            return output;
        };
        if let Some(node) = fields.get("conflict") {
            self.word(node, "`conflict`", &[("error", ())]);
        }
        let preferred = fields.get("prefer").and_then(|node| self.map(node, "`prefer`"));
        for entry in preferred.unwrap_or_default() {
            let key = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
            let Some(name) = self.text(&entry.value, &format!("`{}`", key.value)) else { continue };
            let position = inputs.iter().position(|input| *input == name.value);
            let whose = match position {
                Some(position) => Preferred::Input(position),
                None if name.value == "base" => Preferred::Base,
                None => {
                    self.unknown_modality(&name, inputs, &["base"]);
                    continue;
                }
            };
            output.prefer.push((key, whose));
        }
        output
    }

    /// A name that is none of the modalities', nor one of `others`.
    fn unknown_modality(&mut self, name: &Spanned<String>, inputs: &[String], others: &[&str]) {
        let known: Vec<&str> =
            inputs.iter().map(String::as_str).chain(others.iter().copied()).collect();
        let headline = format!("no modality is called `{}`", name.value);
        let error = Diagnostic::error(codes::UNKNOWN_MODALITY, headline);
        let error = match nearest(&name.value, known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.note(format!("known here: {}", known.join(", "))),
        };
        self.report(name.span, error);
    }

    /// The coefficients of all modalities, in their order.
    fn coefficients(
        &mut self,
        fields: Fields<'_>,
        mode: Mode,
        inputs: &[String],
    ) -> Vec<Spanned<f64>> {
        let equal = 1.0 / inputs.len().max(1) as f64;
        let Some(entry) = fields.entry("coefficients") else {
            let span = Span { line: 1, column: 1, length: 1 };
            return vec![Spanned { value: equal, span }; inputs.len()];
        };
        if mode != Mode::Online {
            let error = Diagnostic::error(
                codes::COEFFICIENTS,
                "`coefficients` have no meaning without `mode: online`",
            );
            let help = "write `mode: online`, or `params: {weight: …}` in each input";
            self.report(entry.key.span, error.help(help));
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut missing: BTreeSet<&String> = inputs.iter().collect();
        for one in self.map(&entry.value, "`coefficients`").unwrap_or_default() {
            let name = Spanned { value: one.key.text.to_string(), span: one.key.span };
            let Some(position) = inputs.iter().position(|input| *input == name.value) else {
                self.unknown_modality(&name, inputs, &[]);
                continue;
            };
            missing.remove(&inputs[position]);
            if let Some(value) = self.number(&one.value, &format!("`{}`", name.value)) {
                found.push((position, value));
            }
        }
        if let (Some(first), Some(_)) = (missing.first(), entry.value.entries()) {
            let headline = format!("`coefficients` say nothing of `{first}`");
            let error = Diagnostic::error(codes::COEFFICIENTS, headline);
            self.report(entry.key.span, error.help("give each modality one; 0 leaves it out"));
        }
        found.sort_by_key(|(position, _)| *position);
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// A finite number.
    fn number(&mut self, node: &Node, what: &str) -> Option<Spanned<f64>> {
        let value = match node.scalar().map(|scalar| scalar.value) {
            Some(ScalarValue::Integer(value)) => Some(value as f64),
            Some(ScalarValue::Float(value)) => Some(value),
            _ => None,
        };
        let value = value.filter(|value| value.is_finite());
        if value.is_none() {
            self.wrong_type(node, what, "a finite number");
        }
        Some(Spanned { value: value?, span: node.span })
    }
}
