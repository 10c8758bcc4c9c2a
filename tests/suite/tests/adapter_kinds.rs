//! Adapters of all kinds, merged and compared with what peft's `merge_and_unload` makes of them.
//!
//! Catches any departure from a kind's formula, a scale from the wrong setting, a side that is turned, a
//! tensor that is changed though its adapter does not name it, and results that depend on threads or memory.

use std::fs;
use std::path::{Path, PathBuf};

use mixdown_kit::{
    DType, Outcome, Program, Space, Tolerance, compare_tensors, read_checkpoint, read_safetensors,
};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/adapters")
}

fn case(name: &str) -> (PathBuf, PathBuf) {
    let case = folder().join("cases").join(name);
    let models = fs::read_to_string(folder().join("models.json")).expect("cases have models");
    let models: Value = serde_json::from_str(&models).expect("JSON");
    (folder().join("models").join(models[name].as_str().expect("a model")), case)
}

/// Merges `model+adapter` into `out`.
fn merged(space: &Space, model: &Path, adapter: &Path, out: &str, more: &[&str]) -> Outcome {
    let (model, adapter) = (model.display(), adapter.display());
    let recipe = format!(
        "merge_method: passthrough\nmodels: [{{model: \"{model}+{adapter}\"}}]\ndtype: float32\n"
    );
    space.write("recipe.yaml", recipe);
    Program::new(space).args(["merge", "recipe.yaml", "--out", out]).args(more).run()
}

fn check(name: &str) -> Result<(), String> {
    let (model, adapter) = case(name);
    let space = Space::new();
    let outcome = merged(&space, &model, &adapter, "out", &[]);
    if outcome.status != Some(0) {
        return Err(format!("== {name}: exit {:?}\n{}", outcome.status, outcome.stderr));
    }
    if outcome.stderr.contains("W0608") || outcome.stderr.contains("W0641") {
        return Err(format!("== {name}: a warning that is none\n{}", outcome.stderr));
    }
    let base = read_safetensors(model.join("model.safetensors"));
    let expected = folder().join("expected").join(name).with_extension("safetensors");
    let expected = read_safetensors(expected);
    let found = read_checkpoint(space.path("out")).tensors;
    let mut names: Vec<&String> = base.keys().chain(expected.keys()).collect();
    names.sort();
    names.dedup();
    if names != found.keys().collect::<Vec<_>>() {
        return Err(format!("== {name}: expected {names:?}, found {:?}", found.keys()));
    }
    let differences: Vec<String> = found
        .iter()
        .filter_map(|(tensor, found)| match expected.get(tensor) {
            Some(expected) => {
                compare_tensors(expected, found, Tolerance::of_f32_merge(DType::F32)).err()
            }
            None => compare_tensors(&base[tensor], found, Tolerance::SameBits).err(),
        })
        .collect();
    // What peft leaves apart is stored under both names, and said to be.
    let is_tied = !expected.contains_key("lm_head.weight");
    let config: Value = serde_json::from_slice(&space.read("out/config.json")).expect("JSON");
    if name.starts_with("tied_") && config["tie_word_embeddings"].as_bool() == Some(!is_tied) {
        return Err(format!("== {name}: {}", config["tie_word_embeddings"]));
    }
    match differences.is_empty() {
        true => Ok(()),
        false => Err(format!("== {name}:\n{}", differences.join("\n"))),
    }
}

#[test]
fn all_kinds_are_as_peft_merges_them() {
    let mut names: Vec<String> = fs::read_dir(folder().join("cases"))
        .expect("there are cases")
        .map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() > 30, "cases are missing: {names:?}");
    let failures: Vec<String> = names.iter().filter_map(|name| check(name).err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} differ:\n{}",
        failures.len(),
        names.len(),
        failures.join("\n")
    );
}

#[test]
fn threads_and_memory_change_nothing() {
    for name in ["dora", "loha", "oft", "shira", "randlora", "lora_parameters"] {
        let (model, adapter) = case(name);
        let space = Space::new();
        merged(&space, &model, &adapter, "one", &["--threads", "1"]).success();
        merged(&space, &model, &adapter, "two", &["--threads", "3", "--memory", "32MB"]).success();
        let file = |out: &str| space.read(format!("{out}/model.safetensors"));
        assert!(file("one") == file("two"), "{name}");
    }
}
