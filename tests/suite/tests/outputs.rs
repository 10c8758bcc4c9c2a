//! What stands in an output folder beside the weights, and the commands that read it.
//!
//! Catches a config that does not fit the weights, files that are lost or invented, a manifest that
//! proves nothing, and tables whose numbers are wrong.

use mixdown_kit::{DType, Space, checkpoint, mixdown, read_checkpoint};
use mixdown_suite::{configuration, family, merge, with_snapshots};
use serde_json::{Value, json};

fn two_experts() -> String {
    let models = [("a", "weight: 0.5"), ("b", "weight: 0.5")];
    configuration("task_arithmetic", Some("base"), &models, "")
}

fn json_of(space: &Space, path: &str) -> Value {
    serde_json::from_slice(&space.read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_folder_is_a_model() {
    let space = family();
    space.write("base/modeling_custom.py", "# code of the model\n");
    space.write("base/merges.txt", "a b\n");
    space.write("base/pytorch_model.bin", "not wanted");
    space.write("base/.cache/file", "not wanted");
    space.write("base/README.md", "not wanted: the base's own card");
    let outcome = merge(&space, &two_experts(), &[]).success();
    let files: Vec<String> =
        space.files_under("merged").into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        files,
        [
            "README.md",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "mixdown-manifest.json",
            "model.safetensors",
            "modeling_custom.py",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    for copied in ["merges.txt", "modeling_custom.py", "tokenizer.json", "chat_template.jinja"] {
        assert_eq!(space.read(format!("merged/{copied}")), space.read(format!("base/{copied}")));
    }
    with_snapshots(|| {
        insta::assert_snapshot!("merge_stdout", outcome.shown());
        insta::assert_snapshot!("merge_stderr", outcome.talk());
        let version = concat!("mixdown ", env!("CARGO_PKG_VERSION"));
        let card = space.read_text("merged/README.md").replace(version, "mixdown [VERSION]");
        insta::assert_snapshot!("model_card", card);
        insta::assert_snapshot!("manifest", manifest_without_versions(&space));
    });
}

/// An output folder that exists is never touched unasked, and what a merge reads not even then.
#[test]
fn what_is_there_is_not_replaced_by_accident() {
    let space = family();
    merge(&space, &two_experts(), &[]).success();
    let before = space.files_under("merged");
    let refused = |out: &str, force: &[&str]| {
        let outcome = mixdown(&space, ["merge", "recipe.yaml", "--out", out].iter().chain(force));
        outcome.exits(1).stderr
    };
    assert!(refused("merged", &[]).contains("E0502"));
    assert!(refused("base", &["--force"]).contains("would replace the model `base`"));
    space.write("recipes/team.yaml", two_experts());
    let team = ["merge", "recipes/team.yaml", "--out", "recipes", "--force"];
    let stderr = mixdown(&space, team.iter()).exits(1).stderr;
    assert!(stderr.contains("would replace the recipe `recipes/team.yaml`"), "{stderr}");
    assert_eq!(space.files_under("merged"), before);
    assert!(space.exists("base/config.json") && space.exists("recipes/team.yaml"));
}

/// The manifest with its first two tensors, and tokens for what the program's version decides.
fn manifest_without_versions(space: &Space) -> String {
    let mut manifest = json_of(space, "merged/mixdown-manifest.json");
    manifest["mixdown"] = "[VERSION]".into();
    manifest["plan"] = "[DIGEST]".into();
    let files = manifest["files"].as_array_mut().expect("a list of files");
    for card in files.iter_mut().filter(|file| file["name"] == "README.md") {
        *card = json!({"name": "README.md", "bytes": "[BYTES]", "sha256": "[DIGEST]"});
    }
    let tensors = manifest["tensors"].as_array_mut().expect("a list of tensors");
    assert_eq!(tensors.len(), checkpoint("base").tensors().len());
    tensors.truncate(2);
    format!("{manifest:#}\n")
}

#[test]
fn config_changes_with_the_weights() {
    let space = Space::new();
    let types = json!(["full", "sliding", "full", "sliding"]);
    checkpoint("deep")
        .layers(4)
        .config("layer_types", types)
        .config("custom", json!({"kept": [1, 2]}))
        .write(&space);
    let recipe = "slices:\n  - sources: [{model: deep, layer_range: [0, 3]}]\n  \
                  - sources: [{model: deep, layer_range: [1, 4]}]\n\
                  merge_method: passthrough\ndtype: float16\n";
    merge(&space, recipe, &[]).success();
    let config = json_of(&space, "merged/config.json");
    assert_eq!(config["num_hidden_layers"], 6);
    let types = json!(["full", "sliding", "full", "sliding", "full", "sliding"]);
    assert_eq!(config["layer_types"], types, "layers 0 1 2 1 2 3");
    assert_eq!(config["torch_dtype"], "float16");
    assert_eq!(config["tie_word_embeddings"], false);
    assert_eq!(config["custom"], json!({"kept": [1, 2]}));
    let keys = |config: &Value| config.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&config), keys(&json_of(&space, "deep/config.json")), "keys keep their order");
    let merged = read_checkpoint(space.path("merged"));
    let deep = read_checkpoint(space.path("deep"));
    for (output, input) in [(0, 0), (2, 2), (3, 1), (5, 3)] {
        let name = |layer| format!("model.layers.{layer}.mlp.up_proj.weight");
        let expected = deep.tensor(&name(input)).cast(DType::F16);
        assert_eq!(merged.tensor(&name(output)).data, expected.data, "layer {output}");
    }
}

#[test]
fn shards_are_no_larger_than_asked() {
    let space = family();
    merge(&space, &two_experts(), &["--shard-size", "6kB"]).success();
    let merged = read_checkpoint(space.path("merged"));
    let bytes: usize = merged.tensors.values().map(|tensor| tensor.data.len()).sum();
    assert_eq!(merged.total_size, Some(bytes as u64));
    assert!(merged.shards.len() >= bytes / 6000, "{:?}", merged.shards);
    let count = merged.shards.len();
    for (position, shard) in merged.shards.iter().enumerate() {
        assert_eq!(*shard, format!("model-{:05}-of-{count:05}.safetensors", position + 1));
        let tensors = mixdown_kit::read_safetensors(space.path("merged").join(shard));
        let bytes: usize = tensors.values().map(|tensor| tensor.data.len()).sum();
        assert!(bytes <= 6000 || tensors.len() == 1, "{shard} holds {bytes} bytes");
    }
}

#[test]
fn verify_proves_and_finds_damage() {
    let space = family();
    merge(&space, &two_experts(), &["--shard-size", "8kB"]).success();
    let sound = mixdown(&space, ["verify", "merged"]).success();
    with_snapshots(|| insta::assert_snapshot!("verify_sound", sound.shown() + &sound.talk()));

    let shard = "merged/model-00002-of-00003.safetensors";
    let whole = space.read(shard);
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    space.write(shard, &bytes);
    space.write("merged/tokenizer.json", "{}");
    space.write("merged/extra.safetensors", "x");
    let damaged = mixdown(&space, ["verify", "merged"]).exits(1);
    with_snapshots(|| insta::assert_snapshot!("verify_damaged", damaged.talk()));

    space.write(shard, &whole[..whole.len() - 10]);
    let cut = mixdown(&space, ["verify", "merged"]).exits(1);
    assert!(cut.stderr.contains("model-00002-of-00003.safetensors"), "{}", cut.stderr);
    std::fs::remove_file(space.path("merged/mixdown-manifest.json")).unwrap();
    mixdown(&space, ["verify", "merged"]).exits(1);
    let machine = mixdown(&space, ["verify", "merged", "--json"]).exits(1);
    assert!(machine.json().is_object());
}

#[test]
fn inspect_shows_what_a_checkpoint_holds() {
    let space = family();
    let text = mixdown(&space, ["inspect", "base"]).success();
    with_snapshots(|| insta::assert_snapshot!("inspect", text.shown()));
    let machine = mixdown(&space, ["inspect", "base", "--json"]).success().json();
    let tensors = machine["tensors"].as_array().expect("a list of tensors");
    assert_eq!(tensors.len(), checkpoint("base").tensors().len());
}

#[test]
fn diff_measures_each_tensor() {
    let space = Space::new();
    let edited = "model.norm.weight";
    checkpoint("left").dtype(DType::F32).write(&space);
    checkpoint("right").dtype(DType::F32).set(edited, 3, -7.0).write(&space);
    let text = mixdown(&space, ["diff", "left", "right"]).success();
    with_snapshots(|| insta::assert_snapshot!("diff", text.shown()));

    let machine = mixdown(&space, ["diff", "left", "right", "--json"]).success().json();
    let rows = machine["tensors"].as_array().expect("a list of tensors");
    let row = rows.iter().find(|row| row["name"] == edited).expect("the edited tensor");
    let left = read_checkpoint(space.path("left")).values(edited);
    let right = read_checkpoint(space.path("right")).values(edited);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = dot(&left, &right) / (dot(&left, &left) * dot(&right, &right)).sqrt();
    let distance: f64 = left.iter().zip(&right).map(|(l, r)| (l - r).powi(2)).sum();
    let relative = distance.sqrt() / dot(&left, &left).sqrt();
    let near = |key: &str, expected: f64| {
        let found = row[key].as_f64().unwrap_or_else(|| panic!("no `{key}` in {row}"));
        assert!((found - expected).abs() < 1e-6, "{key}: {found}, expected {expected}");
    };
    near("cosine", cosine);
    near("relative_norm", relative);
    near("sign_agreement", 15.0 / 16.0);
    near("zero_fraction", 15.0 / 16.0);
    for row in rows.iter().filter(|row| row["name"] != edited) {
        assert_eq!(row["relative_norm"], 0.0, "{row}");
    }
}

#[test]
fn diff_names_what_only_one_side_has() {
    let space = Space::new();
    checkpoint("left").write(&space);
    checkpoint("right").without("lm_head").layers(3).write(&space);
    let text = mixdown(&space, ["diff", "left", "right"]).success();
    assert!(text.stdout.contains("lm_head.weight"), "{}", text.stdout);
    assert!(text.stdout.contains("model.layers.2."), "{}", text.stdout);
}

#[test]
fn a_dropped_tensor_is_recorded() {
    let space = family();
    let recipe = "mixdown: 1\nmodels: {base: base, a: a}\nbase: base\n\
                  parameters: {weight: 1}\nrules:\n  - {tensors: lm_head.weight, drop: true}\n  \
                  - {method: task_arithmetic}\n";
    merge(&space, recipe, &[]).success();
    let names = read_checkpoint(space.path("merged")).tensors;
    assert!(!names.contains_key("lm_head.weight"));
    let manifest = json_of(&space, "merged/mixdown-manifest.json");
    let dropped = manifest["dropped"].as_array().unwrap();
    assert_eq!(dropped.len(), 2, "one for each model: {dropped:?}");
    assert!(dropped.iter().all(|entry| entry["name"] == "lm_head.weight"));
}

/// Folders of sentence-transformers, whose names modules.json says.
#[test]
fn folders_that_modules_name_are_part_of_the_output() {
    let space = Space::new();
    let modules =
        r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Normalize"}]"#;
    for (name, seed) in [("one", 1), ("two", 2)] {
        checkpoint(name).seed(seed).write(&space);
        space.write(format!("{name}/modules.json"), modules);
        space.write(format!("{name}/1_Pooling/config.json"), "{}");
        space.write(format!("{name}/2_Dense/model.safetensors"), name);
        space.write(format!("{name}/unnamed/file.txt"), "x");
    }
    let models =
        "models: [{model: one, parameters: {weight: 1}}, {model: two, parameters: {weight: 1}}]";
    space.write("recipe.yaml", format!("merge_method: linear\n{models}\n"));
    let merge = || mixdown(&space, ["merge", "recipe.yaml", "--out", "out", "--force"]).success();
    let told = merge().stderr;
    assert!(told.contains("W0627") && told.contains("2_Dense"), "{told}");
    assert_eq!(space.read("out/1_Pooling/config.json"), b"{}");
    assert_eq!(space.read("out/2_Dense/model.safetensors"), b"one");
    assert!(!space.exists("out/unnamed"));
    mixdown(&space, ["verify", "out"]).success();
    space.write("out/1_Pooling/config.json", "{\"changed\": 1}");
    assert_ne!(mixdown(&space, ["verify", "out"]).status, Some(0));
    // Of equal weights nothing is to be told.
    space.write("two/2_Dense/model.safetensors", "one");
    assert!(!merge().stderr.contains("W0627"));
    space.write("one/modules.json", "[{\"path\": \"../two\"}]");
    let outcome = mixdown(&space, ["merge", "recipe.yaml", "--out", "out", "--force"]);
    assert!(outcome.stderr.contains("E0122"), "{}", outcome.stderr);
}
