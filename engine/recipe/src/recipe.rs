//! What a user asks for. A mergekit configuration and mixdown's strict form are decoded into this one type.

use mixdown_diagnostics::{Diagnostic, Source, Span};

use crate::map::Policy;
use crate::method::Method;
use crate::modality::{Factors, Modality, Reading};
use crate::setting::{Settings, Spanned};

/// Position in [`Recipe::models`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u32);

/// A recipe.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its text.
    pub source: Source,
    /// Which form it was written in: the strict one refuses what it does not know.
    pub form: Form,
    /// All models that the recipe refers to, each once, in order of first mention.
    pub models: Vec<Model>,
    /// `base_model` / `base` at the top.
    pub base: Option<Spanned<ModelId>>,
    /// `reference` at the top: the model that some methods compare the experts with.
    pub reference: Option<Spanned<ModelId>>,
    /// `merge_method` / `method` at the top.
    pub method: Option<Spanned<String>>,
    /// `steps` inline at the top: a method of the recipe's own (strict form).
    pub inline_method: Option<Method>,
    /// Parameters at the top, with the lowest precedence.
    pub settings: Settings,
    /// What is merged with what.
    pub body: Body,
    /// `dtype`: inputs are rounded to it when read, if they are wider.
    pub dtype: Option<Spanned<String>>,
    /// `out_dtype`: the type of the output's tensors.
    pub out_dtype: Option<Spanned<String>>,
    /// `tokenizer` or `tokenizer_source`.
    pub tokenizer: Option<Tokenizer>,
    /// `chat_template`.
    pub chat_template: Option<Spanned<String>>,
    /// Names of `declare` (strict form).
    pub declared: Vec<String>,
    /// `seed` of all random draws (strict form; 0 otherwise).
    pub seed: u64,
    /// Which model gives config.json and the other files; base or first model otherwise (strict form).
    pub files_from: Option<Spanned<ModelId>>,
    /// Shard size in bytes (strict form).
    pub shard_size: Option<Spanned<u64>>,
    /// What is written, where it is not a whole model.
    pub adapter: Option<AdapterOutput>,
    /// What is written in fewer bits.
    pub quantize: Option<Quantize>,
    /// The output as a GGUF file.
    pub gguf: Option<GgufOutput>,
    /// What only a recipe of modalities says.
    pub modality: Option<Modality>,
    /// What a reader of a mergekit configuration should know: keys without effect, old spellings.
    pub warnings: Vec<Diagnostic>,
}

impl Recipe {
    /// The models that experts are compared with.
    pub fn references(&self) -> Vec<ModelId> {
        let mut found = Vec::from_iter(&self.reference);
        if let Body::Rules(rules) = &self.body {
            for rule in rules {
                if let Action::Merge { reference, .. } = &rule.action {
                    found.extend(reference);
                }
            }
        }
        found.into_iter().map(|model| model.value).collect()
    }

    /// The models that are merged where nothing says which: all but those that only go with another
    /// one, and those that are named as a `reference` and nowhere else.
    pub fn merged(&self) -> Vec<ModelId> {
        let compared = self.references();
        let mut named: Vec<ModelId> = self.base.iter().map(|model| model.value).collect();
        match &self.body {
            Body::Modules(modules) => {
                for module in modules {
                    let mut take = |sources: &[SourceModel]| {
                        named.extend(sources.iter().map(|source| source.model.value));
                    };
                    match &module.content {
                        ModuleContent::Models(sources) => take(sources),
                        ModuleContent::Slices(slices) => {
                            slices.iter().for_each(|slice| take(&slice.sources));
                            let bases = slices.iter().filter_map(|slice| slice.base.as_ref());
                            named.extend(bases.map(|base| base.value));
                        }
                    }
                }
            }
            Body::Rules(rules) => {
                for rule in rules {
                    match &rule.action {
                        Action::Keep(model) => named.push(model.value),
                        Action::Drop => {}
                        Action::Merge { base, experts, .. } => {
                            named.extend(base.iter().map(|model| model.value));
                            let experts = experts.iter().flatten();
                            named.extend(experts.map(|source| source.model.value));
                        }
                    }
                }
            }
        }
        let is_merged = |(position, model): (usize, &Model)| {
            let id = ModelId(position as u32);
            let only_compared = compared.contains(&id) && !named.contains(&id);
            (model.attached_as.is_none() && !only_compared).then_some(id)
        };
        self.models.iter().enumerate().filter_map(is_merged).collect()
    }
}

/// The result is written as an adapter on the recipe's base.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterOutput {
    /// The most directions of an update; where none is stated all updates are exact.
    pub rank: Option<Spanned<u32>>,
    /// Place of the key.
    pub span: Span,
}

/// The output is a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufOutput {
    /// The word for the types of its tensors: `q4_k_m`.
    pub file_type: Spanned<String>,
    /// Place of the value.
    pub span: Span,
}

