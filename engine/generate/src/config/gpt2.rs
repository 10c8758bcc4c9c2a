//! Configs of gpt2.

use serde_json::Value;

use super::{Config, Form, LayerConfig, Reader};
use crate::arithmetic::{ACTIVATIONS, Activation};

impl Reader<'_> {
    pub(super) fn gpt2(&mut self, ends: Vec<u32>) -> Option<Config> {
        let activation = self.get("activation_function").and_then(Value::as_str);
        let activation = activation.unwrap_or("gelu_new").to_owned();
        let known = ACTIVATIONS.iter().find(|(name, _)| *name == activation);
        if known.is_none() {
            let names: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
            self.unsupported("activation_function", &activation, &names.join(", "));
        }
        if self.is_set("add_cross_attention") {
            self.unsupported("add_cross_attention", "true", "false");
        }
        let hidden = self.size_of(&["n_embd", "hidden_size"]);
        let heads = self.size_of(&["n_head", "num_attention_heads"]);
        let layers = self.size_of(&["n_layer", "num_hidden_layers"]);
        let positions = self.size_of(&["n_positions", "max_position_embeddings"]);
        let vocabulary = self.size("vocab_size");
        let (hidden, heads, layers) = (hidden?, heads?, layers?);
        if !hidden.is_multiple_of(heads) {
            let facts = [("n_embd", hidden.to_string()), ("n_head", heads.to_string())];
            self.broken("the heads do not go together", &facts);
        }
        let head = (hidden / heads).max(1);
        let is_scaled = self.get("scale_attn_weights").and_then(Value::as_bool).unwrap_or(true);
        let is_by_layer = self.is_set("scale_attn_by_inverse_layer_idx");
        let layer = |layer: usize| {
            let scale = if is_scaled { 1.0 / (head as f32).sqrt() } else { 1.0 };
            let scale = if is_by_layer { scale / (layer + 1) as f32 } else { scale };
            LayerConfig { window: None, scale }
        };
        let epsilon = self.get("layer_norm_epsilon").and_then(Value::as_f64).unwrap_or(1e-5);
        let tied = self.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(true);
        Some(Config {
            hidden,
            intermediate: self.optional_size("n_inner").unwrap_or(4 * hidden),
            layers: (0..layers).map(layer).collect(),
            heads,
            kv_heads: heads,
            head,
            vocabulary: vocabulary?,
            epsilon: epsilon as f32,
            form: Form::Gpt2(known.map_or(Activation::GeluTanh, |(_, activation)| *activation)),
            tied,
            ends,
            most_positions: Some(positions?),
        })
    }
}
