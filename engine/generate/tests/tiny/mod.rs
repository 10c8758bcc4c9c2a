//! Small models with numbers from a counter, and what transformers answered with them.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::values::Values;
use mixdown_kit::{DType, Space, Tensor};
use serde_json::{Value, json};

/// The models of `tests/transformers/make.py`.
pub fn cases() -> Vec<Value> {
    let text = include_str!("../transformers/expected.json");
    serde_json::from_str(text).expect("the file is JSON")
}

/// The model of a case, in a folder of this name. Tensors whose number is even go to the first of two
/// files, and another seed gives other numbers.
pub fn write_model(space: &Space, name: &str, case: &Value, seed: u64) -> PathBuf {
    let dtype = if case["dtype"] == "bf16" { DType::Bf16 } else { DType::F32 };
    let tensors = case["tensors"].as_object().expect("the case has tensors");
    let tensors: Vec<Tensor> =
        tensors.iter().map(|(name, shape)| tensor(name, shape, dtype, seed)).collect();
    for part in 0..2 {
        let own: Vec<&Tensor> = tensors.iter().skip(part).step_by(2).collect();
        let file = format!("{name}/model-0000{}-of-00002.safetensors", part + 1);
        space.write(file, safetensors_bytes(&own));
    }
    let map: serde_json::Map<String, Value> = tensors
        .iter()
        .enumerate()
        .map(|(n, tensor)| {
            let file = format!("model-0000{}-of-00002.safetensors", n % 2 + 1);
            (tensor.name.clone(), file.into())
        })
        .collect();
    let index = json!({"metadata": {}, "weight_map": map});
    space.write(format!("{name}/model.safetensors.index.json"), index.to_string());
    space.write(format!("{name}/config.json"), case["config"].to_string());
    space.path(name)
}

fn tensor(name: &str, shape: &Value, dtype: DType, seed: u64) -> Tensor {
    let shape: Vec<u64> = serde_json::from_value(shape.clone()).expect("a shape is a list");
    let is_norm = name.contains("norm") || (name.contains("ln_") && name.ends_with("weight"));
    let mean = if is_norm { 1.0 } else { 0.0 };
    let scale = if shape.len() == 2 { 0.25 } else { 0.1 };
    let mut values = Values::new(seed, name);
    let count: u64 = shape.iter().product();
    let mut number = || mean + scale * values.normal();
    let numbers: Vec<f64> = match dtype {
        DType::Bf16 => (0..count).map(|_| nearest_bf16(number())).collect(),
        _ => (0..count).map(|_| number()).collect(),
    };
    Tensor::new(name, dtype, &shape, &numbers)
}

/// The nearest number with the eight digits of bf16, of two equally near ones the even, as torch rounds.
/// The kit's storage looks at 20 of the 52 bits only, and takes what lies just above a middle for one.
fn nearest_bf16(number: f64) -> f64 {
    const LOST: u32 = 52 - 7;
    let bits = number.to_bits();
    let (kept, rest, half) = (bits >> LOST, bits & ((1 << LOST) - 1), 1 << (LOST - 1));
    let is_up = rest > half || (rest == half && kept & 1 == 1);
    f64::from_bits((kept + u64::from(is_up)) << LOST)
}

/// The program's path.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mixdown-generate"))
}

/// Has the model in this folder answer prompts.
pub fn generate(space: &Space, model: &str, prompts: &[Value], arguments: &[&str]) -> Output {
    let lines: String = prompts.iter().map(|prompt| format!("{prompt}\n")).collect();
    space.write("prompts.jsonl", lines);
    let mut command = Command::new(program());
    command.current_dir(space.root()).args(["--model", model, "--prompts", "prompts.jsonl"]);
    command.args(["--out", "answers.jsonl"]).args(arguments).env_remove("MIXDOWN_THREADS");
    command.output().expect("the program can be started")
}

/// The answers, after a check that the program ended well.
#[track_caller]
pub fn answers(space: &Space, model: &str, prompts: &[Value], arguments: &[&str]) -> Vec<Value> {
    let output = generate(space, model, prompts, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = space.read_text("answers.jsonl");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}
