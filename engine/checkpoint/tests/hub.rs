//! Models by hub id: from a cache laid out as the hub's clients do, and from a server on this
//! machine that speaks the hub's protocol.
#![cfg(feature = "hub")]

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mixdown_checkpoint::digest::Digests;
use mixdown_checkpoint::hub::{FetchProgress, HubOptions, locate};
use mixdown_checkpoint::{open, open_as};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_kit::hub::{Behavior, COMMIT, HubServer};
use mixdown_kit::raw::safetensors_bytes;
use mixdown_kit::{Space, Tensor};
use mixdown_tensor::DType;

const SMALL: &str = "org/name/config.json";
const PART: usize = 100_000;

/// A hub with one model of two shards, and an empty cache.
struct Hub {
    space: Space,
    server: HubServer,
}

impl Hub {
    fn new(behavior: Behavior) -> Self {
        let space = Space::new();
        let shard = |name: &str| {
            let values: Vec<f64> = (0..PART).map(|value| (value % 251) as f64).collect();
            let tensor = Tensor::new(name, DType::F32, &[PART as u64], &values);
            safetensors_bytes(&[&tensor])
        };
        space.write("hub/org/name/one.safetensors", shard("a"));
        space.write("hub/org/name/two.safetensors", shard("b"));
        let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
        space.write("hub/org/name/model.safetensors.index.json", index);
        space.write(format!("hub/{SMALL}"), r#"{"model_type": "llama"}"#);
        space.write("hub/org/name/merges.txt", "");
        space.write("hub/org/name/README.md", "not needed");
        space.write("hub/org/name/pytorch_model.bin", "not needed");
        let server = HubServer::start(&space.path("hub"), behavior);
        Self { space, server }
    }

    /// What the command line makes of the environment; no variable of this process is read.
    fn options(&self, more: &[(&str, &str)]) -> HubOptions {
        let home = self.space.path("home").into_os_string();
        let options = HubOptions::from_env(&|name| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_ENDPOINT" => Some(self.server.endpoint().into()),
            _ => more.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
        });
        let retry_after = Duration::from_millis(1);
        HubOptions { patience: Duration::from_secs(20), retry_after, ..options }
    }

    fn locate(&self, revision: Option<&str>) -> Result<PathBuf, Box<Diagnostic>> {
        locate("org/name", revision, &self.options(&[]), &())
    }

    fn cache(&self, below: &str) -> PathBuf {
        self.space.path(format!("home/hub/models--org--name/{below}"))
    }

    /// Ranges that were asked of a file, without the first byte that every file is asked for.
    fn ranges(&self, file: &str) -> Vec<String> {
        let requests = self.server.requests().into_iter();
        requests
            .filter(|request| request.path == format!("/large-files/org/name/{file}"))
            .filter_map(|request| request.range)
            .filter(|range| range != "bytes=0-0")
            .collect()
    }

    fn size(&self, file: &str) -> u64 {
        fs::metadata(self.space.path(format!("hub/org/name/{file}"))).unwrap().len()
    }
}

fn headline(outcome: Result<PathBuf, Box<Diagnostic>>) -> String {
    outcome.expect_err("a failure").headline
}

#[derive(Default)]
struct Heard(RefCell<Vec<(String, u64, u64)>>);

impl FetchProgress for Heard {
    fn advance(&self, file: &str, done: u64, total: u64) {
        self.0.borrow_mut().push((file.to_owned(), done, total));
    }
}

