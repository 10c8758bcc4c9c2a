//! Making room, beside merges that run.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::disk;
use crate::error::SystemError;
use crate::list::{Held, Leftover, Listed};
use crate::store::Store;

/// What may stay. The default removes only what is of no use to anybody: damaged entries and what
/// crashes left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Bytes that the entries may take together. Those used least recently go first.
    pub max_bytes: Option<u64>,
    /// How long an entry may be unused.
    pub max_age: Option<Duration>,
    /// Whether all entries go.
    pub all: bool,
    /// Whether it is only found out what would be removed.
    pub dry_run: bool,
}

/// What was removed, or would be.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Entries that are gone, the one used least recently first.
    pub removed: Vec<Listed>,
    /// Entries that would have gone, but are in use.
    pub in_use: Vec<Listed>,
    /// Entries that stay, without those in use.
    pub kept: Vec<Listed>,
    /// Files of interrupted runs that are gone.
    pub leftovers: usize,
    /// Bytes that those took.
    pub leftover_bytes: u64,
    /// What the system did not let be removed.
    pub failed: Vec<SystemError>,
}

/// After so long without a change, a file is taken for left behind where the file system knows no
/// locks.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a file is gone.
enum Removal {
    Gone,
    InUse,
}

impl Store {
    /// Removes entries until what is left is as the options say.
    ///
    /// An entry that some process reads stays, and so does what a process is writing. Files that are
    /// not of the store are never touched, nor are entries of other versions of the format.
    ///
    /// **Errors.** When a folder of the store cannot be read. What cannot be removed is reported, and
    /// does not stop the rest.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, SystemError> {
        let now = SystemTime::now();
        let mut pruned = self.remove_leftovers(options.dry_run)?;
        let entries = self.list()?;
        let mut total = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes));
        for entry in entries {
            // A time in the future, from another clock, is no age.
            let unused = now.duration_since(entry.last_used).unwrap_or_default();
            let goes = options.all
                || matches!(entry.held, Held::Damaged(_))
                || options.max_age.is_some_and(|most| unused > most)
                || options.max_bytes.is_some_and(|most| total > most);
            if !goes {
                pruned.kept.push(entry);
                continue;
            }
            match self.remove_free(&entry.path, options.dry_run) {
                Ok(Removal::Gone) => {
                    total = total.saturating_sub(entry.bytes);
                    pruned.removed.push(entry);
                }
                Ok(Removal::InUse) => pruned.in_use.push(entry),
                Err(error) => {
                    pruned.failed.push(error);
                    pruned.kept.push(entry);
                }
            }
        }
        Ok(pruned)
    }

    /// Removes what interrupted runs were writing, as every merge does that uses the store. Entries are
    /// not looked at.
    ///
    /// **Errors.** When a folder of the store cannot be read.
    pub fn remove_leftovers(&self, dry_run: bool) -> Result<Pruned, SystemError> {
        let now = SystemTime::now();
        let mut pruned = Pruned::default();
        for leftover in self.leftovers()? {
            match self.remove_leftover(&leftover, now, dry_run) {
                Ok(Removal::Gone) => {
                    pruned.leftovers += 1;
                    pruned.leftover_bytes += leftover.bytes;
                }
                Ok(Removal::InUse) => {}
                Err(error) => pruned.failed.push(error),
            }
        }
        Ok(pruned)
    }

    fn remove_leftover(
        &self,
        leftover: &Leftover,
        now: SystemTime,
        dry_run: bool,
    ) -> Result<Removal, SystemError> {
        // A lock ends with its process, so that what is not locked has no writer any more.
        match self.lock(&leftover.path)? {
            Lock::Gone => Ok(Removal::Gone),
            Lock::Taken => Ok(Removal::InUse),
            Lock::Unknown(_)
                if now.duration_since(leftover.modified).unwrap_or_default() < ABANDONED =>
            {
                Ok(Removal::InUse)
            }
            Lock::Had(file) | Lock::Unknown(file) => {
                self.remove(&leftover.path, &file, dry_run)?;
                Ok(Removal::Gone)
            }
        }
    }

    /// Removes an entry that nobody reads.
    fn remove_free(&self, path: &Path, dry_run: bool) -> Result<Removal, SystemError> {
        match self.lock(path)? {
            Lock::Gone => Ok(Removal::Gone),
            Lock::Taken => Ok(Removal::InUse),
            // Without locks a reader keeps what it has open all the same; only the name goes.
            Lock::Had(file) | Lock::Unknown(file) => {
                self.remove(path, &file, dry_run)?;
                Ok(Removal::Gone)
            }
        }
    }

    fn remove(&self, path: &Path, file: &File, dry_run: bool) -> Result<(), SystemError> {
        // What took its place meanwhile was not judged.
        if dry_run || !disk::is_named(file, path) {
            return Ok(());
        }
        self.disk.remove_file(path).map_err(|source| refused("remove a file", path, source))
    }

    fn lock(&self, path: &Path) -> Result<Lock, SystemError> {
        let file = match self.disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Lock::Gone),
            Err(source) => return Err(refused("open a file", path, source)),
        };
        match file.try_lock() {
            Ok(()) => Ok(Lock::Had(file)),
            Err(TryLockError::WouldBlock) => Ok(Lock::Taken),
            Err(TryLockError::Error(_)) => Ok(Lock::Unknown(file)),
        }
    }
}

/// What came of asking for a lock.
enum Lock {
    Had(File),
    /// Another has it.
    Taken,
    /// The file system knows no locks.
    Unknown(File),
    /// There is no file any more.
    Gone,
}

fn refused(action: &'static str, path: &Path, source: std::io::Error) -> SystemError {
    SystemError { action, path: PathBuf::from(path), source }
}
