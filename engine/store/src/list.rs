//! What is in the store.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::entry::EntryInfo;
use crate::error::{Fault, SystemError};
use crate::key::Key;
use crate::read::{self, Trouble};
use crate::store::{ENTRY, Store, TEMPORARY};

/// One entry, as a list shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What it is found by.
    pub key: Key,
    /// Its file.
    pub path: PathBuf,
    /// Bytes of its file.
    pub bytes: u64,
    /// When it was last read, or made.
    pub last_used: SystemTime,
    /// What its header says.
    pub held: Held,
}

/// What a look at an entry's header shows. Its data is not looked at.
#[derive(Clone, Debug)]
pub enum Held {
    /// The header is sound.
    Entry(Box<EntryInfo>),
    /// It is not what was written.
    Damaged(Fault),
    /// The system does not let it be read.
    Unreadable(String),
}

impl Listed {
    /// What the entry is, for people, where it says so.
    pub fn title(&self) -> Option<&str> {
        match &self.held {
            Held::Entry(info) => Some(&info.header.title),
            _ => None,
        }
    }
}

/// A file that was being written, or still is.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    pub path: PathBuf,
    /// Bytes of disk that it takes; it has its final length from the start, with holes.
    pub bytes: u64,
    pub modified: SystemTime,
}

impl Store {
    /// All entries, the one last used last. A store that is not there has none.
    ///
    /// **Errors.** When a folder of the store cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, SystemError> {
        let mut found = Vec::new();
        self.each_file(|path, metadata| {
            let Some(key) = entry_key(&path) else { return };
            // It may have been removed since its folder was read.
            let Ok(last_used) = metadata.modified() else { return };
            let Some(held) = self.look(&path, &key) else { return };
            found.push(Listed { key, path, bytes: metadata.len(), last_used, held });
        })?;
        found.sort_by_key(|entry| (entry.last_used, entry.key));
        Ok(found)
    }

    /// Files of entries that have not got their name.
    pub(crate) fn leftovers(&self) -> Result<Vec<Leftover>, SystemError> {
        use std::os::unix::fs::MetadataExt;
        let mut found = Vec::new();
        self.each_file(|path, metadata| {
            let Ok(modified) = metadata.modified() else { return };
            if is_temporary(&path) {
                let bytes = metadata.blocks().saturating_mul(512);
                found.push(Leftover { path, bytes, modified });
            }
        })?;
        Ok(found)
    }

    fn look(&self, path: &Path, key: &Key) -> Option<Held> {
        let read = |file: File| read::prefix(&self.disk, &file, path, key);
        match self.disk.open(path).map_err(Trouble::System).and_then(read) {
            Ok((info, ..)) => Some(Held::Entry(Box::new(info))),
            Err(Trouble::Fault(fault)) => Some(Held::Damaged(fault)),
            Err(Trouble::System(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(Trouble::System(error)) => Some(Held::Unreadable(error.to_string())),
        }
    }

    /// Visits the files, not links, in the folders where entries are.
    fn each_file(&self, mut visit: impl FnMut(PathBuf, fs::Metadata)) -> Result<(), SystemError> {
        for folder in names_in(&self.version_folder())? {
            if !is_entry_folder(&folder) || !folder.is_dir() {
                continue;
            }
            for path in names_in(&folder)? {
                match fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.is_file() => visit(path, metadata),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// What is in a folder; nothing if it is not there.
fn names_in(folder: &Path) -> Result<Vec<PathBuf>, SystemError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => {
            Err(SystemError { action: "list the store", path: folder.to_owned(), source })
        }
        Ok(found) => Ok(found),
    }
}

/// Whether a folder has the name of one that holds entries: two hexadecimal digits.
fn is_entry_folder(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The key in the name of an entry that is in its place.
fn entry_key(path: &Path) -> Option<Key> {
    key_before(path, ENTRY, |rest| rest.is_empty())
}

/// Whether a file has the name of one that is being written.
fn is_temporary(path: &Path) -> bool {
    key_before(path, TEMPORARY, |rest| rest.starts_with('.') && rest.len() > 1).is_some()
}

fn key_before(path: &Path, ending: &str, fits: impl Fn(&str) -> bool) -> Option<Key> {
    let name = path.file_name()?.to_str()?.strip_suffix(ending)?;
    let (key, rest) = name.split_at_checked(64)?;
    let folder = path.parent()?.file_name()?.to_str()?;
    (fits(rest) && key.starts_with(folder)).then(|| key.parse().ok()).flatten()
}
