//! Outputs that go to another place than a folder of this machine, as the output's folder sees that place.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use mixdown_diagnostics::Diagnostic;

use crate::journal::OwnerKey;
use crate::layout::{Layout, TensorPlace};

/// An output that goes elsewhere.
pub(crate) struct Outgoing<'a> {
    /// Where to, such as `s3://bucket/folder`.
    pub address: &'a str,
    pub layout: &'a Layout,
    /// The folder on this machine that has the shards' files.
    pub folder: PathBuf,
    /// The file that notes what is there already.
    pub record: PathBuf,
    pub key: OwnerKey,
    /// Of plan, inputs and layout.
    pub identity: &'a str,
    /// Whether what lies there is replaced.
    pub replaces: bool,
}

/// How much of a tensor is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Nothing,
    Some,
    All,
}

/// The place, which takes tensors as they are finished and shows the output when all of it is there. Called from
/// many threads. Dropping it keeps what is there, for the same merge to continue.
pub(crate) trait Elsewhere: Debug + Send + Sync {
    /// What an interrupted run sent of a tensor. Its bytes are no longer on this machine.
    fn sent(&self, place: TensorPlace) -> Sent;

    /// All bytes of a tensor are in its shard's file. Told once for each.
    fn finished(&self, place: TensorPlace);

    /// Waits until what is finished is not too far ahead of what is sent.
    ///
    /// **Errors.** What went wrong with anything that was to be sent.
    fn wait_for_room(&self) -> Result<(), Box<Diagnostic>>;

    /// A file that is sealed when its tensors are there has its last bytes.
    fn sealed(&self, shard: usize);

    /// Sends the rest, and these files of the folder in this order, and lets the output appear.
    fn deliver(&self, folder: &Path, names: &[String]) -> Result<(), Box<Diagnostic>>;

    /// Removes what is there so far, as far as that can be done.
    fn give_up(&self);
}
