use super::*;

fn of(known: Known, name: &str, shape: &[u64]) -> Class {
    class(Classes::Roles, &[], &known, name, shape)
}

fn unknown(name: &str, shape: &[u64]) -> Class {
    of(Known::default(), name, shape)
}

fn family(role: Role, inputs_first: bool) -> Known {
    let family = Some(OfFamily { role, counts: true, inputs_first });
    Known { family, ..Known::default() }
}

fn said(entries: &[&str], known: Known, name: &str, shape: &[u64]) -> Class {
    let entries: Vec<MatrixSelector> =
        entries.iter().map(|entry| MatrixSelector::parse(entry).unwrap()).collect();
    class(Classes::Roles, &entries, &known, name, shape)
}

fn plain(rows: u64, columns: u64) -> Class {
    Class::Matrix(MatrixLayout::plain(rows, columns))
}

const OTHER: Class = Class::Other { could_be: false };
const COULD_BE: Class = Class::Other { could_be: true };

#[test]
fn linear_weights_of_unknown_families_are_found_by_name() {
    for name in [
        "model.layers.0.self_attn.q_proj.weight",
        "model.language_model.layers.3.mlp.down_proj.weight",
        "mlp1.1.weight",
        "transformer.h.0.attn.c_attn.weight",
        "bert.encoder.layer.0.attention.output.dense.weight",
        "roberta.encoder.layer.11.output.dense.weight",
        "encoder.layers.3.output.weight",
        "vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "visual.blocks.0.attn.qkv.weight",
        "visual_projection.weight",
    ] {
        assert_eq!(unknown(name, &[4, 6]), plain(4, 6), "{name}");
    }
    for name in [
        "model.embed_tokens.weight",
        "bert.embeddings.word_embeddings.weight",
        "lm_head.weight",
        "output.weight",
        "model.output.weight",
        "model.norm.weight",
        "transformer.wte.weight",
    ] {
        assert_eq!(unknown(name, &[4, 6]), OTHER, "{name}");
    }
    assert_eq!(unknown("model.layers.0.self_attn.q_proj.weight", &[4]), OTHER);
    assert_eq!(unknown("model.layers.0.self_attn.q_proj.weight", &[4, 0]), OTHER);
}

#[test]
fn an_encoder_beside_a_language_model_is_another_module() {
    let known = Known { has_language_model: true, ..Known::default() };
    for name in [
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.visual.blocks.0.attn.qkv.weight",
    ] {
        assert_eq!(of(known, name, &[4, 6]), COULD_BE, "{name}");
    }
    assert_eq!(of(known, "model.layers.0.mlp.up_proj.weight", &[4, 6]), plain(4, 6));
    assert!(is_of_language_model("model.embed_tokens.weight"));
    assert!(!is_of_language_model("text_model.embeddings.token_embedding.weight"));
}

#[test]
fn kernels_of_convolutions_are_matrices_of_all_that_follows_the_outputs() {
    assert_eq!(unknown("layers.0.conv.weight", &[8, 4, 3, 3]), plain(8, 36));
    assert_eq!(unknown("encoder.conv2.weight", &[8, 4, 3]), plain(8, 12));
    assert_eq!(unknown("visual.patch_embed.proj.weight", &[8, 3, 2, 4, 4]), plain(8, 96));
    // Each output has an input of its own.
    assert_eq!(unknown("model.layers.0.mixer.conv1d.weight", &[64, 1, 4]), OTHER);
    assert_eq!(unknown("visual.pos_embed", &[1, 16, 8, 8]), OTHER);
    assert_eq!(unknown("model.layers.0.unheard_of", &[4, 6, 8]), COULD_BE);
    assert_eq!(of(family(Role::Convolution, false), "a.weight", &[8, 3, 4, 4]), plain(8, 48));
}

