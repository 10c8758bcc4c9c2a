//! Reading an entry piece by piece, each proven before it is believed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mixdown_tensor::DType;

use crate::disk::{self, Disk};
use crate::entry::{self, CHUNK_BYTES, Data, EntryInfo, Layout, PREAMBLE_BYTES, Preamble};
use crate::error::{Damage, Fault, ReadError, SystemError};
use crate::key::Key;
use crate::store::Store;

/// An entry whose header is proven and whose data can be read, from several threads at once.
///
/// While it is open, no process prunes it. If it is removed or replaced in another way, what is open
/// here stays as it is.
#[derive(Debug)]
pub struct OpenEntry {
    info: EntryInfo,
    layout: Layout,
    digests: Vec<[u8; 32]>,
    file: File,
    path: PathBuf,
    disk: Disk,
    /// The chunk of which last only a part was asked for.
    last: Mutex<Option<(usize, Vec<u8>)>>,
}

/// Why a file is not an entry that can be read.
pub(crate) enum Trouble {
    Fault(Fault),
    System(io::Error),
}

impl<T: Into<Fault>> From<T> for Trouble {
    fn from(fault: T) -> Self {
        Self::Fault(fault.into())
    }
}

impl OpenEntry {
    /// Opens an entry and proves its header.
    pub(crate) fn find(store: &Store, key: &Key) -> Result<Option<Self>, ReadError> {
        let path = store.entry_path(key);
        let refused = |source| SystemError { action: "open an entry", path: path.clone(), source };
        let file = match store.disk.open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(refused(error).into()),
        };
        // A lock that cannot be had, because a prune is at work or the file system knows none, only
        // means that the entry may lose its name. It can be read all the same.
        let _ = file.try_lock_shared();
        match prefix(&store.disk, &file, &path, key) {
            Ok((info, layout, digests)) => Ok(Some(Self {
                info,
                layout,
                digests,
                file,
                path,
                disk: store.disk.clone(),
                last: Mutex::default(),
            })),
            Err(trouble) => Err(told(&store.disk, &file, &path, key, trouble)),
        }
    }

    /// What is known of it.
    pub fn info(&self) -> &EntryInfo {
        &self.info
    }

    /// The position of the array of this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.info.header.arrays.iter().position(|array| array.name == name)
    }

    /// Reads bytes of an array, from byte `at` of it.
    ///
    /// Whole chunks are read to where they are wanted. Of a chunk that is wanted in part, all is read,
    /// and it is kept until another is, so that small pieces in order cost nothing extra.
    ///
    /// **Errors.** When a chunk is not what was written, or the system does not let it be read. What
    /// is in `buffer` then means nothing.
    ///
    /// **Panics.** When the array does not have these bytes.
    pub fn read_at(&self, array: usize, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let end = at.checked_add(buffer.len() as u64);
        let has = end.is_some_and(|end| end <= self.layout.array_bytes(array));
        assert!(has, "array {array} does not have {} bytes at {at}", buffer.len());
        let (mut at, mut rest) = (at, buffer);
        while !rest.is_empty() {
            let chunk = at / CHUNK_BYTES;
            let range = self.layout.chunk_range(array, chunk);
            let step = (range.end - at).min(rest.len() as u64) as usize;
            let (piece, after) = rest.split_at_mut(step);
            if step as u64 == range.end - range.start {
                self.read_chunk(array, chunk, piece)?;
            } else {
                self.read_part(array, chunk, (at - range.start) as usize, piece)?;
            }
            (at, rest) = (at + step as u64, after);
        }
        Ok(())
    }

    /// Reads elements of an array of f32, from element `first` of it.
    ///
    /// **Errors.** As [`read_at`](Self::read_at).
    ///
    /// **Panics.** When the array does not have these elements, or elements of another type.
    pub fn read_f32(&self, array: usize, first: u64, to: &mut [f32]) -> Result<(), ReadError> {
        self.expect_type(array, DType::F32);
        self.pieces(array, first, to, |bytes, to| {
            for (to, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
                *to = f32::from_le_bytes(*bytes);
            }
        })
    }

    /// Reads elements of an array of f64, from element `first` of it.
    ///
    /// **Errors.** As [`read_at`](Self::read_at).
    ///
    /// **Panics.** When the array does not have these elements, or elements of another type.
    pub fn read_f64(&self, array: usize, first: u64, to: &mut [f64]) -> Result<(), ReadError> {
        self.expect_type(array, DType::F64);
        self.pieces(array, first, to, |bytes, to| {
            for (to, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
                *to = f64::from_le_bytes(*bytes);
            }
        })
    }

    fn expect_type(&self, array: usize, dtype: DType) {
        let found = self.info.header.arrays[array].dtype;
        assert_eq!(found, dtype, "array {array} is read as what it is");
    }

    /// Reads elements through a buffer whose pieces end where chunks do.
    fn pieces<T>(
        &self,
        array: usize,
        first: u64,
        to: &mut [T],
        decode: impl Fn(&[u8], &mut [T]),
    ) -> Result<(), ReadError> {
        let size = size_of::<T>() as u64;
        let mut at = first.checked_mul(size).expect("no array has so many elements");
        let mut bytes = vec![0; (to.len() as u64 * size).min(CHUNK_BYTES) as usize];
        let mut rest = to;
        while !rest.is_empty() {
            let step = (CHUNK_BYTES - at % CHUNK_BYTES).min(rest.len() as u64 * size);
            let bytes = &mut bytes[..step as usize];
            self.read_at(array, at, bytes)?;
            let (piece, after) = rest.split_at_mut((step / size) as usize);
            decode(bytes, piece);
            (at, rest) = (at + step, after);
        }
        Ok(())
    }

    /// Reads an array whole.
    pub(crate) fn read_all(&self, array: usize) -> Result<Data, ReadError> {
        let header = &self.info.header.arrays[array];
        // It is no larger than the file, and fits memory or does not.
        let elements = header.shape.elements() as usize;
        match header.dtype {
            DType::F64 => {
                let mut values = self.room(elements)?;
                self.read_f64(array, 0, &mut values)?;
                Ok(Data::F64(values))
            }
            _ => {
                let mut values = self.room(elements)?;
                self.read_f32(array, 0, &mut values)?;
                Ok(Data::F32(values))
            }
        }
    }

    fn room<T: Clone + Default>(&self, elements: usize) -> Result<Vec<T>, ReadError> {
        let mut values = Vec::new();
        values.try_reserve_exact(elements).map_err(|_| SystemError {
            action: "give memory for an entry",
            path: self.path.clone(),
            source: io::ErrorKind::OutOfMemory.into(),
        })?;
        values.resize(elements, T::default());
        Ok(values)
    }

    fn read_part(
        &self,
        array: usize,
        chunk: u64,
        begin: usize,
        to: &mut [u8],
    ) -> Result<(), ReadError> {
        let number = self.layout.number(array, chunk);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match last.take() {
            Some((known, bytes)) if known == number => bytes,
            other => {
                let range = self.layout.chunk_range(array, chunk);
                let mut bytes = other.map_or_else(Vec::new, |(_, bytes)| bytes);
                bytes.resize((range.end - range.start) as usize, 0);
                self.read_chunk(array, chunk, &mut bytes)?;
                bytes
            }
        };
        to.copy_from_slice(&bytes[begin..begin + to.len()]);
        *last = Some((number, bytes));
        Ok(())
    }

    /// Reads a whole chunk and proves it.
    fn read_chunk(&self, array: usize, chunk: u64, to: &mut [u8]) -> Result<(), ReadError> {
        let at = self.layout.array_at(array) + chunk * CHUNK_BYTES;
        let result = match self.disk.read_exact_at(&self.file, &self.path, at, to) {
            Ok(())
                if self.digests[self.layout.number(array, chunk)]
                    == *blake3::hash(to).as_bytes() =>
            {
                return Ok(());
            }
            Ok(()) => Trouble::Fault(Fault::DataDigest { at }),
            Err(error) => trouble(&self.file, self.layout.file_bytes, error),
        };
        Err(told(&self.disk, &self.file, &self.path, &self.info.key, result))
    }

    /// Notes that it was used. That this may fail, on a read-only disk for one, only makes it seem
    /// older than it is.
    pub(crate) fn touch(&self) {
        let _ = self.disk.touch(&self.file, &self.path);
    }
}

