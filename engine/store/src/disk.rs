//! Every access of the store to the disk goes through here, so that tests, also those of the
//! store's users, can let any one of them fail or tear.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use mixdown_files::{open_regular, retried, stored};

/// A kind of access, as a test sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Opening a file that is there.
    Open,
    /// Reading from a file.
    Read,
    /// Making a folder and those above it.
    CreateFolder,
    /// Making a file.
    CreateFile,
    /// Giving a file its length.
    SetLength,
    /// Writing to a file.
    Write,
    /// Waiting until a file is stored.
    Sync,
    /// Waiting until a folder's names are stored.
    SyncFolder,
    /// Giving a file its final name.
    Rename,
    /// Removing a file.
    Remove,
    /// Noting that a file was used.
    Touch,
}

/// Asked before each access. What it returns is how many bytes may still be written before the disk
/// is full; an error stands for the system's.
pub type Gate = dyn Fn(Access, &Path) -> io::Result<usize> + Send + Sync;

/// The file system, with an optional gate before it.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    gate: Option<Arc<Gate>>,
}

impl Disk {
    pub fn with_gate(gate: Arc<Gate>) -> Self {
        Self { gate: Some(gate) }
    }

    fn ask(&self, access: Access, path: &Path) -> io::Result<usize> {
        self.gate.as_ref().map_or(Ok(usize::MAX), |gate| gate(access, path))
    }

    pub fn open(&self, path: &Path) -> io::Result<File> {
        self.ask(Access::Open, path)?;
        // A folder can be opened, and only reading it fails; a pipe would be waited for.
        match retried(|| fs::metadata(path))?.is_file() {
            true => open_regular(path).map(|(file, _)| file),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub fn read_exact_at(
        &self,
        file: &File,
        path: &Path,
        at: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        self.ask(Access::Read, path)?;
        file.read_exact_at(buffer, at)
    }

    pub fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.ask(Access::CreateFolder, path)?;
        stored::create_private_folders(path)
    }

    /// Makes a file that must not be there yet.
    pub fn create_file(&self, path: &Path) -> io::Result<File> {
        self.ask(Access::CreateFile, path)?;
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }

    pub fn set_length(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()> {
        self.ask(Access::SetLength, path)?;
        file.set_len(bytes)
    }

    pub fn write_at(&self, file: &File, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let allowed = self.ask(Access::Write, path)?;
        if allowed >= bytes.len() {
            return file.write_all_at(bytes, at);
        }
        file.write_all_at(&bytes[..allowed], at)?;
        Err(io::ErrorKind::StorageFull.into())
    }

    pub fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.ask(Access::Sync, path)?;
        file.sync_all()
    }

    pub fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.ask(Access::SyncFolder, path)?;
        stored::sync_folder(path)
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Access::Rename, to)?;
        fs::rename(from, to)
    }

    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.ask(Access::Remove, path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Sets the time of a file's last change to now.
    pub fn touch(&self, file: &File, path: &Path) -> io::Result<()> {
        self.ask(Access::Touch, path)?;
        file.set_modified(SystemTime::now())
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("gated", &self.gate.is_some()).finish()
    }
}

/// Whether `path` still names this file, and not another that took its place.
pub(crate) fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(path)) => (file.dev(), file.ino()) == (path.dev(), path.ino()),
        _ => false,
    }
}
