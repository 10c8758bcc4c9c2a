//! A merge that no machine of ours could make, planned on 64: six models of 671B parameters, whose files
//! have headers and holes.
//!
//! Catches parts that are unequal, costs that overflow or are counted twice, and plans that take too long
//! to be made by hand.

use std::fs::File;
use std::io::Write as _;

use mixdown_kit::{Space, mixdown};
use serde_json::{Map, Value, json};

const HIDDEN: u64 = 7168;
const VOCABULARY: u64 = 129_280;

/// Names and shapes of DeepSeek-V3's tensors, as its index and config give them.
fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut found = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..61 {
        let mut add = |name: &str, shape: &[u64]| {
            found.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[HIDDEN]);
        add("self_attn.q_a_proj", &[1536, HIDDEN]);
        add("self_attn.q_a_layernorm", &[1536]);
        add("self_attn.q_b_proj", &[24_576, 1536]);
        add("self_attn.kv_a_proj_with_mqa", &[576, HIDDEN]);
        add("self_attn.kv_a_layernorm", &[512]);
        add("self_attn.kv_b_proj", &[32_768, 512]);
        add("self_attn.o_proj", &[HIDDEN, 16_384]);
        add("post_attention_layernorm", &[HIDDEN]);
        let mut feed_forward = |name: &str, size: u64| {
            add(&format!("{name}.gate_proj"), &[size, HIDDEN]);
            add(&format!("{name}.up_proj"), &[size, HIDDEN]);
            add(&format!("{name}.down_proj"), &[HIDDEN, size]);
        };
        if layer < 3 {
            feed_forward("mlp", 18_432);
            continue;
        }
        feed_forward("mlp.shared_experts", 2048);
        for expert in 0..256 {
            feed_forward(&format!("mlp.experts.{expert}"), 2048);
        }
        add("mlp.gate", &[256, HIDDEN]);
    }
    found.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    found.push(("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]));
    found
}

/// Writes a model whose data is a hole. Returns its bytes.
fn write(space: &Space, folder: &str) -> u64 {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in tensors() {
        let end = at + 2 * shape.iter().product::<u64>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', (8 - text.len() % 8) % 8));
    let config = json!({"model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": HIDDEN,
                        "vocab_size": VOCABULARY, "tie_word_embeddings": false});
    space.write(format!("{folder}/config.json"), config.to_string());
    let mut file = File::create(space.path(format!("{folder}/model.safetensors"))).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_len(8 + text.len() as u64 + at).unwrap();
    at
}

#[test]
fn six_models_of_671b_on_64_machines() {
    let space = Space::new();
    let mut recipe = "merge_method: ties\nbase_model: base\nmodels:\n".to_owned();
    let bytes = write(&space, "base");
    for expert in 0..5 {
        write(&space, &format!("expert{expert}"));
        recipe +=
            &format!("  - {{model: expert{expert}, parameters: {{weight: 1, density: 0.5}}}}\n");
    }
    space.write("recipe.yaml", recipe + "dtype: bfloat16\n");
    for (shard, may_cut) in [("5GB", true), ("1GB", false)] {
        let arguments = ["plan", "recipe.yaml", "--parts", "64", "--shard-size", shard, "--json"];
        let plan = mixdown(&space, arguments).success().json();
        let parts = plan["parts"].as_array().expect("parts");
        assert_eq!(parts.len(), 64);
        let numbers =
            |key: &'static str| parts.iter().map(move |part| part[key].as_u64().expect("a number"));
        assert_eq!(numbers("bytes_written").sum::<u64>(), bytes);
        // The threshold of each task vector, then the result: all six models twice, and a sample.
        let read = numbers("bytes_read").sum::<u64>() as f64 / (12 * bytes) as f64;
        assert!((1.0..1.01).contains(&read), "{read}");
        for key in ["bytes_read", "bytes_written"] {
            let mean = numbers(key).sum::<u64>() / 64;
            let far = numbers(key).map(|one| one.abs_diff(mean)).max().expect("parts");
            assert!(far * 20 <= mean, "{key} with {shard}: {far} from {mean}");
        }
        assert!(plan["excess"].as_f64().expect("a share") <= 0.05);
        assert!(may_cut || numbers("pieces").sum::<u64>() == 0, "whole shards of {shard}");
    }
}
