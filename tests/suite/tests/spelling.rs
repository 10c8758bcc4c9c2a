//! Models of one family in two spellings of names, merged as one.
//!
//! Catches tensors that are refused or taken from one side because another program wrote them.

use mixdown_kit::values::Values;
use mixdown_kit::{DType, Space, Tensor, read_checkpoint};
use mixdown_suite::merge;
use serde_json::json;

/// A few tensors of a Qwen2-VL: in the spelling of older programs, or of newer ones.
fn write(space: &Space, model: &str, is_new: bool) {
    let names = [
        ("model.", "model.language_model.", "layers.0.self_attn.q_proj.weight", vec![8, 8]),
        ("model.", "model.language_model.", "layers.0.mlp.up_proj.weight", vec![12, 8]),
        ("model.", "model.language_model.", "norm.weight", vec![8]),
        ("visual.", "model.visual.", "merger.mlp.0.weight", vec![8, 8]),
    ];
    let tensors: Vec<Tensor> = names
        .iter()
        .map(|(old, new, rest, shape)| {
            let count = shape.iter().product::<u64>() as usize;
            let mut values = Values::new(7, &format!("{model} {rest}"));
            let values: Vec<f64> = (0..count).map(|_| values.normal()).collect();
            let name = format!("{}{rest}", if is_new { new } else { old });
            Tensor::new(&name, DType::F32, shape, &values)
        })
        .collect();
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    let bytes = mixdown_kit::raw::safetensors_bytes(&tensors);
    space.write(format!("{model}/model.safetensors"), bytes);
    let config = json!({
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
    });
    space.write(format!("{model}/config.json"), config.to_string());
}

const RECIPE: &str = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n  \
                      - {model: a, parameters: {weight: 0.5}}\n  - {model: b, parameters: {weight: 0.25}}\n";

#[test]
fn the_spelling_of_the_base_is_that_of_all() {
    let space = Space::new();
    for model in ["base", "a", "b"] {
        write(&space, model, false);
    }
    merge(&space, RECIPE, &[]).success();
    let expected = read_checkpoint(space.path("merged"));
    write(&space, "b", true);
    let talk = merge(&space, RECIPE, &["--force"]).success().talk();
    // Told once: as another version where all names have a counterpart, else tensor by tensor.
    assert_eq!(talk.matches("W0625").count() + talk.matches("W0653").count(), 1, "{talk}");
    let found = read_checkpoint(space.path("merged"));
    for name in expected.tensors.keys() {
        assert_eq!(found.values(name), expected.values(name), "{name}");
    }
    assert_eq!(found.tensors.len(), expected.tensors.len());
    // The base's spelling wins, also where it is the newer one.
    for model in ["base", "a"] {
        write(&space, model, true);
    }
    write(&space, "b", false);
    merge(&space, RECIPE, &["--force"]).success();
    let found = read_checkpoint(space.path("merged"));
    let new = "model.language_model.layers.0.mlp.up_proj.weight";
    assert_eq!(found.values(new), expected.values("model.layers.0.mlp.up_proj.weight"));
}
