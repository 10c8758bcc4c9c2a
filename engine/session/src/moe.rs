//! Files of mergekit-moe: dense models become the experts of one mixture.
//!
//! The mixture is a checkpoint that is put together from tensors of the models and from gates, and a recipe that
//! writes it: it is streamed, resumed and recorded like every other merge.

mod adapted;
mod gates;
mod layout;
mod noise;
mod opened;

use std::path::Path;
use std::sync::Arc;

use mixdown_checkpoint::{ByteSource, FilePool, Index, TensorEntry, shown};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_ops::random::stream_key;
use mixdown_recipe::moe_file::{MoeExpert, MoeFile, read_moe};
use mixdown_recipe::recipe::ModelId;
use mixdown_tensor::{DType, Shape};
use serde_json::{Map, Value, json};

use crate::Session;
use crate::composed::{Composed, Composition, Files};
use crate::models::Model;

use adapted::{Adapted, OnModel};
use gates::{GateSource, Gates, Zeros};
use layout::Layout;
use noise::Noisy;
use opened::Opened;

/// The projections of a feed-forward layer, as dense models name them.
const PROJECTIONS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// What a file of mergekit-moe stands for; none if it is no such file.
pub(crate) fn composition(
    path: &Path,
    text: &str,
    session: &Session<'_>,
) -> Option<Result<Composition, Vec<Diagnostic>>> {
    let file = match read_moe(&path.display().to_string(), text)? {
        Ok(file) => file,
        Err(found) => return Some(Err(found)),
    };
    Some(Mixture::open(file, session).and_then(|mixture| mixture.compose(text, session)))
}

/// A file with its models.
struct Mixture {
    file: MoeFile,
    opened: Opened,
}

/// An expert's part in the output.
struct Part<'m> {
    expert: &'m MoeExpert,
    files: Files,
    /// What is on the model whose files these are.
    adapter: Option<&'m Arc<OnModel>>,
    /// `{}` is where the projection stands.
    names: String,
}

impl Part<'_> {
    /// A tensor that is another one with the expert's adapter.
    fn adapted(&self, index: &Index, name: &str) -> Option<Adapted> {
        let model = self.adapter?;
        let tensor = index.position(name)? as u32;
        model.changes(tensor).then(|| Adapted { model: Arc::clone(model), tensor })
    }
}

impl Mixture {
    fn open(file: MoeFile, session: &Session<'_>) -> Result<Self, Vec<Diagnostic>> {
        let opened = Opened::of(&file, session)?;
        Ok(Self { file, opened })
    }

    fn model(&self, id: ModelId) -> &Model {
        self.opened.model(id)
    }

    fn base(&self) -> &Model {
        self.model(self.file.base.value)
    }

