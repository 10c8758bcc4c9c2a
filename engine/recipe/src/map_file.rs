//! Map files: YAML to an [`ArchitectureMap`].

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, Source, any_error, codes, sort};

use crate::decode::reader::{Decoder, Fields};
use crate::expression::span_between;
use crate::map::{ArchitectureMap, MapRule, NameTemplate, Origin, Policy};
use crate::pattern::{Pattern, PatternError};
use crate::recipe::Form;
use crate::schema::Keys;
use crate::schema::map::{MapKeys, MapRuleKeys};
use crate::setting::Spanned;
use crate::tree::{Dialect, Node, ScalarValue};
use crate::yaml;

mod expression;

/// Reads a map.
///
/// **Errors.** Every mistake in the file.
pub fn read_map(source: &Source) -> Result<ArchitectureMap, Vec<Diagnostic>> {
    let tree = yaml::parse(source, Some(Dialect::Yaml12))?;
    let mut decoder = Decoder::new(source, Form::Strict);
    let map = decoder.map_file(&tree.root);
    let mut diagnostics = decoder.diagnostics;
    sort(&mut diagnostics);
    match map {
        Some(map) if !any_error(&diagnostics) => Ok(map),
        _ => Err(diagnostics),
    }
}

/// What the expressions of a map may name.
struct Scope<'a> {
    /// Parts that `to` names.
    parts: &'a [String],
    /// Names under `let`.
    numbers: &'a [(String, u64)],
    /// Whether `{e}` counts the items of a stack.
    is_stacked: bool,
}

