//! Files of mergekit-moe: which tensors a mixture has, under which names, and what is refused.

use std::collections::BTreeMap;

use mixdown_kit::{
    DType, Space, Tensor, Tolerance, adapter, assert_same_tensors, checkpoint, read_checkpoint,
};
use mixdown_suite::{merge, refusal};

/// A base and two experts of two layers, in f32.
fn dense() -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(2).dtype(DType::F32);
    model("base").write(&space);
    model("a").expert(1, 0.1).write(&space);
    model("b").expert(2, 0.1).write(&space);
    space
}

fn config(space: &Space) -> BTreeMap<String, serde_json::Value> {
    serde_json::from_str(&space.read_text("merged/config.json")).expect("a config")
}

const RANDOM: &str = "base_model: ./base
gate_mode: random
experts:
  - {source_model: ./a}
  - {source_model: ./b, residual_scale: 0.5}
";

#[test]
fn a_mixtral_has_the_layers_of_each_expert_and_the_rest_of_the_base() {
    let space = dense();
    merge(&space, RANDOM, &[]).success();
    let merged = read_checkpoint(space.path("merged"));
    let model = |name: &str| read_checkpoint(space.path(name));
    let (base, experts) = (model("base"), [model("a"), model("b")]);
    let kept: Vec<&str> = base.names().into_iter().filter(|name| !name.contains(".mlp.")).collect();
    for name in &kept {
        assert_eq!(merged.values(name), base.values(name), "{name}");
    }
    for layer in 0..2 {
        for (at, expert) in experts.iter().enumerate() {
            let own = format!("model.layers.{layer}.block_sparse_moe.experts.{at}");
            for (to, from) in [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")] {
                let from = expert.values(&format!("model.layers.{layer}.mlp.{from}.weight"));
                let factor = if at == 1 && to == "w2" { 0.5 } else { 1.0 };
                let wanted: Vec<f64> = from.iter().map(|value| factor * value).collect();
                assert_eq!(merged.values(&format!("{own}.{to}.weight")), wanted, "{own}.{to}");
            }
        }
        let gate = merged.values(&format!("model.layers.{layer}.block_sparse_moe.gate.weight"));
        let mean = gate.iter().sum::<f64>() / gate.len() as f64;
        let spread = gate.iter().map(|value| value * value).sum::<f64>() / gate.len() as f64;
        assert!(mean.abs() < 0.6 && (0.4..2.0).contains(&spread), "{mean} {spread}");
    }
    // Two gates, and three projections of two experts, in each layer.
    assert_eq!(merged.names().len(), kept.len() + 2 * 7);
    let config = config(&space);
    assert_eq!(config["architectures"], serde_json::json!(["MixtralForCausalLM"]));
    assert_eq!(config["num_local_experts"], 2);
    assert_eq!(config["num_experts_per_tok"], 2);
    // The same again, and proven by its manifest.
    let first = space.files_under("merged");
    merge(&space, RANDOM, &["--force", "--threads", "1"]).success();
    assert_eq!(space.files_under("merged"), first);
    let manifest = space.read_text("merged/mixdown-manifest.json");
    for name in ["./base", "./a", "./b"] {
        assert!(manifest.contains(&format!("\"name\": \"{name}\"")), "{name}");
    }
}

#[test]
fn other_families_have_names_and_shared_experts_of_their_own() {
    let space = dense();
    let shared = "shared_experts: [{source_model: ./base}]\n";
    merge(&space, &format!("{RANDOM}{shared}architecture: deepseek\n"), &[]).success();
    let merged = read_checkpoint(space.path("merged"));
    let base = read_checkpoint(space.path("base"));
    let name = "model.layers.1.mlp.shared_experts.up_proj.weight";
    assert_eq!(merged.values(name), base.values("model.layers.1.mlp.up_proj.weight"));
    assert!(merged.names().contains(&"model.layers.0.mlp.experts.1.down_proj.weight"));
    assert!(!merged.names().iter().any(|name| name.contains("shared_expert_gate")));
    assert_eq!(config(&space)["n_shared_experts"], 1);
    // Qwen's has a gate for the shared expert, and biases of attention, which are zeros here.
    merge(&space, &format!("{RANDOM}{shared}architecture: qwen moe\n"), &["--force"]).success();
    let merged = read_checkpoint(space.path("merged"));
    let gate = merged.tensor("model.layers.0.mlp.shared_expert_gate.weight");
    assert_eq!(gate.shape[0], 1);
    let bias = merged.values("model.layers.0.self_attn.k_proj.bias");
    assert!(!bias.is_empty() && bias.iter().all(|&value| value == 0.0));
}

