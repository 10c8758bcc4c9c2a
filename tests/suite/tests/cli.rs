//! The command line: help, what each command prints, exit statuses.
//!
//! Catches help that drifts from what a flag does, talk on stdout, plans that differ between two
//! looks, and overrides that are not applied.

use mixdown_kit::{Outcome, Program, Space, mixdown, read_checkpoint};
use mixdown_suite::{configuration, family, merge, repository, with_snapshots};

/// The commands that the help lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty());
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    // Lines that go on with what is said of a command are indented further.
    let own = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    own.filter_map(name).collect()
}

#[test]
fn help_texts() {
    let space = Space::new();
    let top = mixdown(&space, ["--help"]).success();
    with_snapshots(|| insta::assert_snapshot!("help", top.shown()));
    let commands = commands(&top.shown());
    assert!(commands.len() > 15, "{commands:?}");
    for command in &commands {
        let help = mixdown(&space, [command.as_str(), "--help"]).success();
        assert_eq!(help.stderr, "");
        with_snapshots(|| insta::assert_snapshot!(format!("help_{command}"), help.shown()));
    }
    let version = mixdown(&space, ["--version"]).success();
    assert_eq!(version.shown().trim(), "mixdown [VERSION]");
}

#[test]
fn wrong_command_lines_exit_with_2() {
    let space = family();
    for arguments in [
        vec!["merg", "recipe.yaml"],
        vec!["merge"],
        vec!["merge", "recipe.yaml"],
        vec!["merge", "recipe.yaml", "--out", "x", "--memory", "lots"],
        vec!["merge", "recipe.yaml", "--out", "x", "--threads", "0"],
        vec!["merge", "recipe.yaml", "--out", "x", "--no-such-flag"],
        vec![],
    ] {
        let outcome = mixdown(&space, &arguments).exits(2);
        assert_eq!(outcome.stdout, "", "{arguments:?}");
        assert!(!outcome.stderr.is_empty(), "{arguments:?}");
    }
    assert!(!space.exists("x"));
}

#[test]
fn methods_are_explained() {
    let space = Space::new();
    let list = mixdown(&space, ["methods"]).success();
    with_snapshots(|| insta::assert_snapshot!("methods", list.shown()));
    let mut files: Vec<_> = std::fs::read_dir(repository().join("recipes/methods"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let method = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = mixdown(&space, ["methods", &method]).success();
        with_snapshots(|| insta::assert_snapshot!(format!("methods_{method}"), text.shown()));
    }
    let outcome = mixdown(&space, ["methods", "tise"]).exits(2);
    assert!(outcome.stderr.contains("`ties`"), "it suggests the nearest:\n{}", outcome.stderr);
}

#[test]
fn a_method_beside_the_recipe_comes_first() {
    let space = family();
    let method = "method: linear\ntitle: Half of the first\nsource: a test\nsummary: Halves.\n\
                  inputs: {base: ignored, experts: {at_least: 1}}\noutput: 0.5 * experts[0]\n";
    space.write("methods/linear.yaml", method);
    space.write("recipe.yaml", configuration("linear", None, &[("a", "")], ""));
    let outcome = Program::new(&space).args(["merge", "recipe.yaml", "--out", "merged"]).run();
    outcome.success();
    let merged = read_checkpoint(space.path("merged")).values("model.norm.weight");
    let a = read_checkpoint(space.path("a")).values("model.norm.weight");
    assert_eq!(merged, a.iter().map(|value| value / 2.0).collect::<Vec<_>>());
}

fn strict() -> &'static str {
    "mixdown: 1\n\
     models: {base: base, a: a, b: b}\n\
     base: base\n\
     declare:\n  strength: {default: 0.5, doc: How far the experts pull.}\n\
     method: ties\n\
     parameters: {weight: 1, density: 0.5, lambda: $strength}\n\
     rules:\n  \
       - tensors: [model.embed_tokens.weight, lm_head.weight]\n    keep: a\n  \
       - tensors: '**.mlp.**'\n    layers: [1, 2]\n    method: task_arithmetic\n    \
         parameters: {weight: [0.2, 0.8]}\n  \
       - method: ties\n"
}

#[test]
fn plans_are_shown_and_do_not_change() {
    let space = family();
    space.write("recipe.yaml", strict());
    for (name, arguments) in [
        ("plan", vec!["plan", "recipe.yaml"]),
        ("plan_json", vec!["plan", "recipe.yaml", "--json"]),
        ("plan_graph", vec!["plan", "recipe.yaml", "--graph"]),
        ("check", vec!["check", "recipe.yaml"]),
    ] {
        let before = space.list();
        let first = mixdown(&space, &arguments).success();
        let second = mixdown(&space, &arguments).success();
        assert_eq!(first.stdout, second.stdout, "{name} differs between two looks");
        assert_eq!(space.list(), before, "{name} writes nothing");
        with_snapshots(|| insta::assert_snapshot!(name, first.shown() + &first.talk()));
    }
    mixdown(&space, ["plan", "recipe.yaml", "--json"]).json();
}

