//! Folders and adapters as people have them: what belongs to a model and what only lies beside it, output layers
//! that were embeddings, and what configurations say behind equal shapes.
//!
//! Catches a file that is read or left out in silence, and an adapter that stands for another model than the
//! one that was trained.

use mixdown_kit::torch::torch_bytes;
use mixdown_kit::{DType, Outcome, Space, Tensor, adapter, checkpoint, mixdown, read_checkpoint};
use mixdown_suite::merge;
use serde_json::{Value, json};

const Q: &str = "model.layers.0.self_attn.q_proj";
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// Rows and columns of the embeddings of the kit's models.
const ROWS: u64 = 24;
const COLUMNS: u64 = 16;

/// Weight 1, so that the result is what the expert stands for.
const ONE: &str = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n  \
                   - {model: base+lora, parameters: {weight: 1.0}}\ndtype: float32\n";

fn base(space: &Space) {
    checkpoint("base").dtype(DType::F32).write(space);
}

/// A base whose embedding is its output layer.
fn tied(space: &Space) {
    checkpoint("base").tied().dtype(DType::F32).write(space);
}

fn numbers(name: &str, shape: &[u64], step: f64) -> Tensor {
    let count = shape.iter().product::<u64>();
    let values: Vec<f64> = (0..count).map(|at| ((at * 7 + 3) % 11) as f64 * step - 0.5).collect();
    Tensor::new(name, DType::F32, shape, &values)
}

fn config(space: &Space, folder: &str) -> Value {
    serde_json::from_slice(&space.read(format!("{folder}/config.json"))).unwrap()
}

fn values(space: &Space, folder: &str, name: &str) -> Vec<f64> {
    read_checkpoint(space.path(folder)).values(name)
}

fn check(space: &Space, recipe: &str) -> Outcome {
    space.write("recipe.yaml", recipe);
    mixdown(space, ["check", "recipe.yaml"])
}

/// Weight 1 on the difference from the base gives the expert but for roundings of f32.
#[track_caller]
fn assert_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[track_caller]
fn says(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
}

/// peft trains a copy of the embedding; the output layer stays the base's.
#[test]
fn an_embedding_trained_on_a_tied_base_leaves_the_output_layer() {
    let space = Space::new();
    tied(&space);
    let new = numbers(EMBEDDING, &[ROWS, COLUMNS], 0.125);
    adapter("lora", 2)
        .module(Q, 2, [16, 16])
        .with(new.clone().named(&format!("base_model.model.{EMBEDDING}")))
        .config("modules_to_save", json!(["embed_tokens"]))
        .write(&space);
    merge(&space, ONE, &[]).success();
    assert_near(&values(&space, "merged", EMBEDDING), &new.values());
    assert_eq!(values(&space, "merged", HEAD), values(&space, "base", EMBEDDING));
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], false);
}

/// The output layer of a tied base is the embedding, so what an adapter does to one of the two is that.
#[test]
fn an_output_layer_trained_on_a_tied_base_is_stored_beside_the_embedding() {
    let space = Space::new();
    tied(&space);
    let head = numbers(HEAD, &[ROWS, COLUMNS], 0.25);
    adapter("lora", 2)
        .with(head.clone().named("base_model.model.lm_head.weight"))
        .module(Q, 2, [16, 16])
        .config("modules_to_save", json!(["lm_head"]))
        .write(&space);
    merge(&space, ONE, &[]).success();
    assert_near(&values(&space, "merged", HEAD), &head.values());
    assert_eq!(values(&space, "merged", EMBEDDING), values(&space, "base", EMBEDDING));
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], false);

    // B·A in each element is 0.5 · 0.25 · 2 = 0.25, and the scale is α / r = 4 / 2.
    let a = vec![0.25; 2 * COLUMNS as usize];
    let b = vec![0.5; ROWS as usize * 2];
    adapter("lora", 2)
        .product("lm_head", 2, &a, &b)
        .config("r", json!(2))
        .config("lora_alpha", json!(4))
        .write(&space);
    merge(&space, ONE, &["--force"]).success();
    let embedding = values(&space, "base", EMBEDDING);
    let expected: Vec<f64> = embedding.iter().map(|value| value + 0.5).collect();
    assert_near(&values(&space, "merged", HEAD), &expected);
    assert_eq!(values(&space, "merged", EMBEDDING), embedding);
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], false);
}