/// Weights that are written in fewer bits: the first rule that matches one decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantize {
    /// The rules, in order.
    pub rules: Vec<QuantizeRule>,
    /// Place of the value.
    pub span: Span,
}

/// How some weights are written.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizeRule {
    /// Globs; one must match the whole tensor name. None matches every name.
    pub tensors: Vec<Spanned<String>>,
    /// Only tensors of these layers: first, and the one after the last.
    pub layers: Option<Spanned<(u64, u64)>>,
    /// Only tensors of these modules; none means all.
    pub modules: Vec<Spanned<String>>,
    /// Only tensors of these roles, likewise.
    pub roles: Vec<Spanned<String>>,
    /// The word of the form; `none` leaves tensors as they are.
    pub to: Spanned<String>,
    /// `as`: the library whose files it is like.
    pub library: Option<Spanned<String>>,
    /// What shares a scale.
    pub scales: Option<Spanned<String>>,
    /// Columns that share a scale.
    pub group: Option<Spanned<u64>>,
    /// Whether there are no zero points.
    pub symmetric: Option<Spanned<bool>>,
    /// How scales are chosen.
    pub fit: Option<Spanned<String>>,
    /// Place of the rule.
    pub span: Span,
}

/// Which form a recipe is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A mergekit configuration: YAML 1.1, unknown keys are warned about.
    Mergekit,
    /// `mixdown: 1`: unknown keys are errors.
    Strict,
}

/// A model that the recipe refers to.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name in a strict recipe; in a mergekit configuration the reference itself.
    pub name: String,
    /// What it is.
    pub reference: ModelReference,
    /// Place of the reference.
    pub span: Span,
    /// Its parameters wherever it is merged (strict form).
    pub settings: Settings,
    /// What goes with it wherever it is merged (strict form).
    pub attached: Attached,
    /// What it is itself, if it only goes with another model: then it is never merged.
    pub attached_as: Option<Attachment>,
    /// How the names in its files become those of the recipe.
    pub reading: Reading,
    /// What its adapter is, where that has no configuration of its own.
    pub factors: Option<Factors>,
    /// The map through which it is seen (strict form).
    pub map: Option<MapUse>,
    /// How many first rows of embeddings and output layers mean the same as in the model of
    /// [`Reading::like`], whose other rows are taken.
    pub shared_rows: Option<Spanned<u64>>,
}

impl Model {
    /// A model with nothing beside it, whose names are those of its files.
    pub fn plain(name: String, reference: ModelReference, span: Span) -> Self {
        let (settings, attached, reading) = Default::default();
        let (attached_as, factors, shared_rows, map) = (None, None, None, None);
        Self {
            name,
            reference,
            span,
            settings,
            attached,
            attached_as,
            reading,
            factors,
            map,
            shared_rows,
        }
    }
}

/// A map, as a model is seen through it.
#[derive(Clone, Debug, PartialEq)]
pub struct MapUse {
    /// Its name, or a path relative to the recipe's folder.
    pub name: Spanned<String>,
    /// The model whose names and shapes result; where none is named it is the base.
    pub target: Option<Spanned<ModelId>>,
    /// Instead of the map's own.
    pub policy: Option<Policy>,
    /// Numbers instead of the map's own, by name.
    pub numbers: Vec<(Spanned<String>, u64)>,
}

/// What a checkpoint is that goes with a model: tensors under the names of the model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attachment {
    /// How much each weight matters: the diagonal of its Fisher information, in the weight's shape.
    Importance,
    /// For a linear weight `[out, in]` the mean of x·xᵀ over the layer's inputs, `[in, in]`.
    Gram,
}

impl Attachment {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Importance, Self::Gram];

    /// The key of recipes, and the name in formulas.
    pub fn name(self) -> &'static str {
        match self {
            Self::Importance => "importance",
            Self::Gram => "gram",
        }
    }
}

/// The checkpoints that go with a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attached {
    /// See [`Attachment::Importance`].
    pub importance: Option<Spanned<ModelId>>,
    /// See [`Attachment::Gram`].
    pub gram: Option<Spanned<ModelId>>,
}

impl Attached {
    /// The checkpoint of a kind.
    pub fn get(&self, kind: Attachment) -> Option<&Spanned<ModelId>> {
        match kind {
            Attachment::Importance => self.importance.as_ref(),
            Attachment::Gram => self.gram.as_ref(),
        }
    }

    /// These, and of the others the kinds that are not among them.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        Self {
            importance: self.importance.or_else(|| others.importance.clone()),
            gram: self.gram.or_else(|| others.gram.clone()),
        }
    }
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModelReference {
    /// A folder, a file or a hub id.
    Checkpoint {
        /// A path if it exists here, else a hub id.
        path: String,
        /// Revision at the hub.
        revision: Option<String>,
        /// Only tensors whose name begins so, with the prefix removed.
        prefix: Option<String>,
        /// A low-rank adapter on it: path or hub id, and revision.
        adapter: Option<(String, Option<String>)>,
        /// Replaces `architectures` of its config.
        override_architecture: Option<String>,
    },
    /// The result of another recipe, which is not written.
    Recipe {
        /// Path relative to the folder of the recipe that names it.
        path: String,
    },
}

