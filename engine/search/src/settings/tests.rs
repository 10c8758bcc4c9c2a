//! Settings that are read, and those that are refused.

use mixdown_diagnostics::render::{Color, render_all};

use std::time::Duration;

use super::*;
use crate::score::Goal;

fn axes(found: &Settings) -> &[Axis] {
    let Tried::Grid(axes) = &found.tried else { panic!("{found:?}") };
    axes
}

fn settings(text: &str) -> Result<Settings, String> {
    read(&Source::new("search.yaml", text), Path::new("/data"))
        .map_err(|found| render_all(&found, Color::Plain))
}

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let told = settings(text).unwrap_err();
    for word in words {
        assert!(told.contains(word), "`{word}` is missing:\n{told}");
    }
}

const FULL: &str = "\
search: 1
grid:
  parameters.t: {from: 0.0, to: 0.6, step: 0.1}
prompts: prompts.jsonl
sample: {count: 50, seed: 2}
generator:
  command:
    argv: [sh, gen.sh, '{model_dir}', '{prompts}', '{out}']
    timeout: 1.5
    retries: 2
objective: {diff: union, normalize: [lower, strip], extract: '([A-D])', max_errors: 3, ties: middle}
chunk: 10
verify: 5
";

#[test]
fn a_whole_file_is_read() {
    let found = settings(FULL).unwrap();
    assert_eq!(axes(&found)[0].values, ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]);
    assert_eq!(found.ties, Ties::Middle);
    let Objective::Neighbors(neighbors) = found.objective else { panic!() };
    assert_eq!(neighbors.prompts, Some("/data/prompts.jsonl".into()));
    assert_eq!((neighbors.sample, neighbors.diff), (Sample::Count(50, 2), Diff::Union));
    assert_eq!((neighbors.chunk, neighbors.verify, neighbors.max_errors), (Some(10), 5, 3));
    assert_eq!(neighbors.normalize.apply("I take (B) "), "b");
    let Answering::Command(command) = neighbors.generator else { panic!() };
    assert_eq!((command.timeout, command.retries), (Some(Duration::from_millis(1500)), 2));
}

#[test]
fn a_path_alone_has_the_values_of_the_paper() {
    let text = FULL.replace("\n  parameters.t: {from: 0.0, to: 0.6, step: 0.1}", " parameters.t");
    let found = settings(&text).unwrap();
    assert_eq!(axes(&found), axes(&settings(FULL).unwrap()));
}

#[test]
fn values_keep_their_text() {
    let text = "search: 1\ngrid: {strength: [0.10, 0.2], method: [ties, linear]}\n\
                objective: {command: [score, '{model_dir}'], goal: minimize}\n";
    let found = settings(text).unwrap();
    assert_eq!(axes(&found)[0].values, ["0.10", "0.2"]);
    assert_eq!(axes(&found)[1].values, ["ties", "linear"]);
    assert!(matches!(found.objective, Objective::Score(Score { goal: Goal::Minimize, .. })));
}

#[test]
fn all_mistakes_come_together_with_places() {
    refused(
        &FULL.replace("prompts:", "promts:").replace("retries", "retrys").replace("union", "unoin"),
        &[
            "did you mean `prompts`?",
            "did you mean `retries`?",
            "did you mean `union`?",
            "search.yaml:10:5",
        ],
    );
    refused("search: 2\n", &["version 1", "no `grid`", "no `generator`"]);
    refused(
        &FULL.replace("'{out}'", "'{outt}'"),
        &["`{outt}` is not a placeholder", "did you mean `{out}`?"],
    );
    refused(&FULL.replace(", '{out}'", ""), &["`argv` has no `{out}`"]);
    refused(&FULL.replace("[lower, strip]", "[nfc]"), &["`nfc` is not supported"]);
    refused(&FULL.replace("[A-D])", "[A-D)"), &["not a regular expression"]);
    refused(&FULL.replace("step: 0.1", "step: 0"), &["no values, or too many"]);
    refused(&FULL.replace("step: 0.1", "step: 0.0001"), &["too many values", "1000"]);
    refused(&FULL.replace(", step: 0.1", ""), &["no `step`"]);
    refused(&FULL.replace("timeout: 1.5", "timeout: 0"), &["seconds above 0"]);
    refused(&FULL.replace("diff: union", "diff: embedding"), &["needs `embed`"]);
    refused(&FULL.replace("chunk: 10", "chunk: 0"), &["from 1"]);
    refused(&FULL.replace("max_errors: 3", "smooth: 1"), &["beside `smooth`"]);
    refused(
        "search: 1\ngrid: {t: [1, 2]}\nchunk: 2\nobjective: {command: [x], diff: sum}\n",
        &["`chunk` has no meaning", "`diff` has no meaning"],
    );
}