/// peft merges what it trained of the embedding into the one tensor; in training only the embedding had it.
#[test]
fn an_update_of_a_tied_embedding_is_told() {
    let space = Space::new();
    tied(&space);
    let embedding = "base_model.model.model.embed_tokens.lora_embedding_";
    let both = adapter("lora", 2)
        .with(numbers(&format!("{embedding}A"), &[2, ROWS], 0.1))
        .with(numbers(&format!("{embedding}B"), &[COLUMNS, 2], 0.1));
    both.write(&space);
    let outcome = check(&space, ONE).success();
    says(&outcome, &["W0618", &format!("updates `{EMBEDDING}`, which is `{HEAD}` too"), "untie"]);
    let both = both.product("lm_head", 2, &[0.25; 2 * COLUMNS as usize], &[0.5; 2 * ROWS as usize]);
    both.config("r", json!(2)).config("lora_alpha", json!(4)).write(&space);
    let outcome = merge(&space, ONE, &[]).success();
    assert!(!outcome.stderr.contains("W0618"), "each has its own: {}", outcome.stderr);
    let base = values(&space, "base", EMBEDDING);
    let expected: Vec<f64> = base.iter().map(|value| value + 0.5).collect();
    assert_near(&values(&space, "merged", HEAD), &expected);
    assert!(values(&space, "merged", EMBEDDING) != base);
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], false);
}

/// Files that hold the output layer beside the embedding that it is tied to: both are one tensor all the same, until
/// the output layer is trained, or one of the two is trained whole.
#[test]
fn an_output_layer_stored_beside_its_embedding_goes_with_it() {
    let space = Space::new();
    tied(&space);
    let stored = read_checkpoint(space.path("base")).tensors[EMBEDDING].clone();
    checkpoint("base").tied().dtype(DType::F32).with(stored.named(HEAD)).write(&space);
    let embedding = values(&space, "base", EMBEDDING);
    let a = vec![0.25; 2 * COLUMNS as usize];
    let b = vec![0.5; ROWS as usize * 2];
    adapter("lora", 2)
        .product("lm_head", 2, &a, &b)
        .config("r", json!(2))
        .config("lora_alpha", json!(4))
        .write(&space);
    assert!(!merge(&space, ONE, &[]).success().stderr.contains("W0618"));
    let expected: Vec<f64> = embedding.iter().map(|value| value + 0.5).collect();
    assert_near(&values(&space, "merged", HEAD), &expected);
    assert_eq!(values(&space, "merged", EMBEDDING), embedding);
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], false);

    let module = "base_model.model.model.embed_tokens.lora_embedding_";
    adapter("lora", 2)
        .with(numbers(&format!("{module}A"), &[2, ROWS], 0.25))
        .with(numbers(&format!("{module}B"), &[COLUMNS, 2], 0.5))
        .write(&space);
    says(&merge(&space, ONE, &["--force"]).success(), &["W0618"]);
    assert!(values(&space, "merged", EMBEDDING) != embedding);
    assert_eq!(values(&space, "merged", EMBEDDING), values(&space, "merged", HEAD));
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], true);

    let new = numbers(EMBEDDING, &[ROWS, COLUMNS], 0.125);
    adapter("lora", 2)
        .module(Q, 2, [16, 16])
        .with(new.clone().named(&format!("base_model.model.{EMBEDDING}")))
        .config("modules_to_save", json!(["embed_tokens"]))
        .write(&space);
    merge(&space, ONE, &["--force"]).success();
    assert_near(&values(&space, "merged", EMBEDDING), &new.values());
    assert_eq!(values(&space, "merged", HEAD), embedding);
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], false);
}

