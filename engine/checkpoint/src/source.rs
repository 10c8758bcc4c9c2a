//! Positioned reads from files and memory. A file that changes while it is in use is noticed, and
//! the number of files open at once is bounded, however many shards a merge has.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_files::open_regular;

use crate::hub::far;
use crate::index::{Identity, Shard};
use crate::shown::{bytes_text, io_text};

/// Bytes that can be read at any position, from any thread.
pub trait ByteSource: Send + Sync {
    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// **Errors.** When fewer bytes are there, when the system fails, and when the source is not
    /// what it was; `buffer` then holds nothing of use.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// Says that these bytes will be read soon. Never fails and never blocks on the data.
    fn will_need(&self, offset: u64, len: u64);

    /// Count of bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file behind it, where there is one, so that an output can share blocks with it. Its bytes
    /// are still to be read through the source, which notices changes.
    fn file(&self) -> Option<Arc<File>> {
        None
    }
}

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source ends before the bytes asked for.
    #[error("`{shown}` ends at byte {end}, reading from {offset} to {wanted}")]
    Short {
        /// The source, as messages show it.
        shown: String,
        /// First byte asked for.
        offset: u64,
        /// One past the last byte asked for.
        wanted: u64,
        /// Where it ends.
        end: u64,
    },
    /// The system refused.
    #[error("`{shown}` cannot be read at byte {offset}: {error}")]
    Io {
        /// The source, as messages show it.
        shown: String,
        /// Where reading failed.
        offset: u64,
        /// What the system said.
        error: io::Error,
    },
    /// The file is another one than at the start, or was written to.
    #[error("`{shown}` changed while it was in use")]
    Changed {
        /// The source, as messages show it.
        shown: String,
        /// Its state when its header was read.
        before: Box<Identity>,
        /// Its state now.
        now: Box<Identity>,
    },
    /// A server does not give the bytes, or others than before.
    #[error("{}", .0.headline)]
    Remote(Box<Diagnostic>),
    /// A part of a packed tensor holds a value that cannot be.
    #[error("{}", .0.headline)]
    Packed(Box<Diagnostic>),
}

impl ReadError {
    /// The message for the user. The caller adds which tensor was being read.
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            Self::Short { shown, offset, wanted, end } => Diagnostic::error(
                codes::SHARD_TRUNCATED,
                "a file ends before the bytes it should hold",
            )
            .at_byte(shown, *end)
            .fact("read", format!("{} from byte {offset}", bytes_text(wanted - offset)))
            .fact("file", bytes_text(*end))
            .help("fetch this file again"),
            Self::Io { shown, offset, error } => Diagnostic::error(
                codes::UNREADABLE,
                format!("a file cannot be read: {}", io_text(error)),
            )
            .at_byte(shown, *offset),
            Self::Packed(diagnostic) | Self::Remote(diagnostic) => (**diagnostic).clone(),
            Self::Changed { shown, before, now } => {
                let mut diagnostic =
                    Diagnostic::error(codes::FILE_CHANGED, "a file changed while it was in use")
                        .in_file(shown);
                if before.size != now.size {
                    diagnostic = diagnostic
                        .fact("at the start", bytes_text(before.size))
                        .fact("now", bytes_text(now.size));
                } else if (before.inode, before.device) != (now.inode, now.device) {
                    diagnostic = diagnostic.note("another file has taken its place");
                } else {
                    diagnostic = diagnostic.note("it was written to");
                }
                diagnostic.help("leave the inputs alone while they are merged, and start again")
            }
        }
    }
}

/// Bytes in memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySource(Arc<[u8]>);

impl MemorySource {
    /// These bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }
}

impl ByteSource for MemorySource {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let wanted = offset.saturating_add(buffer.len() as u64);
        if wanted > self.len() {
            let shown = "memory".to_owned();
            return Err(ReadError::Short { shown, offset, wanted, end: self.len() });
        }
        let start = offset as usize;
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }

    fn will_need(&self, _offset: u64, _len: u64) {}

    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Keeps the files that were read last open, up to a limit.
#[derive(Debug)]
pub struct FilePool {
    limit: usize,
    /// Number of the next source.
    next: AtomicU64,
    /// Open files by the number of their source. The one used last stands at the end.
    open: Mutex<VecDeque<(u64, Arc<File>)>>,
}

impl FilePool {
    /// Files open at once when nothing else is said: far below the usual limit of 1024 for a
    /// process, and above the number of models that one merge reads side by side.
    pub const DEFAULT_LIMIT: usize = 128;

