//! `output:` as a map: what is written.

use mixdown_diagnostics::{Diagnostic, codes};

use super::reader::Decoder;
use crate::recipe::AdapterOutput;
use crate::schema::Keys;
use crate::schema::mergekit::OutputKeys;
use crate::setting::Spanned;
use crate::tree::Node;

impl Decoder<'_> {
    /// What is written where it is no whole model.
    pub fn output_form(&mut self, node: &Node) -> Option<AdapterOutput> {
        if node.entries().is_none() && !self.is_strict() {
            let headline = "a formula cannot be the `output` of a mergekit configuration";
            let error = Diagnostic::error(codes::WRONG_TYPE, headline);
            self.report(node.span, error.help("begin the file with `mixdown: 1`"));
            return None;
        }
        let fields = self.fields(node, OutputKeys::KEYS, "`output`")?;
        match fields.get("as") {
            Some(form) => self.word(form, "`as`", &[("adapter", ())])?,
            None => {
                self.missing_key(node, "as", "`output`");
                return None;
            }
        }
        let rank = match fields.get("rank") {
            Some(node) => Some(self.rank(node)?),
            None => None,
        };
        Some(AdapterOutput { rank, span: node.span })
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
