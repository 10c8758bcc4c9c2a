//! Keys of a recipe of `kind: modality`.
//!
//! ```yaml
//! mixdown: 1
//! kind: modality
//! base: {path: vicuna-7b-v1.5}
//! inputs:
//!   vision:
//!     body: {adapter: mc-vision/adapter_model.bin, name: default, alpha: 256}
//!     connector: {from: adapter, prefix: model.modal_projectors.vision}
//!     encoder: {path: clip-vit-large-patch14-336, include: ref}
//! body: {method: optmerge, params: {tuning: lora}, include: "model.layers.{i}.{**}_proj.weight", rest: base}
//! output: {layout: omni, config: {prefer: {image_aspect_ratio: vision}}}
//! ```

use std::collections::BTreeMap;

use super::mergekit::PathKey;
use super::strict::{DeclarationKey, PatternsKey, SizeKey, VersionKey};
use super::{CountKey, ScalarKey, SettingsKey, keys};

/// What kind of merge the recipe is.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum KindKey {
    /// Language models become one; encoders and connectors of modalities stay apart.
    Modality,
}

/// How adapters act in the output.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum ModeKey {
    /// They are merged by a method.
    Static,
    /// All act at once, each with its coefficient (NaiveMC).
    Online,
    /// The merged one acts on text, and that of each modality on its tokens (DAMC).
    Damc,
}

/// What is merged.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum SpaceKey {
    /// Weights.
    Dense,
    /// Each factor of the adapters by itself.
    Factors,
}

/// What tensors get that are not merged.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum RestKey {
    /// The base's, which all bodies must have too.
    Base,
    /// The mean of the bodies.
    Mean,
    /// Those of the first body.
    First,
}

/// What becomes of an encoder.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum IncludeKey {
    /// Path and content hash stand in config.json.
    Ref,
    /// Its tensors are in the output.
    Copy,
    /// It is not spoken of.
    None,
}

/// What is written.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum LayoutKey {
    /// The whole model.
    Omni,
    /// The trained parts alone, under the names of ModelCompose, in `adapter_model.bin`.
    Modelcompose,
}

/// What inputs that disagree about a key of config.json are.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum ConflictKey {
    /// An error, unless `prefer` names one.
    Error,
}

/// The model that everything is on.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum BaseKey {
    /// A path or hub id, `path@revision`.
    Text(String),
    /// The same in parts.
    Map(BaseKeys),
}

keys! {
    /// A recipe that merges language models of several modalities and keeps their encoders apart.
    pub struct ModalityKeys {
        /// The version of the language.
        pub mixdown: VersionKey,
        /// `modality`.
        pub kind: KindKey,
        /// Values that `--set name=value` changes: `$name` stands for one of them anywhere in the recipe.
        pub declare: Option<BTreeMap<String, DeclarationKey>>,
        /// The language model that all bodies were tuned from, and the layout of the output's body.
        pub base: BaseKey,
        /// The modalities by name.
        pub inputs: BTreeMap<String, ModalityInputKeys>,
        /// How the bodies are merged.
        pub body: Option<MergedBodyKeys>,
        /// What is written.
        pub output: Option<ModalityOutputKeys>,
        /// How adapters act in the output; `static` if left out.
        pub mode: Option<ModeKey>,
        /// With `mode: online`, the factor of each modality's adapter; 1 through the count of modalities if left out.
        pub coefficients: Option<BTreeMap<String, ScalarKey>>,
        /// The seed of all random draws; 0 if it is left out.
        pub seed: Option<CountKey>,
        /// The size of the output's files: `5GB`, or a number of bytes.
        pub shard_size: Option<SizeKey>,
    }

    /// The base in parts.
    pub struct BaseKeys {
        /// Path or hub id.
        pub path: String,
        /// Revision at the hub.
        pub revision: Option<String>,
        /// Only tensors whose name begins so; the prefix is taken off.
        pub prefix: Option<String>,
    }

    /// A modality.
    pub struct ModalityInputKeys {
        /// Its language model.
        pub body: ModalityBodyKeys,
        /// What maps its features into the language model's space; copied byte for byte.
        pub connector: Option<ConnectorKeys>,
        /// What turns its data into features.
        pub encoder: Option<EncoderKeys>,
        /// Tensors of the modality's checkpoint that are left out, by the names that they have there.
        pub drop: Option<PatternsKey>,
        /// Parameters of the method for this modality.
        pub params: Option<SettingsKey>,
    }

    /// The language model of a modality: one of `adapter`, `peft` and `full`.
    pub struct ModalityBodyKeys {
        /// A file of factors as ModelCompose stores it, or its folder.
        pub adapter: Option<PathKey>,
        /// With `adapter`, the adapter's name within the file; `default` if left out.
        pub name: Option<String>,
        /// With `adapter`, its α; if left out the `lora_alpha` of config.json beside the file.
        pub alpha: Option<ScalarKey>,
        /// With `adapter`, its rank; if left out the `lora_r` of config.json beside the file, or what its factors have.
        pub rank: Option<CountKey>,
        /// A folder of PEFT.
        pub peft: Option<PathKey>,
        /// A whole model.
        pub full: Option<PathKey>,
        /// With `full`, what names of its language model begin with beyond those of the base, such as `language_model.`; found by the names themselves if left out.
        pub prefix: Option<String>,
    }

    /// The connector of a modality.
    pub struct ConnectorKeys {
        /// `adapter`, `peft` or `full`, the body's own checkpoint, or a path; the body's own if left out.
        pub from: Option<String>,
        /// What its names begin with there.
        pub prefix: String,
        /// What they begin with in the output; `model.modal_projectors.NAME` if left out.
        pub r#as: Option<String>,
    }

    /// The encoder of a modality.
    pub struct EncoderKeys {
        /// Its folder or file.
        pub path: Option<PathKey>,
        /// `full`, where it is in the body's own checkpoint.
        pub from: Option<String>,
        /// What its names begin with there.
        pub prefix: Option<String>,
        /// What they begin with in the output; `model.modal_encoders.NAME` if left out.
        pub r#as: Option<String>,
        /// What becomes of it; `ref` if left out, and `copy` where it is in the body's own checkpoint.
        pub include: Option<IncludeKey>,
    }

    /// How the bodies are merged.
    pub struct MergedBodyKeys {
        /// The method; none with `mode: online`.
        pub method: Option<String>,
        /// Its parameters.
        pub params: Option<SettingsKey>,
        /// What is merged; `dense` if left out.
        pub space: Option<SpaceKey>,
        /// Patterns of the base's names that are merged; all of them if left out.
        pub include: Option<PatternsKey>,
        /// What becomes of the others; `base` if left out.
        pub rest: Option<RestKey>,
        /// With `rest: base`, how far each element of a body may be from the base's; 0, the same bytes, if left out.
        pub tolerance: Option<ScalarKey>,
    }

    /// What is written.
    pub struct ModalityOutputKeys {
        /// `omni` if left out; `modelcompose` needs `space: factors`, `mode: online` or a `rank`.
        pub layout: Option<LayoutKey>,
        /// With `layout: modelcompose` and merged weights, how many directions each update keeps: the leading ones of what the merge adds to the base.
        pub rank: Option<CountKey>,
        /// How config.json is put together.
        pub config: Option<ComposedConfigKeys>,
    }

    /// How config.json is put together.
    pub struct ComposedConfigKeys {
        /// What it is when inputs disagree about a key.
        pub conflict: Option<ConflictKey>,
        /// For keys that inputs disagree about, the modality whose value is taken, or `base`.
        pub prefer: Option<BTreeMap<String, String>>,
    }
}
