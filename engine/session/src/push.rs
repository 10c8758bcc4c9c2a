//! Outputs put at the hub.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mixdown_checkpoint::hub::FetchProgress;
use mixdown_checkpoint::hub::push::{self as hub, Destination, Pushed};
use mixdown_checkpoint::manifest::Manifest;
use mixdown_checkpoint::verify::names;

use crate::progress::{Meter, Task};
use crate::verify::verified;
use crate::{Session, Trouble};

pub use mixdown_checkpoint::hub::push::Commit;

/// What goes to the hub, and where to.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// An output.
    pub folder: PathBuf,
    /// `organization/name`.
    pub repository: String,
    /// The branch, `main` if none; made where there is none.
    pub branch: Option<String>,
    /// The commit's first line; one that names the folder if none.
    pub message: Option<String>,
    /// Whether a repository that is made here is private; the account's own default if none.
    pub private: Option<bool>,
    /// Threads that read the folder.
    pub threads: usize,
}

impl PushRequest {
    fn destination(&self) -> Destination {
        let named = self.folder.canonicalize().ok();
        let named = named.as_deref().and_then(Path::file_name).unwrap_or_default();
        let message = || format!("Merged model {}", named.to_string_lossy());
        Destination {
            repository: self.repository.clone(),
            branch: self.branch.clone().unwrap_or_else(|| "main".to_owned()),
            message: self.message.clone().unwrap_or_else(message),
            private: self.private,
        }
    }
}

/// Whether a folder could be put there once it is made, as far as that can be told here.
///
/// **Errors.** A repository's name that is none, no token, an offline session.
pub fn check(request: &PushRequest, session: &Session<'_>) -> Result<(), Trouble> {
    hub::check(&request.destination(), &session.places.hub)
        .map_err(|found| Trouble::Usage(vec![*found]))
}

/// Proves an output against its manifest, and puts its files into a repository of the hub as one commit.
///
/// **Errors.** An output that does not agree with its manifest; what the hub refuses; no token.
pub fn push(request: &PushRequest, session: &Session<'_>) -> Result<Commit, Trouble> {
    check(request, session)?;
    verified(&request.folder, request.threads, session)?;
    let manifest = Manifest::read(&request.folder).map_err(|found| Trouble::Found(vec![*found]))?;
    // Hidden files beside them belong to other tools.
    let files = names(&manifest)
        .into_iter()
        .map(|name| Pushed { name: name.to_owned(), path: request.folder.join(name) });
    let (files, to) = (files.collect::<Vec<_>>(), request.destination());
    let meter = session.meter(Task::Pushing);
    meter.enter("pushing");
    let sizes = files.iter().map(|file| file.path.metadata().map_or(0, |found| found.len()));
    meter.expect(0, sizes.sum());
    let counting = Counting { session, meter: &meter, files: Mutex::default() };
    let found = session.watch(&meter, || hub::push(&files, &to, &session.places.hub, &counting));
    match found {
        Err(_) if session.is_cancelled() => {
            let text =
                "interrupted: nothing is to be seen at the hub; what arrived is not sent again";
            Err(Trouble::Interrupted(text.to_owned()))
        }
        found => found.map_err(|found| Trouble::Found(vec![*found])),
    }
}

/// Bytes of each file that have arrived.
struct Counting<'a> {
    session: &'a Session<'a>,
    meter: &'a Meter,
    files: Mutex<std::collections::HashMap<String, u64>>,
}

impl FetchProgress for Counting<'_> {
    fn advance(&self, file: &str, done: u64, _: u64) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let before = files.entry(file.to_owned()).or_default();
        // A stretch that is sent again was counted.
        self.meter.add(0, done.saturating_sub(*before));
        *before = done.max(*before);
    }

    fn is_cancelled(&self) -> bool {
        self.session.is_cancelled()
    }
}
