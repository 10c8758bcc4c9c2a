//! Finds models, at a path or at the hub, and opens them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use mixdown_checkpoint::hub::{self, FetchProgress, PreparedOutput};
use mixdown_checkpoint::{AdapterFiles, Checkpoint, open, open_adapter_as, shown};
use mixdown_diagnostics::{Diagnostic, codes};

use crate::Session;
use crate::beside;
use crate::progress::{Meter, Task};
use crate::tensors::Held;

/// An opened model.
#[derive(Debug)]
pub struct Model {
    /// Its index, config and files.
    pub checkpoint: Checkpoint,
    /// The commit at the hub, if it came from there.
    pub revision: Option<String>,
    /// Its data, where the caller holds it, or some of it is made.
    pub(crate) held: Option<Held>,
    /// The models that it was put together from.
    pub(crate) parts: Vec<Model>,
    /// The files of another vocabulary, where it has one.
    pub(crate) vocabulary: Option<Vocabulary>,
}

/// What stands beside a model's weights in place of its own files of a vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    /// The folder that the tokenizer is in.
    pub folder: PathBuf,
    /// The names of its files.
    pub names: Vec<String>,
    /// Files that are written: name and content.
    pub made: Vec<(String, String)>,
}

/// What names a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// A path or a hub id.
    pub path: String,
    /// Branch, tag or commit at the hub.
    pub revision: Option<String>,
    /// Only tensors whose names begin so.
    pub prefix: Option<String>,
}

impl Reference {
    /// `PATH`, `ID` or `ID@REVISION`. What exists as a path is a path, whatever is in its name.
    pub fn parse(text: &str) -> Self {
        let whole = || Self { path: text.to_owned(), revision: None, prefix: None };
        // At the hub a revision follows; elsewhere `@` is a letter like others.
        let is_address = hub::is_remote(text) && !text.starts_with("hf://");
        if is_address || Path::new(text).symlink_metadata().is_ok() {
            return whole();
        }
        match text.rsplit_once('@') {
            Some((path, revision)) if !path.is_empty() && !revision.is_empty() => {
                Self { path: path.to_owned(), revision: Some(revision.to_owned()), prefix: None }
            }
            _ => whole(),
        }
    }
}

impl Reference {
    /// As a person would type it.
    pub fn shown(&self) -> String {
        match &self.revision {
            Some(revision) => format!("{}@{revision}", self.path),
            None => self.path.clone(),
        }
    }

    /// The commit that what was located at `path` is of, if it came from the hub.
    pub fn commit_at(&self, path: &Path) -> Option<String> {
        let from_hub = Path::new(&self.path).symlink_metadata().is_err();
        from_hub.then(|| commit(path)).flatten()
    }
}

impl Model {
    /// The models that it was put together from; itself if it was not. None of what the caller holds.
    pub fn of_disk(&self) -> Vec<&Self> {
        match (self.parts.is_empty(), &self.held) {
            (false, _) => self.parts.iter().collect(),
            (true, None) => vec![self],
            (true, Some(_)) => Vec::new(),
        }
    }

    /// A model whose data lies in its files.
    pub fn of_files(checkpoint: Checkpoint, revision: Option<String>) -> Self {
        Self { checkpoint, revision, held: None, parts: Vec::new(), vocabulary: None }
    }

    /// Opens an adapter, and tells the commit that it is from. Fetches it from the hub when it is not
    /// here.
    pub fn find_adapter(
        reference: &Reference,
        session: &Session<'_>,
    ) -> Result<(AdapterFiles, Option<String>), Vec<Diagnostic>> {
        let path = located(reference, session)?;
        let files = open_adapter_as(&reference.shown(), &path)?;
        Ok((files, reference.commit_at(&path)))
    }

    /// Opens the model that a person named. Links that lead out of its folder are an error unless they are
    /// followed.
    pub fn open(
        text: &str,
        follow_links: bool,
        session: &Session<'_>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let model = Self::find(&Reference::parse(text), text, session)?;
        let parts = model.of_disk();
        let faults = parts.iter().filter(|_| !follow_links);
        let faults: Vec<Diagnostic> =
            faults.filter_map(|part| beside::links(&part.checkpoint, &[])).collect();
        if faults.is_empty() { Ok(model) } else { Err(faults) }
    }

