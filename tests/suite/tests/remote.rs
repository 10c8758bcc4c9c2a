//! Models that are read where they lie, from a server on this machine that behaves well or badly.
//!
//! Catches bytes that land in the wrong place, a stand-in's hole that is merged as zeros, downloads where
//! headers are enough, and answers that are believed though they are of another file or another place.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mixdown_kit::hub::{Behavior, COMMIT, HubServer, Request};
use mixdown_kit::{DType, Layout, Outcome, Program, Space, checkpoint, read_checkpoint};
use mixdown_suite::with_snapshots;

/// Repositories with a base in several shards and two experts, of more than one block each.
fn hub() -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(2).hidden(192).vocabulary(4096);
    model("org/base").dtype(DType::F32).layout(Layout::Sharded(3)).write(&space);
    model("org/a").dtype(DType::F32).expert(11, 0.01).write(&space);
    model("org/b").expert(12, 0.01).layout(Layout::Sharded(2)).write(&space);
    space
}

/// TIES of models whose names begin so.
fn recipe(prefix: &str) -> String {
    let mut text = format!("merge_method: ties\nbase_model: {prefix}org/base\nmodels:\n");
    for name in ["a", "b"] {
        text += &format!(
            "  - model: {prefix}org/{name}\n    parameters: {{weight: 1, density: 0.4}}\n"
        );
    }
    text + "dtype: float32\n"
}

fn run(space: &Space, server: &HubServer, arguments: &[&str]) -> Outcome {
    Program::new(space)
        .args(arguments)
        .without_env("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", server.endpoint())
        .run()
}

const MERGE: [&str; 4] = ["merge", "recipe.yaml", "--out", "merged"];

/// The merge of the same models that lie here.
fn expected(hub: &Space) -> Space {
    let space = Space::new();
    for name in ["base", "a", "b"] {
        mixdown_kit::space::copy_folder(
            &hub.path(format!("org/{name}")),
            &space.path(format!("org/{name}")),
        );
    }
    space.write("recipe.yaml", recipe("./"));
    mixdown_kit::mixdown(&space, MERGE).success();
    space
}

#[track_caller]
fn assert_same(space: &Space, expected: &Space) {
    let found = read_checkpoint(space.path("merged"));
    let expected_here = read_checkpoint(expected.path("merged"));
    assert!(found.tensors == expected_here.tensors, "other tensors than of models that lie here");
    assert_eq!(space.read("merged/model.safetensors"), expected.read("merged/model.safetensors"),);
    for name in ["config.json", "tokenizer.json"] {
        assert_eq!(space.read(format!("merged/{name}")), expected.read(format!("merged/{name}")));
    }
}

/// Bytes of weights that were asked for.
fn asked(requests: &[Request]) -> u64 {
    let of_weights = requests.iter().filter(|request| request.path.starts_with("/large-files/"));
    let bytes = |request: &Request| {
        let (first, last) = request.range.as_deref()?.strip_prefix("bytes=")?.split_once('-')?;
        Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
    };
    of_weights.map(|request| bytes(request).expect("weights are asked for by ranges")).sum()
}

/// Bytes of disk that the files under a folder take.
fn stored(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.unwrap().path());
    let size = |path: PathBuf| match path.is_dir() {
        true => stored(&path),
        false => std::fs::metadata(&path).expect("a file").blocks() * 512,
    };
    entries.map(size).sum()
}

#[test]
fn models_at_a_hub_are_merged_where_they_lie() {
    let hub = hub();
    let expected = expected(&hub);
    let server = HubServer::start(hub.root(), Behavior::default());
    let space = Space::new();
    space.write("recipe.yaml", recipe("hf://"));
    run(&space, &server, &["plan", "recipe.yaml"]).success();
    let for_headers = asked(&server.requests());
    assert!(for_headers <= 6 * (64 << 10), "a plan needs headers alone: {for_headers}");
    run(&space, &server, &MERGE).success();
    assert_same(&space, &expected);
    let manifest = space.read_text("merged/mixdown-manifest.json");
    assert!(manifest.contains(COMMIT) && manifest.contains("hf://org/base"), "{manifest}");
    assert!(!space.exists(".home/huggingface/hub/models--org--base"), "nothing is downloaded");
    let blocks = stored(&space.path(".home/cache/mixdown/mixdown-stand-ins"));
    // Headers, and the files beside the weights; the models have 25 MB.
    assert!(blocks > 0 && blocks < 1 << 20, "{blocks}");
}

