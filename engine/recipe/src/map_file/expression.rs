//! What tensors of a map's target are made of: the key `from`.

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, codes};

use super::Scope;
use crate::decode::reader::{Decoder, Fields};
use crate::map::{Attention, Cut, MapExpression, MapExpressionKind, MapSize, Origin, Slicing};
use crate::schema::Keys;
use crate::schema::map::PadRowsKeys;
use crate::setting::Spanned;
use crate::tree::{Node, ScalarValue};

/// The keys that say what an expression is, each with those that may stand beside it.
const FORMS: &[(&str, &[&str])] = &[
    ("concat", &["dim"]),
    ("slice", &["dim", "part", "parts", "sizes"]),
    ("transpose", &[]),
    ("pad_rows", &[]),
    ("mean", &[]),
    ("stack", &["dim"]),
    ("ungroup_qkv", &["part"]),
    ("first_of", &[]),
];

impl Decoder<'_> {
    /// What a rule makes its tensors of.
    pub(super) fn origin(&mut self, node: &Node, scope: &Scope<'_>) -> Option<Origin> {
        match node.scalar().map(|scalar| &*scalar.text) {
            Some("keep") => return Some(Origin::Keep),
            Some("zero") => return Some(Origin::Zero),
            _ => {}
        }
        if node.get("pad_rows").is_some() {
            let (_, inner) = self.expression_fields(node, "pad_rows", &[])?;
            let fields = self.fields(inner, PadRowsKeys::KEYS, "`pad_rows`")?;
            if !fields.mentions("rows") {
                self.missing_key(inner, "rows", "`pad_rows`");
            }
            let take = match fields.get("take") {
                Some(node) => Some(self.map_size(node, scope)?),
                None => None,
            };
            let rows = self.map_expression(fields.get("rows")?, scope)?;
            return Some(Origin::Rows(rows, take));
        }
        self.map_expression(node, scope).map(Origin::Expression)
    }

    fn map_expression(&mut self, node: &Node, scope: &Scope<'_>) -> Option<MapExpression> {
        let kind = match node.entries() {
            Some(_) => self.form(node, scope)?,
            None if node.items().is_some() => {
                let headline = "a list says not what becomes of its items";
                let error = Diagnostic::error(codes::WRONG_TYPE, headline);
                let help =
                    "write `{concat: […]}`, `{mean: […]}`, `{stack: […]}` or `{first_of: […]}`";
                self.report(node.span, error.help(help));
                return None;
            }
            None => MapExpressionKind::Tensor(self.name_template(node, scope)?),
        };
        Some(MapExpression { kind, span: node.span })
    }

    fn form(&mut self, node: &Node, scope: &Scope<'_>) -> Option<MapExpressionKind> {
        let entries = node.entries().unwrap_or_default();
        let is_head = |key: &str| FORMS.iter().find(|(head, _)| *head == key);
        let mut heads = entries.iter().filter_map(|entry| is_head(&entry.key.text));
        let Some(&(head, others)) = heads.next() else {
            let known: Vec<&str> = FORMS.iter().map(|(head, _)| *head).collect();
            let error = Diagnostic::error(codes::UNKNOWN_KEY, "this is no expression of maps");
            let near =
                entries.iter().find_map(|entry| nearest(&entry.key.text, known.iter().copied()));
            let error = match near {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.note(format!("it has one of the keys {}", known.join(", "))),
            };
            self.report(entries.first().map_or(node.span, |entry| entry.key.span), error);
            return None;
        };
        if head == "pad_rows" {
            let headline = "`pad_rows` stands only at the top of `from`";
            self.error(codes::CONFLICTING_KEYS, node.span, headline);
            return None;
        }
        let (fields, inner) = self.expression_fields(node, head, others)?;
        match head {
            "concat" => {
                let axis = self.axis(fields, 1)?;
                Some(MapExpressionKind::Concat(self.expressions(inner, head, scope)?, axis))
            }
            "mean" => Some(MapExpressionKind::Mean(self.expressions(inner, head, scope)?)),
            "stack" => {
                self.axis(fields, 0)?;
                let is_one = inner.items().is_some_and(|items| items.len() == 1);
                let scope = Scope { is_stacked: is_one, ..*scope };
                Some(MapExpressionKind::Stack(self.expressions(inner, head, &scope)?))
            }
            "slice" => {
                let (axis, slicing) = (self.axis(fields, 1), self.slicing(node, fields, scope));
                let inner = self.map_expression(inner, scope)?;
                Some(MapExpressionKind::Slice(Box::new(inner), axis?, slicing?))
            }
            "transpose" => {
                let inner = self.map_expression(inner, scope)?;
                Some(MapExpressionKind::Transpose(Box::new(inner)))
            }
            "ungroup_qkv" => {
                if !fields.mentions("part") {
                    self.missing_key(node, "part", "`ungroup_qkv`");
                }
                let words =
                    [("q", Attention::Query), ("k", Attention::Key), ("v", Attention::Value)];
                let part = fields.get("part").and_then(|node| self.word(node, "`part`", &words));
                let inner = self.map_expression(inner, scope)?;
                Some(MapExpressionKind::Ungroup(Box::new(inner), part?))
            }
            _ => {
                let items = self.items(inner, head)?;
                let names = items.iter().map(|item| self.name_template(item, scope));
                // All of them are looked at, so that all mistakes are told.
                let names: Vec<_> = names.collect();
                Some(MapExpressionKind::FirstOf(names.into_iter().collect::<Option<_>>()?))
            }
        }
    }

    fn items<'t>(&mut self, node: &'t Node, head: &str) -> Option<&'t [Node]> {
        let items = self.list(node, &format!("`{head}`"))?;
        if items.is_empty() {
            let headline = format!("`{head}` of nothing is nothing");
            self.error(codes::WRONG_TYPE, node.span, headline);
            return None;
        }
        Some(items)
    }

    fn expressions(
        &mut self,
        node: &Node,
        head: &str,
        scope: &Scope<'_>,
    ) -> Option<Vec<MapExpression>> {
        let items = self.items(node, head)?;
        let found: Vec<_> = items.iter().map(|item| self.map_expression(item, scope)).collect();
        found.into_iter().collect()
    }

    /// `dim`, 0 if it is left out.
    fn axis(&mut self, fields: Fields<'_>, most: u8) -> Option<u8> {
        let Some(node) = fields.get("dim") else { return Some(0) };
        let value = self.count(node, "`dim`")?;
        match u8::try_from(value) {
            Ok(value) if value <= most => Some(value),
            _ => {
                let range = if most == 0 { "0" } else { "0 or 1" };
                let headline = format!("`dim` must be {range}, found {value}");
                self.error(codes::OUT_OF_RANGE, node.span, headline);
                None
            }
        }
    }

    fn slicing(&mut self, node: &Node, fields: Fields<'_>, scope: &Scope<'_>) -> Option<Slicing> {
        if !fields.mentions("part") {
            self.missing_key(node, "part", "`slice`");
        }
        let cut = match (fields.entry("parts"), fields.entry("sizes")) {
            (Some(_), Some(second)) => {
                let headline = "`parts` and `sizes` exclude each other";
                self.error(codes::CONFLICTING_KEYS, second.key.span, headline);
                return None;
            }
            (Some(parts), None) => Cut::Equal(self.count(&parts.value, "`parts`")?),
            (None, Some(sizes)) => {
                let items = self.list(&sizes.value, "`sizes`")?;
                let found: Vec<_> = items.iter().map(|item| self.map_size(item, scope)).collect();
                Cut::Sizes(found.into_iter().collect::<Option<_>>()?)
            }
            (None, None) => {
                let error = Diagnostic::error(codes::MISSING_KEY, "`slice` has no `parts`");
                let help = "say into how many equal `parts` it is cut, or into which `sizes`";
                self.report(node.span, error.help(help));
                return None;
            }
        };
        let part_node = fields.get("part")?;
        let part = self.count(part_node, "`part`")?;
        let count = match &cut {
            Cut::Equal(count) => *count,
            Cut::Sizes(sizes) => sizes.len() as u64,
        };
        if part >= count {
            let error = Diagnostic::error(
                codes::OUT_OF_RANGE,
                format!("there is no part {part} of {count}"),
            );
            self.report(part_node.span, error.help("parts count from 0"));
            return None;
        }
        Some(Slicing { part, cut })
    }

    fn map_size(&mut self, node: &Node, scope: &Scope<'_>) -> Option<MapSize> {
        if let Some(ScalarValue::Integer(_)) = node.scalar().map(|scalar| scalar.value) {
            return self.count(node, "a size").map(MapSize::Number);
        }
        let name: Spanned<String> = self.text(node, "a size")?;
        let own = scope.numbers.iter().map(|(name, _)| name.as_str());
        let known: Vec<&str> = own.chain(MapSize::KNOWN.iter().map(|(name, _)| *name)).collect();
        if known.contains(&name.value.as_str()) {
            return Some(MapSize::Name(name));
        }
        let headline = format!("there is no size `{}`", name.value);
        let error = Diagnostic::error(codes::UNKNOWN_NAME, headline);
        let error = match nearest(&name.value, known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error
                .note(format!("known: {}", known.join(", ")))
                .help("state it under `let: {NAME: NUMBER}`"),
        };
        self.report(name.span, error);
        None
    }
}
