//! The hub's own protocol of uploads: the repository is made where there is none; the hub says of each file
//! whether it belongs into the large-file store; what the store lacks is sent there, in the pieces that it asks
//! for; then a commit names all of it. Until the commit nothing can be seen, and what the store has is not sent
//! again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::open_regular;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Commit, Destination, Pushed};
use crate::digest;
use crate::hub::fetch::{MOST_FAILURES, patiently_for};
use crate::hub::options::without_credentials;
use crate::hub::trouble::Trouble;
use crate::hub::web::{Sent, Verb, Web};
use crate::hub::{FetchProgress, HubOptions};
use crate::index::Shard;
use crate::shown::{bytes_text, io_text, shown, shown_path};
use crate::source::{FilePool, identity};

/// Files that the hub takes into the commit itself are small; larger ones belong into its store.
const LARGEST_IN_COMMIT: u64 = 32 << 20;
/// Bytes of a file's beginning by which the hub decides where it belongs.
const SAMPLE: u64 = 512;
/// Connections slower than this are given up.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;
const LFS: &str = "application/vnd.git-lfs+json";

/// Sends the files, and makes the commit.
pub(super) fn send(
    files: &[Pushed],
    to: &Destination,
    options: &HubOptions,
    progress: &dyn FetchProgress,
) -> Result<Commit, Box<Diagnostic>> {
    let told = |trouble: Trouble| diagnostic(&trouble, to, options);
    let web = Web::new(options).map_err(told)?;
    let entries = files.iter().map(|file| describe(file, progress));
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    Push { web: &web, to, options, progress }.run(&entries).map_err(told)
}

/// A file with what the hub asks of it.
struct Entry {
    name: String,
    path: PathBuf,
    size: u64,
    sha256: String,
}

/// Size and digest of a file.
fn describe(file: &Pushed, progress: &dyn FetchProgress) -> Result<Entry, Box<Diagnostic>> {
    let unreadable = |error: io::Error| {
        Box::new(
            Diagnostic::error(codes::PUSH_REFUSED, "a file cannot be read".to_owned())
                .in_file(shown_path(&file.path))
                .fact("system", io_text(&error)),
        )
    };
    let (_, metadata) = open_regular(&file.path).map_err(unreadable)?;
    let state = identity(&metadata);
    let (size, path) = (state.size, file.path.clone());
    let shard = Shard { shown: shown_path(&path), path, size, identity: state };
    let mut alive = |_| progress.advance(&file.name, 0, size);
    let found = digest::of_source(&FilePool::new(1).source(&shard), &mut alive);
    let found = found.map_err(|error| unreadable(io::Error::other(error.to_string())))?;
    let (name, sha256) = (file.name.clone(), found.to_string());
    Ok(Entry { name, path: file.path.clone(), size, sha256 })
}

struct Push<'a> {
    web: &'a Web,
    to: &'a Destination,
    options: &'a HubOptions,
    progress: &'a dyn FetchProgress,
}

/// Where the hub wants a file.
#[derive(Deserialize)]
struct Preuploaded {
    files: Vec<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
}

/// What the large-file store says of the objects that were offered.
#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

impl Action {
    /// The address of each piece and its bytes, where the store wants pieces.
    fn pieces(&self) -> Option<Result<(u64, Vec<&str>), Trouble>> {
        let word = |value: &'_ Value| match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        let size: Option<u64> = word(self.header.get("chunk_size")?);
        let numbered = self
            .header
            .iter()
            .filter_map(|(name, value)| Some((name.parse::<u32>().ok()?, value.as_str()?)));
        let pieces: BTreeMap<u32, &str> = numbered.collect();
        let confused = || Trouble::Confused("a file in pieces of no size".to_owned());
        let is_dense = pieces.keys().copied().eq(1..=pieces.len() as u32) && !pieces.is_empty();
        let size = size.filter(|size| *size > 0 && is_dense).ok_or_else(confused);
        Some(size.map(|size| (size, pieces.into_values().collect())))
    }

