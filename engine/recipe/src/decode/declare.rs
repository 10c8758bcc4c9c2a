//! `declare:` of a strict recipe, and `$name` wherever a single value stands.

use std::collections::HashMap;

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, codes};

use super::reader::Decoder;
use crate::method::Parameter;
use crate::tree::{Entry, Node, NodeKind, ScalarValue};

/// What a recipe declares.
#[derive(Default)]
pub(crate) struct Declared {
    /// Those that a method of the recipe's own can have; texts are not among them.
    pub parameters: Vec<Parameter>,
    /// The default of each name, as it is written.
    values: HashMap<String, Node>,
    /// Their names.
    pub names: Vec<String>,
}

/// Keys whose values are formulas or declarations, in which `$` means nothing.
const UNTOUCHED: &[&str] = &["declare", "steps", "output"];

impl Decoder<'_> {
    /// Reads `declare:` of the outermost map.
    pub(crate) fn declared(&mut self, root: &Node) -> Declared {
        let mut declared = Declared::default();
        let Some(node) = root.get("declare") else { return declared };
        for entry in self.map(node, "`declare`").unwrap_or_default() {
            let name = entry.key.text.to_string();
            declared.names.push(name.clone());
            let value = match entry.value.entries() {
                Some(_) => entry.value.get("default"),
                None => Some(&entry.value),
            };
            if let Some(value) = value {
                declared.values.insert(name, value.clone());
            }
            declared.parameters.extend(self.declaration(entry));
        }
        declared
    }

    /// The tree with every `$name` replaced by what is declared.
    pub(crate) fn substitute(&mut self, root: &Node, declared: &Declared) -> Node {
        let mut root = root.clone();
        if let NodeKind::Mapping(entries) = &mut root.kind {
            self.substitute_entries(entries, declared);
        }
        root
    }

    fn substitute_entries(&mut self, entries: &mut [Entry], declared: &Declared) {
        for entry in entries.iter_mut().filter(|entry| !UNTOUCHED.contains(&&*entry.key.text)) {
            self.substitute_node(&mut entry.value, declared);
        }
    }

    fn substitute_node(&mut self, node: &mut Node, declared: &Declared) {
        let span = node.span;
        let scalar = match &mut node.kind {
            NodeKind::Mapping(entries) => return self.substitute_entries(entries, declared),
            NodeKind::Sequence(items) => {
                return items.iter_mut().for_each(|item| self.substitute_node(item, declared));
            }
            NodeKind::Scalar(scalar) => scalar,
        };
        let Some(name) = scalar.text.strip_prefix('$') else { return };
        if let Some(rest) = name.strip_prefix('$') {
            // `$$x` is the text `$x`.
            scalar.text = format!("${rest}").into();
            return;
        }
        let name = name.to_owned();
        if let Some(value) = declared.values.get(&name) {
            // The place stays where the name is used: that is where the value has its meaning.
            node.kind = value.kind.clone();
            return;
        }
        let error = if declared.names.contains(&name) {
            Diagnostic::error(codes::MISSING_PARAMETER, format!("`{name}` has no value"))
                .help(format!("give it a default under `declare`, or run with `--set {name}=…`"))
        } else {
            let error = Diagnostic::error(codes::UNKNOWN_NAME, format!("`{name}` is not declared"));
            match nearest(&name, declared.names.iter()) {
                Some(near) => error.help(format!("did you mean `${near}`?")),
                None => error.help(format!(
                    "declare it at the top: `declare: {{{name}: …}}`; for the text itself write `$${name}`"
                )),
            }
        };
        self.report(span, error);
        // What follows from the missing value has the same place, and is left out of the report.
        scalar.text = "".into();
        scalar.value = ScalarValue::Text;
    }
}
