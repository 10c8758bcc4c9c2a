//! Models whose experts lie in stacks, merged with models that store each by itself, in the layout of the base.
//!
//! Catches halves of a stack that are exchanged, sides that are turned, experts in another order, experts that
//! are lost, and results that depend on threads or memory. What an element must be is computed from the numbers
//! that the test itself put into the models.

use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::{DType, Outcome, Space, Tensor, mixdown, read_checkpoint};
use mixdown_suite::with_snapshots;
use serde_json::{Value, json};

const EXPERTS: u64 = 3;
const INNER: u64 = 6;
const HIDDEN: u64 = 4;
const LAYER: &str = "model.layers.0.";

/// A number that no other element of the model has: of a part of an expert (0 gate, 1 up, 2 down).
fn value(model: f64, part: u64, expert: u64, row: u64, column: u64) -> f64 {
    model * 1000.0 + (((part * EXPERTS + expert) * 10 + row) * 10 + column) as f64
}

fn matrix(model: f64, part: u64, expert: u64) -> (Vec<u64>, Vec<f64>) {
    let (rows, columns) = if part == 2 { (HIDDEN, INNER) } else { (INNER, HIDDEN) };
    let values = (0..rows * columns)
        .map(|at| value(model, part, expert, at / columns, at % columns))
        .collect();
    (vec![rows, columns], values)
}

