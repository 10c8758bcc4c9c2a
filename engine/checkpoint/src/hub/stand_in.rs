//! Models that are read where they lie: their small files are fetched, and each file of weights gets a
//! stand-in with its header.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::stored::create_private_folders;
use mixdown_files::{Fresh, open_regular, read_limited};
use serde_json::{Value, json};

use super::far::{self, FOLDER};
use super::fetch::patiently;
use super::kept::Kept;
use super::known::{self, Found, Known};
use super::ranges::{Remote, RemoteSource, State};
use super::store;
use super::trouble::{Asked, Trouble};
use super::wanted::{is_safe, wanted};
use super::web::{Web, origin_of};
use super::{FetchProgress, HubOptions, PreparedOutput};
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::open::{USUAL_INDEX, files_of_index};
use crate::shown::{bytes_text, shown};
use crate::verify::shard_names;

/// Asked for at first of a file of weights: the headers of most shards are shorter.
const FIRST_BYTES: u64 = 64 << 10;

/// Longest header, as readers of the format have it.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Longest file beside the weights.
const LONGEST_SMALL: u64 = 128 << 20;

/// Longest note of the state of a remote file.
const LONGEST_NOTE: u64 = 64 << 10;

/// Headers that are asked for at the same time.
const AT_ONCE: usize = 8;

