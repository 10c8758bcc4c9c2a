//! What can go wrong, as facts. None of it has to stop the work of a caller.

use std::io;
use std::path::PathBuf;

use mixdown_diagnostics::{Diagnostic, codes};

use crate::entry::HeaderFault;
use crate::key::Key;

/// The system refused something.
#[derive(Debug, thiserror::Error)]
#[error("the system did not {action}: {}", path.display())]
pub struct SystemError {
    /// What was tried: `read an entry`.
    pub action: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl SystemError {
    /// A warning: the caller goes on without the store.
    pub fn warning(&self) -> Diagnostic {
        Diagnostic::warning(codes::STORE_UNUSABLE, "the store of results cannot be used")
            .in_file(self.path.to_string_lossy())
            .fact("action", self.action)
            .fact("system", system_text(&self.source))
            .note("the result is computed without it")
    }

    /// An error: the store itself was what the caller asked for.
    pub fn error(&self) -> Diagnostic {
        Diagnostic::error(codes::STORE_FAILED, format!("the system did not {}", self.action))
            .in_file(self.path.to_string_lossy())
            .fact("system", system_text(&self.source))
    }
}

/// What the system said, without its number.
fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// An entry is there and is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("an entry of the store is damaged: {}: {fault}", path.display())]
pub struct Damage {
    /// The entry.
    pub key: Key,
    /// Its file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
    /// Whether the file is gone, so that nobody meets it again. It stays where the system refused.
    pub removed: bool,
}

impl Damage {
    /// A warning: the caller computes the result again.
    pub fn warning(&self) -> Diagnostic {
        let found = Diagnostic::warning(
            codes::STORE_DAMAGED,
            "an entry of the store of results is damaged",
        )
        .in_file(self.path.to_string_lossy())
        .fact("found", self.fault.to_string())
        .note("its result is computed again");
        match self.removed {
            true => found.note("the entry is removed"),
            false => found.note("the entry could not be removed").help("remove the file"),
        }
    }
}

/// In which way an entry is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is shorter than the smallest entry, or than its header says it must be to hold the header.
    #[error("{found} bytes, where the header alone needs {needed}")]
    HeaderTruncated {
        /// Bytes of the file.
        found: u64,
        /// Bytes up to the end of what is missing.
        needed: u64,
    },
    /// It does not begin as an entry does.
    #[error("it does not begin as an entry does")]
    NotAnEntry,
    /// It says that it is of another format than its folder.
    #[error("format version {0}, in the folder of another")]
    OtherVersion(u32),
    /// It belongs under another name.
    #[error("it is the entry of {0}")]
    OtherKey(Key),
    /// The header says something that cannot be.
    #[error("the header is wrong: {0}")]
    Header(#[from] HeaderFault),
    /// Its length is not what the header says.
    #[error("{found} bytes, where the header needs {expected}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes that the header's arrays need.
        expected: u64,
    },
    /// The header or the digests of the data are not what was written.
    #[error("the header does not have the digest that was written with it")]
    HeaderDigest,
    /// Data is not what was written.
    #[error("1 MiB of data at byte {at} does not have the digest that was written with it")]
    DataDigest {
        /// Where in the file that piece begins.
        at: u64,
    },
}

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is damaged, and was removed if that was possible; it counts as absent.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// The system did not let it be read.
    #[error(transparent)]
    System(#[from] SystemError),
}

impl ReadError {
    /// A warning for a caller that goes on without the entry.
    pub fn warning(&self) -> Diagnostic {
        match self {
            Self::Damaged(damage) => damage.warning(),
            Self::System(error) => error.warning(),
        }
    }
}

/// Why an entry cannot be written. Nothing of it stays.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system did not let it be written: a full disk, a folder that is read-only.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The header cannot be stored.
    #[error("this cannot be the header of an entry: {0}")]
    Header(#[from] HeaderFault),
    /// The same bytes were written twice.
    #[error("bytes of array {array} at {at} were written before")]
    Twice {
        /// Position of the array.
        array: usize,
        /// Byte in the array where the piece that was written twice begins.
        at: u64,
    },
    /// Not all bytes were written before the commit.
    #[error("bytes of array {array} at {at} were not written")]
    Incomplete {
        /// Position of the array.
        array: usize,
        /// Byte in the array where the first piece with a hole begins.
        at: u64,
    },
}

impl WriteError {
    /// A warning for a caller that goes on without keeping its result.
    pub fn warning(&self) -> Diagnostic {
        match self {
            Self::System(error) => error.warning(),
            other => Diagnostic::warning(codes::STORE_UNUSABLE, "a result cannot be kept")
                .fact("found", other.to_string()),
        }
    }
}