/// Names of gate, up and down of an expert, and of the router.
type Names = ([&'static str; 3], &'static str);
const QWEN: Names = (
    ["mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj", "mlp.experts.{e}.down_proj"],
    "mlp.gate.weight",
);
const MIXTRAL: Names = (
    [
        "block_sparse_moe.experts.{e}.w1",
        "block_sparse_moe.experts.{e}.w3",
        "block_sparse_moe.experts.{e}.w2",
    ],
    "block_sparse_moe.gate.weight",
);

fn router(model: f64, name: &str) -> Tensor {
    let values: Vec<f64> = (0..EXPERTS * HIDDEN).map(|at| model + at as f64).collect();
    Tensor::new(&format!("{LAYER}{name}"), DType::F32, &[EXPERTS, HIDDEN], &values)
}

/// Each expert by itself.
fn separate(model: f64, (parts, gate): Names, experts: u64) -> Vec<Tensor> {
    let mut tensors = vec![router(model, gate)];
    for expert in 0..experts {
        for (part, name) in (0..).zip(parts) {
            let (shape, values) = matrix(model, part, expert);
            let name = format!("{LAYER}{}.weight", name.replace("{e}", &expert.to_string()));
            tensors.push(Tensor::new(&name, DType::F32, &shape, &values));
        }
    }
    tensors
}

/// All experts in stacks; turned, each expert is [in, out].
fn stacked(model: f64, turned: bool) -> Vec<Tensor> {
    let stack = |name: &str, parts: &[u64]| {
        let mut values = Vec::new();
        let (mut rows, mut columns) = (0, 0);
        for expert in 0..EXPERTS {
            let mut all = Vec::new();
            (rows, columns) = (0, 0);
            for &part in parts {
                let (shape, own) = matrix(model, part, expert);
                (rows, columns) = (rows + shape[0], shape[1]);
                all.extend(own);
            }
            match turned {
                false => values.extend(all),
                true => values.extend(
                    (0..rows * columns).map(|at| all[(at % rows * columns + at / rows) as usize]),
                ),
            }
        }
        let shape = if turned { [EXPERTS, columns, rows] } else { [EXPERTS, rows, columns] };
        Tensor::new(&format!("{LAYER}mlp.experts.{name}"), DType::F32, &shape, &values)
    };
    vec![router(model, "mlp.gate.weight"), stack("gate_up_proj", &[0, 1]), stack("down_proj", &[2])]
}

fn write(space: &Space, folder: &str, tensors: &[Tensor], config: &Value) {
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    space.write(format!("{folder}/model.safetensors"), safetensors_bytes(&tensors));
    space.write(format!("{folder}/config.json"), config.to_string());
}

fn config() -> Value {
    json!({"model_type": "some_moe", "num_hidden_layers": 1})
}

/// base + (other − base) · ½.
fn merged(space: &Space, out: &str, more: &[&str]) -> Outcome {
    space.write(
        "recipe.yaml",
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n  \
         - {model: other, parameters: {weight: 0.5}}\ndtype: float32\n",
    );
    let all: Vec<&str> =
        ["merge", "recipe.yaml", "--out", out].into_iter().chain(more.iter().copied()).collect();
    mixdown(space, all)
}

/// The output is the mean of both models in the layout of this one.
#[track_caller]
fn assert_mean(space: &Space, base: &[Tensor], other: &[Tensor]) {
    let found = read_checkpoint(space.path("out")).tensors;
    assert_eq!(found.len(), base.len(), "{:?}", found.keys());
    for (base, other) in base.iter().zip(other) {
        let out = &found[&base.name];
        assert_eq!(out.shape, base.shape, "{}", base.name);
        let expected: Vec<f64> = (base.values().iter().zip(other.values()))
            .map(|(base, other)| base + (other - base) * 0.5)
            .collect();
        assert_eq!(out.values(), expected, "{}", base.name);
    }
}

#[test]
fn experts_get_the_layout_of_the_base() {
    // Of each: base, other, and other as the base would store it.
    let layouts = [
        (stacked(1.0, false), separate(3.0, QWEN, EXPERTS), stacked(3.0, false)),
        (separate(1.0, QWEN, EXPERTS), stacked(3.0, false), separate(3.0, QWEN, EXPERTS)),
        (stacked(1.0, true), separate(3.0, QWEN, EXPERTS), stacked(3.0, true)),
        (separate(1.0, QWEN, EXPERTS), stacked(3.0, true), separate(3.0, QWEN, EXPERTS)),
        (stacked(1.0, true), stacked(3.0, false), stacked(3.0, true)),
        (stacked(1.0, false), stacked(3.0, true), stacked(3.0, false)),
        (stacked(1.0, false), separate(3.0, MIXTRAL, EXPERTS), stacked(3.0, false)),
        (separate(1.0, MIXTRAL, EXPERTS), stacked(3.0, false), separate(3.0, MIXTRAL, EXPERTS)),
    ];
    for (base, other, alike) in layouts {
        let space = Space::new();
        write(&space, "base", &base, &config());
        write(&space, "other", &other, &config());
        let outcome = merged(&space, "out", &[]).success();
        let told = "the experts of `other` lie otherwise than those of `base`";
        assert!(
            outcome.stderr.contains("W0625") && outcome.stderr.contains(told),
            "{}",
            outcome.stderr
        );
        assert_mean(&space, &base, &alike);
    }
}

/// Which of two sides of equal length is which, the other stack of the layer tells.
#[test]
fn a_square_stack_is_turned_as_its_sibling() {
    let square = |model: f64, turned: bool| {
        // Inner and hidden of 4: down is square, gate and up are not.
        let cut = |name: &str, tensor: &Tensor| {
            let (rows, count) = if name == "gate_up_proj" { (8, 8 * 4) } else { (4, 4 * 4) };
            let values: Vec<f64> = tensor.values().into_iter().take(3 * count).collect();
            let shape = if turned { [3, 4, rows] } else { [3, rows, 4] };
            let mut own = values.clone();
            if turned {
                let rows = rows as usize;
                for (at, value) in own.iter_mut().enumerate() {
                    let (expert, at) = (at / (rows * 4), at % (rows * 4));
                    *value = values[expert * rows * 4 + at % rows * 4 + at / rows];
                }
            }
            Tensor::new(&format!("{LAYER}mlp.experts.{name}"), DType::F32, &shape, &own)
        };
        let all = stacked(model, false);
        vec![cut("gate_up_proj", &all[1]), cut("down_proj", &all[2])]
    };
    let space = Space::new();
    write(&space, "base", &square(1.0, true), &config());
    write(&space, "other", &square(3.0, false), &config());
    merged(&space, "out", &[]).success();
    assert_mean(&space, &square(1.0, true), &square(3.0, true));
}

/// Stacks of these sides, of which each element has another value; turned, the matrices are stored the other way
/// round.
fn sided(model: f64, layer: u64, name: &str, [rows, columns]: [u64; 2], turned: bool) -> Tensor {
    let value = |expert: u64, row: u64, column: u64| {
        model * 1000.0 + layer as f64 * 300.0 + ((expert * 10 + row) * 8 + column) as f64
    };
    let mut values = Vec::new();
    let (first, second) = if turned { (columns, rows) } else { (rows, columns) };
    for expert in 0..EXPERTS {
        for at in 0..first * second {
            let (a, b) = (at / second, at % second);
            values.push(if turned { value(expert, b, a) } else { value(expert, a, b) });
        }
    }
    let name = format!("model.layers.{layer}.mlp.experts.{name}");
    Tensor::new(&name, DType::F32, &[EXPERTS, first, second], &values)
}

const GATE_UP: &str = "gate_up_proj";
const DOWN: &str = "down_proj";

/// What each layer has of stacks, with rows and columns as a linear layer would have them.
type Sizes<'a> = &'a [(u64, &'a str, [u64; 2])];

fn sized(model: f64, sizes: Sizes<'_>, turned: bool) -> Vec<Tensor> {
    sizes.iter().map(|(layer, name, sides)| sided(model, *layer, name, *sides, turned)).collect()
}

fn of_version(version: &str, hidden: u64) -> Value {
    json!({
        "model_type": "some_moe",
        "num_hidden_layers": 1,
        "transformers_version": version,
        "text_config": {"hidden_size": hidden},
    })
}

/// What the sides of a square stack leave open, other layers tell, sizes of either model, or the versions that
/// wrote both.
#[test]
fn square_stacks_are_told_apart_by_what_else_there_is() {
    let check = |sizes: [Sizes<'_>; 2], turned: [bool; 2], configs: [&Value; 2]| {
        let space = Space::new();
        let common: Vec<_> =
            sizes[0].iter().filter(|one| sizes[1].contains(one)).copied().collect();
        write(&space, "base", &sized(1.0, sizes[0], turned[0]), configs[0]);
        write(&space, "other", &sized(3.0, sizes[1], turned[1]), configs[1]);
        let mut rules = String::new();
        for (layer, name, _) in &common {
            rules += &format!(
                "  - {{tensors: '**.{layer}.**.{name}', method: task_arithmetic, parameters: {{weight: 0.5}}}}\n"
            );
        }
        if sizes[0] != sizes[1] {
            rules += "  - {tensors: '**', drop: true}\n";
        }
        let head = "mixdown: 1\nmodels: {base: base, other: other}\nbase: base\nrules:\n";
        space.write("recipe.yaml", format!("{head}{rules}"));
        mixdown(&space, ["merge", "recipe.yaml", "--out", "out"]).success();
        assert_mean(&space, &sized(1.0, &common, turned[0]), &sized(3.0, &common, turned[0]));
    };
    let (silent, of_4, of_5) = (config(), of_version("4.57.1", 4), of_version("5.0.0", 4));
    let whole: Sizes<'_> = &[(0, GATE_UP, [8, 4]), (0, DOWN, [4, 4]), (1, DOWN, [4, 4])];
    let lone: Sizes<'_> = &[(1, DOWN, [4, 4])];
    // Layer 0 tells of layer 1, whichever lies which way.
    for turned in [[true, false], [false, true], [false, false], [true, true]] {
        check([whole, whole], turned, [&silent, &silent]);
        // Twice the inner size is the hidden one: gate and up are square, and down tells.
        let narrow: Sizes<'_> = &[(0, GATE_UP, [4, 4]), (0, DOWN, [4, 2])];
        check([narrow, narrow], turned, [&silent, &silent]);
        // Each model has another stack that tells of itself, and both the square one.
        let other: Sizes<'_> = &[(2, GATE_UP, [8, 4]), (2, DOWN, [4, 4]), (1, DOWN, [4, 4])];
        check([whole, other], turned, [&silent, &silent]);
        // Gate above up alone, and the hidden size.
        let up: Sizes<'_> = &[(0, GATE_UP, [8, 4]), (1, DOWN, [4, 4])];
        let other: Sizes<'_> = &[(2, GATE_UP, [8, 4]), (1, DOWN, [4, 4])];
        check([up, other], turned, [&of_4, &of_5]);
    }
    check([lone, lone], [false, false], [&of_4, &of_4]);
    check([lone, lone], [true, true], [&of_5, &of_5]);
}

/// A square stack of which nothing tells how it lies is no guess, and a rule that merges it not is none of it.
#[test]
fn square_stacks_that_nothing_tells_apart_are_refused() {
    let lone: Sizes<'_> = &[(0, DOWN, [4, 4])];
    let (silent, of_4, of_5) = (config(), of_version("4.57.1", 4), of_version("5.0.0", 4));
    let of_moe = json!({"model_type": "qwen3_vl_moe", "text_config": {"hidden_size": 4}});
    let singles = |part: &str| {
        let single = |expert: u64| {
            let name = format!("{LAYER}mlp.experts.{expert}.{part}.weight");
            Tensor::new(&name, DType::F32, &[4, 4], &[expert as f64; 16])
        };
        (0..EXPERTS).map(single).collect::<Vec<_>>()
    };
    let stacked = |turned| sized(3.0, lone, turned);
    let up: Sizes<'_> = &[(0, "up_proj", [4, 4]), (0, DOWN, [4, 4])];
    let cases = [
        (sized(1.0, lone, false), stacked(true), &silent, &silent),
        (sized(1.0, lone, false), stacked(false), &of_4, &of_5),
        (sized(1.0, lone, true), stacked(false), &of_moe, &of_moe),
        (sized(1.0, up, true), sized(3.0, up, false), &silent, &silent),
        (sized(1.0, lone, false), singles("down_proj"), &silent, &silent),
        (singles("down_proj"), stacked(true), &silent, &silent),
    ];
    for (number, (base, other, of_base, of_other)) in cases.iter().enumerate() {
        let space = Space::new();
        write(&space, "base", base, of_base);
        write(&space, "other", other, of_other);
        let outcome = merged(&space, "out", &[]);
        assert_ne!(outcome.status, Some(0), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("E0147"), "{}", outcome.stderr);
        assert!(!space.exists("out"));
        // Where names differ there is nothing to keep, either.
        if number > 3 {
            continue;
        }
        let keeps =
            "mixdown: 1\nmodels: {base: base, other: other}\nbase: base\nrules: [{keep: base}]\n";
        space.write("recipe.yaml", keeps);
        mixdown(&space, ["merge", "recipe.yaml", "--out", "out"]).success();
    }
    let space = Space::new();
    write(&space, "base", &cases[0].0, &silent);
    write(&space, "other", &cases[0].1, &silent);
    let talk = merged(&space, "out", &[]).talk();
    with_snapshots(|| insta::assert_snapshot!("square_experts", talk));
}

/// The result of another recipe lies as its base does, and is read as it is made.
#[test]
fn square_stacks_of_a_recipe_lie_as_its_base() {
    let sizes: Sizes<'_> = &[(0, GATE_UP, [8, 4]), (0, DOWN, [4, 4]), (1, DOWN, [4, 4])];
    let space = Space::new();
    write(&space, "base", &sized(1.0, sizes, false), &config());
    write(&space, "other", &sized(3.0, sizes, true), &config());
    write(&space, "third", &sized(5.0, sizes, true), &config());
    let inner = "mixdown: 1\nmodels: {other: other, third: third}\nrules: [{method: linear, parameters: {weight: 0.5}}]\n";
    space.write("inner.yaml", inner);
    let recipe = "mixdown: 1\nmodels: {base: base, other: {recipe: inner.yaml}}\nbase: base\nrules:\n  - {tensors: '**.1.**', method: task_arithmetic, parameters: {weight: 0.5}}\n  - {keep: base}\n";
    space.write("recipe.yaml", recipe);
    let outcome = mixdown(&space, ["merge", "recipe.yaml", "--out", "out"]);
    assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("E0147"), "{}", outcome.stderr);
}

#[test]
fn threads_and_memory_change_nothing() {
    let space = Space::new();
    write(&space, "base", &stacked(1.0, true), &config());
    write(&space, "other", &separate(3.0, QWEN, EXPERTS), &config());
    merged(&space, "out", &["--threads", "1"]).success();
    merged(&space, "two", &["--threads", "3", "--memory", "32MB"]).success();
    let file = |out: &str| space.read(format!("{out}/model.safetensors"));
    assert!(file("out") == file("two"));
}

/// Nothing is brought together where experts would be lost, or where rows of gate and up come by turns.
#[test]
fn what_does_not_go_together_is_refused() {
    let refuse = |base: &[Tensor], other: &[Tensor], config: &Value, words: &[&str]| {
        let space = Space::new();
        write(&space, "base", base, config);
        write(&space, "other", other, config);
        let outcome = merged(&space, "out", &[]);
        assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
        for word in words.iter().chain(&["E0309"]) {
            assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
        }
    };
    let (more, fewer) = (separate(3.0, QWEN, EXPERTS + 1), separate(3.0, QWEN, EXPERTS - 1));
    refuse(&stacked(1.0, false), &more, &config(), &["experts.gate_up_proj"]);
    refuse(&stacked(1.0, false), &fewer, &config(), &["experts.gate_up_proj"]);
    refuse(&fewer, &stacked(1.0, false), &config(), &["experts"]);
    refuse(&more, &stacked(1.0, false), &config(), &["experts"]);
    let turns = json!({"model_type": "gpt_oss", "num_hidden_layers": 1});
    refuse(&stacked(1.0, true), &separate(3.0, QWEN, EXPERTS), &turns, &["experts"]);
}
