//! Merges through matrix ops: the same bytes whatever the threads and the store, results that are
//! found again, sweeps, and adapters as experts.
//!
//! Catches a result that depends on who computed it, a key that forgets what a result is made from,
//! an entry that is believed though it is damaged, and an adapter that is scaled or matched wrongly.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mixdown_kit::{
    DType, Space, Tensor, Tolerance, adapter, checkpoint, compare_tensors, mixdown, read_checkpoint,
};
use mixdown_suite::{configuration, merge, merged, refusal, with_snapshots};
use serde_json::{Value, json};

/// Where the program keeps results when it is run in a space.
const STORE: &str = ".home/cache/mixdown/store";

/// Larger than one block of rows, with both sides longer in some tensors.
fn family() -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(2).hidden(64).intermediate(144);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b"), (13, "c")] {
        model(name).expert(seed, 0.01).write(&space);
    }
    space
}

const THREE: [(&str, &str); 3] = [("a", ""), ("b", ""), ("c", "")];

fn recipe(method: &str, parameters: &str) -> String {
    configuration(method, Some("base"), &THREE, parameters)
}

/// What is read again, put aside, or stored once is the same with any budget; swudi's down projection has so many
/// directions that their reflections lie aside, two such ops at a time beside each other.
#[test]
fn budgets_change_nothing_of_large_matrices() {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(2).hidden(344).intermediate(1100);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b"), (13, "c")] {
        model(name).expert(seed, 0.01).write(&space);
    }
    for (method, parameters, least) in [
        ("swudi", "", "90MB"),
        ("aswudi", "filter: exponential, time: 40, rank_rule: stable_rank", "90MB"),
        ("doge", "steps: 2", "40MB"),
        ("star", "", "60MB"),
        ("svc", "", "60MB"),
    ] {
        let recipe = recipe(method, parameters);
        merge(&space, &recipe, &["--no-cache", "--threads", "2", "--memory", "4GB"]).success();
        let expected = take(&space, "merged");
        merge(&space, &recipe, &["--no-cache", "--threads", "1", "--memory", least]).success();
        let found = take(&space, "merged");
        assert!(found == expected, "{method} depends on the budget");
    }
}

/// The weights of a result, which is then removed.
fn take(space: &Space, folder: &str) -> Vec<(String, Vec<u8>)> {
    let files = space.files_under(folder);
    fs::remove_dir_all(space.path(folder)).expect("the result can be removed");
    files
}

fn entries(space: &Space) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => walk(&path, found),
                false if path.extension().is_some_and(|end| end == "entry") => found.push(path),
                false => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(&space.path(STORE), &mut found);
    found.sort();
    found
}

fn done(space: &Space, recipe: &str, arguments: &[&str]) -> Value {
    let outcome = merge(space, recipe, &[arguments, &["--json"]].concat()).success();
    let last = outcome.stdout.lines().last().expect("events").to_owned();
    serde_json::from_str(&last).expect("an event is JSON")
}

/// How many results came from the store, of how many.
fn reused(event: &Value) -> (usize, usize) {
    let all = event["matrices"].as_array().expect("reports");
    (all.iter().filter(|one| one["from_store"] == true).count(), all.len())
}

#[test]
fn threads_memory_and_store_change_nothing() {
    let space = family();
    for (method, parameters) in [
        ("optmerge", "learning_rate: 1e-3, steps: 20"),
        ("optmerge", "tuning: lora, momentum: 0.9"),
        ("wudi", "steps: 15"),
        ("swudi", ""),
        ("aswudi", ""),
        ("tsv", ""),
        ("iso_c", ""),
        ("iso_cts", ""),
        ("knots_ties", ""),
        ("knots_ties", "scope: tensor"),
        ("doge", "steps: 10"),
    ] {
        let recipe = recipe(method, parameters);
        merge(&space, &recipe, &["--threads", "1", "--no-cache"]).success();
        let expected = take(&space, "merged");
        assert_eq!(entries(&space).len(), 0, "{method}: `--no-cache` keeps nothing");
        let check = |what: &str, arguments: &[&str]| {
            let event = done(&space, &recipe, arguments);
            assert!(take(&space, "merged") == expected, "{method}, {what}: other bytes");
            reused(&event)
        };
        check("two threads", &["--threads", "2", "--no-cache"]);
        check(
            "three threads, little memory",
            &["--threads", "3", "--memory", "60MB", "--no-cache"],
        );
        let (stored, all) = check("an empty store", &[]);
        // One for each linear weight; of a common basis, and of the way back.
        let results = if method == "knots_ties" { 28 } else { 14 };
        assert_eq!((stored, all), (0, results), "{method}");
        let (stored, _) = check("a full store", &[]);
        assert_eq!(stored, entries(&space).len(), "{method}: everything kept is found");
        assert!(stored > 0, "{method}: nothing was kept");
        for entry in entries(&space).iter().step_by(2) {
            fs::remove_file(entry).unwrap();
        }
        let kept = entries(&space).len();
        let (stored, _) = check("a store that is half full", &[]);
        assert_eq!(stored, kept, "{method}");
        fs::remove_dir_all(space.path(STORE)).unwrap();
    }
}

