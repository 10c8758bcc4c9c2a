//! Adapters that were stored as whole weights: the rounding of their storage is left out where their rank is clear,
//! and stays where it is not or where a recipe says so.
//!
//! Catches a floor that is none, results with directions that nobody trained, and changes in silence.

use mixdown_kit::values::Values;
use mixdown_kit::{DType, Space, Tensor, read_checkpoint};
use mixdown_suite::merge;
use serde_json::Value;

const NAME: &str = "model.layers.0.self_attn.q_proj.weight";
const ROWS: usize = 96;
const COLUMNS: usize = 128;
const RANK: usize = 3;

/// A base in this type and two experts whose updates have this rank before they are stored; the sum of the updates.
fn space(dtype: DType, rank: usize, size: f64) -> (Space, Vec<f64>) {
    let space = Space::new();
    let mut base = Values::new(1, NAME);
    let weights: Vec<f64> = (0..ROWS * COLUMNS).map(|_| 0.02 * base.normal()).collect();
    let weights = stored(dtype, &weights);
    let shape = &[ROWS as u64, COLUMNS as u64];
    let write = |model: &str, values: &[f64]| {
        let tensor = Tensor::new(NAME, dtype, shape, values);
        let bytes = mixdown_kit::raw::safetensors_bytes(&[&tensor]);
        space.write(format!("{model}/model.safetensors"), bytes);
    };
    write("base", &weights);
    let mut sum = vec![0.0; weights.len()];
    for model in ["a", "b"] {
        let mut own = Values::new(2, model);
        let mut numbers = |count: usize| -> Vec<f64> { (0..count).map(|_| own.normal()).collect() };
        let (left, right) = (numbers(ROWS * rank), numbers(rank * COLUMNS));
        let mut expert = weights.clone();
        for (index, value) in expert.iter_mut().enumerate() {
            let (row, column) = (index / COLUMNS, index % COLUMNS);
            let product = (0..rank).map(|k| left[row * rank + k] * right[k * COLUMNS + column]);
            let update = size * product.sum::<f64>() / (rank as f64).sqrt();
            sum[index] += update;
            *value += update;
        }
        write(model, &stored(dtype, &expert));
    }
    (space, sum)
}

/// What a type holds of numbers.
fn stored(dtype: DType, values: &[f64]) -> Vec<f64> {
    let tensor = Tensor::new(NAME, dtype, &[values.len() as u64], values);
    let space = Space::new();
    space.write("one/model.safetensors", mixdown_kit::raw::safetensors_bytes(&[&tensor]));
    read_checkpoint(space.path("one")).values(NAME)
}

/// The recipe of a merge in f32 of what is there.
fn recipe(method: &str, more: &str) -> String {
    format!(
        "merge_method: {method}\nbase_model: base\nmodels: [{{model: a}}, {{model: b}}]\n\
         parameters: {{{more}}}\ndtype: float32\n"
    )
}

/// The merged update, and what the report says of it.
fn merged(space: &Space, recipe: &str) -> (Vec<f64>, Value, String) {
    let options = ["--force", "--no-cache", "--report", "report.json"];
    let outcome = merge(space, recipe, &options).success();
    let (out, base) = (read_checkpoint(space.path("merged")), read_checkpoint(space.path("base")));
    let update = out.values(NAME).iter().zip(base.values(NAME)).map(|(a, b)| a - b).collect();
    let report = std::fs::read_to_string(space.path("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("a report is JSON");
    (update, report, outcome.talk())
}

/// The first report of a tensor, wherever it is.
fn noise(report: &Value) -> Vec<Value> {
    match report {
        Value::Object(fields) if fields.contains_key("noise") => {
            report["noise"].as_array().expect("a list").clone()
        }
        Value::Object(fields) => fields.values().flat_map(noise).collect(),
        Value::Array(items) => items.iter().flat_map(noise).collect(),
        _ => Vec::new(),
    }
}

/// What of an update lies in the directions of another one of few: the share of its square.
fn share_along(update: &[f64], directions: &[f64]) -> f64 {
    // Rows of the other, made orthonormal one after the other, until nothing is left of them.
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for row in directions.chunks(COLUMNS) {
        let (mut row, before) = (row.to_vec(), dot(row, row));
        for known in basis.iter().chain(basis.iter()) {
            let along = dot(&row, known);
            row.iter_mut().zip(known).for_each(|(value, known)| *value -= along * known);
        }
        let left = dot(&row, &row);
        if left > 1e-12 * before {
            basis.push(row.iter().map(|value| value / left.sqrt()).collect());
        }
    }
    assert!(basis.len() <= 2 * RANK, "{} directions", basis.len());
    let along =
        update.chunks(COLUMNS).flat_map(|row| basis.iter().map(|one| dot(row, one).powi(2)));
    along.sum::<f64>() / dot(update, update)
}

#[test]
fn what_was_trained_is_merged_without_its_rounding() {
    for dtype in [DType::Bf16, DType::F16, DType::F32] {
        let (space, sum) = space(dtype, RANK, 2e-4);
        for (method, keeps) in [
            ("iso_c", "noise: keep"),
            // Of directions that the common ones have among them, nothing is left for single experts.
            ("iso_cts", "noise: keep"),
            ("tsv", "noise: keep"),
            ("optmerge", "noise: keep, tuning: lora"),
            ("swudi", "noise: keep"),
            ("aswudi", "storage_noise: keep"),
        ] {
            let told = format!("{method}, {dtype:?}");
            let more = if method == "optmerge" { "tuning: lora" } else { "" };
            let (update, report, talk) = merged(&space, &recipe(method, more));
            assert!(talk.contains("W0654") && talk.contains("ranks 3, 3"), "{told}: {talk}");
            let found = noise(&report);
            assert_eq!(found.len(), 2, "{told}: {report:#}");
            for one in &found {
                assert_eq!(one["rank"], RANK, "{told}");
                assert!(one["floor"].as_f64().is_some_and(|floor| floor > 0.0), "{told}");
            }
            let share = share_along(&update, &sum);
            // In bf16 rounding tilts the directions themselves by a tenth.
            let least = if dtype == DType::Bf16 { 0.97 } else { 0.999 };
            assert!(share > least, "{told}: {share}");
            let (literal, report, talk) = merged(&space, &recipe(method, keeps));
            assert!(!talk.contains("W0654") && noise(&report).is_empty(), "{told}: {talk}");
            assert_ne!(literal, update, "{told}");
            if method == "iso_c" {
                assert!(share_along(&literal, &sum) < 0.3, "{told}");
            }
        }
    }
}

/// The updates of a full fine-tuning go down through the floor evenly: nothing is recovered, and nothing changes.
#[test]
fn what_has_no_clear_rank_is_merged_as_it_is_stored() {
    let (space, _) = space(DType::Bf16, ROWS, 1e-4);
    for method in ["iso_c", "tsv", "optmerge", "swudi"] {
        let (update, report, talk) = merged(&space, &recipe(method, ""));
        assert!(!talk.contains("W0654"), "{method}: {talk}");
        let found = noise(&report);
        assert_eq!(found.len(), 2, "{method}");
        assert!(found.iter().all(|one| one["rank"] == Value::Null), "{method}: {found:?}");
        let (literal, ..) = merged(&space, &recipe(method, "noise: keep"));
        assert_eq!(literal, update, "{method}");
    }
}
