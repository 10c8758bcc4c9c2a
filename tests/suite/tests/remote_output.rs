//! Outputs that go to object stores, to a server on this machine that behaves well or badly.
//!
//! Catches objects that are seen before all of the output is there, other bytes than in a folder, parts that are
//! sent twice or lost over an interruption, and what was there that is replaced unasked.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use mixdown_kit::store::{BUCKET, StoreBehavior, StoreServer};
use mixdown_kit::{DType, Outcome, Program, Space, checkpoint, mixdown};

/// Two models whose merge is one file of four parts.
fn models() -> Space {
    let space = Space::new();
    let model = |name: &str| checkpoint(name).layers(2).hidden(192).vocabulary(18000);
    model("base").dtype(DType::F32).write(&space);
    model("a").dtype(DType::F32).expert(11, 0.01).write(&space);
    let text = "merge_method: linear\nmodels:\n  - {model: ./base, parameters: {weight: 0.5}}\n  \
                - {model: ./a, parameters: {weight: 0.5}}\ndtype: float32\n";
    space.write("recipe.yaml", text);
    space
}

fn merge(space: &Space, server: &StoreServer, out: &str, more: &[&str]) -> Program {
    with_keys(space, server)
        .args(["merge", "recipe.yaml", "--out", out, "--shard-size", "0"])
        .args(more)
}

/// The program with keys to the server's stores.
fn with_keys(space: &Space, server: &StoreServer) -> Program {
    Program::new(space)
        .without_env("HF_HUB_OFFLINE")
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret-of-aws")
        .env("STORAGE_EMULATOR_HOST", server.endpoint())
        .env("GOOGLE_OAUTH_ACCESS_TOKEN", "secret-of-google")
        .env("AZURE_STORAGE_ENDPOINT", server.endpoint())
        .env("AZURE_STORAGE_ACCOUNT_NAME", "mine")
        .env("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0LW9mLWF6dXJl")
}

/// The files of the same merge into a folder.
fn expected(space: &Space) -> BTreeMap<String, Vec<u8>> {
    mixdown(space, ["merge", "recipe.yaml", "--out", "merged", "--shard-size", "0"]).success();
    space.files_under("merged").into_iter().collect()
}

/// The server's objects in a folder.
fn below(server: &StoreServer, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let objects = server.objects().into_iter();
    let own = objects.filter_map(|(name, bytes)| {
        Some((name.strip_prefix(&format!("{folder}/"))?.to_owned(), bytes))
    });
    own.collect()
}

#[track_caller]
fn assert_is(server: &StoreServer, folder: &str, expected: &BTreeMap<String, Vec<u8>>) {
    let found = below(server, folder);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "other bytes of {name}");
    }
}

/// What passes through this machine is gone.
#[track_caller]
fn assert_nothing_is_left(space: &Space) {
    let place = ".home/cache/mixdown/outgoing";
    let left = if space.exists(place) { space.files_under(place) } else { Vec::new() };
    assert!(left.is_empty(), "{:?}", left.iter().map(|(name, _)| name).collect::<Vec<_>>());
}

#[test]
fn every_kind_of_store_gets_the_files_of_a_folder() {
    let space = models();
    let expected = expected(&space);
    for scheme in ["s3", "gs", "az"] {
        let server = StoreServer::start(StoreBehavior::default());
        let out = format!("{scheme}://{BUCKET}/team one/merged");
        let merged = merge(&space, &server, &out, &[]).run().success();
        assert_is(&server, "team one/merged", &expected);
        assert_eq!(merged.stdout.trim(), out);
        assert!(!merged.stderr.contains("secret") && !merged.stderr.contains("mixdown verify"));
        assert_nothing_is_left(&space);
        assert_eq!(server.open_uploads(), 0);
        let log = server.log();
        assert!(server.parts() >= 4, "sent in parts: {log:?}");
        // All parts are sent before anything can be seen, and what readers begin with comes last.
        let joined = log.iter().position(|line| line.starts_with("join ")).unwrap();
        assert!(log[joined..].iter().all(|line| !line.starts_with("part ")), "{log:?}");
        assert!(log[..joined].iter().all(|line| line.starts_with("part ")), "{log:?}");
        let last = log.iter().rev().take(2).map(|line| line.rsplit('/').next().unwrap());
        assert_eq!(last.collect::<Vec<_>>(), ["mixdown-manifest.json", "config.json"]);
    }
}

