//! What others prepared, and what a system refuses.
//!
//! Catches a folder, lock or link of somebody else that directs a read or a write, a sweep that does not go
//! on, a program that does not stop when it is asked to, and one that dies where it should say why.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use mixdown_kit::{Program, Space, adapter, checkpoint, mixdown, read_checkpoint};
use mixdown_suite::{configuration, family, merge};

fn recipe() -> String {
    let models = [("a", "weight: 0.5"), ("b", "weight: 0.5")];
    configuration("task_arithmetic", Some("base"), &models, "")
}

/// What all commands that plan say of a model's folder, before anything is written.
#[track_caller]
fn refused_everywhere(space: &Space, code: &str, names: &[&str]) {
    space.write("recipe.yaml", recipe());
    let commands: [&[&str]; 4] = [
        &["check", "recipe.yaml"],
        &["plan", "recipe.yaml"],
        &["explain", "recipe.yaml", "model.norm.weight"],
        &["merge", "recipe.yaml", "--out", "merged"],
    ];
    for command in commands {
        let talk = mixdown(space, command).exits(1).talk();
        for part in names.iter().chain([&code]) {
            assert!(talk.contains(part), "{command:?} says nothing of {part}:\n{talk}");
        }
        assert!(!space.exists("merged") && !space.exists(".merged.mixdown-partial"));
    }
}

#[test]
fn a_file_beside_the_weights_that_cannot_be_read_is_told_at_check() {
    let space = family();
    fs::remove_file(space.path("base/tokenizer.json")).unwrap();
    symlink("../gone", space.path("base/tokenizer.json")).unwrap();
    symlink("merges.txt", space.path("base/merges.txt")).unwrap();
    refused_everywhere(&space, "E0109", &["tokenizer.json", "merges.txt"]);
}