/// peft keeps the base's type, whatever the adapter is stored in.
#[test]
fn what_is_trained_whole_is_written_in_the_type_of_the_base() {
    let space = Space::new();
    tied(&space);
    let shape = [ROWS, COLUMNS];
    let count = (ROWS * COLUMNS) as usize;
    let new = |name: &str, value: f64| {
        Tensor::new(&format!("base_model.model.{name}"), DType::Bf16, &shape, &vec![value; count])
    };
    adapter("lora", 2)
        .module(Q, 2, [16, 16])
        .with(new(EMBEDDING, 0.5))
        .with(new(HEAD, 0.25))
        .config("modules_to_save", json!(["embed_tokens", "lm_head"]))
        .write(&space);
    merge(&space, "merge_method: passthrough\nmodels: [{model: base+lora}]\n", &[]).success();
    let merged = read_checkpoint(space.path("merged")).tensors;
    for (name, value) in [(EMBEDDING, 0.5), (HEAD, 0.25)] {
        assert_eq!(merged[name].dtype, DType::F32, "{name}");
        assert_eq!(merged[name].values(), vec![value; count], "{name}");
    }
}

/// Rows were added or cut in training: the adapter's own are taken, and the config counts them.
#[test]
fn a_vocabulary_resized_in_training_is_the_adapter_s() {
    for rows in [ROWS + 3, ROWS - 2] {
        let space = Space::new();
        base(&space);
        let embedding = numbers(&format!("base_model.model.{EMBEDDING}"), &[rows, COLUMNS], 0.125);
        let head = numbers("base_model.model.lm_head.weight", &[rows, COLUMNS], 0.25);
        let lora = adapter("lora", 2).module(Q, 2, [16, 16]).with(embedding.clone());
        lora.clone().with(head.clone()).write(&space);
        let outcome = merge(&space, ONE, &[]).success();
        says(&outcome, &["W0619"]);
        assert_eq!(values(&space, "merged", EMBEDDING), embedding.values());
        assert_eq!(values(&space, "merged", HEAD), head.values());
        assert_eq!(config(&space, "merged")["vocab_size"], rows);
        // One of the two alone would leave an output layer that does not fit.
        lora.write(&space);
        says(&check(&space, ONE).exits(2), &["E0315", "holds only a part"]);
    }
}

#[test]
fn a_head_that_only_the_adapter_has_is_taken_from_it() {
    let space = Space::new();
    base(&space);
    let score = numbers("base_model.model.score.weight", &[1, COLUMNS], 0.25);
    let lora = adapter("lora", 2).module(Q, 2, [16, 16]).with(score.clone());
    lora.clone().config("modules_to_save", json!(["classifier", "score"])).write(&space);
    says(&merge(&space, ONE, &[]).success(), &["W0617", "score.weight"]);
    assert_eq!(values(&space, "merged", "score.weight"), score.values());
    // A tensor that the configuration does not name is a mistake.
    lora.write(&space);
    says(&check(&space, ONE).exits(2), &["E0314", "score.weight"]);
}