    fn compose(self, text: &str, session: &Session<'_>) -> Result<Composition, Vec<Diagnostic>> {
        let layout = layout::choose(&self).map_err(|error| vec![*error])?;
        let sizes = self.sizes(layout)?;
        let base = &self.base().checkpoint;
        let mut composed = Composed::new();
        let opened = &self.opened;
        let files: Vec<Files> =
            opened.models.iter().map(|model| composed.files_of(&model.checkpoint)).collect();
        for adapter in &opened.adapters {
            composed.files_of(&adapter.files.checkpoint);
        }
        let mut errors: Vec<Diagnostic> = Vec::new();
        let own = files[opened.position(self.file.base.value)];
        for entry in base.index.tensors() {
            if !entry.name.contains(".mlp.") {
                errors.extend(
                    composed.take(own, entry, entry.name.clone()).err().map(|error| *error),
                );
            }
        }
        let parts = self.parts(layout, &files);
        let pool = FilePool::new(FilePool::DEFAULT_LIMIT);
        for part in &parts {
            let index = &self.model(part.expert.model.value).checkpoint.index;
            for layer in 0..sizes.layers {
                for projection in PROJECTIONS {
                    let from = dense_name(layer, projection);
                    let Some(entry) = index.get(&from) else { continue };
                    let name = layout.name(layer, &part.names, projection);
                    let (entry, made) = match part.adapted(index, &from) {
                        Some(adapted) => (&adapted.entry(), Some(Arc::new(adapted))),
                        None => (entry, None),
                    };
                    let scale = part.expert.noise_scale;
                    if scale == 0.0 {
                        match made {
                            Some(made) => {
                                composed.make(name, entry.dtype, entry.shape.clone(), made)
                            }
                            None => errors.extend(
                                composed.take(part.files, entry, name).err().map(|error| *error),
                            ),
                        }
                        continue;
                    }
                    let source: Arc<dyn ByteSource> = match made {
                        Some(made) => made,
                        None => Arc::new(pool.source(index.shard_of(entry))),
                    };
                    let key = stream_key(0, "noise_scale", &name, 0);
                    match Noisy::new(entry, source, scale, key) {
                        Some(noisy) => {
                            composed.make(name, entry.dtype, entry.shape.clone(), Arc::new(noisy))
                        }
                        None => errors.push(self.no_noise(part.expert, entry)),
                    }
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        self.make_gates(layout, &sizes, &mut composed, session);
        layout.fill(&base.index, sizes.layers, &mut composed);
        let name = format!("the mixture of {}", self.file.source.name());
        let config = layout.config(base.config.as_ref(), &self.file);
        let recipe = self.recipe(&name, layout, &parts, text);
        let root = base.root.clone();
        let Opened { models, adapters, warnings, .. } = self.opened;
        let warnings = [self.file.warnings, warnings].concat();
        let files = adapters.into_iter().map(|adapter| adapter.files);
        let parts = models.into_iter().chain(files).collect();
        let model = composed.finish(&name, root, config, parts)?;
        Ok(Composition { name, model, recipe, warnings })
    }

    /// Noise is asked for on what is not stored as numbers.
    fn no_noise(&self, expert: &MoeExpert, entry: &TensorEntry) -> Diagnostic {
        let name = shown(&entry.name);
        let headline = format!("no noise can be added to `{name}`");
        Diagnostic::error(codes::UNSUPPORTED, headline)
            .fact("stored as", entry.stored_as())
            .help("write the model without quantization first, or remove `noise_scale`")
            .at(&self.file.source, expert.span)
    }

    fn parts<'m>(&'m self, layout: Layout, files: &[Files]) -> Vec<Part<'m>> {
        let part = |expert: &'m MoeExpert, names: String| Part {
            expert,
            files: files[self.opened.position(expert.model.value)],
            adapter: self.opened.adapter(expert.model.value).map(|adapter| &adapter.on_model),
            names,
        };
        let routed = self.file.experts.iter().enumerate();
        let routed = routed.map(|(at, expert)| part(expert, layout.expert(at)));
        let shared = self.file.shared.iter().map(|expert| part(expert, layout.shared().to_owned()));
        routed.chain(shared).collect()
    }

    /// Counts that all models must agree about.
    fn sizes(&self, layout: Layout) -> Result<Sizes, Vec<Diagnostic>> {
        let base = &self.base().checkpoint;
        let layers = (0..)
            .take_while(|&layer| base.index.get(&dense_name(layer, PROJECTIONS[0])).is_some())
            .count();
        let embedding = base.index.get(EMBEDDING).map(|entry| entry.shape.dimensions().to_vec());
        let (Some(&[_, hidden]), true) = (embedding.as_deref(), layers > 0) else {
            let headline = format!("`{}` has no layers with `gate_proj`", shown_name(self.base()));
            let error = Diagnostic::error(codes::MOE_LAYOUT, headline).help(
                "a mixture is made of models that are built like llama, mistral, qwen2 or qwen3",
            );
            return Err(vec![error.at(&self.file.source, self.file.base.span)]);
        };
        let mut errors = Vec::new();
        for expert in self.file.experts.iter().chain(&self.file.shared) {
            errors.extend(self.misfit(expert, layers));
        }
        errors.extend(
            layout
                .unfit(base.index.tensors().iter().map(|entry| entry.name.as_str()))
                .map(|error| error.at(&self.file.source, self.file.base.span)),
        );
        if errors.is_empty() { Ok(Sizes { layers, hidden }) } else { Err(errors) }
    }