    /// A pool of at most `limit` open files, besides those that a read is using at that moment.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), next: AtomicU64::new(0), open: Mutex::default() })
    }

    /// The bytes of a shard. Nothing is opened yet.
    pub fn source(self: &Arc<Self>, shard: &Shard) -> FileSource {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let far = Far(far::of(&shard.path).map_err(|error| error.to_string()));
        FileSource { pool: Arc::clone(self), shard: shard.clone(), number, far }
    }

    fn get(&self, number: u64, shard: &Shard) -> Result<Arc<File>, ReadError> {
        if let Some(file) = self.take_open(number) {
            return Ok(file);
        }
        // Opened outside the lock: a slow file system must not stop reads of other files.
        let io = |error| ReadError::Io { shown: shard.shown.clone(), offset: 0, error };
        let (file, metadata) = open_regular(&shard.path).map_err(io)?;
        check_unchanged(shard, &metadata)?;
        let file = Arc::new(file);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back((number, Arc::clone(&file)));
        while open.len() > self.limit {
            open.pop_front();
        }
        Ok(file)
    }

    fn take_open(&self, number: u64) -> Option<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let position = open.iter().rposition(|(known, _)| *known == number)?;
        let entry = open.remove(position)?;
        let file = Arc::clone(&entry.1);
        open.push_back(entry);
        Some(file)
    }
}

/// The bytes of a shard's file, opened when first read.
#[derive(Clone, Debug)]
pub struct FileSource {
    pool: Arc<FilePool>,
    shard: Shard,
    /// Its number in the pool; numbers are compared on every read, paths would be slow.
    number: u64,
    far: Far,
}

/// The remote file that a shard's own stands in for, if it does; or why that is not known.
#[derive(Clone)]
struct Far(Result<Option<Arc<dyn ByteSource>>, String>);

impl std::fmt::Debug for Far {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Far({})", !matches!(self.0, Ok(None)))
    }
}

impl FileSource {
    /// The shard that is read.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }
}

impl ByteSource for FileSource {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let wanted = offset.saturating_add(buffer.len() as u64);
        let shown = || self.shard.shown.clone();
        if wanted > self.shard.size {
            return Err(ReadError::Short { shown: shown(), offset, wanted, end: self.shard.size });
        }
        match &self.far.0 {
            Ok(None) => {}
            Ok(Some(far)) => return far.read_exact_at(offset, buffer),
            Err(why) => {
                let error = io::Error::other(why.clone());
                return Err(ReadError::Io { shown: shown(), offset, error });
            }
        }
        let file = self.pool.get(self.number, &self.shard)?;
        let outcome = fill(&file, offset, buffer);
        // After the read, so that a change made before or during it cannot pass.
        let metadata =
            file.metadata().map_err(|error| ReadError::Io { shown: shown(), offset, error })?;
        check_unchanged(&self.shard, &metadata)?;
        match outcome {
            Ok(()) => Ok(()),
            Err((at, Some(error))) => Err(ReadError::Io { shown: shown(), offset: at, error }),
            Err((end, None)) => Err(ReadError::Short { shown: shown(), offset, wanted, end }),
        }
    }

    fn will_need(&self, offset: u64, len: u64) {
        // Only an advice: what is wrong with the file is said by the read that follows.
        if let Ok(Some(far)) = &self.far.0 {
            return far.will_need(offset, len);
        }
        if let Ok(file) = self.pool.get(self.number, &self.shard) {
            advise(&file, offset, len);
        }
    }

    fn len(&self) -> u64 {
        self.shard.size
    }

    fn file(&self) -> Option<Arc<File>> {
        if !matches!(self.far.0, Ok(None)) {
            return None;
        }
        self.pool.get(self.number, &self.shard).ok()
    }
}

fn check_unchanged(shard: &Shard, metadata: &Metadata) -> Result<(), ReadError> {
    let now = identity(metadata);
    // A link or rights that change, as when an open file is replaced, leave its bytes as they are.
    if now == (Identity { changed_ns: now.changed_ns, ..shard.identity }) {
        return Ok(());
    }
    Err(ReadError::Changed {
        shown: shard.shown.clone(),
        before: Box::new(shard.identity),
        now: Box::new(now),
    })
}

/// What tells this state of a file from another.
#[cfg(unix)]
pub(crate) fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity {
        size: metadata.len(),
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
            + i128::from(metadata.mtime_nsec()),
        changed_ns: i128::from(metadata.ctime()) * 1_000_000_000
            + i128::from(metadata.ctime_nsec()),
        inode: metadata.ino(),
        device: metadata.dev(),
    }
}

/// What tells this state of a file from another.
#[cfg(not(unix))]
pub(crate) fn identity(metadata: &Metadata) -> Identity {
    let since = metadata.modified().ok().and_then(|time| {
        time.duration_since(std::time::UNIX_EPOCH).ok().map(|passed| passed.as_nanos() as i128)
    });
    Identity { size: metadata.len(), modified_ns: since.unwrap_or_default(), ..Identity::default() }
}

