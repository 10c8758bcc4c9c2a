//! `inputs:` of a modality recipe: body, connector and encoder of each modality.

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, Span, codes};

use crate::decode::reader::Decoder;
use crate::modality::{CONNECTORS, ENCODERS, Factors};
use crate::schema::Keys;
use crate::schema::modality::{ConnectorKeys, EncoderKeys, ModalityBodyKeys, ModalityInputKeys};
use crate::setting::{Settings, Spanned};
use crate::tree::{Entry, Node};

/// A modality as it is written.
pub(super) struct Input {
    pub name: Spanned<String>,
    pub body: Body,
    pub connector: Option<Connector>,
    pub encoder: Option<Encoder>,
    pub drop: Vec<Spanned<String>>,
    pub params: Settings,
}

/// The language model of a modality.
pub(super) struct Body {
    pub kind: BodyKind,
    /// Path and revision.
    pub path: (String, Option<String>),
    pub span: Span,
}

/// What the language model is stored as.
pub(super) enum BodyKind {
    Adapter(Factors),
    Peft,
    /// With what its names begin with beyond the base's.
    Full(Option<String>),
}

/// A connector as it is written.
pub(super) struct Connector {
    /// Path and revision; none where it is in the body's own checkpoint.
    pub path: Option<(String, Option<String>)>,
    /// Where the recipe says what it is in.
    pub span: Span,
    pub prefix: Spanned<String>,
    pub to: Spanned<String>,
}

/// An encoder as it is written.
pub(super) struct Encoder {
    pub place: Place,
    /// Where it is copied to; none where it is not.
    pub to: Option<Spanned<String>>,
    /// What its names begin with where it is.
    pub prefix: Option<Spanned<String>>,
    /// Whether anything is told of it.
    pub is_told: bool,
    pub span: Span,
}

/// Where an encoder is.
pub(super) enum Place {
    Path(Spanned<String>, Option<String>),
    Body,
    Nowhere,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Include {
    Ref,
    Copy,
    None,
}

impl Body {
    fn word(&self) -> &'static str {
        match self.kind {
            BodyKind::Adapter(_) => "adapter",
            BodyKind::Peft => "peft",
            BodyKind::Full(_) => "full",
        }
    }
}