#[test]
fn weights_trained_beside_an_adapter_are_taken_in_and_others_told() {
    let space = Space::new();
    let connector = Tensor::new("connector.weight", DType::F32, &[2, 2], &[0.0; 4]);
    checkpoint("base").dtype(DType::F32).with(connector).write(&space);
    adapter("lora", 2).module(Q, 2, [16, 16]).write(&space);
    let trained = Tensor::new(
        "base_model.model.connector.weight",
        DType::F32,
        &[2, 2],
        &[1.0, 2.0, 3.0, 4.0],
    );
    space.write("lora/non_lora_trainables.bin", torch_bytes(&[&trained]));
    space.write("lora/training_args.bin", "state");
    space.write("lora/v_head.bin", "weights");
    let outcome = merge(&space, ONE, &[]).success();
    says(&outcome, &["W0608", "v_head.bin"]);
    assert!(!outcome.stderr.contains("training_args"), "{}", outcome.stderr);
    assert_eq!(values(&space, "merged", "connector.weight"), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn an_adapter_without_effect_is_told() {
    let space = Space::new();
    base(&space);
    adapter("lora", 2).product(Q, 2, &[0.5; 32], &[0.0; 32]).write(&space);
    says(&check(&space, ONE).success(), &["W0620", "changes nothing"]);
    adapter("lora", 2).product(Q, 2, &[0.5; 32], &[0.5; 32]).write(&space);
    assert!(!check(&space, ONE).success().stderr.contains("W0620"));
}

#[test]
fn parts_that_were_not_gathered_are_told_for_what_they_are() {
    let space = Space::new();
    base(&space);
    let empty = |name: &str| Tensor::new(name, DType::F32, &[0], &[]);
    adapter("lora", 2)
        .with(empty(&format!("base_model.model.{Q}.lora_A.weight")))
        .with(empty(&format!("base_model.model.{Q}.lora_B.weight")))
        .write(&space);
    says(&check(&space, ONE).exits(1), &["E0120", "ZeRO-3"]);
    checkpoint("hollow").dtype(DType::F32).without(EMBEDDING).with(empty(EMBEDDING)).write(&space);
    let two = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}, \
               {model: hollow, parameters: {weight: 1}}]\n";
    let outcome = check(&space, two).exits(1);
    says(&outcome, &["E0120", EMBEDDING]);
    assert!(!outcome.stderr.contains("one architecture"), "{}", outcome.stderr);
}

/// What frameworks put before and between names is no part of them.
#[test]
fn wrapped_names_are_read_without_their_wrappers() {
    let space = Space::new();
    base(&space);
    let lora = |name: &str| {
        let side =
            |side: &str, shape: &[u64]| numbers(&format!("{name}.lora_{side}.weight"), shape, 0.1);
        adapter("lora", 2).with(side("A", &[2, 16])).with(side("B", &[16, 2]))
    };
    lora(&format!("base_model.model.{Q}")).write(&space);
    merge(&space, ONE, &[]).success();
    let expected = values(&space, "merged", &format!("{Q}.weight"));
    for name in [
        format!("base_model.model._orig_mod.{Q}"),
        format!("module.base_model.model.{Q}"),
        format!("base_model.model.{}", Q.replace("layers.0", "_fsdp_wrapped_module.layers.0")),
    ] {
        lora(&name).write(&space);
        merge(&space, ONE, &["--force"]).success();
        assert_eq!(values(&space, "merged", &format!("{Q}.weight")), expected, "{name}");
    }
    for prefix in ["_orig_mod.", "module."] {
        let folder = checkpoint("wrapped").dtype(DType::F32).prefix(prefix);
        folder.write(&space);
        let two = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}, \
                   {model: wrapped, parameters: {weight: 1}}]\n";
        says(&check(&space, two).success(), &["W0623", prefix]);
    }
}

/// A model may be saved in the folder of its adapter, and an adapter beside the base's config.json: the weights
/// tell which it is.
#[test]
fn the_weights_of_a_folder_say_whether_it_is_an_adapter() {
    let space = Space::new();
    base(&space);
    checkpoint("both").expert(1, 0.01).dtype(DType::F32).write(&space);
    adapter("lora", 2).module(Q, 2, [16, 16]).write(&space);
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        space.write(format!("both/{file}"), space.read(format!("lora/{file}")));
    }
    let two = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 0.5}}, \
               {model: both, parameters: {weight: 0.5}}]\n";
    says(&merge(&space, two, &[]).success(), &["W0608", "adapter_model.safetensors"]);
    let names = read_checkpoint(space.path("merged"));
    assert!(names.names().iter().all(|name| !name.contains("lora_")));
    let copy = "merge_method: passthrough\nmodels: [{model: both}]\n";
    merge(&space, copy, &["--force"]).success();
    assert!(!space.exists("merged/adapter_config.json"));

    space.write("lora/config.json", space.read("base/config.json"));
    let alone = ONE.replace("base+lora", "lora");
    merge(&space, &alone, &["--force"]).success();
    let changed = values(&space, "merged", &format!("{Q}.weight"));
    assert_ne!(changed, values(&space, "base", &format!("{Q}.weight")));
}