/// Files beside the weights that a folder at an address may have.
const SMALL: [&str; 16] = [
    "config.json",
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Where a reference leads.
enum Lies {
    /// A commit of the hub that is on this machine.
    Here(PathBuf),
    Elsewhere(Box<Place>),
}

/// Settings for the server of a reference: messages name the one that was asked, and a token is for the hub alone.
fn of_server(reference: &str, options: &HubOptions) -> HubOptions {
    if reference.starts_with("hf://") {
        return options.clone();
    }
    let endpoint = match super::is_store(reference) {
        true => store::located(reference, &options.stores)
            .map_or_else(|_| String::new(), |located| origin_of(&located.address)),
        false => origin_of(reference),
    };
    HubOptions { endpoint, token: None, ..options.clone() }
}

/// Finds out where a reference leads, with the settings for its server.
fn find(
    reference: &str,
    revision: Option<&str>,
    options: &HubOptions,
    cache: &Path,
    progress: &dyn FetchProgress,
) -> Result<Lies, Box<Diagnostic>> {
    let fault = |trouble: Trouble| {
        let revision = revision.unwrap_or("main");
        Asked { id: reference, revision, file: None, options }.diagnostic(&trouble)
    };
    let of_hub = reference.strip_prefix("hf://").map(|id| id.trim_end_matches('/'));
    if options.offline {
        // Nobody is asked where all of it is here.
        if let Some(here) = of_hub.and_then(|id| super::cached(id, revision, options)) {
            return Ok(Lies::Here(here));
        }
        let headline = format!("`{}` lies elsewhere", shown(reference));
        return Err(Box::new(
            Diagnostic::error(codes::MODEL_NOT_FOUND, headline)
                .fact("network", "not used, because HF_HUB_OFFLINE is set")
                .help("unset HF_HUB_OFFLINE, or name a folder"),
        ));
    }
    let place = match of_hub {
        Some(id) => match known::find(id, revision, options, cache, progress).map_err(fault)? {
            Found::Here(folder) => return Ok(Lies::Here(folder)),
            Found::Described(known) => Ok(Place::of_hub(id, *known, cache)),
        },
        None if super::is_store(reference) => {
            store::located(reference, &options.stores).and_then(|located| {
                Place::of_address(Web::of_store(&located)?, &located.address, true, cache)
            })
        }
        None => Web::of_address(reference)
            .and_then(|web| Place::of_address(web, reference, false, cache)),
    };
    place.map(|place| Lies::Elsewhere(Box::new(place))).map_err(fault)
}

/// Prepares an output at an address, so that it can be proven: nothing that an earlier run fetched is believed.
/// What its manifest names and is not there is left out.
pub(super) fn prepare_output(
    reference: &str,
    options: &HubOptions,
    cache: &Path,
    progress: &dyn FetchProgress,
) -> Result<PreparedOutput, Box<Diagnostic>> {
    let options = &of_server(reference, options);
    let refused = |name: &str, trouble: Trouble| {
        Asked { id: reference, revision: "main", file: Some(name), options }.diagnostic(&trouble)
    };
    let mut place = match find(reference, None, options, cache, progress)? {
        Lies::Here(folder) => return Ok(PreparedOutput { folder, names: None }),
        Lies::Elsewhere(place) => place,
    };
    create_private_folders(&place.folder).map_err(|error| refused("", Trouble::Disk(error)))?;
    // What is listed would be taken from an earlier run.
    place.is_listed = false;
    let fetch = |name: &str| {
        place.small_file(name, options, progress).map_err(|trouble| refused(name, trouble))
    };
    fetch(MANIFEST_NAME)?;
    let Ok(manifest) = Manifest::read(&place.folder) else {
        // Whoever reads it says so, with the reason.
        return Ok(PreparedOutput { folder: place.folder, names: None });
    };
    let weights: BTreeSet<&str> = shard_names(&manifest);
    let files = manifest.files.iter().map(|file| file.name.as_str());
    if let Some(name) = files.clone().chain(weights.iter().copied()).find(|name| !is_safe(name)) {
        let what = format!("`{}` is no name of a file", shown(name));
        return Err(refused(MANIFEST_NAME, Trouble::Confused(what)));
    }
    if let Some(name) = weights.iter().find(|name| !name.ends_with(".safetensors")) {
        return Err(not_where_it_lies(reference, name));
    }
    for name in files {
        fetch(name)?;
    }
    for name in weights {
        match place.stand_in(name, options, progress) {
            Ok(()) => {}
            Err(Trouble::Refused { status: 404 | 410, .. }) => {
                let _ = fs::remove_file(place.folder.join(name));
            }
            Err(trouble) => return Err(refused(name, trouble)),
        }
    }
    let names = match super::is_store(reference) {
        true => store::names_below(reference, options)?,
        false => place.names,
    };
    Ok(PreparedOutput { folder: place.folder, names })
}

fn not_where_it_lies(reference: &str, name: &str) -> Box<Diagnostic> {
    let headline = format!("`{}` cannot be read where it lies", shown(name));
    Box::new(
        Diagnostic::error(codes::UNSUPPORTED_FORMAT, headline)
            .in_file(shown(reference))
            .note("only safetensors files have headers that tell where each tensor is")
            .help("download the model and name its folder"),
    )
}

/// Prepares a model at an address or at the hub, and gives the folder or file of its stand-ins within `cache`.
pub(super) fn prepare(
    reference: &str,
    revision: Option<&str>,
    options: &HubOptions,
    cache: &Path,
    progress: &dyn FetchProgress,
) -> Result<PathBuf, Box<Diagnostic>> {
    let options = &of_server(reference, options);
    let asked = |file| Asked { id: reference, revision: revision.unwrap_or("main"), file, options };
    let mut place = match find(reference, revision, options, cache, progress)? {
        Lies::Here(folder) => return Ok(folder),
        Lies::Elsewhere(place) => place,
    };
    place.kept = (options.kept_bytes > 0).then(|| Kept::of(cache, options.kept_bytes));
    create_private_folders(&place.folder)
        .map_err(|error| asked(None).diagnostic(&Trouble::Disk(error)))?;
    for name in &place.small {
        let found = place.small_file(name, options, progress);
        found.map_err(|trouble| asked(Some(name)).diagnostic(&trouble))?;
    }
    let mut weights = place.weights.clone();
    let index = place.folder.join(USUAL_INDEX);
    if weights.is_empty() && index.is_file() {
        let files = files_of_index(&index, USUAL_INDEX)
            .map_err(|mut found| Box::new(found.swap_remove(0)))?;
        weights.extend(files.into_iter().filter(|name| is_safe(name) && !name.contains('/')));
    }
    if weights.is_empty() {
        weights.push(match place.folder.join("adapter_config.json").is_file() {
            true => "adapter_model.safetensors".to_owned(),
            false => "model.safetensors".to_owned(),
        });
    }
    if let Some(name) = weights.iter().find(|name| !name.ends_with(".safetensors")) {
        return Err(not_where_it_lies(reference, name));
    }
    if let Err((name, trouble)) = stand_ins(&place, &weights, options, progress) {
        let revision = revision.unwrap_or("main");
        let asked = Asked { id: reference, revision, file: Some(&name), options };
        return Err(asked.diagnostic(&trouble));
    }
    Ok(match place.is_file {
        true => place.folder.join(&weights[0]),
        false => place.folder,
    })
}

/// Where a model lies, and where its stand-ins go.
struct Place {
    web: Web,
    /// What the name of a file is put behind.
    base: String,
    folder: PathBuf,
    /// Files that are fetched as they are.
    small: Vec<String>,
    /// Whether all of these must be there.
    is_listed: bool,
    /// Files of weights, where no index names them.
    weights: Vec<String>,
    /// Whether one file was named, and no folder.
    is_file: bool,
    /// Whether names are escaped as stores do.
    is_store: bool,
    /// The names of all that is there, where that is known.
    names: Option<Vec<String>>,
    /// Why nobody can be asked, where an earlier run's stand-ins are all there is.
    unreachable: Option<String>,
    /// Where what is read is kept for later runs.
    kept: Option<Arc<Kept>>,
}

impl Place {
    fn of_hub(id: &str, known: Known, cache: &Path) -> Self {
        let Known { web, info, unreachable } = known;
        let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let found = wanted(names.iter().copied());
        let base = web.file_address(id, &info.sha, "");
        let weights = match found.index {
            Some(index) if index == USUAL_INDEX => Vec::new(),
            Some(index) => vec![index.to_owned()],
            None => found.weights.iter().map(|name| (*name).to_owned()).collect(),
        };
        let folder = folder(cache, &base).join("snapshots").join(&info.sha);
        let small = found.small.iter().map(|name| (*name).to_owned()).collect();
        Self {
            web,
            base,
            folder,
            small,
            is_listed: true,
            weights,
            is_file: false,
            is_store: false,
            names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            unreachable,
            kept: None,
        }
    }

    fn of_address(web: Web, address: &str, is_store: bool, cache: &Path) -> Result<Self, Trouble> {
        let (base, weights) = match address.rsplit_once('/') {
            Some((base, name)) if name.ends_with(".safetensors") => {
                (format!("{base}/"), vec![name.to_owned()])
            }
            _ => (format!("{}/", address.trim_end_matches('/')), Vec::new()),
        };
        if let Some(name) = weights.first().filter(|name| !is_safe(name)) {
            return Err(Trouble::Confused(format!("`{}` is no name of a file", shown(name))));
        }
        let is_file = !weights.is_empty();
        let small = match is_file {
            true => Vec::new(),
            false => SMALL.iter().map(|name| (*name).to_owned()).collect(),
        };
        let folder = folder(cache, address).join("files");
        Ok(Self {
            web,
            base,
            folder,
            small,
            is_listed: false,
            weights,
            is_file,
            is_store,
            names: None,
            unreachable: None,
            kept: None,
        })
    }

    /// Where a file of the model is asked for.
    fn address_of(&self, name: &str) -> String {
        match self.is_store {
            // The name of a single file comes from an address, in which it is escaped already.
            true if !self.is_file => format!("{}{}", self.base, store::escaped(name)),
            _ => format!("{}{name}", self.base),
        }
    }

    /// Fetches a file as it is. One that is only tried may be missing.
    fn small_file(
        &self,
        name: &str,
        options: &HubOptions,
        progress: &dyn FetchProgress,
    ) -> Result<(), Trouble> {
        let path = self.folder.join(name);
        // A commit's files stay what they are.
        if self.is_listed && path.is_file() {
            return Ok(());
        }
        if let Some(why) = &self.unreachable {
            return Err(Trouble::Network(why.clone()));
        }
        let fetched = patiently(options, progress, || {
            let (body, _) = self.web.bytes(&self.address_of(name), 0, Some(options.patience))?;
            let mut bytes = Vec::new();
            body.take(LONGEST_SMALL + 1).read_to_end(&mut bytes)?;
            match bytes.len() as u64 > LONGEST_SMALL {
                true => Err(Trouble::Confused(format!("more than {}", bytes_text(LONGEST_SMALL)))),
                false => Ok(bytes),
            }
        });
        match fetched {
            // An empty file has no first byte that could be asked for.
            Err(Trouble::Refused { status: 416, .. }) => put(&path, &[]),
            Err(Trouble::Refused { status: 404 | 403 | 410, .. }) if !self.is_listed => {
                // What an earlier state had is gone.
                let _ = fs::remove_file(&path);
                Ok(())
            }
            Err(trouble) => Err(trouble),
            Ok(bytes) => put(&path, &bytes),
        }
    }

    /// Makes the stand-in of a file of weights, or finds the one that is there.
    fn stand_in(
        &self,
        name: &str,
        options: &HubOptions,
        progress: &dyn FetchProgress,
    ) -> Result<(), Trouble> {
        let path = self.folder.join(name);
        let note = self.folder.join(format!(".{name}.state"));
        if let Some(why) = &self.unreachable {
            let (state, head) = earlier(&path, &note).ok_or(Trouble::Network(why.clone()))?;
            self.register(name, path, state, head, options);
            return Ok(());
        }
        let address = self.address_of(name);
        let ask = |first: u64, last: u64| {
            patiently(options, progress, || {
                let answer = self.web.range(&address, first, last, options.patience)?;
                let state = State { size: answer.total, etag: answer.etag };
                let mut bytes = Vec::new();
                answer.body.take(last - first + 1).read_to_end(&mut bytes)?;
                let expected = (last + 1).min(state.size).saturating_sub(first);
                if answer.begins != first || bytes.len() as u64 != expected {
                    let text = format!("{} instead of {expected}", bytes_text(bytes.len() as u64));
                    return Err(Trouble::Network(text));
                }
                Ok((state, bytes))
            })
        };
        let (state, mut head) = ask(0, FIRST_BYTES - 1)?;
        let length = head.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        // What cannot be is said by the reader of the format, from what is there.
        let end = length.saturating_add(8).min(MAX_HEADER_BYTES + 8).min(state.size);
        if end > head.len() as u64 {
            let (later, rest) = ask(head.len() as u64, end - 1)?;
            if later != state {
                return Err(Trouble::Confused("another file than a moment before".to_owned()));
            }
            head.extend(rest);
        }
        head.truncate(end as usize);
        let text = json!({"size": state.size, "etag": state.etag}).to_string();
        let is_there = || {
            let known = read_limited(&note, LONGEST_NOTE).ok()?;
            let mut begins = vec![0; head.len()];
            let (file, _) = open_regular(&path).ok()?;
            file.read_exact_at(&mut begins, 0).ok()?;
            let is_same = known == text.as_bytes() && begins == head;
            (is_same && file.metadata().ok()?.len() == state.size).then_some(())
        };
        if is_there().is_none() {
            put_sparse(&path, &head, state.size)?;
            put(&note, text.as_bytes())?;
        }
        self.register(name, path, state, head.len() as u64, options);
        Ok(())
    }

    /// Says what a stand-in is for, whose first `head` bytes are the file's.
    fn register(&self, name: &str, path: PathBuf, state: State, head: u64, options: &HubOptions) {
        let patience = (options.patience, options.retry_after);
        let address = self.address_of(name);
        let kept = self.kept.as_ref();
        let kept = kept.and_then(|kept| kept.file(&address, state.size, state.etag.as_deref()));
        let head = (path.clone(), head);
        let remote = Remote::new(self.web.clone(), address, state, patience, head, kept);
        far::register(path, Arc::new(RemoteSource(remote)));
    }
}

/// The state of a file that an earlier run made a stand-in of, and how many bytes of it are there.
fn earlier(path: &Path, note: &Path) -> Option<(State, u64)> {
    let note: Value = serde_json::from_slice(&read_limited(note, LONGEST_NOTE).ok()?).ok()?;
    let etag = note["etag"].as_str().map(str::to_owned);
    let state = State { size: note["size"].as_u64()?, etag };
    let (file, _) = open_regular(path).ok()?;
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0).ok()?;
    let head = u64::from_le_bytes(length).checked_add(8).filter(|head| *head <= state.size)?;
    (file.metadata().ok()?.len() == state.size).then_some((state, head))
}