/// There is no file, or something else stands where its folder should be.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A failed read: a fault of the file if it has become too short, else of the system.
fn trouble(file: &File, expected: u64, error: io::Error) -> Trouble {
    match file.metadata() {
        Ok(found) if found.len() < expected => {
            Trouble::Fault(Fault::Length { found: found.len(), expected })
        }
        _ => Trouble::System(error),
    }
}

/// Reads what comes before the data, and proves it.
pub(crate) fn prefix(
    disk: &Disk,
    file: &File,
    path: &Path,
    key: &Key,
) -> Result<(EntryInfo, Layout, Vec<[u8; 32]>), Trouble> {
    let metadata = file.metadata().map_err(Trouble::System)?;
    let found = metadata.len();
    let read = |at: u64, bytes: &mut [u8]| {
        let needed = at + bytes.len() as u64;
        if found < needed {
            return Err(Trouble::Fault(Fault::HeaderTruncated { found, needed }));
        }
        disk.read_exact_at(file, path, at, bytes).map_err(|error| trouble(file, needed, error))
    };
    let mut preamble = [0; PREAMBLE_BYTES];
    read(0, &mut preamble)?;
    let preamble = Preamble::read(preamble, key)?;
    // At most 1 MiB, as was just checked.
    let header_bytes = preamble.header_bytes() as usize;
    let mut rest = vec![0; header_bytes];
    read(PREAMBLE_BYTES as u64, &mut rest)?;
    let (header, created) = entry::decode(&rest)?;
    let layout = Layout::new(&header, header_bytes as u64)?;
    if layout.file_bytes != found {
        return Err(Fault::Length { found, expected: layout.file_bytes }.into());
    }
    // The digests are part of a file that has this very length.
    rest.resize(header_bytes + 32 * layout.chunks as usize, 0);
    read((PREAMBLE_BYTES + header_bytes) as u64, &mut rest[header_bytes..])?;
    preamble.prove(&rest)?;
    let digests = rest[header_bytes..].as_chunks().0.to_vec();
    let last_used = metadata.modified().map_err(Trouble::System)?;
    Ok((EntryInfo { key: *key, header, bytes: found, created, last_used }, layout, digests))
}

/// The error for a caller. What is damaged is removed first, so that nobody meets it again.
fn told(disk: &Disk, file: &File, path: &Path, key: &Key, trouble: Trouble) -> ReadError {
    match trouble {
        Trouble::System(source) => {
            SystemError { action: "read an entry", path: path.to_owned(), source }.into()
        }
        Trouble::Fault(fault) => {
            // Another process may have replaced it by a sound one already.
            let removed = !disk::is_named(file, path) || disk.remove_file(path).is_ok();
            ReadError::Damaged(Box::new(Damage {
                key: *key,
                path: path.to_owned(),
                fault,
                removed,
            }))
        }
    }
}