#[test]
fn weights_that_are_left_out_are_told() {
    let space = Space::new();
    base(&space);
    let copy = "merge_method: passthrough\nmodels: [{model: base}]\n";
    let weights = space.read("base/model.safetensors");
    space.write("base/model.fp16.safetensors", &weights);
    says(&check(&space, copy).success(), &["W0608", "model.fp16.safetensors"]);

    let space = Space::new();
    base(&space);
    space.write("base/extra.safetensors", &weights);
    let map: serde_json::Map<String, Value> = read_checkpoint(space.path("base"))
        .names()
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| ((*name).to_owned(), json!("model.safetensors")))
        .collect();
    let index = json!({"metadata": {}, "weight_map": map});
    space.write("base/model.safetensors.index.json", index.to_string());
    says(&check(&space, copy).success(), &["W0608", "extra.safetensors"]);

    let space = Space::new();
    base(&space);
    std::fs::rename(
        space.path("base/model.safetensors"),
        space.path("base/model-00001-of-00002.safetensors"),
    )
    .unwrap();
    says(&check(&space, copy).exits(1), &["E0103", "model-00002-of-00002.safetensors"]);
}

#[test]
fn an_untied_model_without_its_output_layer_is_told() {
    let space = Space::new();
    base(&space);
    let lost = |name: &str| checkpoint(name).dtype(DType::F32).without(HEAD).write(&space);
    lost("a");
    lost("b");
    let two = |one: &str, other: &str| {
        format!(
            "merge_method: linear\nmodels: [{{model: {one}, parameters: {{weight: 1}}}}, \
             {{model: {other}, parameters: {{weight: 1}}}}]\n"
        )
    };
    let outcome = check(&space, &two("base", "a")).exits(2);
    says(&outcome, &["E0309", HEAD, "is no embedding"]);
    assert!(!outcome.stderr.contains("W0603"), "{}", outcome.stderr);
    says(&check(&space, &two("a", "b")).success(), &["W0621", HEAD]);
}

#[test]
fn configs_that_differ_behind_equal_shapes_are_told() {
    let space = Space::new();
    checkpoint("base").config("rope_theta", json!(10000.0)).write(&space);
    let two = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}, \
               {model: other, parameters: {weight: 1}}]\n";
    checkpoint("other").config("rope_theta", json!(10000)).write(&space);
    assert!(!check(&space, two).success().stderr.contains("W0616"));
    checkpoint("other").config("rope_theta", json!(1000000.0)).write(&space);
    says(&check(&space, two).success(), &["W0616", "rope_theta", "1000000"]);
}

#[test]
fn a_config_does_not_describe_a_quantization_that_is_gone() {
    let space = Space::new();
    let method = json!({"quant_method": "bitsandbytes"});
    checkpoint("base").config("quantization_config", method).write(&space);
    let copy = "merge_method: passthrough\nmodels: [{model: base}]\n";
    says(&merge(&space, copy, &[]).success(), &["W0622"]);
    assert!(config(&space, "merged").get("quantization_config").is_none());
}

