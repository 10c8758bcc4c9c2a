//! Results that are written as adapters, read back as `base+adapter`.
//!
//! Catches an adapter that stands for another model than the merge would have written, an error that is
//! not the one that was made, and a rank that cannot be and is taken all the same.

use std::collections::BTreeMap;

use mixdown_kit::{
    DType, Outcome, Space, Tensor, Tolerance, adapter, assert_same_tensors, checkpoint, mixdown,
    read_checkpoint, read_safetensors,
};
use mixdown_suite::{merge, refusal};
use serde_json::Value;

const MODULES: [(&str, [u64; 2]); 3] = [
    ("model.layers.0.self_attn.q_proj", [16, 16]),
    ("model.layers.1.self_attn.v_proj", [8, 16]),
    ("model.layers.1.mlp.up_proj", [24, 16]),
];

/// `base` with the adapters `one` and `two`, which share some of their modules.
fn with_adapters() -> Space {
    let space = Space::new();
    checkpoint("base").dtype(DType::F32).write(&space);
    let built = |name: &str, rank: u64, modules: &[usize]| {
        let mut builder = adapter(name, rank);
        for &module in modules {
            let (name, shape) = MODULES[module];
            // Values depend on the module and the rank, so that the two differ.
            builder = builder.module(name, rank, shape);
        }
        builder.write(&space);
    };
    built("one", 2, &[0, 1]);
    built("two", 3, &[0, 2]);
    space
}

fn tensors(space: &Space, folder: &str) -> BTreeMap<String, Tensor> {
    read_checkpoint(space.path(folder)).tensors
}

/// The model that the base and an adapter stand for.
fn applied(space: &Space, adapter: &str) -> BTreeMap<String, Tensor> {
    let recipe = format!("merge_method: passthrough\nmodels: [{{model: base+{adapter}}}]\n");
    space.write("applied.yaml", recipe);
    let out = format!("applied-{adapter}");
    mixdown(space, ["merge", "applied.yaml", "--out", &out]).success();
    tensors(space, &out)
}

/// Merges to a model, and to an adapter; both must stand for the same weights.
fn check_exact(space: &Space, recipe: &str) -> Outcome {
    merge(space, recipe, &[]).success();
    let expected = tensors(space, "merged");
    space.write("adapter.yaml", format!("{recipe}output: {{as: adapter}}\n"));
    let outcome = mixdown(space, ["merge", "adapter.yaml", "--out", "merged-lora"]).success();
    let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-6);
    assert_same_tensors("adapter", &expected, &applied(space, "merged-lora"), tolerance);
    assert!(outcome.stderr.contains("all of them exact"), "{}", outcome.stderr);
    outcome
}

const TWO: &str = "base_model: base\nmodels:\n  \
                   - {model: base+one, parameters: {weight: 0.5}}\n  \
                   - {model: base+two, parameters: {weight: 0.75}}\ndtype: float32\n";

#[test]
fn sums_of_adapters_are_exact() {
    let space = with_adapters();
    check_exact(&space, &format!("merge_method: task_arithmetic\n{TWO}"));
    let files: Vec<String> =
        space.files_under("merged-lora").into_iter().map(|(name, _)| name).collect();
    let expected =
        ["README.md", "adapter_config.json", "adapter_model.safetensors", "mixdown-manifest.json"];
    assert_eq!(files, expected);
    let stored = read_safetensors(space.path("merged-lora/adapter_model.safetensors"));
    let shape = |module: &str, side: &str| {
        stored[&format!("base_model.model.{module}.lora_{side}.weight")].shape.clone()
    };
    assert_eq!(stored.len(), 6);
    assert_eq!(shape(MODULES[0].0, "A"), [5, 16], "the ranks of both");
    assert_eq!(shape(MODULES[1].0, "B"), [8, 2]);
    let config: Value =
        serde_json::from_slice(&space.read("merged-lora/adapter_config.json")).unwrap();
    assert_eq!(config["base_model_name_or_path"], "base");
    assert_eq!(config["rank_pattern"].as_object().unwrap().len(), 2);
    mixdown(&space, ["verify", "merged-lora"]).success();
}

