//! Fetches a model's files into the cache, small ones first, so that complete weights mean a
//! complete model.

use std::path::PathBuf;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use mixdown_diagnostics::{Diagnostic, codes};

use super::cache::Repository;
use super::fetch::{Fetch, patiently};
use super::id::is_commit;
use super::trouble::{Asked, Trouble};
use super::wanted::{is_safe, wanted};
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
    let api = api(options).map_err(fault)?;
    let info = describe(&api, id, revision, options, progress).map_err(fault)?;
    let names: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let wanted = wanted(names.iter().copied());
    if wanted.index.is_none() && wanted.weights.is_empty() {
        return Err(no_weights(id, options));
    }
    let repository = Repository::new(&options.cache, id);
    let snapshot = repository.snapshot(&info.sha);
    // By commit, so that a push to the branch meanwhile does not mix two states.
    let repo = Repo::with_revision(id.to_owned(), RepoType::Model, info.sha.clone());
    let fetch = Fetch { api: &api, repo: &repo, snapshot: &snapshot, options, progress };
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
    let noted = repository.set_commit(revision, &info.sha);
    repository.forget_commit(&info.sha);
    noted.map_err(|error| fault(Trouble::Disk(error)))?;
    Ok(snapshot)
}

fn api(options: &HubOptions) -> Result<Api, Trouble> {
    let endpoint = &options.endpoint;
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(Trouble::Confused(format!("`{endpoint}` is no web address")));
    }
    // Nothing is read from the environment here; retries are ours, because they must continue.
    let api = ApiBuilder::from_cache(Cache::new(options.cache.clone()))
        .with_endpoint(endpoint.clone())
        .with_token(options.token.clone())
        .with_progress(false)
        .with_retries(0)
        .with_user_agent("mixdown", env!("CARGO_PKG_VERSION"))
        .build()?;
    Ok(api)
}

/// Asks which commit a revision stands for and which files it has.
fn describe(
    api: &Api,
    id: &str,
    revision: &str,
    options: &HubOptions,
    progress: &dyn FetchProgress,
) -> Result<RepoInfo, Trouble> {
    let ask = || {
        let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        // Refusals are read here, because their headers say more than their status.
        let request = api.repo(repo).info_request().config();
        let request = request.timeout_global(Some(options.patience)).http_status_as_error(false);
        let mut response = request.build().call()?;
        let status = response.status().as_u16();
        if status != 200 {
            let reason = response.headers().get("x-error-code");
            let reason = reason.and_then(|value| value.to_str().ok()).unwrap_or_default();
            return Err(Trouble::Refused { status, reason: reason.to_owned() });
        }
        Ok(response.body_mut().read_json::<RepoInfo>()?)
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
        Diagnostic::error(codes::NO_WEIGHTS, headline).fact("hub", shown(&options.endpoint)).help(
            "safetensors and PyTorch's files are read; look for a converted copy of the model",
        ),
    )
}

fn first(mut faults: Vec<Diagnostic>) -> Box<Diagnostic> {
    // A list of faults is never empty.
    Box::new(faults.swap_remove(0))
}
