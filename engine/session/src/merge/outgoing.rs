//! Outputs that go to an object store.

use std::path::{Path, PathBuf};

use mixdown_checkpoint::{hub, shown};
use mixdown_diagnostics::{Diagnostic, codes};

use super::MergeRequest;
use crate::Session;

/// An output that goes to an object store.
pub struct Outgoing {
    /// Its address, without a slash at the end.
    pub address: String,
    /// The folder of this machine that its shards pass through.
    pub place: PathBuf,
}

impl Outgoing {
    /// Where the output of this request goes, if not to a folder.
    ///
    /// **Errors.** `OUTPUT_REMOTE` for a part, and where the network must not be used.
    pub fn of(
        request: &MergeRequest,
        session: &Session<'_>,
    ) -> Result<Option<Self>, Box<Diagnostic>> {
        let text = request.out.to_string_lossy();
        if !hub::is_store(&text) {
            return Ok(None);
        }
        if request.part.is_some() {
            in_folder(&request.out, "a part of an output")?;
        }
        if session.places.hub.offline {
            return Err(Box::new(
                Diagnostic::error(codes::OUTPUT_REMOTE, "the output goes to a remote place")
                    .in_file(shown(&text))
                    .fact("network", "not used, because HF_HUB_OFFLINE is set")
                    .help("unset HF_HUB_OFFLINE, or name a folder with `--out`"),
            ));
        }
        let address = text.trim_end_matches('/').to_owned();
        let key = blake3::hash(address.as_bytes()).to_hex();
        let place = session.places.cache.join("outgoing").join(&key[..32]);
        Ok(Some(Self { address, place }))
    }
}

/// Refuses an address where only a folder can be: for `what`, such as `a sweep`.
///
/// **Errors.** `OUTPUT_REMOTE`.
pub fn in_folder(out: &Path, what: &str) -> Result<(), Box<Diagnostic>> {
    let text = out.to_string_lossy();
    if !hub::is_remote(&text) {
        return Ok(());
    }
    let headline = format!("{what} is written to a folder of this machine");
    Err(Box::new(
        Diagnostic::error(codes::OUTPUT_REMOTE, headline)
            .in_file(shown(&text))
            .help("name a folder with `--out`, and copy it when it is complete"),
    ))
}
