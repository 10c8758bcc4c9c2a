//! `parameters:` at any level: scalars, gradients and conditions.

use mixdown_diagnostics::{Diagnostic, codes};

use super::reader::{Decoder, Fields};
use crate::schema::{ConditionKey, Keys};
use crate::setting::{Condition, NamedSetting, Scalar, Setting, Settings, Spanned};
use crate::tree::{Entry, Node, NodeKind, ScalarValue};

impl Decoder<'_> {
    /// The settings of a key; none if it is not there.
    pub(crate) fn settings_at(&mut self, fields: Fields<'_>, key: &str) -> Settings {
        let Some(node) = fields.get(key) else { return Settings::default() };
        let Some(entries) = self.map(node, &format!("`{key}`")) else { return Settings::default() };
        Settings(entries.iter().filter_map(|entry| self.named_setting(entry)).collect())
    }

    pub(crate) fn named_setting(&mut self, entry: &Entry) -> Option<NamedSetting> {
        let name = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
        if entry.value.items().is_some_and(<[Node]>::is_empty) && !self.is_strict() {
            let warning = Diagnostic::warning(
                codes::COMPATIBILITY,
                format!("an empty list leaves `{}` unset", name.value),
            );
            self.report(entry.value.span, warning);
            return None;
        }
        let setting = self.setting(&entry.value, &name.value)?;
        Some(NamedSetting { name, setting, span: entry.value.span })
    }

    fn setting(&mut self, node: &Node, name: &str) -> Option<Setting> {
        match &node.kind {
            NodeKind::Mapping(_) => Some(Setting::Conditional(vec![self.condition(node, name)?])),
            NodeKind::Sequence(items) if items.iter().any(|item| item.entries().is_some()) => {
                if let Some(odd) = items.iter().find(|item| item.entries().is_none()) {
                    let headline = format!(
                        "`{name}` mixes conditions with other values, found {}",
                        odd.describe()
                    );
                    let error = Diagnostic::error(codes::WRONG_TYPE, headline);
                    self.report(
                        odd.span,
                        error.help("for all other tensors write `- value: …` at the end"),
                    );
                    return None;
                }
                // All are looked at, so that all mistakes are reported.
                let conditions: Vec<_> =
                    items.iter().map(|item| self.condition(item, name)).collect();
                conditions.into_iter().collect::<Option<Vec<_>>>().map(Setting::Conditional)
            }
            _ => self.scalar_or_gradient(node, name),
        }
    }

    fn condition(&mut self, node: &Node, name: &str) -> Option<Condition> {
        let fields = self.fields(node, ConditionKey::KEYS, "a condition")?;
        let filter = self.text_at(fields, "filter");
        let Some(value) = fields.get("value") else {
            if !(self.is_strict() && fields.mentions("value")) {
                self.missing_key(node, "value", &format!("a condition of `{name}`"));
            }
            return None;
        };
        let value = self.scalar_or_gradient(value, name)?;
        Some(Condition { filter, value })
    }

    fn scalar_or_gradient(&mut self, node: &Node, name: &str) -> Option<Setting> {
        match &node.kind {
            NodeKind::Sequence(items) if items.is_empty() => {
                let error = Diagnostic::error(
                    codes::WRONG_TYPE,
                    format!("the gradient of `{name}` has no knots"),
                );
                self.report(node.span, error.help("write one number or more"));
                None
            }
            NodeKind::Sequence(items) => {
                let knots: Vec<_> = items.iter().map(|item| self.scalar(item, name)).collect();
                knots.into_iter().collect::<Option<Vec<_>>>().map(Setting::Gradient)
            }
            _ => self.scalar(node, name).map(Setting::Scalar),
        }
    }

    /// A single value.
    pub(crate) fn scalar(&mut self, node: &Node, name: &str) -> Option<Spanned<Scalar>> {
        let value = scalar_of(node);
        if value.is_none() {
            self.wrong_type(node, &format!("`{name}`"), "a number, text or a truth value");
        }
        Some(Spanned { value: value?, span: node.span })
    }
}

/// A single value, if there is one.
pub(crate) fn scalar_of(node: &Node) -> Option<Scalar> {
    let scalar = node.scalar()?;
    match scalar.value {
        ScalarValue::Null => None,
        ScalarValue::Boolean(value) => Some(Scalar::Boolean(value)),
        // Parameters are real numbers; beyond 2^53 neighbors cannot be told apart, which no method needs.
        ScalarValue::Integer(value) => Some(Scalar::Number(value as f64)),
        ScalarValue::Float(value) => Some(Scalar::Number(value)),
        ScalarValue::Text => Some(Scalar::Text(scalar.text.to_string())),
    }
}
