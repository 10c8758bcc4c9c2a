//! Files that lie elsewhere: which stand-in on this machine is for which of them.
//!
//! A stand-in has the length and the header of its file, so that everything that reads headers needs to
//! know nothing of networks; its data is a hole. Data is read through [`FilePool`](crate::FilePool) alone,
//! which asks here.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::source::ByteSource;

/// The name of the folder of stand-ins, by which one is known even when nothing else is.
pub const FOLDER: &str = "mixdown-stand-ins";

/// Bytes of blocks of remote files that a process holds at most.
pub const HELD_BYTES: u64 = 48 << 20;

/// What stand-ins of this process are for. Who opens a model and who reads it meet nowhere else, and the
/// path of a stand-in names one state of one file.
static FILES: Mutex<BTreeMap<PathBuf, Arc<dyn ByteSource>>> = Mutex::new(BTreeMap::new());

/// Says what a stand-in is for.
#[cfg(feature = "hub")]
pub(super) fn register(stand_in: PathBuf, file: Arc<dyn ByteSource>) {
    FILES.lock().unwrap_or_else(PoisonError::into_inner).insert(stand_in, file);
}

/// Whether a path is that of a stand-in.
pub fn is_stand_in(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == FOLDER)
}

/// The file that a stand-in is for; none for any other path.
///
/// **Errors.** For a stand-in of which this process does not know what it is for: its hole must never be read.
pub(crate) fn of(path: &Path) -> io::Result<Option<Arc<dyn ByteSource>>> {
    if !is_stand_in(path) {
        return Ok(None);
    }
    let files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let found = files.get(path).cloned();
    found.map(Some).ok_or_else(|| {
        io::Error::other("it stands in for a remote file; name the model by its address")
    })
}
