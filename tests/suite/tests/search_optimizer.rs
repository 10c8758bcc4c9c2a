//! Searches in which an optimizer chooses what is merged.
//!
//! Catches an optimum that is missed, a sequence that is another after an interruption, merges that are
//! made twice or kept in vain, and a budget that is not held.

use mixdown_kit::{Outcome, Program, Space, read_checkpoint};
use mixdown_suite::search::{report, search, told};
use mixdown_suite::{configuration, family, with_snapshots};
use serde_json::{Value, json};

const GRID: &str = "grid:\n  models[0].parameters.weight: {from: 0, to: 1, step: 0.01}\n  \
                    models[1].parameters.weight: {from: 0, to: 1, step: 0.01}\n";

fn space(optimizer: &str, command: &Value) -> Space {
    let space = family();
    let models = [("a", "weight: 0.5"), ("b", "weight: 0.5")];
    let recipe = configuration("task_arithmetic", Some("base"), &models, "normalize: false");
    space.write("recipe.yaml", recipe);
    let settings = format!(
        "search: 1\n{GRID}optimizer: {{cma_es: {optimizer}}}\nobjective: {{command: {command}}}\n"
    );
    space.write("in/search.yaml", settings);
    space
}

/// Not a test, unless a search started this program to score: it then writes minus the squared distance
/// between the model and base + 0.7·(a − base) + 0.2·(b − base), in units of what is merged.
#[test]
fn score_when_asked_to() {
    let Ok(model) = std::env::var("SUITE_SCORE") else { return };
    let [base, a, b, merged] = ["base", "a", "b", &model].map(read_checkpoint);
    let (mut distance, mut size) = (0.0, 0.0);
    for name in base.names() {
        let [base, a, b, merged] = [&base, &a, &b, &merged].map(|model| model.values(name));
        for i in 0..base.len() {
            let (a, b) = (a[i] - base[i], b[i] - base[i]);
            distance += (merged[i] - base[i] - 0.7 * a - 0.2 * b).powi(2);
            size += a * a + b * b;
        }
    }
    std::fs::write("score", format!("{{\"score\": {}}}", -distance / size)).unwrap();
}

fn scorer() -> Value {
    let script = "SUITE_SCORE=$1 \"$0\" --exact score_when_asked_to > /dev/null && cat score";
    json!(["sh", "-c", script, std::env::current_exe().unwrap(), "{model_dir}"])
}

/// The weights of each candidate, in the order in which they were tried.
fn tried(report: &Value) -> Vec<Vec<f64>> {
    let weights = |candidate: &Value| {
        let set = candidate["set"].as_object().unwrap();
        set.values().map(|value| value.as_str().unwrap().parse().unwrap()).collect()
    };
    report["candidates"].as_array().unwrap().iter().map(weights).collect()
}

