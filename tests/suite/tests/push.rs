//! Outputs put at a hub on this machine.
//!
//! Catches a push of something damaged, files that arrive changed or not at all, a token that goes to the
//! store of large files or follows a redirect, and uploads that begin anew.

use std::collections::BTreeMap;
use std::fs;

use mixdown_kit::upload_hub::{Behavior, Taken, UploadHub};
use mixdown_kit::{Layout, Outcome, Program, Space, adapter, checkpoint, mixdown};
use mixdown_suite::configuration;
use serde_json::Value;
use sha2::{Digest, Sha256};

const TOKEN: &str = "hf_mine";

fn behavior() -> Behavior {
    Behavior { token: TOKEN.to_owned(), ..Behavior::default() }
}

/// A merged model of two shards in the folder `merged`.
fn merged() -> Space {
    let space = Space::new();
    checkpoint("tiny").hidden(64).layout(Layout::Sharded(2)).write(&space);
    space.write("recipe.yaml", configuration("passthrough", None, &[("tiny", "")], ""));
    mixdown(&space, ["merge", "recipe.yaml", "--out", "merged", "--shard-size", "100KB"]).success();
    space
}

fn program(space: &Space, hub: &UploadHub) -> Program {
    Program::new(space)
        .without_env("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_TOKEN", TOKEN)
}

fn push(space: &Space, hub: &UploadHub, further: &[&str]) -> Outcome {
    program(space, hub).args(["push", "merged", "me/merged"]).args(further).run()
}

/// Bytes of a text of 64 signs.
fn decoded(text: &str) -> Vec<u8> {
    let value = |sign: u8| match sign {
        b'A'..=b'Z' => sign - b'A',
        b'a'..=b'z' => sign - b'a' + 26,
        b'0'..=b'9' => sign - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let signs: Vec<u8> = text.bytes().filter(|sign| *sign != b'=').collect();
    let bytes = signs.chunks(4).flat_map(|four| {
        let all = four.iter().fold(0u32, |all, sign| all << 6 | u32::from(value(*sign)));
        let all = all << (6 * (4 - four.len()));
        (0..four.len() - 1).map(move |place| (all >> (16 - 8 * place)) as u8)
    });
    bytes.collect()
}

/// The files that the last commit makes.
fn files(taken: &Taken) -> BTreeMap<String, Vec<u8>> {
    let (_, lines) = taken.commits.last().expect("there is a commit");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let files = lines.iter().filter_map(|line| {
        let value = &line["value"];
        match line["key"].as_str() {
            Some("file") => Some((text(&value["path"]), decoded(&text(&value["content"])))),
            Some("lfsFile") => {
                let (oid, size) = (text(&value["oid"]), value["size"].as_u64());
                let held = taken.objects.get(&oid).expect("the store has what a commit names");
                assert_eq!(Some(held.len() as u64), size);
                let digest = Sha256::digest(held);
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(digest, oid);
                Some((text(&value["path"]), held.clone()))
            }
            _ => None,
        }
    });
    files.collect()
}

fn folder(space: &Space, name: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(space.path(name)).expect("a folder").map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(path).expect("a file"))
    });
    entries.collect()
}

/// The token goes to the hub's own addresses, and nothing else comes there without.
fn check_tokens(taken: &Taken) {
    for (method, path, token) in &taken.requests {
        let expected = (!path.starts_with("/storage/")).then(|| format!("Bearer {TOKEN}"));
        assert_eq!(*token, expected, "{method} {path}");
    }
}

#[test]
fn an_output_arrives_whole_in_one_commit() {
    let (space, hub) = (merged(), UploadHub::start(behavior()));
    let before = folder(&space, "merged");
    // What other tools keep beside the model is no part of it.
    space.write("merged/.state", "mine");
    let outcome = push(&space, &hub, &["--private", "--message", "a first try"]).success();
    assert_eq!(outcome.stdout, format!("{}/commit/1\n", hub.endpoint()));
    let taken = hub.taken();
    assert_eq!(files(&taken), before);
    assert!(taken.objects.len() > 1, "there are several shards");
    let created = taken.created.as_ref().expect("the repository was made");
    assert_eq!((&created["organization"], &created["name"]), (&"me".into(), &"merged".into()));
    assert_eq!(created["private"], true);
    let (branch, lines) = &taken.commits[0];
    assert_eq!((branch.as_str(), &lines[0]["value"]["summary"]), ("main", &"a first try".into()));
    check_tokens(&taken);
}

