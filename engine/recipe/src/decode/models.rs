//! References to models: strings, maps and names, each model once.

use std::collections::HashMap;

use mixdown_diagnostics::suggest::nearest;
use mixdown_diagnostics::{Diagnostic, Span, codes};

use super::reader::{Decoder, Fields};
use crate::modality::Reading;
use crate::recipe::{Attached, Attachment, MapUse, Model, ModelId, ModelReference};
use crate::schema::Keys;
use crate::schema::mergekit::{ModelMapKeys, PathKeys};
use crate::schema::strict::{MapUseKeys, NamedModelKeys};
use crate::setting::{Settings, Spanned};
use crate::tree::Node;

/// The models of a recipe, in order of first mention.
#[derive(Default)]
pub(crate) struct Models {
    pub list: Vec<Model>,
    /// Whether models are referred to by the names of the recipe alone.
    pub named: bool,
    by_reference: HashMap<(ModelReference, Option<Attachment>, Option<ModelId>), ModelId>,
    by_name: HashMap<String, ModelId>,
}

impl Models {
    pub(super) fn add(&mut self, model: Model, settings: Settings) -> ModelId {
        let id = ModelId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        if model.attached_as.is_none() {
            self.by_name.entry(model.name.clone()).or_insert(id);
        }
        self.list.push(Model { settings, ..model });
        id
    }

    /// The model of a reference, added if it is new; `beside` says as what it goes with another one, and
    /// whose names that one has.
    fn by_reference(
        &mut self,
        name: String,
        reference: ModelReference,
        span: Span,
        beside: Option<(Attachment, Option<ModelId>)>,
    ) -> ModelId {
        let attached_as = beside.map(|(kind, _)| kind);
        let like = beside.and_then(|(_, like)| like);
        let key = (reference, attached_as, like);
        if let Some(id) = self.by_reference.get(&key) {
            return *id;
        }
        let reading = Reading { like, ..Reading::default() };
        let model = Model { attached_as, reading, ..Model::plain(name, key.0.clone(), span) };
        let id = self.add(model, Settings::default());
        self.by_reference.insert(key, id);
        id
    }

    /// The names that the recipe gives to its models.
    fn names(&self) -> impl Iterator<Item = &str> {
        let models = self.list.iter().filter(|model| model.attached_as.is_none());
        models.map(|model| model.name.as_str())
    }

    pub fn by_name(&self, name: &str) -> Option<ModelId> {
        self.by_name.get(name).copied()
    }

    /// The model whose names the parts of this one get.
    pub fn like(&self, model: ModelId) -> Option<ModelId> {
        self.list[model.0 as usize].reading.like
    }
}