#[test]
fn a_store_that_stumbles_gets_the_same_bytes() {
    let space = models();
    let expected = expected(&space);
    let plain = StoreBehavior::default();
    for behavior in [
        StoreBehavior { refuses_every: Some(2), ..plain },
        StoreBehavior { cuts_every: Some(3), ..plain },
        StoreBehavior { loses_an_answer: true, ..plain },
    ] {
        for scheme in ["s3", "az"] {
            let server = StoreServer::start(behavior);
            let out = format!("{scheme}://{BUCKET}/merged");
            merge(&space, &server, &out, &[]).run().success();
            assert_is(&server, "merged", &expected);
        }
    }
    // An error that comes with status 200 is one, and the same command then goes on.
    let server = StoreServer::start(StoreBehavior { fails_in_the_text: true, ..plain });
    let out = format!("s3://{BUCKET}/merged");
    let failed = merge(&space, &server, &out, &[]).run().exits(1);
    assert!(failed.stderr.contains("E0561"), "{}", failed.stderr);
    assert!(failed.stderr.contains("InternalError"), "{}", failed.stderr);
    assert!(server.objects().is_empty());
    let parts = server.parts();
    merge(&space, &server, &out, &[]).run().success();
    assert_is(&server, "merged", &expected);
    assert_eq!(server.parts(), parts, "nothing is sent twice");
}

/// Starts a merge into a server that takes two parts and no more, and ends it there.
fn interrupted(space: &Space, server: &StoreServer, out: &str) {
    server.behave(StoreBehavior { holds_from: Some(2), ..StoreBehavior::default() });
    let mut running = merge(space, server, out, &[]).start();
    let begun = Instant::now();
    while server.parts() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "two parts are sent");
        assert!(!running.has_ended());
        std::thread::sleep(Duration::from_millis(10));
    }
    // What the program notes after a part's answer.
    std::thread::sleep(Duration::from_millis(300));
    running.kill();
    server.behave(StoreBehavior::default());
}

#[test]
fn a_killed_merge_shows_nothing_and_goes_on() {
    let space = models();
    let expected = expected(&space);
    let server = StoreServer::start(StoreBehavior::default());
    let out = format!("s3://{BUCKET}/merged");
    interrupted(&space, &server, &out);
    assert!(server.objects().is_empty(), "an unfinished output is not seen");
    let passing: u64 = space
        .files_under(".home/cache/mixdown/outgoing")
        .iter()
        .filter(|(name, _)| name.ends_with("model.safetensors"))
        .map(|(name, _)| space.path(".home/cache/mixdown/outgoing").join(name))
        .map(|path| std::fs::metadata(path).unwrap().blocks() * 512)
        .sum();
    // At least one whole part, and the last, which is shorter.
    let (bytes, part) = (expected["model.safetensors"].len() as u64, 8 << 20);
    let most = bytes - part - bytes % part + (1 << 20);
    assert!(passing <= most, "what is sent is let go of: {passing} of at most {most}");
    assert_eq!(server.open_uploads(), 1);
    merge(&space, &server, &out, &[]).run().success();
    assert_is(&server, "merged", &expected);
    assert_nothing_is_left(&space);
    let (parts, whole) = (server.parts(), expected["model.safetensors"].len().div_ceil(8 << 20));
    // The parts that were held when the program ended may be kept after all.
    assert!(parts <= whole + 2, "what was sent is not sent again: {parts} of {whole}");
    assert_eq!(server.open_uploads(), 0);
}

#[test]
fn what_a_store_has_forgotten_is_sent_again() {
    let space = models();
    let expected = expected(&space);
    let server = StoreServer::start(StoreBehavior::default());
    let out = format!("s3://{BUCKET}/merged");
    interrupted(&space, &server, &out);
    server.forget_uploads();
    merge(&space, &server, &out, &[]).run().success();
    assert_is(&server, "merged", &expected);
}