#[test]
fn a_damaged_entry_is_noticed_and_computed_again() {
    let space = family();
    let recipe = recipe("swudi", "");
    merge(&space, &recipe, &[]).success();
    let expected = take(&space, "merged");
    let all = entries(&space);
    for (number, entry) in all.iter().enumerate() {
        let mut bytes = fs::read(entry).unwrap();
        let middle = bytes.len() / 2 + number;
        match number % 2 {
            0 => bytes[middle] ^= 4,
            _ => bytes.truncate(middle),
        }
        fs::write(entry, bytes).unwrap();
    }
    let outcome = merge(&space, &recipe, &[]).success();
    assert!(outcome.stderr.contains("W0613"), "{}", outcome.stderr);
    assert!(take(&space, "merged") == expected, "damage changed the result");
    assert_eq!(entries(&space).len(), all.len(), "what was damaged is there again");
}

/// Where NaN are allowed a result may hold them, and a merge that does not allow them must not find it.
#[test]
fn results_of_merges_that_allow_nan_are_not_kept() {
    let space = family();
    merge(&space, &recipe("swudi", ""), &["--allow-nonfinite"]).success();
    assert!(entries(&space).is_empty());
}

#[test]
fn another_lambda_starts_from_what_is_there() {
    let space = family();
    merge(&space, &recipe("optmerge", "lambda: 0.3"), &[]).success();
    take(&space, "merged");
    let event = done(&space, &recipe("optmerge", "lambda: 1.0"), &[]);
    let (stored, all) = reused(&event);
    assert_eq!(stored, all);
    // Another setting of the op, or other experts, must not find them.
    fs::remove_dir_all(space.path("merged")).unwrap();
    let event = done(&space, &recipe("optmerge", "learning_rate: 2e-5"), &[]);
    assert_eq!(reused(&event).0, 0);
    fs::remove_dir_all(space.path("merged")).unwrap();
    checkpoint("c").layers(2).hidden(64).intermediate(144).expert(14, 0.01).write(&space);
    let event = done(&space, &recipe("optmerge", "lambda: 0.3"), &[]);
    assert_eq!(reused(&event).0, 0);
}

#[test]
fn a_plan_shows_what_is_in_the_store() {
    let space = family();
    space.write("recipe.yaml", recipe("swudi", ""));
    let store =
        || mixdown(&space, ["plan", "recipe.yaml", "--json"]).success().json()["store"].take();
    assert_eq!(store()["results"], 14);
    merge(&space, &recipe("swudi", ""), &[]).success();
    // Files written a moment ago may change again without a new time, so their digests are not
    // remembered; what is known is what is there.
    let after = store();
    let known = after["results"].as_u64().unwrap() - after["unknown"].as_u64().unwrap();
    assert!(after["there"].as_u64().unwrap() <= known, "{after}");
}

#[test]
fn a_sweep_equals_merges_one_by_one() {
    let space = family();
    let recipe = recipe("swudi", "");
    for arguments in
        [&["--sweep", "lambda=0.1,0.5,1.5"][..], &["--sweep", "lambda=0.1,0.5,1.5", "--no-cache"]]
    {
        merge(&space, &recipe, arguments).success();
        assert!(!space.path("merged").join(".store").exists());
        for value in ["0.1", "0.5", "1.5"] {
            let swept = read_checkpoint(space.path(format!("merged/lambda-{value}")));
            let set = format!("parameters.lambda={value}");
            let alone = space.path("alone");
            space.write("alone.yaml", recipe.clone());
            mixdown(&space, ["merge", "alone.yaml", "--out", "alone", "--set", &set, "--no-cache"])
                .success();
            let expected = read_checkpoint(&alone);
            for (name, tensor) in &expected.tensors {
                assert!(swept.tensors[name].data == tensor.data, "{value}: {name}");
            }
            fs::remove_dir_all(alone).unwrap();
        }
        fs::remove_dir_all(space.path("merged")).unwrap();
    }
    merge(&space, &recipe, &["--sweep", "lambda=0.1,much"]).exits(2);
    assert!(!space.path("merged").exists(), "a wrong value is found before the first merge");
}

