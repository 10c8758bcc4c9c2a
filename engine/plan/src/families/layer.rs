//! Where a tensor's name says which layer it belongs to.

use mixdown_checkpoint::known;

/// A name taken apart at its layer number: `model.layers.`, 12, `.mlp.up_proj.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerName<'a> {
    /// All before the number, with its dot.
    pub prefix: &'a str,
    /// The layer, from 0.
    pub layer: u64,
    /// All after the number, with its dot.
    pub suffix: &'a str,
}

/// Takes a name apart at the first segment that is a number. The first segment of all is no layer,
/// and neither is the last.
pub(crate) fn split(name: &str) -> Option<LayerName<'_>> {
    let mut start = name.find('.')? + 1;
    while let Some(length) = name[start..].find('.') {
        let segment = &name[start..start + length];
        if !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) {
            let layer = segment.parse().ok()?;
            return Some(LayerName {
                prefix: &name[..start],
                layer,
                suffix: &name[start + length..],
            });
        }
        start += length + 1;
    }
    None
}

/// Whether a tensor outside the layers comes after them: the final norm, the output layer, a classifier.
///
/// Stacked layers take the tensors before the layers from the first slice and those after from the last.
pub(crate) fn is_after_layers(name: &str) -> bool {
    let bare = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name);
    let last = bare.rsplit('.').next().unwrap_or(bare);
    // Whisper's; `layer_norm` elsewhere belongs to an embedding.
    let known = known::names();
    let of_stack = bare.ends_with("encoder.layer_norm") || bare.ends_with("decoder.layer_norm");
    of_stack
        || known.after_layers.iter().any(|own| own == last)
        || known::has_part(bare, &known.after_layers_parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<(&str, u64, &str)>) {
        let found = split(name).map(|found| (found.prefix, found.layer, found.suffix));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn names_come_apart_at_the_layer() {
        check(
            "model.layers.12.mlp.up_proj.weight",
            Some(("model.layers.", 12, ".mlp.up_proj.weight")),
        );
        check("h.0.attn.weight", Some(("h.", 0, ".attn.weight")));
        check("model.layers.3.block.1.weight", Some(("model.layers.", 3, ".block.1.weight")));
        check("lm_head.weight", None);
        check("0.weight", None);
        check("mlp1.1", None);
        check("vision.99999999999999999999999.weight", None);
    }

    #[test]
    fn the_end_of_a_model_is_known() {
        for name in [
            "lm_head.weight",
            "model.norm.weight",
            "transformer.ln_f.bias",
            "score.weight",
            "cls.predictions.bias",
            "vision_tower.vision_model.post_layernorm.weight",
            "vision_model.layernorm_post.bias",
            "vision_model.vision_adapter.mlp.fc1.weight",
            "model.encoder.layer_norm.weight",
        ] {
            assert!(is_after_layers(name), "{name}");
        }
        for name in [
            "model.embed_tokens.weight",
            "wte.weight",
            "embeddings.LayerNorm.weight",
            // LFM2's final norm: mergekit counts it among the tensors before the layers.
            "model.embedding_norm.weight",
        ] {
            assert!(!is_after_layers(name), "{name}");
        }
    }
}
