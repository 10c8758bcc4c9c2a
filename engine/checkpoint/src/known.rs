//! Names of tensors that many families share, from `schemas/names/unknown.json`: what is gone by where no
//! description of the family says more. They are data, so that a family under other names is a line there.

use std::sync::LazyLock;

use serde::Deserialize;

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let text = include_str!("../../../schemas/names/unknown.json");
    serde_json::from_str(text).expect("the names are without mistakes, which a test holds")
});

/// Names, ends and parts of names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Ends of the names of input embeddings, the longer before those that end alike, and of the output layer that
    /// each can stand in for.
    pub tied: Vec<[String; 2]>,
    /// Tensors that some files store and that are others under a second name, in families that tie them: T5, BART,
    /// Whisper, BERT. With the end of the name of the tensor that they are.
    pub copies: Vec<[String; 2]>,
    /// Those of the copies that are output layers, which a config that unties them leaves apart.
    pub copied_heads: Vec<String>,
    /// Where the language model of a checkpoint may begin: published files, files saved by transformers since 4.52,
    /// files of the language model alone, GPT-2 with and without.
    pub bodies: Vec<String>,
    /// Towers whose tensors are stored with and without the level of the model class.
    pub towers: Vec<String>,
    /// That level.
    pub tower_level: String,
    /// Last parts of the names of input embeddings.
    pub embeddings: Vec<String>,
    /// The same, of names that say less.
    pub other_embeddings: Vec<String>,
    /// Last parts of the names of output layers.
    pub heads: Vec<String>,
    /// The same, of names that say less.
    pub other_heads: Vec<String>,
    /// Ends of the names of linear layers that GPT-2 and its kin store as [in, out].
    pub inputs_first: Vec<String>,
    /// The part of their names that others, which call layers so too, lack.
    pub inputs_first_stack: String,
    /// Last segments of names that stand after the layers, over the families that mergekit knows.
    pub after_layers: Vec<String>,
    /// Segments anywhere in such a name.
    pub after_layers_parts: Vec<String>,
    /// Words in the names of tensors that are no linear weights though they may have two axes.
    pub not_linear: Vec<String>,
    /// Whole segments of names with the same meaning.
    pub not_linear_parts: Vec<String>,
    /// Segments that begin a modality encoder; beside a language model, what encoders learn is none of its linear
    /// layers.
    pub encoders: Vec<String>,
    /// Segments that only models with a language model have.
    pub language_models: Vec<String>,
    /// Words in the names of weights of three axes that are kernels of convolutions.
    pub convolutions: Vec<String>,
    /// Ends of the names of what is computed from the config when a model is loaded.
    pub computed: Vec<String>,
    /// Ends of the names of what may be in the files of one version and not of another: masks, angles, tied output
    /// layers.
    pub incidental: Vec<String>,
}

/// The names.
pub fn names() -> &'static Names {
    &NAMES
}

/// Whether a name ends with one of these.
pub fn ends_with(name: &str, ends: &[String]) -> bool {
    ends.iter().any(|end| name.ends_with(end.as_str()))
}

/// Whether the last parts of a name are one of these.
pub fn is_last(name: &str, ends: &[String]) -> bool {
    ends.iter().any(|end| {
        name.strip_suffix(end.as_str()).is_some_and(|stem| stem.is_empty() || stem.ends_with('.'))
    })
}

/// Whether one part of a name is one of these.
pub fn has_part(name: &str, parts: &[String]) -> bool {
    name.split('.').any(|own| parts.iter().any(|part| part == own))
}

/// Whether a tensor is an input embedding, by its name.
pub fn is_embedding(name: &str) -> bool {
    is_last(name, &NAMES.embeddings)
}

/// Whether a tensor has one row for each token, by its name.
pub fn is_of_vocabulary(name: &str) -> bool {
    is_embedding(name) || is_last(name, &NAMES.other_embeddings) || is_last(name, &NAMES.heads)
}

/// Whether a tensor is the weight of a linear layer that GPT-2 and its kin store as [in, out].
pub fn is_inputs_first(name: &str) -> bool {
    let module = name.strip_suffix(".weight");
    module.is_some_and(|module| {
        ends_with(module, &NAMES.inputs_first)
            && module.split('.').any(|part| part == NAMES.inputs_first_stack)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_tensors_are() {
        assert!(is_embedding("model.embed_tokens.weight") && is_embedding("wte.weight"));
        assert!(!is_embedding("model.my_wte.weight") && !is_embedding("lm_head.weight"));
        assert!(is_of_vocabulary("lm_head.bias") && is_of_vocabulary("a.embeddings.weight"));
        assert!(is_inputs_first("transformer.h.0.attn.c_attn.weight"));
        assert!(!is_inputs_first("model.layers.0.attn.c_attn.weight"));
        assert!(!is_inputs_first("transformer.h.0.attn.c_attn.bias"));
    }
}
