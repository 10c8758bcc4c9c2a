//! The program as searches run it: files in, files out, and an answer or a reason for each prompt.
//!
//! Catches prompts that are echoed or lost, limits and stop texts that are not kept, media that are
//! passed over in silence, and failures that leave no message.

mod tiny;

use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::side_files::{CHAT_TEMPLATE, word_tokenizer, words};
use mixdown_kit::{DType, Space, Tensor};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tiny::{answers, cases, generate, write_model};

/// The first model: it answers `[3, 17, 5]` with 27 3 3 20 29 34 ….
fn space() -> Space {
    let space = Space::new();
    write_model(&space, "model", &cases()[0], 0);
    space
}

/// With a tokenizer whose words are `w2` to `w39`.
fn worded() -> Space {
    let space = space();
    space.write("model/tokenizer.json", word_tokenizer(&words(40)).to_string());
    space
}

fn asked(id: &str, text: &str) -> Value {
    json!({"id": id, "messages": [{"role": "user", "content": text}], "gen": {"max_new_tokens": 6}})
}

fn text<'a>(answers: &'a [Value], id: &str) -> &'a Value {
    &answers.iter().find(|answer| answer["id"] == id).expect("the prompt is answered")["text"]
}

#[test]
fn limits_and_ends_are_kept() {
    let space = space();
    let ids =
        |most: u64| json!({"id": "a", "input_ids": [3, 17, 5], "gen": {"max_new_tokens": most}});
    let found = answers(&space, "model", &[ids(2)], &[]);
    assert_eq!(
        found[0],
        json!({"id": "a", "text": "27 3", "finish_reason": "length", "tokens": 2, "error": null})
    );
    // Token 20 comes fourth; as an end it is no part of the answer.
    space.write("model/generation_config.json", r#"{"eos_token_id": [20, 39]}"#);
    let found = answers(&space, "model", &[ids(9)], &[]);
    assert_eq!(
        found[0],
        json!({"id": "a", "text": "27 3 3", "finish_reason": "stop", "tokens": 3, "error": null})
    );
    // 64 positions: 60 of the prompt, and tokens until the last has been looked at.
    space.write("model/generation_config.json", r#"{"eos_token_id": null}"#);
    let long = |id: &str, count: usize| json!({"id": id, "input_ids": vec![7; count]});
    let found = answers(&space, "model", &[long("a", 60), long("b", 65)], &[]);
    assert_eq!((&found[0]["tokens"], &found[0]["finish_reason"]), (&json!(5), &json!("length")));
    assert_eq!(found[1]["error"], "the prompt has 65 tokens, and the model takes 64");
}

#[test]
fn words_go_in_and_come_out() {
    let space = worded();
    let stop = |id: &str, stop: &str| {
        let mut prompt = asked(id, "w3 w17 w5");
        prompt["gen"]["stop"] = json!(["never", stop]);
        prompt
    };
    let ids = json!({"id": "ids", "input_ids": [3, 17, 5], "gen": {"max_new_tokens": 6}});
    let parts = json!({"id": "parts", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "w3 w17"}, {"type": "text", "text": " w5"}]}],
        "gen": {"max_new_tokens": 6}});
    let prompts =
        [asked("plain", "w3 w17 w5"), stop("stop", "w20"), stop("inner", "3 w2"), ids, parts];
    let found = answers(&space, "model", &prompts, &[]);
    let whole = "w27 w3 w3 w20 w29 w34";
    assert_eq!(text(&found, "plain"), whole);
    assert_eq!((text(&found, "ids"), text(&found, "parts")), (&json!(whole), &json!(whole)));
    assert_eq!(text(&found, "stop"), "w27 w3 w3 ");
    assert_eq!(text(&found, "inner"), "w27 w3 w");
    assert_eq!(found[1]["finish_reason"], "stop");
}

