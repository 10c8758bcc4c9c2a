//! Facts about whole tensors before matrix ops, and about their results: norms, shares and sums over one
//! tensor, a layer or the model, compared with the same formulas worked out in f64.
//!
//! Catches an op that sees a norm of the wrong tensor or of none, a threshold that is found over too few
//! elements, a stored result that is found though another tensor has moved its threshold, and bytes that
//! depend on threads, memory or an interruption.

use std::collections::BTreeMap;
use std::fs;

use mixdown_kit::{DType, Space, Stored, checkpoint, mixdown, read_checkpoint};
use mixdown_suite::literal::{Matrix, norm, threshold, trimmed};
use mixdown_suite::{merge, program, with_snapshots};

const MODELS: &str = "mixdown: 1\nmodels: {base: base, a: a, b: b}\nbase: base\ndtype: float64\n";

fn family() -> Space {
    let space = Space::new();
    let model =
        |name: &str| checkpoint(name).layers(2).hidden(32).intermediate(48).dtype(DType::F32);
    model("base").write(&space);
    for (seed, name) in [(11, "a"), (12, "b")] {
        model(name).expert(seed, 0.01).write(&space);
    }
    space
}

/// The linear weights: task vectors of an expert.
fn deltas(space: &Space, expert: &str) -> BTreeMap<String, Matrix> {
    let (base, expert) = (read_checkpoint(space.path("base")), read_checkpoint(space.path(expert)));
    let linear = base.tensors.keys().filter(|name| name.contains("_proj."));
    let delta = |name: &String| {
        let values =
            expert.values(name).iter().zip(base.values(name)).map(|(x, y)| x - y).collect();
        let shape = &base.tensor(name).shape;
        (name.clone(), Matrix::new(shape[0] as usize, shape[1] as usize, values))
    };
    let found: BTreeMap<String, Matrix> = linear.map(delta).collect();
    assert_eq!(found.len(), 14);
    found
}

/// The layer's number in a name.
fn layer(name: &str) -> &str {
    name.split('.').nth(2).expect("a name in a layer")
}

/// Compares what was added to the base with these matrices.
#[track_caller]
fn check(space: &Space, merged: &Stored, expected: &BTreeMap<String, Matrix>) {
    let base = read_checkpoint(space.path("base"));
    for (name, expected) in expected {
        let largest = threshold(expected.values.iter(), 1);
        let added = merged.values(name).into_iter().zip(base.values(name)).map(|(x, y)| x - y);
        for (at, (found, expected)) in added.zip(&expected.values).enumerate() {
            let near = (found - expected).abs() < 1e-9 * largest.max(1e-3);
            assert!(near, "{name}, element {at}: {found} instead of {expected}");
        }
    }
}

fn each(
    from: &BTreeMap<String, Matrix>,
    f: impl Fn(&str, &Matrix) -> Matrix,
) -> BTreeMap<String, Matrix> {
    from.iter().map(|(name, matrix)| (name.clone(), f(name, matrix))).collect()
}

fn kept(matrix: &Matrix, threshold: f64) -> Matrix {
    Matrix::new(matrix.rows, matrix.columns, trimmed(&matrix.values, threshold))
}

fn share(matrix: &Matrix, density: f64) -> Matrix {
    let count = (matrix.values.len() as f64 * density) as usize;
    kept(matrix, threshold(matrix.values.iter(), count))
}

fn scaled(matrix: &Matrix, factor: f64) -> Matrix {
    let values = matrix.values.iter().map(|value| value * factor).collect();
    Matrix::new(matrix.rows, matrix.columns, values)
}

/// `max(1, ⌊p·share⌋)` leading directions.
fn truncated(matrix: &Matrix, share: f64) -> Matrix {
    let rank = ((matrix.rows.min(matrix.columns) as f64 * share) as usize).max(1);
    matrix.with_singular_values(|k, sigma| if k < rank { sigma } else { 0.0 })
}

/// A merge of the first expert by these steps, each for linear weights only.
fn steps(formula: &str) -> String {
    format!(
        "{MODELS}steps:\n  delta: experts[0] - base\n  other: experts[1] - base\n  \
         found: where(is_linear(), {formula}, delta)\noutput: base + found\n"
    )
}