impl Decoder<'_> {
    pub(super) fn modality_inputs(&mut self, node: &Node) -> Vec<Input> {
        let entries = self.map(node, "`inputs`").unwrap_or_default();
        if entries.is_empty() && node.entries().is_some() {
            self.error(codes::WRONG_TYPE, node.span, "`inputs` names no modality");
        }
        entries.iter().filter_map(|entry| self.modality_input(entry)).collect()
    }

    fn modality_input(&mut self, entry: &Entry) -> Option<Input> {
        let name = Spanned { value: entry.key.text.to_string(), span: entry.key.span };
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.value == "base" || name.value.is_empty() || !name.value.chars().all(is_word) {
            let headline = format!("a modality cannot be called `{}`", name.value);
            let error = Diagnostic::error(codes::UNKNOWN_MODALITY, headline);
            self.report(
                name.span,
                error.note("its name is part of names of tensors: letters, digits, `_` and `-`"),
            );
            return None;
        }
        let what = format!("modality `{}`", name.value);
        let fields = self.fields(&entry.value, ModalityInputKeys::KEYS, &what)?;
        let body = match fields.get("body") {
            Some(node) => self.modality_body(node),
            None => {
                self.missing_key(&entry.value, "body", &what);
                None
            }
        };
        let word = body.as_ref().map(Body::word);
        let connector = fields.get("connector").map(|node| self.connector(node, &name.value, word));
        let encoder = fields.get("encoder").map(|node| self.encoder(node, &name.value, word));
        let drop = fields.get("drop").map(|node| self.modality_patterns(node)).unwrap_or_default();
        let params = self.settings_at(fields, "params");
        // All of it was looked at; what is wrong is reported, and the modality stays out.
        let connector = match connector {
            Some(found) => Some(found?),
            None => None,
        };
        let encoder = match encoder {
            Some(found) => Some(found?),
            None => None,
        };
        Some(Input { name, body: body?, connector, encoder, drop, params })
    }

    fn modality_body(&mut self, node: &Node) -> Option<Body> {
        let fields = self.fields(node, ModalityBodyKeys::KEYS, "a body")?;
        let checkpoints = ["adapter", "peft", "full"];
        let given: Vec<&Entry> = checkpoints.iter().filter_map(|key| fields.entry(key)).collect();
        let present = || node.entries().unwrap_or_default().iter().map(|entry| &*entry.key.text);
        if given.is_empty() && checkpoints.iter().any(|key| nearest(key, present()).is_some()) {
            // The mistyped key is an error already, and says so.
            return None;
        }
        let [one] = given.as_slice() else {
            let headline = match given.as_slice() {
                [first, second, ..] => {
                    format!("a body has both `{}` and `{}`", first.key.text, second.key.text)
                }
                _ => "a body has none of `adapter`, `peft`, `full`".to_owned(),
            };
            let span = given.get(1).map_or(node.span, |entry| entry.key.span);
            let error = Diagnostic::error(codes::MODALITY_BODY, headline);
            self.report(span, error.help("name one checkpoint: `body: {adapter: PATH}`"));
            return None;
        };
        let key = &*one.key.text;
        let own: &[&str] = match key {
            "adapter" => &["name", "alpha", "rank"],
            "full" => &["prefix"],
            _ => &[],
        };
        for other in ["name", "alpha", "rank", "prefix"] {
            if let (Some(entry), false) = (fields.entry(other), own.contains(&other)) {
                let headline = format!("`{other}` has no meaning beside `{key}`");
                self.error(codes::CONFLICTING_KEYS, entry.key.span, headline);
            }
        }
        let path = self.path(&one.value, &format!("`{key}`"))?;
        let kind = match key {
            "adapter" => BodyKind::Adapter(self.factors(node, fields)?),
            "peft" => BodyKind::Peft,
            _ => BodyKind::Full(self.text_at(fields, "prefix").map(|text| undotted(text).value)),
        };
        Some(Body { kind, path, span: one.value.span })
    }

    fn factors(
        &mut self,
        node: &Node,
        fields: crate::decode::reader::Fields<'_>,
    ) -> Option<Factors> {
        let adapter = self.text_at(fields, "name");
        let adapter = adapter.unwrap_or(Spanned { value: "default".to_owned(), span: node.span });
        let alpha = match fields.get("alpha") {
            Some(node) => {
                let alpha = self.number(node, "`alpha`")?;
                if alpha.value == 0.0 {
                    let headline = "`alpha` must not be 0: the update would vanish";
                    self.error(codes::OUT_OF_RANGE, node.span, headline);
                    return None;
                }
                Some(alpha)
            }
            None => None,
        };
        let rank = match fields.get("rank") {
            Some(node) => {
                let rank = self.rank(node)?;
                Some(Spanned { value: u64::from(rank.value), span: rank.span })
            }
            None => None,
        };
        Some(Factors { adapter, rank, alpha })
    }

    /// `body` is what the body of the modality is stored as.
    fn connector(&mut self, node: &Node, modality: &str, body: Option<&str>) -> Option<Connector> {
        let fields = self.fields(node, ConnectorKeys::KEYS, "a connector")?;
        let path = match fields.get("from") {
            Some(from) => {
                let text = self.text(from, "`from`")?;
                match text.value.as_str() {
                    own if Some(own) == body => None,
                    "adapter" | "full" | "peft" => {
                        self.not_the_body(&text, body);
                        return None;
                    }
                    _ => Some(self.path(from, "`from`")?),
                }
            }
            None => None,
        };
        let Some(prefix) = self.text_at(fields, "prefix") else {
            if !fields.mentions("prefix") {
                self.missing_key(node, "prefix", "a connector");
            }
            return None;
        };
        let span = fields.get("from").map_or(prefix.span, |from| from.span);
        let to = self.text_at(fields, "as");
        let to = to.unwrap_or_else(|| Spanned {
            // What has such a name already keeps it.
            value: match prefix.value.starts_with(&format!("{CONNECTORS}.")) {
                true => prefix.value.clone(),
                false => format!("{CONNECTORS}.{modality}"),
            },
            span: prefix.span,
        });
        Some(Connector { path, span, prefix: undotted(prefix), to: undotted(to) })
    }

    fn not_the_body(&mut self, from: &Spanned<String>, body: Option<&str>) {
        let Some(body) = body else { return };
        let headline = format!("the body is no `{}`", from.value);
        let error = Diagnostic::error(codes::MODALITY_BODY, headline);
        self.report(from.span, error.help(format!("write `from: {body}`, or a path")));
    }

    fn encoder(&mut self, node: &Node, modality: &str, body: Option<&str>) -> Option<Encoder> {
        let fields = self.fields(node, EncoderKeys::KEYS, "an encoder")?;
        let words = [("ref", Include::Ref), ("copy", Include::Copy), ("none", Include::None)];
        let include = match fields.get("include") {
            Some(node) => Some(self.word(node, "`include`", &words)?),
            None => None,
        };
        let path = match fields.get("path") {
            Some(node) => {
                let (path, revision) = self.path(node, "`path`")?;
                Some((Spanned { value: path, span: node.span }, revision))
            }
            None => None,
        };
        let from = self.text_at(fields, "from");
        if let Some(from) = from.as_ref().filter(|from| Some(from.value.as_str()) != body) {
            self.not_the_body(from, body);
            return None;
        }
        let place = match (path, from) {
            (Some(_), Some(from)) => {
                let headline = "an encoder has both `path` and `from`";
                self.error(codes::CONFLICTING_KEYS, from.span, headline);
                return None;
            }
            (Some((path, revision)), None) => Place::Path(path, revision),
            (None, Some(_)) => Place::Body,
            (None, None) => Place::Nowhere,
        };
        let include = include.unwrap_or(match place {
            Place::Body => Include::Copy,
            _ => Include::Ref,
        });
        let prefix = self.text_at(fields, "prefix").map(undotted);
        match (&place, include) {
            (Place::Nowhere, Include::Ref | Include::Copy) => {
                let error = Diagnostic::error(codes::MISSING_KEY, "an encoder has no `path`");
                self.report(
                    node.span,
                    error.help("name its folder or file, or write `include: none`"),
                );
                return None;
            }
            (Place::Body, Include::Ref) => {
                let headline = "an encoder in the body's own checkpoint cannot be referred to";
                let error = Diagnostic::error(codes::CONFLICTING_KEYS, headline);
                self.report(node.span, error.help("write `include: copy`, or `include: none`"));
                return None;
            }
            (Place::Body, _) if prefix.is_none() => {
                let headline = "an encoder in the body's own checkpoint needs a `prefix`";
                self.error(codes::MISSING_KEY, node.span, headline);
                return None;
            }
            _ => {}
        }
        let to = self.text_at(fields, "as").map(undotted);
        let to = to.unwrap_or_else(|| Spanned {
            value: format!("{ENCODERS}.{modality}"),
            span: node.span,
        });
        let to = (include == Include::Copy).then_some(to);
        let is_told = include != Include::None;
        Some(Encoder { place, to, prefix, is_told, span: node.span })
    }
}

/// A beginning of names without its last dot.
fn undotted(mut prefix: Spanned<String>) -> Spanned<String> {
    let length = prefix.value.trim_end_matches('.').len();
    prefix.value.truncate(length);
    prefix
}
