//! Writing an entry: pieces in any order from any thread, and a name when all of it is stored.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use mixdown_files::unforeseen;
use mixdown_tensor::DType;

use crate::disk::{self, Disk};
use crate::entry::{self, CHUNK_BYTES, Header, Layout};
use crate::error::{SystemError, WriteError};
use crate::key::Key;
use crate::store::{ENTRY, Store, TEMPORARY};

/// An entry that is being written. Dropping it without [`commit`](Self::commit) leaves nothing.
#[derive(Debug)]
pub struct EntryWriter {
    key: Key,
    header: Header,
    header_bytes: Vec<u8>,
    layout: Layout,
    chunks: Vec<Mutex<Chunk>>,
    temporary: Temporary,
    folder: PathBuf,
    disk: Disk,
}

/// A file under a name of its own, which goes away unless it gets its final name.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
    disk: Disk,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed now is removed by a prune.
            let _ = self.disk.remove_file(&self.path);
        }
    }
}

/// How much of a chunk is written.
#[derive(Debug)]
enum Chunk {
    /// Its first bytes, which the hasher has seen.
    Begun(Box<blake3::Hasher>, u64),
    /// These ranges, sorted, of which no two touch. It has to be read again for its digest.
    Pieces(Vec<Range<u64>>),
    /// All of it.
    Done([u8; 32]),
}

impl Chunk {
    /// Whether nothing of this range is written.
    fn is_free(&self, range: &Range<u64>) -> bool {
        match self {
            Self::Begun(_, end) => range.start >= *end,
            Self::Pieces(known) => {
                known.iter().all(|other| other.end <= range.start || range.end <= other.start)
            }
            Self::Done(_) => false,
        }
    }

    /// Records bytes that were free, of a chunk of `length` bytes.
    fn add(&mut self, range: Range<u64>, bytes: &[u8], length: u64) {
        match self {
            Self::Pieces(known) if known.is_empty() && range.start == 0 => {
                let mut hasher = Box::new(blake3::Hasher::new());
                hasher.update(bytes);
                *self = Self::Begun(hasher, range.end);
            }
            Self::Pieces(known) => insert(known, range),
            Self::Begun(hasher, end) if range.start == *end => {
                hasher.update(bytes);
                *end = range.end;
            }
            Self::Begun(_, end) => *self = Self::Pieces(vec![0..*end, range]),
            Self::Done(_) => {}
        }
        if let Self::Begun(hasher, end) = self
            && *end == length
        {
            *self = Self::Done(*hasher.finalize().as_bytes());
        }
    }
}

/// Adds a range to sorted ones, none of which it overlaps, and joins what touches.
fn insert(known: &mut Vec<Range<u64>>, range: Range<u64>) {
    let position = known.partition_point(|other| other.end <= range.start);
    known.insert(position, range);
    if position + 1 < known.len() && known[position].end == known[position + 1].start {
        known[position].end = known.remove(position + 1).end;
    }
    if position > 0 && known[position - 1].end == known[position].start {
        known[position - 1].end = known.remove(position).end;
    }
}

/// Whether ranges that are joined cover a chunk of this length.
fn is_all(known: &[Range<u64>], length: u64) -> bool {
    matches!(known, [all] if *all == (0..length))
}

/// Told to programs that make backups; the first line is what they look for.
const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n\
    # Results that mixdown keeps. They can be computed again.\n\
    # See https://bford.info/cachedir/\n";

impl EntryWriter {
    pub(crate) fn begin(store: &Store, key: &Key, header: Header) -> Result<Self, WriteError> {
        let header_bytes = entry::encode(&header, SystemTime::now())?;
        let layout = Layout::new(&header, header_bytes.len() as u64)?;
        let folder = store.entry_folder(key);
        let temporary = Temporary::new(store, key, &folder)?;
        store
            .disk
            .set_length(&temporary.file, &temporary.path, layout.file_bytes)
            .map_err(|error| temporary.refused("give an entry its length", error))?;
        let chunks = (0..layout.chunks).map(|_| Mutex::new(Chunk::Pieces(Vec::new()))).collect();
        let disk = store.disk.clone();
        Ok(Self { key: *key, header, header_bytes, layout, chunks, temporary, folder, disk })
    }

