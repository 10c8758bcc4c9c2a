//! `like` and `shared_rows` beside a model: whose names its tensors get, and which rows of embeddings mean
//! the same.

use mixdown_diagnostics::{Diagnostic, Span, codes};

use super::reader::{Decoder, Fields};
use crate::recipe::{AdapterOutput, ModelId, ModelReference};
use crate::setting::Spanned;
use crate::tree::Entry;

impl Decoder<'_> {
    /// Notes of all models whose names they get. `entries` are those of the models, in their order.
    pub(super) fn seen_like(&mut self, entries: &[Entry]) {
        let mut found = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            if let Some(entries) = entry.value.entries() {
                let model = ModelId(position as u32);
                found.extend(self.like_of(Fields::of(entries), model).map(|span| (model, span)));
            }
        }
        let refused: Vec<ModelId> = found
            .into_iter()
            .filter(|(model, span)| !self.can_be_like(*model, *span))
            .map(|(model, _)| model)
            .collect();
        for model in refused {
            self.models.list[model.0 as usize].reading.like = None;
        }
    }

    /// Notes whose names a model gets, and tells where that is said.
    fn like_of(&mut self, fields: Fields<'_>, model: ModelId) -> Option<Span> {
        let name = self.text_at(fields, "like");
        let rows = fields.get("shared_rows").and_then(|node| {
            let value = self.count(node, "`shared_rows`")?;
            Some(Spanned { value, span: node.span })
        });
        if let (Some(entry), false) = (fields.entry("shared_rows"), fields.mentions("like")) {
            let error = Diagnostic::error(codes::MISSING_KEY, "`shared_rows` needs `like`");
            let help = "name the model that gives the other rows: `like: NAME`";
            self.report(entry.key.span, error.help(help));
        }
        let name = name?;
        let like = self.declared_model(&name)?.value;
        if like == model {
            let headline = format!("`{}` has its own names already", name.value);
            let error = Diagnostic::error(codes::BAD_REFERENCE, headline);
            self.report(name.span, error.help("name another model, or remove `like`"));
            return None;
        }
        let own = &mut self.models.list[model.0 as usize];
        if matches!(own.reference, ModelReference::Recipe { .. }) {
            // It is refused beside `recipe`.
            return None;
        }
        own.reading.like = Some(like);
        own.shared_rows = rows;
        Some(name.span)
    }

    /// Refuses what does not go with names of another model.
    pub(super) fn check_like(
        &mut self,
        base: Option<&Spanned<ModelId>>,
        has_tokenizer: bool,
        adapter: Option<&AdapterOutput>,
    ) {
        let rows = self.models.list.iter().find_map(|model| model.shared_rows.as_ref());
        if let (Some(span), true) = (rows.map(|rows| rows.span), has_tokenizer) {
            let headline = "`shared_rows` and `tokenizer` both say which rows embeddings get";
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
            self.report(span, error.help("remove one of the two"));
        }
        let (Some(base), Some(adapter)) = (base, adapter) else { return };
        if let Some(other) = self.models.like(base.value) {
            let name = |model: ModelId| &self.models.list[model.0 as usize].name;
            let (base, other) = (name(base.value), name(other));
            let headline = "an adapter on the base cannot have the names of another model";
            let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline)
                .note(format!("`{base}` has the names of `{other}` here"))
                .help(format!("remove `like` from `{base}`, and give the others `like: {base}`"));
            self.report(adapter.span, error);
        }
    }

    /// Refuses names that a model cannot get.
    fn can_be_like(&mut self, model: ModelId, span: Span) -> bool {
        let Some(like) = self.models.like(model) else { return true };
        let other = &self.models.list[like.0 as usize];
        let (headline, help) = match (&other.reference, other.reading.like) {
            (ModelReference::Recipe { .. }, _) => (
                format!("`{}` is the result of a recipe, which has no files", other.name),
                "put a checkpoint with the same names under `models`, and name it".to_owned(),
            ),
            (_, Some(third)) => (
                format!("`{}` has the names of another model itself", other.name),
                match third == model {
                    true => "remove `like` from one of the two".to_owned(),
                    false => {
                        format!("write `like: {}`", self.models.list[third.0 as usize].name)
                    }
                },
            ),
            _ => return true,
        };
        self.report(span, Diagnostic::error(codes::BAD_REFERENCE, headline).help(help));
        false
    }
}