    fn headers(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.header.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_url: Option<String>,
}

impl Push<'_> {
    fn run(&self, entries: &[Entry]) -> Result<Commit, Trouble> {
        self.make()?;
        let modes = self.modes(entries)?;
        let is_large = |entry: &&Entry| modes.get(&entry.name).is_some_and(|mode| mode == "lfs");
        let large: Vec<&Entry> = entries.iter().filter(is_large).collect();
        let sent = self.store(&large)?;
        let summary = json!({"summary": self.to.message, "description": ""});
        let mut lines = vec![json!({"key": "header", "value": summary})];
        let mut small = 0;
        for entry in entries {
            match modes.get(&entry.name).map(String::as_str) {
                Some("lfs") => lines.push(json!({"key": "lfsFile", "value": {
                    "path": entry.name, "algo": "sha256", "oid": entry.sha256, "size": entry.size,
                }})),
                Some(_) => {
                    lines.push(self.of_small(entry)?);
                    small += 1;
                }
                // The hub wants none of it, as of a folder `.git`.
                None => {}
            }
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let path = format!("/api/models/{}/commit/{}", self.to.repository, self.branch());
        let address = self.web.address_of(&path);
        let answer = self.say(&address, "application/x-ndjson", &body)?;
        let found: Committed = understood(&answer)?;
        let page = || self.web.address_of(&format!("/{}", self.to.repository));
        Ok(Commit { address: found.commit_url.unwrap_or_else(page), sent: sent + small })
    }

    /// A branch within an address: it may have slashes in its name.
    fn branch(&self) -> String {
        self.to.branch.replace('/', "%2F")
    }

    /// Makes repository and branch where there are none.
    fn make(&self) -> Result<(), Trouble> {
        let (organization, name) = self.to.repository.split_once('/').unwrap_or_default();
        let mut wanted = json!({"name": name, "organization": organization, "type": "model"});
        if let Some(private) = self.to.private {
            wanted["private"] = json!(private);
        }
        let is_there = |answer: Result<String, Trouble>| match answer {
            Err(Trouble::Refused { status: 409, .. }) => Ok(()),
            answer => answer.map(drop),
        };
        let address = self.web.address_of("/api/repos/create");
        is_there(self.say(&address, "application/json", &wanted.to_string()))?;
        if self.to.branch == "main" {
            return Ok(());
        }
        let path = format!("/api/models/{}/branch/{}", self.to.repository, self.branch());
        is_there(self.say(&self.web.address_of(&path), "application/json", "{}"))
    }

    /// Where the hub wants each file: `lfs` or `regular`; those it does not want are left out.
    fn modes(&self, entries: &[Entry]) -> Result<BTreeMap<String, String>, Trouble> {
        let mut modes = BTreeMap::new();
        let path = format!("/api/models/{}/preupload/{}", self.to.repository, self.branch());
        // As many as the hub's own clients ask of at a time.
        for some in entries.chunks(256) {
            let asked = some.iter().map(|entry| {
                let sample = read(entry, SAMPLE.min(entry.size))?;
                Ok(json!({"path": entry.name, "size": entry.size, "sample": STANDARD.encode(&sample)}))
            });
            let files = asked.collect::<Result<Vec<Value>, Trouble>>()?;
            let body = json!({"files": files}).to_string();
            let answer = self.say(&self.web.address_of(&path), "application/json", &body)?;
            let found: Preuploaded = understood(&answer)?;
            let wanted = found.files.into_iter().filter(|mode| !mode.should_ignore);
            modes.extend(wanted.map(|mode| (mode.path, mode.upload_mode)));
        }
        Ok(modes)
    }

    /// Sends what the large-file store lacks; how many files that were.
    fn store(&self, entries: &[&Entry]) -> Result<usize, Trouble> {
        let address =
            self.web.address_of(&format!("/{}.git/info/lfs/objects/batch", self.to.repository));
        let mut sent = 0;
        for some in entries.chunks(256) {
            let objects = some.iter().map(|entry| json!({"oid": entry.sha256, "size": entry.size}));
            let body = json!({
                "operation": "upload",
                "transfers": ["basic", "multipart"],
                "objects": objects.collect::<Vec<_>>(),
                "hash_algo": "sha256",
            });
            let answer = self.say(&address, LFS, &body.to_string())?;
            let found: Batch = understood(&answer)?;
            let mut answers: BTreeMap<String, Object> =
                found.objects.into_iter().map(|object| (object.oid.clone(), object)).collect();
            for entry in some {
                // Two files of one content are one object.
                let Some(object) = answers.remove(&entry.sha256) else { continue };
                if let Some(error) = object.error {
                    return Err(Trouble::Confused(format!("`{}`: {error}", entry.name)));
                }
                let actions = object.actions.unwrap_or_default();
                if let Some(upload) = &actions.upload {
                    self.upload(entry, upload)?;
                    sent += 1;
                }
                if let Some(verify) = &actions.verify {
                    let body = json!({"oid": entry.sha256, "size": entry.size}).to_string();
                    self.say_with(&verify.href, LFS, &body, &verify.headers())?;
                }
                self.progress.advance(&entry.name, entry.size, entry.size);
            }
        }
        Ok(sent)
    }

    fn upload(&self, entry: &Entry, action: &Action) -> Result<(), Trouble> {
        let Some(pieces) = action.pieces() else {
            self.piece(entry, &action.href, &action.headers(), 0, entry.size)?;
            return Ok(());
        };
        let (size, addresses) = pieces?;
        if addresses.len() as u64 != entry.size.div_ceil(size) {
            return Err(Trouble::Confused(format!("`{}` in other pieces than it has", entry.name)));
        }
        let parts = (0u64..).zip(addresses).map(|(number, address)| {
            let start = number * size;
            let bytes = size.min(entry.size - start);
            let etag = self.piece(entry, address, &[], start, bytes)?;
            let no_etag = || Trouble::Confused("a piece without an etag".to_owned());
            Ok(json!({"partNumber": number + 1, "etag": etag.ok_or_else(no_etag)?}))
        });
        let parts = parts.collect::<Result<Vec<Value>, Trouble>>()?;
        let body = json!({"oid": entry.sha256, "parts": parts}).to_string();
        self.say(&action.href, LFS, &body).map(drop)
    }

    /// Sends a stretch of a file; what the store calls it.
    fn piece(
        &self,
        entry: &Entry,
        address: &str,
        headers: &[(String, String)],
        start: u64,
        bytes: u64,
    ) -> Result<Option<String>, Trouble> {
        patiently_for(self.options, self.progress, MOST_FAILURES, || {
            let (mut file, _) = open_regular(&entry.path)?;
            file.seek(SeekFrom::Start(start))?;
            let mut body = Watched { file, left: bytes, start, entry, progress: self.progress };
            let slowest = Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
            let sent = self.web.send(Sent {
                verb: Verb::Put,
                address,
                headers,
                kind: "application/octet-stream",
                body: &mut body,
                bytes,
                patience: self.options.patience + slowest,
            });
            match sent {
                Err(_) if self.progress.is_cancelled() => Err(Trouble::Cancelled),
                sent => Ok(sent?.etag),
            }
        })
    }

    /// A small file, as a commit holds it.
    fn of_small(&self, entry: &Entry) -> Result<Value, Trouble> {
        if entry.size > LARGEST_IN_COMMIT {
            let size = bytes_text(entry.size);
            return Err(Trouble::Confused(format!("`{}` of {size} within a commit", entry.name)));
        }
        let content = STANDARD.encode(read(entry, entry.size)?);
        self.progress.advance(&entry.name, entry.size, entry.size);
        let value = json!({"path": entry.name, "encoding": "base64", "content": content});
        Ok(json!({"key": "file", "value": value}))
    }

    fn say(&self, address: &str, kind: &str, body: &str) -> Result<String, Trouble> {
        self.say_with(address, kind, body, &[])
    }

    fn say_with(
        &self,
        address: &str,
        kind: &str,
        body: &str,
        headers: &[(String, String)],
    ) -> Result<String, Trouble> {
        let mut headers = headers.to_vec();
        if kind == LFS && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
            headers.push(("Accept".to_owned(), LFS.to_owned()));
        }
        patiently_for(self.options, self.progress, MOST_FAILURES, || {
            let sent = Sent {
                verb: Verb::Post,
                address,
                headers: &headers,
                kind,
                body: &mut body.as_bytes(),
                bytes: body.len() as u64,
                patience: self.options.patience,
            };
            Ok(self.web.send(sent)?.text)
        })
    }
}

