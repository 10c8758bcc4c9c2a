//! What rounding to the type of the output does to a merged update: measured while it is written, told, and
//! warned of where it is much.
//!
//! Catches a measure that is not of what was stored, one that counts the base, and a silent loss.

use mixdown_kit::values::Values;
use mixdown_kit::{DType, Space, Tensor, read_checkpoint};
use mixdown_suite::merge;
use serde_json::Value;

const NAMES: [&str; 2] = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"];

/// Weights of 0.02 that bf16 holds, and experts whose updates have this size.
fn space(size: f64) -> Space {
    let space = Space::new();
    for model in ["base", "a", "b"] {
        let tensor = |name: &&str| {
            let shape: &[u64] = if name.ends_with("norm.weight") { &[24] } else { &[48, 24] };
            let count = shape.iter().product::<u64>() as usize;
            let mut base = Values::new(1, name);
            let mut own = Values::new(2, &format!("{model} {name}"));
            let little = if model == "base" { 0.0 } else { size };
            let rounded = |value: f64| {
                f64::from(f32::from_bits(((0.02 * value) as f32).to_bits() & 0xffff_0000))
            };
            let values: Vec<f64> =
                (0..count).map(|_| rounded(base.normal()) + little * own.normal()).collect();
            Tensor::new(name, DType::F32, shape, &values)
        };
        let tensors: Vec<Tensor> = NAMES.iter().map(tensor).collect();
        let tensors: Vec<&Tensor> = tensors.iter().collect();
        space.write(
            format!("{model}/model.safetensors"),
            mixdown_kit::raw::safetensors_bytes(&tensors),
        );
    }
    space
}

fn recipe(method: &str, out: &str) -> String {
    format!(
        "merge_method: {method}\nbase_model: base\nmodels: [{{model: a}}, {{model: b}}]\n\
         dtype: float32\nout_dtype: {out}\n"
    )
}

fn last_event(text: &str) -> Value {
    serde_json::from_str(text.lines().last().expect("events")).expect("an event is JSON")
}

#[test]
fn the_part_of_an_update_that_rounding_takes_is_told() {
    let space = space(1e-4);
    // The same merge in f32 tells what was to be stored.
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    for (method, out) in
        [("iso_c", "bfloat16"), ("task_arithmetic", "bfloat16"), ("task_arithmetic", "float16")]
    {
        let weights = if method == "iso_c" { "" } else { "parameters: {weight: 1.0}\n" };
        let write = |out: &str| format!("{}{weights}", recipe(method, out));
        let event = merge(&space, &write("float32"), &["--force", "--json"]).success();
        assert_eq!(last_event(&event.stdout)["lost_in_storage"]["whole"], Value::Null);
        let exact = read_checkpoint(space.path("merged"));
        let outcome = merge(&space, &write(out), &["--force", "--json"]).success();
        let told = &last_event(&outcome.stdout)["lost_in_storage"];
        let (stored, base) =
            (read_checkpoint(space.path("merged")), read_checkpoint(space.path("base")));
        let (mut lost, mut update) = (Vec::new(), Vec::new());
        for (at, name) in NAMES.iter().enumerate() {
            let (stored, exact, base) =
                (stored.values(name), exact.values(name), base.values(name));
            let own: Vec<f64> = stored.iter().zip(&exact).map(|(a, b)| a - b).collect();
            let moved: Vec<f64> = exact.iter().zip(&base).map(|(a, b)| a - b).collect();
            let tensors = told["tensors"].as_array().expect("a list");
            let one = tensors.iter().find(|one| one["tensor"] == *name);
            let found = one.expect("each tensor is told")["lost"].as_f64().expect("a number");
            let expected = norm(&own) / norm(&moved);
            assert!((found / expected - 1.0).abs() < 1e-2, "{method}, {at}: {found} {expected}");
            lost.extend(own);
            update.extend(moved);
        }
        let (found, expected) =
            (told["whole"].as_f64().expect("a number"), norm(&lost) / norm(&update));
        assert!((found / expected - 1.0).abs() < 1e-2, "{method}: {found} {expected}");
        let is_warned = outcome.stdout.contains("W0652") || outcome.stderr.contains("W0652");
        assert_eq!(is_warned, expected > 0.1, "{method}, {out}: {expected}\n{}", outcome.talk());
        assert_eq!(out == "bfloat16", expected > 0.1, "{method}, {out}: {expected}");
    }
}

#[test]
fn a_large_loss_is_a_warning_that_says_what_holds_the_update() {
    let small = space(1e-4);
    let talk = merge(&small, &recipe("tsv", "bfloat16"), &[]).success().talk();
    for words in ["W0652", "of the merged update is lost", "`out_dtype: float16`", "{as: adapter}"]
    {
        assert!(talk.contains(words), "{words}: {talk}");
    }
    // The same with threads and little memory: the sums have one order.
    let line = |talk: &str| {
        let found = talk.lines().find(|line| line.starts_with("rounding loses"));
        found.expect("a line tells of rounding").to_owned()
    };
    let first = line(&talk);
    let options = ["--force", "--no-cache", "--threads", "3", "--memory", "60MB"];
    let again = merge(&small, &recipe("tsv", "bfloat16"), &options).success().talk();
    assert_eq!(line(&again), first);
    let large = space(1e-2);
    let talk = merge(&large, &recipe("tsv", "bfloat16"), &[]).success().talk();
    assert!(!talk.contains("W0652"), "{talk}");
}