#[test]
fn a_template_says_how_messages_become_text() {
    let space = worded();
    // The template's own words `user:` and `assistant:` are unknown to the tokenizer: token 1.
    space.write("model/chat_template.jinja", CHAT_TEMPLATE);
    let ids = json!({"id": "ids", "input_ids": [1, 3, 17, 5, 1], "gen": {"max_new_tokens": 6}});
    let found = answers(&space, "model", &[asked("chat", "w3 w17 w5"), ids], &[]);
    assert_eq!(found[0]["text"], found[1]["text"]);
    space.write("model/chat_template.jinja", "{{ raise_exception('only one message') }}");
    let found = answers(&space, "model", &[asked("chat", "w3")], &[]);
    assert_eq!(found[0]["error"], "only one message");
    space.write("model/chat_template.jinja", "{% if %}");
    let output = generate(&space, "model", &[asked("chat", "w3")], &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("E0523") && told.contains("chat_template.jinja"), "{told}");
}

/// The embeddings of tokens 17 and 5, computed elsewhere, mean the same as the tokens.
#[test]
fn embeddings_can_stand_for_tokens() {
    let space = worded();
    let stored = mixdown_kit::read_checkpoint(space.path("model"));
    let rows = stored.values("model.embed_tokens.weight");
    let rows = [&rows[17 * 32..18 * 32], &rows[5 * 32..6 * 32]].concat();
    let tensor = Tensor::new("17", DType::F32, &[2, 32], &rows);
    let bytes = safetensors_bytes(&[&tensor]);
    space.write("x.safetensors", &bytes);
    let sha256 =
        Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let embeds =
        json!({"type": "embeds", "path": "x.safetensors", "sha256": sha256, "tensor": "17"});
    let among_ids = json!({"id": "ids", "input_ids": [3, embeds], "gen": {"max_new_tokens": 6}});
    let mut missing = among_ids.clone();
    (missing["id"], missing["input_ids"][1]["tensor"]) = ("missing".into(), "18".into());
    let among_words = json!({"id": "words", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "w3 "}, embeds]}], "gen": {"max_new_tokens": 6}});
    let found = answers(&space, "model", &[among_ids, among_words, missing], &[]);
    assert_eq!(
        (text(&found, "ids"), text(&found, "words")),
        (&json!("w27 w3 w3 w20 w29 w34"), text(&found, "ids"))
    );
    assert!(found[2]["error"].as_str().unwrap().contains("no `18`"), "{}", found[2]);
}

#[test]
fn what_cannot_be_answered_says_why() {
    let space = worded();
    space.write("a.png", "abc");
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let image = json!({"id": "image", "messages": [{"role": "user", "content": [
        {"type": "image", "path": "a.png", "sha256": sha256}, {"type": "text", "text": "w3"}]}]});
    let unknown = json!({"id": "unknown", "input_ids": [40]});
    let found =
        answers(&space, "model", &[image, unknown, asked("empty", ""), asked("well", "w3")], &[]);
    let errors: Vec<&str> = found.iter().filter_map(|answer| answer["error"].as_str()).collect();
    assert_eq!(
        errors,
        [
            "content of type `image` is not read here",
            "the model has no token 40",
            "the prompt has no tokens"
        ]
    );
    assert_eq!(found[3]["finish_reason"], "length");
    let wordless = crate::space();
    let stop = json!({"id": "stop", "input_ids": [3], "gen": {"stop": ["a"]}});
    let found = answers(&wordless, "model", &[asked("words", "w3"), stop], &[]);
    assert!(found[0]["error"].as_str().unwrap().contains("give `input_ids`"), "{}", found[0]);
    assert!(found[1]["error"].as_str().unwrap().contains("which `stop` needs"), "{}", found[1]);
}

