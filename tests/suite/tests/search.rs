//! Searches with real merges and real programs that answer and score.
//!
//! Catches a chosen merge that is not the one of its value, answers that are lost or made twice,
//! programs that outlive their search, and failures that leave nothing to go on from.

use mixdown_kit::Program;
use mixdown_suite::search::{ANSWERS, curve, report, search, space, told};
use mixdown_suite::{configuration, family, with_snapshots};
use serde_json::{Value, json};

/// By hand, lower case: 0.0, 0.1 and 0.2 answer alike; 0.3 differs in p1 alone; 0.4 and 0.5 differ from
/// all in all four. sum: 0.1 has 0+0, 0.2 has 0+1, 0.3 has 1+4, 0.4 has 4+4.
#[test]
fn the_chosen_merge_is_the_one_of_its_value() {
    let space = space(ANSWERS, "");
    let outcome = search(&space, &[]).success();
    assert_eq!(outcome.stdout, "found/merged\n");
    told(&outcome, &["candidate 0.3 (4 of 6): merging", "candidate 0.3 (4 of 6): 4 prompts"]);
    told(&outcome, &["chosen: 0.1"]);
    let found = report(&space);
    assert_eq!(
        curve(&found, "sum"),
        [json!(null), json!(0), json!(1), json!(5), json!(8), json!(null)]
    );
    assert_eq!(curve(&found, "prev")[5], json!(4));
    assert_eq!((&found["chosen"], &found["minima"]), (&json!("0.1"), &json!(["0.1"])));
    assert_eq!(found["sample"], json!(["p0", "p1", "p2", "p3"]));
    assert!(!space.exists("found/candidates"), "the others are removed");
    assert!(space.read_text("found/report.html").contains("<svg"));

    let direct = ["merge", "recipe.yaml", "--out", "direct", "--set", "parameters.t=0.1"];
    mixdown_kit::mixdown(&space, direct).success();
    assert_eq!(space.files_under("found/merged"), space.files_under("direct"));

    // Everything is known: nothing is merged and nothing is asked.
    let runs = space.read_text("runs");
    assert_eq!(runs.lines().count(), 6);
    let again = search(&space, &["--json"]).success();
    assert_eq!(again.json()["chosen"], "0.1");
    assert!(!again.stderr.contains("merging"), "{}", again.stderr);
    assert_eq!(space.read_text("runs"), runs);
    assert_eq!(report(&space)["candidates"][3]["cache_hits"], 4);

    // Another rule over the same answers chooses another merge, which is made again.
    let settings = space.read_text("in/search.yaml");
    space.write(
        "in/search.yaml",
        format!("{settings}objective: {{diff: union, ties: largest, smooth: 1}}\n"),
    );
    let outcome = search(&space, &["--keep-candidates"]).success();
    told(&outcome, &["chosen: 0.1"]);
    assert_eq!(space.read_text("runs"), runs);
}

#[test]
fn a_tie_can_be_left_to_a_person() {
    let script = ANSWERS.replace("text=NO", "text=Yes");
    let space = space(&script, "objective: {ties: error}\n");
    let outcome = search(&space, &[]).exits(1);
    told(&outcome, &["E0512", "0.1, 0.2", "several candidates are equally good"]);
    assert_eq!(report(&space)["chosen"], Value::Null);
    assert!(space.exists("found/candidates/0.2/config.json") && !space.exists("found/merged"));
    let settings = space.read_text("in/search.yaml").replace("ties: error", "ties: largest");
    space.write("in/search.yaml", settings);
    let outcome = search(&space, &["--keep-candidates"]).success();
    told(&outcome, &["chosen: 0.2; equally good: 0.1"]);
    assert!(!outcome.stderr.contains("merging"), "{}", outcome.stderr);
    assert_eq!(space.files_under("found/merged"), space.files_under("found/candidates/0.2"));
}

#[test]
fn what_was_answered_before_a_failure_is_kept() {
    // At 0.2 it answers two prompts, then dies, until a file says that all is well.
    let dies = ANSWERS.replace(
        "    echo \"{",
        "    test \"$MIXDOWN_ALPHA $id\" != \"0.2 p2\" || test -f well || { echo out of memory >&2; exit 3; }\n    echo \"{",
    );
    let space = space(&dies, "    retries: 1\n");
    let outcome = search(&space, &[]).exits(1);
    told(&outcome, &["E0511", "`p2`, `p3`", "exit status: 3", "out of memory"]);
    assert!(!space.exists("found/merged"));
    assert_eq!(space.read_text("runs"), "0.0 4\n0.1 4\n0.2 4\n0.2 2\n");
    space.write("well", "");
    let outcome = search(&space, &[]).success();
    assert!(!outcome.stderr.contains("candidate 0.1 (2 of 6): merging"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("candidate 0.2 (3 of 6): merging"), "{}", outcome.stderr);
    assert!(
        space.read_text("runs").contains("0.2 2\n0.2 2\n0.3 4\n"),
        "{}",
        space.read_text("runs")
    );
    assert_eq!(report(&space)["candidates"][2]["cache_hits"], 2);
}

#[test]
fn programs_that_do_not_keep_to_the_form_are_told() {
    for (name, script, extra) in [
        (
            "answers_too_few",
            ANSWERS.replace(
                "while read -r line; do",
                "while read -r line; do test \"${line#*p3}\" = \"$line\" || continue",
            ),
            "",
        ),
        ("answers_twice", format!("{ANSWERS}cp \"$2\" x; cat x >> \"$2\"\n"), ""),
        ("answers_other", "echo '{\"id\":\"other\",\"text\":\"x\"}' > \"$2\"".to_owned(), ""),
        ("answers_not_json", "echo 'Yes' > \"$2\"".to_owned(), ""),
        (
            "answers_and_dies",
            format!("{ANSWERS}head -n 1 \"$2\" > x; cp x \"$2\"; echo no memory >&2; kill -9 $$\n"),
            "    retries: 1\n",
        ),
        ("answers_never", "sleep 60".to_owned(), "    timeout: 0.2\n"),
    ] {
        let space = space(&script, extra);
        let outcome = search(&space, &["--quiet"]).exits(1);
        with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));
        assert_eq!(outcome.stdout, "");
        assert!(!space.exists("found/merged"));
    }
}

