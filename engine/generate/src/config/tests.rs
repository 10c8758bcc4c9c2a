//! Configs that are read, and those that are refused.

use serde_json::json;

use super::*;

fn plain() -> Value {
    json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "vocab_size": 10,
        "num_hidden_layers": 2, "num_attention_heads": 2, "rms_norm_eps": 1e-5,
        "eos_token_id": 1, "max_position_embeddings": 64})
}

#[track_caller]
fn refused(config: &Value, words: &[&str]) {
    let found = Config::read(config, None, "config.json").unwrap_err();
    let told: Vec<&str> = found.iter().map(|error| error.headline.as_str()).collect();
    for word in words {
        assert!(told.iter().any(|headline| headline.contains(word)), "{word}: {told:?}");
    }
}

#[test]
fn flat_and_nested_configs_say_the_same() {
    let flat = Config::read(&plain(), None, "").unwrap();
    assert_eq!((flat.kv_heads, flat.head, flat.ends.as_slice()), (2, 4, &[1][..]));
    let mut inner = plain();
    inner.as_object_mut().unwrap().remove("eos_token_id");
    let outer = json!({"model_type": "llava", "text_config": inner, "eos_token_id": [1, 7],
        "hidden_size": 99, "tie_word_embeddings": true});
    let nested = Config::read(&outer, None, "").unwrap();
    assert_eq!((nested.hidden, nested.tied, nested.ends.as_slice()), (8, true, &[1, 7][..]));
    let generation = json!({"eos_token_id": [3]});
    assert_eq!(Config::read(&plain(), Some(&generation), "").unwrap().ends, [3]);
}

#[test]
fn what_cannot_be_run_is_named() {
    let with = |key: &str, value: Value| {
        let mut config = plain();
        config[key] = value;
        config
    };
    refused(&with("model_type", json!("mamba")), &["family `mamba`"]);
    refused(&with("hidden_act", json!("gelu")), &["hidden_act: gelu"]);
    refused(
        &with("rope_scaling", json!({"type": "longrope", "factor": 4})),
        &["rope_type: longrope"],
    );
    refused(&with("rope_scaling", json!({"rope_type": "llama3"})), &["lack a number"]);
    refused(&with("rope_scaling", json!({"rope_type": "dynamic"})), &["lack a number"]);
    refused(&with("rope_scaling", json!({"type": "yarn", "factor": -4})), &["not above 0"]);
    refused(&with("rope_theta", json!(0)), &["not above 0"]);
    refused(&with("partial_rotary_factor", json!(0.5)), &["partial_rotary_factor: 0.5"]);
    refused(&with("num_key_value_heads", json!(3)), &["heads do not go together"]);
    refused(&with("head_dim", json!(3)), &["heads do not go together"]);
    let mut config = with("vocab_size", json!(0));
    config["num_hidden_layers"] = json!("2");
    refused(&config, &["`vocab_size`", "`num_hidden_layers`"]);
}

fn windows(family: &str, keys: &[(&str, Value)]) -> Result<Vec<Option<usize>>, Vec<Diagnostic>> {
    let mut config = plain();
    config["model_type"] = family.into();
    for (key, value) in keys {
        config[*key] = value.clone();
    }
    let read = Config::read(&config, None, "config.json")?;
    Ok(read.layers.iter().map(|layer| layer.window).collect())
}

#[test]
fn layers_see_as_far_as_transformers_lets_them() {
    let check = |family: &str, keys: &[(&str, Value)], expected: [Option<usize>; 2]| {
        assert_eq!(windows(family, keys).unwrap(), expected, "{family} {keys:?}");
    };
    let seven = ("sliding_window", json!(7));
    let slides = ("use_sliding_window", json!(true));
    check("llama", std::slice::from_ref(&seven), [None, None]);
    check("mistral", std::slice::from_ref(&seven), [Some(7), Some(7)]);
    check("mistral", &[("sliding_window", Value::Null)], [None, None]);
    check("mistral", &[], [Some(4096), Some(4096)]);
    check("qwen2", std::slice::from_ref(&seven), [None, None]);
    check("qwen2", &[slides.clone(), seven.clone()], [None, None]);
    let second = ("max_window_layers", json!(1));
    check("qwen2", &[slides.clone(), seven.clone(), second], [None, Some(7)]);
    let types = |types: Value| ("layer_types", types);
    let first = types(json!(["sliding_attention", "full_attention"]));
    check("qwen2", &[slides.clone(), seven.clone(), first.clone()], [Some(7), None]);
    for (keys, words) in [
        (vec![seven.clone(), first], "`use_sliding_window` is not true"),
        (vec![slides.clone(), types(json!(["full_attention"]))], "does not name each layer"),
        (
            vec![slides.clone(), types(json!(["full_attention", "chunked_attention"]))],
            "layer_types: chunked_attention",
        ),
        (vec![slides, ("sliding_window", json!(0))], "`sliding_window` must be"),
    ] {
        let found = windows("qwen2", &keys).unwrap_err();
        assert!(found[0].headline.contains(words), "{found:?}");
    }
}

#[test]
fn gpt2_has_names_of_its_own() {
    let plain = json!({"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2,
        "n_positions": 16, "vocab_size": 10, "n_inner": null});
    let found = Config::read(&plain, None, "").unwrap();
    assert_eq!((found.intermediate, found.head, found.most_positions), (32, 4, Some(16)));
    assert!(found.tied && matches!(found.form, Form::Gpt2(Activation::GeluTanh)));
    assert_eq!(found.layers[1].scale, 0.5);
    let with = |key: &str, value: Value| {
        let mut config = plain.clone();
        config[key] = value;
        config
    };
    let scaled = with("scale_attn_by_inverse_layer_idx", json!(true));
    assert_eq!(Config::read(&scaled, None, "").unwrap().layers[1].scale, 0.25);
    refused(&with("activation_function", json!("silu")), &["activation_function: silu"]);
    refused(&with("add_cross_attention", json!(true)), &["add_cross_attention"]);
    refused(&with("n_head", json!(3)), &["heads do not go together"]);
    refused(&with("n_positions", json!(0)), &["`n_positions` must be"]);
}