impl Decoder<'_> {
    fn map_file(&mut self, root: &Node) -> Option<ArchitectureMap> {
        let fields = self.fields(root, MapKeys::KEYS, "a map")?;
        for key in ["mixdown_map", "name", "target", "source", "rules"] {
            if !fields.mentions(key) {
                self.missing_key(root, key, "a map");
            }
        }
        if let Some(node) = fields.get("mixdown_map")
            && node.scalar().map(|scalar| scalar.value) != Some(ScalarValue::Integer(1))
        {
            let headline =
                format!("this program reads maps of version 1, found {}", node.describe());
            self.error(codes::WRONG_TYPE, node.span, headline);
        }
        let name = self.text_at(fields, "name");
        let summary = self.text_at(fields, "summary").map(|text| text.value);
        let (target, source) = (self.text_at(fields, "target"), self.text_at(fields, "source"));
        let policy = fields.get("policy").and_then(|node| self.policy(node));
        let numbers = fields.get("let").map(|node| self.numbers(node)).unwrap_or_default();
        let numbers: Vec<(String, u64)> =
            numbers.into_iter().map(|(name, value)| (name.value, value)).collect();
        let mut rules = Vec::new();
        if let Some(items) = fields.get("rules").and_then(|node| self.list(node, "`rules`")) {
            rules.extend(items.iter().filter_map(|item| self.map_rule(item, &numbers)));
        }
        let mut unused = Vec::new();
        if let Some(node) = fields.get("unused") {
            let items = node.items().unwrap_or(std::slice::from_ref(node));
            unused.extend(items.iter().filter_map(|item| self.map_pattern(item)));
        }
        Some(ArchitectureMap {
            name: name?,
            summary,
            target: target?,
            source: source?,
            policy: policy.unwrap_or(Policy::MainText),
            numbers,
            rules,
            unused,
            file: self.source.clone(),
        })
    }

    /// `main-text` or `appendix-b`.
    pub(crate) fn policy(&mut self, node: &Node) -> Option<Policy> {
        self.word(node, "`policy`", Policy::WORDS)
    }

    /// Numbers by name.
    pub(crate) fn numbers(&mut self, node: &Node) -> Vec<(Spanned<String>, u64)> {
        let mut found = Vec::new();
        for entry in self.map(node, "`let`").unwrap_or_default() {
            let name = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
            let value = self.count(&entry.value, &format!("`{}`", name.value));
            found.extend(value.map(|value| (name, value)));
        }
        found
    }

    fn map_rule(&mut self, node: &Node, numbers: &[(String, u64)]) -> Option<MapRule> {
        let fields = self.fields(node, MapRuleKeys::KEYS, "a rule of a map")?;
        if !fields.mentions("to") {
            self.missing_key(node, "to", "a rule of a map");
        }
        let words = [("matched", false), ("unmatched", true)];
        let extra = fields.get("extra").and_then(|node| self.word(node, "`extra`", &words));
        let to_node = fields.get("to")?;
        let to = self.map_pattern(to_node)?;
        let from_node = fields.get("from");
        let from = match from_node {
            None => Origin::Same,
            Some(node) => {
                let scope = Scope { parts: to.names(), numbers, is_stacked: false };
                self.origin(node, &scope)?
            }
        };
        if let (Origin::Keep, Some(entry)) = (&from, fields.entry("extra")) {
            let headline = "`extra` has no meaning beside `from: keep`";
            self.error(codes::CONFLICTING_KEYS, entry.key.span, headline);
        }
        Some(MapRule {
            to,
            from,
            is_unmatched_extra: extra.unwrap_or(false),
            span: to_node.span,
            from_span: from_node.map_or(to_node.span, |node| node.span),
        })
    }

    /// A pattern of a map.
    fn map_pattern(&mut self, node: &Node) -> Option<Pattern> {
        let text = self.text(node, "a pattern")?;
        match Pattern::for_map(&text.value) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                self.bad_pattern(node, error);
                None
            }
        }
    }

    fn bad_pattern(&mut self, node: &Node, error: PatternError) {
        let places = node.text_places(self.source);
        let mut diagnostic = Diagnostic::error(codes::BAD_PATTERN, error.message);
        diagnostic.help = error.help;
        self.report(span_between(&places, error.start, error.end), diagnostic);
    }

    /// The name of a tensor of the source, whose parts `to` must name.
    fn name_template(&mut self, node: &Node, scope: &Scope<'_>) -> Option<NameTemplate> {
        let text = self.text(node, "the name of a tensor")?;
        if let "keep" | "zero" = text.value.as_str() {
            let headline = format!("`{}` stands only at the top of `from`", text.value);
            self.error(codes::CONFLICTING_KEYS, node.span, headline);
            return None;
        }
        let name = match NameTemplate::new(&text.value) {
            Ok(name) => name,
            Err(error) => {
                self.bad_pattern(node, error);
                return None;
            }
        };
        let is_known = |part: &str| {
            scope.parts.iter().any(|known| known == part) || (scope.is_stacked && part == "e")
        };
        let Some(unknown) = name.parts().find(|part| !is_known(part)) else { return Some(name) };
        let headline = format!("`to` has no part `{unknown}`");
        let mut error = Diagnostic::error(codes::UNKNOWN_NAME, headline);
        let known = scope.parts.iter().map(String::as_str);
        error = match nearest(unknown, known.clone()) {
            Some(near) => error.help(format!("did you mean `{{{near}}}`?")),
            None if scope.parts.is_empty() => error.note("it names no parts"),
            None => {
                let list: Vec<String> = known.map(|part| format!("`{{{part}}}`")).collect();
                error.note(format!("its parts are {}", list.join(", ")))
            }
        };
        self.report(node.span, error);
        None
    }

    /// The keys of an expression, of which `head` is the one that says what it is.
    fn expression_fields<'t>(
        &mut self,
        node: &'t Node,
        head: &'static str,
        others: &[&'static str],
    ) -> Option<(Fields<'t>, &'t Node)> {
        let mut keys = vec![head];
        keys.extend(others);
        let fields = self.fields(node, &keys, &format!("`{head}`"))?;
        Some((fields, fields.get(head)?))
    }
}

#[cfg(test)]
mod tests;