#[test]
fn stacks_are_matrices_where_the_family_tells_inputs_from_outputs() {
    let experts = "model.layers.0.mlp.experts.gate_up_proj";
    let stack = |inputs_first| {
        let (matrices, rows, columns) = (4, 6, 8);
        Class::Matrix(MatrixLayout { matrices, rows, columns, inputs_first })
    };
    for inputs_first in [false, true] {
        let known = family(Role::MlpGateUp, inputs_first);
        assert_eq!(of(known, experts, &[4, 6, 8]), stack(inputs_first));
    }
    assert_eq!(unknown(experts, &[4, 6, 8]), Class::Stack);
    assert_eq!(unknown("model.layers.0.mlp.experts.gate_up_proj_bias", &[4, 6, 8]), OTHER);
    // A recipe can tell.
    let known = Known::default();
    let name = "**.experts.* as [experts, in, out]";
    assert_eq!(said(&[name], known, experts, &[4, 6, 8]), stack(true));
    assert_eq!(said(&["**.gate_up_proj"], known, experts, &[4, 6, 8]), Class::Stack);
}

#[test]
fn the_family_decides_where_it_is_known() {
    let name = "visual.merger.mlp.0.weight";
    assert_eq!(of(family(Role::Projection, false), name, &[4, 6]), plain(4, 6));
    assert_eq!(of(family(Role::Embedding, false), name, &[4, 6]), OTHER);
    let mut known = family(Role::MlpUp, false);
    if let Some(family) = &mut known.family {
        family.counts = false;
    }
    assert_eq!(of(known, name, &[4, 6]), COULD_BE);
    let turned = MatrixLayout { inputs_first: true, ..MatrixLayout::plain(4, 6) };
    assert_eq!(of(family(Role::MlpUp, true), name, &[4, 6]), Class::Matrix(turned));
    let by_biases = Known { inputs_first: true, ..Known::default() };
    assert_eq!(of(by_biases, "h.0.mlp.c_fc.weight", &[4, 6]), Class::Matrix(turned));
}

#[test]
fn what_a_recipe_says_overrides_the_rest() {
    let (q, up) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight");
    let unknown = Known::default();
    assert_eq!(said(&["**.q_proj.weight"], unknown, q, &[4, 6]), plain(4, 6));
    assert_eq!(said(&["**.q_proj.weight"], unknown, up, &[4, 6]), OTHER);
    assert_eq!(said(&["auto", "**.wte.weight"], unknown, up, &[4, 6]), plain(4, 6));
    assert_eq!(said(&["auto", "**.wte.weight"], unknown, "h.wte.weight", &[4, 6]), plain(4, 6));
    assert_eq!(said(&["mlp_up"], family(Role::MlpUp, false), up, &[4, 6]), plain(4, 6));
    assert_eq!(said(&["mlp_up"], family(Role::AttentionQ, false), q, &[4, 6]), OTHER);
    let turned = MatrixLayout { inputs_first: true, ..MatrixLayout::plain(4, 6) };
    assert_eq!(said(&["** as [in, out]"], unknown, q, &[4, 6]), Class::Matrix(turned));
}

#[test]
fn factors_of_adapters_are_matrices_where_they_are_what_is_merged() {
    let name = "layers.0.self_attn.q_proj.lora_A.default.weight";
    assert_eq!(unknown(name, &[4, 16]), OTHER);
    let known = Known { are_factors: true, ..Known::default() };
    assert_eq!(of(known, name, &[4, 16]), plain(4, 16));
    let released = class(Classes::Released, &[], &known, name, &[4, 16]);
    assert_eq!(released, plain(4, 16));
}

#[test]
fn the_released_patterns_are_anchored_at_the_start() {
    let released = |name: &str| class(Classes::Released, &[], &Known::default(), name, &[4, 6]);
    assert_eq!(released("visual.blocks.0.attn.qkv.weight"), OTHER);
    assert!(is_kept(Classes::Released, "visual.blocks.0.attn.qkv.weight"));
    // The names of newer versions escape them.
    assert_eq!(released("model.visual.blocks.0.attn.qkv.weight"), plain(4, 6));
    assert_eq!(released("mlp1.1.weight"), plain(4, 6));
    assert!(!is_kept(Classes::Released, "mlp1.0.weight"));
    let known = family(Role::Embedding, false);
    assert_eq!(class(Classes::Released, &[], &known, "visual.merger.mlp.0.weight", &[4, 6]), OTHER);
}