#[test]
fn results_of_matrix_ops_on_adapters_are_exact() {
    let space = with_adapters();
    let method = "merge_method: optmerge\nparameters: {tuning: lora, rest: base}\n";
    check_exact(&space, &format!("{method}{TWO}"));
}

/// peft stores an embedding beside its update, so that both count: the one in place of the base's, and the
/// other added to it.
#[test]
fn an_embedding_is_replaced_and_updated() {
    let space = Space::new();
    checkpoint("base").dtype(DType::F32).write(&space);
    let (rows, columns, rank) = (24, 16, 2);
    let number = |seed: usize, index: usize| ((index * 7 + seed) % 13) as f64 * 0.125 - 0.75;
    let numbers = |seed: usize, count: usize| -> Vec<f64> {
        (0..count).map(|index| number(seed, index)).collect()
    };
    let (embedding, a, b) =
        (numbers(1, rows * columns), numbers(2, rank * rows), numbers(3, columns * rank));
    let module = "base_model.model.model.embed_tokens";
    let named = |part: &str, shape: [usize; 2], values: &[f64]| {
        let shape = shape.map(|side| side as u64);
        Tensor::new(&format!("{module}.{part}"), DType::F32, &shape, values)
    };
    adapter("tokens", rank as u64)
        .with(named("base_layer.weight", [rows, columns], &embedding))
        .with(named("lora_embedding_A", [rank, rows], &a))
        .with(named("lora_embedding_B", [columns, rank], &b))
        .write(&space);
    // α is twice the rank.
    let expected: Vec<f64> = (0..rows * columns)
        .map(|element| {
            let (row, column) = (element / columns, element % columns);
            let product: f64 = (0..rank).map(|k| b[column * rank + k] * a[k * rows + row]).sum();
            embedding[element] + 2.0 * product
        })
        .collect();
    let found = |tensors: &BTreeMap<String, Tensor>| {
        let found = tensors["model.embed_tokens.weight"].values();
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    };
    found(&applied(&space, "tokens"));
    let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: base+tokens, parameters: {weight: 1}}]\ndtype: float32\n";
    merge(&space, recipe, &[]).success();
    found(&tensors(&space, "merged"));
}

#[test]
fn the_strict_form_writes_adapters_too() {
    let space = with_adapters();
    let recipe = "mixdown: 1\nmodels: {base: base, one: base+one, two: base+two}\nbase: base\n\
                  declare: {rank: {type: integer, default: 4}}\n\
                  method: task_arithmetic\nparameters: {weight: 0.5}\n\
                  output: {as: adapter, rank: $rank}\n";
    space.write("strict.yaml", recipe);
    let report = ["merge", "strict.yaml", "--out", "cut", "--json"];
    let outcome = mixdown(&space, report).success();
    let done: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    let updates = done["adapter"].as_array().unwrap();
    assert_eq!(updates.len(), 3);
    for update in updates {
        let is_cut = update["tensor"] == format!("{}.weight", MODULES[0].0);
        assert_eq!(update["error"].as_f64().unwrap() > 0.0, is_cut, "{update}");
        assert_eq!(update["rank"] == 4, is_cut, "{update}");
    }
}

fn extract(space: &Space, rank: &str, more: &[&str]) -> Outcome {
    let command = ["extract", "expert", "base", "--rank", rank, "--out", "lora"];
    mixdown(space, command.iter().chain(more))
}

/// A base and an expert, of which the first norm is as in the base.
fn with_expert() -> Space {
    let space = Space::new();
    let base = checkpoint("base").dtype(DType::F32);
    let same = base.tensors().into_iter().find(|tensor| tensor.name == "model.norm.weight");
    base.write(&space);
    let expert = checkpoint("expert").dtype(DType::F32).expert(11, 0.004);
    expert.without("model.norm.weight").with(same.unwrap()).write(&space);
    space
}