/// Config and names of a model with these layers, each with a norm of one number and one more tensor of its kind.
fn hybrid(space: &Space, kinds: &[&str], config: Value) {
    let mut builder = checkpoint("hybrid").layers(0);
    for (key, value) in config.as_object().unwrap() {
        builder = builder.config(key, value.clone());
    }
    for (layer, kind) in kinds.iter().enumerate() {
        for end in ["norm", *kind] {
            let name = format!("model.layers.{layer}.{end}.weight");
            builder = builder.with(Tensor::new(&name, DType::F32, &[1], &[layer as f64]));
        }
    }
    builder.write(space);
}

fn stacked(ranges: &[(u64, u64)]) -> String {
    let slices = ranges.iter().map(|(start, end)| {
        format!("  - sources: [{{model: hybrid, layer_range: [{start}, {end}]}}]\n")
    });
    format!("merge_method: passthrough\nslices:\n{}", slices.collect::<String>())
}

/// What a config says of single layers follows them: lists, texts with a letter each, maps by number.
#[test]
fn configs_follow_layers_that_are_stacked_anew() {
    let space = Space::new();
    let config = json!({
        "num_hidden_layers": 4,
        "hybrid_override_pattern": "M*M*",
        "per_layer_config": {"1": {"head_dim": 8}},
    });
    hybrid(&space, &["m", "a", "m", "a"], config);
    merge(&space, &stacked(&[(0, 2), (1, 2), (2, 4)]), &[]).success();
    let found = self::config(&space, "merged");
    assert_eq!(found["num_hidden_layers"], 5);
    assert_eq!(found["hybrid_override_pattern"], "M**M*");
    let eight = json!({"head_dim": 8});
    assert_eq!(found["per_layer_config"], json!({"1": eight, "2": eight}));
}

/// Where neither a list nor a period of a known family says of which kind a layer is, its position does.
#[test]
fn layers_of_another_kind_than_their_position_are_refused() {
    let space = Space::new();
    hybrid(&space, &["m", "a", "m", "a"], json!({"num_hidden_layers": 4}));
    says(&check(&space, &stacked(&[(0, 2), (3, 4)])).exits(2), &["E0322", "model.layers."]);
    check(&space, &stacked(&[(2, 4), (0, 2)])).success();
    says(&check(&space, &stacked(&[(0, 4), (0, 2)])).exits(2), &["E0322", "layer 4"]);
    // By the period of its family the list is written.
    let period = json!({
        "num_hidden_layers": 4, "model_type": "qwen3_next", "full_attention_interval": 2,
    });
    hybrid(&space, &["m", "a", "m", "a"], period);
    merge(&space, &stacked(&[(0, 2), (3, 4)]), &[]).success();
    let types = json!(["linear_attention", "full_attention", "full_attention"]);
    assert_eq!(config(&space, "merged")["layer_types"], types);
}

#[test]
fn stacks_that_a_config_cannot_follow_are_refused() {
    let space = Space::new();
    hybrid(&space, &["m"; 4], json!({"num_hidden_layers": 5}));
    says(&check(&space, &stacked(&[(0, 2)])).exits(2), &["E0321", "does not count"]);
    let packed = json!({"num_hidden_layers": 4, "hidden_size_per_layer_input": 8});
    hybrid(&space, &["m"; 4], packed);
    says(&check(&space, &stacked(&[(0, 2)])).exits(2), &["E0323", "hidden_size_per_layer_input"]);
}

/// A tensor with a part for each layer does not follow, and a layer of another shape is of another kind.
#[test]
fn shapes_tell_kinds_of_layers_too() {
    let space = Space::new();
    let wide = |layers: &[usize]| {
        let mut builder = checkpoint("hybrid").layers(0).config("num_hidden_layers", json!(4));
        for (layer, width) in layers.iter().enumerate() {
            let name = format!("model.layers.{layer}.up.weight");
            let values = vec![layer as f64; *width];
            builder = builder.with(Tensor::new(&name, DType::F32, &[*width as u64], &values));
        }
        builder
    };
    wide(&[1, 2, 1, 2]).write(&space);
    says(&check(&space, &stacked(&[(0, 1), (2, 3)])).exits(2), &["E0322", "of shape [1]"]);
    merge(&space, &stacked(&[(0, 2), (2, 4)]), &[]).success();
    let head = Tensor::new("contact_head.regression.weight", DType::F32, &[1, 4], &[0.0; 4]);
    wide(&[1; 4]).with(head).write(&space);
    says(&check(&space, &stacked(&[(0, 2)])).exits(2), &["E0323", "contact_head"]);
}