#[test]
fn neighbors_need_one_rising_parameter() {
    let with = |values: &str| FULL.replace("{from: 0.0, to: 0.6, step: 0.1}", values);
    refused(&with("[0.1]"), &["too few values", "3 at least"]);
    refused(&with("[0.1, 0.3, 0.2]"), &["must rise"]);
    refused(&with("[a, b, c]"), &["must be decimal numbers"]);
    refused(&with("[0.1, 0.10, 0.2]"), &["0.10 twice"]);
    refused(&with("[0, 1, 2]\n  other: [0, 1]"), &["a grid of several parameters has none"]);
    let prev = with("[0, 1]").replace("union", "prev");
    assert!(settings(&prev).is_ok(), "with `prev` the last can be chosen");
}

#[test]
fn exactly_one_generator() {
    let with = |text: &str| format!("search: 1\ngrid: {{t: [0, 1, 2]}}\ngenerator: {text}\n");
    assert!(settings(&with("{replay: {folder: logs, format: lmms-eval}}")).is_ok());
    assert!(settings(&with("{embedded: {max_new_tokens: 8}}\nprompts: p")).is_ok());
    refused(&with("{embedded: {max_new_tokens: 0}}\nprompts: p"), &["from 1"]);
    refused(&with("{}"), &["none of command, embedded, http, replay"]);
    refused(&with("{replay: {folder: a}, http: {base_url: 'http://x'}}"), &["http and replay"]);
    refused(&with("{http: {}}"), &["no `serve` and no `base_url`", "no `prompts`"]);
    refused(&with("{http: {base_url: x}}"), &["must begin with"]);
    refused(
        &with("{http: {base_url: 'http://x:{port}'}}"),
        &["`{port}` has no meaning", "`serve`"],
    );
    refused(
        &with("{http: {base_url: 'http://x', reload: [load, '{port}', '{modle_dir}']}}"),
        &["`{port}` has no meaning", "did you mean `{model_dir}`?"],
    );
    refused(&with("{comand: {argv: [x]}}"), &["did you mean `command`?"]);
    refused(&with("{command: {argv: sh run.sh}}"), &["must be a list"]);
}

#[test]
fn a_server_is_kept_and_has_a_key() {
    let with = |more: &str| {
        FULL.replace("  command:\n", &format!("  http: {{base_url: 'http://x', {more}}}\n")).replace(
            "    argv: [sh, gen.sh, '{model_dir}', '{prompts}', '{out}']\n    timeout: 1.5\n    retries: 2\n",
            "",
        )
    };
    let found = settings(&with("reload: [load, '{model_dir}'], api_key_env: MY_KEY_2")).unwrap();
    let Objective::Neighbors(neighbors) = found.objective else { panic!() };
    let Answering::Http(http) = &neighbors.generator else { panic!() };
    assert_eq!(http.reload.as_deref().map(<[String]>::len), Some(2));
    assert_eq!(http.api_key_env.as_deref(), Some("MY_KEY_2"));
    let id = neighbors.generator.generator().id();
    assert!(id.contains("load") && !id.contains("MY_KEY_2"), "{id}");
    let told = settings(&with("api_key_env: sk-12345")).unwrap_err();
    assert!(told.contains("`api_key_env` must name a variable") && told.contains(":7:"), "{told}");
    assert!(!told.contains("sk-12345"), "a key in the wrong place is not repeated:\n{told}");
    refused(&with("api_key_env: 1KEY"), &["must name a variable"]);
    refused(&with("api_key_env: ''"), &["must name a variable"]);
}

