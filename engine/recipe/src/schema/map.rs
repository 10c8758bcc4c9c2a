//! Keys of a file that maps one architecture onto another.
//!
//! ```yaml
//! mixdown_map: 1
//! name: llava-to-cogvlm
//! target: cogvlm
//! source: llava_original
//! rules:
//!   - to: model.norm.weight
//!   - to: model.layers.{i}.self_attn.language_expert_query_key_value.weight
//!     from:
//!       concat:
//!         - model.layers.{i}.self_attn.q_proj.weight
//!         - model.layers.{i}.self_attn.k_proj.weight
//!         - model.layers.{i}.self_attn.v_proj.weight
//!   - to: model.vision.{**}
//!     from: keep
//! unused: ["model.mm_projector.{**}"]
//! ```
//!
//! - Of the rules the first that matches a tensor of the target decides, and each tensor needs one.
//! - Each tensor of the source is used by a rule, or matched by a pattern of `unused`.
//! - In patterns `{i}`, `{j}`, `{e}` are numbers, `{name}` is one piece between dots, `{name:a|b}` one of
//!   these, `{**name}` any rest. The names stand for what they matched in `from`; `<i>` is `{i}`.

use std::collections::BTreeMap;

use super::architecture::TextsKey;
use super::keys;
use super::strict::VersionKey;

/// Whether a weight that the target has twice has its counterpart in the source.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum ExtraKey {
    /// It has: the source has two of them as well.
    Matched,
    /// It has not: `policy: appendix-b` keeps it.
    Unmatched,
}

/// What becomes of weights that only the target has twice.
#[derive(schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum PolicyKey {
    /// Both are merged with the source's one.
    MainText,
    /// The one marked `extra: unmatched` stays as it is.
    AppendixB,
}

/// What tensors are made of: `keep`, `zero`, the name of a tensor of the source, or an expression.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum FromKey {
    /// `keep` is the target's own tensor, `zero` zeros, any other text the name of a tensor of the source.
    Name(String),
    /// An expression; it has one of the keys `concat`, `slice`, `transpose`, `pad_rows`, `mean`, `stack`, `ungroup_qkv` and `first_of`.
    Expression(Box<ExpressionKeys>),
}

/// A size: a number, or one of `hidden`, `inter`, `q_dim`, `kv_dim` and the names under `let`.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum SizeKey {
    /// A number.
    Number(u64),
    /// A name.
    Name(String),
}

/// Part of a fused attention weight.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
pub enum PartKey {
    /// Of `slice`: which part, from 0.
    Position(u64),
    /// Of `ungroup_qkv`: `q`, `k` or `v`.
    Attention(String),
}

keys! {
    /// A map from one architecture onto another: for each tensor of the target what it is made of.
    pub struct MapKeys {
        /// The version of the language of maps.
        pub mixdown_map: VersionKey,
        /// Its name; a file that is found by the name is called the same.
        pub name: String,
        /// What it is for, in one line.
        pub summary: Option<String>,
        /// The family whose names and shapes result.
        pub target: String,
        /// The family that is read.
        pub source: String,
        /// What becomes of weights that only the target has twice; `main-text` if left out.
        pub policy: Option<PolicyKey>,
        /// Numbers with a name, which sizes use. A recipe may state others.
        pub r#let: Option<BTreeMap<String, u64>>,
        /// Where the tensors of the target come from: the first rule that matches decides.
        pub rules: Vec<MapRuleKeys>,
        /// Patterns of the source's tensors that nothing is made of.
        pub unused: Option<TextsKey>,
    }

    /// A rule of a map.
    pub struct MapRuleKeys {
        /// Pattern of names of the target's tensors.
        pub to: String,
        /// What they are made of; the source's tensors of the same names if left out.
        pub from: Option<FromKey>,
        /// That these are a second set of weights, and whether the source has it too.
        pub extra: Option<ExtraKey>,
    }

    /// An expression over tensors of the source.
    pub struct ExpressionKeys {
        /// These one after the other along `dim`.
        pub concat: Option<Vec<FromKey>>,
        /// A part of this along `dim`: `part` of `parts` equal ones, or of those of `sizes`.
        pub slice: Option<FromKey>,
        /// This matrix with rows and columns exchanged.
        pub transpose: Option<FromKey>,
        /// The first rows of a tensor; the target keeps its own after them.
        pub pad_rows: Option<PadRowsKeys>,
        /// The mean of these.
        pub mean: Option<Vec<FromKey>>,
        /// These along a new first axis. One with `{e}` in it stands for all that the source has, from 0 on.
        pub stack: Option<Vec<FromKey>>,
        /// The rows of `part` of this matrix, in which each key-value head has its query, key and value rows together.
        pub ungroup_qkv: Option<FromKey>,
        /// The first of these names that the source has.
        pub first_of: Option<Vec<String>>,
        /// The axis of `concat` and `slice`, 0 or 1, and of `stack`, 0; 0 if left out.
        pub dim: Option<u64>,
        /// Which part: of `slice` its position from 0, of `ungroup_qkv` one of `q`, `k` and `v`.
        pub part: Option<PartKey>,
        /// Into how many equal parts `slice` cuts.
        pub parts: Option<u64>,
        /// Into which parts `slice` cuts.
        pub sizes: Option<Vec<SizeKey>>,
    }

    /// Rows of a source with another count of rows than the target.
    pub struct PadRowsKeys {
        /// The rows.
        pub rows: FromKey,
        /// How many of them; as many as both have if left out. Where source or target have fewer than that, or the source more than the target, as many as both have are taken, with a warning.
        pub take: Option<SizeKey>,
    }
}
