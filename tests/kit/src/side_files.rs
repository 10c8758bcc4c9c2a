//! The files beside the weights: config, tokenizer, generation config, chat template.

use serde_json::{Map, Value, json};

/// What a Llama-like model looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width inside the feed-forward part.
    pub intermediate: u64,
    /// Count of layers.
    pub layers: u64,
    /// Attention heads.
    pub heads: u64,
    /// Heads of keys and values.
    pub kv_heads: u64,
    /// Rows of the embedding.
    pub vocabulary: u64,
    /// Whether the output layer is the embedding.
    pub tied: bool,
}

/// A `config.json` of the Llama family.
pub fn llama_config(dimensions: &Dimensions, torch_dtype: &str) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": dimensions.hidden,
        "initializer_range": 0.02,
        "intermediate_size": dimensions.intermediate,
        "max_position_embeddings": 128,
        "model_type": "llama",
        "num_attention_heads": dimensions.heads,
        "num_hidden_layers": dimensions.layers,
        "num_key_value_heads": dimensions.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": dimensions.tied,
        "torch_dtype": torch_dtype,
        "use_cache": true,
        "vocab_size": dimensions.vocabulary,
    })
}

/// Names and shapes of the tensors of a Llama-like model, in the order of the model.
pub fn llama_tensors(dimensions: &Dimensions) -> Vec<(String, Vec<u64>)> {
    let Dimensions { hidden, intermediate, vocabulary, .. } = *dimensions;
    let kv = hidden / dimensions.heads * dimensions.kv_heads;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden])];
    for layer in 0..dimensions.layers {
        let mut add = |name: &str, shape: &[u64]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[hidden]);
        add("self_attn.q_proj", &[hidden, hidden]);
        add("self_attn.k_proj", &[kv, hidden]);
        add("self_attn.v_proj", &[kv, hidden]);
        add("self_attn.o_proj", &[hidden, hidden]);
        add("post_attention_layernorm", &[hidden]);
        add("mlp.gate_proj", &[intermediate, hidden]);
        add("mlp.up_proj", &[intermediate, hidden]);
        add("mlp.down_proj", &[hidden, intermediate]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !dimensions.tied {
        tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    }
    tensors
}

/// A `tokenizer.json` that splits at spaces and knows these words; the first two begin and end a text.
pub fn word_tokenizer(words: &[String]) -> Value {
    let vocabulary: Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| (word.clone(), Value::from(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&words[..words.len().min(2)]),
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "</s>"},
    })
}

/// The words of a small vocabulary: `<s>`, `</s>`, then `w2`, `w3`, ….
pub fn words(count: u64) -> Vec<String> {
    (0..count)
        .map(|id| match id {
            0 => "<s>".to_owned(),
            1 => "</s>".to_owned(),
            other => format!("w{other}"),
        })
        .collect()
}

/// A byte-level BPE `tokenizer.json`: special tokens, the 256 bytes, and one token for each merge.
///
/// It encodes any text and decodes it to the same bytes.
pub fn byte_tokenizer(special: &[String], merges: &[(&str, &str)]) -> Value {
    let mut vocabulary = Map::new();
    let bytes = byte_letters();
    let joined = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let tokens = special.iter().cloned().chain(bytes).chain(joined);
    for (id, token) in tokens.enumerate() {
        vocabulary.insert(token, Value::from(id));
    }
    let merges: Vec<Value> = merges.iter().map(|(left, right)| json!([left, right])).collect();
    let byte_level = |add_prefix_space: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": true,
            "use_regex": true,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(special),
        "normalizer": null,
        "pre_tokenizer": byte_level(false),
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges,
        },
    })
}

/// A `tokenizer_config.json`.
pub fn tokenizer_config() -> Value {
    json!({
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": false,
        "eos_token": "</s>",
        "model_max_length": 128,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

/// A `generation_config.json`.
pub fn generation_config() -> Value {
    json!({"bos_token_id": 0, "do_sample": false, "eos_token_id": 1, "max_new_tokens": 32})
}

/// A `chat_template.jinja`.
pub const CHAT_TEMPLATE: &str = "\
{%- for message in messages %}
{{- message['role'] + ': ' + message['content'] + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'assistant: ' }}
{%- endif %}
";

/// JSON as it is checked in: indented, with a line end.
pub fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON can be written");
    text.push('\n');
    text
}

fn added_tokens(tokens: &[String]) -> Value {
    let entries = tokens.iter().enumerate().map(|(id, content)| {
        json!({
            "id": id,
            "content": content,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        })
    });
    entries.collect()
}

/// The visible letter that stands for each byte in byte-level vocabularies: itself where it is
/// visible in Latin-1, otherwise the next unused character from U+0100 on.
fn byte_letters() -> Vec<String> {
    let mut next = 0x100;
    (0..=255_u8)
        .map(|byte| {
            let visible = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let letter = if visible {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).expect("a character beyond Latin-1")
            };
            letter.to_string()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_vocabulary_has_no_gap_and_no_double() {
        let tokenizer = byte_tokenizer(&["<s>".to_owned()], &[("t", "h")]);
        let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
        assert_eq!(vocabulary.len(), 1 + 256 + 1, "two bytes share a letter");
        assert_eq!(vocabulary["th"], 257);
        assert_eq!(vocabulary["Ġ"], 1 + 32, "the space's letter in byte-level vocabularies");
    }

    #[test]
    fn tied_models_have_no_output_layer() {
        let mut dimensions = Dimensions {
            hidden: 8,
            intermediate: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            vocabulary: 10,
            tied: true,
        };
        assert_eq!(llama_tensors(&dimensions).len(), 1 + 2 * 9 + 1);
        dimensions.tied = false;
        let tensors = llama_tensors(&dimensions);
        assert_eq!(tensors.last().unwrap(), &("lm_head.weight".to_owned(), vec![10, 8]));
        assert_eq!(tensors[3], ("model.layers.0.self_attn.k_proj.weight".to_owned(), vec![4, 8]));
    }
}