#[test]
fn vectors_come_from_a_program_or_a_server() {
    let with = |more: &str| FULL.replace("diff: union", &format!("diff: embedding, {more}"));
    let embed = |more: &str| {
        let Objective::Neighbors(neighbors) = settings(&with(more)).unwrap().objective else {
            panic!()
        };
        neighbors.embed
    };
    let program = embed("embed: [vectors, '{texts}', '{out}'], timeout: 2");
    let timeout = Some(Duration::from_secs(2));
    assert!(matches!(program, Some(Embed::Command(command)) if command.timeout == timeout));
    let server = embed("embed: {base_url: 'http://x', model: m, timeout: 3}");
    let Some(Embed::Http(server)) = server else { panic!() };
    assert_eq!((server.model.as_str(), server.timeout), ("m", Duration::from_secs(3)));
    refused(&with("embed: {modle: m}"), &["did you mean `model`?", "no `base_url`"]);
    refused(&with("embed: {base_url: x, model: m}"), &["must begin with"]);
    let late = with("embed: {base_url: 'http://x', model: m}, timeout: 3");
    refused(&late, &["`timeout` has no meaning here: a server has its own"]);
}

#[test]
fn an_optimizer_searches_ranges() {
    let with = |grid: &str, optimizer: &str| {
        format!(
            "search: 1\ngrid: {grid}\noptimizer: {optimizer}\nobjective: {{command: [score]}}\n"
        )
    };
    let ranges = "{a: {from: 0, to: 1}, b: {from: -1, to: 2, step: 0.5}}";
    let found = settings(&with(ranges, "{cma_es: {budget: 60, sigma: 0.2, seed: 7}}")).unwrap();
    assert_eq!(found.tried.paths(), ["a", "b"]);
    assert_eq!(found.tried.count(), "at most 60");
    let Tried::Optimizer(found) = found.tried else { panic!() };
    // 4 + ⌊3 ln 2⌋ = 6.
    assert_eq!((found.population, found.sigma, found.seed), (6, 0.2, 7));
    assert_eq!(found.ranges[1].steps.values(), ["-1.0", "-0.5", "0.0", "0.5", "1.0", "1.5", "2.0"]);
    let plain = "{cma_es: {budget: 60}}";
    refused(&with("{a: [0, 1]}", plain), &["`a` must be a range", "remove `optimizer`"]);
    refused(&with("a", plain), &["must give a range of each parameter"]);
    refused(&with("{}", plain), &["names 0 parameters"]);
    refused(&with("{a: {from: 1, to: 0}}", plain), &["`from` must lie below `to`"]);
    refused(&with("{a: {from: 1, to: 1, step: 1}}", plain), &["has one value"]);
    refused(&with(ranges, "{cmaes: {budget: 60}}"), &["did you mean `cma_es`?"]);
    refused(&with(ranges, "{}"), &["no `cma_es`"]);
    refused(&with(ranges, "{cma_es: {}}"), &["no `budget`"]);
    refused(&with(ranges, "{cma_es: {budget: 5}}"), &["before one generation", "population: 6"]);
    refused(&with(ranges, "{cma_es: {budget: 9, population: 1}}"), &["two candidates at least"]);
    refused(&with(ranges, "{cma_es: {budget: 9, sigma: 0}}"), &["above 0 and up to 1"]);
    let answers = format!("{FULL}optimizer: {plain}\n");
    refused(&answers, &["`optimizer` has no meaning here", "a `command` that scores"]);
}
