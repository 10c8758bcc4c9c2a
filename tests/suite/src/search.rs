//! What suites of searches share: a space with prompts, and a program that answers them by the value.

use mixdown_kit::{Outcome, Program, Space};
use serde_json::{Value, json};

use crate::{configuration, family};

/// Answers each prompt by the value: at 0.0 and 0.1 all alike, then more and more different. Counts
/// its runs in `runs`.
pub const ANSWERS: &str = r#"
echo "$MIXDOWN_ALPHA $(wc -l < "$1")" >> runs
test -f "$3/config.json" || exit 9
while read -r line; do
    id=$(echo "$line" | sed 's/{"id":"\([^"]*\)".*/\1/')
    case "$MIXDOWN_ALPHA $id" in
        0.0*|0.1*|0.2*) text=Yes ;;
        "0.3 p1") text=NO ;;
        0.3*) text=yes ;;
        *) text="$MIXDOWN_ALPHA" ;;
    esac
    echo "{\"id\":\"$id\",\"text\":\"$text\",\"finish_reason\":\"stop\"}"
done < "$1" > "$2"
"#;

/// The values that are searched.
pub const GRID: &str = "grid: {parameters.t: {from: 0.0, to: 0.5, step: 0.1}}\n";

/// A space with a recipe, four prompts and settings; this script answers. `extra` is added to the settings.
pub fn space(script: &str, extra: &str) -> Space {
    let space = family();
    space.write("recipe.yaml", configuration("slerp", Some("base"), &[("a", "")], "t: 0.5"));
    space.write("answer.sh", script);
    let prompts: String = (0..4)
        .map(|n| json!({"id": format!("p{n}"), "messages": [{"role": "user", "content": format!("{n}?")}]}))
        .map(|prompt| format!("{prompt}\n"))
        .collect();
    space.write("in/prompts.jsonl", prompts);
    space.write(
        "in/search.yaml",
        format!(
            "search: 1\n{GRID}prompts: prompts.jsonl\n\
             generator:\n  command:\n    argv: [sh, answer.sh, '{{prompts}}', '{{out}}', '{{model_dir}}']\n{extra}"
        ),
    );
    space
}

/// Searches into `found`.
pub fn search(space: &Space, arguments: &[&str]) -> Outcome {
    let program = Program::new(space).args(["search", "recipe.yaml", "--with", "in/search.yaml"]);
    program.args(["--out", "found"]).args(arguments).run()
}

/// What was found.
pub fn report(space: &Space) -> Value {
    serde_json::from_str(&space.read_text("found/report.json")).expect("the report is JSON")
}

/// The differences of all candidates in one way of counting.
pub fn curve(report: &Value, mode: &str) -> Vec<Value> {
    let candidates = report["candidates"].as_array().expect("there are candidates");
    candidates.iter().map(|candidate| candidate["differences"][mode].clone()).collect()
}

/// Checks what was said.
#[track_caller]
pub fn told(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(outcome.stderr.contains(word), "`{word}` is missing:\n{}", outcome.stderr);
    }
}
