//! Small LoRA folders, laid out as peft writes them.

use std::fs;
use std::path::PathBuf;

use mixdown_tensor::DType;
use serde_json::{Map, Value, json};

use crate::raw::safetensors_bytes;
use crate::side_files::pretty;
use crate::space::Space;
use crate::tensor::Tensor;
use crate::values::Values;

/// An adapter to be written.
#[derive(Clone, Debug)]
pub struct AdapterBuilder {
    name: String,
    config: Map<String, Value>,
    tensors: Vec<Tensor>,
    dtype: DType,
}

/// An adapter of this name and rank, with α twice the rank and no tensor yet.
pub fn adapter(name: &str, rank: u64) -> AdapterBuilder {
    let config = json!({
        "base_model_name_or_path": "base",
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    let Value::Object(config) = config else { unreachable!("a literal map") };
    AdapterBuilder { name: name.to_owned(), config, tensors: Vec::new(), dtype: DType::F32 }
}

impl AdapterBuilder {
    /// Sets a key of adapter_config.json.
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// Removes a key of adapter_config.json.
    pub fn without_config(mut self, key: &str) -> Self {
        self.config.shift_remove(key);
        self
    }

    /// Storage type of the factors that are added after this.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Adds the two factors of a linear layer, `a: [rank, inputs]` and `b: [outputs, rank]`.
    pub fn product(self, module: &str, rank: u64, a: &[f64], b: &[f64]) -> Self {
        let (inputs, outputs) = (a.len() as u64 / rank, b.len() as u64 / rank);
        let dtype = self.dtype;
        let name = |side: &str| format!("base_model.model.{module}.{side}.weight");
        let a = Tensor::new(&name("lora_A"), dtype, &[rank, inputs], a);
        let b = Tensor::new(&name("lora_B"), dtype, &[outputs, rank], b);
        self.with(a).with(b)
    }

    /// Adds two factors of numbers that depend on the module alone; `shape` is [out, in].
    pub fn module(self, module: &str, rank: u64, shape: [u64; 2]) -> Self {
        let mut values = Values::new(rank, module);
        let mut draw = |count: u64| (0..count).map(|_| 0.1 * values.normal()).collect::<Vec<f64>>();
        let (a, b) = (draw(rank * shape[1]), draw(shape[0] * rank));
        self.product(module, rank, &a, &b)
    }

    /// Adds a tensor under its own name.
    pub fn with(mut self, tensor: Tensor) -> Self {
        self.tensors.push(tensor);
        self
    }

    /// Leaves out the tensors whose name contains `part`.
    pub fn without(mut self, part: &str) -> Self {
        self.tensors.retain(|tensor| !tensor.name.contains(part));
        self
    }

    /// The tensors.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Writes it under its name in the space; the path of the folder.
    pub fn write(&self, space: &Space) -> PathBuf {
        let path = space.path(&self.name);
        fs::create_dir_all(&path).expect("the folder of an adapter can be made");
        let config = pretty(&Value::Object(self.config.clone()));
        fs::write(path.join("adapter_config.json"), config).expect("a config can be written");
        let tensors: Vec<&Tensor> = self.tensors.iter().collect();
        fs::write(path.join("adapter_model.safetensors"), safetensors_bytes(&tensors))
            .expect("an adapter can be written");
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::read_safetensors;

    #[test]
    fn an_adapter_is_two_files() {
        let space = Space::new();
        let path = adapter("a", 1).product("q", 1, &[1.0, 2.0], &[3.0, 4.0, 5.0]).write(&space);
        let stored = read_safetensors(path.join("adapter_model.safetensors"));
        assert_eq!(stored["base_model.model.q.lora_A.weight"].shape, [1, 2]);
        assert_eq!(stored["base_model.model.q.lora_B.weight"].values(), [3.0, 4.0, 5.0]);
        assert!(space.read_text("a/adapter_config.json").contains("\"lora_alpha\": 2"));
    }
}
