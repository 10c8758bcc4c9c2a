//! Models by hub id: from a cache laid out as the hub's, and from a server on this machine.
//!
//! Catches downloads that start over, a token that is not sent, a cache that other programs could
//! not use, and network access where none is allowed.

use mixdown_kit::hub::{Behavior, COMMIT, HubServer};
use mixdown_kit::{Layout, Outcome, Program, Space, checkpoint, read_checkpoint};
use mixdown_suite::{configuration, with_snapshots};

/// A repository folder with one model, `org/tiny`.
fn repository() -> Space {
    let space = Space::new();
    checkpoint("org/tiny").hidden(64).layout(Layout::Sharded(2)).write(&space);
    space
}

fn recipe(model: &str) -> String {
    configuration("passthrough", None, &[(model, "")], "").replace("dtype: float32\n", "")
}

fn merge_from(space: &Space, server: &HubServer, environment: &[(&str, &str)]) -> Outcome {
    let mut program = Program::new(space)
        .args(["merge", "recipe.yaml", "--out", "merged"])
        .without_env("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", server.endpoint());
    for (name, value) in environment {
        program = program.env(name, value);
    }
    program.run()
}

fn offline(space: &Space) -> Outcome {
    mixdown_kit::mixdown(space, ["merge", "recipe.yaml", "--out", "merged"])
}

const CACHED: &str = ".home/huggingface/hub/models--org--tiny";

#[test]
fn a_model_is_fetched_once_and_then_found() {
    let hub = repository();
    let server = HubServer::start(hub.root(), Behavior::default());
    let space = Space::new();
    space.write("recipe.yaml", recipe("org/tiny"));
    merge_from(&space, &server, &[]).success();
    let merged = read_checkpoint(space.path("merged")).tensors;
    assert_eq!(merged, read_checkpoint(hub.path("org/tiny")).tensors);
    assert_eq!(space.read("merged/tokenizer.json"), hub.read("org/tiny/tokenizer.json"));

    let reference = space.read_text(format!("{CACHED}/refs/main"));
    assert_eq!(reference.trim(), COMMIT, "other programs find the snapshot through this");
    let snapshot = format!("{CACHED}/snapshots/{COMMIT}/model-00001-of-00002.safetensors");
    assert!(space.path(&snapshot).is_symlink(), "the snapshot links to the blob");
    let manifest = space.read_text("merged/mixdown-manifest.json");
    assert!(manifest.contains(COMMIT), "the manifest says which commit it was");

    std::fs::remove_dir_all(space.path("merged")).unwrap();
    offline(&space).success();
    assert_eq!(read_checkpoint(space.path("merged")).tensors, merged);
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let hub = repository();
    let behavior = Behavior { break_off_once_after: Some(20_000), ..Behavior::default() };
    let server = HubServer::start(hub.root(), behavior);
    let space = Space::new();
    space.write("recipe.yaml", recipe("org/tiny"));
    // Whether it tries again by itself is its own choice; the second run must do.
    if merge_from(&space, &server, &[]).status != Some(0) {
        merge_from(&space, &server, &[]).success();
    }
    let merged = read_checkpoint(space.path("merged")).tensors;
    assert_eq!(merged, read_checkpoint(hub.path("org/tiny")).tensors);
    let resumed = server.requests().into_iter().any(|request| {
        let from_start = |range: &str| range.starts_with("bytes=0-");
        request.path.contains("large-files") && request.range.is_some_and(|r| !from_start(&r))
    });
    assert!(resumed, "what had arrived was not asked for again: {:#?}", server.requests());
}

#[test]
fn the_token_is_sent() {
    let hub = repository();
    let token = Some("hf_secret".to_owned());
    let server = HubServer::start(hub.root(), Behavior { token, ..Behavior::default() });
    let space = Space::new();
    space.write("recipe.yaml", recipe("org/tiny"));
    let outcome = merge_from(&space, &server, &[]).exits(1);
    with_snapshots(|| insta::assert_snapshot!("unauthorized", without_port(&outcome, &server)));
    let outcome = merge_from(&space, &server, &[("HF_TOKEN", "hf_secret")]).success();
    assert!(!outcome.stderr.contains("hf_secret"), "the token stays secret");
}

#[test]
fn revisions_are_looked_up() {
    let hub = repository();
    let server = HubServer::start(hub.root(), Behavior::default());
    let space = Space::new();
    space.write("recipe.yaml", recipe(&format!("org/tiny@{COMMIT}")));
    merge_from(&space, &server, &[]).success();
    std::fs::remove_dir_all(space.path("merged")).unwrap();
    space.write("recipe.yaml", recipe("org/tiny@v9"));
    let outcome = merge_from(&space, &server, &[]);
    assert_ne!(outcome.status, Some(0));
    with_snapshots(|| insta::assert_snapshot!("unknown_revision", without_port(&outcome, &server)));
}

#[test]
fn what_is_nowhere_is_said_so() {
    let hub = repository();
    let server = HubServer::start(hub.root(), Behavior::default());
    let space = Space::new();
    space.write("recipe.yaml", recipe("org/none"));
    let outcome = merge_from(&space, &server, &[]).exits(2);
    with_snapshots(|| insta::assert_snapshot!("unknown_model", without_port(&outcome, &server)));
    let outcome = offline(&space).exits(2);
    with_snapshots(|| insta::assert_snapshot!("offline_not_cached", outcome.talk()));
    assert!(!space.exists("merged"));
}

#[test]
fn a_hub_that_cannot_be_reached() {
    let hub = repository();
    let endpoint = HubServer::start(hub.root(), Behavior::default()).endpoint();
    // The server is gone, and its port is closed.
    let space = Space::new();
    space.write("recipe.yaml", recipe("org/tiny"));
    let outcome = Program::new(&space)
        .args(["merge", "recipe.yaml", "--out", "merged"])
        .without_env("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", &endpoint)
        .run()
        .exits(1);
    let talk = outcome.talk().replace(&endpoint, "[HUB]");
    assert!(talk.contains("org/tiny"), "{talk}");
}

/// A cache as the hub's own library lays it out.
#[test]
fn a_cache_is_used_offline() {
    let space = Space::new();
    let cache = space.path("cache/models--org--tiny");
    checkpoint("model").layout(Layout::Sharded(2)).write(&space);
    let snapshot = cache.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(cache.join("refs")).unwrap();
    std::fs::create_dir_all(cache.join("blobs")).unwrap();
    std::fs::write(cache.join("refs/main"), COMMIT).unwrap();
    for (number, (name, bytes)) in space.files_under("model").into_iter().enumerate() {
        let blob = format!("{number:064x}");
        std::fs::write(cache.join("blobs").join(&blob), bytes).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    }
    std::fs::remove_dir_all(space.path("model")).unwrap();
    for reference in ["org/tiny".to_owned(), format!("org/tiny@{COMMIT}")] {
        space.write("recipe.yaml", recipe(&reference));
        let program = Program::new(&space)
            .args(["merge", "recipe.yaml", "--out", "merged"])
            .env("HF_HUB_CACHE", space.path("cache"));
        program.run().success();
        let merged = read_checkpoint(space.path("merged"));
        let tensors = checkpoint("model").tensors();
        assert_eq!(merged.names().len(), tensors.len());
        assert_eq!(merged.tensor(&tensors[3].name), &tensors[3]);
        std::fs::remove_dir_all(space.path("merged")).unwrap();
    }
}

fn without_port(outcome: &Outcome, server: &HubServer) -> String {
    outcome.talk().replace(&server.endpoint(), "[HUB]")
}