/// The files of folders within a model, and templates of models that give no files, come into the output too.
#[test]
fn links_out_of_folders_within_a_model_and_of_templates_need_leave() {
    let space = family();
    space.write("secret", "a key");
    space.write("base/modules.json", r#"[{"path": ""}, {"path": "1_Pooling"}]"#);
    fs::create_dir(space.path("base/1_Pooling")).unwrap();
    symlink("../../secret", space.path("base/1_Pooling/config.json")).unwrap();
    refused_everywhere(&space, "E0525", &["1_Pooling/config.json", "--follow-links"]);
    fs::remove_file(space.path("base/1_Pooling/config.json")).unwrap();
    symlink("gone", space.path("base/1_Pooling/config.json")).unwrap();
    refused_everywhere(&space, "E0122", &["1_Pooling/config.json"]);
    fs::remove_file(space.path("base/1_Pooling/config.json")).unwrap();
    fs::write(space.path("base/modules.json"), b"[{\"path\": \"\xff\"}]").unwrap();
    refused_everywhere(&space, "E0122", &["modules.json"]);
    fs::remove_file(space.path("base/modules.json")).unwrap();
    fs::remove_file(space.path("a/chat_template.jinja")).unwrap();
    symlink("../secret", space.path("a/chat_template.jinja")).unwrap();
    refused_everywhere(&space, "E0525", &["chat_template.jinja"]);
    fs::remove_file(space.path("a/chat_template.jinja")).unwrap();
    // An adapter's tokenizer goes with it.
    checkpoint("plain").write(&space);
    let module = "model.layers.0.self_attn.q_proj";
    let stored = read_checkpoint(space.path("plain"));
    let shape = &stored.tensor(&format!("{module}.weight")).shape;
    adapter("lora", 4).module(module, 4, [shape[0], shape[1]]).write(&space);
    symlink("../secret", space.path("lora/vocab.json")).unwrap();
    let talk = mixdown(&space, ["fuse", "plain", "lora", "--out", "merged"]).exits(1).talk();
    assert!(talk.contains("E0525") && talk.contains("vocab.json"), "{talk}");
}

/// What is built in would take the place of the user's own.
#[test]
fn methods_that_cannot_be_listed_are_told() {
    let space = family();
    symlink("methods", space.path("methods")).unwrap();
    refused_everywhere(&space, "E0109", &["methods"]);
}

/// Manifests and messages show addresses.
#[test]
fn addresses_with_passwords_are_refused_and_not_shown() {
    let space = Space::new();
    for command in [
        ["inspect", "http://me:hidden@127.0.0.1:9/a"].as_slice(),
        &["convert", "http://me:hidden@127.0.0.1:9/a", "--to", "f16", "--out", "merged"],
    ] {
        let talk = mixdown(&space, command).exits(1).talk();
        assert!(talk.contains("E0556") && talk.contains("127.0.0.1:9"), "{talk}");
        assert!(!talk.contains("hidden"), "{talk}");
    }
}

#[test]
fn a_link_out_of_a_model_needs_leave() {
    let space = family();
    space.write("secret", "a key");
    symlink("../secret", space.path("base/vocab.txt")).unwrap();
    refused_everywhere(&space, "E0525", &["vocab.txt", "--follow-links"]);
    merge(&space, &recipe(), &["--follow-links"]).success();
    assert_eq!(space.read_text("merged/vocab.txt"), "a key");
    // Weights are no exception, and a model that is only read is none.
    fs::remove_file(space.path("base/vocab.txt")).unwrap();
    fs::rename(space.path("a/model.safetensors"), space.path("elsewhere")).unwrap();
    symlink("../elsewhere", space.path("a/model.safetensors")).unwrap();
    let talk = mixdown(&space, ["check", "recipe.yaml"]).exits(1).talk();
    assert!(talk.contains("E0525") && talk.contains("model.safetensors"), "{talk}");
    // Those that only look at a model treat its links alike.
    for command in [
        ["inspect", "a"].as_slice(),
        &["diff", "base", "a"],
        &["diff", "a", "base"],
        &["map", "check", "phi3-to-mistral", "base", "a"],
    ] {
        let talk = mixdown(&space, command).exits(1).talk();
        assert!(
            talk.contains("E0525") && talk.contains("model.safetensors"),
            "{command:?}: {talk}"
        );
        let talk = mixdown(&space, [command, &["--follow-links"]].concat()).talk();
        assert!(!talk.contains("E0525"), "{command:?}: {talk}");
    }
    mixdown(&space, ["inspect", "a", "--follow-links"]).success();
    // A link to the whole folder is the user's own.
    fs::remove_file(space.path("a/model.safetensors")).unwrap();
    fs::rename(space.path("elsewhere"), space.path("a/model.safetensors")).unwrap();
    fs::rename(space.path("a"), space.path("moved")).unwrap();
    symlink("moved", space.path("a")).unwrap();
    mixdown(&space, ["check", "recipe.yaml"]).success();
}

#[test]
fn names_that_no_output_takes_over_are_told() {
    let space = family();
    space.write("base/a\\b.json", "{}");
    let talk = merge(&space, &recipe(), &[]).success().talk();
    assert!(talk.contains("W0661"), "{talk}");
    assert!(!space.exists("merged/a\\b.json"));
}

/// What a repository that was cloned beside the recipe may hold.
#[test]
fn a_planted_folder_directs_nothing() {
    let expected = {
        let space = family();
        merge(&space, &recipe(), &[]).success();
        space.read("merged/model.safetensors")
    };
    let plant: [fn(&Space); 3] = [
        |space| {
            fs::create_dir(space.path(".merged.mixdown-partial")).unwrap();
            symlink("../victim", space.path(".merged.mixdown-partial/lock")).unwrap();
        },
        |space| {
            space.write("v/output/keep.txt", "keep");
            space.write("v/journal", "j");
            symlink("v", space.path(".merged.mixdown-partial")).unwrap();
        },
        |space| {
            fs::create_dir_all(space.path(".merged.mixdown-partial/journal")).unwrap();
        },
    ];
    for plant in plant {
        let space = family();
        space.write("victim", "precious");
        plant(&space);
        let talk = merge(&space, &recipe(), &[]).exits(1).talk();
        assert!(talk.contains("E0524") && talk.contains("--force"), "{talk}");
        assert!(!space.exists("merged"));
        merge(&space, &recipe(), &["--force"]).success();
        assert!(space.read("merged/model.safetensors") == expected);
        assert_eq!(space.read_text("victim"), "precious");
        if space.exists("v") {
            assert_eq!(space.read_text("v/output/keep.txt"), "keep");
            assert_eq!(space.files_under("v").len(), 2);
        }
    }
}

#[test]
fn a_sweep_goes_on_behind_what_is_done() {
    let space = family();
    space.write("merged/lambda-0.5/note", "in the way");
    let sweep = ["--sweep", "lambda=0.1,0.5,1.0"];
    let talk = merge(&space, &recipe(), &sweep).exits(1).talk();
    assert!(talk.contains("E0502"), "{talk}");
    assert!(space.exists("merged/lambda-0.1/config.json") && !space.exists("merged/lambda-1.0"));
    let first = fs::metadata(space.path("merged/lambda-0.1")).unwrap();
    fs::remove_dir_all(space.path("merged/lambda-0.5")).unwrap();
    merge(&space, &recipe(), &sweep).success();
    let now = fs::metadata(space.path("merged/lambda-0.1")).unwrap();
    assert_eq!(first.modified().unwrap(), now.modified().unwrap(), "it was made again");
    assert!(space.exists("merged/lambda-1.0/config.json") && !space.exists("merged/.sweep"));
    // Another recipe is another sweep, which replaces nothing.
    let other = recipe().replace("0.5", "0.25");
    assert!(merge(&space, &other, &sweep).exits(1).talk().contains("E0502"));
    assert!(!space.exists("merged/.sweep"), "a sweep that made nothing leaves nothing");
}

/// A recipe that is a pipe is waited for, and a signal ends the wait.
#[test]
fn one_signal_ends_a_plan() {
    let space = family();
    let pipe = space.path("recipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for command in ["check", "plan"] {
        let running = Program::new(&space).args([command, "recipe.yaml"]).start();
        // Opening succeeds when the program has opened its end, which it does when it listens already.
        let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        let asked = Instant::now();
        running.interrupt().exits(130);
        assert!(asked.elapsed() < Duration::from_secs(5));
        drop(writer);
    }
}

#[test]
fn a_limit_of_files_is_an_error() {
    let space = family();
    space.write("recipe.yaml", recipe());
    let arguments = ["merge", "recipe.yaml", "--out", "merged"];
    let outcome = Program::limited(&space, "ulimit -f 2").args(arguments).run().exits(1);
    assert!(outcome.talk().contains("larger than"), "{}", outcome.talk());
    assert!(!space.exists("merged"));
}

/// A tree of its JSON takes seventy times the length of such a file; what the merge may use is the limit.
#[test]
fn a_large_tokenizer_is_read_within_the_memory_of_the_merge() {
    let space = family();
    let merges = vec![r#"["a","b"]"#; 200_000].join(",");
    let text = format!(
        r#"{{"version": "1.0", "model": {{"type": "BPE", "vocab": {{}}, "merges": [{merges}]}}}}"#
    );
    space.write("a/tokenizer.json", &text);
    let recipe = format!("{}tokenizer_source: union\n", recipe());
    let talk = merge(&space, &recipe, &["--memory", "16MB"]).exits(2).talk();
    for part in ["E0527", "a/tokenizer.json", "needed:", "16 000 000 bytes", "--memory"] {
        assert!(talk.contains(part), "nothing of {part}:\n{talk}");
    }
    assert!(!talk.contains("has no tokenizer"), "a consequence of it:\n{talk}");
    merge(&space, &recipe, &["--memory", "64MB"]).success();
    let written: serde_json::Value =
        serde_json::from_str(&space.read_text("merged/tokenizer.json")).unwrap();
    assert!(
        written["model"]["vocab"].as_object().unwrap().len() > 2,
        "the base's tokens are there"
    );
}