/// What is merged with what.
#[derive(Clone, Debug)]
pub enum Body {
    /// `models`, `slices` or `modules`: whole models or stacked layers, one method for all.
    Modules(Vec<Module>),
    /// `rules`: the first that matches a tensor decides (strict form).
    Rules(Vec<Rule>),
}

/// A part of a model that has layers of its own.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name under `modules`; none when the recipe has only `models` or `slices`.
    pub name: Option<Spanned<String>>,
    /// Whole models or slices.
    pub content: ModuleContent,
    /// Parameters of the module.
    pub settings: Settings,
}

/// Whole models or slices.
#[derive(Clone, Debug)]
pub enum ModuleContent {
    /// `models`: all layers of each.
    Models(Vec<SourceModel>),
    /// `slices`: stretches of layers, stacked.
    Slices(Vec<Slice>),
}

/// A stretch of the output's layers.
#[derive(Clone, Debug)]
pub struct Slice {
    /// What is merged into it.
    pub sources: Vec<SourceModel>,
    /// Base of this slice, instead of the top's.
    pub base: Option<Spanned<ModelId>>,
    /// Parameters of the slice.
    pub settings: Settings,
    /// Place of the slice.
    pub span: Span,
}

/// A model as an input of a merge.
#[derive(Clone, Debug)]
pub struct SourceModel {
    /// Which.
    pub model: Spanned<ModelId>,
    /// First layer and the one after the last, in slices.
    pub layers: Option<Spanned<(u64, u64)>>,
    /// Parameters of this input, with the highest precedence.
    pub settings: Settings,
    /// What goes with it here.
    pub attached: Attached,
}

/// A rule of the strict form.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Globs; one must match the whole tensor name. None matches every name.
    pub tensors: Vec<Spanned<String>>,
    /// Only tensors of these layers: first, and the one after the last.
    pub layers: Option<Spanned<(u64, u64)>>,
    /// Only tensors of these modules, by the knowledge of their architecture; none means all.
    pub modules: Vec<Spanned<String>>,
    /// Only tensors of these roles, likewise.
    pub roles: Vec<Spanned<String>>,
    /// What becomes of them.
    pub action: Action,
    /// What makes it another rule than one that is written under `rules`.
    pub implied: Option<Implied>,
    /// Place of the rule.
    pub span: Span,
}

/// A rule that follows from another part of a recipe.
#[derive(Clone, Debug)]
pub struct Implied {
    /// What messages call it: the part that it follows from.
    pub title: String,
    /// Whether it may be about no tensor at all.
    pub may_be_idle: bool,
    /// Models in which the tensors that it keeps must be the same.
    pub same_in: Vec<Spanned<ModelId>>,
    /// How far their elements may be from those that are kept.
    pub within: f64,
}

/// What becomes of the tensors that a rule matches.
#[derive(Clone, Debug)]
pub enum Action {
    /// Copied from this model.
    Keep(Spanned<ModelId>),
    /// Left out.
    Drop,
    /// Merged.
    Merge {
        /// Name of the method; none when the rule has steps of its own or the top names one.
        method: Option<Spanned<String>>,
        /// Steps of the rule's own.
        inline_method: Option<Box<Method>>,
        /// Base of this rule, instead of the top's.
        base: Option<Spanned<ModelId>>,
        /// Model to compare with in this rule, instead of the top's.
        reference: Option<Spanned<ModelId>>,
        /// Experts with their parameters; none means all that [`Recipe::merged`] gives but the base.
        experts: Option<Vec<SourceModel>>,
        /// Parameters of the rule.
        settings: Settings,
        /// Element type of the rule's output, instead of the top's.
        out_dtype: Option<Spanned<String>>,
    },
}

/// Where the output's vocabulary comes from.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// The set of tokens.
    pub vocabulary: Vocabulary,
    /// Tokens with a source of their own.
    pub tokens: Vec<TokenRule>,
    /// The embedding's rows are padded to a multiple of this.
    pub pad_to_multiple_of: Option<u64>,
    /// Place of the key.
    pub span: Span,
}

/// The set of tokens of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// The base's, then what the others add.
    Union,
    /// The base's.
    Base,
    /// This model's.
    Model(ModelId),
}

/// Where the embedding of one token comes from.
#[derive(Clone, Debug)]
pub struct TokenRule {
    /// The token's text.
    pub token: Spanned<String>,
    /// Its source; by default as for every other token.
    pub source: Option<TokenSource>,
    /// Whether models that have the token are overridden.
    pub force: bool,
}

/// A source of one token's embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// This model's embedding of the same token.
    Model(ModelId),
    /// Zeros.
    Zero,
    /// Another token of a model, by its text.
    TokenText(ModelId, String),
    /// Another token of a model, by its id.
    TokenId(ModelId, u64),
}
