//! `tokenizer` and `tokenizer_source`: where the vocabulary comes from.

use mixdown_diagnostics::{Diagnostic, codes};

use super::reader::{Decoder, Fields};
use crate::recipe::{TokenRule, TokenSource, Tokenizer, Vocabulary};
use crate::schema::Keys;
use crate::schema::mergekit::{TokenKeys, TokenSourceKeys, TokenizerKeys};
use crate::setting::Spanned;
use crate::tree::{Entry, Node, NodeKind};

impl Decoder<'_> {
    pub(crate) fn tokenizer(&mut self, fields: Fields<'_>) -> Option<Tokenizer> {
        let short = fields.entry("tokenizer_source");
        let long = fields.entry("tokenizer");
        match (short, long) {
            (Some(_), Some(long)) => {
                let headline = "`tokenizer` and `tokenizer_source` exclude each other";
                let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
                self.report(
                    long.key.span,
                    error.help("write the source as `source` within `tokenizer`"),
                );
                None
            }
            (Some(short), None) => {
                let vocabulary = self.vocabulary(&short.value)?;
                let span = short.key.span;
                Some(Tokenizer { vocabulary, tokens: Vec::new(), pad_to_multiple_of: None, span })
            }
            (None, Some(long)) => self.long_tokenizer(long),
            (None, None) => None,
        }
    }

    fn long_tokenizer(&mut self, entry: &Entry) -> Option<Tokenizer> {
        let fields = self.fields(&entry.value, TokenizerKeys::KEYS, "`tokenizer`")?;
        let vocabulary = match fields.get("source") {
            Some(node) => self.vocabulary(node),
            None => Some(Vocabulary::Union),
        };
        let tokens = match fields.get("tokens") {
            Some(node) => self.map(node, "`tokens`").unwrap_or_default(),
            None => &[],
        };
        let tokens: Vec<TokenRule> = tokens.iter().filter_map(|entry| self.token(entry)).collect();
        let pad_to_multiple_of = fields.get("pad_to_multiple_of").and_then(|node| {
            let value = self.count(node, "`pad_to_multiple_of`")?;
            if value == 0 && self.is_strict() {
                self.error(
                    codes::OUT_OF_RANGE,
                    node.span,
                    "`pad_to_multiple_of` must be at least 1, found 0",
                );
            }
            // In mergekit's form 0 is no padding.
            (value > 0).then_some(value)
        });
        Some(Tokenizer {
            vocabulary: vocabulary?,
            tokens,
            pad_to_multiple_of,
            span: entry.key.span,
        })
    }

    fn vocabulary(&mut self, node: &Node) -> Option<Vocabulary> {
        let text = node.scalar().map_or("", |scalar| &*scalar.text);
        // In a strict recipe a model may be called `base`, which is then meant.
        let is_model = self.models.named && self.models.by_name(text).is_some();
        match text {
            "union" if !is_model => return Some(Vocabulary::Union),
            "base" if !is_model => return Some(Vocabulary::Base),
            _ => {}
        }
        if let Some(path) = text.strip_prefix("model:").filter(|_| !self.is_strict()) {
            let headline = "`model:` before a path is an old spelling and is left out";
            let warning = Diagnostic::warning(codes::COMPATIBILITY, headline);
            self.report(node.span, warning.help(format!("write `{path}`")));
            let mut stripped = node.clone();
            if let NodeKind::Scalar(scalar) = &mut stripped.kind {
                scalar.text = path.into();
            }
            return self
                .model(&stripped, "`tokenizer_source`")
                .map(|model| Vocabulary::Model(model.value));
        }
        self.model(node, "the source of the tokenizer").map(|model| Vocabulary::Model(model.value))
    }

    fn token(&mut self, entry: &Entry) -> Option<TokenRule> {
        let token = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
        let what = format!("token `{}`", token.value);
        let fields = self.fields(&entry.value, TokenKeys::KEYS, &what)?;
        let force =
            fields.get("force").and_then(|node| self.boolean(node, "`force`")).unwrap_or(false);
        let source = match fields.get("source") {
            Some(node) => Some(self.token_source(node, &what)?),
            None => None,
        };
        Some(TokenRule { token, source, force })
    }

    fn token_source(&mut self, node: &Node, what: &str) -> Option<TokenSource> {
        let Some(kind) = node.get("kind") else {
            return self
                .model(node, &format!("the source of {what}"))
                .map(|model| TokenSource::Model(model.value));
        };
        let fields = self.fields(node, TokenSourceKeys::KEYS, &format!("the source of {what}"))?;
        let is_zero = self.word(kind, "`kind`", &[("zero", true), ("model_token", false)])?;
        if is_zero {
            return Some(TokenSource::Zero);
        }
        let Some(model) = fields.get("model") else {
            self.missing_key(node, "model", &format!("the source of {what}"));
            return None;
        };
        let model = self.model(model, "`model`");
        match (fields.get("token"), fields.get("token_id")) {
            (Some(token), None) => {
                let token = self.text(token, "`token`")?;
                Some(TokenSource::TokenText(model?.value, token.value))
            }
            (None, Some(id)) => {
                let id = self.count(id, "`token_id`")?;
                Some(TokenSource::TokenId(model?.value, id))
            }
            _ => {
                let headline = format!("the source of {what} needs either `token` or `token_id`");
                self.error(codes::CONFLICTING_KEYS, node.span, headline);
                None
            }
        }
    }
}