/// Ids as recipes name them, with the switch or its variable, in every command that opens models.
#[test]
fn ids_that_are_not_in_the_cache_are_read_where_they_lie_when_asked() {
    let hub = hub();
    let expected = expected(&hub);
    let server = HubServer::start(hub.root(), Behavior::default());
    let space = Space::new();
    space.write("recipe.yaml", recipe(""));
    for command in ["check", "plan"] {
        run(&space, &server, &[command, "recipe.yaml", "--remote"]).success();
    }
    run(&space, &server, &["inspect", "org/a", "--remote"]).success();
    let for_headers = asked(&server.requests());
    // The models have 25 MB in six files, whose headers are asked for by each command.
    assert!(for_headers <= 13 * (64 << 10), "headers alone are read: {for_headers}");
    Program::new(&space)
        .args(MERGE)
        .without_env("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", server.endpoint())
        .env("MIXDOWN_REMOTE", "1")
        .run()
        .success();
    assert_same(&space, &expected);
    let manifest = space.read_text("merged/mixdown-manifest.json");
    assert!(manifest.contains(COMMIT) && manifest.contains("\"org/base\""), "{manifest}");
    assert!(!space.exists(".home/huggingface/hub/models--org--base"), "nothing is downloaded");
    let misspelled = run(&space, &server, &["inspect", "org/none", "--remote"]).exits(2);
    assert!(misspelled.stderr.contains("there is no model"), "{}", misspelled.stderr);
}

/// What one run read, the next one has: of the same state of each file, whoever reads, and no more than asked for.
#[test]
fn what_was_read_is_kept_within_its_limit() {
    let hub = hub();
    let expected = expected(&hub);
    let server = HubServer::start(hub.root(), Behavior::default());
    let space = Space::new();
    space.write("recipe.yaml", recipe("hf://"));
    let kept = ".home/cache/mixdown/remote";
    let merge = |more: &[&str]| run(&space, &server, &[&MERGE[..], &["--force"], more].concat());
    merge(&["--remote-cache", "1GB"]).success();
    assert_same(&space, &expected);
    let first = asked(&server.requests());
    // From now on headers alone are asked for, until a block is damaged.
    merge(&["--remote-cache", "1GB"]).success();
    assert_same(&space, &expected);
    let for_headers = asked(&server.requests()) - first;
    assert!(for_headers <= 6 * (64 << 10), "{for_headers}");
    let is_block = |name: &String| !name.ends_with("/of");
    let blocks: Vec<String> = space.files_under(kept).into_iter().map(|file| file.0).collect();
    for name in blocks.iter().filter(|name| is_block(name)) {
        let path = format!("{kept}/{name}");
        let mut bytes = space.read(&path);
        bytes[100] ^= 1;
        space.write(&path, bytes);
    }
    merge(&["--remote-cache", "1GB"]).success();
    assert_same(&space, &expected);
    let listed = mixdown_kit::mixdown(&space, ["cache", "list", "--json"]).success().json();
    assert_eq!(listed["remote"]["files"].as_array().unwrap().len(), 6);
    let listed = mixdown_kit::mixdown(&space, ["cache", "list"]).success();
    assert!(listed.stdout.contains("org/base/resolve"), "{}", listed.stdout);
    mixdown_kit::mixdown(&space, ["cache", "prune", "--max-size", "3MB"]).success();
    assert!((1..=3_000_000).contains(&bytes_of(&space, kept)), "{}", bytes_of(&space, kept));
    mixdown_kit::mixdown(&space, ["cache", "prune", "--all"]).success();
    assert_eq!(bytes_of(&space, kept), 0);
    merge(&["--remote-cache", "4MB"]).success();
    assert_same(&space, &expected);
    assert!((1..=4_000_000).contains(&bytes_of(&space, kept)), "{}", bytes_of(&space, kept));
    // Unasked nothing is kept.
    mixdown_kit::mixdown(&space, ["cache", "prune", "--all"]).success();
    merge(&[]).success();
    assert_eq!(bytes_of(&space, kept), 0);
}

fn bytes_of(space: &Space, folder: &str) -> u64 {
    if !space.exists(folder) {
        return 0;
    }
    let files = space.files_under(folder).into_iter();
    files.filter(|(name, _)| !name.ends_with("/of")).map(|(_, bytes)| bytes.len() as u64).sum()
}

/// With all of it kept, even the hub may be gone; two processes that keep blocks do not disturb each other.
#[test]
fn what_is_kept_is_merged_while_the_hub_is_down() {
    let hub = hub();
    let expected = expected(&hub);
    let server = HubServer::start(hub.root(), Behavior::default());
    let (space, endpoint) = (Space::new(), server.endpoint());
    space.write("recipe.yaml", recipe("hf://"));
    let program = |out: &str| {
        let program = Program::new(&space).args(["merge", "recipe.yaml", "--out", out]);
        let program = program.without_env("HF_HUB_OFFLINE").env("HF_ENDPOINT", &endpoint);
        program.env("MIXDOWN_REMOTE_CACHE", "1GB")
    };
    let both = ["one", "two"].map(|out| program(out).start());
    both.into_iter().for_each(|running| drop(running.wait().success()));
    drop(server);
    let merged = program("merged").run().success();
    assert!(merged.stderr.contains("W0681"), "{}", merged.stderr);
    for out in ["one", "two", "merged"] {
        let weights = format!("{out}/model.safetensors");
        assert!(space.read(weights) == expected.read("merged/model.safetensors"), "{out}");
    }
}