#[test]
fn matrix_ops_are_applied_to_what_norms_and_thresholds_give() {
    let space = family();
    let delta = deltas(&space, "a");
    let merged = |formula: &str| {
        merge(&space, &steps(formula), &["--force"]).success();
        read_checkpoint(space.path("merged"))
    };
    let found = merged("truncated_svd(keep_largest(delta, 0.2), rank=0.5)");
    check(&space, &found, &each(&delta, |_, delta| truncated(&share(delta, 0.2), 0.5)));

    // Not the same as a factor on the result: directions of no length stay out by their size.
    let found = merged("polar(where(norm(delta) > 0, delta / norm(delta), delta)) * norm1(delta)");
    let expected = each(&delta, |_, delta| {
        let sum: f64 = delta.values.iter().map(|value| value.abs()).sum();
        scaled(&delta.with_singular_values(|_, _| 1.0), sum)
    });
    check(&space, &found, &expected);

    let found = merged("truncated_svd(delta / sqrt(norm2(delta, scope=\"layer\")), rank=2)");
    let expected = each(&delta, |name, own| {
        // Tensors of the layer that take no part, its norms, do not count.
        let of_layer = delta.iter().filter(|(other, _)| layer(other) == layer(name));
        let square: f64 = of_layer.map(|(_, one)| norm(&one.values).powi(2)).sum();
        let scaled = scaled(own, 1.0 / square.sqrt());
        scaled.with_singular_values(|k, sigma| if k < 2 { sigma } else { 0.0 })
    });
    check(&space, &found, &expected);

    let found = merged("truncated_svd(keep_largest(delta, 0.3, scope=\"model\"), rank=0.25)");
    let all = || delta.values().flat_map(|one| &one.values);
    let count = (all().count() as f64 * 0.3) as usize;
    let over_all = threshold(all(), count);
    check(&space, &found, &each(&delta, |_, delta| truncated(&kept(delta, over_all), 0.25)));
}

/// A threshold over a result whose operand has one itself, twice.
#[test]
fn facts_and_matrix_ops_take_turns() {
    let space = family();
    let (delta, other) = (deltas(&space, "a"), deltas(&space, "b"));
    let formula = "truncated_svd(keep_largest(truncated_svd(keep_largest(delta, 0.5), rank=4) \
         + other * norm(truncated_svd(other, rank=1)), 0.3), rank=2) / norm(delta)";
    merge(&space, &steps(formula), &[]).success();
    let expected = each(&delta, |name, delta| {
        let first = share(delta, 0.5).with_singular_values(|k, s| if k < 4 { s } else { 0.0 });
        let spectral = other[name].svd().1[0];
        let sum = first.values.iter().zip(&other[name].values).map(|(x, y)| x + y * spectral);
        let sum = Matrix::new(delta.rows, delta.columns, sum.collect());
        let last = share(&sum, 0.3).with_singular_values(|k, s| if k < 2 { s } else { 0.0 });
        scaled(&last, 1.0 / norm(&delta.values))
    });
    check(&space, &read_checkpoint(space.path("merged")), &expected);
}

/// These are over lists, and get steps of their own.
const INTERFERENCE: &str = "interference";
const KNOTS: &str = "knots_ties";

const FORMULAS: [&str; 8] = [
    INTERFERENCE,
    KNOTS,
    "truncated_svd(keep_largest(delta, 0.2), rank=0.5)",
    "polar(keep_largest(delta, 0.2, scope=\"model\")) * norm(delta)",
    "keep_largest(polar(delta / norm(delta)) * norm2(other, scope=\"layer\"), 0.1)",
    // A fact over facts of all layers.
    "truncated_svd(delta * position(norm2(delta, scope=\"layer\")) / layers(), rank=0.5)",
    // Facts of the model over results, dense ones and factors, which wait aside; and ops on these.
    "keep_largest(polar(delta) + truncated_svd(other, rank=3), 0.1, scope=\"model\")",
    "truncated_svd(keep_largest(truncated_svd(delta, rank=3), 0.4, scope=\"model\") / norm(polar(other)), rank=0.5)",
];

fn recipe(formula: &str) -> String {
    match formula {
        INTERFERENCE => format!(
            "{MODELS}steps:\n  delta: experts - base\n  unit: where(norm(delta) > 0, delta / norm(delta), delta)\n  \
             found: where(is_linear(), interference(unit, steps=5), mean(unit))\noutput: base + 0.1 * found\n"
        ),
        KNOTS => format!("{MODELS}method: knots_ties\nparameters: {{density: 0.3}}\n"),
        formula => steps(formula),
    }
}

/// The weights of the result, which is then removed.
fn take(space: &Space) -> Vec<(String, Vec<u8>)> {
    let mut files = space.files_under("merged");
    files.retain(|(name, _)| name.ends_with(".safetensors"));
    fs::remove_dir_all(space.path("merged")).expect("the result can be removed");
    files
}