#[test]
fn mistakes_are_found_before_anything_is_merged() {
    let check = |settings: &str, arguments: &[&str], status: i32, words: &[&str]| {
        let space = space(ANSWERS, "");
        if !settings.is_empty() {
            space.write("in/search.yaml", settings);
        }
        let outcome = search(&space, arguments).exits(status);
        told(&outcome, words);
        assert!(!space.exists("found/candidates"));
        outcome.talk()
    };
    let replay = "generator: {replay: {folder: .}}\n";
    let one = format!("search: 1\ngrid: {{parameters.t: [0.1]}}\n{replay}");
    let talk = check(&one, &[], 2, &["too few values"]);
    with_snapshots(|| insta::assert_snapshot!("grid_of_one", talk));
    check(
        &format!("search: 1\ngrid: {{parametres.t: [0, 0.5, 1]}}\n{replay}"),
        &[],
        2,
        &["`parametres.t` is not part of the recipe", "did you mean `parameters`?"],
    );
    let missing = format!("search: 1\ngrid: {{'models[7].model': [0, 0.5, 1]}}\n{replay}");
    check(&missing, &[], 2, &["E0215", "there is no [7]"]);
    check("", &["--set", "parameters.t=1"], 2, &["`parameters.t` is both searched and set"]);
    check("serach: 1\n", &[], 2, &["did you mean `search`?", "in/search.yaml:1:1", "no `grid`"]);
    let space = space(ANSWERS, "");
    space.write("in/prompts.jsonl", "{\"id\":\"a\"}\n{]\n");
    told(&search(&space, &[]).exits(1), &["E0509", "prompts.jsonl:1:1", "prompts.jsonl:2:2"]);
    let space = mixdown_suite::search::space(ANSWERS, "");
    space.write("found/mine.txt", "");
    told(&search(&space, &[]).exits(1), &["E0502", "the folder holds something else"]);
}

#[test]
fn scores_choose_over_several_parameters() {
    let space = family();
    let models = [("a", "weight: 0.5"), ("b", "weight: 0.5")];
    space.write(
        "recipe.yaml",
        configuration("task_arithmetic", Some("base"), &models, "lambda: 1.0"),
    );
    let script = "case \"$MIXDOWN_ALPHA\" in *lambda=0.5,*normalize=true) echo '{\"score\": 2.5}';; *) echo 1;; esac";
    space.write("score.sh", script);
    let text = "search: 1\ngrid:\n  parameters.lambda: [0.5, 1.0]\n  parameters.normalize: [true, false]\n\
                objective: {command: [sh, score.sh, '{model_dir}']}\n";
    space.write("in/search.yaml", text);
    let outcome = search(&space, &[]).success();
    told(&outcome, &["chosen: parameters.lambda=0.5, parameters.normalize=true"]);
    assert_eq!(report(&space)["candidates"][0]["score"], json!(2.5));
    space.write(
        "in/search.yaml",
        text.replace("[0.5, 1.0]", "[1.0]").replace("[true, false]", "[true]"),
    );
    told(&search(&space, &[]).success(), &["chosen: parameters.lambda=1.0"]);
    space.write("score.sh", "echo good");
    space.write("in/search.yaml", text.replace("score.sh,", "score.sh, again,"));
    told(&search(&space, &[]).exits(1), &["is no number", "good"]);
}

#[test]
fn an_interrupted_search_goes_on() {
    let waits = ANSWERS.replace(
        "test -f \"$3",
        "test \"$MIXDOWN_ALPHA\" != 0.2 || test -f well || sleep 60\ntest -f \"$3",
    );
    let space = space(&waits, "");
    let arguments = ["search", "recipe.yaml", "--with", "in/search.yaml", "--out", "found"];
    let mut running = Program::new(&space).args(arguments).start();
    while !space.exists("runs") || !space.read_text("runs").contains("0.2") {
        assert!(!running.has_ended(), "{}", running.wait().stderr);
        std::thread::yield_now();
    }
    let outcome = running.interrupt().exits(130);
    told(&outcome, &["run the same command again to continue"]);
    space.write("well", "");
    let outcome = search(&space, &[]).success();
    assert!(!outcome.stderr.contains("candidate 0.2 (3 of 6): merging"), "{}", outcome.stderr);
    assert_eq!(space.read_text("runs").matches("0.0 4").count(), 1);
}