/// Parts of another merge are no parts of this one, and do not stay either.
#[test]
fn another_merge_at_the_address_starts_over() {
    let space = models();
    let server = StoreServer::start(StoreBehavior::default());
    let out = format!("s3://{BUCKET}/merged");
    interrupted(&space, &server, &out);
    let text = space.read_text("recipe.yaml").replace("0.5", "0.25");
    space.write("recipe.yaml", text);
    let expected = expected(&space);
    merge(&space, &server, &out, &[]).run().success();
    assert_is(&server, "merged", &expected);
    assert_eq!(server.open_uploads(), 0);
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_replaced() {
    let space = models();
    let expected = expected(&space);
    let server = StoreServer::start(StoreBehavior::default());
    for name in
        ["merged/old.json", "merged/model.safetensors.index.json", "merged/below/a", "merged2/a"]
    {
        server.put(name, b"old");
    }
    let out = format!("s3://{BUCKET}/merged/");
    let before = server.objects();
    let refused = merge(&space, &server, &out, &[]).run().exits(1);
    assert!(refused.stderr.contains("E0502"), "{}", refused.stderr);
    assert_eq!(server.objects(), before);
    assert_nothing_is_left(&space);
    merge(&space, &server, &out, &["--force"]).run().success();
    // What lies deeper is no part of an output, and neither is what only begins with the same letters.
    let mut wanted = expected;
    wanted.insert("below/a".to_owned(), b"old".to_vec());
    assert_is(&server, "merged", &wanted);
    assert_eq!(server.objects()["merged2/a"], b"old");
    let log = server.log();
    let at = |line: &str| log.iter().position(|known| known == line).unwrap();
    assert!(at("remove merged/model.safetensors.index.json") < at("join merged/model.safetensors"));
}

#[track_caller]
fn refused(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(outcome.stderr.contains(word), "`{word}` is missing in\n{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("secret"), "{}", outcome.stderr);
}

#[test]
fn a_store_that_takes_no_output_is_told_before_anything_is_computed() {
    let space = models();
    let server = StoreServer::start(StoreBehavior { is_read_only: true, ..Default::default() });
    for scheme in ["s3", "gs"] {
        let out = format!("{scheme}://{BUCKET}/merged");
        let outcome = merge(&space, &server, &out, &[]).run().exits(1);
        refused(&outcome, &["E0560", "AccessDenied", "status 403", &out, "of this environment"]);
        let outcome =
            merge(&space, &server, &format!("{scheme}://none/merged"), &[]).run().exits(1);
        refused(&outcome, &["E0560", "no bucket `none`", "NoSuchBucket"]);
    }
    let outcome = merge(&space, &server, &format!("s3://{BUCKET}"), &[]).run().exits(1);
    refused(&outcome, &["E0560", "names no folder"]);
    assert!(server.log().is_empty());
    assert_nothing_is_left(&space);
    // Refused at the very end, when its files are put.
    let server = StoreServer::start(StoreBehavior { full_at: Some(2), ..Default::default() });
    let out = format!("s3://{BUCKET}/merged");
    let outcome = merge(&space, &server, &out, &[]).run().exits(1);
    refused(&outcome, &["E0560", "QuotaExceeded"]);
    assert!(!server.objects().contains_key("merged/mixdown-manifest.json"));
    let (joined, parts) = (server.objects().len(), server.parts());
    assert!(joined > 0);
    server.behave(StoreBehavior::default());
    let expected = expected(&space);
    merge(&space, &server, &out, &[]).run().success();
    assert_is(&server, "merged", &expected);
    assert_eq!(server.parts(), parts, "what is joined is not sent again");
}

/// Faults of the data end the merge for good, and leave nothing that is paid for.
#[test]
fn a_merge_that_cannot_go_on_gives_up_what_it_sent() {
    let space = models();
    let text = "merge_method: linear\nmodels:\n  - {model: ./base, parameters: {weight: 1e38}}\n  \
                - {model: ./base, parameters: {weight: 1e38}}\nparameters: {normalize: false}\n\
                dtype: float16\n";
    space.write("recipe.yaml", text);
    let server = StoreServer::start(StoreBehavior::default());
    let outcome = merge(&space, &server, &format!("s3://{BUCKET}/merged"), &[]).run();
    assert_ne!(outcome.status, Some(0));
    assert!(server.objects().is_empty());
    assert_eq!(server.open_uploads(), 0, "{}", outcome.stderr);
    assert_nothing_is_left(&space);
}

#[test]
fn what_stores_do_not_take_is_refused_by_name() {
    let space = models();
    let before = space.list();
    let server = StoreServer::start(StoreBehavior::default());
    let out = format!("s3://{BUCKET}/merged");
    let refusals: [(&str, &[&str], &str); 3] = [
        (&out, &["--part", "1/2"], "a part of an output"),
        (&out, &["--sweep", "scale=1,2"], "a sweep"),
        ("https://example.org/merged", &[], "https://example.org/merged"),
    ];
    for (out, more, words) in refusals {
        let outcome = merge(&space, &server, out, more).run();
        assert_ne!(outcome.status, Some(0));
        refused(&outcome, &["E0559", words]);
    }
    // What goes on to the hub is read from a folder.
    let pushed = ["fuse", "./base", "./a", "--out", &out, "--push", "me/merged"];
    refused(&mixdown(&space, pushed), &["E0559", "what is pushed to the hub"]);
    let offline = merge(&space, &server, &out, &[]).env("HF_HUB_OFFLINE", "1").run();
    refused(&offline, &["E0559", "HF_HUB_OFFLINE"]);
    assert_eq!(space.list(), before);
    assert!(server.objects().is_empty() && server.log().is_empty());
}

/// `mixdown verify` of an address.
fn verify(space: &Space, server: &StoreServer, address: &str) -> Outcome {
    with_keys(space, server).args(["verify", address]).run()
}

#[test]
fn an_output_in_a_store_is_proven_where_it_lies() {
    let space = models();
    for scheme in ["s3", "gs", "az"] {
        let server = StoreServer::start(StoreBehavior::default());
        let out = format!("{scheme}://{BUCKET}/team one/merged");
        merge(&space, &server, &out, &[]).run().success();
        let proven = verify(&space, &server, &out).success();
        assert_eq!(proven.stdout, format!("{out} agrees with its manifest\n"));
        assert!(!proven.stderr.contains("cannot be listed"), "{}", proven.stderr);
        assert!(!proven.stderr.contains("secret"));
    }
}

/// Whatever an earlier run fetched, what lies there now is looked at.
#[test]
fn what_was_changed_in_a_store_is_told_by_its_address() {
    let space = models();
    let server = StoreServer::start(StoreBehavior::default());
    let out = format!("s3://{BUCKET}/merged");
    merge(&space, &server, &out, &[]).run().success();
    verify(&space, &server, &out).success();
    let sound = below(&server, "merged");
    let put = |name: &str, bytes: &[u8]| server.put(&format!("merged/{name}"), bytes);
    let restore = || sound.iter().for_each(|(name, bytes)| put(name, bytes));

    let mut weights = sound["model.safetensors"].clone();
    *weights.last_mut().unwrap() ^= 1;
    put("model.safetensors", &weights);
    put("config.json", b"{}");
    put("stranger.bin", b"x");
    let talk = verify(&space, &server, &out).exits(1).stderr;
    for words in [
        "are not those that were written",
        "s3://models/merged/model.safetensors",
        "`config.json` is not what was written",
        "s3://models/merged/config.json",
        "s3://models/merged/stranger.bin",
    ] {
        assert!(talk.contains(words), "{words}: {talk}");
    }
    assert!(!talk.contains("stand-ins"), "no place of this machine: {talk}");

    restore();
    server.remove("merged/stranger.bin");
    for (name, words) in [
        ("model.safetensors", "a shard is missing"),
        ("config.json", "`config.json` is missing"),
        ("mixdown-manifest.json", "has no manifest"),
    ] {
        server.remove(&format!("merged/{name}"));
        let talk = verify(&space, &server, &out).exits(1).stderr;
        assert!(talk.contains(words) && talk.contains("s3://models/merged"), "{name}: {talk}");
        restore();
    }
    verify(&space, &server, &out).success();
    server.behave(StoreBehavior { is_unlisted: true, ..StoreBehavior::default() });
    let proven = verify(&space, &server, &out).success();
    assert!(proven.stderr.contains("nothing else lies there"), "{}", proven.stderr);
}

#[test]
fn who_cannot_be_reached_is_told_as_what_it_is() {
    let space = Space::new();
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for (address, whom) in [("s3://bucket/x", "store"), (&*format!("{endpoint}/x"), "server")] {
        let talk = Program::new(&space)
            .args(["verify", address])
            .without_env("HF_HUB_OFFLINE")
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ACCESS_KEY_ID", "id")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .run()
            .exits(1)
            .stderr;
        assert!(talk.contains(&format!("the {whom} cannot be reached")), "{talk}");
        assert!(!talk.contains("HF_") && !talk.contains("the hub"), "{talk}");
    }
}
