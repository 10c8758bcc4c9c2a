//! Small checkpoints of modalities as ModelCompose stores them, and recipes that bring them together.

use mixdown_kit::torch::torch_bytes;
use mixdown_kit::values::Values;
use mixdown_kit::{DType, Space, Tensor, checkpoint};
use serde_json::{Value, json};

/// Rank of all adapters.
pub const RANK: u64 = 2;
/// By how much each product counts: α is twice the rank.
pub const SCALE: f64 = 2.0;
/// The layers of the base that adapters change, with the shapes of their weights.
pub const MODULES: [(&str, [u64; 2]); 2] =
    [("model.layers.0.self_attn.q_proj", [16, 16]), ("model.layers.1.mlp.up_proj", [24, 16])];

/// A tensor of numbers that depend on seed and name.
pub fn drawn(seed: u64, name: &str, shape: &[u64]) -> Tensor {
    let mut values = Values::new(seed, name);
    let count = shape.iter().product::<u64>();
    let numbers: Vec<f64> = (0..count).map(|_| 0.1 * values.normal()).collect();
    Tensor::new(name, DType::F32, shape, &numbers)
}

/// The tensors of a file as ModelCompose stores it; `own` adds the modality's own adapter and tokens.
pub fn parts(seed: u64, modality: &str, own: bool) -> Vec<Tensor> {
    let mut all = Vec::new();
    let adapters = if own { vec!["default", modality] } else { vec!["default"] };
    for adapter in &adapters {
        for (module, [rows, columns]) in MODULES {
            let name = |side: &str| format!("{module}.lora_{side}.{adapter}.weight");
            all.push(drawn(seed, &name("A"), &[RANK, columns]));
            all.push(drawn(seed, &name("B"), &[rows, RANK]));
        }
    }
    if own {
        all.push(drawn(seed, &format!("prefix_tokens.{modality}"), &[1, 2, 16]));
    }
    let connector = format!("model.modal_projectors.{modality}");
    all.push(drawn(seed, &format!("{connector}.0.weight"), &[16, 8]).cast(DType::Bf16));
    all.push(drawn(seed, &format!("{connector}.0.bias"), &[16]));
    all
}

/// Writes a checkpoint of ModelCompose: these tensors in one file of torch, and a configuration.
///
/// # Panics
///
/// If a file cannot be written.
pub fn write(space: &Space, folder: &str, tensors: &[Tensor], config: &Value) {
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    space.write(format!("{folder}/adapter_model.bin"), torch_bytes(&tensors));
    space.write(format!("{folder}/config.json"), config.to_string());
}

/// What the configuration of a modality says.
pub fn config(modality: &str) -> Value {
    let mut config = json!({"lora_r": RANK, "lora_alpha": SCALE * RANK as f64});
    config[format!("mm_{modality}_encoder")] = format!("encoder of {modality}").into();
    config
}

/// `base`, the modalities `vision` and `audio`, and an encoder.
///
/// # Panics
///
/// If a file cannot be written.
pub fn space() -> Space {
    let space = Space::new();
    checkpoint("base").dtype(DType::F32).write(&space);
    for (seed, modality) in [(1, "vision"), (2, "audio")] {
        write(&space, modality, &parts(seed, modality, false), &config(modality));
    }
    space.write("clip/weights.bin", "an encoder");
    space
}

fn input(modality: &str) -> String {
    format!(
        "  {modality}:\n    body: {{adapter: {modality}}}\n    connector: {{prefix: model.modal_projectors.{modality}}}\n"
    )
}

/// A recipe of these modalities, and what follows of it.
pub fn recipe(inputs: &[&str], rest: &str) -> String {
    let inputs: String = inputs.iter().map(|modality| input(modality)).collect();
    format!("mixdown: 1\nkind: modality\nbase: base\ninputs:\n{inputs}{rest}")
}

/// Adds all updates to the base.
pub const SUM: &str = "body: {method: task_arithmetic, params: {weight: 1}, include: \"model.layers.{i}.{**}_proj.weight\"}\n";