#[test]
fn what_makes_no_mixture_is_refused() {
    let space = dense();
    checkpoint("wide").layers(2).intermediate(80).dtype(DType::F32).write(&space);
    let check = |recipe: &str, parts: &[&str]| {
        let told = refusal(&space, recipe, &[], 2);
        for part in parts {
            assert!(told.contains(part), "{part} in\n{told}");
        }
    };
    check(&RANDOM.replace("./b,", "./wide,"), &["E0259", "./wide", "gate_proj", "in the base"]);
    check(&format!("{RANDOM}experts_per_token: 3\n"), &["E0258", "3 of 2 experts"]);
    check(&format!("{RANDOM}architecture: mixtrall\n"), &["E0259", "mixtrall", "Qwen3 MoE"]);
    check(&format!("{RANDOM}architecture: qwen3\n"), &["E0259", "is made of qwen3, found llama"]);
    check(&RANDOM.replace("gate_mode: random\n", ""), &["E0258", "positive_prompts"]);
    let same = "positive_prompts: [x]";
    let prompts = RANDOM
        .replace("gate_mode: random", "gate_mode: cheap_embed")
        .replace("./a}", &format!("./a, {same}}}"))
        .replace("./b,", &format!("./b, {same},"));
    check(&prompts, &["E0258", "same prompts"]);
    let own = prompts.replace("[x]", "[x], negative_prompts: [x]");
    check(&own, &["E0258", "for and against it"]);
    check("base_model: ./base\ngate_mode: random\nexperts: []\n", &["E0258", "needs experts"]);
}

/// What is added to an expert has the size that is asked for, and is the same every time.
#[test]
fn noise_is_added_to_experts() {
    let space = dense();
    let noisy = RANDOM.replace("./a}", "./a, noise_scale: 0.25}");
    merge(&space, &noisy, &[]).success();
    let first = read_checkpoint(space.path("merged"));
    merge(&space, &noisy, &["--force", "--memory", "64MB", "--threads", "3"]).success();
    let merged = read_checkpoint(space.path("merged"));
    let (a, b) = (read_checkpoint(space.path("a")), read_checkpoint(space.path("b")));
    for (to, from) in [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")] {
        let name =
            |expert: usize| format!("model.layers.1.block_sparse_moe.experts.{expert}.{to}.weight");
        let from = format!("model.layers.1.mlp.{from}.weight");
        let noise: Vec<f64> = merged
            .values(&name(0))
            .iter()
            .zip(a.values(&from))
            .map(|(found, own)| found - own)
            .collect();
        let spread = noise.iter().map(|value| value * value).sum::<f64>() / noise.len() as f64;
        assert!((0.2..0.3).contains(&spread.sqrt()), "{to}: {spread}");
        assert_eq!(merged.values(&name(0)), first.values(&name(0)));
        let factor = if to == "w2" { 0.5 } else { 1.0 };
        let wanted: Vec<f64> = b.values(&from).iter().map(|value| factor * value).collect();
        assert_eq!(merged.values(&name(1)), wanted);
    }
}

