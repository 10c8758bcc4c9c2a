//! Models whose experts lie in stacks, merged with models that store each by itself, in the layout of the base.
//!
//! Catches halves of a stack that are exchanged, sides that are turned, experts in another order, experts that
//! are lost, and results that depend on threads or memory. What an element must be is computed from the numbers
//! that the test itself put into the models.

use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::{DType, Outcome, Space, Tensor, mixdown, read_checkpoint};
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