    /// Opens a model that messages call `name`. Fetches it from the hub when it is not here.
    pub fn find(
        reference: &Reference,
        name: &str,
        session: &Session<'_>,
    ) -> Result<Self, Vec<Diagnostic>> {
        if let Some(given) = session.given.iter().find(|given| given.name == reference.path) {
            let (checkpoint, held) = given.open()?;
            return Ok(Self {
                checkpoint,
                revision: None,
                held: Some(held),
                parts: Vec::new(),
                vocabulary: None,
            });
        }
        let path = located(reference, session)?;
        let from_hub = Path::new(&reference.path).symlink_metadata().is_err();
        let prefix = reference.prefix.as_deref();
        let checkpoint = match from_hub {
            true => open::open_as(name, &path, prefix),
            false => open::open(&path, prefix),
        }?;
        Ok(Self::of_files(checkpoint, reference.commit_at(&path)))
    }
}

/// The folder or file of a model, fetched from the hub when it is not here.
pub fn located(reference: &Reference, session: &Session<'_>) -> Result<PathBuf, Vec<Diagnostic>> {
    refuse_secrets(&reference.shown())?;
    session.places.check().map_err(|fault| vec![*fault])?;
    let found = fetched(session, |fetching| {
        let revision = reference.revision.as_deref();
        let (places, path) = (session.places, &reference.path);
        let prepare =
            |address: &str| hub::prepare(address, revision, &places.hub, &places.cache, fetching);
        if hub::is_remote(path) {
            return prepare(path);
        }
        if places.remote && hub::is_of_hub(path) {
            return match hub::cached(path, revision, &places.hub) {
                Some(folder) => Ok(folder),
                None => prepare(&format!("hf://{path}")),
            };
        }
        let hub = &places.hub;
        if hub.headers_only
            && !hub.offline
            && hub::is_of_hub(path)
            && hub::cached(path, revision, hub).is_none()
        {
            let prepared = prepare(&format!("hf://{path}"));
            // Weights without headers, or a server that gives no parts of files: then all is fetched.
            if prepared.is_ok() || fetching.is_cancelled() {
                return prepared;
            }
        }
        hub::locate(path, revision, hub, fetching)
    });
    found.map_err(|diagnostic| vec![searched(*diagnostic, &reference.path)])
}

/// An output that lies elsewhere, with what stands in for it here.
///
/// **Errors.** It cannot be reached, or not be read where it lies.
pub fn output_elsewhere(
    address: &str,
    session: &Session<'_>,
) -> Result<PreparedOutput, Vec<Diagnostic>> {
    refuse_secrets(address)?;
    session.places.check().map_err(|fault| vec![*fault])?;
    let places = session.places;
    let found = fetched(session, |fetching| {
        hub::prepare_output(address, &places.hub, &places.cache, fetching)
    });
    found.map_err(|diagnostic| vec![*diagnostic])
}

/// Fetches while progress is shown; warnings come after it.
fn fetched<T>(session: &Session<'_>, fetch: impl FnOnce(&Fetching<'_>) -> T) -> T {
    let meter = session.meter(Task::Fetching);
    let fetching = Fetching {
        session,
        meter: &meter,
        files: Mutex::default(),
        warnings: Mutex::default(),
        since: Instant::now(),
    };
    let found = session.watch(&meter, || fetch(&fetching));
    session.warn(&fetching.warnings.into_inner().unwrap_or_else(PoisonError::into_inner));
    found
}

fn refuse_secrets(address: &str) -> Result<(), Vec<Diagnostic>> {
    let Some(place) = with_secret(address) else { return Ok(()) };
    let headline = "an address of a model has a name, a password or a query in it";
    let fault = Diagnostic::error(codes::REMOTE_FAILED, headline).in_file(shown(&place));
    let why = "addresses stand in manifests, model cards and messages, where they can be read";
    Err(vec![fault.note(why).help("fetch the files, and name their folder")])
}

