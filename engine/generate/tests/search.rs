//! Searches whose answers come from the embedded generator, and the choice made again by hand.
//!
//! Catches a program that is not found or not named when it is missing, answers of another candidate,
//! and a curve or a choice that is not Algorithm 1's over the answers that the merges give.

mod tiny;

use std::path::Path;

use mixdown_kit::{Outcome, Program, Space};
use serde_json::{Value, json};
use tiny::{answers, cases, program, write_model};

const VALUES: [&str; 7] = ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"];

/// Two models of one family, the recipe that goes from the one to the other, and twelve prompts.
fn space() -> (Space, Vec<Value>) {
    let space = Space::new();
    let mut case = cases()[0].clone();
    case["config"]["architectures"] = json!(["LlamaForCausalLM"]);
    write_model(&space, "a", &case, 0);
    write_model(&space, "b", &case, 1);
    space.write(
        "recipe.yaml",
        "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 1.0}}\n  \
         - {model: b, parameters: {weight: 0.0}}\nparameters: {normalize: true}\ndtype: float32\n",
    );
    let prompts: Vec<Value> = (0..12)
        .map(|n| json!({"id": format!("p{n}"), "input_ids": [n, (7 * n + 3) % 40]}))
        .collect();
    let lines: String = prompts.iter().map(|prompt| format!("{prompt}\n")).collect();
    space.write("asked.jsonl", lines);
    (space, prompts)
}

fn write_settings(space: &Space, diff: &str) {
    space.write(
        "search.yaml",
        format!(
            "search: 1\ngrid: {{'models[1].parameters.weight': {{from: 0.0, to: 0.6, step: 0.1}}}}\n\
             prompts: asked.jsonl\ngenerator: {{embedded: {{max_new_tokens: 3}}}}\nverify: 3\n\
             objective: {{diff: {diff}}}\n"
        ),
    );
}

fn search(space: &Space, diff: &str, path: &Path) -> Outcome {
    write_settings(space, diff);
    let arguments = ["search", "recipe.yaml", "--with", "search.yaml", "--out", "found"];
    Program::new(space).args(arguments).args(["--keep-candidates"]).env("PATH", path).run()
}

/// Algorithm 1 of AdaMMS and its two variants, word for word: for each candidate that can be chosen, the
/// number of prompts answered otherwise than by its neighbors.
fn curve(diff: &str, answers: &[Vec<String>]) -> Vec<Option<usize>> {
    let last = answers.len() - 1;
    let count = |k: usize, differs: &dyn Fn(usize) -> usize| -> usize {
        (0..answers[k].len()).map(differs).sum()
    };
    let other = |a: usize, b: usize, x: usize| usize::from(answers[a][x] != answers[b][x]);
    (0..=last)
        .map(|k| match diff {
            "sum" if k > 0 && k < last => {
                Some(count(k, &|x| other(k, k - 1, x) + other(k, k + 1, x)))
            }
            "union" if k > 0 && k < last => {
                Some(count(k, &|x| usize::max(other(k, k - 1, x), other(k, k + 1, x))))
            }
            "prev" if k > 0 => Some(count(k, &|x| other(k, k - 1, x))),
            _ => None,
        })
        .collect()
}

#[test]
fn the_choice_is_that_of_the_algorithm() {
    let (space, prompts) = space();
    let folder = program().parent().unwrap();
    search(&space, "sum", folder).success();
    // The same merges, answered once more outside of the search.
    let told: Vec<Vec<String>> = VALUES
        .iter()
        .map(|value| {
            let found = answers(
                &space,
                &format!("found/candidates/{value}"),
                &prompts,
                &["--max-new-tokens", "3"],
            );
            found.iter().map(|answer| answer["text"].as_str().unwrap().to_owned()).collect()
        })
        .collect();
    let mut choices = Vec::new();
    for diff in ["sum", "union", "prev"] {
        let outcome = search(&space, diff, folder).success();
        let report: Value = serde_json::from_str(&space.read_text("found/report.json")).unwrap();
        let expected = curve(diff, &told);
        for (candidate, expected) in report["candidates"].as_array().unwrap().iter().zip(&expected)
        {
            assert_eq!(candidate["differences"][diff], json!(expected), "{diff} {candidate}");
        }
        let least = expected.iter().flatten().min().unwrap();
        let chosen = expected.iter().position(|count| count.as_ref() == Some(least)).unwrap();
        assert_eq!(report["chosen"], VALUES[chosen], "{diff} of {expected:?}\n{}", outcome.stderr);
        choices.push((*least, chosen));
    }
    assert!(choices.iter().all(|(least, _)| *least > 0), "the answers differ: {choices:?}");
    let report: Value = serde_json::from_str(&space.read_text("found/report.json")).unwrap();
    assert_eq!(report["candidates"][3]["cache_hits"], 12, "no answer is made twice");
}

/// The program is looked for before anything is merged. A copy of `mixdown` has none beside it.
#[test]
fn a_missing_program_is_named_first() {
    let (space, _) = space();
    write_settings(&space, "sum");
    let copy = space.path("elsewhere/mixdown");
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    std::fs::copy(mixdown_kit::program::binary(), &copy).unwrap();
    let output = std::process::Command::new(&copy)
        .current_dir(space.root())
        .args(["search", "recipe.yaml", "--with", "search.yaml", "--out", "alone"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for word in [
        "E0520",
        "`mixdown-generate`",
        "elsewhere and on PATH",
        "cargo install --path engine/generate",
    ] {
        assert!(told.contains(word), "`{word}` is missing:\n{told}");
    }
    assert!(!space.exists("alone"));
}