#[test]
fn an_adapter_of_full_rank_is_the_model() {
    let space = with_expert();
    let outcome = extract(&space, "16", &[]).success();
    let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-6);
    let found = applied(&space, "lora");
    assert_same_tensors("extracted", &tensors(&space, "expert"), &found, tolerance);
    assert!(!outcome.stdout.contains("model.norm.weight"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("model.embed_tokens.weight"), "{}", outcome.stdout);
}

/// Trainers write f32 beside a base in bf16: what is equal in value is equal.
#[test]
fn what_is_equal_in_another_type_is_not_in_the_adapter() {
    let space = Space::new();
    let base = checkpoint("base").dtype(DType::Bf16);
    base.write(&space);
    let changed = "model.layers.1.mlp.up_proj.weight";
    let wide = base.tensors().into_iter().map(|tensor| {
        let mut values = tensor.values();
        values[3] += if tensor.name == changed { 0.25 } else { 0.0 };
        Tensor::new(&tensor.name, DType::F32, &tensor.shape, &values)
    });
    let mut expert = checkpoint("expert").dtype(DType::F32);
    for tensor in wide.collect::<Vec<_>>() {
        expert = expert.without(&tensor.name).with(tensor);
    }
    expert.write(&space);
    let outcome = extract(&space, "2", &["--json"]).success();
    let done: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    let updates = done["adapter"].as_array().unwrap();
    assert_eq!(updates.len(), 1, "{updates:?}");
    assert_eq!(updates[0]["tensor"], changed);
    assert_eq!(stored_tensors(&space), 2, "two factors and nothing whole");
}

