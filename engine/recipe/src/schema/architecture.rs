//! Keys of a file that describes an architecture.
//!
//! ```yaml
//! architecture: llama
//! title: Llama
//! matches: {model_type: llama, architectures: LlamaForCausalLM, order: 300}
//! axes:
//!   hidden: hidden_size
//!   head: head_dim or hidden_size / num_attention_heads
//!   query: num_attention_heads * head
//! modules:
//!   language_model:
//!     prefixes: [model.]
//!     layers: {as: i, count: num_hidden_layers}
//!     tensors:
//!       layers.{i}.self_attn.q_proj.weight: {role: attention_q, axes: [query, hidden]}
//! ```

use std::collections::BTreeMap;

use super::keys;
use crate::architecture::Role;

/// A text, or several.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum TextsKey {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// A size: a number, or a formula of numbers, names, `+ - * /`, `or` and parentheses; `any` where the configuration does not tell it.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum SizeKey {
    /// A number.
    Number(u64),
    /// A formula.
    Formula(String),
}

/// Whether a bias stands beside a weight.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum BiasKey {
    /// Always.
    Required,
    /// In some models.
    Optional,
}

/// How the parts of a fused tensor lie along its output axis.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum LayoutKey {
    /// Each part whole, one after the other.
    Blocks,
    /// For each attention head its rows of each part.
    PerHead,
    /// For each key-value head: the rows of its query heads, of the key, of the value.
    PerKeyValueHead,
}

keys! {
    /// A family of models: how it is recognized, and what its tensors are.
    pub struct ArchitectureKeys {
        /// Its name; the file is called the same.
        pub architecture: String,
        /// What people call it.
        pub title: String,
        /// How a model of the family is recognized.
        pub matches: MatchesKeys,
        /// Sizes by name, from keys of the configuration and from the sizes above; a key without a path is looked up in `text_config` and `llm_config` first. Those of a module taken from elsewhere are known too.
        pub axes: Option<BTreeMap<String, SizeKey>>,
        /// Its modules, by name.
        pub modules: BTreeMap<String, ModuleKeys>,
    }

    /// How a model of a family is recognized: by its configuration, or else by its tensors.
    pub struct MatchesKeys {
        /// `model_type` of the configuration.
        pub model_type: Option<TextsKey>,
        /// First entry of `architectures` in the configuration.
        pub architectures: Option<TextsKey>,
        /// What else the configuration must say: keys with their path, and patterns of their values. Of a list one entry must match.
        pub when: Option<BTreeMap<String, TextsKey>>,
        /// Families are asked in this order, the special before the general.
        pub order: u64,
        /// Patterns of tensor names that tell the family where the configuration does not: each must match a name.
        pub tensors: Option<TextsKey>,
    }

    /// A part of a model with a purpose of its own.
    pub struct ModuleKeys {
        /// `ARCHITECTURE.MODULE`: all is taken from there but for what is written here.
        pub like: Option<String>,
        /// Tensors of `like` that are not here.
        pub without: Option<TextsKey>,
        /// What the names of its tensors begin with. The first is the canonical one; the others are older and newer names of the same tensors.
        pub prefixes: Option<TextsKey>,
        /// Its layers.
        pub layers: Option<LayersKeys>,
        /// How many there are of what other letters number.
        pub counts: Option<BTreeMap<String, SizeKey>>,
        /// Whether a model may lack the module as a whole.
        pub optional: Option<bool>,
        /// Its tensors: names without prefix, in which `{i}` is a number and `{a,b}` either.
        pub tensors: Option<BTreeMap<String, TensorKeys>>,
    }

    /// The layers of a module.
    pub struct LayersKeys {
        /// The letter that is the layer's number in names.
        pub r#as: String,
        /// How many there are.
        pub count: SizeKey,
    }

    /// Tensors whose names differ only in numbers.
    pub struct TensorKeys {
        /// What they do.
        pub role: Role,
        /// The size of each axis, as stored.
        pub axes: Vec<SizeKey>,
        /// Whether `.bias` stands beside `.weight`, with the size of the output axis.
        pub bias: Option<BiasKey>,
        /// Whether a model may lack them.
        pub optional: Option<bool>,
        /// `MODULE.NAME` of the tensor whose weights they share where the configuration says so; they need not be stored then.
        pub tied_to: Option<String>,
        /// What is stored in one tensor here and in several elsewhere.
        pub fused: Option<FusedKeys>,
        /// Whether they are computed from the configuration, and never merged.
        pub buffer: Option<bool>,
        /// Whether they are stored `[in, out]` instead of `[out, in]`; of a stack of experts each.
        pub transposed: Option<bool>,
        /// The tensors of this module that these are a second set of, for another kind of token.
        pub duplicate_of: Option<String>,
    }

    /// What is stored in one tensor here and in several elsewhere.
    pub struct FusedKeys {
        /// The parts along the output axis, in order: role and size.
        pub parts: BTreeMap<String, SizeKey>,
        /// How they lie there; each whole if left out.
        pub layout: Option<LayoutKey>,
    }
}
