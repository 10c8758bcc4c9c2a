//! Fetches a model's files into the cache, small ones first, so that complete weights mean a
//! complete model.

use std::path::PathBuf;

use mixdown_diagnostics::{Diagnostic, codes};
use serde::{Deserialize, Serialize};

use super::cache::Repository;
use super::fetch::{Fetch, patiently};
use super::id::is_commit;
use super::trouble::{Asked, Trouble};
use super::wanted::{is_safe, wanted};
use super::web::Web;
use super::{FetchProgress, HubOptions};
use crate::open::files_of_index;
use crate::shown::shown;

/// Fetches what is missing of a model; gives the folder of its files.
pub(super) fn download(
    id: &str,
    revision: &str,
    options: &HubOptions,
    progress: &dyn FetchProgress,
) -> Result<PathBuf, Box<Diagnostic>> {
    let asked = Asked { id, revision, file: None, options };
    let fault = |trouble: Trouble| asked.diagnostic(&trouble);
    let web = Web::new(options).map_err(fault)?;
    let info = describe(&web, id, revision, options, progress).map_err(fault)?;
    let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let wanted = wanted(names.iter().copied());
    if wanted.index.is_none() && wanted.weights.is_empty() {
        return Err(no_weights(id, options));
    }
    let repository = Repository::new(&options.cache, id);
    let snapshot = repository.snapshot(&info.sha);
    // By commit, so that a push to the branch meanwhile does not mix two states.
    let fetch = Fetch {
        web: &web,
        id,
        commit: &info.sha,
        blobs: &repository.blobs(),
        snapshot: &snapshot,
        options,
        progress,
    };
    let get = |name: &str| {
        let asked = Asked { file: Some(name), ..asked };
        fetch.file(name).map_err(|trouble| asked.diagnostic(&trouble))
    };
    wanted.small.iter().try_for_each(|name| get(name))?;
    wanted.weights.iter().try_for_each(|name| get(name))?;
    if let Some(index) = wanted.index {
        let shown = format!("{id}/{index}");
        let files = files_of_index(&snapshot.join(index), &shown).map_err(first)?;
        // What the hub does not list is reported when the folder is opened.
        let listed = |file: &&String| names.contains(&file.as_str()) && is_safe(file);
        files.iter().filter(listed).try_for_each(|name| get(name))?;
    }
    repository.set_commit(revision, &info.sha).map_err(|error| fault(Trouble::Disk(error)))?;
    Ok(snapshot)
}

/// What the hub tells of a revision.
#[derive(Deserialize, Serialize)]
pub(super) struct RepoInfo {
    /// The commit that it stands for.
    pub sha: String,
    pub siblings: Vec<Sibling>,
}

/// A file of a repository.
#[derive(Deserialize, Serialize)]
pub(super) struct Sibling {
    pub rfilename: String,
}

/// Asks which commit a revision stands for and which files it has.
pub(super) fn describe(
    web: &Web,
    id: &str,
    revision: &str,
    options: &HubOptions,
    progress: &dyn FetchProgress,
) -> Result<RepoInfo, Trouble> {
    let ask = || {
        let text = web.text(&web.info_address(id, revision), options.patience)?;
        serde_json::from_str::<RepoInfo>(&text)
            .map_err(|error| Trouble::Confused(error.to_string()))
    };
    let info = patiently(options, progress, ask)?;
    if !is_commit(&info.sha) {
        return Err(Trouble::Confused(format!("`{}` is no commit", shown(&info.sha))));
    }
    Ok(info)
}

fn no_weights(id: &str, options: &HubOptions) -> Box<Diagnostic> {
    let headline = format!("`{}` has no weights at the hub that are read", shown(id));
    Box::new(
        Diagnostic::error(codes::NO_WEIGHTS, headline).fact("hub", options.shown_endpoint()).help(
            "safetensors and PyTorch's files are read; look for a converted copy of the model",
        ),
    )
}

fn first(mut faults: Vec<Diagnostic>) -> Box<Diagnostic> {
    // A list of faults is never empty.
    Box::new(faults.swap_remove(0))
}