/// Tensors in the adapter that was extracted.
fn stored_tensors(space: &Space) -> usize {
    let bytes = space.read("lora/adapter_model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header.as_object().unwrap().keys().filter(|name| *name != "__metadata__").count()
}

/// peft unties the output layer from an embedding that an adapter stores.
#[test]
fn an_embedding_that_is_the_output_layer_too_is_told() {
    let space = Space::new();
    checkpoint("base").tied().dtype(DType::F32).write(&space);
    checkpoint("expert").tied().dtype(DType::F32).expert(11, 0.004).write(&space);
    let outcome = extract(&space, "2", &[]).success();
    assert!(outcome.stderr.contains("W0615"), "{}", outcome.stderr);
    assert!(!extract(&with_expert(), "2", &[]).success().stderr.contains("W0615"));
}

/// ‖a − b‖² of two tensors.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    a.values().iter().zip(b.values()).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[test]
fn the_error_that_is_told_is_the_one_that_is_made() {
    let space = with_expert();
    let outcome = extract(&space, "3", &["--json", "--threads", "2"]).success();
    let done: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    let (base, expert) = (tensors(&space, "base"), tensors(&space, "expert"));
    let found = applied(&space, "lora");
    let mut cut = 0;
    for update in done["adapter"].as_array().unwrap() {
        let name = update["tensor"].as_str().unwrap();
        let told = update["error"].as_f64().unwrap();
        let made = distance(&expert[name], &found[name]) / distance(&expert[name], &base[name]);
        assert!((told - made.sqrt()).abs() < 1e-4, "{name}: told {told}, made {}", made.sqrt());
        cut += usize::from(update["rank"] == 3);
    }
    assert_eq!(cut, 15, "seven linear layers twice, and the output layer");
}

/// The same adapter whatever the threads, the memory and the store.
#[test]
fn adapters_have_the_same_bytes() {
    let space = with_expert();
    let read = || space.read("lora/adapter_model.safetensors");
    extract(&space, "5", &[]).success();
    let first = read();
    for more in [["--threads", "1"], ["--memory", "40MB"]] {
        extract(&space, "5", &[more[0], more[1], "--force"]).success();
        assert_eq!(read(), first, "{more:?}");
    }
}

#[test]
fn ranks_that_cannot_be_are_refused() {
    let space = with_adapters();
    checkpoint("a").dtype(DType::F32).expert(11, 0.004).write(&space);
    let recipe = |output: &str| {
        format!(
            "merge_method: task_arithmetic\nbase_model: base\n\
             models: [{{model: a, parameters: {{weight: 1}}}}]\noutput: {output}\n"
        )
    };
    let told = refusal(&space, &recipe("{as: adapter, rank: 0}"), &[], 2);
    assert!(told.contains("`rank` must be a whole number from 1, found 0"), "{told}");
    let told = refusal(&space, &recipe("{as: adapter, rank: 17}"), &[], 2);
    assert!(told.contains("rank 17 is above the smaller side of every matrix"), "{told}");
    assert!(told.contains("use a rank of at most 16"), "{told}");
    let told = refusal(&space, &recipe("{as: adapter}"), &[], 2);
    assert!(told.contains("is not of a bounded rank"), "{told}");
    assert!(told.contains("output: {as: adapter, rank: 16}"), "{told}");
    assert!(told.contains("and 12 more tensors"), "{told}");
    let told = refusal(&space, &recipe("{as: model}"), &[], 2);
    assert!(told.contains("`as` must be one of `adapter`"), "{told}");
    let told = refusal(&space, &recipe("base + 1"), &[], 2);
    assert!(told.contains("begin the file with `mixdown: 1`"), "{told}");
    let out = ["extract", "a", "base", "--rank", "0", "--out", "lora"];
    mixdown(&space, out).exits(2);
    let out = ["extract", "a", "base", "--rank", "99", "--out", "lora"];
    assert!(mixdown(&space, out).exits(2).stderr.contains("use a rank of at most 16"));
}

#[test]
fn what_an_adapter_cannot_be_is_refused() {
    let space = with_adapters();
    checkpoint("a").dtype(DType::F32).expert(11, 0.004).write(&space);
    let ties = "merge_method: ties\nbase_model: base\n\
                models: [{model: a, parameters: {weight: 1, density: 0.5}}]\n\
                parameters: {scope: model}\noutput: {as: adapter, rank: 4}\n";
    let told = refusal(&space, ties, &[], 2);
    assert!(told.contains("depends on other tensors"), "{told}");
    assert!(told.contains("`mixdown extract`"), "{told}");
    let without_base = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n\
                        output: {as: adapter, rank: 4}\n";
    let told = refusal(&space, without_base, &[], 2);
    assert!(told.contains("an adapter is on the recipe's base, and there is none"), "{told}");
    let stacked = "merge_method: passthrough\nbase_model: base\n\
                   slices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n\
                   output: {as: adapter, rank: 4}\n";
    let told = refusal(&space, stacked, &[], 2);
    assert!(told.contains("an adapter cannot stack layers anew"), "{told}");
    checkpoint("copy").dtype(DType::F32).write(&space);
    let out = ["extract", "copy", "base", "--rank", "4", "--out", "lora"];
    let told = mixdown(&space, out).exits(2).stderr;
    assert!(told.contains("no tensor of the model differs from the base"), "{told}");
}

/// peft stores an output layer that has an update whole beside it, though nothing else of it was trained.
#[test]
fn a_stored_copy_of_the_base_is_no_change() {
    let space = with_adapters();
    let head = tensors(&space, "base")["lm_head.weight"].clone();
    let shape = [head.shape[0], head.shape[1]];
    let stored = |tensor: &Tensor| {
        let name = "base_model.model.lm_head.base_layer.weight";
        Tensor::new(name, DType::F32, &shape, &tensor.values())
    };
    adapter("head", 2).module("lm_head", 2, shape).with(stored(&head)).write(&space);
    let recipe = |name: &str| {
        format!(
            "merge_method: task_arithmetic\nbase_model: base\nmodels: [{{model: base+{name}, parameters: {{weight: 0.5}}}}]\ndtype: float32\n"
        )
    };
    check_exact(&space, &recipe("head"));
    // One number more makes it a change of full rank.
    let mut values = head.values();
    values[3] += 1.0;
    let name = "base_model.model.lm_head.base_layer.weight";
    let other = Tensor::new(name, DType::F32, &shape, &values);
    adapter("changed", 2).module("lm_head", 2, shape).with(other).write(&space);
    space.write("adapter.yaml", format!("{}output: {{as: adapter}}\n", recipe("changed")));
    let outcome = mixdown(&space, ["merge", "adapter.yaml", "--out", "refused"]);
    assert!(outcome.stderr.contains("not of a bounded rank"), "{}", outcome.stderr);
}

/// Both are what peft needs to load an adapter as it is meant: the wrapper of causal models for these alone,
/// and a bias beside an update that does not make its layer a whole one.
#[test]
fn biases_and_classes_are_as_peft_loads_them() {
    let space = Space::new();
    let bias = |values: [f64; 8]| {
        Tensor::new("model.layers.0.self_attn.k_proj.bias", DType::F32, &[8], &values)
    };
    let base = || checkpoint("base").dtype(DType::F32);
    let class = |name: &str| serde_json::json!([name]);
    base().config("architectures", class("LlamaModel")).with(bias([0.0; 8])).write(&space);
    checkpoint("tuned").dtype(DType::F32).expert(7, 0.1).with(bias([0.5; 8])).write(&space);
    mixdown(&space, ["extract", "tuned", "base", "--rank", "16", "--out", "out"]).success();
    let config: Value = serde_json::from_slice(&space.read("out/adapter_config.json")).unwrap();
    assert_eq!((&config["bias"], &config["task_type"]), (&Value::from("lora_only"), &Value::Null));
    let stored = read_safetensors(space.path("out/adapter_model.safetensors"));
    let module = "base_model.model.model.layers.0.self_attn.k_proj";
    assert!(stored.contains_key(&format!("{module}.base_layer.bias")), "{:?}", stored.keys());
    assert!(stored.contains_key(&format!("{module}.lora_A.weight")));
    let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-5);
    let expected = tensors(&space, "tuned");
    space.write("back/adapter_config.json", space.read("out/adapter_config.json"));
    space.write("back/adapter_model.safetensors", space.read("out/adapter_model.safetensors"));
    assert_same_tensors("back", &expected, &applied(&space, "back"), tolerance);
}

