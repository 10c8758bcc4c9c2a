//! `rules:` of a strict recipe: which tensors, and what becomes of them.

use mixdown_diagnostics::{Diagnostic, codes};

use super::body::add_missing;
use super::declare::Declared;
use super::reader::{Decoder, Fields};
use crate::expression::span_between;
use crate::pattern::Pattern;
use crate::recipe::{Action, Attached, ModelId, Rule, SourceModel};
use crate::schema::Keys;
use crate::schema::strict::{ExpertKeys, RuleKeys};
use crate::setting::{Settings, Spanned};
use crate::tree::Node;

/// Keys that say how tensors are merged, and so exclude `keep` and `drop`.
const MERGE_KEYS: &[&str] = &[
    "method",
    "merge_method",
    "base",
    "base_model",
    "reference",
    "experts",
    "parameters",
    "out_dtype",
    "declare",
    "inputs",
    "steps",
    "output",
];

impl Decoder<'_> {
    /// The rules; `has_method` says whether the recipe names a method for rules that name none.
    pub(crate) fn rules(
        &mut self,
        node: &Node,
        has_method: bool,
        declared: &Declared,
    ) -> Vec<Rule> {
        let items = self.list(node, "`rules`").unwrap_or_default();
        items.iter().filter_map(|item| self.rule(item, has_method, declared)).collect()
    }

    fn rule(&mut self, node: &Node, has_method: bool, declared: &Declared) -> Option<Rule> {
        let fields = self.fields(node, RuleKeys::KEYS, "a rule")?;
        let tensors = match fields.get("tensors") {
            Some(node) => self.patterns(node),
            None => Vec::new(),
        };
        let layers = fields.get("layers").and_then(|node| self.layers(node, "`layers`"));
        let (modules, roles) = (self.words(fields, "module"), self.words(fields, "role"));
        let action = self.action(node, fields, has_method, declared)?;
        let span = node.span;
        Some(Rule { tensors, layers, modules, roles, action, implied: None, span })
    }

    /// A word, or several.
    pub(super) fn words(&mut self, fields: Fields<'_>, key: &str) -> Vec<Spanned<String>> {
        if let Some(node) =
            fields.get(key).filter(|node| node.items().is_some_and(<[Node]>::is_empty))
        {
            let headline = format!("a rule with an empty list under `{key}` matches nothing");
            let error = Diagnostic::error(codes::WRONG_TYPE, headline);
            self.report(node.span, error.help("without the key the rule is for all of them"));
        }
        self.texts(fields, key)
    }

    /// A pattern, or a list of them.
    pub fn patterns(&mut self, node: &Node) -> Vec<Spanned<String>> {
        let items = node.items().unwrap_or(std::slice::from_ref(node));
        if items.is_empty() {
            self.error(
                codes::BAD_PATTERN,
                node.span,
                "a rule with an empty list of patterns matches nothing",
            );
        }
        items.iter().filter_map(|item| self.pattern(item)).collect()
    }

    fn pattern(&mut self, node: &Node) -> Option<Spanned<String>> {
        let text = self.text(node, "a pattern")?;
        if let Err(error) = Pattern::new(&text.value) {
            let places = node.text_places(self.source);
            let mut diagnostic = Diagnostic::error(codes::BAD_PATTERN, error.message);
            diagnostic.help = error.help;
            self.report(span_between(&places, error.start, error.end), diagnostic);
            return None;
        }
        Some(text)
    }

    fn action(
        &mut self,
        node: &Node,
        fields: Fields<'_>,
        has_method: bool,
        declared: &Declared,
    ) -> Option<Action> {
        for alone in ["keep", "drop"] {
            let Some(entry) = fields.entry(alone) else { continue };
            let others = ["drop"].iter().chain(MERGE_KEYS).filter(|key| **key != alone);
            for other in others.filter_map(|key| fields.entry(key)) {
                let headline = format!("`{}` has no meaning beside `{alone}`", other.key.text);
                let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
                self.report(
                    other.key.span,
                    error.help("a rule keeps, drops or merges; write two rules"),
                );
            }
            if alone == "keep" {
                return self.model(&entry.value, "`keep`").map(Action::Keep);
            }
            if !self.boolean(&entry.value, "`drop`")? {
                let error = Diagnostic::error(codes::WRONG_TYPE, "`drop: false` says nothing");
                self.report(entry.value.span, error.help("remove the key"));
                return None;
            }
            return Some(Action::Drop);
        }
        let method = self
            .either(fields, "method", "merge_method")
            .and_then(|node| self.text(node, "`method`"));
        let inline_method = self.inline_method(fields, declared, true);
        if let (Some(method), Some(_)) = (&method, &inline_method) {
            self.method_and_steps(method.span);
        }
        if method.is_none() && inline_method.is_none() && !has_method && !mentions_method(fields) {
            let error = Diagnostic::error(
                codes::MISSING_KEY,
                "this rule does not say what becomes of its tensors",
            );
            self.report(node.span, error.help("add `keep: MODEL`, `drop: true` or `method: NAME`"));
            return None;
        }
        let base =
            self.either(fields, "base", "base_model").and_then(|node| self.model(node, "`base`"));
        let reference = fields.get("reference").and_then(|node| self.model(node, "`reference`"));
        let experts = fields.get("experts").map(|node| self.experts(node));
        let settings = self.settings_at(fields, "parameters");
        let out_dtype = self.text_at(fields, "out_dtype");
        Some(Action::Merge {
            method,
            inline_method: inline_method.map(Box::new),
            base,
            reference,
            experts,
            settings,
            out_dtype,
        })
    }

    fn experts(&mut self, node: &Node) -> Vec<SourceModel> {
        if let Some(entries) = node.entries() {
            let mut experts = Vec::new();
            for entry in entries {
                let name = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
                let what = format!("expert `{}`", name.value);
                let fields = match entry.value.is_null() {
                    true => None,
                    false => self.fields(&entry.value, ExpertKeys::KEYS, &what),
                };
                let settings = fields.map(|fields| self.settings_at(fields, "parameters"));
                let model = if self.models.named {
                    self.declared_model(&name)
                } else {
                    let mut node = entry.value.clone();
                    node.span = entry.key.span;
                    node.kind = crate::tree::NodeKind::Scalar(crate::tree::YamlScalar {
                        text: entry.key.text.clone(),
                        value: crate::tree::ScalarValue::Text,
                        style: crate::tree::Style::Plain,
                    });
                    self.model(&node, "an expert")
                };
                // After the model, so that it is not the first of the recipe.
                let like = model.as_ref().and_then(|model| self.models.like(model.value));
                let attached = fields.map(|fields| self.attached(fields, like)).unwrap_or_default();
                let settings = settings.unwrap_or_default();
                experts.extend(model.map(|model| self.expert(model, settings, attached)));
            }
            return experts;
        }
        let items = self.list(node, "`experts`").unwrap_or_default();
        if node.items().is_some_and(<[Node]>::is_empty) {
            let error = Diagnostic::error(
                codes::WRONG_INPUTS,
                "a rule with an empty list of experts merges nothing",
            );
            self.report(
                node.span,
                error.help("without the key all models but the base are experts"),
            );
        }
        let models: Vec<_> =
            items.iter().filter_map(|item| self.model(item, "an expert")).collect();
        let plain = |model| self.expert(model, Settings::default(), Attached::default());
        models.into_iter().map(plain).collect()
    }

    /// An expert; what is written beside the model under `models` counts where the rule says nothing.
    fn expert(
        &self,
        model: Spanned<ModelId>,
        mut settings: Settings,
        attached: Attached,
    ) -> SourceModel {
        let position = model.value.0 as usize;
        add_missing(&mut settings, self.models.list[position].settings.clone());
        let attached = attached.or(&self.models.list[position].attached);
        SourceModel { model, layers: None, settings, attached }
    }

    /// Both a method's name and steps are given.
    pub(crate) fn method_and_steps(&mut self, span: mixdown_diagnostics::Span) {
        let error =
            Diagnostic::error(codes::CONFLICTING_KEYS, "`method` and formulas exclude each other");
        self.report(span, error.help("remove `method`, or `steps` and `output`"));
    }
}

fn mentions_method(fields: Fields<'_>) -> bool {
    ["method", "merge_method", "steps", "output"].iter().any(|key| fields.mentions(key))
}