/// Layers that slices leave out belong to a module that the recipe lists; those of another stack do not.
#[test]
fn layers_left_out_are_of_a_module_that_is_listed() {
    let space = Space::new();
    hybrid(&space, &["m"; 4], json!({"num_hidden_layers": 4}));
    let listed = "merge_method: passthrough\nmodules:\n  model.layers:\n    slices:\n    \
        - sources: [{model: hybrid, layer_range: [0, 2]}]\n";
    // The embedding, the last norm and the output layer, and none of the layers 2 and 3.
    says(&check(&space, listed).success(), &["W0606", ": 3 tensors belong to modules"]);
    let mut others = checkpoint("hybrid").layers(0).config("num_hidden_layers", json!(1));
    for name in ["model.layers.0.m.weight", "vision.blocks.0.m.weight"] {
        others = others.with(Tensor::new(name, DType::F32, &[1], &[0.0]));
    }
    others.write(&space);
    let listed = listed.replace("[0, 2]", "[0, 1]");
    says(&check(&space, &listed), &["W0606", ": 4 tensors belong to modules"]);
}

/// Layers of multi-token prediction have the numbers after the last layer, and are none of the stack.
#[test]
fn predictors_of_further_tokens_are_no_layers() {
    let space = Space::new();
    let config = json!({"num_hidden_layers": 2, "num_nextn_predict_layers": 1});
    hybrid(&space, &["m", "m", "eh_proj"], config);
    merge(&space, &stacked(&[(0, 2), (1, 2)]), &[]).success();
    let found = self::config(&space, "merged");
    assert_eq!(
        (&found["num_hidden_layers"], &found["num_nextn_predict_layers"]),
        (&json!(3), &json!(0))
    );
    says(&check(&space, &stacked(&[(0, 3)])).success(), &[]);
    says(&check(&space, &stacked(&[(1, 3)])).exits(2), &["E0304", "predicts further tokens"]);
}

#[test]
fn ranges_of_one_model_are_merged_with_each_other() {
    let space = Space::new();
    hybrid(&space, &["m"; 4], json!({"num_hidden_layers": 4}));
    let recipe = |second: &str| {
        format!(
            "merge_method: linear\nslices:\n  - sources:\n    \
             - {{model: hybrid, layer_range: [0, 1], parameters: {{weight: 0.5}}}}\n    \
             - {{model: hybrid, layer_range: {second}, parameters: {{weight: 0.5}}}}\n"
        )
    };
    merge(&space, &recipe("[3, 4]"), &[]).success();
    assert_eq!(values(&space, "merged", "model.layers.0.norm.weight"), [1.5]);
    says(&check(&space, &recipe("[0, 1]")).exits(2), &["E0311"]);
}

/// Versions of transformers call the same parts differently; GPT-2's masks are stored by some.
#[test]
fn models_under_the_names_of_another_version_are_brought_together() {
    let space = Space::new();
    let tensor = |name: &str, value: f64| Tensor::new(name, DType::F32, &[1], &[value]);
    let config =
        |name: &str| checkpoint(name).layers(0).without("embed").without("norm").without("lm_head");
    config("old")
        .with(tensor("visual.blocks.0.norm1.weight", 1.0))
        .with(tensor("model.layers.0.norm.weight", 2.0))
        .write(&space);
    config("new")
        .with(tensor("model.visual.blocks.0.norm1.weight", 3.0))
        .with(tensor("model.language_model.layers.0.norm.weight", 4.0))
        .write(&space);
    let two = "merge_method: linear\nmodels: [{model: old, parameters: {weight: 0.5}}, \
               {model: new, parameters: {weight: 0.5}}]\n";
    says(&merge(&space, two, &[]).success(), &["W0625"]);
    assert_eq!(values(&space, "merged", "visual.blocks.0.norm1.weight"), [2.0]);
    assert_eq!(values(&space, "merged", "model.layers.0.norm.weight"), [3.0]);
}

