//! Words of configurations that count and describe layers, from `schemas/layers/config.json`: data, so that a
//! family which writes another key is a line there.

use std::sync::LazyLock;

use serde::Deserialize;

static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let text = include_str!("../../../../schemas/layers/config.json");
    serde_json::from_str(text).expect("the words are without mistakes, which a test holds")
});

/// What keys of a config mean for a stack of layers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    /// Keys that count layers. What is not among them is no count: `num_kv_shared_layers` is none.
    pub counts: Vec<String>,
    /// Lists that count the layers where nothing else does.
    pub counting_lists: Vec<String>,
    /// Keys of layers of multi-token prediction, whose names continue the numbers of the others.
    pub predictors: Vec<String>,
    /// Keys of what is packed into one tensor for all layers, shared between layers by their numbers, or computed
    /// from their count.
    pub packed: Vec<String>,
    /// Ends of the names of tensors that hold a part for each layer.
    pub packed_tensors: Vec<String>,
    /// Lists with one entry for each layer whose name does not contain `layer`.
    pub per_layer: Vec<String>,
    /// Parts of the names of lists that are as long as a stack by chance.
    pub not_per_layer: Vec<String>,
    /// Lists of layers by number, the first being 0.
    pub numbers: Vec<String>,
    /// Lists of layers by number, the first being 1.
    pub numbers_from_one: Vec<String>,
    /// Ends of the names of other lists of layers by number.
    pub number_endings: Vec<String>,
    /// Lists of layers by number behind each of which a module of its own takes the result.
    pub taps: Vec<String>,
    /// Lists of the stages of an image encoder: 0 or `stem`, and one more for each layer.
    pub stages: Vec<String>,
    /// Counts of layers at the start that differ from those after them.
    pub leading: Vec<String>,
    /// Numbers of the last layer that is like those before it.
    pub last: Vec<String>,
    /// Parts of the names of stacks, and of parts of a config, of images and videos.
    pub vision: Vec<String>,
    /// The same of sounds.
    pub audio: Vec<String>,
    /// The same of language models.
    pub text: Vec<String>,
    /// What the stack of a language model is called; numbered modules under other names, such as convolutions
    /// before an encoder, are none.
    pub stack_names: Vec<String>,
    /// Values of `model_type` of families that scale what goes into the output layer unless their config unties it.
    pub scaled_while_tied: Vec<String>,
    /// The key that says so of itself.
    pub scaling: String,
}

pub(super) fn words() -> &'static Words {
    &WORDS
}

/// Whether the name of a tensor ends like one that holds a part for each layer.
pub fn is_of_all_layers(tensor: &str) -> bool {
    WORDS.packed_tensors.iter().any(|end| tensor.ends_with(end.as_str()))
}

pub(super) fn has(list: &[String], key: &str) -> bool {
    list.iter().any(|word| word == key)
}
