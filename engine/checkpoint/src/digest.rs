//! sha256 of input files: taken from the hub cache's names where they are, otherwise computed once
//! and remembered by path, size, time and inode.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mixdown_diagnostics::Diagnostic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::index::{Identity, Shard};
use crate::source::{ByteSource, FilePool};

/// The sha256 of a file; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileDigest([u8; 32]);

impl FileDigest {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileDigest({self})")
    }
}

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotADigest;

impl FromStr for FileDigest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotADigest),
        };
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(NotADigest);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

/// Digests of files, remembered in a folder from one run to the next.
///
/// Several processes may use one folder. Remembering is a convenience: when the folder cannot be
/// read or written, or what it holds is damaged, digests are computed again.
#[derive(Debug)]
pub struct Digests {
    folder: PathBuf,
    known: Mutex<Option<HashMap<Key, FileDigest>>>,
}

/// File that holds the digests, in their folder.
const STORE: &str = "digests.json";
/// Version of that file's form; another is ignored.
const VERSION: u32 = 1;
/// Digests that are kept; the oldest leave first. About 300 bytes each.
const MOST: usize = 20_000;
/// Largest store that is read.
const LARGEST: u64 = 64 << 20;
/// A file changed so recently may change again without a new time: file systems count in steps of
/// up to two seconds (FAT).
const SETTLED: Duration = Duration::from_secs(2);
/// Bytes read at once.
const STEP: usize = 1 << 20;

impl Digests {
    /// Digests remembered in `folder`, which is made when there is something to remember.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), known: Mutex::default() }
    }

    /// The digest, if it is known without reading the file.
    pub fn known_sha256(&self, shard: &Shard) -> Option<FileDigest> {
        if let Some(digest) = from_blob_name(&shard.path) {
            return Some(digest);
        }
        let key = Key::of(shard)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| self.load().into_iter().collect()).get(&key).copied()
    }

    /// The digest, by reading the file if it is not known. `progress` is told the bytes read so far.
    ///
    /// **Errors.** When the file cannot be read, or is not the one whose header was read.
    pub fn sha256(
        &self,
        shard: &Shard,
        progress: &mut dyn FnMut(u64),
    ) -> Result<FileDigest, Box<Diagnostic>> {
        if let Some(digest) = self.known_sha256(shard) {
            return Ok(digest);
        }
        let source = FilePool::new(1).source(shard);
        let digest = of_source(&source, progress).map_err(|error| error.diagnostic())?;
        self.remember(shard, digest);
        Ok(digest)
    }

    fn remember(&self, shard: &Shard, digest: FileDigest) {
        let Some(key) = Key::of(shard).filter(|_| is_settled(&shard.identity)) else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_default().insert(key.clone(), digest);
        // Failure costs a second reading another day, nothing else.
        let _ = self.add_to_store(key, digest);
    }

    /// Adds one digest under a lock, so that what other processes added meanwhile stays.
    fn add_to_store(&self, key: Key, digest: FileDigest) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let lock = File::create(self.folder.join("digests.lock"))?;
        lock.lock()?;
        let mut files = self.load();
        files.retain(|(known, _)| known.path != key.path);
        files.push((key, digest));
        files.drain(..files.len().saturating_sub(MOST));
        let files = files
            .into_iter()
            .map(|(key, digest)| Line { key, sha256: digest.to_string() })
            .collect();
        let bytes = serde_json::to_vec(&Store { version: VERSION, files })?;
        let temporary = self.folder.join(format!("digests.{}.tmp", std::process::id()));
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(temporary, self.folder.join(STORE))
        // The lock ends with its file.
    }

    /// What the store holds, oldest first; nothing if it is damaged.
    fn load(&self) -> Vec<(Key, FileDigest)> {
        let path = self.folder.join(STORE);
        let small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= LARGEST);
        let Some(bytes) = small.then(|| fs::read(&path).ok()).flatten() else {
            return Vec::new();
        };
        match serde_json::from_slice::<Store>(&bytes) {
            Ok(store) if store.version == VERSION => store
                .files
                .into_iter()
                .filter_map(|line| Some((line.key, line.sha256.parse().ok()?)))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// What a file must agree in to have the remembered digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    path: String,
    size: u64,
    modified_ns: i64,
    inode: u64,
    device: u64,
}

impl Key {
    fn of(shard: &Shard) -> Option<Self> {
        let path = fs::canonicalize(&shard.path).ok()?.into_os_string().into_string().ok()?;
        let Identity { size, modified_ns, inode, device } = shard.identity;
        Some(Self { path, size, modified_ns: modified_ns.try_into().ok()?, inode, device })
    }
}

#[derive(Serialize, Deserialize)]
struct Store {
    version: u32,
    files: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    sha256: String,
}

/// The digest in the name of a blob of the hub's cache that `path` is a link to. The hub names
/// large files by their sha256, and the client checks it when it fetches them.
fn from_blob_name(path: &Path) -> Option<FileDigest> {
    if !fs::symlink_metadata(path).ok()?.is_symlink() {
        return None;
    }
    let blob = fs::canonicalize(path).ok()?;
    let folder = blob.parent()?.file_name()?;
    if folder != "blobs" {
        return None;
    }
    blob.file_name()?.to_str()?.parse().ok()
}

fn is_settled(identity: &Identity) -> bool {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return false };
    let age = i128::try_from(now.as_nanos()).unwrap_or_default() - identity.modified_ns;
    age > SETTLED.as_nanos() as i128
}

/// Reads all bytes and digests them.
pub(crate) fn of_source(
    source: &dyn ByteSource,
    progress: &mut dyn FnMut(u64),
) -> Result<FileDigest, crate::source::ReadError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; STEP];
    let mut done = 0;
    while done < source.len() {
        let step = (source.len() - done).min(STEP as u64);
        source.will_need(done + step, (source.len() - done - step).min(STEP as u64));
        let bytes = &mut buffer[..step as usize];
        source.read_exact_at(done, bytes)?;
        hasher.update(&*bytes);
        done += step;
        progress(done);
    }
    Ok(FileDigest(hasher.finalize().into()))
}