#[test]
fn gates_that_are_the_same_are_told() {
    let space = dense();
    let prompts = "base_model: ./base\ngate_mode: cheap_embed\nexperts:
  - {source_model: ./a, positive_prompts: [x]}
  - {source_model: ./b, positive_prompts: [y]}
  - {source_model: ./a, positive_prompts: [y]}\n";
    space.write("recipe.yaml", prompts);
    let outcome = mixdown_kit::mixdown(&space, ["check", "recipe.yaml"]);
    for part in ["W0637", "experts 2 and 3", "recipe.yaml:6:"] {
        assert!(outcome.stderr.contains(part), "{part} in\n{}", outcome.stderr);
    }
}

/// An adapter as an expert is the expert that it was added to its base as, whatever is asked of it besides.
#[test]
fn an_adapter_is_an_expert() {
    let space = dense();
    let written = read_checkpoint(space.path("base"));
    let shape = |name: &str| -> [u64; 2] {
        let shape = &written.tensor(&format!("{name}.weight")).shape;
        [shape[0], shape[1]]
    };
    let modules = [
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.1.mlp.gate_proj",
    ];
    let mut lora = adapter("lora", 3);
    for module in modules {
        lora = lora.module(module, 3, shape(module));
    }
    lora.write(&space);
    mixdown_kit::mixdown(&space, ["fuse", "base", "lora", "--out", "fused"]).success();
    let values = |recipe: &str, more: &[&str]| {
        merge(&space, recipe, &[&["--force"], more].concat()).success();
        read_checkpoint(space.path("merged")).tensors
    };
    for more in ["", ", residual_scale: 0.5", ", noise_scale: 0.25"] {
        let of = |model: &str| {
            format!(
                "base_model: ./base\ngate_mode: random\nexperts:\n  - {{source_model: ./a}}\n  \
                 - {{source_model: {model}{more}}}\n"
            )
        };
        let expected = values(&of("./fused"), &[]);
        let found = values(&of("./base+./lora"), &["--memory", "64MB", "--threads", "3"]);
        let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-6);
        assert_same_tensors(more, &expected, &found, tolerance);
    }
    // Each row that DoRA trained has its own norm.
    let [up, down] = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"];
    let mut dora = adapter("dora", 2).config("use_dora", true.into());
    for module in [up, down] {
        let rows = shape(module)[0];
        let norms: Vec<f64> = (0..rows).map(|row| 0.5 + row as f64 / 8.0).collect();
        let name = format!("base_model.model.{module}.lora_magnitude_vector");
        dora = dora.module(module, 2, shape(module));
        dora = dora.with(Tensor::new(&name, DType::F32, &[rows], &norms));
    }
    dora.write(&space);
    mixdown_kit::mixdown(&space, ["fuse", "base", "dora", "--out", "trained"]).success();
    let expected = values(&RANDOM.replace("./a", "./trained"), &[]);
    let found = values(&RANDOM.replace("./a", "./base+./dora"), &[]);
    let tolerance = |_: &Tensor| Tolerance::RelativeToLargest(1e-6);
    assert_same_tensors("dora", &expected, &found, tolerance);
    let manifest_of_dora = space.read_text("merged/mixdown-manifest.json");
    assert!(manifest_of_dora.contains("dora"), "{manifest_of_dora}");
    // The manifest knows its files.
    values(&RANDOM.replace("./a", "./base+./lora"), &[]);
    let manifest = space.read_text("merged/mixdown-manifest.json");
    assert!(manifest.contains("lora"), "{manifest}");
    // What changes nothing of an expert is told, and a base is a whole model.
    let attention = "model.layers.0.self_attn.q_proj";
    adapter("attention", 2).module(attention, 2, shape(attention)).write(&space);
    space.write("recipe.yaml", RANDOM.replace("./a", "./base+./attention"));
    let outcome = mixdown_kit::mixdown(&space, ["check", "recipe.yaml"]);
    for part in ["W0620", "makes no expert of its own", "recipe.yaml:4:"] {
        assert!(outcome.stderr.contains(part), "{part} in\n{}", outcome.stderr);
    }
    let told = refusal(&space, &RANDOM.replace("./base", "./base+./lora"), &[], 2);
    assert!(told.contains("is an adapter") && told.contains("recipe.yaml:1:"), "{told}");
}
