//! Puts files into a repository of the hub, as one commit.

#[cfg(feature = "hub")]
mod protocol;

use std::path::PathBuf;

use mixdown_diagnostics::{Diagnostic, codes};

use super::id::{is_hub_id, is_revision};
use super::{FetchProgress, HubOptions};
use crate::shown::shown;

/// A file that goes to the hub.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its path in the repository, with slashes.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Where files go to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// `organization/name`.
    pub repository: String,
    /// The branch; made where there is none.
    pub branch: String,
    /// The commit's first line.
    pub message: String,
    /// Whether a repository that is made here is private; the account's own default if none.
    pub private: Option<bool>,
}

/// A commit at the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its page.
    pub address: String,
    /// Files that were sent; the rest were there.
    pub sent: usize,
}

/// Whether something could be put there, as far as that can be told without asking the hub.
///
/// **Errors.** `PUSH_REFUSED` for a name that is none, an offline session, and no token.
pub fn check(to: &Destination, options: &HubOptions) -> Result<(), Box<Diagnostic>> {
    let Destination { repository, branch, .. } = to;
    let error = |headline: String| Diagnostic::error(codes::PUSH_REFUSED, headline);
    let usage = |diagnostic: Diagnostic| Err(Box::new(diagnostic));
    if !is_hub_id(repository) || !repository.contains('/') {
        let headline = format!("`{}` names no repository of the hub", shown(repository));
        return usage(error(headline).help("write ORGANIZATION/NAME, or USER/NAME"));
    }
    if !is_revision(branch) {
        return usage(error(format!("`{}` is no branch", shown(branch))));
    }
    if options.offline {
        return usage(
            error("nothing can be pushed: HF_HUB_OFFLINE is set".to_owned())
                .help("unset HF_HUB_OFFLINE"),
        );
    }
    if options.token.is_none() {
        return usage(
            error(format!("`{repository}` cannot be pushed to without a token"))
                .fact("hub", options.shown_endpoint())
                .help("set HF_TOKEN to a token that may write"),
        );
    }
    Ok(())
}

/// Puts files into a repository. `progress` hears the bytes of each file that are there.
///
/// **Errors.** As [`check`]; what the hub refuses; files that cannot be read.
pub fn push(
    files: &[Pushed],
    to: &Destination,
    options: &HubOptions,
    progress: &dyn FetchProgress,
) -> Result<Commit, Box<Diagnostic>> {
    check(to, options)?;
    send(files, to, options, progress)
}

#[cfg(feature = "hub")]
use protocol::send;

#[cfg(not(feature = "hub"))]
fn send(
    _files: &[Pushed],
    _to: &Destination,
    _options: &HubOptions,
    _progress: &dyn FetchProgress,
) -> Result<Commit, Box<Diagnostic>> {
    let headline = "nothing can be pushed: this program was built without the hub".to_owned();
    Err(Box::new(Diagnostic::error(codes::PUSH_REFUSED, headline)))
}
