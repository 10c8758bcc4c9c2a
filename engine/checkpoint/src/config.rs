//! Rewrites `config.json` for a merged model: what the merge changed changes, all else stays as it is,
//! in its order.

mod compose;
mod follow;
mod positions;
mod stacks;
mod words;

use std::collections::BTreeSet;

use mixdown_tensor::DType;
use serde_json::{Map, Value};

pub use compose::{Composed, Conflict, Part, compose};
pub use stacks::{StackChange, StackFault, restack};
pub use words::is_of_all_layers;

/// What a merge changed of a model. `None` leaves things as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// Element type that most of the weights were written in.
    pub dtype: Option<DType>,
    /// Stacks whose layers were put together anew.
    pub stacks: Vec<StackChange>,
    /// What the names of the layers of each stack of the model begin with.
    pub all_stacks: BTreeSet<String>,
    /// Whether the output has no unembedding of its own, and the embedding stands in for it.
    pub is_tied: Option<bool>,
    /// Rows of the embedding.
    pub vocab_size: Option<u64>,
    /// Whether packed weights became numbers, so that what the config says of the packing is no longer true.
    pub is_unpacked: bool,
}

/// Keys under which configs describe how weights are packed: transformers' own, that of older
/// compressed-tensors, and MLX's.
const PACKING: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

/// Where configs of models with several parts keep those of the language model. The first that is
/// there is taken; the top level comes last.
const TEXT_PARTS: [&str; 6] = [
    "text_config",
    "llm_config",
    "language_config",
    "text_model_config",
    "language_model",
    "decoder",
];

/// The config of the output: `config` with these changes, keys in their order.
pub fn rewrite_config(config: &Value, changes: &ConfigChanges) -> Value {
    let mut output = config.clone();
    let Some(top) = output.as_object_mut() else { return output };
    if let Some(dtype) = changes.dtype {
        set_dtype(top, dtype);
    }
    if let Some(rows) = changes.vocab_size
        && !change_part(top, &["vocab_size"], |part, key| set(part, key, rows.into()))
    {
        set(top, "vocab_size", rows.into());
    }
    if let Some(is_tied) = changes.is_tied {
        set_tied(top, is_tied);
    }
    if changes.is_unpacked {
        leave_out_packing(&mut output);
    }
    for stack in &changes.stacks {
        let others = changes.all_stacks.iter().filter(|prefix| **prefix != stack.prefix);
        let mut changed = output.clone();
        // What the config cannot follow, the plan has refused.
        if restack(&mut changed, stack, &others.cloned().collect()).is_ok() {
            output = changed;
        }
    }
    output
}

/// Removes what a config and its parts say of packed weights; returns the keys that are gone, with their parts.
pub fn leave_out_packing(config: &mut Value) -> Vec<String> {
    let mut gone = Vec::new();
    let Some(top) = config.as_object_mut() else { return gone };
    for key in PACKING {
        gone.extend(top.shift_remove(key).map(|_| key.to_owned()));
    }
    for (name, part) in top {
        let Some(part) = part.as_object_mut() else { continue };
        for key in PACKING {
            gone.extend(part.shift_remove(key).map(|_| format!("{name}.{key}")));
        }
    }
    gone
}

/// Whether a config says that embedding and unembedding are one tensor, if it says so at all.
pub fn says_tied(config: &Value) -> Option<bool> {
    let top = config.as_object()?;
    let own = top.get("tie_word_embeddings").and_then(Value::as_bool);
    own.or_else(|| top.get(text_part(top)?)?.get("tie_word_embeddings")?.as_bool())
}

fn text_part(top: &Map<String, Value>) -> Option<&'static str> {
    TEXT_PARTS.into_iter().find(|&key| top.get(key).is_some_and(Value::is_object))
}

