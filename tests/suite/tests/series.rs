//! Series of checkpoints: what a path with `*` or a window stands for, and what makes none.

use mixdown_kit::{DType, Space, checkpoint};
use mixdown_suite::{merge, merged};

/// Checkpoints of these numbers under `run`.
fn run(numbers: &[u64]) -> Space {
    let space = Space::new();
    for &number in numbers {
        let name = format!("run/checkpoint-{number}");
        checkpoint(&name).layers(1).dtype(DType::F32).expert(number, 0.1).write(&space);
    }
    space
}

const AVERAGE: &str = "merge_method: checkpoint_average
parameters: {schedule: ema, alpha: 0.3}
dtype: float32
";

fn series(path: &str) -> String {
    format!("{AVERAGE}models: [{{model: \"{path}\"}}]\n")
}

fn listed(numbers: &[u64]) -> String {
    let models = numbers.iter().map(|number| format!("{{model: ./run/checkpoint-{number}}}"));
    format!("{AVERAGE}models: [{}]\n", models.collect::<Vec<_>>().join(", "))
}

/// Not in the order of letters: 1000 comes after 500.
#[test]
fn a_series_is_in_the_order_of_its_numbers() {
    let numbers = [500, 1000, 1500, 1600];
    let values = |recipe: &str| merged(&run(&numbers), recipe).values("lm_head.weight").to_vec();
    let wanted = values(&listed(&numbers));
    assert_eq!(values(&series("run/checkpoint-*")), wanted);
    assert_eq!(values(&series("./run/checkpoint-{500..1600}")), wanted);
    assert_eq!(values(&series("run/checkpoint-{1000..1600}")), values(&listed(&numbers[1..])));
    let strict = "mixdown: 1\nmodels: {all: run/checkpoint-*}\nmethod: checkpoint_average\n\
                  parameters: {schedule: ema, alpha: 0.3}\ndtype: float32\n";
    assert_eq!(values(strict), wanted);
}

#[test]
fn names_without_a_number_are_told() {
    let space = run(&[1, 2]);
    checkpoint("run/checkpoint-best").layers(1).dtype(DType::F32).write(&space);
    let outcome = merge(&space, &series("run/checkpoint-*"), &[]).success();
    assert!(outcome.stderr.contains("W0636"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("checkpoint-best"), "{}", outcome.stderr);
}

#[test]
fn what_makes_no_series_is_refused() {
    let check = |numbers: &[u64], path: &str, parts: &[&str]| {
        let outcome = merge(&run(numbers), &series(path), &[]).exits(2);
        for part in parts.iter().chain(&["E0226", "recipe.yaml:4:"]) {
            assert!(outcome.stderr.contains(part), "{part} in\n{}", outcome.stderr);
        }
    };
    check(&[5], "run/checkpoint-*", &["is one checkpoint", "checkpoint-5"]);
    check(&[5, 6], "run/checkpoints-*", &["no checkpoint is called", "stands for a number"]);
    check(&[5, 6], "ran/checkpoint-*", &["there is no series"]);
    check(&[5, 6], "run/checkpoint-{7..9}", &["no checkpoint is called"]);
    check(&[5, 6], "run/checkpoint-{9..7}", &["ends before it starts", "{7..9}"]);
    check(&[5, 6], "run*/checkpoint-*", &["several places"]);
    check(
        &[500, 1000, 2000, 2500],
        "run/checkpoint-*",
        &["checkpoints are missing", "1500 and on, between 1000 and 2000"],
    );
    // The help is a window that can be merged: of the longer side, and with its folder.
    for (numbers, window) in [
        (&[500, 1000, 2000, 2500], "run/checkpoint-{2000..2500}"),
        (&[10, 20, 30, 50], "run/checkpoint-{10..30}"),
    ] {
        check(numbers, "run/checkpoint-*", &[&format!("such as `{window}`")]);
        merge(&run(numbers), &series(window), &[]).success();
    }
    check(&[5, 6, 7], "run/checkpoint-0*", &["no checkpoint is called"]);
    let base = "merge_method: task_arithmetic\nbase_model: run/checkpoint-*\n\
                models: [{model: ./run/checkpoint-5, parameters: {weight: 1}}]\n";
    let outcome = merge(&run(&[5, 6]), base, &[]).exits(2);
    assert!(outcome.stderr.contains("one model is needed"), "{}", outcome.stderr);
}

#[test]
fn a_series_of_unequal_shapes_is_refused() {
    let space = run(&[1, 2]);
    checkpoint("run/checkpoint-3").layers(1).intermediate(80).dtype(DType::F32).write(&space);
    let outcome = merge(&space, &series("run/checkpoint-*"), &[]).exits(2);
    for part in ["E0307", "checkpoint-3", "different shapes"] {
        assert!(outcome.stderr.contains(part), "{part} in\n{}", outcome.stderr);
    }
}
