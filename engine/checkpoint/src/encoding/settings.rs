//! What a model's configuration says of its quantization. It is believed only where the tensors agree.

use mixdown_tensor::DType;
use serde_json::Value;

use crate::shown::shown;

/// The quantization that `config.json` or `hf_quant_config.json` speaks of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    value: Option<Value>,
    /// The type in which the model calculates.
    model_dtype: Option<DType>,
}

/// Keys of `config.json` that hold settings of a quantization: transformers' own, that of older
/// compressed-tensors, and MLX's.
const KEYS: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

impl Settings {
    /// The settings of a model: of its configuration, or of ModelOpt's file beside it.
    pub(crate) fn of(config: Option<&Value>, beside: Option<&Value>) -> Self {
        let in_config = config.and_then(|config| {
            // Models of several parts say it in the part that is quantized.
            let parts = config.as_object().into_iter().flat_map(|map| map.values());
            std::iter::once(config).chain(parts).find_map(|part| {
                KEYS.iter().find_map(|key| part.get(key).filter(|found| found.is_object()))
            })
        });
        let in_file = || {
            let nested = beside?.get("quantization").filter(|found| found.is_object());
            nested.cloned().or_else(|| older(beside?))
        };
        let model_dtype = config.and_then(|config| {
            let parts = config.as_object().into_iter().flat_map(|map| map.values());
            std::iter::once(config).chain(parts).find_map(|part| {
                let text = part.get("dtype").or_else(|| part.get("torch_dtype"))?.as_str()?;
                text.parse::<DType>().ok().filter(|dtype| dtype.is_float())
            })
        });
        Self { value: in_config.cloned().or_else(in_file), model_dtype }
    }

    /// The type in which the model calculates.
    pub(crate) fn model_dtype(&self) -> Option<DType> {
        self.model_dtype
    }

    /// Whether the configuration says that the weights are quantized.
    pub(crate) fn is_there(&self) -> bool {
        self.value.is_some()
    }

    /// The setting of this name.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.value.as_ref()?.get(key)
    }

    /// A setting that is a text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The codec that the settings name, in their own words: of ModelOpt, which has its own key, too.
    pub(crate) fn method(&self) -> Option<&str> {
        self.text("quant_method").or_else(|| self.text("quant_algo").map(|_| "modelopt"))
    }

    /// Whether a setting is there and true.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool) == Some(true)
    }

    /// A setting that is a count.
    pub(crate) fn count(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// What compressed-tensors says of weights, one for each group of modules.
    pub(super) fn weights(&self) -> impl Iterator<Item = &Value> {
        let groups = self.get("config_groups").and_then(Value::as_object);
        groups
            .into_iter()
            .flat_map(|groups| groups.values())
            .filter_map(|group| group.get("weights"))
    }

    /// Rows and columns that share a scale.
    pub(crate) fn block(&self) -> Option<[u64; 2]> {
        let structure = self.weights().find_map(|weights| weights.get("block_structure"));
        let own = self.get("weight_block_size").filter(|value| value.is_array());
        match own.or(structure)?.as_array()?.as_slice() {
            [rows, columns] => {
                Some([rows.as_u64()?, columns.as_u64()?]).filter(|block| !block.contains(&0))
            }
            _ => None,
        }
    }

    /// Columns that share a scale.
    pub(crate) fn group(&self) -> Option<u64> {
        let of_groups = || self.weights().find_map(|weights| weights.get("group_size")?.as_u64());
        self.count("group_size").or_else(of_groups).filter(|&group| group > 0)
    }

    /// The widths of codes that compressed-tensors speaks of.
    pub(crate) fn widths(&self) -> Vec<u64> {
        let mut all: Vec<u64> =
            self.weights().filter_map(|weights| weights.get("num_bits")?.as_u64()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether the version of compressed-tensors that wrote the weights packs whole codes into words.
    pub(crate) fn packs_whole_codes(&self) -> bool {
        let numbers = |text: &str| -> Option<Vec<u64>> {
            text.split('.').take(3).map(|part| part.parse().ok()).collect()
        };
        self.text("version").and_then(numbers).is_some_and(|version| version <= vec![0, 17, 1])
    }

    /// Whether compressed-tensors stored weights in other coordinates.
    pub(crate) fn is_rotated(&self) -> bool {
        let transforms = self.get("transform_config").and_then(Value::as_object);
        transforms.is_some_and(|found| !found.is_empty())
    }

    /// The settings in a line, for messages.
    pub(crate) fn shown(&self) -> Option<String> {
        const SHOWN: [&str; 7] = [
            "quant_method",
            "quant_algo",
            "format",
            "checkpoint_format",
            "version",
            "bits",
            "mode",
        ];
        self.value.as_ref()?;
        let parts = SHOWN.iter().filter_map(|key| {
            let value = match self.get(key)? {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            Some(format!("{key}: {}", shown(&value)))
        });
        let parts: Vec<String> = parts.collect();
        Some(match parts.is_empty() {
            true => "speaks of a quantization and names none".to_owned(),
            false => parts.join(", "),
        })
    }
}

/// The settings of files that GPTQ and AWQ wrote before config.json had them, in the words that it has.
fn older(file: &Value) -> Option<Value> {
    const WORDS: [(&str, &str); 2] = [("w_bit", "bits"), ("q_group_size", "group_size")];
    let mut settings = file.as_object()?.clone();
    let is_awq = settings.contains_key("w_bit");
    let method = if is_awq { "awq" } else { "gptq" };
    if !is_awq && !settings.contains_key("bits") {
        return None;
    }
    for (old, new) in WORDS {
        if let Some(value) = settings.remove(old) {
            settings.entry(new).or_insert(value);
        }
    }
    settings.entry("quant_method").or_insert_with(|| method.into());
    Some(Value::Object(settings))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_found_where_tools_write_them() {
        let method = |config: Value, beside: Option<Value>| {
            Settings::of(Some(&config), beside.as_ref()).method().map(str::to_owned)
        };
        let gptq = json!({"quant_method": "gptq", "bits": 4});
        assert_eq!(method(json!({"quantization_config": gptq}), None).as_deref(), Some("gptq"));
        let nested = json!({"text_config": {"quantization_config": gptq}});
        assert_eq!(method(nested, None).as_deref(), Some("gptq"));
        let beside = json!({"quantization": {"quant_algo": "FP8"}});
        assert_eq!(method(json!({}), Some(beside)).as_deref(), Some("modelopt"));
        assert!(!Settings::of(Some(&json!({"quantization_config": null})), None).is_there());
        // Files of their own, from before config.json had that.
        let gptq = json!({"bits": 4, "group_size": 128, "desc_act": true, "damp_percent": 0.1});
        assert_eq!(method(json!({}), Some(gptq)).as_deref(), Some("gptq"));
        let awq = json!({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"});
        assert_eq!(method(json!({}), Some(awq.clone())).as_deref(), Some("awq"));
        assert_eq!(Settings::of(None, Some(&awq)).group(), Some(64));
        assert!(!Settings::of(None, Some(&json!({"other": 1}))).is_there());
        let mlx = json!({"quantization": {"bits": 4, "group_size": 64}});
        assert_eq!(Settings::of(Some(&mlx), None).shown().as_deref(), Some("bits: 4"));
    }
}