/// Applies a change to every part that describes the language model and has one of these keys: some
/// configs say the same twice, at the top and within. Tells whether there was one.
fn change_part(
    top: &mut Map<String, Value>,
    keys: &[&str],
    change: impl Fn(&mut Map<String, Value>, &str),
) -> bool {
    let first_in = |part: &Map<String, Value>| {
        keys.iter().copied().find(|&key| part.get(key).is_some_and(Value::is_u64))
    };
    let mut is_changed = false;
    if let Some(part) = text_part(top).and_then(|name| top.get_mut(name)?.as_object_mut())
        && let Some(key) = first_in(part)
    {
        change(part, key);
        is_changed = true;
    }
    if let Some(key) = first_in(top) {
        change(top, key);
        is_changed = true;
    }
    is_changed
}

fn set(part: &mut Map<String, Value>, key: &str, value: Value) {
    // A key that is there keeps its place.
    part.insert(key.to_owned(), value);
}

/// transformers 5 writes `dtype` and reads both keys; before it was `torch_dtype`. Other parts, such as
/// an image encoder, may have been copied in another type and keep what they say.
fn set_dtype(top: &mut Map<String, Value>, dtype: DType) {
    let name = Value::from(dtype.torch_name());
    let mut is_said = set_dtype_keys(top, &name);
    if let Some(part) = text_part(top).and_then(|key| top.get_mut(key)?.as_object_mut()) {
        is_said |= set_dtype_keys(part, &name);
    }
    if !is_said {
        set(top, "torch_dtype", name);
    }
}

fn set_dtype_keys(part: &mut Map<String, Value>, name: &Value) -> bool {
    let mut is_said = false;
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = part.get_mut(key)
            && (value.is_string() || value.is_null())
        {
            *value = name.clone();
            is_said = true;
        }
    }
    is_said
}

fn set_tied(top: &mut Map<String, Value>, is_tied: bool) {
    const KEY: &str = "tie_word_embeddings";
    let words = words::words();
    let family = top.get("model_type").and_then(Value::as_str);
    if !is_tied
        && family.is_some_and(|own| words.scaled_while_tied.iter().any(|known| known == own))
    {
        // What was scaled because of the tie is scaled without it, too.
        top.entry(words.scaling.as_str()).or_insert(Value::Bool(true));
    }
    let mut is_said = false;
    if let Some(part) = text_part(top).and_then(|name| top.get_mut(name)?.as_object_mut())
        && part.contains_key(KEY)
    {
        set(part, KEY, is_tied.into());
        is_said = true;
    }
    // The default of most families is true; what is not said is not what was written.
    if top.contains_key(KEY) || !is_said {
        set(top, KEY, is_tied.into());
    }
}

