//! Models that are named by hub id: found in the Hugging Face cache of this machine, or fetched
//! into it, in the layout that all of the hub's clients share.

mod cache;
#[cfg(feature = "hub")]
mod download;
pub mod far;
#[cfg(feature = "hub")]
mod fetch;
mod id;
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
pub mod kept;
#[cfg(feature = "hub")]
mod known;
mod options;
pub mod push;
#[cfg(feature = "hub")]
mod ranges;
#[cfg(feature = "hub")]
mod stand_in;
#[cfg(feature = "hub")]
mod store;
#[cfg(feature = "hub")]
mod trouble;
#[cfg(feature = "hub")]
mod wanted;
#[cfg(feature = "hub")]
mod web;

use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, codes};

pub use options::HubOptions;
#[cfg(feature = "hub")]
pub use store::StoreOptions;

use crate::output::elsewhere::{Elsewhere, Outgoing};
use crate::shown::{shown, shown_path};
use cache::{Repository, State};
use id::{is_hub_id, is_revision};

/// Is told how far a download has come, and may end it.
pub trait FetchProgress {
    /// `done` of `total` bytes of `file` are here.
    fn advance(&self, file: &str, done: u64, total: u64);

    /// Whether to stop; asked several times a second. What was fetched stays for another time.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Takes what the user should know of how a model was found.
    fn warn(&self, warning: Diagnostic) {
        let _ = warning;
    }
}

/// Shows nothing.
impl FetchProgress for () {
    fn advance(&self, _file: &str, _done: u64, _total: u64) {}
}

/// The folder or file of a model: a path that exists here, else a hub id in the cache, else fetched.
///
/// **Parameters.** `revision`: branch, tag or commit at the hub, `main` by default; it does not
/// apply to paths.
///
/// **Errors.** When there is no such path and the hub does not have the model, does not give it,
/// cannot be reached or must not be asked; when what it gives is damaged; when the disk is full.
pub fn locate(
    reference: &str,
    revision: Option<&str>,
    options: &HubOptions,
    progress: &dyn FetchProgress,
) -> Result<PathBuf, Box<Diagnostic>> {
    let path = Path::new(reference);
    if path.symlink_metadata().is_ok() {
        return Ok(path.to_owned());
    }
    let no_model = || {
        let headline = format!("there is no model `{}`", shown(reference));
        Diagnostic::error(codes::MODEL_NOT_FOUND, headline)
            .fact("here", "no file or folder of that name")
    };
    if !is_hub_id(reference) {
        return Err(Box::new(match neighbor(path) {
            Some(near) => no_model().help(format!("did you mean `{}`?", shown(&near))),
            None => no_model(),
        }));
    }
    let revision = revision.unwrap_or("main");
    if !is_revision(revision) {
        let headline = format!("`{}` is not a revision", shown(revision));
        return Err(Box::new(Diagnostic::error(codes::BAD_REFERENCE, headline)));
    }
    let repository = Repository::new(&options.cache, reference);
    let state = repository.state(revision);
    if let State::Complete(snapshot) = state {
        return Ok(snapshot);
    }
    let not_cached = || {
        let diagnostic = no_model();
        let cache = shown_path(&options.cache);
        match &state {
            State::Partial(missing) => {
                diagnostic.fact("cache", format!("{cache} lacks {missing} of it"))
            }
            _ if revision == "main" => diagnostic.fact("cache", format!("not in {cache}")),
            _ => diagnostic
                .fact("cache", format!("revision `{}` is not in {cache}", shown(revision))),
        }
    };
    if options.offline {
        return Err(Box::new(
            not_cached()
                .fact("hub", "not asked, because HF_HUB_OFFLINE is set")
                .help("unset HF_HUB_OFFLINE to fetch it, or name a folder"),
        ));
    }
    fetch(reference, revision, options, progress, not_cached)
}

#[cfg(feature = "hub")]
fn fetch(
    id: &str,
    revision: &str,
    options: &HubOptions,
    progress: &dyn FetchProgress,
    _not_cached: impl Fn() -> Diagnostic,
) -> Result<PathBuf, Box<Diagnostic>> {
    download::download(id, revision, options, progress)
}

#[cfg(not(feature = "hub"))]
fn fetch(
    _id: &str,
    _revision: &str,
    _options: &HubOptions,
    _progress: &dyn FetchProgress,
    not_cached: impl Fn() -> Diagnostic,
) -> Result<PathBuf, Box<Diagnostic>> {
    Err(Box::new(
        not_cached()
            .fact("hub", "not asked, because this program was built without downloads")
            .help("fetch the model with another tool and name its folder"),
    ))
}