const MODULES: [(&str, [u64; 2]); 3] =
    [("self_attn.q_proj", [64, 64]), ("mlp.up_proj", [144, 64]), ("mlp.down_proj", [64, 144])];

/// An adapter on all modules, and the same model with the product added in f64.
fn adapted(space: &Space, name: &str, rank: u64, prefix: &str, layers: Range<u64>) {
    let mut low_rank = adapter(name, rank);
    let base = read_checkpoint(space.path("base"));
    let mut full = checkpoint(&format!("{name}-full"))
        .layers(2)
        .hidden(64)
        .intermediate(144)
        .dtype(DType::F32);
    for layer in layers {
        for (module, shape) in MODULES {
            let module = format!("layers.{layer}.{module}");
            low_rank = low_rank.module(&format!("{prefix}{module}"), rank, shape);
            let factors: Vec<Vec<f64>> = low_rank.tensors()[low_rank.tensors().len() - 2..]
                .iter()
                .map(|tensor| tensor.values())
                .collect();
            let weight = format!("model.{module}.weight");
            let before = base.values(&weight);
            let [outputs, inputs] = shape.map(|side| side as usize);
            for row in 0..outputs {
                for column in 0..inputs {
                    let product: f64 = (0..rank as usize)
                        .map(|k| {
                            factors[1][row * rank as usize + k] * factors[0][k * inputs + column]
                        })
                        .sum();
                    let element = row * inputs + column;
                    full = full.set(&weight, element, before[element] + 2.0 * product);
                }
            }
        }
    }
    low_rank.write(space);
    full.write(space);
}

fn adapters() -> Space {
    let space = Space::new();
    let base = checkpoint("base").layers(2).hidden(64).intermediate(144);
    base.dtype(DType::F32).write(&space);
    adapted(&space, "x", 4, "model.", 0..2);
    // What one of two adapters leaves alone is another case.
    adapted(&space, "y", 3, "model.", 0..1);
    space
}

#[test]
fn adapters_are_experts_like_the_models_they_stand_for() {
    let space = adapters();
    for (method, parameters) in [
        ("task_arithmetic", "weight: 0.6"),
        ("ties", "weight: 1, density: 0.5"),
        ("optmerge", "tuning: lora, momentum: 0.9"),
        ("optmerge", "steps: 20"),
        ("swudi", "time: 20"),
        // A model that is stored has a noise of rounding in all directions; those beyond the rank would
        // be kept by the default rank.
        ("tsv", "rank: 3"),
        ("knots", ""),
    ] {
        let merged = |experts: [&str; 2]| {
            let experts = experts.map(|name| (name, ""));
            let recipe = configuration(method, Some("base"), &experts, parameters);
            merge(&space, &recipe, &[]).success();
            let found = read_checkpoint(space.path("merged"));
            fs::remove_dir_all(space.path("merged")).unwrap();
            found
        };
        let low_rank = merged(["base+x", "base+y"]);
        let full = merged(["x-full", "y-full"]);
        for (name, expected) in &full.tensors {
            let found = &low_rank.tensors[name];
            let near =
                expected.values().iter().zip(found.values()).all(|(e, f)| (e - f).abs() < 2e-5);
            assert!(near, "{method} {parameters}: `{name}`");
        }
        // Named alone, an adapter is on the recipe's base.
        let alone = merged(["x", "y"]);
        for (name, expected) in &low_rank.tensors {
            let equal = compare_tensors(expected, &alone.tensors[name], Tolerance::SameBits);
            assert!(equal.is_ok(), "{method}: {equal:?}");
        }
    }
}

