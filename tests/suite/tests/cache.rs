//! `mixdown cache`: what is listed, and what a prune removes.
//!
//! Catches a store that is looked for in another place than its entries are, bytes of entries that
//! are not those of the description, and a prune that removes what should stay.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mixdown_kit::{Program, Space, mixdown};
use mixdown_suite::with_snapshots;

const DAY: u64 = 86_400;

/// Where the program keeps results when it is run in a space.
const STORE: &str = ".home/cache/mixdown/store";

/// An entry with one array of f32, put together here from the description of its bytes: made so many
/// days ago, and last used so many days ago.
fn entry(space: &Space, title: &str, elements: usize, made: u64, used: u64) -> PathBuf {
    let key = blake3::hash(title.as_bytes());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let data: Vec<u8> = (0..elements).flat_map(|number| (number as f32).to_le_bytes()).collect();

    let mut header = (now - made * DAY - 60).to_le_bytes().to_vec();
    for text in [title, "{}"] {
        header.extend((text.len() as u32).to_le_bytes());
        header.extend(text.as_bytes());
    }
    header.extend([1, 0, 0, 0, 1, 0, 0, 0, b'x', 0, 1]);
    header.extend((elements as u64).to_le_bytes());

    let mut begin = b"mixstore\x01\0\0\0".to_vec();
    begin.extend((header.len() as u32).to_le_bytes());
    begin.extend(key.as_bytes());
    header.extend(data.chunks(1 << 20).flat_map(|chunk| *blake3::hash(chunk).as_bytes()));
    let digest = blake3::hash(&[&begin[..], &header].concat());
    let bytes = [&begin[..], digest.as_bytes(), &header, &data].concat();

    let name = key.to_hex();
    let path = space.write(format!("{STORE}/v1/{}/{name}.entry", &name[..2]), bytes);
    let time = SystemTime::now() - Duration::from_secs(used * DAY + 60);
    File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    path
}

fn filled() -> (Space, [PathBuf; 3]) {
    let space = Space::new();
    let entries = [
        entry(&space, "spectrum of model.layers.0.mlp.up_proj.weight", 600_000, 50, 40),
        entry(&space, "interference of model.layers.1.mlp.down_proj.weight", 250_000, 20, 3),
        entry(&space, "a title\x1b[2J\nerror: that acts", 1000, 8, 7),
    ];
    (space, entries)
}

#[test]
fn help_of_each_action() {
    let space = Space::new();
    for action in ["list", "prune"] {
        let help = mixdown(&space, ["cache", action, "--help"]).success();
        with_snapshots(|| insta::assert_snapshot!(format!("help_{action}"), help.shown()));
    }
    mixdown(&space, ["cache"]).exits(2);
}

#[test]
fn an_empty_store_is_listed_and_not_made() {
    let space = Space::new();
    for action in ["list", "prune"] {
        let outcome = mixdown(&space, ["cache", action]).success();
        assert_eq!(outcome.stdout, "");
    }
    assert!(!space.exists(".home/cache/mixdown"));
    assert_eq!(
        mixdown(&space, ["cache", "list", "--json"]).json()["entries"],
        serde_json::json!([])
    );
}

#[test]
fn entries_are_listed() {
    let (space, entries) = filled();
    let outcome = mixdown(&space, ["cache", "list"]).success();
    with_snapshots(|| insta::assert_snapshot!("list", outcome.shown() + &outcome.talk()));
    let json = mixdown(&space, ["cache", "list", "--json"]).success().json();
    assert_eq!(json["entries"][0]["arrays"][0]["shape"], serde_json::json!([600_000]));
    let sizes = entries.iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    assert_eq!(json["bytes"], sizes);
    assert_eq!(json["entries"][2]["title"], "interference of model.layers.1.mlp.down_proj.weight");
}

#[test]
fn a_damaged_entry_is_listed_as_such_and_pruned() {
    let (space, entries) = filled();
    let file = File::options().append(true).open(&entries[2]).unwrap();
    let data = file.metadata().unwrap();
    file.set_len(data.len() - 1).unwrap();
    file.set_modified(data.modified().unwrap()).unwrap();
    let outcome = mixdown(&space, ["cache", "list"]).success();
    with_snapshots(|| insta::assert_snapshot!("list_damaged", outcome.shown()));
    let outcome = mixdown(&space, ["cache", "prune"]).success();
    with_snapshots(|| insta::assert_snapshot!("prune_damaged", outcome.shown() + &outcome.talk()));
    assert!(entries[0].exists() && entries[1].exists() && !entries[2].exists());
}

#[test]
fn what_is_too_much_or_too_old_is_pruned() {
    let (space, entries) = filled();
    let there = || entries.each_ref().map(|path| path.exists());
    let dry = mixdown(&space, ["cache", "prune", "--max-size", "1500kB", "--dry-run"]).success();
    with_snapshots(|| insta::assert_snapshot!("prune_dry_run", dry.shown() + &dry.talk()));
    assert_eq!(there(), [true, true, true]);
    let size = mixdown(&space, ["cache", "prune", "--max-size", "1500kB"]).success();
    with_snapshots(|| insta::assert_snapshot!("prune_size", size.shown() + &size.talk()));
    assert_eq!(there(), [false, true, true]);
    let json = mixdown(&space, ["cache", "prune", "--older-than", "1w", "--json"]).success().json();
    assert_eq!((&json["kept"], json["removed"].as_array().map(Vec::len)), (&1.into(), Some(1)));
    assert_eq!(there(), [false, true, false]);
    mixdown(&space, ["cache", "prune", "--all"]).success();
    assert_eq!(there(), [false, false, false]);
}

#[test]
fn what_cannot_be_understood_is_refused() {
    let (space, entries) = filled();
    for (name, arguments) in [
        ("wrong_age", ["--older-than", "5m"]),
        ("wrong_size", ["--max-size", "much"]),
        ("wrong_both", ["--all", "--older-than=1d"]),
    ] {
        let outcome = mixdown(&space, [&["cache", "prune"], &arguments[..]].concat()).exits(2);
        assert_eq!(outcome.stdout, "");
        with_snapshots(|| insta::assert_snapshot!(name, outcome.talk()));
    }
    assert!(entries.iter().all(|path| path.exists()));
}

#[test]
fn a_store_that_is_no_folder_is_an_error() {
    let space = Space::new();
    space.write("elsewhere/store/v1", "a file");
    let outcome = Program::new(&space)
        .env("MIXDOWN_CACHE", space.path("elsewhere"))
        .args(["cache", "list"])
        .run()
        .exits(1);
    with_snapshots(|| insta::assert_snapshot!("no_folder", outcome.talk()));
}
