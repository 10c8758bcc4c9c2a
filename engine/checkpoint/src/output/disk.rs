//! Every change that an output makes on disk goes through here, so that tests can let any one of
//! them fail, tear, or be the last thing a process did.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;
use std::sync::Arc;

use mixdown_files::own_file;

use crate::stored;

/// A kind of change, as a test sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    CreateFolder,
    CreateFile,
    SetLength,
    Write,
    Append,
    Clone,
    Sync,
    SyncFolder,
    Rename,
    Exchange,
    Remove,
}

/// Asked before each change. What it returns is how many bytes may still be written; an error stands
/// for the system's.
pub(crate) type Gate = dyn Fn(Change, &Path) -> io::Result<usize> + Send + Sync;

/// The file system, with an optional gate before it.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    gate: Option<Arc<Gate>>,
}

impl Disk {
    /// A disk whose every change `gate` may refuse.
    #[cfg(test)]
    pub fn with_gate(
        gate: impl Fn(Change, &Path) -> io::Result<usize> + Send + Sync + 'static,
    ) -> Self {
        Self { gate: Some(Arc::new(gate)) }
    }

    fn ask(&self, change: Change, path: &Path) -> io::Result<usize> {
        self.gate.as_ref().map_or(Ok(usize::MAX), |gate| gate(change, path))
    }

    /// The part of `bytes` that may be written, and the error that follows it.
    fn allowed<'a>(
        &self,
        change: Change,
        path: &Path,
        bytes: &'a [u8],
    ) -> io::Result<(&'a [u8], io::Result<()>)> {
        let allowed = self.ask(change, path)?;
        if allowed >= bytes.len() {
            return Ok((bytes, Ok(())));
        }
        Ok((&bytes[..allowed], Err(io::ErrorKind::StorageFull.into())))
    }

    /// Makes a folder and those above it, and stores their names.
    pub fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.ask(Change::CreateFolder, path)?;
        stored::create_folders(path)
    }

    /// Makes a folder that only its owner may look into, unless there is one.
    pub fn create_private_folder(&self, path: &Path) -> io::Result<()> {
        self.ask(Change::CreateFolder, path)?;
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    /// Opens a file for reading and writing, and keeps what is in it. A link is not followed.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        self.ask(Change::CreateFile, path)?;
        own_file().read(true).write(true).create(true).truncate(false).open(path)
    }

    /// Opens a file that is there for reading. A link is not followed.
    pub fn open_to_read(&self, path: &Path) -> io::Result<File> {
        own_file().read(true).open(path)
    }

    /// Opens a file at whose end lines are added. A link is not followed.
    pub fn open_append(&self, path: &Path) -> io::Result<File> {
        self.ask(Change::CreateFile, path)?;
        own_file().append(true).create(true).open(path)
    }

    pub fn set_length(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()> {
        self.ask(Change::SetLength, path)?;
        file.set_len(bytes)
    }

    pub fn write_at(&self, file: &File, path: &Path, bytes: &[u8], at: u64) -> io::Result<()> {
        let (bytes, then) = self.allowed(Change::Write, path, bytes)?;
        file.write_all_at(bytes, at)?;
        then
    }

    pub fn append(&self, mut file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (bytes, then) = self.allowed(Change::Append, path, bytes)?;
        file.write_all(bytes)?;
        then
    }

    /// Writes a file that is not there yet.
    pub fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.ask(Change::CreateFile, path)?;
        let file = own_file().write(true).create_new(true).open(path)?;
        self.write_at(&file, path, bytes, 0)?;
        self.sync(&file, path)
    }

    /// Lets `bytes` of the new file share the old file's blocks.
    pub fn clone_range(
        &self,
        from: (&File, u64),
        to: (&File, u64),
        path: &Path,
        bytes: u64,
    ) -> io::Result<()> {
        self.ask(Change::Clone, path)?;
        super::clone::clone_range(from, to, bytes)
    }

    /// Waits until the content is stored.
    pub fn sync_data(&self, file: &File, path: &Path) -> io::Result<()> {
        self.ask(Change::Sync, path)?;
        file.sync_data()
    }

    /// Waits until content and length are stored.
    pub fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.ask(Change::Sync, path)?;
        file.sync_all()
    }

    /// Waits until a folder's entries are stored.
    pub fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.ask(Change::SyncFolder, path)?;
        stored::sync_folder(path)
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Change::Rename, to)?;
        fs::rename(from, to)
    }

    /// Gives a file a second name. A link is not followed.
    pub fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Change::CreateFile, to)?;
        fs::hard_link(from, to)
    }

    /// Swaps two folders in one step. `Unsupported` where the system cannot.
    pub fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.ask(Change::Exchange, other)?;
        exchange(one, other)
    }

    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.ask(Change::Remove, path)?;
        absent_is_fine(fs::remove_file(path))
    }

    /// Removes a file, a link, or a folder with all it holds.
    pub fn remove_all(&self, path: &Path) -> io::Result<()> {
        self.ask(Change::Remove, path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => absent_is_fine(fs::remove_dir_all(path)),
            Ok(_) => absent_is_fine(fs::remove_file(path)),
            Err(error) => absent_is_fine(Err(error)),
        }
    }

    /// Removes an empty folder.
    pub fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.ask(Change::Remove, path)?;
        absent_is_fine(fs::remove_dir(path))
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("gated", &self.gate.is_some()).finish()
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        // What kernels and file systems answer that do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
