//! Worked examples of `tests/vectors/methods`, merged by the program.
//!
//! The numbers come from the papers' formulas by hand or in f64. Catches a formula that is wrong in
//! the same way in mixdown and in the tool it is compared with elsewhere.

use std::fs;

use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::{DType, Program, Space, Tensor, adapter, read_checkpoint, read_yaml};
use mixdown_suite::repository;
use serde_json::Value;

#[test]
fn methods_give_their_worked_numbers() {
    let folder = repository().join("tests/vectors/methods");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut failures = Vec::new();
    let mut cases = 0;
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let file = read_yaml(&text);
        for case in file["cases"].as_array().expect("cases") {
            cases += 1;
            if let Err(text) = check(&file, case) {
                failures.push(format!("{}: {}: {text}", path.display(), case["name"]));
            }
        }
    }
    assert!(cases >= 20, "only {cases} cases were found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every method that is built in has worked numbers.
#[test]
fn no_method_is_without_vectors() {
    let names = |folder: &str| {
        let mut names: Vec<String> = fs::read_dir(repository().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("tests/vectors/methods"), names("recipes/methods"));
}

fn check(file: &Value, case: &Value) -> Result<(), String> {
    let space = Space::new();
    let experts = case["experts"].as_array().expect("experts");
    if !case["base"].is_null() {
        write(&space, "base", &case["base"]);
    }
    if !case["reference"].is_null() {
        write(&space, "reference", &case["reference"]);
    }
    for (position, expert) in experts.iter().enumerate() {
        match expert.get("lora_alpha") {
            Some(alpha) => write_adapter(&space, &format!("expert{position}"), expert, alpha),
            None => write(&space, &format!("expert{position}"), expert),
        }
        for kind in BESIDE.iter().filter(|kind| !case[**kind].is_null()) {
            write(&space, &format!("{kind}{position}"), &case[*kind][position]);
        }
    }
    space.write("recipe.yaml", recipe(file, case, experts.len()));
    let outcome = Program::new(&space).args(["merge", "recipe.yaml", "--out", "out"]).run();
    if outcome.status != Some(0) {
        return Err(format!("exit {:?}\n{}", outcome.status, outcome.stderr));
    }
    let out = read_checkpoint(space.path("out"));
    // Examples are printed to six decimals; f32 rounds beyond that at these sizes.
    let within = case["within"].as_f64().unwrap_or(1e-6);
    for (name, expected) in tensors(&case["output"]) {
        let (expected, found) = (expected.values(), out.values(&name));
        let near = expected.iter().zip(&found).all(|(e, f)| (e - f).abs() <= within);
        if !near || expected.len() != found.len() {
            return Err(format!("`{name}`: expected {expected:?}, found {found:?}"));
        }
    }
    Ok(())
}

/// What a case can give beside each expert.
const BESIDE: [&str; 2] = ["importance", "gram"];

/// A mergekit configuration: lists of parameters have one value for each expert.
fn recipe(file: &Value, case: &Value, experts: usize) -> String {
    let empty = serde_json::Map::new();
    let parameters = case["parameters"].as_object().unwrap_or(&empty);
    let of_merge: Value =
        parameters.iter().filter(|(_, value)| !value.is_array()).map(own).collect();
    let of_expert = |position: usize| -> Value {
        parameters
            .iter()
            .filter_map(|(name, value)| value.get(position).map(|value| (name, value)))
            .map(own)
            .collect()
    };
    let models: Vec<Value> = (0..experts)
        .map(|position| {
            let on_base = case["experts"][position].get("lora_alpha").map_or("", |_| "./base+");
            let mut model = serde_json::json!({
                "model": format!("{on_base}./expert{position}"),
                "parameters": of_expert(position),
            });
            for kind in BESIDE.iter().filter(|kind| !case[**kind].is_null()) {
                model[*kind] = format!("./{kind}{position}").into();
            }
            model
        })
        .collect();
    let mut recipe = serde_json::json!({
        "merge_method": file["method"],
        "models": models,
        "parameters": of_merge,
        "dtype": case.get("dtype").cloned().unwrap_or_else(|| "float32".into()),
    });
    if !case["base"].is_null() {
        recipe["base_model"] = "./base".into();
    }
    if !case["reference"].is_null() {
        recipe["reference"] = "./reference".into();
    }
    // JSON is YAML.
    recipe.to_string()
}

fn own((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

fn write(space: &Space, model: &str, described: &Value) {
    let tensors = tensors(described);
    let tensors: Vec<&Tensor> = tensors.iter().map(|(_, tensor)| tensor).collect();
    space.write(format!("{model}/model.safetensors"), safetensors_bytes(&tensors));
}

/// An adapter on `q_proj` of rank 1: its factors as lists.
fn write_adapter(space: &Space, name: &str, described: &Value, alpha: &Value) {
    let numbers = |key: &str| -> Vec<f64> {
        let list = described[key].as_array().expect("a factor");
        list.iter().map(|number| number.as_f64().expect("a number")).collect()
    };
    adapter(name, 1)
        .config("lora_alpha", alpha.clone())
        .dtype(DType::F64)
        .product("q_proj", 1, &numbers("a"), &numbers("b"))
        .write(space);
}

/// One tensor `{shape, data}`, or several by name.
fn tensors(described: &Value) -> Vec<(String, Tensor)> {
    let tensor = |name: &str, described: &Value| {
        let numbers = |key: &str| described[key].as_array().expect("a list").iter();
        let shape: Vec<u64> = numbers("shape").map(|n| n.as_u64().expect("a size")).collect();
        let data: Vec<f64> = numbers("data").map(|n| n.as_f64().expect("a number")).collect();
        (name.to_owned(), Tensor::new(name, DType::F64, &shape, &data))
    };
    if described.get("shape").is_some() {
        return vec![tensor("weight", described)];
    }
    described
        .as_object()
        .expect("tensors by name")
        .iter()
        .map(|(name, described)| tensor(name, described))
        .collect()
}