impl Decoder<'_> {
    /// A model as another key refers to it.
    pub(crate) fn model(&mut self, node: &Node, what: &str) -> Option<Spanned<ModelId>> {
        if self.models.named {
            let name = self.text(node, what)?;
            return self.declared_model(&name);
        }
        let reference = match node.entries() {
            Some(_) => self.reference_map(node)?,
            None => {
                let text = self.text(node, what)?;
                self.reference_text(&text)?
            }
        };
        let name = match node.scalar() {
            Some(scalar) => scalar.text.to_string(),
            None => show(&reference),
        };
        let value = self.models.by_reference(name, reference, node.span, None);
        Some(Spanned { value, span: node.span })
    }

    /// What goes with a model: `importance` and `gram` beside it, under the names of its weights.
    /// `like` is the model whose names these weights have.
    pub fn attached(&mut self, fields: Fields<'_>, like: Option<ModelId>) -> Attached {
        let mut found = |kind: Attachment| {
            let node = fields.get(kind.name())?;
            let (path, revision) = self.path(node, &format!("`{}`", kind.name()))?;
            let reference = checkpoint(path, revision, None);
            let name = show(&reference);
            let value = self.models.by_reference(name, reference, node.span, Some((kind, like)));
            Some(Spanned { value, span: node.span })
        };
        Attached { importance: found(Attachment::Importance), gram: found(Attachment::Gram) }
    }

    /// A name that must stand under `models`.
    pub(crate) fn declared_model(&mut self, name: &Spanned<String>) -> Option<Spanned<ModelId>> {
        if let Some(value) = self.models.by_name(&name.value) {
            return Some(Spanned { value, span: name.span });
        }
        let headline = format!("no model is called `{}`", name.value);
        let mut error = Diagnostic::error(codes::UNKNOWN_MODEL, headline);
        error = match nearest(&name.value, self.models.names()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => {
                let names: Vec<&str> = self.models.names().collect();
                error.note(format!("`models` has {}", names.join(", ")))
            }
        };
        self.report(name.span, error);
        None
    }

    /// `models:` of a strict recipe, as a map of names.
    pub(crate) fn named_models(&mut self, node: &Node) {
        self.models.named = true;
        for entry in node.entries().unwrap_or_default() {
            let (name, node) = (entry.key.text.to_string(), &entry.value);
            let what = format!("model `{name}`");
            let mut settings = Settings::default();
            let reference = if node.entries().is_some() {
                self.named_model(node, &what, &mut settings)
            } else {
                self.text(node, &what).and_then(|text| self.reference_text(&text))
            };
            // A model whose reference is wrong keeps its name, so that its uses are not reported.
            let reference = reference.unwrap_or_else(|| checkpoint(String::new(), None, None));
            self.models.add(Model::plain(name, reference, node.span), settings);
        }
        // What goes with the models comes after all of them: the first model of a recipe is one of its own.
        let entries = node.entries().unwrap_or_default();
        self.seen_like(entries);
        for (position, entry) in entries.iter().enumerate() {
            if let Some(entries) = entry.value.entries() {
                let fields = Fields::of(entries);
                let like = self.models.like(ModelId(position as u32));
                self.models.list[position].attached = self.attached(fields, like);
                self.models.list[position].map = self.map_use(fields);
            }
        }
    }

    fn named_model(
        &mut self,
        node: &Node,
        what: &str,
        settings: &mut Settings,
    ) -> Option<ModelReference> {
        let fields = self.fields(node, NamedModelKeys::KEYS, what)?;
        *settings = self.settings_at(fields, "parameters");
        if let Some(recipe) = fields.entry("recipe") {
            const OF_FILES: [&str; 9] = [
                "path",
                "model",
                "revision",
                "prefix",
                "adapter",
                "override_architecture",
                "like",
                "shared_rows",
                "map",
            ];
            for key in OF_FILES {
                if let Some(entry) = fields.entry(key) {
                    let headline = format!("`{key}` has no meaning beside `recipe`");
                    self.error(codes::CONFLICTING_KEYS, entry.key.span, headline);
                }
            }
            let path = self.text(&recipe.value, "`recipe`")?.value;
            return Some(ModelReference::Recipe { path });
        }
        let Some(path) = self.either(fields, "path", "model") else {
            self.missing_key(node, "path", what);
            return None;
        };
        let adapter = match fields.get("adapter") {
            Some(node) => Some(self.path(node, "`adapter`")?),
            None => None,
        };
        let revision = self.text_at(fields, "revision").map(|text| text.value);
        let prefix = self.text_at(fields, "prefix").map(|text| text.value);
        let override_architecture =
            self.text_at(fields, "override_architecture").map(|text| text.value);
        // Within a map the path is taken literally, whatever characters it has.
        let path = match path.entries() {
            Some(_) => self.path(path, "`model`")?,
            None => (self.text(path, "`path`")?.value, None),
        };
        Some(ModelReference::Checkpoint {
            path: path.0,
            revision: revision.or(path.1),
            prefix,
            adapter,
            override_architecture,
        })
    }

    /// `map` of a model: a name, or a name with what is stated otherwise here.
    fn map_use(&mut self, fields: Fields<'_>) -> Option<MapUse> {
        let node = fields.get("map")?;
        if let Some(like) = fields.entry("like") {
            let headline = "`like` has no meaning beside `map`, which gives other names itself";
            self.error(codes::CONFLICTING_KEYS, like.key.span, headline);
        }
        if node.entries().is_none() {
            let name = self.text(node, "`map`")?;
            return Some(MapUse { name, target: None, policy: None, numbers: Vec::new() });
        }
        let fields = self.fields(node, MapUseKeys::KEYS, "`map`")?;
        if !fields.mentions("name") {
            self.missing_key(node, "name", "`map`");
        }
        let target = self.text_at(fields, "target").and_then(|name| self.declared_model(&name));
        let policy = fields.get("policy").and_then(|node| self.policy(node));
        let numbers = fields.get("let").map(|node| self.numbers(node)).unwrap_or_default();
        Some(MapUse { name: self.text_at(fields, "name")?, target, policy, numbers })
    }

    /// mergekit's map form of a reference.
    fn reference_map(&mut self, node: &Node) -> Option<ModelReference> {
        let mut keys = ModelMapKeys::KEYS.to_vec();
        // An index of one key is the commonest mistake here, and says what is missing.
        if node.get("path").is_some() && node.get("model").is_none() {
            let headline = "a model reference has no `model`";
            let error = Diagnostic::error(codes::BAD_REFERENCE, headline);
            self.report(node.span, error.help("write `{model: {path: …}}`"));
            return None;
        }
        keys.push("adapter");
        let fields = self.fields(
            node,
            if self.is_strict() { &keys } else { ModelMapKeys::KEYS },
            "a model reference",
        )?;
        let Some(model) = fields.get("model") else {
            self.missing_key(node, "model", "a model reference");
            return None;
        };
        let (path, revision) = self.path(model, "`model`")?;
        let adapter = match fields.get("lora").or_else(|| fields.get("adapter")) {
            Some(node) => Some(self.path(node, "`lora`")?),
            None => None,
        };
        let override_architecture =
            self.text_at(fields, "override_architecture").map(|text| text.value);
        Some(ModelReference::Checkpoint {
            path,
            revision,
            prefix: None,
            adapter,
            override_architecture,
        })
    }

    /// A path with its revision: `path@revision`, or a map.
    pub(super) fn path(&mut self, node: &Node, what: &str) -> Option<(String, Option<String>)> {
        if node.entries().is_none() {
            let text = self.text(node, what)?;
            return self.split_revision(&text.value, text.span, "{path: …}");
        }
        let fields = self.fields(node, PathKeys::KEYS, what)?;
        let Some(path) = self.text_at(fields, "path") else {
            if !fields.mentions("path") {
                self.missing_key(node, "path", what);
            }
            return None;
        };
        Some((path.value, self.text_at(fields, "revision").map(|text| text.value)))
    }

    /// `path`, `path@revision`, `path+adapter`, `path@revision+adapter@revision`.
    fn reference_text(&mut self, text: &Spanned<String>) -> Option<ModelReference> {
        let literal = if self.models.named { "{path: …}" } else { "{model: {path: …}}" };
        let parts: Vec<&str> = text.value.split('+').collect();
        if parts.len() > 2 {
            self.bad_reference(text.span, "a model reference has more than one `+`", literal);
            return None;
        }
        let (path, revision) = self.split_revision(parts[0], text.span, literal)?;
        let adapter = match parts.get(1) {
            Some(adapter) => Some(self.split_revision(adapter, text.span, literal)?),
            None => None,
        };
        Some(checkpoint(path, revision, adapter))
    }

    /// `literal` is how the same is written so that `@` and `+` mean nothing.
    fn split_revision(
        &mut self,
        text: &str,
        span: Span,
        literal: &str,
    ) -> Option<(String, Option<String>)> {
        let parts: Vec<&str> = text.split('@').collect();
        if parts.len() > 2 {
            self.bad_reference(span, "a model reference has more than one `@` in a part", literal);
            return None;
        }
        if parts.iter().any(|part| part.trim().is_empty()) {
            self.bad_reference(span, "a part of a model reference is empty", literal);
            return None;
        }
        Some((parts[0].to_owned(), parts.get(1).map(|&revision| revision.to_owned())))
    }

    fn bad_reference(&mut self, span: Span, headline: &str, literal: &str) {
        let error = Diagnostic::error(codes::BAD_REFERENCE, headline)
            .note("a reference is `path`, `path@revision`, `path+adapter` or `path@revision+adapter@revision`");
        let error =
            error.help(format!("if the path itself has such a character write `{literal}`"));
        self.report(span, error);
    }
}

fn checkpoint(
    path: String,
    revision: Option<String>,
    adapter: Option<(String, Option<String>)>,
) -> ModelReference {
    ModelReference::Checkpoint {
        path,
        revision,
        prefix: None,
        adapter,
        override_architecture: None,
    }
}

/// The reference as one text.
fn show(reference: &ModelReference) -> String {
    let with_revision = |path: &str, revision: &Option<String>| match revision {
        Some(revision) => format!("{path}@{revision}"),
        None => path.to_owned(),
    };
    match reference {
        ModelReference::Recipe { path } => path.clone(),
        ModelReference::Checkpoint { path, revision, adapter, override_architecture, .. } => {
            let mut text = with_revision(path, revision);
            if let Some((path, revision)) = adapter {
                text.push_str(&format!("+{}", with_revision(path, revision)));
            }
            if let Some(architecture) = override_architecture {
                text.push_str(&format!(" as {architecture}"));
            }
            text
        }
    }
}