/// Where not all is done on factors, a product must not get directions from rounding: TSV would give them
/// the weight of others, and KnOTS count them among the elements that it trims.
#[test]
fn an_adapter_has_its_rank_beside_a_model_too() {
    let space = adapters();
    let rank = |method: &str, experts: [&str; 2], parameters: &str| {
        let experts = experts.map(|name| (name, ""));
        let event = done(&space, &configuration(method, Some("base"), &experts, parameters), &[]);
        fs::remove_dir_all(space.path("merged")).unwrap();
        let all = event["matrices"].as_array().unwrap().iter();
        let last = all.filter_map(|one| {
            let name = one["tensor"].as_str().unwrap();
            let is_changed = |(module, _): &(&str, _)| name.contains(&format!("0.{module}"));
            MODULES.iter().any(is_changed).then(|| one["ranks"].as_array().unwrap().last().cloned())
        });
        last.flatten().collect::<Vec<_>>()
    };
    assert_eq!(rank("tsv", ["x-full", "y"], "rank: 8"), [3, 3, 3]);
    assert_eq!(rank("knots_ties", ["x", "y"], ""), [7, 7, 7]);
}

#[test]
fn older_and_newer_module_names_mean_the_same() {
    let space = adapters();
    let weights = |name: &str| {
        let recipe = configuration("task_arithmetic", Some("base"), &[(name, "weight: 1")], "");
        merge(&space, &recipe, &[]).success();
        let found = read_checkpoint(space.path("merged"));
        fs::remove_dir_all(space.path("merged")).unwrap();
        found
    };
    let expected = weights("base+x");
    adapted(&space, "newer", 4, "model.language_model.", 0..2);
    // The numbers of an adapter depend on its names, so the file is renamed instead.
    let bytes = fs::read(space.path("x/adapter_model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let renamed =
        header.replace("base_model.model.model.", "base_model.model.model.language_model.");
    let padding = " ".repeat(renamed.len().next_multiple_of(8) - renamed.len());
    let renamed = renamed + &padding;
    let mut file = (renamed.len() as u64).to_le_bytes().to_vec();
    file.extend(renamed.as_bytes());
    file.extend(&bytes[8 + length..]);
    space.write("newer/adapter_model.safetensors", file);
    let found = weights("base+newer");
    for (name, tensor) in &expected.tensors {
        assert!(tensor.data == found.tensors[name].data, "{name}");
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let space = adapters();
    adapter("stranger", 2).module("model.layers.0.attention.query", 2, [64, 64]).write(&space);
    adapter("wide", 2).module("model.layers.0.self_attn.q_proj", 2, [64, 80]).write(&space);
    adapter("weighted", 2)
        .config("use_dora", json!(true))
        .module("model.layers.0.self_attn.q_proj", 2, [64, 64])
        .write(&space);
    adapter("none", 2).config("r", json!(0)).write(&space);
    let bare = adapter("bare", 2).module("model.layers.0.self_attn.q_proj", 2, [64, 64]);
    fs::remove_file(bare.write(&space).join("adapter_config.json")).unwrap();
    let experts = ["base+stranger", "base+wide", "base+weighted", "base+none", "bare"];
    let experts = experts.map(|name| (name, "weight: 1"));
    let recipe = configuration("task_arithmetic", Some("base"), &experts, "");
    let outcome = merge(&space, &recipe, &[]);
    assert_ne!(outcome.status, Some(0));
    with_snapshots(|| insta::assert_snapshot!("adapters_refused", outcome.talk()));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let space = family();
    let mut told = String::new();
    for (method, parameters) in [
        ("optmerge", "rank: 200"),
        ("optmerge", "rank: 0"),
        ("optmerge", "rank: 1.5"),
        ("optmerge", "tuning: lora, momentum: 1"),
        ("optmerge", "tuning: lora, learning_rate: 500"),
        ("wudi", "learning_rate: -1"),
        ("swudi", "time: 0"),
        ("swudi", "keep: 65"),
        ("aswudi", "rank_rule: entropi"),
    ] {
        let outcome = merge(&space, &recipe(method, parameters), &[]);
        assert_ne!(outcome.status, Some(0), "{method} {parameters}");
        for left in ["merged", ".merged.mixdown-partial"] {
            assert!(!space.path(left).exists(), "{method} {parameters}: `{left}`");
        }
        told.push_str(&format!("== {method} {parameters}\n{}\n", outcome.talk()));
    }
    with_snapshots(|| insta::assert_snapshot!("matrix_settings_refused", told));
}

/// Formulas can look at singular values, and make Gram matrices of what they have.
#[test]
fn spectra_and_gram_matrices_are_values_of_formulas() {
    let space = family();
    let models = "mixdown: 1\nmodels: {base: base, a: a, b: b}\nbase: base\ndtype: float64\n";
    let read = |name: &str| read_checkpoint(space.path(name));
    // Σσ² is Σx²: what is added is nothing but rounding.
    let recipe = format!(
        "{models}steps:\n  delta: experts[0] - base\n  squares: where(is_linear(), norm2(singular_values(delta)), norm2(delta))\n\
         output: base + squares / norm2(delta)\n"
    );
    merge(&space, &recipe, &["--force"]).success();
    let (found, base) = (read("merged"), read("base"));
    for name in ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"] {
        for (found, base) in found.values(name).iter().zip(base.values(name)) {
            assert!((found - base - 1.0).abs() < 1e-12, "{name}: {found}, {base}");
        }
    }
    // Without what is off the diagonals each column is a mean, weighted by its squared lengths.
    let models = "mixdown: 1\nmodels: {a: a, b: b}\ndtype: float64\n";
    let recipe = format!(
        "{models}output: where(is_linear(), regression(experts, gram(experts), off_diagonal=0), mean(experts))\n"
    );
    merge(&space, &recipe, &["--force"]).success();
    let (found, a, b) = (read("merged"), read("a"), read("b"));
    for name in ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"] {
        let columns = a.tensor(name).shape[1] as usize;
        let (a, b, found) = (a.values(name), b.values(name), found.values(name));
        let square = |values: &[f64], column: usize| -> f64 {
            values.iter().skip(column).step_by(columns).map(|value| value * value).sum()
        };
        for column in 0..columns {
            let (left, right) = (square(&a, column), square(&b, column));
            for at in (column..a.len()).step_by(columns) {
                let exact = (left * a[at] + right * b[at]) / (left + right);
                assert!(
                    (found[at] - exact).abs() < 1e-12,
                    "{name}, element {at}: {} {exact}",
                    found[at]
                );
            }
        }
    }
    // A Gram matrix has another shape than the weight.
    let recipe = format!("{models}output: experts[0] + gram(experts[0])\n");
    let talk = merge(&space, &recipe, &["--force"]).exits(2).talk();
    assert!(talk.contains("a Gram matrix has another shape than weights"), "{talk}");
}

/// The experts of a layer in one tensor are most of a model, and were averaged without a word.
#[test]
fn stacks_of_matrices_are_refused_and_a_rule_says_what_becomes_of_them() {
    const STACK: &str = "model.layers.0.mlp.experts.gate_up_proj";
    let space = Space::new();
    let number = |seed: usize, at: usize| ((seed * 31 + at * 17) % 23) as f64 / 8.0;
    let values =
        |seed: usize, count: usize| -> Vec<f64> { (0..count).map(|at| number(seed, at)).collect() };
    for (seed, model) in ["base", "a", "b"].into_iter().enumerate() {
        let stack = Tensor::new(STACK, DType::F32, &[2, 3, 4], &values(seed, 24));
        let query = "model.layers.0.self_attn.q_proj.weight";
        let query = Tensor::new(query, DType::F32, &[4, 4], &values(seed, 16));
        let bytes = mixdown_kit::raw::safetensors_bytes(&[&stack, &query]);
        space.write(format!("{model}/model.safetensors"), bytes);
    }
    let methods = [
        "tsv",
        "wudi",
        "iso_c",
        "iso_cts",
        "optmerge",
        "swudi",
        "aswudi",
        "knots",
        "knots_ties",
        "doge",
    ];
    for method in methods {
        let recipe = format!(
            "merge_method: {method}\nbase_model: base\nmodels: [{{model: a}}, {{model: b}}]\n"
        );
        let told = refusal(&space, &recipe, &[], 2);
        for words in ["E0320", STACK, "[2, 3, 4]", "**.mlp.experts.gate_up_proj"] {
            assert!(told.contains(words), "{method}: {told}");
        }
    }
    let recipe = "mixdown: 1\nmodels: {base: base, a: a, b: b}\nbase: base\nrules:\n  \
                  - {tensors: \"**.mlp.experts.gate_up_proj\", method: task_arithmetic, parameters: {weight: 0.5}}\n  \
                  - {method: tsv}\n";
    let found = merged(&space, recipe).values(STACK);
    let expected = values(1, 24).into_iter().zip(values(2, 24)).map(|(a, b)| (a + b) / 2.0);
    for (found, expected) in found.into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
    }
}