#[test]
fn explain_says_what_a_tensor_gets_and_why() {
    let space = family();
    space.write("recipe.yaml", strict());
    for (name, tensor) in [
        ("explain_kept", "lm_head.weight"),
        ("explain_rule", "model.layers.1.mlp.up_proj.weight"),
        ("explain_default", "model.layers.0.self_attn.q_proj.weight"),
    ] {
        let outcome = mixdown(&space, ["explain", "recipe.yaml", tensor]).success();
        with_snapshots(|| insta::assert_snapshot!(name, outcome.shown()));
    }
    let wrong = "model.layers.0.self_attn.q_porj.weight";
    let outcome = mixdown(&space, ["explain", "recipe.yaml", wrong]).exits(2);
    assert!(outcome.stderr.contains("q_proj"), "it suggests the nearest:\n{}", outcome.stderr);
}

#[test]
fn overrides_change_the_result() {
    let space = family();
    let tensor = "model.layers.0.mlp.up_proj.weight";
    let value = |arguments: &[&str]| {
        let mut all = vec!["--force"];
        all.extend(arguments);
        merge(&space, strict(), &all).success();
        read_checkpoint(space.path("merged")).values(tensor)
    };
    let plain = value(&[]);
    let strong = value(&["--set", "strength=1.5"]);
    assert_ne!(plain, strong);
    assert_eq!(value(&["--set", "strength=0.5"]), plain);
    let base = read_checkpoint(space.path("base")).values(tensor);
    assert_eq!(value(&["--set", "strength=0"]), base);
    assert_eq!(value(&["--set", "parameters.lambda=0"]), base);
    for (name, wrong) in
        [("set_unknown", "strenght=1"), ("set_range", "parameters.density=20"), ("set_form", "x")]
    {
        space.write("recipe.yaml", strict());
        let outcome =
            mixdown(&space, ["merge", "recipe.yaml", "--out", "other", "--set", wrong]).exits(2);
        with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));
    }
}

#[test]
fn machine_readable_progress() {
    let space = family();
    let recipe = configuration("linear", None, &[("a", "weight: 1")], "");
    let outcome = merge(&space, &recipe, &["--json"]).success();
    let events: Vec<serde_json::Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(events.len() >= 2, "{}", outcome.stdout);
    assert!(events.iter().all(serde_json::Value::is_object));
}

#[test]
fn completions_for_each_shell() {
    let space = Space::new();
    for shell in ["bash", "zsh", "fish"] {
        let outcome = mixdown(&space, ["completions", shell]).success();
        for command in commands(&mixdown(&space, ["--help"]).success().shown()) {
            assert!(outcome.stdout.contains(&command), "{shell} does not complete `{command}`");
        }
    }
    mixdown(&space, ["completions", "tcsh"]).exits(2);
}

/// A file of `schemas/` that is not what the program writes misleads every editor.
#[test]
fn schemas_are_those_of_the_program() {
    let space = Space::new();
    let schemas = repository().join("schemas");
    let arguments = ["schemas".as_ref(), schemas.as_os_str(), "--check".as_ref()];
    mixdown(&space, arguments as [&std::ffi::OsStr; 3]).success();
}

/// The fenced blocks of the README, by a line that they contain.
fn readme_block(line: &str) -> String {
    let text = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let mut blocks = text.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.lines().any(|found| found == line));
    let block = block.unwrap_or_else(|| panic!("the README has no block with `{line}`"));
    block.split_once('\n').expect("a block begins with its language").1.to_owned()
}

#[test]
fn the_readmes_examples_work() {
    let space = family();
    space.write("methods/halfway.yaml", readme_block("method: halfway"));
    let recipe = configuration("halfway", Some("base"), &[("a", ""), ("b", "")], "way: 1");
    merge(&space, &recipe, &[]).success();

    let as_here = |text: &str| {
        text.replace("org/base-7b", "base").replace("org/code-7b", "a").replace("./math-7b", "b")
    };
    space.write("code-and-math.yaml", configuration("average", None, &[("a", ""), ("b", "")], ""));
    space.write("strict.yaml", as_here(&readme_block("mixdown: 1")));
    mixdown(&space, ["check", "strict.yaml", "--set", "strength=0.6"]).success();
    space.write("mergekit.yaml", as_here(&readme_block("merge_method: ties")));
    mixdown(&space, ["check", "mergekit.yaml"]).success();
}

/// What the README and the example promise.
#[test]
fn the_quickstart_runs() {
    let space = Space::new();
    let run = |recipe: &str, out: &str| -> Outcome {
        Program::new(&space)
            .in_folder(repository())
            .args(["merge".as_ref(), recipe.as_ref(), "--out".as_ref()] as [&std::ffi::OsStr; 3])
            .args([space.path(out)])
            .run()
    };
    let outcome = run("examples/quickstart/recipe.yaml", "merged").success();
    with_snapshots(|| insta::assert_snapshot!("quickstart", outcome.shown() + &outcome.talk()));
    let merged = read_checkpoint(space.path("merged"));
    let chat = read_checkpoint(repository().join("examples/quickstart/chat"));
    let base = read_checkpoint(repository().join("examples/quickstart/base"));
    assert_eq!(merged.names(), base.names());
    for kept in ["lm_head.weight", "model.embed_tokens.weight"] {
        assert_eq!(merged.tensor(kept), chat.tensor(kept));
    }
    let moved = "model.layers.0.mlp.up_proj.weight";
    assert_ne!(merged.tensor(moved), base.tensor(moved));
    mixdown(&space, ["verify", "merged"]).success();
    run("examples/quickstart/mergekit.yaml", "unchanged").success();
    assert_eq!(read_checkpoint(space.path("unchanged")).names(), base.names());
}