/// By hand: the merge is base + x·(a − base) + y·(b − base), so the score is 0 at (0.7, 0.2), and
/// elsewhere minus a positive definite form in (x − 0.7, y − 0.2). Its axes are alike, as a and b are
/// made with equal noise.
#[test]
fn the_optimum_of_a_score_is_found() {
    let space = space("{budget: 100, seed: 1}", &scorer());
    let outcome = search(&space, &[]).success();
    told(&outcome, &["(1 of at most 100): merging", "after ", " generations: "]);
    let found = report(&space);
    let chosen = found["chosen"].as_str().unwrap();
    let candidates = found["candidates"].as_array().unwrap();
    let position = candidates.iter().position(|c| c["candidate"] == chosen).unwrap();
    let best = &tried(&found)[position];
    assert!((best[0] - 0.7).abs() < 0.015 && (best[1] - 0.2).abs() < 0.015, "{best:?}");
    assert!(candidates.len() <= 100, "{}", candidates.len());
    assert_eq!(
        (&candidates[0]["generation"], &candidates[6]["generation"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(found["optimizer"]["population"], json!(6));
    assert!(!space.exists("found/candidates"));

    let set = candidates[position]["set"].as_object().unwrap();
    let set = set.iter().flat_map(|(path, value)| {
        ["--set".to_owned(), format!("{path}={}", value.as_str().unwrap())]
    });
    let direct = ["merge", "recipe.yaml", "--out", "direct"].map(str::to_owned);
    mixdown_kit::mixdown(&space, direct.into_iter().chain(set)).success();
    assert_eq!(space.files_under("found/merged"), space.files_under("direct"));

    // Everything is known: the same sequence, and nothing is merged or scored.
    let again = search(&space, &[]).success();
    assert!(!again.stderr.contains("merging") && !again.stderr.contains("scoring"));
    assert_eq!(tried(&report(&space)), tried(&found));
}

/// Scores by the label alone, and counts.
const BY_LABEL: &str = r#"
echo "$MIXDOWN_ALPHA" >> scored
test ! -f wait || test "$(wc -l < scored)" -lt 9 || { touch waiting; sleep 60; }
echo "$MIXDOWN_ALPHA" | sed 's/[^=]*=\([0-9.]*\), [^=]*=\([0-9.]*\)/\1 \2/' |
    awk '{ print -($1 - 0.3)^2 - 4 * ($2 - 0.9)^2 }'
"#;

fn labels(space: &Space) -> Vec<String> {
    space.read_text("scored").lines().map(str::to_owned).collect()
}

#[test]
fn an_interrupted_search_goes_on_with_the_same_sequence() {
    let command = json!(["sh", "-c", BY_LABEL]);
    let whole = space("{budget: 20}", &command);
    told(&search(&whole, &[]).success(), &["generations: the budget is used up"]);
    let expected = labels(&whole);
    assert_eq!(expected.len(), 20, "the budget ends within a generation");
    assert_eq!(report(&whole)["optimizer"]["stopped"], "budget");

    let space = space("{budget: 20}", &command);
    space.write("wait", "");
    let arguments = ["search", "recipe.yaml", "--with", "in/search.yaml", "--out", "found"];
    let mut running = Program::new(&space).args(arguments).start();
    while !space.exists("waiting") {
        assert!(!running.has_ended(), "{}", running.wait().stderr);
        std::thread::yield_now();
    }
    running.interrupt().exits(130);
    std::fs::remove_file(space.path("wait")).unwrap();
    let kept = space.files_under("found/candidates");
    let kept = kept.iter().filter(|(path, _)| path.ends_with("mixdown-manifest.json")).count();
    assert_eq!(kept, 2, "the best merge and the one that is scored are kept");
    search(&space, &[]).success();
    let mut found = labels(&space);
    // The ninth was begun twice, and nothing else.
    assert_eq!(found.remove(8), expected[8]);
    assert_eq!(found, expected);
    assert_eq!(space.files_under("found/merged"), whole.files_under("found/merged"));

    // With more to spend the sequence goes on where it was.
    let settings = space.read_text("in/search.yaml").replace("budget: 20", "budget: 26");
    space.write("in/search.yaml", settings);
    search(&space, &["--keep-candidates"]).success();
    assert_eq!(labels(&space).len(), 20 + 1 + 6, "only what is new is scored");
    assert_eq!(report(&space)["candidates"].as_array().unwrap().len(), 26);
}

#[test]
fn mistakes_in_ranges_are_found_before_anything_is_merged() {
    let check = |name: &str, from: &str, to: &str, status: i32| -> Outcome {
        let space = space("{budget: 20}", &json!(["score"]));
        let settings = space.read_text("in/search.yaml").replacen(from, to, 1);
        space.write("in/search.yaml", settings);
        let outcome = search(&space, &[]).exits(status);
        with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));
        assert!(!space.exists("found"));
        outcome
    };
    check("list_for_range", "{from: 0, to: 1, step: 0.01}", "[0, 1]", 2);
    check("budget_too_small", "budget: 20", "budget: 3", 2);
    check("unknown_path", "models[0].parameters.weight", "models[7].parameters.weight", 2);
    check("not_by_answers", "objective: {command: [\"score\"]}", "objective: {diff: sum}", 2);
}
