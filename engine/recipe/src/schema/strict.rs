//! Keys of a strict recipe.
//!
//! ```yaml
//! mixdown: 1
//! declare: {strength: {type: fraction, default: 0.7, doc: Factor on the merged task vector.}}
//! models:
//!   general: ./general-7b
//!   math: {path: org/math-7b, revision: main, parameters: {weight: 0.6}}
//!   code: {recipe: code.yaml}
//! base: general
//! method: ties
//! parameters: {lambda: $strength, density: [0.3, 0.7]}
//! rules:
//!   - {tensors: lm_head.weight, keep: math}
//!   - {tensors: "**.mlp.*", layers: [0, 8], experts: [math], parameters: {density: 0.2}}
//!   - {tensors: "**.norm.weight", output: mean(experts)}
//!   - {}
//! ```
//!
//! - The models are named once and called by these names everywhere else.
//! - Of the rules the first that matches a tensor decides; one with neither `keep` nor `drop` merges, by
//!   the recipe's method where it names none. Without rules, slices and modules all models are merged.
//! - A parameter of an expert in a rule comes before one beside the model, then the rule's, then the top's.
//! - `importance` and `gram` beside a model are checkpoints that go with it; an expert in a rule can have
//!   others. They are read by methods that need them and never merged, nor is a `reference`.
//! - `map` beside a model names a map of architectures, a file of `maps/` or one that is built in: the model
//!   then has the names and shapes of the map's target, which is the base if nothing else is named.
//! - `like` beside a model is the one whose names its tensors get: rules then speak of one set of names, and
//!   a language model meets the one within a model of several modalities.
//! - `output` as a map says what is written: `{as: adapter, rank: 16}` is a LoRA on the base. A formula
//!   beside it stands in a rule, or in a method file.
//! - `$name` is the declared value, wherever a single value stands; `$$name` is the text `$name`. Formulas
//!   of the recipe use declared numbers, words and truth values by name, without `$`.

use std::collections::BTreeMap;

use super::architecture::TextsKey;
use super::mergekit::{
    LayersKey, ModelEntryKeys, ModelKey, ModuleKeys, OutputKeys, PathKey, SliceKeys, TokenizerKeys,
};
use super::method::{InputsKeys, ParameterKeys};
use super::{CountKey, ScalarKey, SettingsKey, keys};

/// The version of the recipe language.
#[derive(schemars::JsonSchema)]
#[schemars(extend("const" = 1))]
pub struct VersionKey(pub u64);

/// Models of a recipe.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum ModelsKey {
    /// By name; the names are used everywhere else.
    Named(BTreeMap<String, NamedModelKey>),
    /// As mergekit lists them; they have no names.
    Listed(Vec<ModelEntryKeys>),
}

/// What a name stands for.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum NamedModelKey {
    /// `path`, `path@revision`, `path+adapter` or `path@revision+adapter@revision`; a path that does not exist here is a hub id.
    Text(String),
    /// The same in parts, or another recipe.
    Map(Box<NamedModelKeys>),
}

/// A map of architectures.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum MapUseKey {
    /// Its name, or a path relative to this file's folder.
    Name(String),
    /// The same with more.
    Map(Box<MapUseKeys>),
}

/// A pattern of tensor names, or several.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum PatternsKey {
    /// `*` matches within dots, `**` across them, `{name}` one piece, `{a,b}` either.
    One(String),
    /// One of them must match.
    Several(Vec<String>),
}

/// Experts of a rule.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum ExpertsKey {
    /// Names of models.
    Names(Vec<String>),
    /// Names of models, with their parameters.
    Map(BTreeMap<String, Option<ExpertKeys>>),
}

/// A declared value: its default alone, or a description.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum DeclarationKey {
    /// The default.
    Default(ScalarKey),
    /// What it is, and its default.
    Full(ParameterKeys),
}

/// Steps of a method, in order: a name and its formula.
pub type StepsKey = BTreeMap<String, String>;

/// The formula of the recipe's own method, or what is written.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum OutputKey {
    /// The merged weights.
    Formula(String),
    /// `{as: adapter}`, `{as: adapter, rank: 16}`, or `{quantize: fp8}`.
    Form(OutputKeys),
}

/// A number of bytes.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum SizeKey {
    /// Bytes.
    Bytes(u64),
    /// `5GB`, `500MB`, `2GiB`, or a declared value.
    Text(String),
}

