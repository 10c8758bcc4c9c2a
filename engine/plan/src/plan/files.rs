//! What the files of the output beside its weights are made from.

use std::collections::BTreeSet;

use mixdown_checkpoint::adapter::OutputUpdate;
use mixdown_tensor::DType;

/// What config.json and the other files of the output are made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputFiles {
    /// The checkpoint that gives config.json, the tokenizer and the rest: position in [`Plan::models`].
    pub files_from: Option<u32>,
    /// Type of the weights, if the recipe states one or all floats of the output agree.
    pub dtype: Option<DType>,
    /// Layers that were stacked anew; empty when the layers are those of `files_from`.
    pub layers: Vec<LayerChange>,
    /// What the names of the layers of each stack of `files_from` begin with.
    pub stacks: BTreeSet<String>,
    /// Whether the output layer shares its weights with the embedding, judged by what is written;
    /// none when the output has no embedding.
    pub tied: Option<bool>,
    /// Rows of the embedding, if the vocabulary was rebuilt.
    pub vocabulary: Option<u64>,
    /// What is written instead of a whole model.
    pub adapter: Option<AdapterFiles>,
    /// The GGUF file that is written instead of safetensors.
    pub gguf: Option<GgufOutput>,
    /// Replaced files, name and text: a rebuilt tokenizer, a chat template.
    pub files: Vec<(String, String)>,
}

/// A GGUF file as the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufOutput {
    /// What files call the family.
    pub architecture: String,
    /// The number of the types that its tensors have.
    pub file_type: u32,
}

/// An adapter as the output.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFiles {
    /// What it is on: position in [`Plan::models`].
    pub base: u32,
    /// The products that it adds.
    pub updates: Vec<OutputUpdate>,
    /// Tensors of the base that it stores whole.
    pub replacements: Vec<u32>,
}

/// Layers stacked anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerChange {
    /// What the names of its layers begin with: `model.layers.`.
    pub prefix: String,
    /// Layers of the model that gives config.json.
    pub before: u64,
    /// For each output layer, the layer of the (first) source it is made from.
    pub sources: Vec<u64>,
}
