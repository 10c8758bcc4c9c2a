//! The store itself: where entries are, and whether one is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, Gate};
use crate::entry::{Array, Data, Entry, EntryInfo, Header, VERSION};
use crate::error::{ReadError, WriteError};
use crate::key::Key;
use crate::read::OpenEntry;
use crate::write::EntryWriter;

/// A folder of results. Opening it does nothing; it is made when the first entry is written.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) folder: PathBuf,
    pub(crate) disk: Disk,
}

/// How the names of entries end.
pub(crate) const ENTRY: &str = ".entry";
/// How the names of entries end that are being written.
pub(crate) const TEMPORARY: &str = ".tmp";

impl Store {
    /// The store in this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), disk: Disk::default() }
    }

    /// The same store with a gate before each access to the disk, for tests of what happens when one
    /// fails.
    pub fn with_gate(self, gate: Arc<Gate>) -> Self {
        Self { disk: Disk::with_gate(gate), ..self }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether there is an entry, and what is known of it without reading its data. Does not count
    /// as a use of it.
    ///
    /// **Errors.** When its header is damaged or cannot be read.
    pub fn contains(&self, key: &Key) -> Result<Option<EntryInfo>, ReadError> {
        Ok(OpenEntry::find(self, key)?.map(|entry| entry.info().clone()))
    }

    /// Opens an entry, to read pieces of its arrays. Counts as a use of it.
    ///
    /// **Errors.** When its header is damaged or cannot be read. Data is proven as it is read.
    pub fn open(&self, key: &Key) -> Result<Option<OpenEntry>, ReadError> {
        let entry = OpenEntry::find(self, key)?;
        if let Some(entry) = &entry {
            entry.touch();
        }
        Ok(entry)
    }

    /// Reads an entry with all its data. Counts as a use of it.
    ///
    /// **Errors.** When it is damaged or cannot be read.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        let Some(entry) = self.open(key)? else { return Ok(None) };
        let Header { title, metadata, arrays } = entry.info().header.clone();
        let arrays = arrays.into_iter().enumerate().map(|(position, array)| {
            let data = entry.read_all(position)?;
            Ok(Array { name: array.name, shape: array.shape, data })
        });
        Ok(Some(Entry { title, metadata, arrays: arrays.collect::<Result<_, ReadError>>()? }))
    }

    /// Begins an entry, whose data comes in pieces. It is there once it is committed.
    ///
    /// **Errors.** When the header cannot be stored, or the system does not let a file be made.
    pub fn writer(&self, key: &Key, header: Header) -> Result<EntryWriter, WriteError> {
        EntryWriter::begin(self, key, header)
    }

    /// Writes an entry as a whole.
    ///
    /// **Errors.** When the header cannot be stored, or the system does not let a file be written.
    ///
    /// **Panics.** When an array has not as many elements as its shape.
    pub fn put(&self, key: &Key, entry: &Entry) -> Result<(), WriteError> {
        for array in &entry.arrays {
            let (elements, shape) = (array.data.elements() as u64, &array.shape);
            assert_eq!(elements, shape.elements(), "array `{}` has the shape {shape}", array.name);
        }
        let writer = self.writer(key, entry.header())?;
        for (position, array) in entry.arrays.iter().enumerate() {
            match &array.data {
                Data::F32(values) => writer.write_f32(position, 0, values)?,
                Data::F64(values) => writer.write_f64(position, 0, values)?,
            }
        }
        writer.commit()
    }

    /// The folder of this format.
    pub(crate) fn version_folder(&self) -> PathBuf {
        self.folder.join(format!("v{VERSION}"))
    }

    /// The folder of an entry.
    pub(crate) fn entry_folder(&self, key: &Key) -> PathBuf {
        self.version_folder().join(format!("{:02x}", key.as_bytes()[0]))
    }

    /// The file of an entry.
    pub(crate) fn entry_path(&self, key: &Key) -> PathBuf {
        self.entry_folder(key).join(format!("{key}{ENTRY}"))
    }
}
