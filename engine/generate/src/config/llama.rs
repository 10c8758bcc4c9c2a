//! Configs of llama, mistral and qwen2.

use serde_json::Value;

use super::{Config, Form, LayerConfig, Reader};

/// What mistral's sliding window is where its config says nothing: the default of transformers.
const MISTRAL_WINDOW: usize = 4096;
/// The same for the first layer of qwen2 that has one.
const QWEN2_FIRST: usize = 28;

impl Reader<'_> {
    pub(super) fn llama(&mut self, family: &str, ends: Vec<u32>) -> Option<Config> {
        let activation = self.get("hidden_act").and_then(Value::as_str).map(str::to_owned);
        if let Some(activation) = activation.filter(|activation| activation != "silu") {
            self.unsupported("hidden_act", &activation, "silu");
        }
        let hidden = self.size("hidden_size");
        let heads = self.size("num_attention_heads");
        let intermediate = self.size("intermediate_size");
        let layers = self.size("num_hidden_layers");
        let vocabulary = self.size("vocab_size");
        let (hidden, heads) = (hidden?, heads?);
        let kv_heads = self.optional_size("num_key_value_heads").unwrap_or(heads);
        let head = self.optional_size("head_dim").unwrap_or(hidden / heads);
        if !heads.is_multiple_of(kv_heads) || !head.is_multiple_of(2) || head == 0 {
            self.broken(
                "the heads do not go together",
                &[
                    ("num_attention_heads", heads.to_string()),
                    ("num_key_value_heads", kv_heads.to_string()),
                    ("numbers of a head", head.to_string()),
                ],
            );
        }
        let epsilon = self.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6);
        let positions = self.optional_size("max_position_embeddings");
        let layers = layers?;
        let windows = self.windows(family, layers)?;
        let rope = self.rope(head, positions)?;
        let scale = 1.0 / (head as f32).sqrt();
        Some(Config {
            hidden,
            intermediate: intermediate?,
            layers: windows.into_iter().map(|window| LayerConfig { window, scale }).collect(),
            heads,
            kv_heads,
            head,
            vocabulary: vocabulary?,
            epsilon: epsilon as f32,
            most_positions: rope.most_positions(positions),
            form: Form::Llama(rope),
            tied: self.is_set("tie_word_embeddings"),
            ends,
        })
    }

    /// How far each layer sees. Llama always sees all, whatever its config says.
    fn windows(&mut self, family: &str, layers: usize) -> Option<Vec<Option<usize>>> {
        let is_null = self.part.get("sliding_window").is_some_and(Value::is_null);
        let window = match self.part.get("sliding_window") {
            Some(value) if !value.is_null() && family != "llama" => {
                Some(self.size("sliding_window")?)
            }
            _ => None,
        };
        match family {
            "mistral" if is_null => Some(vec![None; layers]),
            "mistral" => Some(vec![Some(window.unwrap_or(MISTRAL_WINDOW)); layers]),
            "qwen2" if self.is_set("use_sliding_window") => {
                if is_null {
                    return Some(vec![None; layers]);
                }
                let window = Some(window.unwrap_or(MISTRAL_WINDOW));
                if let Some(types) = self.part.get("layer_types").filter(|types| !types.is_null()) {
                    return self.windows_of_types(&types.clone(), layers, window);
                }
                let first = self.part.get("max_window_layers").and_then(Value::as_u64);
                let first = first.and_then(|first| usize::try_from(first).ok());
                let first = first.unwrap_or(QWEN2_FIRST);
                Some((0..layers).map(|layer| window.filter(|_| layer >= first)).collect())
            }
            "qwen2" => {
                let types = self.part.get("layer_types").and_then(Value::as_array);
                let slides = |types: &Vec<Value>| types.iter().any(|t| t == "sliding_attention");
                if types.is_some_and(slides) {
                    self.broken(
                        "`layer_types` names layers with windows, and `use_sliding_window` is not true",
                        &[],
                    );
                }
                Some(vec![None; layers])
            }
            _ => Some(vec![None; layers]),
        }
    }

    fn windows_of_types(
        &mut self,
        types: &Value,
        layers: usize,
        window: Option<usize>,
    ) -> Option<Vec<Option<usize>>> {
        let types = types.as_array().map(Vec::as_slice).unwrap_or_default();
        if types.len() != layers {
            let facts = [
                ("num_hidden_layers", layers.to_string()),
                ("layer_types", types.len().to_string()),
            ];
            self.broken("`layer_types` does not name each layer", &facts);
            return None;
        }
        let mut windows = Vec::new();
        for kind in types {
            match kind.as_str() {
                Some("full_attention") => windows.push(None),
                Some("sliding_attention") => windows.push(window),
                _ => {
                    let found = kind.as_str().map_or_else(|| kind.to_string(), str::to_owned);
                    self.unsupported("layer_types", &found, "full_attention or sliding_attention");
                    return None;
                }
            }
        }
        Some(windows)
    }
}
