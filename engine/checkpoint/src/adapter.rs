//! Adapters: a folder as peft writes it, read and brought together with the index of its base. What is computed
//! from that is left to others: products of two factors stay such, and what other kinds make is read like a
//! stored tensor.

mod beside;
mod computed;
mod config;
mod dialects;
mod doubled;
mod effect;
mod effects;
mod experts;
mod factors;
mod files;
mod kinds;
mod names;
mod naming;
mod pattern;
mod resolve;
mod tied;
mod vocabulary;
mod write;

use mixdown_diagnostics::Diagnostic;

use crate::index::Index;

pub use config::{AdapterConfig, Bias, Scaling};
pub use doubled::Doubled;
pub use factors::{FactorsFile, FactorsSpec, open_factors_as};
pub(crate) use files::WEIGHTS;
pub use files::{AdapterFiles, is_adapter, open_adapter, open_adapter_as};
pub(crate) use names::WRAPPERS;
pub use names::{name_in, names_of};
pub use pattern::ModulePattern;
pub use write::{OutputAdapter, OutputUpdate};

/// An adapter against its base. With its [`Replacement`]s made first and its [`Update`]s added
/// after, the base becomes the model that the adapter stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The products that are added, in the order of the base's tensors; one for each at most.
    pub updates: Vec<Update>,
    /// The tensors that take the place of the base's, in the order of the base's tensors; one for
    /// each at most. An embedding can have a replacement and an update.
    pub replacements: Vec<Replacement>,
    /// Tensors that the base lacks, in the order of their names: an output layer beside the embedding that it
    /// was tied to, a classifier.
    pub additions: Vec<Addition>,
    /// Tensors that are added to the base's; one for each at most.
    pub deltas: Vec<Delta>,
    /// Norms that base and update together get; of tensors with an update.
    pub magnitudes: Vec<Magnitude>,
    /// The adapter's tensors with those that are computed from them, where there are such: positions in the
    /// adapter's index are in this one then. It has the base's files too where its tensors are computed from.
    pub index: Option<Index>,
    /// Whether an output layer that the base stores beside its embedding, and ties to it, is another one from now on.
    pub is_untied: bool,
    /// What the adapter says of itself.
    pub config: AdapterConfig,
    /// What the user should know and may ignore.
    pub warnings: Vec<Diagnostic>,
}

/// A product of two factors that is added to a tensor of the base: scale · left · right.
///
/// **Shapes.** `left: [out, rank]`, `right: [rank, in]`; the base's tensor is [out, in], and
/// [in, out] where the update is `transposed`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Position in the base's [`crate::Index::tensors`].
    pub base_tensor: u32,
    /// `lora_B`: position in the adapter's index.
    pub left: u32,
    /// `lora_A`: position in the adapter's index.
    pub right: u32,
    /// The inner dimension; at least 1.
    pub rank: u64,
    /// α / r, or α / √r; finite and not 0.
    pub scale: f64,
    /// Whether the transpose of the product is added: embeddings, and bases that store linear
    /// layers as [in, out].
    pub transposed: bool,
}

/// A tensor that is added to one of the base, in the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Position in the base's [`crate::Index::tensors`].
    pub base_tensor: u32,
    /// Position in [`Adapter::index`].
    pub adapter_tensor: u32,
}

/// The norms of the rows of a tensor, or of its columns, as DoRA trains them: base and update together are
/// divided by their own norms and multiplied by these. Liu et al. 2024, arXiv:2402.09353, equation 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Magnitude {
    /// Position in the base's [`crate::Index::tensors`].
    pub base_tensor: u32,
    /// Position in [`Adapter::index`]; each element of a row, or of a column, has its norm.
    pub adapter_tensor: u32,
    /// Whether columns have these norms: where the base stores outputs along them.
    pub by_columns: bool,
}

/// A tensor that the base lacks and the model that the adapter stands for has.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub from: AddedFrom,
    /// The product that is added to that. Its `base_tensor` is the embedding that it was tied to.
    pub update: Option<Update>,
    /// The tensor of the base that it is tied to: position in its index.
    pub second_of: Option<u32>,
}

/// What a tensor that the base lacks is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddedFrom {
    /// A tensor of the adapter: position in its index.
    Adapter(u32),
    /// A copy of one of the base: position in its index.
    Base(u32),
}

/// A tensor of the adapter that takes the place of one of the base, in the same shape but for the rows of a
/// vocabulary that was resized in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Position in the base's [`crate::Index::tensors`].
    pub base_tensor: u32,
    /// Position in the adapter's index.
    pub adapter_tensor: u32,
}