    /// What of an expert is not as in the base.
    fn misfit(&self, expert: &MoeExpert, layers: usize) -> Option<Diagnostic> {
        let (base, own) = (self.base(), self.model(expert.model.value));
        let mut facts = Vec::new();
        for layer in 0..layers {
            for projection in PROJECTIONS {
                let name = dense_name(layer, projection);
                let shape = |model: &Model| match model.checkpoint.index.get(&name) {
                    Some(entry) => entry.shape.to_string(),
                    None => "not there".to_owned(),
                };
                let (wanted, found) = (shape(base), shape(own));
                if wanted != found {
                    facts.push((name, format!("{found}, and {wanted} in the base")));
                }
            }
        }
        let more = own.checkpoint.index.get(&dense_name(layers, PROJECTIONS[0])).is_some();
        if facts.is_empty() && !more {
            return None;
        }
        let headline = format!(
            "`{}` cannot be an expert: its layers are not those of the base",
            shown_name(own)
        );
        let mut error = Diagnostic::error(codes::MOE_LAYOUT, headline);
        if more {
            error = error.note(format!("it has more than the {layers} layers of the base"));
        }
        let count = facts.len();
        for (name, fact) in facts.into_iter().take(6) {
            error = error.fact(name, fact);
        }
        if count > 6 {
            error = error.note(format!("and {} more", count - 6));
        }
        let error = error.help("experts are fine-tunes of one model, or of models of its sizes");
        Some(error.at(&self.file.source, expert.span))
    }

    fn make_gates(
        &self,
        layout: Layout,
        sizes: &Sizes,
        composed: &mut Composed,
        session: &Session<'_>,
    ) {
        let experts = self.file.experts.len();
        let gated = if layout.gates_shared() { self.file.shared.as_slice() } else { &[] };
        let all = self.file.experts.iter().chain(gated);
        let gates = Arc::new(Gates::new(
            self.file.gate_mode,
            &self.base().checkpoint,
            all.map(|expert| (expert.positive.clone(), expert.negative.clone())).collect(),
            (sizes.layers, sizes.hidden as usize),
            session.places.programs.clone(),
        ));
        let shape = |rows: usize| {
            // As many rows as the file has experts; the columns are those of a tensor that is there.
            Shape::new(vec![rows as u64, sizes.hidden]).unwrap_or_default()
        };
        for layer in 0..sizes.layers {
            let source = |rows: std::ops::Range<usize>| {
                Arc::new(GateSource { gates: Arc::clone(&gates), layer, rows })
            };
            let name = layout.gate(layer);
            composed.make(name, DType::F32, shape(experts), source(0..experts));
            if !gated.is_empty() {
                let name = layout.shared_gate(layer);
                let rows = experts..experts + gated.len();
                composed.make(name, DType::F32, shape(gated.len()), source(rows));
            }
        }
    }

    /// The recipe that writes the mixture.
    fn recipe(&self, name: &str, layout: Layout, parts: &[Part<'_>], text: &str) -> String {
        let mut rules = Vec::new();
        for part in parts.iter().filter(|part| part.expert.residual_scale != 1.0) {
            let pattern = layout.pattern(&part.names, "down_proj");
            rules.push(json!({
                "tensors": pattern,
                "method": "passthrough",
                "experts": ["mixture"],
                "parameters": {"scale": part.expert.residual_scale},
            }));
        }
        rules.push(json!({"method": "passthrough", "experts": ["mixture"]}));
        let mut recipe = Map::new();
        recipe.insert("mixdown".into(), json!(1));
        recipe.insert("models".into(), json!({"mixture": {"path": name}}));
        recipe.insert("rules".into(), rules.into());
        if let Some(dtype) = self.dtype() {
            recipe.insert("out_dtype".into(), dtype.into());
        }
        // What is made depends on the whole file, so that another one is another merge.
        let digest = blake3::hash(text.as_bytes()).to_hex();
        format!("{}\n# {digest}\n", Value::Object(recipe))
    }

    /// As the file says, or the base's config.
    fn dtype(&self) -> Option<String> {
        if let Some(dtype) = &self.file.dtype {
            return Some(dtype.value.clone());
        }
        let config = self.base().checkpoint.config.as_ref()?;
        let stated = config.get("torch_dtype").or_else(|| config.get("dtype"));
        if let Some(stated) = stated.and_then(Value::as_str) {
            return Some(stated.to_owned());
        }
        // What adapters make is in 32 bits.
        let is_made = !self.opened.adapters.is_empty();
        let embedding = self.base().checkpoint.index.get(EMBEDDING).filter(|_| is_made)?;
        Some(embedding.dtype.name().to_owned())
    }
}

/// The embedding, by the name that all these families give it.
const EMBEDDING: &str = "model.embed_tokens.weight";

struct Sizes {
    layers: usize,
    hidden: u64,
}

fn dense_name(layer: usize, projection: &str) -> String {
    format!("model.layers.{layer}.mlp.{projection}.weight")
}

fn shown_name(model: &Model) -> String {
    shown(&model.checkpoint.name).into_owned()
}