#[test]
fn a_model_around_which_an_adapter_stands_is_refused() {
    let space = Space::new();
    let name = |part: &str| format!("base_model.model.model.layers.0.q_proj.{part}.weight");
    let tensor = |name: &str| Tensor::new(name, DType::F32, &[1, 1], &[1.0]);
    checkpoint("wrapped")
        .with(tensor(&name("base_layer")))
        .with(tensor(&name("lora_A.default")))
        .with(tensor(&name("lora_B.default")))
        .write(&space);
    let copy = "merge_method: passthrough\nmodels: [{model: wrapped}]\n";
    says(&check(&space, copy).exits(1), &["E0121", "base_model.model."]);
}

#[test]
fn counters_of_batches_are_the_base_s() {
    let space = Space::new();
    let counter = |value: f64| Tensor::new("bn.num_batches_tracked", DType::I64, &[], &[value]);
    checkpoint("base").with(counter(3.0)).write(&space);
    checkpoint("other").with(counter(5.0)).write(&space);
    let two = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 0.5}}, \
               {model: other, parameters: {weight: 0.5}}]\n";
    merge(&space, two, &[]).success();
    assert_eq!(values(&space, "merged", "bn.num_batches_tracked"), [3.0]);
}

#[test]
fn other_ids_of_the_same_tokens_are_told() {
    let space = Space::new();
    checkpoint("base").words(&["a", "b", "c"]).write(&space);
    checkpoint("other").words(&["a", "c", "b"]).write(&space);
    let two = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 0.5}}, \
               {model: other, parameters: {weight: 0.5}}]\n";
    says(&check(&space, two).success(), &["W0624", "\"b\" is"]);
    checkpoint("other").words(&["a", "b", "c"]).write(&space);
    assert!(!check(&space, two).success().stderr.contains("W0624"));
}

#[test]
fn a_path_with_a_plus_is_a_path() {
    let space = Space::new();
    checkpoint("run+sft").write(&space);
    check(&space, "merge_method: passthrough\nmodels: [{model: run+sft}]\n").success();
}

/// Older files of T5 store its embedding under three names more, newer ones under one.
#[test]
fn copies_under_second_names_are_the_tensors_that_they_are() {
    let space = Space::new();
    let tensor = |name: &str, value: f64| Tensor::new(name, DType::F32, &[1], &[value]);
    let bare = |name: &str| {
        checkpoint(name)
            .layers(0)
            .without("embed")
            .without("norm")
            .without("lm_head")
            .config("tie_word_embeddings", json!(true))
    };
    bare("new").with(tensor("shared.weight", 1.0)).write(&space);
    let copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "shared.weight"];
    let old = copies.iter().fold(bare("old"), |built, name| built.with(tensor(name, 3.0)));
    old.write(&space);
    let two = |one: &str, other: &str| {
        format!(
            "merge_method: linear\nmodels: [{{model: {one}, parameters: {{weight: 0.5}}}}, \
             {{model: {other}, parameters: {{weight: 0.5}}}}]\n"
        )
    };
    merge(&space, &two("new", "old"), &[]).success();
    assert_eq!(read_checkpoint(space.path("merged")).names(), ["shared.weight"]);
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], true);
    merge(&space, &two("old", "new"), &["--force"]).success();
    for name in copies {
        assert_eq!(values(&space, "merged", name), [2.0], "{name}");
    }
    assert_eq!(config(&space, "merged")["tie_word_embeddings"], true);
}