/// What a command cannot be told is no help.
#[test]
fn extract_speaks_of_extract() {
    let space = Space::new();
    checkpoint("base").dtype(DType::F32).write(&space);
    let more = Tensor::new("model.layers.0.extra.weight", DType::F32, &[2, 2], &[1.0; 4]);
    checkpoint("tuned").dtype(DType::F32).expert(7, 0.1).with(more).write(&space);
    let outcome = mixdown(&space, ["extract", "tuned", "base", "--rank", "4", "--out", "out"]);
    assert_eq!(outcome.status, Some(2));
    for word in ["extract:", "output:", "drop: true", "rule"] {
        assert!(!outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
    assert!(outcome.stderr.contains("leave the tensor out of the model"), "{}", outcome.stderr);
}

#[test]
fn the_tokenizer_of_a_single_adapter_is_taken() {
    let space = with_adapters();
    space.write("base/tokenizer.json", "{\"of\": \"base\"}");
    space.write("base/merges.txt", "of base");
    space.write("one/tokenizer.json", "{\"of\": \"one\"}");
    space.write("one/chat_template.jinja", "{{ messages }}");
    let merged = |text: &str, out: &str| {
        space.write("tokens.yaml", text);
        mixdown(&space, ["merge", "tokens.yaml", "--out", out]).success()
    };
    let single = "merge_method: passthrough\nmodels: [{model: base+one}]\n";
    let outcome = merged(single, "single");
    assert!(outcome.stderr.contains("W0626"), "{}", outcome.stderr);
    assert_eq!(space.read("single/tokenizer.json"), space.read("one/tokenizer.json"));
    assert!(space.exists("single/chat_template.jinja") && !space.exists("single/merges.txt"));
    let two = format!("merge_method: task_arithmetic\n{TWO}");
    assert!(!merged(&two, "both").stderr.contains("W0626"));
    assert_eq!(space.read("both/tokenizer.json"), space.read("base/tokenizer.json"));
}