/// Makes all stand-ins, several at once.
fn stand_ins(
    place: &Place,
    names: &[String],
    options: &HubOptions,
    progress: &dyn FetchProgress,
) -> Result<(), (String, Trouble)> {
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let work = |progress: &dyn FetchProgress| {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(trouble) = place.stand_in(name, options, progress) {
                next.store(names.len(), Ordering::Relaxed);
                let mut failure = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failure.get_or_insert((name.clone(), trouble));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(names.len()) {
            // Where the system starts no thread, fewer do it all.
            if std::thread::Builder::new().spawn_scoped(scope, || work(&())).is_err() {
                break;
            }
        }
        work(progress);
    });
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// The folder of what is remembered of an address.
pub(super) fn folder(cache: &Path, address: &str) -> PathBuf {
    let key = blake3::hash(address.as_bytes()).to_hex();
    cache.join(FOLDER).join(&key[..32])
}

/// Writes a file in one step, so that another process never sees a part of it.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), Trouble> {
    put_with(path, |file| file.write_all_at(bytes, 0))
}

fn put_sparse(path: &Path, head: &[u8], size: u64) -> Result<(), Trouble> {
    put_with(path, |file| {
        file.set_len(size)?;
        file.write_all_at(head, 0)
    })
}

fn put_with(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> Result<(), Trouble> {
    if let Some(parent) = path.parent() {
        create_private_folders(parent).map_err(Trouble::Disk)?;
    }
    let placed = Fresh::beside(path).and_then(|fresh| {
        write(fresh.file())?;
        fresh.place(path)
    });
    placed.map_err(Trouble::Disk)
}
