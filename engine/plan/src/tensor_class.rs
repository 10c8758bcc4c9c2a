//! Which tensors are linear weights, by role or name and by shape: those that methods over matrices are
//! meant for. The words in names are for models whose family is not known.

/// Whose division of tensors into classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Classes {
    /// By what a tensor does: linear weights of the language model and the connector.
    Roles,
    /// By the regular expressions of OptMerge's released scripts, word for word: they match from the
    /// start of the name, so that `model.visual…` escapes them.
    Released,
}

/// Words in the names of tensors that are no linear weights though they may have two axes.
const OTHER: &[&str] = &["embed", "lm_head", "norm", "bias", "rotary_emb", "query_tokens", "lora_"];

/// Whole segments of names with the same meaning.
const OTHER_SEGMENTS: &[&str] = &["wte", "wpe", "ln_f", "ln_1", "ln_2", "ln_q", "shared", "output"];

/// Segments that begin a modality encoder; what encoders learn is not a linear layer of the language
/// model.
const ENCODERS: &[&str] = &[
    "visual",
    "vision",
    "vision_model",
    "vision_tower",
    "image_tower",
    "video_tower",
    "audio_tower",
    "modal_encoders",
];

/// Whether a tensor is a linear weight. `known` is what the model's family says of its role, if it says
/// anything.
pub(crate) fn is_linear(classes: Classes, known: Option<bool>, name: &str, shape: &[u64]) -> bool {
    if shape.len() != 2 || shape.contains(&0) {
        return false;
    }
    match classes {
        Classes::Roles => known.unwrap_or_else(|| {
            !OTHER.iter().any(|word| name.contains(word))
                && !name
                    .split('.')
                    .any(|part| OTHER_SEGMENTS.contains(&part) || ENCODERS.contains(&part))
        }),
        Classes::Released => !is_kept(classes, name) && !name.contains("lm_head"),
    }
}

/// Whether a tensor is a stack of linear weights, one matrix of each expert: by its role, and by its name
/// where the family is not known. Other tensors of three axes are kernels of convolutions and the like.
pub(crate) fn is_stack(classes: Classes, known: Option<bool>, name: &str, shape: &[u64]) -> bool {
    shape.len() == 3
        && shape.iter().all(|&length| length > 1)
        && !is_kept(classes, name)
        && known.unwrap_or_else(|| {
            name.split('.').any(|part| part == "experts")
                && !OTHER.iter().any(|word| name.contains(word))
        })
}

/// Whether a tensor stays what it is in the base, whatever the method does with the rest.
pub(crate) fn is_kept(classes: Classes, name: &str) -> bool {
    match classes {
        Classes::Roles => false,
        Classes::Released => {
            // `visual..*` wants a letter after the word.
            name.strip_prefix("visual").is_some_and(|rest| !rest.is_empty())
                || name.starts_with("vision_model")
                || ["embed_tokens", "lm_head", "norm", "bias"]
                    .iter()
                    .any(|word| name.contains(word))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(classes: Classes, name: &str) -> bool {
        is_linear(classes, None, name, &[4, 6])
    }

    #[test]
    fn stacks_are_those_of_experts() {
        let stack = |known, name: &str, shape: &[u64]| is_stack(Classes::Roles, known, name, shape);
        let experts = "model.layers.0.mlp.experts.gate_up_proj";
        assert!(stack(None, experts, &[4, 6, 8]));
        assert!(stack(Some(true), "model.layers.0.moe.w1", &[4, 6, 8]));
        assert!(!stack(Some(false), experts, &[4, 6, 8]));
        assert!(!stack(None, experts, &[4, 6]));
        assert!(!stack(None, "model.layers.0.mlp.experts.gate_up_proj_bias", &[4, 6, 8]));
        assert!(!stack(None, "model.layers.0.mixer.conv1d.weight", &[64, 1, 4]));
        assert!(!stack(None, "visual.patch_embed.proj.weight", &[8, 3, 16]));
    }

    #[test]
    fn linear_layers_are_found_by_role() {
        for name in [
            "model.layers.0.self_attn.q_proj.weight",
            "model.language_model.layers.3.mlp.down_proj.weight",
            "mlp1.1.weight",
            "transformer.h.0.attn.c_attn.weight",
        ] {
            assert!(linear(Classes::Roles, name), "{name}");
        }
        for name in [
            "model.embed_tokens.weight",
            "lm_head.weight",
            "model.norm.weight",
            "model.visual.blocks.0.attn.qkv.weight",
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
            "transformer.wte.weight",
        ] {
            assert!(!linear(Classes::Roles, name), "{name}");
        }
        let name = "model.layers.0.self_attn.q_proj.weight";
        assert!(!is_linear(Classes::Roles, None, name, &[4]));
    }

    #[test]
    fn the_role_decides_where_it_is_known() {
        let linear =
            |classes, known| is_linear(classes, Some(known), "visual.merger.mlp.0.weight", &[4, 6]);
        assert!(linear(Classes::Roles, true));
        assert!(!linear(Classes::Roles, false));
        assert!(!linear(Classes::Released, true));
        assert!(!is_linear(Classes::Roles, Some(true), "w", &[4]));
    }

    #[test]
    fn the_released_patterns_are_anchored_at_the_start() {
        assert!(!linear(Classes::Released, "visual.blocks.0.attn.qkv.weight"));
        assert!(is_kept(Classes::Released, "visual.blocks.0.attn.qkv.weight"));
        // The names of newer versions escape them.
        assert!(linear(Classes::Released, "model.visual.blocks.0.attn.qkv.weight"));
        assert!(linear(Classes::Released, "mlp1.1.weight"));
        assert!(!is_kept(Classes::Released, "mlp1.0.weight"));
    }
}
