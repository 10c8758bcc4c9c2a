//! Files and folders that are not what should be there.
//!
//! Catches a cache that others may write to and that is believed, a report for which hours of work are lost,
//! chat templates that get lost on the way, small files that are waited for or fill the memory, and threads
//! that cannot start.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use mixdown_kit::hub::{Behavior, HubServer};
use mixdown_kit::{ChatServer, Layout, Outcome, Program, Space, chat_reply, checkpoint, mixdown};
use mixdown_suite::{configuration, family, merge};
use serde_json::json;

/// More than the space of addresses, so that no thread can have it.
const NO_THREADS: (&str, &str) = ("RUST_MIN_STACK", "140737488355328");

fn recipe() -> String {
    configuration("linear", None, &[("a", "weight: 0.5"), ("b", "weight: 0.5")], "")
}

#[track_caller]
fn tells(outcome: &Outcome, parts: &[&str]) {
    let talk = outcome.talk();
    for part in parts {
        assert!(talk.contains(part), "nothing is said of {part}:\n{talk}");
    }
}

fn pipe(space: &Space, name: &str) {
    let _ = fs::remove_file(space.path(name));
    assert!(Command::new("mkfifo").arg(space.path(name)).status().unwrap().success());
}

/// A file with a length and no bytes on the disk.
fn hole(space: &Space, name: &str, bytes: u64) {
    fs::File::create(space.path(name)).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_cache_that_others_may_write_to_is_refused() {
    let space = family();
    space.write("recipe.yaml", recipe());
    let cache = space.path("cache");
    fs::create_dir(&cache).unwrap();
    let with = |arguments: &[&str]| {
        Program::new(&space).args(arguments).env("MIXDOWN_CACHE", &cache).run()
    };
    let all: [&[&str]; 3] = [
        &["merge", "recipe.yaml", "--out", "merged"],
        &["plan", "recipe.yaml"],
        &["cache", "list"],
    ];
    for rights in [0o777, 0o770, 0o1777] {
        fs::set_permissions(&cache, fs::Permissions::from_mode(rights)).unwrap();
        for command in all {
            let refused = with(command).exits(1);
            tells(&refused, &["E0528", "cache", "chmod go-w", "MIXDOWN_CACHE"]);
            // It is told once, and as no matter of a model.
            assert_eq!(refused.stderr.matches("E0528").count(), 1, "{}", refused.stderr);
            assert!(!refused.stderr.contains("recipe.yaml"), "{}", refused.stderr);
        }
        assert!(!space.exists("merged"));
    }
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    for command in all {
        with(command).success();
    }
}

/// What mixdown makes itself would be refused the next time where the umask gives rights to a group.
#[test]
fn a_cache_that_mixdown_makes_is_its_user_s_alone() {
    let space = family();
    space.write("recipe.yaml", configuration("tsv", Some("base"), &[("a", ""), ("b", "")], ""));
    for out in ["one", "two"] {
        Program::limited(&space, "umask 0")
            .args(["merge", "recipe.yaml", "--out", out, "--hash-inputs"])
            .env("MIXDOWN_CACHE", space.path("new/cache"))
            .run()
            .success();
    }
    let rights = fs::metadata(space.path("new/cache")).unwrap().permissions().mode();
    assert_eq!(rights & 0o777, 0o700);
}

#[test]
fn a_report_is_promised_first_and_loses_no_merge() {
    let space = family();
    space.write("recipe.yaml", recipe());
    let report =
        |path: &str| mixdown(&space, ["merge", "recipe.yaml", "--out", "merged", "--report", path]);
    space.write("file", "x");
    tells(&report("file/report.json").exits(1), &["E0503", "report", "file/report.json"]);
    tells(&report("merged/report.json").exits(1), &["E0529", "merged/report.json"]);
    tells(&report("base").exits(1), &["E0503", "base"]);
    assert!(!space.exists("merged") && !space.exists(".merged.mixdown-partial"));
    // A device that is always full.
    tells(&report("/dev/full").success(), &["W0662", "/dev/full"]);
    mixdown(&space, ["verify", "merged"]).success();
    fs::remove_dir_all(space.path("merged")).unwrap();
    report("new/report.json").success();
    assert!(space.exists("new/report.json"));
    assert_eq!(space.list().iter().filter(|name| name.contains(".tmp")).count(), 0);
}

#[test]
fn further_chat_templates_go_with_the_tokenizer() {
    let space = family();
    let models = [("a", "weight: 0.5"), ("b", "weight: 0.5")];
    let text = configuration("task_arithmetic", Some("base"), &models, "");
    space.write("base/additional_chat_templates/tool_use.jinja", "{{ tools }}");
    space.write("base/additional_chat_templates/notes.txt", "x");
    merge(&space, &text, &[]).success();
    let folder = "merged/additional_chat_templates";
    assert_eq!(space.read_text(format!("{folder}/tool_use.jinja")), "{{ tools }}");
    assert!(!space.exists(format!("{folder}/notes.txt")));
    mixdown(&space, ["verify", "merged"]).success();
    // They are files of the model like others: read within its folder, and told where they cannot be.
    space.write("secret", "x");
    symlink("../../secret", space.path("base/additional_chat_templates/rag.jinja")).unwrap();
    tells(&mixdown(&space, ["check", "recipe.yaml"]).exits(1), &["E0525", "rag.jinja"]);
    pipe(&space, "base/additional_chat_templates/rag.jinja");
    tells(&mixdown(&space, ["check", "recipe.yaml"]).exits(1), &["E0109", "rag.jinja"]);
}

#[test]
fn small_files_are_plain_files_of_bounded_size() {
    let space = family();
    space.write("recipe.yaml", recipe() + "chat_template: auto\n");
    pipe(&space, "b/chat_template.jinja");
    let check = ["merge", "recipe.yaml", "--out", "merged"];
    tells(&mixdown(&space, check).exits(1), &["E0109", "b/chat_template.jinja", "pipe"]);
    fs::remove_file(space.path("b/chat_template.jinja")).unwrap();
    hole(&space, "b/chat_template.jinja", 1 << 40);
    tells(
        &mixdown(&space, check).exits(1),
        &["E0109", "too large", "limit", "chat_template.jinja"],
    );
    fs::remove_file(space.path("b/chat_template.jinja")).unwrap();
    mixdown(&space, check).success();
    // The output's own.
    for make in [pipe as fn(&Space, &str), |space, name| hole(space, name, 1 << 40)] {
        fs::remove_file(space.path("merged/mixdown-manifest.json")).unwrap();
        make(&space, "merged/mixdown-manifest.json");
        tells(&mixdown(&space, ["verify", "merged"]).exits(1), &["E0109", "mixdown-manifest.json"]);
        // Nor does a merge wait that finds what an earlier one may have left.
        fs::create_dir_all(space.path(".merged.mixdown-partial")).unwrap();
        let _ = fs::remove_file(space.path(".merged.mixdown-partial/lock"));
        pipe(&space, ".merged.mixdown-partial/lock");
        mixdown(&space, check).exits(1);
    }
}

#[test]
fn a_pipe_in_the_place_of_a_part_s_record_is_told() {
    let space = family();
    space.write("recipe.yaml", recipe());
    for part in ["1/2", "2/2"] {
        mixdown(&space, ["merge", "recipe.yaml", "--out", "out", "--part", part]).success();
    }
    let record = "out/part-00001-of-00002/mixdown-part.json";
    assert!(space.exists(record), "{:?}", space.list());
    let kept = space.read(record);
    pipe(&space, record);
    tells(&mixdown(&space, ["assemble", "out"]).exits(1), &["E0109", "mixdown-part.json"]);
    fs::remove_file(space.path(record)).unwrap();
    space.write(record, kept);
    mixdown(&space, ["assemble", "out"]).success();
}

#[test]
fn threads_that_cannot_start_are_fewer_threads() {
    let space = family();
    space.write("recipe.yaml", recipe());
    let (name, value) = NO_THREADS;
    let run = |arguments: &[&str]| Program::new(&space).args(arguments).env(name, value).run();
    run(&["merge", "recipe.yaml", "--out", "merged"]).success();
    // Headers of models that lie elsewhere.
    let hub = Space::new();
    checkpoint("org/a").layout(Layout::Sharded(3)).write(&hub);
    let server = HubServer::start(hub.root(), Behavior::default());
    let far = Program::new(&space)
        .args(["inspect", "hf://org/a"])
        .without_env("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", server.endpoint())
        .env(name, value)
        .run();
    far.success();
    // Requests to a server.
    let chat = ChatServer::start(Box::new(|request, _| chat_reply(&request.body["model"], "yes")));
    let prompts: String = (0..3)
        .map(|id| {
            let messages = json!([{"role": "user", "content": "?"}]);
            json!({"id": id.to_string(), "messages": messages}).to_string() + "\n"
        })
        .collect();
    space.write("prompts.jsonl", prompts);
    space.write(
        "search.yaml",
        format!(
            "search: 1\ngrid: {{parameters.t: {{from: 0.0, to: 0.5, step: 0.25}}}}\nprompts: \
             prompts.jsonl\ngenerator: {{http: {{base_url: '{}', concurrency: 4}}}}\n",
            chat.base_url()
        ),
    );
    space.write(
        "slerp.yaml",
        "merge_method: slerp\nbase_model: base\nmodels:\n  - model: a\nparameters: {t: 0.5}\n",
    );
    run(&["search", "slerp.yaml", "--with", "search.yaml", "--out", "found"]).success();
}