#[test]
fn models_that_are_not_run_are_named() {
    let check = |change: &dyn Fn(&Space, &mut Value), words: &[&str]| {
        let space = space();
        let mut config: Value =
            serde_json::from_str(&space.read_text("model/config.json")).unwrap();
        change(&space, &mut config);
        space.write("model/config.json", config.to_string());
        let output = generate(&space, "model", &[json!({"id": "a", "input_ids": [3]})], &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        for word in words {
            assert!(told.contains(word), "`{word}` is missing:\n{told}");
        }
    };
    check(
        &|_, config| config["model_type"] = "mamba".into(),
        &["E0521", "gpt2, llama, mistral, qwen2", "config.json"],
    );
    check(
        &|_, config| config["rope_parameters"] = json!({"rope_type": "longrope"}),
        &["E0521", "rope_type: longrope", "default, linear, dynamic, yarn or llama3"],
    );
    check(
        &|_, config| config["intermediate_size"] = 50.into(),
        &["E0522", "expected: [50, 32]", "found:    [48, 32]", "gate_proj"],
    );
    check(
        &|_, config| config["num_hidden_layers"] = 3.into(),
        &["E0522", "no `model.layers.2.mlp.gate_proj.weight`"],
    );
    check(
        &|space, _| drop(space.write("model/tokenizer.json", "{}")),
        &["E0523", "tokenizer.json"],
    );
}

/// Parts of larger models have other names before their tensors', and their config stands in another.
#[test]
fn the_language_model_of_a_larger_model_is_found() {
    let mut case = cases()[0].clone();
    let tensors = case["tensors"].as_object().unwrap().clone();
    let space = Space::new();
    write_model(&space, "plain", &case, 0);
    let stored = mixdown_kit::read_checkpoint(space.path("plain"));
    let renamed: Vec<Tensor> = tensors
        .keys()
        .map(|name| stored.tensor(name).clone().named(&format!("language_model.{name}")))
        .collect();
    space.write("whole/model.safetensors", safetensors_bytes(&renamed.iter().collect::<Vec<_>>()));
    case["config"] = json!({"model_type": "llava", "text_config": case["config"]});
    space.write("whole/config.json", case["config"].to_string());
    let prompt = [json!({"id": "a", "input_ids": [3, 17, 5], "gen": {"max_new_tokens": 3}})];
    assert_eq!(answers(&space, "whole", &prompt, &[])[0]["text"], "27 3 3");
}

/// Files of gpt2 without an output have names without a part before them, and some hold masks.
#[test]
fn gpt2_has_two_kinds_of_names_and_as_many_positions_as_rows() {
    let case = cases().into_iter().find(|case| case["name"] == "gpt2").unwrap();
    let space = Space::new();
    write_model(&space, "model", &case, 0);
    let stored = mixdown_kit::read_checkpoint(space.path("model"));
    let mut renamed: Vec<Tensor> = case["tensors"]
        .as_object()
        .unwrap()
        .keys()
        .map(|name| stored.tensor(name).clone().named(name.strip_prefix("transformer.").unwrap()))
        .collect();
    renamed.push(Tensor::new("h.0.attn.bias", DType::F32, &[1, 1, 2, 2], &[1.0, 0.0, 1.0, 1.0]));
    space.write("bare/model.safetensors", safetensors_bytes(&renamed.iter().collect::<Vec<_>>()));
    space.write("bare/config.json", case["config"].to_string());
    let long = |id: &str, count: usize| json!({"id": id, "input_ids": vec![7; count]});
    let prompts = [json!({"id": "a", "input_ids": [3, 17, 5]}), long("b", 60), long("c", 65)];
    let most = ["--max-new-tokens", "8"];
    let found = answers(&space, "model", &prompts, &most);
    assert_eq!(answers(&space, "bare", &prompts, &most), found);
    assert_eq!((&found[1]["tokens"], &found[1]["finish_reason"]), (&json!(5), &json!("length")));
    assert_eq!(found[2]["error"], "the prompt has 65 tokens, and the model takes 64");
    let mut config = case["config"].clone();
    config["n_positions"] = 63.into();
    space.write("bare/config.json", config.to_string());
    let output = generate(&space, "bare", &prompts, &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("`wpe.weight` has another shape"), "{told}");
}
