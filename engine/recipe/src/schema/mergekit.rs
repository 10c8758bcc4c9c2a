//! Keys of a mergekit configuration.

use super::architecture::TextsKey;
use super::strict::PatternsKey;
use super::{SettingsKey, keys};

/// A model: `path`, `path@revision`, `path+adapter`, or a map.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum ModelKey {
    /// `path`, `path@revision`, `path+adapter` or `path@revision+adapter@revision`; a path that does not exist here is a hub id.
    Text(String),
    /// The same in parts.
    Map(Box<ModelMapKeys>),
}

/// A path with its revision.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum PathKey {
    /// `path` or `path@revision`.
    Text(String),
    /// The same in parts; the only way to write a path that contains `@` or `+`.
    Map(PathKeys),
}

/// What a result is written as.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum OutputFormKey {
    /// A LoRA on the base, as PEFT writes it.
    Adapter,
    /// One GGUF file, as llama.cpp reads it.
    Gguf,
}

/// A form, or rules of which the first that matches a tensor decides.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum QuantizeKey {
    /// A form with its usual settings.
    Form(String),
    /// A form for all weights.
    Rule(Box<QuantizeRuleKeys>),
    /// Rules.
    Rules(Vec<QuantizeRuleKeys>),
}

keys! {
    /// A merge as mergekit describes it. Exactly one of `models`, `slices` and `modules` says what is merged.
    pub struct MergekitKeys {
        /// How the models are merged: the name of a method.
        pub merge_method: String,
        /// Whole models that are merged.
        pub models: Option<Vec<ModelEntryKeys>>,
        /// Stretches of layers, stacked in this order.
        pub slices: Option<Vec<SliceKeys>>,
        /// Parts of a model that have layers of their own, by name.
        pub modules: Option<std::collections::BTreeMap<String, ModuleKeys>>,
        /// The model that task vectors are measured from.
        pub base_model: Option<ModelKey>,
        /// One more model, which some methods compare the others with; it is not merged. mixdown's own key.
        pub reference: Option<ModelKey>,
        /// Parameters of the method where nothing nearer says otherwise.
        pub parameters: Option<SettingsKey>,
        /// Element type that inputs are converted to.
        pub dtype: Option<String>,
        /// Element type of the output.
        pub out_dtype: Option<String>,
        /// `union`, `base`, or the model whose tokenizer is taken.
        pub tokenizer_source: Option<ModelKey>,
        /// Where the vocabulary comes from, token by token if need be.
        pub tokenizer: Option<TokenizerKeys>,
        /// `auto`, the name of a template, or a template.
        pub chat_template: Option<String>,
        /// Seed of all random draws, as mergekit's switch of this name.
        pub random_seed: Option<super::CountKey>,
        /// What is written; a whole model if it is left out. mixdown's own key.
        pub output: Option<OutputKeys>,
    }

    /// What is written: `{as: adapter}`, `{as: adapter, rank: 16}`, or `{quantize: fp8}`.
    pub struct OutputKeys {
        /// `adapter`: a LoRA on the base, as PEFT writes it. `gguf`: a GGUF file. Left out, a whole model.
        pub r#as: Option<OutputFormKey>,
        /// The most directions of each update. Left out, every update must have few directions by itself, and is exact.
        pub rank: Option<super::CountKey>,
        /// With `gguf` the types of its tensors, as llama.cpp names them: `q4_k_m`, `q5_k_m`, `q6_k`, `q8_0`, `q4_0`, `mxfp4`, `bf16`, `f16` and others.
        pub r#type: Option<String>,
        /// Weights that are written in fewer bits. Norms, routers, embeddings and output layers stay as they are unless a rule names them.
        pub quantize: Option<QuantizeKey>,
    }

    /// How some weights are written.
    pub struct QuantizeRuleKeys {
        /// Patterns of tensor names; every tensor if left out.
        pub tensors: Option<PatternsKey>,
        /// Only tensors of these layers.
        pub layers: Option<LayersKey>,
        /// Only tensors of these modules.
        pub module: Option<TextsKey>,
        /// Only tensors of these roles.
        pub role: Option<TextsKey>,
        /// The form: `fp8`, `int8`, `int4`, `mxfp4`, `nvfp4`, `nf4`, or `none` for tensors that stay as they are.
        pub to: String,
        /// The library whose files it is like: `compressed-tensors`, `block-fp8` for those of DeepSeek, `bitsandbytes`, or `mlx`. All rules name the same.
        pub r#as: Option<String>,
        /// What shares a scale: `tensor`, `channel`, `group` or `block`.
        pub scales: Option<String>,
        /// Columns of a group.
        pub group: Option<super::CountKey>,
        /// Whether zero is the middle of the codes; else there are zero points.
        pub symmetric: Option<bool>,
        /// How scales of whole numbers are chosen: `absmax`, or `least_squares` for the least error.
        pub fit: Option<String>,
    }

    /// A model with its parameters.
    pub struct ModelEntryKeys {
        /// Which model.
        pub model: ModelKey,
        /// Parameters of this model, before all others.
        pub parameters: Option<SettingsKey>,
        /// What goes with this model for methods that weigh by it: a checkpoint of diagonal Fisher information, with the names and shapes of the weights. mixdown's own key.
        pub importance: Option<PathKey>,
        /// What goes with this model for RegMean: a checkpoint with a matrix `[in, in]` under the name of each linear weight, the mean of x·xᵀ over the layer's inputs. mixdown's own key.
        pub gram: Option<PathKey>,
    }

    /// A stretch of the output's layers.
    pub struct SliceKeys {
        /// Layers that are merged into it; all of the same number.
        pub sources: Vec<SourceKeys>,
        /// The base of this slice, instead of the one at the top.
        pub base_model: Option<ModelKey>,
        /// Parameters of this slice.
        pub parameters: Option<SettingsKey>,
        /// Has no effect; accepted because published configurations have it.
        pub residual_weight: Option<f64>,
    }

    /// Layers of a model.
    pub struct SourceKeys {
        /// Which model.
        pub model: ModelKey,
        /// First layer, and the one after the last.
        pub layer_range: LayersKey,
        /// Parameters of these layers, before all others.
        pub parameters: Option<SettingsKey>,
        /// What goes with this model for methods that weigh by it: a checkpoint of diagonal Fisher information, with the names and shapes of the weights. mixdown's own key.
        pub importance: Option<PathKey>,
        /// What goes with this model for RegMean: a checkpoint with a matrix `[in, in]` under the name of each linear weight, the mean of x·xᵀ over the layer's inputs. mixdown's own key.
        pub gram: Option<PathKey>,
    }

    /// A part of a model: exactly one of `models` and `slices`.
    pub struct ModuleKeys {
        /// Whole models that are merged.
        pub models: Option<Vec<ModelEntryKeys>>,
        /// Stretches of layers, stacked in this order.
        pub slices: Option<Vec<SliceKeys>>,
        /// Parameters of this module.
        pub parameters: Option<SettingsKey>,
    }

    /// A model in parts.
    pub struct ModelMapKeys {
        /// Path or hub id.
        pub model: PathKey,
        /// A low-rank adapter on it.
        pub lora: Option<PathKey>,
        /// Replaces `architectures` of its config.
        pub override_architecture: Option<String>,
    }

    /// A path with its revision.
    pub struct PathKeys {
        /// Path or hub id.
        pub path: String,
        /// Revision at the hub.
        pub revision: Option<String>,
    }

    /// Where the vocabulary comes from.
    pub struct TokenizerKeys {
        /// `union`, `base`, or a model.
        pub source: Option<ModelKey>,
        /// Tokens whose embedding has a source of its own, by their text.
        pub tokens: Option<std::collections::BTreeMap<String, TokenKeys>>,
        /// The embedding's rows are padded to a multiple of this.
        pub pad_to_multiple_of: Option<u64>,
    }

    /// Where the embedding of one token comes from.
    pub struct TokenKeys {
        /// A model, zeros, or another token of a model.
        pub source: Option<TokenSourceKey>,
        /// Whether models that have the token are overridden, too.
        pub force: Option<bool>,
    }

    /// Zeros (`kind: zero`), or another token of a model (`kind: model_token`).
    pub struct TokenSourceKeys {
        /// `zero` or `model_token`.
        pub kind: TokenKind,
        /// The model that has the other token.
        pub model: Option<ModelKey>,
        /// The other token, by its text.
        pub token: Option<String>,
        /// The other token, by its number.
        pub token_id: Option<u64>,
    }
}

/// Kinds of token sources.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum TokenKind {
    /// Zeros.
    Zero,
    /// Another token.
    ModelToken,
}

/// A source of one token's embedding.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum TokenSourceKey {
    /// Zeros, or another token.
    Other(TokenSourceKeys),
    /// This model's embedding of the same token.
    Model(ModelKey),
}

/// First layer, and the one after the last: `[0, 16]` are the first sixteen.
#[derive(schemars::JsonSchema)]
pub struct LayersKey(pub u64, pub u64);
