//! `output:` as a map: what is written.

use mixdown_diagnostics::{Diagnostic, codes};

use super::reader::{Decoder, Fields};
use crate::recipe::{AdapterOutput, GgufOutput, Quantize, QuantizeRule};
use crate::schema::Keys;
use crate::schema::mergekit::{OutputKeys, QuantizeRuleKeys};
use crate::setting::Spanned;
use crate::tree::Node;

/// What `output` says: an adapter, or weights in fewer bits.
pub type OutputForm = (Option<AdapterOutput>, Option<Quantize>, Option<GgufOutput>);

impl Decoder<'_> {
    /// What is written where it is no whole model, or not in the types of its tensors.
    pub fn output_form(&mut self, node: &Node) -> Option<OutputForm> {
        if node.entries().is_none() && !self.is_strict() {
            let headline = "a formula cannot be the `output` of a mergekit configuration";
            let error = Diagnostic::error(codes::WRONG_TYPE, headline);
            self.report(node.span, error.help("begin the file with `mixdown: 1`"));
            return None;
        }
        let fields = self.fields(node, OutputKeys::KEYS, "`output`")?;
        let quantize = fields.get("quantize").map(|node| self.quantize(node));
        let is_adapter = match fields.get("as") {
            Some(form) => self.word(form, "`as`", &[("adapter", true), ("gguf", false)])?,
            None if quantize.is_some() => false,
            None => {
                self.missing_key(node, "as", "`output`");
                return None;
            }
        };
        let is_gguf = !is_adapter && fields.entry("as").is_some();
        if let (true, Some(entry)) = (is_gguf, fields.entry("quantize")) {
            let headline = "`quantize` has no meaning beside `as: gguf`";
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            self.report(
                entry.key.span,
                error.help("`type` says how tensors of GGUF files are written"),
            );
        }
        if let (false, Some(entry)) = (is_gguf, fields.entry("type")) {
            let headline = "`type` has no meaning without `as: gguf`";
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            self.report(entry.key.span, error.help("remove the key, or write `as: gguf`"));
        }
        let mut gguf = None;
        if is_gguf {
            match fields.get("type") {
                Some(text) => {
                    let file_type = self.text(text, "`type`")?;
                    gguf = Some(GgufOutput { file_type, span: node.span });
                }
                None => self.missing_key(node, "type", "`output`"),
            }
        }
        if let (true, Some(entry)) = (is_adapter, fields.entry("quantize")) {
            let headline = "an adapter is not quantized: its factors are few numbers";
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            self.report(entry.key.span, error.help("remove `quantize`, or `as: adapter`"));
        }
        if let (false, Some(entry)) = (is_adapter, fields.entry("rank")) {
            let headline = "`rank` has no meaning where a whole model is written";
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            self.report(entry.key.span, error.help("remove the key, or add `as: adapter`"));
        }
        let rank = match fields.get("rank") {
            Some(node) => Some(self.rank(node)?),
            None => None,
        };
        let adapter = is_adapter.then_some(AdapterOutput { rank, span: node.span });
        Some((adapter, quantize, gguf))
    }

    /// `quantize`: a word, a rule, or rules.
    fn quantize(&mut self, node: &Node) -> Quantize {
        let span = node.span;
        if node.scalar().is_some() {
            let to = self.text(node, "`quantize`");
            let rules = to.map(|to| QuantizeRule::all(to, span)).into_iter().collect();
            return Quantize { rules, span };
        }
        let items = node.items().unwrap_or(std::slice::from_ref(node));
        if items.is_empty() {
            self.error(codes::WRONG_TYPE, span, "an empty list of rules quantizes nothing");
        }
        let rules = items.iter().filter_map(|item| self.quantize_rule(item)).collect();
        Quantize { rules, span }
    }

    fn quantize_rule(&mut self, node: &Node) -> Option<QuantizeRule> {
        const WHAT: &str = "a rule of `quantize`";
        let fields = self.fields(node, QuantizeRuleKeys::KEYS, WHAT)?;
        let tensors = fields.get("tensors").map(|node| self.patterns(node)).unwrap_or_default();
        let layers = fields.get("layers").and_then(|node| self.layers(node, "`layers`"));
        let (modules, roles) = (self.words(fields, "module"), self.words(fields, "role"));
        if fields.entry("to").is_none() {
            self.missing_key(node, "to", WHAT);
            return None;
        }
        let group = fields.get("group").and_then(|node| {
            let value = self.count(node, "`group`")?;
            Some(Spanned { value, span: node.span })
        });
        let symmetric = fields.get("symmetric").and_then(|node| {
            let value = self.boolean(node, "`symmetric`")?;
            Some(Spanned { value, span: node.span })
        });
        let mut text = |key: &str, fields: Fields<'_>| self.text_at(fields, key);
        Some(QuantizeRule {
            tensors,
            layers,
            modules,
            roles,
            to: text("to", fields)?,
            library: text("as", fields),
            scales: text("scales", fields),
            group,
            symmetric,
            fit: text("fit", fields),
            span: node.span,
        })
    }

    /// A number of directions.
    pub(super) fn rank(&mut self, node: &Node) -> Option<Spanned<u32>> {
        let count = self.count(node, "`rank`")?;
        let value = u32::try_from(count).ok().filter(|&rank| rank > 0);
        if value.is_none() {
            let headline = format!("`rank` must be a whole number from 1, found {count}");
            let error = Diagnostic::error(codes::OUT_OF_RANGE, headline);
            let help = "ranks from 8 to 128 are common; left out, every update must be exact";
            self.report(node.span, error.help(help));
        }
        Some(Spanned { value: value?, span: node.span })
    }
}

impl QuantizeRule {
    /// A form for all weights, with its usual settings.
    fn all(to: Spanned<String>, span: mixdown_diagnostics::Span) -> Self {
        Self {
            tensors: Vec::new(),
            layers: None,
            modules: Vec::new(),
            roles: Vec::new(),
            to,
            library: None,
            scales: None,
            group: None,
            symmetric: None,
            fit: None,
            span,
        }
    }
}