keys! {
    /// A strict recipe: unknown keys are errors.
    pub struct StrictKeys {
        /// The version of the language; its presence makes the recipe strict.
        pub mixdown: VersionKey,
        /// The models, by name or as a list.
        pub models: Option<ModelsKey>,
        /// The model that task vectors are measured from.
        pub base: Option<ModelKey>,
        /// Another spelling of `base`.
        pub base_model: Option<ModelKey>,
        /// One more model, which some methods compare the others with. Named only here it is not merged.
        pub reference: Option<ModelKey>,
        /// How the models are merged: the name of a method.
        pub method: Option<String>,
        /// Another spelling of `method`.
        pub merge_method: Option<String>,
        /// Values that `--set name=value` changes: `$name` stands for one of them anywhere in the recipe, and formulas of the recipe use them by name.
        pub declare: Option<BTreeMap<String, DeclarationKey>>,
        /// What the recipe's own method takes; found from its formulas where it is left out.
        pub inputs: Option<InputsKeys>,
        /// Steps of the recipe's own method, instead of `method`.
        pub steps: Option<StepsKey>,
        /// As a text the merged weights, as a formula: the result of the recipe's own method. As a map what is written, a whole model if there is none.
        pub output: Option<OutputKey>,
        /// Parameters of the method where nothing nearer says otherwise.
        pub parameters: Option<SettingsKey>,
        /// What becomes of which tensors: the first rule that matches a tensor decides.
        pub rules: Option<Vec<RuleKeys>>,
        /// Stretches of layers, stacked in this order.
        pub slices: Option<Vec<SliceKeys>>,
        /// Parts of a model that have layers of their own, by name.
        pub modules: Option<BTreeMap<String, ModuleKeys>>,
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
        /// The seed of all random draws; 0 if it is left out.
        pub seed: Option<CountKey>,
        /// The model that gives config.json and the other files; if it is left out the base or the first model, or the one whose names that model has.
        pub files_from: Option<ModelKey>,
        /// The size of the output's files: `5GB`, or a number of bytes.
        pub shard_size: Option<SizeKey>,
    }

    /// A model in parts, or another recipe whose result is the model.
    pub struct NamedModelKeys {
        /// Path or hub id.
        pub path: Option<String>,
        /// As `path`, or as in mergekit.
        pub model: Option<PathKey>,
        /// Revision at the hub.
        pub revision: Option<String>,
        /// Only tensors whose name begins so; the prefix is taken off.
        pub prefix: Option<String>,
        /// A low-rank adapter on it.
        pub adapter: Option<PathKey>,
        /// Replaces `architectures` of its config.
        pub override_architecture: Option<String>,
        /// Another model of the recipe, whose names the tensors of this one get where both have the same part under different names: a language model alone and one within a model that sees or hears. Tensors without a counterpart keep their names.
        pub like: Option<String>,
        /// With `like`: how many of the first rows of embeddings and output layers stand for the same tokens in both models. The other rows are those of the model of `like`.
        pub shared_rows: Option<CountKey>,
        /// Another recipe, relative to this one's folder. Its result is used and not written.
        pub recipe: Option<String>,
        /// The map of architectures through which it is seen: then it has the names and shapes of the map's target.
        pub map: Option<MapUseKey>,
        /// Parameters of this model wherever it is merged.
        pub parameters: Option<SettingsKey>,
        /// What goes with this model for methods that weigh by it: a checkpoint of diagonal Fisher information, with the names and shapes of the weights.
        pub importance: Option<PathKey>,
        /// What goes with this model for RegMean: a checkpoint with a matrix `[in, in]` under the name of each linear weight, the mean of x·xᵀ over the layer's inputs.
        pub gram: Option<PathKey>,
    }

    /// A map of architectures, with what is stated otherwise than in its file.
    pub struct MapUseKeys {
        /// Its name, or a path relative to this file's folder.
        pub name: String,
        /// The model whose names and shapes result; the base if left out.
        pub target: Option<String>,
        /// What becomes of weights that only the target has twice.
        pub policy: Option<super::map::PolicyKey>,
        /// Numbers that the map names under `let`.
        pub r#let: Option<BTreeMap<String, u64>>,
    }

    /// A rule: the tensors it is for, and what becomes of them. Without `keep` and `drop` they are merged.
    pub struct RuleKeys {
        /// Patterns of tensor names; every tensor if left out.
        pub tensors: Option<PatternsKey>,
        /// Only tensors of these layers.
        pub layers: Option<LayersKey>,
        /// Only tensors of these modules, such as `language_model`, `vision_encoder`, `connector` or `head`; for models whose architecture is known.
        pub module: Option<TextsKey>,
        /// Only tensors of these roles, such as `attention_q`, `mlp_up` or `norm`; for models whose architecture is known.
        pub role: Option<TextsKey>,
        /// The tensors are copied from this model.
        pub keep: Option<String>,
        /// The tensors are left out of the output.
        pub drop: Option<bool>,
        /// How the tensors are merged; the recipe's method if left out.
        pub method: Option<String>,
        /// Another spelling of `method`.
        pub merge_method: Option<String>,
        /// The base of this rule, instead of the one at the top.
        pub base: Option<String>,
        /// Another spelling of `base`.
        pub base_model: Option<String>,
        /// The model to compare with in this rule, instead of the one at the top.
        pub reference: Option<String>,
        /// What is merged; all models but the base if left out.
        pub experts: Option<ExpertsKey>,
        /// Parameters of the method.
        pub parameters: Option<SettingsKey>,
        /// Element type of these tensors in the output.
        pub out_dtype: Option<String>,
        /// Parameters that the rule's own formulas use.
        pub declare: Option<BTreeMap<String, DeclarationKey>>,
        /// What the rule's own method takes.
        pub inputs: Option<InputsKeys>,
        /// Steps of the rule's own method, instead of `method`.
        pub steps: Option<StepsKey>,
        /// The merged weights, as a formula.
        pub output: Option<String>,
    }

    /// An expert with its parameters.
    pub struct ExpertKeys {
        /// Parameters of this expert, before all others.
        pub parameters: Option<SettingsKey>,
        /// What goes with this expert, instead of what is beside the model for methods that weigh by it: a checkpoint of diagonal Fisher information, with the names and shapes of the weights.
        pub importance: Option<PathKey>,
        /// What goes with this expert, instead of what is beside the model for RegMean: a checkpoint with a matrix `[in, in]` under the name of each linear weight, the mean of x·xᵀ over the layer's inputs.
        pub gram: Option<PathKey>,
    }
}
