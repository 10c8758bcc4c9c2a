//! The lock of a hidden folder: one process works in it at a time.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mixdown_diagnostics::{Diagnostic, codes};

use super::begin::lock_path;
use super::disk::Disk;
use super::owned;
use super::trouble::{refused, refused_early};
use crate::shown::shown;

/// A file that this process has locked.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    is_held: bool,
}

impl Lock {
    /// Takes the lock of the hidden folder, which is created where it is missing. Returns what the last
    /// process wrote into it, too: its number, or that it had finished.
    pub fn take(
        disk: &Disk,
        partial: &Path,
        target: &str,
        force: bool,
    ) -> Result<(Self, Vec<u8>), Box<Diagnostic>> {
        let path = lock_path(partial);
        // A process that finishes removes its lock and the folder; then the next attempt makes new ones.
        const ATTEMPTS: usize = 100;
        for _ in 0..ATTEMPTS {
            owned::check_folder(disk, partial, force)?;
            disk.create_private_folder(partial)
                .map_err(|error| refused_early("create a folder", partial, &error))?;
            owned::check_lock(disk, partial, force)?;
            let file = match disk.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result.map_err(|error| refused("create a lock", &path, &error))?,
            };
            let is_held = match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => return Err(busy(&path, target)),
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    false
                }
                Err(TryLockError::Error(error)) => {
                    return Err(refused("take a lock", &path, &error));
                }
            };
            let lock = Self { file, is_held };
            let (ours, there) = (lock.file.metadata(), fs::symlink_metadata(&path));
            let (Ok(ours), Ok(there)) = (ours, there) else { continue };
            if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
                continue;
            }
            let last_words = owned::last_words(partial, &lock.file, force)?;
            let text = format!("{}\n", std::process::id());
            disk.set_length(&lock.file, &path, 0)
                .and_then(|()| disk.write_at(&lock.file, &path, text.as_bytes(), 0))
                .map_err(|error| refused("write a lock", &path, &error))?;
            return Ok((lock, last_words));
        }
        Err(busy(&path, target))
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether the file system has locks.
    pub fn is_held(&self) -> bool {
        self.is_held
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a program that another thread starts has the file open, too, until it
        // runs, and a second output of this process may want the lock at once.
        let _ = self.file.unlock();
    }
}

fn busy(lock: &Path, target: &str) -> Box<Diagnostic> {
    let text = owned::lock_text(lock);
    // The number is the last line in either form.
    let owner = match text.lines().last() {
        Some(pid) => shown(pid).into_owned(),
        None => "unknown".to_owned(),
    };
    Box::new(
        Diagnostic::error(codes::OUTPUT_BUSY, "another process is writing this output")
            .in_file(target)
            .fact("process", owner)
            .help("wait until it has ended, or choose another folder with `--out`"),
    )
}