/// What may be shown of a web address that has something in it that may not: its host.
fn with_secret(address: &str) -> Option<String> {
    let scheme = ["https://", "http://"].into_iter().find(|scheme| address.starts_with(scheme))?;
    let rest = &address[scheme.len()..];
    // A password may hold what would end it in an address that is well written.
    let is_before_path = |at: usize| !rest[..at].contains('/') || rest[..at].contains(':');
    let secret = rest.rfind('@').filter(|&at| is_before_path(at) && !is_port(&rest[..at]));
    let after = secret.map_or(rest, |at| &rest[at + 1..]);
    let host = after.split(['/', '?', '#']).next().unwrap_or_default();
    (secret.is_some() || after.contains('?')).then(|| format!("{scheme}{host}"))
}

/// Whether the `:` in this begins the port of a host, so that an `@` after it stands in a path.
fn is_port(text: &str) -> bool {
    let port = text.split_once(':').and_then(|(_, rest)| rest.split_once('/'));
    port.is_some_and(|(port, _)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A mistyped folder must not look like trouble with the network alone.
fn searched(diagnostic: Diagnostic, path: &str) -> Diagnostic {
    match diagnostic.code == codes::HUB_FAILED && !hub::is_remote(path) {
        true => diagnostic.note(format!("there is no file or folder `{}` here", shown(path))),
        false => diagnostic,
    }
}

/// The commit whose snapshot in the hub's cache this is.
fn commit(snapshot: &Path) -> Option<String> {
    let folder = snapshot.parent()?.file_name()?;
    (folder == "snapshots").then(|| snapshot.file_name()?.to_str().map(str::to_owned)).flatten()
}

/// Shows how far the files of a model have come.
struct Fetching<'a> {
    session: &'a Session<'a>,
    meter: &'a Meter,
    /// Bytes here and bytes in all, of each file so far.
    files: Mutex<Vec<(String, u64, u64)>>,
    /// Told when the progress is no longer shown.
    warnings: Mutex<Vec<Diagnostic>>,
    since: Instant,
}

impl FetchProgress for Fetching<'_> {
    fn advance(&self, file: &str, done: u64, total: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match files.iter_mut().find(|(known, ..)| known == file) {
            Some(known) => {
                let before = known.1;
                (known.1, known.2) = (done, total);
                before
            }
            None => {
                files.push((file.to_owned(), done, total));
                // What an earlier transfer left is here, and is not part of the rate.
                if self.since.elapsed().as_secs() > 0 { 0 } else { done }
            }
        };
        self.meter.enter(&format!("fetching {file}"));
        self.meter.add(done.saturating_sub(before), 0);
        self.meter.expect(0, files.iter().map(|(_, _, total)| total).sum());
    }

    fn is_cancelled(&self) -> bool {
        self.session.is_cancelled()
    }

    fn warn(&self, warning: Diagnostic) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_addresses_are_found_and_not_shown() {
        let check = |address: &str, expected: Option<&str>| {
            assert_eq!(with_secret(address).as_deref(), expected, "{address}");
        };
        check("https://me:pw@host:8/a/b", Some("https://host:8"));
        check("http://me@host", Some("http://host"));
        check("https://me:p/w@host/a", Some("https://host"));
        check("https://me:p#w?@host/a", Some("https://host"));
        check("https://host/a?sig=secret", Some("https://host"));
        for plain in ["https://host/a@v1/b", "https://host:80/a@b", "hf://a/b@c", "a/b@c"] {
            check(plain, None);
        }
    }

    #[test]
    fn revisions_belong_to_hub_ids_only() {
        let check = |text: &str, path: &str, revision: Option<&str>| {
            let found = Reference::parse(text);
            assert_eq!((found.path.as_str(), found.revision.as_deref()), (path, revision));
        };
        check("org/model", "org/model", None);
        check("org/model@v1.0", "org/model", Some("v1.0"));
        check("org/model@", "org/model@", None);
        check("@v1", "@v1", None);
        check("hf://org/model@v1", "hf://org/model", Some("v1"));
        check("https://host/a@v1/b", "https://host/a@v1/b", None);
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("model@v2");
        std::fs::create_dir(&odd).unwrap();
        check(odd.to_str().unwrap(), odd.to_str().unwrap(), None);
    }

    #[test]
    fn a_snapshot_tells_its_commit() {
        assert_eq!(commit(Path::new("/c/models--a--b/snapshots/0a1b")).as_deref(), Some("0a1b"));
        assert_eq!(commit(Path::new("/c/model")), None);
    }
}