#[test]
fn a_model_is_fetched_into_the_cache_and_found_there_offline() {
    let hub = Hub::new(Behavior::default());
    let heard = Heard::default();
    let path = locate("org/name", None, &hub.options(&[]), &heard).unwrap();
    assert_eq!(path, hub.cache(&format!("snapshots/{COMMIT}")));
    let mut names: Vec<OsString> =
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let index = "model.safetensors.index.json";
    assert_eq!(names, ["config.json", "merges.txt", index, "one.safetensors", "two.safetensors"]);
    assert_eq!(fs::read_to_string(hub.cache("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_dir(hub.cache("refs")).unwrap().count(), 1);
    let size = hub.size("one.safetensors");
    let last = heard.0.borrow().iter().rfind(|news| news.0 == "one.safetensors").cloned();
    assert_eq!(last, Some(("one.safetensors".to_owned(), size, size)));

    let checkpoint = open_as("org/name", &path, None).unwrap();
    assert_eq!(checkpoint.index.len(), 2);
    assert_eq!(checkpoint.index.shards()[0].shown, "org/name/one.safetensors");
    // The blob's name is the digest: nothing has to be read for it.
    let digests = Digests::new(hub.space.path("digests")).with_hub(&hub.space.path("home/hub"));
    for shard in checkpoint.index.shards() {
        let known = digests.known_sha256(shard).expect("a blob with its digest as its name");
        let copy = hub.space.path(format!("hub/org/name/{}", &shard.shown["org/name/".len()..]));
        let copy = open(&copy, None).unwrap();
        assert_eq!(digests.sha256(&copy.index.shards()[0], &mut |_| {}).unwrap(), known);
    }

    let asked = hub.server.requests().len();
    let offline = hub.options(&[("HF_HUB_OFFLINE", "1")]);
    for revision in [None, Some("main"), Some(COMMIT)] {
        assert_eq!(locate("org/name", revision, &offline, &()).unwrap(), path);
    }
    assert_eq!(hub.locate(None).unwrap(), path);
    assert_eq!(hub.server.requests().len(), asked, "what is cached needs no network");
}

#[test]
fn a_broken_transfer_continues_where_it_broke() {
    let break_off_once_after = Some(30_000);
    let hub = Hub::new(Behavior { break_off_once_after, ..Behavior::default() });
    let path = hub.locate(None).unwrap();
    assert_eq!(hub.ranges("one.safetensors"), ["bytes=0-", "bytes=30000-"]);
    assert_eq!(hub.ranges("two.safetensors"), ["bytes=0-"]);
    let wanted = hub.space.read("hub/org/name/one.safetensors");
    assert_eq!(fs::read(path.join("one.safetensors")).unwrap(), wanted);
}

/// What a killed process left is continued by the next; what is all there is not fetched again.
#[test]
fn an_earlier_run_s_part_is_continued() {
    let whole = Hub::new(Behavior::default());
    let path = whole.locate(None).unwrap();
    let blob = fs::canonicalize(path.join("one.safetensors")).unwrap();
    let bytes = fs::read(&blob).unwrap();
    let name = blob.file_name().unwrap().to_str().unwrap();
    let last = format!("bytes={}-", bytes.len() - 1);
    let cases: [(&[u8], &[&str]); 4] = [
        (&bytes[..1000], &["bytes=1000-"]),
        (&bytes[..bytes.len() - 1], &[&last]),
        (&bytes, &[]),
        (&[bytes.as_slice(), b"more"].concat(), &["bytes=0-"]),
    ];
    for (part, ranges) in cases {
        let hub = Hub::new(Behavior::default());
        hub.space.write(format!("home/hub/models--org--name/blobs/{name}.part"), part);
        let path = hub.locate(None).unwrap();
        assert_eq!(hub.ranges("one.safetensors"), ranges);
        assert_eq!(fs::read(path.join("one.safetensors")).unwrap(), bytes);
    }
    // A blob of another snapshot is linked to.
    let hub = Hub::new(Behavior::default());
    hub.space.write(format!("home/hub/models--org--name/blobs/{name}"), &bytes);
    let path = hub.locate(None).unwrap();
    assert_eq!(hub.ranges("one.safetensors"), [""; 0]);
    assert_eq!(fs::read(path.join("one.safetensors")).unwrap(), bytes);
}

/// A part that belongs to other bytes must not end up in a merge.
#[test]
fn damage_is_noticed_and_nothing_of_it_stays() {
    let hub = Hub::new(Behavior { damage: true, ..Behavior::default() });
    let fault = hub.locate(None).unwrap_err();
    assert_eq!(fault.headline, "`org/name` could not be fetched: a file arrived damaged");
    assert!(!hub.cache(&format!("snapshots/{COMMIT}/one.safetensors")).exists());
    assert!(!hub.cache("refs/main").exists());
    let blobs = fs::read_dir(hub.cache("blobs")).unwrap().map(|entry| entry.unwrap());
    let large = blobs.filter(|blob| blob.metadata().unwrap().len() > 1000);
    assert_eq!(large.count(), 0);
}

#[test]
fn the_token_is_sent_and_its_absence_explained() {
    let token = Some("hf_secret".to_owned());
    let hub = Hub::new(Behavior { token, ..Behavior::default() });
    let fault = hub.locate(None).unwrap_err();
    assert_eq!(fault.headline, "`org/name` is gated or private, or does not exist");
    assert!(fault.help.unwrap().contains("set HF_TOKEN"));

    let wrong = hub.options(&[("HF_TOKEN", "hf_wrong")]);
    let fault = locate("org/name", None, &wrong, &()).unwrap_err();
    assert_eq!(fault.headline, "the hub does not give `org/name` to this HF_TOKEN");
    assert!(!format!("{fault:?}").contains("hf_wrong"));

    hub.space.write("home/token", "hf_secret\n");
    hub.locate(None).unwrap();
    let last = hub.server.requests().pop().unwrap();
    assert_eq!(last.authorization.as_deref(), Some("Bearer hf_secret"));
}

/// A token is for the hub that it was given for. Where that sends a request elsewhere, to its store of
/// large files or to another host, the request goes there without it.
#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let token = Some("hf_secret".to_owned());
    let other = Hub::new(Behavior::default());
    let has_token = |hub: &Hub| {
        hub.server.requests().into_iter().map(|request| request.authorization.is_some()).collect()
    };
    let weights_at = Some(other.server.endpoint());
    let hub = Hub::new(Behavior { token, weights_at, renames: true, ..Behavior::default() });
    let options = hub.options(&[("HF_TOKEN", "hf_secret")]);
    let path = locate("org/name", None, &options, &()).unwrap();
    assert_eq!(
        fs::metadata(path.join("one.safetensors")).unwrap().len(),
        hub.size("one.safetensors")
    );
    let (home, away): (Vec<bool>, Vec<bool>) = (has_token(&hub), has_token(&other));
    assert!(home.len() > 10 && home.iter().all(|has| *has), "{home:?}");
    // Two shards: each is asked for its size, and then for its bytes.
    assert_eq!(away, [false; 4]);

    let moved =
        Hub::new(Behavior { moved_to: Some(other.server.endpoint()), ..Behavior::default() });
    locate("org/name", None, &moved.options(&[("HF_TOKEN", "hf_secret")]), &()).unwrap();
    let away: Vec<bool> = has_token(&other);
    assert!(away.len() > 10 && !away.contains(&true), "{away:?}");
}

#[test]
fn a_password_in_an_address_is_never_shown() {
    let hub = Hub::new(Behavior { refuse_files: Some("403 Forbidden"), ..Behavior::default() });
    let address = hub.server.endpoint().replace("http://", "http://me:pass@");
    for endpoint in [address.as_str(), "http://me:pass@127.0.0.1:1", "ftp://me:pass@mirror"] {
        let options = HubOptions { endpoint: endpoint.to_owned(), ..hub.options(&[]) };
        let fault = locate("org/name", None, &options, &()).unwrap_err();
        assert!(!format!("{fault:?} {options:?}").contains("pass"), "{fault:?}");
    }
}

#[test]
fn revisions() {
    let hub = Hub::new(Behavior::default());
    let fault = hub.locate(Some("v9")).unwrap_err();
    assert_eq!(fault.headline, "`org/name` has no revision `v9`");
    assert_eq!(headline(hub.locate(Some("../main"))), "`../main` is not a revision");
    let path = hub.locate(Some(COMMIT)).unwrap();
    assert!(path.ends_with(COMMIT));
    // A commit is no branch: nothing stands for it but itself.
    assert!(!hub.cache("refs").join(COMMIT).exists());
    let offline = hub.options(&[("HF_HUB_OFFLINE", "1")]);
    assert!(locate("org/name", None, &offline, &()).is_err());
    assert_eq!(locate("org/name", Some(COMMIT), &offline, &()).unwrap(), path);
}

#[test]
fn what_the_hub_does_not_have() {
    let hub = Hub::new(Behavior::default());
    let options = hub.options(&[]);
    let fault = locate("org/other", None, &options, &()).unwrap_err();
    assert_eq!(
        (fault.code, fault.headline.as_str()),
        (codes::MODEL_NOT_FOUND, "there is no model `org/other`",)
    );
    hub.space.write("hub/org/old/tf_model.h5", "x");
    let fault = locate("org/old", None, &options, &()).unwrap_err();
    assert_eq!(fault.headline, "`org/old` has no weights at the hub that are read");
}

#[test]
fn a_hub_that_is_down_is_asked_again_and_then_named() {
    let hub =
        Hub::new(Behavior { refuse_files: Some("503 Service Unavailable"), ..Behavior::default() });
    let fault = hub.locate(None).unwrap_err();
    assert_eq!(fault.headline, "the hub refuses `org/name`");
    let files = hub.server.requests().into_iter().filter(|r| r.path.contains("/resolve/")).count();
    assert_eq!(files, 5);

    let mut options = hub.options(&[]);
    // A port that nothing listens on.
    options.endpoint = "http://127.0.0.1:1".to_owned();
    let fault = locate("org/name", None, &options, &()).unwrap_err();
    assert_eq!(fault.headline, "`org/name` could not be fetched: the hub cannot be reached");
    assert!(fault.help.unwrap().contains("HF_HUB_OFFLINE=1"));
    options.endpoint = "ftp://mirror".to_owned();
    let fault = locate("org/name", None, &options, &()).unwrap_err();
    assert!(fault.headline.ends_with("the hub's answer cannot be understood"));
}

#[test]
fn silence_is_not_waited_for_forever() {
    let hub = Hub::new(Behavior { send_no_weights: true, ..Behavior::default() });
    let options = HubOptions { patience: Duration::from_millis(300), ..hub.options(&[]) };
    let start = Instant::now();
    let fault = locate("org/name", None, &options, &()).unwrap_err();
    assert_eq!(fault.headline, "`org/name` could not be fetched: the hub sends nothing");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_download_can_be_interrupted() {
    struct Stop;
    impl FetchProgress for Stop {
        fn advance(&self, _file: &str, _done: u64, _total: u64) {}
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let hub = Hub::new(Behavior { send_no_weights: true, ..Behavior::default() });
    let fault = locate("org/name", None, &hub.options(&[]), &Stop).unwrap_err();
    assert_eq!(fault.headline, "`org/name` could not be fetched: it was interrupted");
    assert!(!hub.cache("refs/main").exists());
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written() {
    let hub = Hub::new(Behavior::default());
    hub.space.write("home/hub", "a file where the folder should be");
    let fault = hub.locate(None).unwrap_err();
    assert_eq!(fault.code, codes::WRITE_FAILED);
    assert!(fault.help.unwrap().contains("HF_HUB_CACHE"));
}

#[test]
fn offline_without_the_model_says_what_was_not_asked() {
    let hub = Hub::new(Behavior::default());
    let offline = hub.options(&[("HF_HUB_OFFLINE", "yes")]);
    let fault = locate("org/name", Some("v1"), &offline, &()).unwrap_err();
    assert_eq!(fault.headline, "there is no model `org/name`");
    let cache = hub.space.path("home/hub").display().to_string();
    let facts: Vec<(&str, String)> = vec![
        ("here", "no file or folder of that name".to_owned()),
        ("cache", format!("revision `v1` is not in {cache}")),
        ("hub", "not asked, because HF_HUB_OFFLINE is set".to_owned()),
    ];
    let found: Vec<(&str, String)> =
        fault.facts.iter().map(|(label, text)| (label.as_str(), text.clone())).collect();
    assert_eq!(found, facts);
    assert!(hub.server.requests().is_empty());
}

#[test]
fn paths_come_first_and_are_never_asked_for() {
    let hub = Hub::new(Behavior::default());
    let options = hub.options(&[]);
    let path = hub.space.path("hub/org/name");
    let text = path.to_str().unwrap();
    assert_eq!(locate(text, None, &options, &()).unwrap(), path);
    let fault = locate(&format!("{}x", text), None, &options, &()).unwrap_err();
    assert_eq!(fault.code, codes::MODEL_NOT_FOUND);
    assert_eq!(fault.help, Some(format!("did you mean `{text}`?")));
    for reference in ["./none", "../none/x", "a/b/c", "~/x"] {
        assert!(headline(locate(reference, None, &options, &())).starts_with("there is no model"));
    }
    assert!(hub.server.requests().is_empty());
}
