//! What the hub says of a model that is read where it lies; or what an earlier run left of it, while the hub
//! cannot be reached.

use std::path::{Path, PathBuf};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::read_limited;

use super::download::{RepoInfo, describe};
use super::id::{is_commit, is_hub_id};
use super::trouble::Trouble;
use super::web::Web;
use super::{FetchProgress, HubOptions, stand_in};
use crate::shown::{shown, shown_path};

/// Longest description of a model that is kept; those with thousands of files have about a megabyte.
const LONGEST: u64 = 64 << 20;

/// A model that can be read.
pub(super) enum Found {
    /// All of it is in this folder of the hub's cache.
    Here(PathBuf),
    /// It lies at the hub.
    Described(Box<Known>),
}

/// The files of a model at the hub.
pub(super) struct Known {
    pub web: Web,
    pub info: RepoInfo,
    /// Why the hub cannot be asked, where this is what an earlier run knew.
    pub unreachable: Option<String>,
}

/// Asks the hub for a model. While it cannot be reached, what is cached serves, and that is told: all of the
/// model in the hub's cache, or else headers that an earlier run read.
pub(super) fn find(
    id: &str,
    revision: Option<&str>,
    options: &HubOptions,
    cache: &Path,
    progress: &dyn FetchProgress,
) -> Result<Found, Trouble> {
    if !is_hub_id(id) {
        return Err(Trouble::Confused(format!("`{}` is no id of a model", shown(id))));
    }
    let web = Web::new(options)?;
    let name = revision.unwrap_or("main");
    let note = stand_in::folder(cache, &web.info_address(id, name)).join("described");
    let trouble = match describe(&web, id, name, options, progress) {
        Ok(info) => {
            if let Ok(text) = serde_json::to_vec(&info) {
                // Only a later run without the hub misses it.
                let _ = stand_in::put(&note, &text);
            }
            return Ok(Found::Described(Box::new(Known { web, info, unreachable: None })));
        }
        Err(trouble) if trouble.is_unreachable() => trouble,
        Err(trouble) => return Err(trouble),
    };
    let headline = format!("the hub cannot be reached for `{}`", shown(id));
    let warning = Diagnostic::warning(codes::CACHED_INSTEAD, headline)
        .fact("hub", options.shown_endpoint())
        .fact("answer", trouble.in_words());
    if let Some(folder) = super::cached(id, revision, options) {
        let commit = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        progress.warn(
            warning
                .fact("used instead", format!("commit {commit} in {}", shown_path(&options.cache))),
        );
        return Ok(Found::Here(folder));
    }
    let remembered: Option<RepoInfo> =
        read_limited(&note, LONGEST).ok().and_then(|text| serde_json::from_slice(&text).ok());
    match remembered.filter(|info| is_commit(&info.sha)) {
        Some(info) => {
            let used = format!("headers of commit {} that an earlier run read", info.sha);
            progress.warn(
                warning
                    .fact("used instead", used)
                    .note("of its weights only what `--remote-cache` keeps can be read"),
            );
            let unreachable = Some(trouble.in_words());
            Ok(Found::Described(Box::new(Known { web, info, unreachable })))
        }
        None => Err(trouble),
    }
}