/// The folder of a model of which all weights are in the hub's cache. Nobody is asked.
pub fn cached(id: &str, revision: Option<&str>, options: &HubOptions) -> Option<PathBuf> {
    let revision = revision.unwrap_or("main");
    if !is_hub_id(id) || !is_revision(revision) {
        return None;
    }
    match Repository::new(&options.cache, id).state(revision) {
        State::Complete(snapshot) => Some(snapshot),
        State::Partial(_) | State::Absent => None,
    }
}

/// Whether a reference can only be an id at the hub: it has the form of one, and nothing here has its name.
pub fn is_of_hub(reference: &str) -> bool {
    Path::new(reference).symlink_metadata().is_err() && is_hub_id(reference)
}

/// Whether a reference names a model that is read where it lies: an address, that of a store (`s3://`, `gs://`,
/// `az://`), or `hf://ORGANIZATION/NAME`.
pub fn is_remote(reference: &str) -> bool {
    ["https://", "http://", "hf://", "s3://", "gs://", "az://"]
        .iter()
        .any(|scheme| reference.starts_with(scheme))
}

/// Prepares a model that is read where it lies: its small files are fetched, and each file of weights gets a
/// stand-in with its header within `cache`. Gives the folder or file of these.
///
/// **Errors.** When the model cannot be reached, is not given, or is of a format without headers; when its
/// server gives no parts of files.
#[cfg(feature = "hub")]
pub fn prepare(
    reference: &str,
    revision: Option<&str>,
    options: &HubOptions,
    cache: &Path,
    progress: &dyn FetchProgress,
) -> Result<PathBuf, Box<Diagnostic>> {
    stand_in::prepare(reference, revision, options, cache, progress)
}

/// The same without a network.
#[cfg(not(feature = "hub"))]
pub fn prepare(
    reference: &str,
    _revision: Option<&str>,
    _options: &HubOptions,
    _cache: &Path,
    _progress: &dyn FetchProgress,
) -> Result<PathBuf, Box<Diagnostic>> {
    let headline = format!("`{}` lies elsewhere", shown(reference));
    Err(Box::new(
        Diagnostic::error(codes::MODEL_NOT_FOUND, headline)
            .fact("network", "not used, because this program was built without downloads"),
    ))
}

/// An output that lies elsewhere, with what stands in for it here.
#[derive(Debug)]
pub struct PreparedOutput {
    /// The folder of its manifest, its small files and the stand-ins of its weights, as far as they are there.
    pub folder: PathBuf,
    /// The names of all that lies at its address, where that can be told.
    pub names: Option<Vec<String>>,
}

/// Prepares an output at an address, so that it can be proven: nothing that an earlier run fetched is believed.
/// What its manifest names and is not there is left out.
///
/// **Errors.** When the output cannot be reached, is not given, or is of a format without headers; when its server
/// gives no parts of files.
#[cfg(feature = "hub")]
pub fn prepare_output(
    address: &str,
    options: &HubOptions,
    cache: &Path,
    progress: &dyn FetchProgress,
) -> Result<PreparedOutput, Box<Diagnostic>> {
    stand_in::prepare_output(address, options, cache, progress)
}

/// The same without a network.
#[cfg(not(feature = "hub"))]
pub fn prepare_output(
    address: &str,
    options: &HubOptions,
    cache: &Path,
    progress: &dyn FetchProgress,
) -> Result<PreparedOutput, Box<Diagnostic>> {
    prepare(address, None, options, cache, progress)
        .map(|folder| PreparedOutput { folder, names: None })
}

/// Whether an address names an object store, which takes outputs too.
pub fn is_store(address: &str) -> bool {
    ["s3://", "gs://", "az://"].iter().any(|scheme| address.starts_with(scheme))
}

/// Bytes that are held at most while an output is sent to a store.
pub const SENT_BYTES: u64 = 32 << 20;

/// Begins to send an output to a store, or goes on where an interrupted run was.
#[cfg(feature = "hub")]
pub(crate) fn begin_sending(
    outgoing: &Outgoing<'_>,
    options: &HubOptions,
) -> Result<Box<dyn Elsewhere>, Box<Diagnostic>> {
    store::begin_sending(outgoing, options)
}

/// The same without a network.
#[cfg(not(feature = "hub"))]
pub(crate) fn begin_sending(
    outgoing: &Outgoing<'_>,
    _options: &HubOptions,
) -> Result<Box<dyn Elsewhere>, Box<Diagnostic>> {
    let headline = "an output is written to a folder of this machine";
    Err(Box::new(
        Diagnostic::error(codes::OUTPUT_REMOTE, headline)
            .in_file(shown(outgoing.address))
            .fact("network", "not used, because this program was built without downloads"),
    ))
}

/// A name much like this one in the same folder.
fn neighbor(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let near = mixdown_diagnostics::suggest::nearest(name, names.iter().map(String::as_str))?;
    Some(folder.map_or_else(|| near.to_owned(), |folder| folder.join(near).display().to_string()))
}