/// Reads until `buffer` is full; an error carries the byte that was reached.
pub(crate) fn fill(
    file: &File,
    mut offset: u64,
    mut buffer: &mut [u8],
) -> Result<(), (u64, Option<io::Error>)> {
    while !buffer.is_empty() {
        match read_at(file, buffer, offset) {
            Ok(0) => return Err((offset, None)),
            Ok(count) => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((offset, Some(error))),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn advise(file: &File, offset: u64, len: u64) {
    use rustix::fs::{Advice, fadvise};
    // A length of 0 would mean the rest of the file.
    if let Some(len) = std::num::NonZeroU64::new(len) {
        let _ = fadvise(file, offset, Some(len), Advice::WillNeed);
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn advise(_file: &File, _offset: u64, _len: u64) {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shard(path: &Path) -> Shard {
        let metadata = std::fs::metadata(path).unwrap();
        let identity = identity(&metadata);
        let shown = "x.safetensors".to_owned();
        Shard { path: path.to_owned(), shown, size: metadata.len(), identity }
    }

    /// One suite for all sources: what lies where, and where each ends.
    fn check(source: &dyn ByteSource) {
        assert_eq!(source.len(), 10);
        for (offset, length) in [(0, 10), (0, 1), (9, 1), (3, 4), (10, 0), (0, 0)] {
            let mut buffer = vec![0xff; length];
            source.will_need(offset, length as u64);
            source.read_exact_at(offset, &mut buffer).unwrap();
            let wanted: Vec<u8> = (0..10).skip(offset as usize).take(length).collect();
            assert_eq!(buffer, wanted);
        }
        for (offset, length) in [(0, 11), (10, 1), (11, 0), (u64::MAX, 1), (u64::MAX - 1, 3)] {
            let error = source.read_exact_at(offset, &mut vec![0; length]).unwrap_err();
            assert!(matches!(error, ReadError::Short { end: 10, .. }), "{error:?}");
        }
    }

    #[test]
    fn memory_and_files_are_read_alike() {
        let bytes: Vec<u8> = (0..10).collect();
        check(&MemorySource::new(bytes.clone()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        check(&FilePool::new(1).source(&shard(&path)));
    }

    /// A merge must not mix two states of an input.
    #[test]
    fn a_file_that_changes_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let other = folder.path().join("y");
        let changes: [(&str, &dyn Fn()); 4] = [
            ("longer", &|| std::fs::write(&path, [0; 11]).unwrap()),
            ("shorter", &|| std::fs::write(&path, [0; 3]).unwrap()),
            ("newer", &|| {
                let file = File::options().write(true).open(&path).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }),
            ("another", &|| {
                std::fs::write(&other, [0; 10]).unwrap();
                std::fs::rename(&other, &path).unwrap();
            }),
        ];
        for (what, change) in changes {
            for is_open in [false, true] {
                std::fs::write(&path, [0; 10]).unwrap();
                let source = FilePool::new(1).source(&shard(&path));
                let mut buffer = [0; 4];
                if is_open {
                    source.read_exact_at(0, &mut buffer).unwrap();
                }
                change();
                let outcome = source.read_exact_at(0, &mut buffer);
                if what == "another" && is_open {
                    // The open file is still the old one, with its old bytes.
                    assert!(outcome.is_ok());
                } else {
                    let error = outcome.unwrap_err();
                    assert!(matches!(error, ReadError::Changed { .. }), "{what}: {error:?}");
                    assert_eq!(error.diagnostic().code, codes::FILE_CHANGED);
                }
            }
        }
    }

    /// Eight models of 200 shards must not run out of descriptors.
    #[test]
    fn few_files_are_open_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pool = FilePool::new(3);
        let sources: Vec<FileSource> = (0..20u8)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                std::fs::write(&path, [number]).unwrap();
                pool.source(&shard(&path))
            })
            .collect();
        assert!(pool.open.lock().unwrap().is_empty());
        for _ in 0..2 {
            for (number, source) in sources.iter().enumerate() {
                let mut byte = [0];
                source.read_exact_at(0, &mut byte).unwrap();
                assert_eq!(byte[0] as usize, number);
                assert!(pool.open.lock().unwrap().len() <= 3);
            }
        }
        // The one used last stays open.
        let last: Vec<u64> = pool.open.lock().unwrap().iter().map(|entry| entry.0).collect();
        assert_eq!(last, [17, 18, 19]);
    }

    #[test]
    fn a_file_that_is_gone_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [0; 10]).unwrap();
        let source = FilePool::new(1).source(&shard(&path));
        std::fs::remove_file(&path).unwrap();
        source.will_need(0, 10);
        let error = source.read_exact_at(0, &mut [0]).unwrap_err().diagnostic();
        assert_eq!(error.code, codes::UNREADABLE);
        assert!(error.headline.starts_with("a file cannot be read: no such file"));
    }
}
