//! The names that transformers has in memory for what a base's files call otherwise. peft knows modules by these
//! only, and leaves out what it does not know. `schemas/names/in_memory.json` has the families.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::index::Index;

static FAMILIES: LazyLock<Vec<Naming>> = LazyLock::new(|| {
    let text = include_str!("../../../../schemas/names/in_memory.json");
    serde_json::from_str(text).expect("the names are without mistakes, which a test holds")
});

/// How the names of a base's files become those in memory.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Naming {
    /// Families with such files, for people.
    #[serde(rename = "families")]
    _families: String,
    /// What the names of some tensors begin with, each of some.
    starts: Vec<String>,
    /// What some names contain, each of some.
    #[serde(default)]
    contains: Vec<String>,
    /// What a name begins with, and what it begins with instead. The first that fits counts.
    #[serde(default)]
    prefixes: Vec<[String; 2]>,
    /// Parts of names and what stands in their place, one after the other.
    #[serde(default)]
    parts: Vec<[String; 2]>,
}

impl Naming {
    /// That of a base; none where the names are the same.
    pub fn of(base: &Index) -> Option<&'static Self> {
        Self::of_names(base.tensors().iter().map(|tensor| tensor.name.as_str()))
    }

    /// That of a model with such names.
    pub fn of_names<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Option<&'static Self> {
        FAMILIES.iter().find(|naming| {
            let begins =
                |start: &String| names.clone().any(|name| name.starts_with(start.as_str()));
            let contains = |part: &String| names.clone().any(|name| name.contains(part.as_str()));
            naming.starts.iter().all(begins) && naming.contains.iter().all(contains)
        })
    }

    /// The name in memory.
    pub fn in_memory(&self, name: &str) -> String {
        let renamed = self.prefixes.iter().find_map(|[start, instead]| {
            Some(format!("{instead}{}", name.strip_prefix(start.as_str())?))
        });
        let name = renamed.unwrap_or_else(|| name.to_owned());
        self.parts.iter().fold(name, |name, [part, instead]| name.replace(part, instead))
    }
}

#[cfg(test)]
mod tests {
    use mixdown_tensor::{DType, Shape};

    use super::*;

    /// Names as stored, and as transformers 5.24 has them in memory.
    #[test]
    fn families_have_names_in_memory() {
        let cases: [&[(&str, &str)]; 12] = [
            &[
                ("visual.merger.mlp.0.weight", "model.visual.merger.mlp.0.weight"),
                (
                    "model.layers.0.mlp.up_proj.weight",
                    "model.language_model.layers.0.mlp.up_proj.weight",
                ),
                ("lm_head.weight", "lm_head.weight"),
            ],
            &[
                (
                    "language_model.model.layers.0.a.weight",
                    "model.language_model.layers.0.a.weight",
                ),
                ("language_model.lm_head.weight", "lm_head.weight"),
                (
                    "multi_modal_projector.linear.weight",
                    "model.multi_modal_projector.linear.weight",
                ),
                ("audio_tower.conv1.weight", "model.audio_tower.conv1.weight"),
            ],
            &[
                ("h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight"),
                ("wte.weight", "transformer.wte.weight"),
            ],
            &[("model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.mlp.gate.weight")],
            &[
                (
                    "vit.encoder.layer.0.attention.attention.query.weight",
                    "vit.layers.0.attention.q_proj.weight",
                ),
                (
                    "vit.encoder.layer.0.attention.output.dense.bias",
                    "vit.layers.0.attention.o_proj.bias",
                ),
                ("vit.encoder.layer.0.intermediate.dense.weight", "vit.layers.0.mlp.fc1.weight"),
                ("vit.encoder.layer.0.output.dense.weight", "vit.layers.0.mlp.fc2.weight"),
                ("classifier.weight", "classifier.weight"),
            ],
            &[
                ("backbone.layers.0.mixer.in_proj.weight", "model.layers.0.mixer.in_proj.weight"),
                ("backbone.layers.5.mixer.q_proj.weight", "model.layers.5.mixer.q_proj.weight"),
            ],
            &[("backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.in_proj.weight")],
            &[
                ("model.layers.0.block_sparse_moe.gate.weight", "model.layers.0.mlp.router.weight"),
                ("lm_head.bias", "lm_head.bias"),
            ],
            &[
                (
                    "dinov2.encoder.layer.0.attention.attention.value.bias",
                    "dinov2.encoder.layer.0.attention.v_proj.bias",
                ),
                (
                    "dinov2.encoder.layer.0.attention.attention.query.bias",
                    "dinov2.encoder.layer.0.attention.q_proj.bias",
                ),
            ],
            &[
                (
                    "transformer.h.0.attn.attention.q_proj.weight",
                    "model.layers.0.self_attn.q_proj.weight",
                ),
                (
                    "transformer.h.1.attn.attention.out_proj.weight",
                    "model.layers.1.self_attn.o_proj.weight",
                ),
                ("transformer.h.0.mlp.c_fc_0.weight", "model.layers.0.mlp.gate_proj.weight"),
                ("transformer.wte.weight", "model.embed_tokens.weight"),
            ],
            &[
                ("gpt_neox.layers.0.mlp.dense.weight", "gpt_neox.layers.0.mlp.dense.weight"),
                ("embed_out.weight", "lm_head.weight"),
            ],
            &[("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight")],
        ];
        for names in cases {
            let shape = || Shape::new(vec![1]).unwrap();
            let tensors = names.iter().map(|(name, _)| (*name, DType::F32, shape()));
            let base = Index::of("b", tensors).unwrap();
            let naming = Naming::of(&base);
            for (stored, expected) in names {
                let found = naming.map_or((*stored).to_owned(), |naming| naming.in_memory(stored));
                assert_eq!(found, *expected);
            }
        }
    }
}