/// A stretch of a file on its way, which stops when the user wants no more.
struct Watched<'a> {
    file: File,
    left: u64,
    start: u64,
    entry: &'a Entry,
    progress: &'a dyn FetchProgress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read(&mut buffer[..most])?;
        self.left -= count as u64;
        self.start += count as u64;
        self.progress.advance(&self.entry.name, self.start, self.entry.size);
        Ok(count)
    }
}

/// The first bytes of a file.
fn read(entry: &Entry, bytes: u64) -> Result<Vec<u8>, Trouble> {
    let mut found = Vec::new();
    open_regular(&entry.path)?.0.take(bytes).read_to_end(&mut found)?;
    Ok(found)
}

fn understood<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, Trouble> {
    serde_json::from_str(text).map_err(|error| Trouble::Confused(error.to_string()))
}

fn diagnostic(trouble: &Trouble, to: &Destination, options: &HubOptions) -> Box<Diagnostic> {
    let (repository, endpoint) = (&to.repository, options.shown_endpoint());
    let error = |what: &str| {
        let headline = format!("`{repository}` could not be pushed to: {what}");
        Diagnostic::error(codes::PUSH_REFUSED, headline)
    };
    let again = "run the same command again; what arrived is not sent again";
    Box::new(match trouble {
        Trouble::Refused { status, reason } => {
            let answer = match reason.as_str() {
                "" => format!("status {status} from {endpoint}"),
                reason => format!("{}, status {status} from {endpoint}", shown(reason)),
            };
            match status {
                401 | 403 => error("HF_TOKEN may not write to it")
                    .fact("hub", answer)
                    .help("use a token with the right to write, of an account that may"),
                300..=399 => error("it is elsewhere")
                    .fact("hub", answer)
                    .help("push to the name that the repository has now"),
                413 | 507 => error("there is no more space for it").fact("hub", answer),
                _ => error("the hub refuses").fact("hub", answer).help(again),
            }
        }
        Trouble::Network(what) => error("the hub cannot be reached, or stopped listening")
            .fact("network", without_credentials(what))
            .help(again),
        Trouble::Silence => error("the hub takes too long").help(again),
        Trouble::Cancelled => error("it was interrupted").help(again),
        Trouble::Disk(found) => {
            error("a file cannot be read").fact("system", io_text(found)).help(again)
        }
        Trouble::Confused(what) | Trouble::Damaged { found: what, .. } => {
            error("the hub's answer cannot be understood")
                .fact("answer", without_credentials(what))
                .help("check that HF_ENDPOINT is the address of a hub")
        }
        Trouble::Busy => error("somebody else is writing").help(again),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_numbered_from_one_without_a_gap() {
        let action = |header: Value| {
            serde_json::from_value::<Action>(json!({"href": "http://x", "header": header})).unwrap()
        };
        let whole = action(json!({"chunk_size": "5", "2": "b", "1": "a", "10": "j"}));
        assert!(matches!(whole.pieces(), Some(Err(Trouble::Confused(_)))));
        let whole = action(json!({"chunk_size": 5, "2": "b", "1": "a"}));
        assert!(matches!(whole.pieces(), Some(Ok((5, pieces))) if pieces == ["a", "b"]));
        assert!(matches!(action(json!({"chunk_size": 0, "1": "a"})).pieces(), Some(Err(_))));
        assert!(action(json!({"Content-Type": "x"})).pieces().is_none());
    }
}