    /// What the entry says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Writes bytes of an array, from byte `at` of it. Pieces may come in any order, from several
    /// threads. In order, each chunk is digested as it comes; otherwise it is read again for that.
    ///
    /// **Errors.** When the system does not let it be written, or a byte was written before.
    ///
    /// **Panics.** When the array does not have these bytes.
    pub fn write_at(&self, array: usize, at: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let end = at.checked_add(bytes.len() as u64);
        let has = end.is_some_and(|end| end <= self.layout.array_bytes(array));
        assert!(has, "array {array} does not have {} bytes at {at}", bytes.len());
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let number = at / CHUNK_BYTES;
            let range = self.layout.chunk_range(array, number);
            let (piece, after) = rest.split_at((range.end - at).min(rest.len() as u64) as usize);
            let chunk = &self.chunks[self.layout.number(array, number)];
            // Held while writing, so that no other thread finds the range free meanwhile.
            let mut chunk = chunk.lock().unwrap_or_else(PoisonError::into_inner);
            let place = at - range.start..at - range.start + piece.len() as u64;
            if !chunk.is_free(&place) {
                return Err(WriteError::Twice { array, at });
            }
            let Temporary { file, path, .. } = &self.temporary;
            self.disk
                .write_at(file, path, self.layout.array_at(array) + at, piece)
                .map_err(|error| self.temporary.refused("write an entry", error))?;
            chunk.add(place, piece, range.end - range.start);
            (at, rest) = (at + piece.len() as u64, after);
        }
        Ok(())
    }

    /// Writes elements of an array of f32, from element `first` of it.
    ///
    /// **Errors.** As [`write_at`](Self::write_at).
    ///
    /// **Panics.** When the array does not have these elements, or elements of another type.
    pub fn write_f32(&self, array: usize, first: u64, values: &[f32]) -> Result<(), WriteError> {
        self.expect_type(array, DType::F32);
        self.pieces(array, first, values, |value, bytes| bytes.extend(value.to_le_bytes()))
    }

    /// Writes elements of an array of f64, from element `first` of it.
    ///
    /// **Errors.** As [`write_at`](Self::write_at).
    ///
    /// **Panics.** When the array does not have these elements, or elements of another type.
    pub fn write_f64(&self, array: usize, first: u64, values: &[f64]) -> Result<(), WriteError> {
        self.expect_type(array, DType::F64);
        self.pieces(array, first, values, |value, bytes| bytes.extend(value.to_le_bytes()))
    }

    fn expect_type(&self, array: usize, dtype: DType) {
        let found = self.header.arrays[array].dtype;
        assert_eq!(found, dtype, "array {array} is written as what it is");
    }

    /// Writes elements through a buffer whose pieces end where chunks do.
    fn pieces<T>(
        &self,
        array: usize,
        first: u64,
        values: &[T],
        encode: impl Fn(&T, &mut Vec<u8>),
    ) -> Result<(), WriteError> {
        let size = size_of::<T>() as u64;
        let mut at = first.checked_mul(size).expect("no array has so many elements");
        let mut bytes = Vec::new();
        let mut rest = values;
        while !rest.is_empty() {
            let step = ((CHUNK_BYTES - at % CHUNK_BYTES) / size).min(rest.len() as u64);
            let (piece, after) = rest.split_at(step as usize);
            bytes.clear();
            piece.iter().for_each(|value| encode(value, &mut bytes));
            self.write_at(array, at, &bytes)?;
            (at, rest) = (at + bytes.len() as u64, after);
        }
        Ok(())
    }

    /// Gives the entry its name, when all of it is stored. An entry that is there already under the
    /// same key is replaced: both came from the same inputs.
    ///
    /// **Errors.** When not all bytes were written, or the system does not let it be stored. Then
    /// nothing of it stays.
    pub fn commit(mut self) -> Result<(), WriteError> {
        let digests = self.digests()?;
        let prefix = entry::prefix(&self.key, &self.header_bytes, &digests);
        let target = self.folder.join(format!("{}{ENTRY}", self.key));
        let Temporary { file, path, .. } = &self.temporary;
        let refused = |action| {
            let temporary = &self.temporary;
            move |error| temporary.refused(action, error)
        };
        self.disk.write_at(file, path, 0, &prefix).map_err(refused("write an entry"))?;
        self.disk.sync(file, path).map_err(refused("store an entry"))?;
        self.disk.rename(path, &target).map_err(refused("give an entry its name"))?;
        self.temporary.renamed = true;
        // The entry is whole under its name. Only after a power failure could the name be missing.
        self.disk.sync_folder(&self.folder).map_err(|source| {
            SystemError { action: "store an entry's name", path: self.folder.clone(), source }
                .into()
        })
    }

    fn digests(&self) -> Result<Vec<[u8; 32]>, WriteError> {
        let mut digests = Vec::with_capacity(self.chunks.len());
        let mut buffer = Vec::new();
        for array in 0..self.header.arrays.len() {
            for number in 0..self.layout.array_chunks(array) {
                let range = self.layout.chunk_range(array, number);
                let length = range.end - range.start;
                let chunk = &self.chunks[self.layout.number(array, number)];
                let chunk = chunk.lock().unwrap_or_else(PoisonError::into_inner);
                digests.push(match &*chunk {
                    Chunk::Done(digest) => *digest,
                    Chunk::Pieces(known) if is_all(known, length) => {
                        buffer.resize(length as usize, 0);
                        let Temporary { file, path, .. } = &self.temporary;
                        let at = self.layout.array_at(array) + range.start;
                        self.disk
                            .read_exact_at(file, path, at, &mut buffer)
                            .map_err(|error| self.temporary.refused("read back an entry", error))?;
                        *blake3::hash(&buffer).as_bytes()
                    }
                    _ => return Err(WriteError::Incomplete { array, at: range.start }),
                });
            }
        }
        Ok(digests)
    }
}

