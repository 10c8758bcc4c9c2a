//! Merges by mergekit 0.1.5 and by literal optimizer loops, run again: same names, shapes and types,
//! values within roundings.
//!
//! Catches any departure from a method's formula, from a parameter's precedence, from how gradients
//! and filters are read, and from which tensors are written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mixdown_kit::{
    DType, Program, Space, Tensor, Tolerance, compare_tensors, read_checkpoint, read_safetensors,
};
use serde_json::Value;

/// Where mixdown does otherwise on purpose: case, exit status, why.
const DEPARTURES: [(&str, i32, &str); 1] = [(
    "linear_zero_sum",
    2,
    "weights that add up to zero make every value infinite or NaN, which nobody wants",
)];

/// Where values are rounded to 16 bits and then widened again: sums that differ in the last bit of
/// f32 may round to neighbors, so the values agree within one rounding to this type.
const ROUNDED_TWICE: [(&str, DType); 1] = [("linear_dtype_f16_out_f32", DType::F16)];

#[test]
fn mergekit() {
    check_set("mergekit", "mergekit");
}

#[test]
fn interference() {
    check_set("interference", "mergekit");
}

#[test]
fn small() {
    check_set("small", "small");
}

/// Runs all cases of a set, so that one report names everything that differs.
/// Paths of models start from the folder of `models`.
fn check_set(set: &str, models: &str) {
    let oracles = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles");
    let (folder, models) = (oracles.join(set), oracles.join(models));
    let mut cases: Vec<PathBuf> = fs::read_dir(folder.join("cases"))
        .expect("the set has cases")
        .map(|entry| entry.expect("a case can be listed").path())
        .collect();
    cases.sort();
    assert!(cases.len() > 15, "cases of `{set}` are missing");
    let failures: Vec<String> =
        cases.iter().filter_map(|case| check_case(&models, case).err()).collect();
    assert!(
        failures.is_empty(),
        "{} of {} cases differ:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

fn check_case(set: &Path, case: &Path) -> Result<(), String> {
    let name = case.file_name().expect("a case has a name").to_string_lossy().into_owned();
    let space = Space::new();
    let out = space.path("out");
    let outcome = Program::new(&space)
        .in_folder(set)
        .args(["merge".as_ref(), case.join("config.yml").as_os_str()])
        .args(["--out".as_ref(), out.as_os_str()])
        .run();
    let refused = if case.join("error.txt").exists() {
        Some(2)
    } else {
        DEPARTURES.iter().find(|(departing, ..)| *departing == name).map(|(_, status, _)| *status)
    };
    let result = match refused {
        Some(status) if outcome.status != Some(status) => Err(format!(
            "expected a refusal with exit {status}, found {:?}\n{}",
            outcome.status, outcome.stderr
        )),
        Some(_) if space.list() != [".home/"] && !space.list().is_empty() => {
            Err(format!("a refusal left {:?}", space.list()))
        }
        Some(_) => Ok(()),
        None if outcome.status != Some(0) => {
            Err(format!("exit {:?}\n{}", outcome.status, outcome.stderr))
        }
        None => check_result(set, case, &out),
    };
    result.map_err(|text| format!("== {name}: {text}"))
}

fn check_result(set: &Path, case: &Path, out: &Path) -> Result<(), String> {
    let mut expected = read_safetensors(case.join("expected.safetensors"));
    let actual = read_checkpoint(out);
    let names: Vec<&str> = expected.keys().map(String::as_str).collect();
    if names != actual.names() {
        return Err(format!("expected the tensors {names:?}, found {:?}", actual.names()));
    }
    if case.join("statistical.txt").exists() {
        return check_shares(&base_of(set, case), &expected, &actual.tensors);
    }
    if let Ok(text) = fs::read_to_string(case.join("expected_vocabulary.json")) {
        reorder_rows(&mut expected, &json(&text), out)?;
    }
    let narrow =
        ROUNDED_TWICE.iter().find(|(name, _)| case.ends_with(name)).map(|(_, dtype)| *dtype);
    let mut differences = expected.iter().filter_map(|(name, tensor)| {
        let found = &actual.tensors[name];
        match narrow.filter(|_| tensor.dtype == found.dtype) {
            Some(narrow) => {
                let (tensor, found) = (tensor.cast(narrow), found.cast(narrow));
                compare_tensors(&tensor, &found, Tolerance::OneRounding).err()
            }
            None => compare_tensors(tensor, found, Tolerance::of_f32_merge(tensor.dtype)).err(),
        }
    });
    // One tensor shows what is wrong; where a formula is wrong, all of them differ.
    match differences.next() {
        None => check_config(case, out),
        Some(first) => Err(format!("{first}\nand {} more tensors", differences.count())),
    }
}

/// Layer count and vocabulary size; the rest of a config goes through other code in mergekit.
fn check_config(case: &Path, out: &Path) -> Result<(), String> {
    if !case.join("expected_config.json").exists() {
        return Ok(());
    }
    let read = |path: PathBuf| json(&fs::read_to_string(path).expect("a config can be read"));
    let expected = read(case.join("expected_config.json"));
    let actual = read(out.join("config.json"));
    for key in ["num_hidden_layers", "vocab_size"] {
        if expected[key] != actual[key] {
            return Err(format!("{key}: expected {}, found {}", expected[key], actual[key]));
        }
    }
    Ok(())
}

/// Puts the expected rows of embeddings in the order of the vocabulary that was written: appended
/// tokens have no fixed order in mergekit.
fn reorder_rows(
    expected: &mut BTreeMap<String, Tensor>,
    expected_vocabulary: &Value,
    out: &Path,
) -> Result<(), String> {
    let text = fs::read_to_string(out.join("tokenizer.json")).map_err(|e| e.to_string())?;
    let vocabulary = vocabulary_of(&json(&text));
    let expected_vocabulary = expected_vocabulary.as_object().expect("a map");
    let mut tokens: Vec<&str> = expected_vocabulary.keys().map(String::as_str).collect();
    tokens.sort_unstable();
    if tokens != vocabulary.keys().map(String::as_str).collect::<Vec<_>>() {
        return Err(format!("expected the tokens {tokens:?}, found {:?}", vocabulary.keys()));
    }
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let Some(tensor) = expected.get_mut(name) else { continue };
        let row = tensor.data.len() / tensor.shape[0] as usize;
        let rows = tensor.data.clone();
        for (token, id) in &vocabulary {
            let from = expected_vocabulary[token].as_u64().expect("an id") as usize * row;
            let to = *id as usize * row;
            tensor.data[to..to + row].copy_from_slice(&rows[from..from + row]);
        }
    }
    Ok(())
}

fn vocabulary_of(tokenizer: &Value) -> BTreeMap<String, u64> {
    let plain = tokenizer["model"]["vocab"].as_object().expect("a vocabulary");
    let added = tokenizer["added_tokens"].as_array().expect("a list");
    plain
        .iter()
        .map(|(token, id)| (token.clone(), id.as_u64().expect("an id")))
        .chain(added.iter().map(|token| {
            let content = token["content"].as_str().expect("text").to_owned();
            (content, token["id"].as_u64().expect("an id"))
        }))
        .collect()
}

/// Compares the share of zeros in the task vectors and their mean magnitude, over the whole model.
fn check_shares(
    base: &Path,
    expected: &BTreeMap<String, Tensor>,
    actual: &BTreeMap<String, Tensor>,
) -> Result<(), String> {
    let base = read_checkpoint(base).tensors;
    let (expected, count) = zeros_and_magnitude(&base, expected);
    let (actual, _) = zeros_and_magnitude(&base, actual);
    // Five standard deviations of a share of `count` draws, twice because both sides draw.
    let spread = 5.0 * (2.0 * expected.0 * (1.0 - expected.0) / count).sqrt();
    if (expected.0 - actual.0).abs() > spread {
        return Err(format!("share of zeros {}, expected {} ± {spread}", actual.0, expected.0));
    }
    let spread = 8.0 * expected.1 / count.sqrt();
    if (expected.1 - actual.1).abs() > spread {
        return Err(format!("mean magnitude {}, expected {} ± {spread}", actual.1, expected.1));
    }
    Ok(())
}

fn zeros_and_magnitude(
    base: &BTreeMap<String, Tensor>,
    merged: &BTreeMap<String, Tensor>,
) -> ((f64, f64), f64) {
    let (mut zeros, mut magnitude, mut count) = (0.0, 0.0, 0.0);
    for (name, tensor) in merged {
        for (merged, base) in tensor.values().iter().zip(base[name].values()) {
            let delta = merged - base;
            zeros += f64::from(u8::from(delta == 0.0));
            magnitude += delta.abs();
            count += 1.0;
        }
    }
    ((zeros / count, magnitude / count), count)
}

fn base_of(set: &Path, case: &Path) -> PathBuf {
    let text = fs::read_to_string(case.join("config.yml")).expect("a case has a configuration");
    let line = text.lines().find_map(|line| line.strip_prefix("base_model: "));
    set.join(line.expect("random methods have a base").trim())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}
