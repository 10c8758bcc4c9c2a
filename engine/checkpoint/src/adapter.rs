//! Adapters: a LoRA folder as peft writes it, read and brought together with the index of its base.
//! What is computed from that is left to others.

mod config;
mod factors;
mod files;
mod names;
mod pattern;
mod resolve;
mod write;

use mixdown_diagnostics::Diagnostic;

pub use config::{AdapterConfig, Bias, Scaling};
pub use factors::{FactorsFile, FactorsSpec, open_factors_as};
pub use files::{AdapterFiles, is_adapter, open_adapter, open_adapter_as};
pub use names::name_in;
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

/// A tensor of the adapter that takes the place of one of the base, in the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Position in the base's [`crate::Index::tensors`].
    pub base_tensor: u32,
    /// Position in the adapter's index.
    pub adapter_tensor: u32,
}
