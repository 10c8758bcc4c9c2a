//! Architecture maps: every tensor of a target architecture as an expression over the tensors of a source,
//! or as what it is in the target itself. A model seen through a map has the names and shapes of the target.

use mixdown_diagnostics::{Source, Span};

use crate::pattern::Pattern;
use crate::setting::Spanned;

mod name;

pub use name::{NameTemplate, Parts};

/// A map.
#[derive(Clone, Debug)]
pub struct ArchitectureMap {
    /// Its name; a file that is found by the name is called the same.
    pub name: Spanned<String>,
    /// What it is for, in one line.
    pub summary: Option<String>,
    /// The family whose names and shapes result.
    pub target: Spanned<String>,
    /// The family that is read.
    pub source: Spanned<String>,
    /// What becomes of weights that only the target has two of.
    pub policy: Policy,
    /// Numbers with a name, which sizes use.
    pub numbers: Vec<(String, u64)>,
    /// Of these the first that matches a tensor of the target decides.
    pub rules: Vec<MapRule>,
    /// Tensors of the source that nothing is made of.
    pub unused: Vec<Pattern>,
    /// The file it comes from.
    pub file: Source,
}

/// What becomes of weights that a multimodal target has twice, where the source has them once.
///
/// Source: AdaMMS (Du et al., 2025), section 3.1 and appendix B, which differ here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Both are merged with the shared weight of the source.
    MainText,
    /// The second one stays as it is in the target.
    AppendixB,
}

impl Policy {
    /// The words of recipes and maps.
    pub const WORDS: &[(&'static str, Self)] =
        &[("main-text", Self::MainText), ("appendix-b", Self::AppendixB)];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::MainText => "main-text",
            Self::AppendixB => "appendix-b",
        }
    }
}

/// Where tensors of the target come from.
#[derive(Clone, Debug)]
pub struct MapRule {
    /// The names of the target's tensors.
    pub to: Pattern,
    /// What they are made of.
    pub from: Origin,
    /// Whether they are the second of two weights of the target, and the source has no second one:
    /// [`Policy::AppendixB`] keeps them.
    pub is_unmatched_extra: bool,
    /// Place of the rule.
    pub span: Span,
    /// Place of what is made.
    pub from_span: Span,
}

/// What a tensor of the target is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// The tensor of the same name in the source.
    Same,
    /// The target's own tensor, which no method changes.
    Keep,
    /// Zeros.
    Zero,
    /// The first rows of an expression; the target keeps its rows after them.
    Rows(MapExpression, Option<MapSize>),
    /// An expression.
    Expression(MapExpression),
}

/// An expression over tensors of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct MapExpression {
    /// What it is.
    pub kind: MapExpressionKind,
    /// Its place.
    pub span: Span,
}

/// What an expression of a map is.
#[derive(Clone, Debug, PartialEq)]
pub enum MapExpressionKind {
    /// A tensor of the source.
    Tensor(NameTemplate),
    /// The first of these that the source has: one tensor under several names.
    FirstOf(Vec<NameTemplate>),
    /// One after the other along an axis, 0 or 1.
    Concat(Vec<MapExpression>, u8),
    /// A part along an axis, 0 or 1.
    Slice(Box<MapExpression>, u8, Slicing),
    /// A matrix with rows and columns exchanged.
    Transpose(Box<MapExpression>),
    /// The mean of tensors of one shape.
    Mean(Vec<MapExpression>),
    /// Tensors of one shape along a new first axis.
    Stack(Vec<MapExpression>),
    /// The query, key or value rows of a matrix in which each key-value head has the rows of its queries,
    /// of its key and of its value together.
    Ungroup(Box<MapExpression>, Attention),
}

/// Which part is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Slicing {
    /// From 0.
    pub part: u64,
    /// Into what the axis is cut.
    pub cut: Cut,
}

/// Into what an axis is cut.
#[derive(Clone, Debug, PartialEq)]
pub enum Cut {
    /// So many parts of one size.
    Equal(u64),
    /// Parts of these sizes, in order.
    Sizes(Vec<MapSize>),
}

/// Part of a fused attention weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Rows of the queries.
    Query,
    /// Rows of the keys.
    Key,
    /// Rows of the values.
    Value,
}

/// A size.
#[derive(Clone, Debug, PartialEq)]
pub enum MapSize {
    /// A number.
    Number(u64),
    /// One of `let`, or of [`MapSize::KNOWN`].
    Name(Spanned<String>),
}

impl MapSize {
    /// Sizes that the configuration of the target tells, each with what it is.
    pub const KNOWN: &[(&'static str, &'static str)] = &[
        ("hidden", "hidden_size"),
        ("inter", "intermediate_size"),
        ("q_dim", "num_attention_heads * (head_dim or hidden_size / num_attention_heads)"),
        (
            "kv_dim",
            "(num_key_value_heads or num_attention_heads) * (head_dim or hidden_size / num_attention_heads)",
        ),
    ];
}

impl ArchitectureMap {
    /// Whether a rule leaves tensors of the target as they are.
    pub fn keeps(&self, rule: &MapRule, policy: Policy) -> bool {
        rule.from == Origin::Keep || (policy == Policy::AppendixB && rule.is_unmatched_extra)
    }
}

impl MapExpression {
    /// The key that says what it is; a name alone has none.
    pub fn word(&self) -> Option<&'static str> {
        Some(match &self.kind {
            MapExpressionKind::Tensor(_) => return None,
            MapExpressionKind::FirstOf(_) => "first_of",
            MapExpressionKind::Concat(..) => "concat",
            MapExpressionKind::Slice(..) => "slice",
            MapExpressionKind::Transpose(_) => "transpose",
            MapExpressionKind::Mean(_) => "mean",
            MapExpressionKind::Stack(_) => "stack",
            MapExpressionKind::Ungroup(..) => "ungroup_qkv",
        })
    }

    /// Calls with each tensor name in it.
    pub fn for_each_name<'e>(&'e self, call: &mut impl FnMut(&'e NameTemplate)) {
        match &self.kind {
            MapExpressionKind::Tensor(name) => call(name),
            MapExpressionKind::FirstOf(names) => names.iter().for_each(call),
            MapExpressionKind::Concat(parts, _)
            | MapExpressionKind::Mean(parts)
            | MapExpressionKind::Stack(parts) => {
                parts.iter().for_each(|part| part.for_each_name(call));
            }
            MapExpressionKind::Slice(inner, ..)
            | MapExpressionKind::Transpose(inner)
            | MapExpressionKind::Ungroup(inner, _) => inner.for_each_name(call),
        }
    }
}