/// How many layers of the output, from its start, come from the first `leading` ones.
fn leading_count(leading: u64, old_count: u64, layers: &[u64]) -> u64 {
    if leading >= old_count {
        // It meant "all of them", whatever their number.
        return leading - old_count + layers.len() as u64;
    }
    layers.iter().take_while(|&&layer| layer < leading).count() as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The count of layers of the language model that a config describes.
    fn layer_count(config: &Value) -> Option<u64> {
        let top = config.as_object()?;
        let of = |part: &Map<String, Value>| {
            words::words().counts.iter().find_map(|key| part.get(key)?.as_u64())
        };
        text_part(top).and_then(|key| of(top.get(key)?.as_object()?)).or_else(|| of(top))
    }

    /// Compares as text, so that the order of keys counts.
    fn check(config: Value, changes: &ConfigChanges, expected: Value) {
        let mut changes = changes.clone();
        for stack in &mut changes.stacks {
            stack.before = layer_count(&config).unwrap_or(1);
        }
        let found = rewrite_config(&config, &changes);
        assert_eq!(found.to_string(), expected.to_string());
    }

    /// The stack of a language model, of as many layers as the config that is checked counts.
    fn stack(list: &[u64]) -> Vec<StackChange> {
        let prefix = "model.layers.".to_owned();
        vec![StackChange { prefix, before: 0, sources: list.to_vec() }]
    }

    fn layers(list: &[u64]) -> ConfigChanges {
        ConfigChanges { stacks: stack(list), ..ConfigChanges::default() }
    }

    #[test]
    fn a_packing_that_is_gone_is_not_described() {
        let config = json!({
            "model_type": "x", "quantization_config": {"bits": 4}, "hidden_size": 8,
            "text_config": {"quantization_config": {"bits": 4}, "layers": 2}, "quantization": {"bits": 4},
        });
        let changes = ConfigChanges { is_unpacked: true, ..ConfigChanges::default() };
        let output = rewrite_config(&config, &changes).to_string();
        assert_eq!(output, r#"{"model_type":"x","hidden_size":8,"text_config":{"layers":2}}"#);
        assert_eq!(rewrite_config(&config, &ConfigChanges::default()), config);
    }

    #[test]
    fn nothing_changes_without_changes() {
        let config =
            json!({"z": 1, "a": [1, 2], "num_hidden_layers": 2, "layer_types": ["x", "y"]});
        check(config.clone(), &ConfigChanges::default(), config.clone());
        check(config.clone(), &layers(&[0, 1]), config);
        check(json!([1]), &layers(&[0]), json!([1]));
    }

    #[test]
    fn llama() {
        check(
            json!({
                "architectures": ["LlamaForCausalLM"],
                "num_hidden_layers": 3,
                "torch_dtype": "float16",
                "tie_word_embeddings": true,
                "vocab_size": 32000,
                "eos_token_id": [1, 2, 3],
            }),
            &ConfigChanges {
                dtype: Some(DType::Bf16),
                stacks: stack(&[0, 1, 1, 2]),
                all_stacks: BTreeSet::new(),
                is_tied: Some(false),
                vocab_size: Some(32008),
                is_unpacked: false,
            },
            json!({
                "architectures": ["LlamaForCausalLM"],
                "num_hidden_layers": 4,
                "torch_dtype": "bfloat16",
                "tie_word_embeddings": false,
                "vocab_size": 32008,
                "eos_token_id": [1, 2, 3],
            }),
        );
    }

    #[test]
    fn what_a_tie_scales_is_scaled_when_it_is_gone() {
        let changes = ConfigChanges { is_tied: Some(false), ..ConfigChanges::default() };
        check(
            json!({"model_type": "t5"}),
            &changes,
            json!({"model_type": "t5", "scale_decoder_outputs": true, "tie_word_embeddings": false}),
        );
        check(
            json!({"model_type": "t5", "scale_decoder_outputs": false}),
            &changes,
            json!({"model_type": "t5", "scale_decoder_outputs": false, "tie_word_embeddings": false}),
        );
    }

    #[test]
    fn qwen2_and_qwen3_layer_types_and_windows() {
        check(
            json!({
                "layer_types": ["full", "full", "sliding", "sliding"],
                "max_window_layers": 2,
                "num_hidden_layers": 4,
                "dtype": "float32",
            }),
            &ConfigChanges { dtype: Some(DType::F16), ..layers(&[0, 1, 1, 2, 3, 3]) },
            json!({
                "layer_types": ["full", "full", "full", "sliding", "sliding", "sliding"],
                "max_window_layers": 3,
                "num_hidden_layers": 6,
                "dtype": "float16",
            }),
        );
        // Qwen2.5 as published: the window starts after the last layer.
        check(
            json!({"max_window_layers": 24, "num_hidden_layers": 24}),
            &layers(&[0, 1]),
            json!({"max_window_layers": 2, "num_hidden_layers": 2}),
        );
    }

    #[test]
    fn gemma_and_cohere_patterns() {
        // The pattern as a period stays; where it no longer fits the layers, `layer_types` rules.
        check(
            json!({"num_hidden_layers": 3, "sliding_window_pattern": 3, "layer_types": ["s", "s", "f"]}),
            &layers(&[2, 0]),
            json!({"num_hidden_layers": 2, "sliding_window_pattern": 3, "layer_types": ["f", "s"]}),
        );
        check(
            json!({
                "model_type": "gemma3",
                "text_config": {"num_hidden_layers": 2, "layer_types": ["s", "f"], "vocab_size": 8},
                "vision_config": {"num_hidden_layers": 2, "layer_types": ["v", "w"]},
            }),
            &ConfigChanges { vocab_size: Some(9), ..layers(&[1, 1, 0]) },
            json!({
                "model_type": "gemma3",
                "text_config": {
                    "num_hidden_layers": 3, "layer_types": ["f", "f", "s"], "vocab_size": 9,
                },
                "vision_config": {"num_hidden_layers": 2, "layer_types": ["v", "w"]},
            }),
        );
    }

    #[test]
    fn gpt2_has_its_own_key() {
        check(
            json!({"n_layer": 12, "n_head": 12, "vocab_size": 50257}),
            &ConfigChanges { dtype: Some(DType::F32), ..layers(&[0, 1, 2]) },
            json!({"n_layer": 3, "n_head": 12, "vocab_size": 50257, "torch_dtype": "float32"}),
        );
    }

    #[test]
    fn qwen2_vl_flat_and_nested() {
        check(
            json!({
                "num_hidden_layers": 2,
                "torch_dtype": "bfloat16",
                "vision_config": {"depth": 2, "hidden_size": 4, "torch_dtype": "float32"},
            }),
            &ConfigChanges { dtype: Some(DType::F16), ..layers(&[1]) },
            json!({
                "num_hidden_layers": 1,
                "torch_dtype": "float16",
                "vision_config": {"depth": 2, "hidden_size": 4, "torch_dtype": "float32"},
            }),
        );
        check(
            json!({
                "dtype": "bfloat16",
                "text_config": {
                    "dtype": "bfloat16", "model_type": "t", "num_hidden_layers": 2,
                    "tie_word_embeddings": true,
                },
                "tie_word_embeddings": false,
            }),
            &ConfigChanges { dtype: Some(DType::F32), is_tied: Some(true), ..layers(&[0, 1, 0]) },
            json!({
                "dtype": "float32",
                "text_config": {
                    "dtype": "float32", "model_type": "t", "num_hidden_layers": 3,
                    "tie_word_embeddings": true,
                },
                "tie_word_embeddings": true,
            }),
        );
    }

    #[test]
    fn lists_of_layer_numbers_and_flags_for_each_layer() {
        check(
            json!({
                "num_hidden_layers": 4,
                "mlp_only_layers": [0, 3],
                "no_rope_layers": [1, 1, 1, 0],
                "moe_layers": [],
                "use_rope": [true, false, true, false],
                "rope_sections": [1, 2, 3, 4],
                "hidden_layers_note": [1, 2],
            }),
            &layers(&[3, 0, 0, 2]),
            json!({
                "num_hidden_layers": 4,
                "mlp_only_layers": [0, 1, 2],
                "no_rope_layers": [0, 1, 1, 1],
                "moe_layers": [],
                "use_rope": [false, true, true, true],
                "rope_sections": [1, 2, 3, 4],
                "hidden_layers_note": [1, 2],
            }),
        );
    }

    #[test]
    fn keys_that_were_not_there() {
        check(
            json!({"model_type": "x"}),
            &ConfigChanges {
                dtype: Some(DType::Bf16),
                is_tied: Some(true),
                vocab_size: Some(5),
                is_unpacked: false,
                stacks: stack(&[0]),
                all_stacks: BTreeSet::new(),
            },
            json!({
                "model_type": "x", "torch_dtype": "bfloat16", "vocab_size": 5,
                "tie_word_embeddings": true,
            }),
        );
        check(
            json!({"text_config": {"vocab_size": 1, "tie_word_embeddings": true}}),
            &ConfigChanges { is_tied: Some(false), ..ConfigChanges::default() },
            json!({"text_config": {"vocab_size": 1, "tie_word_embeddings": false}}),
        );
    }

    #[test]
    fn a_layer_that_is_not_there_changes_no_list() {
        check(
            json!({"num_hidden_layers": 1, "layer_types": ["a"]}),
            &layers(&[0, 7]),
            json!({"num_hidden_layers": 2, "layer_types": ["a"]}),
        );
    }

    #[test]
    fn ties_are_read() {
        let nested = json!({
            "num_hidden_layers": 9,
            "text_config": {"num_hidden_layers": 4, "tie_word_embeddings": true},
        });
        assert_eq!(says_tied(&nested), Some(true));
        assert_eq!(says_tied(&json!([])), None);
    }
}