#[test]
fn large_files_go_in_the_pieces_that_the_store_asks_for() {
    let space = merged();
    let hub = UploadHub::start(Behavior { pieces: Some(30_011), ..behavior() });
    push(&space, &hub, &["--branch", "tries/second"]).success();
    let taken = hub.taken();
    assert_eq!(files(&taken), folder(&space, "merged"));
    assert_eq!(taken.commits[0].0, "tries%2Fsecond");
    let made = taken.requests.iter().any(|(_, path, _)| path.ends_with("/branch/tries%2Fsecond"));
    assert!(made, "the branch was made");
    check_tokens(&taken);
}

#[test]
fn what_breaks_off_is_tried_again_and_what_arrived_is_not_sent_again() {
    let space = merged();
    let hub = UploadHub::start(Behavior { cuts: 2, refused_commits: 1, ..behavior() });
    push(&space, &hub, &[]).success();
    assert_eq!(files(&hub.taken()), folder(&space, "merged"));
    let uploads =
        |taken: &Taken| taken.requests.iter().filter(|(method, ..)| method == "PUT").count();
    let before = uploads(&hub.taken());
    push(&space, &hub, &[]).success();
    let taken = hub.taken();
    assert_eq!((uploads(&taken), taken.commits.len()), (before, 2));
}

#[test]
fn what_is_damaged_or_unfinished_stays_here() {
    let (space, hub) = (merged(), UploadHub::start(behavior()));
    let shard = folder(&space, "merged").into_keys().find(|name| name.ends_with(".safetensors"));
    let shard = space.path("merged").join(shard.expect("there are weights"));
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let outcome = push(&space, &hub, &[]).exits(1);
    assert!(outcome.talk().contains("are not those that were written"), "{}", outcome.talk());
    let outcome = program(&space, &hub).args(["push", "tiny", "me/merged"]).run().exits(1);
    assert!(outcome.talk().contains("manifest"), "{}", outcome.talk());
    assert!(hub.taken().requests.is_empty());
}

#[test]
fn refusals_say_what_to_do() {
    let space = merged();
    let hub = UploadHub::start(Behavior { token: "another".to_owned(), ..Behavior::default() });
    let talk = push(&space, &hub, &[]).exits(1).talk();
    assert!(
        talk.contains("error[E0575]: `me/merged` could not be pushed to: HF_TOKEN may not write"),
        "{talk}"
    );
    assert!(talk.contains("no right to write, status 403"), "{talk}");
    let hub = UploadHub::start(behavior());
    let outcome =
        program(&space, &hub).without_env("HF_TOKEN").args(["push", "merged", "me/x"]).run();
    assert!(outcome.exits(2).talk().contains("cannot be pushed to without a token"));
    let outcome = program(&space, &hub).args(["push", "merged", "../x"]).run();
    assert!(outcome.exits(2).talk().contains("names no repository of the hub"));
    let outcome =
        program(&space, &hub).env("HF_HUB_OFFLINE", "1").args(["push", "merged", "me/x"]).run();
    assert!(outcome.exits(2).talk().contains("HF_HUB_OFFLINE is set"));
    assert!(hub.taken().requests.is_empty());
}

#[test]
fn a_redirect_does_not_take_the_token_elsewhere() {
    let space = merged();
    let other = UploadHub::start(behavior());
    let hub = UploadHub::start(Behavior { moved_to: Some(other.endpoint()), ..behavior() });
    let talk = push(&space, &hub, &[]).exits(1).talk();
    assert!(talk.contains("it is elsewhere"), "{talk}");
    assert!(other.taken().requests.is_empty());
}

#[test]
fn a_fused_model_goes_to_the_hub_when_it_is_made() {
    let (space, hub) = (Space::new(), UploadHub::start(behavior()));
    checkpoint("base").write(&space);
    adapter("lora", 2).module("model.layers.0.self_attn.q_proj", 2, [16, 16]).write(&space);
    let fuse = ["fuse", "base", "lora", "--out", "fused", "--push", "me/fused"];
    program(&space, &hub).args(fuse).run().success();
    assert_eq!(files(&hub.taken()), folder(&space, "fused"));
    // Told before the work.
    let fuse = ["fuse", "base", "lora", "--out", "again", "--push", "me/fused"];
    program(&space, &hub).without_env("HF_TOKEN").args(fuse).run().exits(2);
    assert!(!space.path("again").exists());
}