/// Another state of a file is another file.
#[test]
fn states_of_a_file_are_not_mixed() {
    let hub = hub();
    let server = HubServer::start(hub.root(), Behavior { token: None, ..Behavior::default() });
    let space = Space::new();
    let model = format!("{}/org/a/resolve/main", server.endpoint());
    space
        .write("recipe.yaml", format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n"));
    let merge = || {
        let arguments = [&MERGE[..], &["--force", "--remote-cache", "1GB"]].concat();
        run(&space, &server, &arguments).success();
        read_checkpoint(space.path("merged")).tensors
    };
    let before = merge();
    assert!(before == read_checkpoint(hub.path("org/a")).tensors);
    checkpoint("org/a")
        .layers(2)
        .hidden(192)
        .vocabulary(4096)
        .dtype(DType::F32)
        .expert(13, 0.02)
        .write(&hub);
    let after = merge();
    assert!(after == read_checkpoint(hub.path("org/a")).tensors);
    assert!(after != before);
}

/// Nothing answers at the address of this hub.
const NOWHERE: &str = "http://127.0.0.1:9";

fn without_hub(space: &Space, arguments: &[&str]) -> Outcome {
    let program = Program::new(space).args(arguments).without_env("HF_HUB_OFFLINE");
    program.env("HF_ENDPOINT", NOWHERE).run()
}

/// A hub that is down stops nobody who has the model.
#[test]
fn what_is_cached_works_while_the_hub_is_down() {
    let hub = hub();
    let expected = expected(&hub);
    let server = HubServer::start(hub.root(), Behavior::default());
    let space = Space::new();
    space.write("recipe.yaml", recipe(""));
    // Fetches all of them.
    run(&space, &server, &["merge", "recipe.yaml", "--out", "first"]).success();
    drop(server);
    let merged = without_hub(&space, &[&MERGE[..], &["--remote"]].concat()).success();
    assert_same(&space, &expected);
    assert!(!merged.stderr.contains("W0681"), "nobody is asked for what is here");
    // An address of the hub is asked for there, and what is here serves in its place, which is told.
    let inspected = without_hub(&space, &["inspect", "hf://org/a"]).success();
    let told = &inspected.stderr;
    assert!(told.contains("W0681") && told.contains(COMMIT), "{told}");
    let offline = mixdown_kit::mixdown(&space, ["inspect", "hf://org/a"]).success();
    assert!(!offline.stderr.contains("W0681"), "{}", offline.stderr);
    let none = without_hub(&space, &["inspect", "org/none", "--remote"]);
    assert_ne!(none.status, Some(0));
    assert!(none.stderr.contains(NOWHERE), "{}", none.stderr);
}

/// Headers that an earlier run read suffice for what needs headers alone.
#[test]
fn headers_of_an_earlier_run_serve_while_the_hub_is_down() {
    let hub = hub();
    // The path of stand-ins has the hub's address in it, so both servers need the same.
    let server = HubServer::start(hub.root(), Behavior::default());
    let (space, endpoint) = (Space::new(), server.endpoint());
    space.write("recipe.yaml", recipe("hf://"));
    let plan = |arguments: &[&str]| {
        let program = Program::new(&space).args(arguments).without_env("HF_HUB_OFFLINE");
        program.env("HF_ENDPOINT", &endpoint).run()
    };
    let before = plan(&["plan", "recipe.yaml"]).success();
    drop(server);
    let after = plan(&["plan", "recipe.yaml"]).success();
    assert_eq!(before.stdout, after.stdout);
    assert_eq!(after.stderr.matches("W0681").count(), 3, "{}", after.stderr);
    assert_ne!(
        plan(&["plan", "recipe.yaml", "--set", "base_model=hf://org/other"]).status,
        Some(0)
    );
}

#[test]
fn a_check_of_models_to_be_fetched_asks_for_headers_alone() {
    let hub = hub();
    let server = HubServer::start(hub.root(), Behavior::default());
    let space = Space::new();
    space.write("recipe.yaml", recipe(""));
    let outcome = run(&space, &server, &["check", "recipe.yaml", "--memory", "9MB"]).exits(1);
    assert!(outcome.stderr.contains("E0401"), "the budget is too small: {}", outcome.stderr);
    run(&space, &server, &["check", "recipe.yaml"]).success();
    let planned = run(&space, &server, &["plan", "recipe.yaml", "--json"]).success().json();
    let for_headers = asked(&server.requests());
    assert!(for_headers <= 3 * 6 * (64 << 10), "headers alone: {for_headers}");
    assert!(!space.exists(".home/huggingface/hub/models--org--base"), "nothing is downloaded");
    // What a merge does with it is what the plan said, and fetches the models as ever.
    run(&space, &server, &MERGE).success();
    assert!(space.exists(".home/huggingface/hub/models--org--base"));
    let again = run(&space, &server, &["plan", "recipe.yaml", "--json"]).success().json();
    assert_eq!(planned["memory"], again["memory"]);
}

#[test]
fn folders_and_files_at_addresses_are_merged_where_they_lie() {
    let hub = hub();
    let expected = expected(&hub);
    let server = HubServer::start(hub.root(), Behavior { token: None, ..Behavior::default() });
    let space = Space::new();
    let recipe = recipe("")
        .replace(
            "model: org/base\n",
            &format!("model: {}/org/base/resolve/main\n", server.endpoint()),
        )
        .replace(
            "model: org/a\n",
            &format!("model: {}/large-files/org/a/model.safetensors\n", server.endpoint()),
        )
        .replace("model: org/b\n", &format!("model: {}/org/b/resolve/main/\n", server.endpoint()));
    space.write("recipe.yaml", recipe);
    let merge = Program::new(&space)
        .args(MERGE)
        .args(["--memory", "128MB"])
        .without_env("HF_HUB_OFFLINE")
        .env("HF_TOKEN", "secret")
        .run()
        .success();
    assert!(!merge.stderr.contains("secret"));
    assert_same(&space, &expected);
    let with_token = server.requests().into_iter().filter(|one| one.authorization.is_some());
    assert_eq!(with_token.count(), 0, "a token for the hub goes to no other server");
}

#[test]
fn answers_that_break_off_or_are_refused_for_a_moment_are_asked_for_again() {
    let hub = hub();
    let expected = expected(&hub);
    for behavior in [
        Behavior { cuts_every: Some(3), ..Behavior::default() },
        Behavior { refuses_every: Some(4), ..Behavior::default() },
    ] {
        let server = HubServer::start(hub.root(), behavior);
        let space = Space::new();
        space.write("recipe.yaml", recipe("hf://"));
        run(&space, &server, &MERGE).success();
        assert_same(&space, &expected);
    }
}

#[track_caller]
fn refused(name: &str, hub: &Space, behavior: Behavior, recipe: &str, status: i32) {
    let server = HubServer::start(hub.root(), behavior);
    let space = Space::new();
    space.write("recipe.yaml", recipe);
    let outcome = run(&space, &server, &MERGE).exits(status);
    assert!(!space.exists("merged"));
    let talk = outcome.talk().replace(&server.endpoint(), "[SERVER]");
    with_snapshots(|| insta::assert_snapshot!(name, talk));
}

#[test]
fn servers_that_lie_are_not_believed() {
    let hub = hub();
    let one = "merge_method: passthrough\nmodels: [{model: hf://org/a}]\n";
    let behavior = Behavior { ignores_ranges: true, ..Behavior::default() };
    refused("ignores_ranges", &hub, behavior, one, 1);
    // Behind the header.
    let behavior = Behavior { changes_after: Some(1), ..Behavior::default() };
    refused("changes", &hub, behavior, one, 1);
    let behavior = Behavior { shifts_ranges: true, ..Behavior::default() };
    refused("shifts_ranges", &hub, behavior, one, 1);
    let behavior = Behavior { token: Some("another".to_owned()), ..Behavior::default() };
    refused("no_token", &hub, behavior, one, 1);
    let none = "merge_method: passthrough\nmodels: [{model: hf://org/none}]\n";
    refused("no_model", &hub, Behavior::default(), none, 2);
}

#[test]
fn without_a_network_a_remote_model_is_told() {
    let space = Space::new();
    space.write("recipe.yaml", recipe("hf://"));
    let outcome = mixdown_kit::mixdown(&space, MERGE).exits(2);
    assert!(outcome.stderr.contains("HF_HUB_OFFLINE"), "{}", outcome.stderr);
}

/// A store without an account, and names that are no buckets, are told before anything is asked.
#[test]
fn addresses_of_stores_that_cannot_be_are_told() {
    for (address, expected) in
        [("az://models/a", "AZURE_STORAGE_ACCOUNT_NAME"), ("s3://me@models/a", "names no bucket")]
    {
        let space = Space::new();
        let outcome =
            Program::new(&space).args(["inspect", address]).without_env("HF_HUB_OFFLINE").run();
        assert_ne!(outcome.status, Some(0));
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
}