#[test]
fn threads_memory_and_store_change_nothing() {
    let space = family();
    for formula in FORMULAS {
        let recipe = recipe(formula);
        merge(&space, &recipe, &["--threads", "1", "--no-cache"]).success();
        let expected = take(&space);
        for arguments in [
            &["--threads", "2", "--no-cache"][..],
            &["--threads", "3", "--memory", "60MB", "--no-cache"],
            &[],
            &[],
        ] {
            merge(&space, &recipe, arguments).success();
            assert!(take(&space) == expected, "{formula}, {arguments:?}: other bytes");
        }
    }
}

/// What a threshold over the model is, all tensors decide: a result from before must not be found.
#[test]
fn stored_results_know_what_their_facts_are_made_from() {
    let space = family();
    let mut before = Vec::new();
    for formula in FORMULAS {
        merge(&space, &recipe(formula), &[]).success();
        before.push(take(&space));
    }
    // One tensor of an expert changes, a hundredfold.
    let name = "model.layers.1.mlp.up_proj.weight";
    let mut changed = checkpoint("a").layers(2).hidden(32).intermediate(48).dtype(DType::F32);
    changed = changed.expert(11, 0.01);
    for element in 0..400 {
        changed = changed.set(name, element * 3, 0.5 + element as f64 / 1024.0);
    }
    changed.write(&space);
    for (formula, before) in FORMULAS.into_iter().zip(before) {
        merge(&space, &recipe(formula), &[]).success();
        let with_store = take(&space);
        merge(&space, &recipe(formula), &["--no-cache"]).success();
        assert!(take(&space) == with_store, "{formula}: an old result was found");
        assert!(before != with_store, "{formula}: the change must show");
    }
}

#[test]
fn another_factor_finds_what_is_stored() {
    let space = family();
    let formula = |factor: &str| {
        format!(
            "{factor} * truncated_svd(keep_largest(delta, 0.2, scope=\"model\") / norm(delta), rank=0.5)"
        )
    };
    merge(&space, &steps(&formula("1")), &[]).success();
    take(&space);
    let outcome = merge(&space, &steps(&formula("0.5")), &["--json"]).success();
    let last = outcome.stdout.lines().last().expect("events");
    let event: serde_json::Value = serde_json::from_str(last).expect("an event is JSON");
    let all = event["matrices"].as_array().expect("reports");
    assert_eq!(all.len(), 14);
    assert!(all.iter().all(|one| one["from_store"] == true), "{all:?}");
}

#[test]
fn an_interrupted_merge_ends_with_the_same_bytes() {
    let space = family();
    for formula in FORMULAS {
        space.write("recipe.yaml", recipe(formula));
        program(&space, &["--no-cache"]).run().success();
        let expected = take(&space);
        for tensors in [0, 1, 5, 9] {
            let mut running = program(&space, &["--no-cache", "--threads", "1"]).start();
            while recorded(&space) < tensors && !running.has_ended() {
                std::thread::yield_now();
            }
            running.kill();
            if !space.exists("merged") {
                program(&space, &["--no-cache"]).run().success();
            }
            assert!(take(&space) == expected, "{formula}, killed after {tensors} tensors");
        }
    }
}

/// Tensors that unfinished work has recorded.
fn recorded(space: &Space) -> usize {
    let journal = fs::read(space.path(".merged.mixdown-partial/journal")).unwrap_or_default();
    journal.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1)
}