impl Temporary {
    /// Makes a file that no other process knows, in the folder of its entry, and locks it.
    fn new(store: &Store, key: &Key, folder: &Path) -> Result<Self, WriteError> {
        let disk = &store.disk;
        let refused = |action, path: &Path, source| {
            WriteError::from(SystemError { action, path: path.to_owned(), source })
        };
        if !folder.is_dir() {
            disk.create_folder(folder)
                .map_err(|error| refused("make a folder for an entry", folder, error))?;
            // The tag serves other programs; that it is missing costs nothing here.
            let tag = store.folder.join("CACHEDIR.TAG");
            if let Ok(file) = disk.create_file(&tag) {
                let _ = disk.write_at(&file, &tag, 0, TAG);
            }
        }
        // A prune that looks at the file before it is locked takes it for one that was left behind.
        // Twice in a row would be odd already.
        const TRIES: usize = 10;
        let mut path = folder.join(unique_name(key));
        for _ in 0..TRIES {
            let file = match disk.create_file(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    path = folder.join(unique_name(key));
                    continue;
                }
                Err(error) => return Err(refused("make a file for an entry", &path, error)),
            };
            let made = Self { file, path: path.clone(), disk: disk.clone(), renamed: false };
            let taken = matches!(made.file.try_lock(), Err(std::fs::TryLockError::WouldBlock));
            if !taken && disk::is_named(&made.file, &path) {
                return Ok(made);
            }
            drop(made);
            path = folder.join(unique_name(key));
        }
        let error = io::ErrorKind::ResourceBusy.into();
        Err(refused("keep a file for an entry", &path, error))
    }

    fn refused(&self, action: &'static str, source: io::Error) -> WriteError {
        SystemError { action, path: self.path.clone(), source }.into()
    }
}

/// A name that no other writer has and nobody can foresee.
fn unique_name(key: &Key) -> String {
    format!("{key}.{}{TEMPORARY}", unforeseen())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_and_overlaps_noticed() {
        let mut chunk = Chunk::Pieces(Vec::new());
        for (range, free) in [
            (4..6, true),
            (1..2, true),
            (8..9, true),
            (5..7, false),
            (3..5, false),
            (1..2, false),
            (0..9, false),
            (2..4, true),
            (6..8, true),
            (0..1, true),
        ] {
            assert_eq!(chunk.is_free(&range), free, "{range:?} in {chunk:?}");
            if free {
                chunk.add(range.clone(), &[7; 9][..(range.end - range.start) as usize], 9);
            }
        }
        assert!(matches!(&chunk, Chunk::Pieces(known) if is_all(known, 9)), "{chunk:?}");
    }
}
