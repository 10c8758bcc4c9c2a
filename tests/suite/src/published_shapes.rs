//! Names and shapes of published checkpoints that are told by a rule.

use std::collections::BTreeMap;

use mixdown_kit::Space;
use mixdown_kit::published::{Published, Weights};
use serde_json::{Value, json};

/// The linear layers of a Llama-like language model, named from this prefix.
pub fn linear_layers(prefix: &str, layers: usize) -> Vec<String> {
    let kinds = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"];
    let kinds = kinds.into_iter().chain(["mlp.gate", "mlp.up", "mlp.down"]);
    kinds
        .flat_map(|kind| {
            (0..layers).map(move |layer| format!("{prefix}layers.{layer}.{kind}_proj.weight"))
        })
        .collect()
}

/// A checkpoint of ModelCompose for Vicuna-7B: adapters of rank 128 on all linear layers, and a connector.
pub fn modelcompose(space: &Space, modality: &str) {
    let mut tensors = Vec::new();
    let body = Published::read("vicuna_7b");
    let shapes: BTreeMap<_, _> = body.tensors.into_iter().collect();
    for weight in linear_layers("model.", 32) {
        let module = weight.trim_end_matches(".weight");
        let [outputs, inputs] = shapes[&weight][..] else { panic!("{weight} is no matrix") };
        tensors.push((format!("{module}.lora_A.default.weight"), vec![128, inputs]));
        tensors.push((format!("{module}.lora_B.default.weight"), vec![outputs, 128]));
    }
    let connector = format!("model.modal_projectors.{modality}");
    tensors.push((format!("{connector}.0.weight"), vec![4096, 1024]));
    tensors.push((format!("{connector}.0.bias"), vec![4096]));
    let folder = format!("checkpoints/multimodal-vicuna-7b-v1.5-{modality}-naivemc");
    space.write(
        format!("{folder}/config.json"),
        json!({"model_type": "multimodal", "lora_r": 128, "lora_alpha": 256}).to_string(),
    );
    let checkpoint = Published { config: Value::Null, tensors };
    let path = space.path(folder).join("adapter_model.safetensors");
    checkpoint.write_tensors(&path, Weights::Holes).expect("the space can be written");
}