/// What is trimmed can be written as an adapter: the leading directions of what is left.
#[test]
fn an_adapter_holds_the_leading_directions_of_what_is_trimmed() {
    let space = family();
    let output = "output: {as: adapter, rank: 6}\n";
    let recipe = format!(
        "mixdown: 1\nmodels: {{base: base, a: a, b: b}}\nbase: base\nmethod: ties\ndtype: float32\n\
         parameters: {{density: 0.3, weight: 1}}\n{output}"
    );
    merge(&space, &recipe, &[]).success();
    let whole = recipe.replace(output, "");
    space.write("whole.yaml", whole);
    mixdown(&space, ["merge", "whole.yaml", "--out", "whole"]).success();
    let (base, whole) = (read_checkpoint(space.path("base")), read_checkpoint(space.path("whole")));
    let adapter = mixdown_kit::read_safetensors(space.path("merged/adapter_model.safetensors"));
    for (name, delta) in deltas(&space, "a") {
        let module = name.strip_suffix(".weight").expect("a weight");
        let factor = |side: &str| {
            let tensor = &adapter[&format!("base_model.model.{module}.lora_{side}.weight")];
            Matrix::new(tensor.shape[0] as usize, tensor.shape[1] as usize, tensor.values())
        };
        let found = factor("B").times(&factor("A"));
        let values = whole.values(&name);
        let update = values.iter().zip(base.values(&name)).map(|(x, y)| x - y);
        let update = Matrix::new(delta.rows, delta.columns, update.collect());
        let expected = update.with_singular_values(|k, sigma| if k < 6 { sigma } else { 0.0 });
        for (found, expected) in found.values.iter().zip(&expected.values) {
            assert!((found - expected).abs() < 1e-5, "{name}: {found} instead of {expected}");
        }
    }
    let over_model = recipe.replace("density: 0.3", "density: 0.3, scope: model");
    let talk = merge(&space, &over_model, &["--force"]).exits(2).talk();
    assert!(talk.contains("depends on other tensors"), "{talk}");
}

/// `[τ_1 … τ_N] = U·[R_1 … R_N]`: U as columns, and the coordinates of each.
fn common_basis(experts: &[&Matrix]) -> (Matrix, Vec<Matrix>) {
    let (rows, columns) = (experts[0].rows, experts[0].columns);
    let side_by_side = (0..rows).flat_map(|row| {
        experts.iter().flat_map(move |one| one.values[row * columns..][..columns].to_vec())
    });
    let all = Matrix::new(rows, columns * experts.len(), side_by_side.collect());
    let (left, _, _) = all.svd();
    let inverse = left.transposed();
    let own = experts.iter().map(|one| inverse.times(one)).collect();
    (left, own)
}

/// KnOTS-TIES as the paper's code has it: keep the largest of all coordinates of all tensors, everything that
/// equals the next one too; elect signs; mean of those that agree.
fn knots(
    experts: [&BTreeMap<String, Matrix>; 2],
    density: f64,
    over_model: bool,
) -> BTreeMap<String, Matrix> {
    let bases: BTreeMap<&String, (Matrix, Vec<Matrix>)> = experts[0]
        .keys()
        .map(|name| (name, common_basis(&experts.map(|expert| &expert[name]))))
        .collect();
    let least = |values: Vec<&f64>| {
        let kept = (values.len() as f64 * density) as usize;
        threshold(values.into_iter(), kept + 1)
    };
    let whole: Vec<f64> = (0..2)
        .map(|expert| least(bases.values().flat_map(|(_, own)| &own[expert].values).collect()))
        .collect();
    let merge = |(name, (left, own)): (&&String, &(Matrix, Vec<Matrix>))| {
        let own: Vec<Vec<f64>> = (0..2)
            .map(|expert| {
                let values = &own[expert].values;
                let of_tensor = least(values.iter().collect());
                trimmed(values, if over_model { whole[expert] } else { of_tensor })
            })
            .collect();
        let elected = own[0].iter().zip(&own[1]).map(|(a, b)| {
            let sign = (a + b).signum();
            let agreeing: Vec<&f64> =
                [a, b].into_iter().filter(|&value| value * sign > 0.0).collect();
            agreeing.iter().copied().sum::<f64>() / agreeing.len().max(1) as f64
        });
        let columns = own[0].len() / left.columns;
        let merged = Matrix::new(left.columns, columns, elected.collect());
        ((*name).clone(), left.times(&merged))
    };
    bases.iter().map(merge).collect()
}

/// A share of the coordinates of the whole model, or of each tensor: full rank, and of adapters' rank, where
/// directions that are not there must not count.
#[test]
fn knots_trims_coordinates_over_the_model() {
    let space = family();
    let full = [deltas(&space, "a"), deltas(&space, "b")];
    // Experts of rank 3 on the same base, one of them larger in the first layer.
    let base = read_checkpoint(space.path("base"));
    for (name, expert, from) in [("low-a", 0, &full[0]), ("low-b", 1, &full[1])] {
        let mut builder = checkpoint("base").layers(2).hidden(32).intermediate(48);
        builder = builder.dtype(DType::F64);
        let mut written = Vec::new();
        for tensor in builder.tensors() {
            let mut values = base.values(&tensor.name);
            if let Some(delta) = from.get(&tensor.name) {
                let low = delta.with_singular_values(|k, sigma| match k {
                    _ if k > 2 => 0.0,
                    _ if layer(&tensor.name) == "0" => sigma * 2.0,
                    _ => sigma * (1.0 + f64::from(expert)),
                });
                values.iter_mut().zip(&low.values).for_each(|(value, low)| *value += low);
            }
            written.push(mixdown_kit::Tensor::new(
                &tensor.name,
                DType::F64,
                &tensor.shape,
                &values,
            ));
        }
        let copy = written
            .into_iter()
            .fold(checkpoint(name).layers(2).hidden(32).intermediate(48), |copy, one| {
                copy.without(&one.name).with(one)
            });
        copy.write(&space);
    }
    let low = [deltas(&space, "low-a"), deltas(&space, "low-b")];
    for (names, experts) in [(["a", "b"], &full), (["low-a", "low-b"], &low)] {
        for (scope, over_model) in [("model", true), ("tensor", false)] {
            let recipe = format!(
                "mixdown: 1\nmodels: {{base: base, a: {}, b: {}}}\nbase: base\nmethod: knots_ties\n\
                 dtype: float64\nparameters: {{density: 0.3, scope: {scope}}}\n",
                names[0], names[1]
            );
            merge(&space, &recipe, &["--force"]).success();
            let expected = knots([&experts[0], &experts[1]], 0.3, over_model);
            check(&space, &read_checkpoint(space.path("merged")), &expected);
        }
    }
}

/// What waits aside is told before the merge: each common basis, and nothing where each tensor is by itself.
#[test]
fn a_plan_tells_what_lies_aside() {
    let space = family();
    let footprint = |recipe: &str| {
        space.write("recipe.yaml", recipe);
        mixdown(&space, ["plan", "recipe.yaml", "--json"]).success().json()["footprint"].take()
    };
    let knots = recipe(KNOTS);
    let shapes = deltas(&space, "a");
    let basis = |one: &Matrix| {
        let (rows, columns) = (one.rows as u64, 2 * one.columns as u64);
        rows.min(columns) * (columns + rows + 1) * 8
    };
    let over_model = footprint(&knots);
    assert_eq!(over_model["bytes_aside"], shapes.values().map(basis).sum::<u64>());
    let own = footprint(&knots.replace("density", "scope: tensor, density"));
    assert_eq!(own["bytes_aside"], 0);
    // Both read the operands once, and the base once more where the result is added to it.
    assert_eq!(over_model["bytes_read"], own["bytes_read"]);
    space.write("recipe.yaml", knots);
    let table = mixdown(&space, ["plan", "recipe.yaml"]).success().stdout;
    assert!(table.lines().any(|line| line.starts_with("aside ")), "{table}");
}

#[test]
fn what_does_not_compare_layers_is_refused() {
    let space = family();
    let mut told = String::new();
    for formula in [
        "position(norm2(delta)) * delta",
        "position(delta) * delta",
        "layers(delta) * delta",
        "from_coordinates(experts - base, experts - base)",
        "from_coordinates(delta, delta)",
        "coordinates(delta)",
        "keep_largest(delta, 0.5, among=norm(delta))",
        "keep_largest(delta, 0.5, amongst=delta)",
    ] {
        let outcome = merge(&space, &steps(formula), &[]);
        assert_eq!(outcome.status, Some(2), "{formula}: {}", outcome.stderr);
        told.push_str(&format!("== {formula}\n{}\n", outcome.talk()));
    }
    with_snapshots(|| insta::assert_snapshot!("facts_refused", told));
}

/// Tensors that share no fact with the others do not count among those that it needs.
#[test]
fn a_recipe_as_a_model_may_look_at_its_whole_model() {
    let space = family();
    for (method, parameters) in [("knots_ties", "density: 0.4"), ("doge", "steps: 3")] {
        let inner = format!("{MODELS}method: {method}\nparameters: {{{parameters}}}\n");
        space.write("inner.yaml", inner);
        let outer = |inner: &str| {
            format!(
                "mixdown: 1\nmodels: {{inner: {inner}, b: b}}\nmethod: linear\n\
                 parameters: {{weight: 0.5}}\ndtype: float64\n"
            )
        };
        merge(&space, &outer("{recipe: inner.yaml}"), &["--force"]).success();
        let streamed = read_checkpoint(space.path("merged"));
        mixdown(&space, ["merge", "inner.yaml", "--out", "inner", "--force"]).success();
        merge(&space, &outer("inner"), &["--force"]).success();
        let written = read_checkpoint(space.path("merged"));
        assert_eq!(streamed.tensors, written.tensors, "{method}");
    }
}
