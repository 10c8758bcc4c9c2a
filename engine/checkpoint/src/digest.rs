//! sha256 of input files: taken from the hub cache's names where they are, otherwise computed once
//! and remembered by path, size, times, inode and a sample of the content.

mod content;

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mixdown_diagnostics::Diagnostic;
use mixdown_files::stored::create_private_folders;
use mixdown_files::{Fresh, own_file, read_limited};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::index::{Identity, Shard};
use crate::source::{ByteSource, FilePool};

pub use content::content_sha256;

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
    /// The user's own cache of the hub, whose names of blobs are believed.
    hub: Option<PathBuf>,
    known: Mutex<Option<HashMap<Key, FileDigest>>>,
    /// Whether the store's lock was held for so long that it is not waited for again.
    is_stuck: AtomicBool,
}

/// File that holds the digests, in their folder.
const STORE: &str = "digests.json";
/// Version of that file's form; another is ignored.
const VERSION: u32 = 2;
/// Digests that are kept; the oldest leave first. About 300 bytes each.
const MOST: usize = 20_000;
/// Largest store that is read.
const LARGEST: u64 = 64 << 20;
/// A file changed so recently may change again without a new time: file systems count in steps of
/// up to two seconds (FAT).
const SETTLED: Duration = Duration::from_secs(2);
/// How long the store's lock is waited for, and how often it is asked for.
const PATIENCE: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_millis(20);
/// Bytes read at once.
const STEP: usize = 1 << 20;
/// Stretches of a file in its sample, and the bytes of each: 64 KiB of reads, a fraction of a millisecond,
/// with the header and the end of the file among them.
const SAMPLES: u64 = 16;
const SAMPLE_BYTES: u64 = 4096;

impl Digests {
    /// Digests remembered in `folder`, which is made when there is something to remember.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { folder, hub: None, known: Mutex::default(), is_stuck: AtomicBool::new(false) }
    }

    /// The same, which takes blobs in this cache of the hub at their names. Whoever made another folder of
    /// that look could name a file by the digest of any other.
    pub fn with_hub(self, cache: &Path) -> Self {
        Self { hub: cache.canonicalize().ok(), ..self }
    }

    /// The digest, if it is known without reading the file.
    pub fn known_sha256(&self, shard: &Shard) -> Option<FileDigest> {
        if let Some(digest) = self.digest_of_blob(&shard.path) {
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
        self.computed_sha256(shard, progress)
    }

    /// The digest, by reading the file whatever is known of it. `progress` is told the bytes read so far.
    ///
    /// **Errors.** When the file cannot be read, or is not the one whose header was read.
    pub fn computed_sha256(
        &self,
        shard: &Shard,
        progress: &mut dyn FnMut(u64),
    ) -> Result<FileDigest, Box<Diagnostic>> {
        let source = FilePool::new(1).source(shard);
        let digest = of_source(&source, progress).map_err(|error| error.diagnostic())?;
        self.remember(shard, digest);
        Ok(digest)
    }

    /// The digest in the name of a blob of the hub's cache that `path` is a link to. The hub names
    /// large files by their sha256, and the client checks it when it fetches them.
    fn digest_of_blob(&self, path: &Path) -> Option<FileDigest> {
        let cache = self.hub.as_deref()?;
        if !fs::symlink_metadata(path).ok()?.is_symlink() {
            return None;
        }
        let blob = fs::canonicalize(path).ok()?;
        let mut below = blob.strip_prefix(cache).ok()?.iter();
        let (model, blobs, name) = (below.next()?.to_str()?, below.next()?, below.next()?);
        let is_blob = model.starts_with("models--") && blobs == "blobs" && below.next().is_none();
        name.to_str().filter(|_| is_blob)?.parse().ok()
    }

    fn remember(&self, shard: &Shard, digest: FileDigest) {
        let Some(key) = Key::of(shard).filter(|_| is_settled(&shard.identity)) else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_default().insert(key.clone(), digest);
        drop(known);
        if self.is_stuck.load(Ordering::Relaxed) {
            return;
        }
        // Failure costs a second reading another day, nothing else. A lock that stays held is waited for once.
        if let Err(error) = self.add_to_store(key, digest)
            && error.kind() == io::ErrorKind::TimedOut
        {
            self.is_stuck.store(true, Ordering::Relaxed);
        }
    }

    /// Adds one digest under a lock, so that what other processes added meanwhile stays.
    fn add_to_store(&self, key: Key, digest: FileDigest) -> std::io::Result<()> {
        create_private_folders(&self.folder)?;
        let lock = self.folder.join("digests.lock");
        let lock = own_file().write(true).create(true).truncate(false).open(lock)?;
        take(&lock)?;
        let mut files = self.load();
        files.retain(|(known, _)| known.path != key.path);
        files.push((key, digest));
        files.drain(..files.len().saturating_sub(MOST));
        let files = files
            .into_iter()
            .map(|(key, digest)| Line { key, sha256: digest.to_string() })
            .collect();
        let bytes = serde_json::to_vec(&Store { version: VERSION, files })?;
        let store = self.folder.join(STORE);
        let fresh = Fresh::beside(&store)?;
        let mut file = fresh.file();
        file.write_all(&bytes)?;
        file.sync_data()?;
        fresh.place(&store)
        // The lock ends with its file.
    }

    /// What the store holds, oldest first; nothing if it is damaged.
    fn load(&self) -> Vec<(Key, FileDigest)> {
        let Ok(bytes) = read_limited(&self.folder.join(STORE), LARGEST) else {
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

/// Takes a lock that others hold for moments. Who holds it longer was stopped, or has put it there to be
/// waited for.
fn take(lock: &File) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(WAIT),
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
            // A file system without locks: what is remembered at once may be lost, and is computed again.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                return Ok(());
            }
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => return Ok(()),
        }
    }
}

/// What a file must agree in to have the remembered digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    path: String,
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
    inode: u64,
    device: u64,
    /// Digest of stretches of the content: times and inode can be put back, and some file systems keep
    /// no time of change.
    sample: String,
}

impl Key {
    fn of(shard: &Shard) -> Option<Self> {
        let path = fs::canonicalize(&shard.path).ok()?.into_os_string().into_string().ok()?;
        let Identity { size, modified_ns, changed_ns, inode, device } = shard.identity;
        let (modified_ns, changed_ns) = (modified_ns.try_into().ok()?, changed_ns.try_into().ok()?);
        let sample = sample(&FilePool::new(1).source(shard))?;
        Some(Self { path, size, modified_ns, changed_ns, inode, device, sample })
    }
}

/// The digest of evenly spaced stretches, of all bytes where the file is small; nothing if it cannot be read.
fn sample(source: &dyn ByteSource) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = [0; SAMPLE_BYTES as usize];
    let length = source.len();
    let last = length.saturating_sub(SAMPLE_BYTES);
    let spacing = last.div_ceil(SAMPLES - 1).max(SAMPLE_BYTES);
    let mut at = 0;
    while at < length {
        let bytes = &mut buffer[..(length - at).min(SAMPLE_BYTES) as usize];
        source.read_exact_at(at, bytes).ok()?;
        hasher.update(bytes);
        at = match at + spacing {
            next if at < last && next > last => last,
            next => next,
        };
    }
    Some(hasher.finalize().to_hex().to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    struct Case {
        folder: tempfile::TempDir,
    }

    impl Case {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn store(&self) -> PathBuf {
            self.folder.path().join("cache")
        }

        /// A file that was changed long ago.
        fn file(&self, name: &str, bytes: &[u8]) -> Shard {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
            shard(&path)
        }

        fn digest(&self, shard: &Shard) -> String {
            Digests::new(self.store()).sha256(shard, &mut |_| {}).unwrap().to_string()
        }

        fn known(&self, shard: &Shard) -> Option<String> {
            Digests::new(self.store()).known_sha256(shard).map(|digest| digest.to_string())
        }
    }

    fn shard(path: &Path) -> Shard {
        let identity = crate::source::identity(&fs::metadata(path).unwrap());
        Shard { path: path.to_owned(), shown: "x".to_owned(), size: identity.size, identity }
    }

    /// The examples of FIPS 180-4.
    #[test]
    fn digests_are_sha256() {
        let case = Case::new();
        assert_eq!(case.digest(&case.file("abc", b"abc")), ABC);
        assert_eq!(case.digest(&case.file("empty", b"")), EMPTY);
        let million = case.file("million", &[b'a'; 1_000_000]);
        let wanted = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(case.digest(&million), wanted);
    }

    #[test]
    fn a_digest_is_remembered_by_another_process() {
        let case = Case::new();
        let (a, b) = (case.file("a", b"abc"), case.file("b", b""));
        assert_eq!(case.known(&a), None);
        case.digest(&a);
        case.digest(&b);
        assert_eq!(case.known(&a).as_deref(), Some(ABC));
        assert_eq!(case.known(&b).as_deref(), Some(EMPTY));
    }

    /// A digest of what a file was would make a manifest that lies.
    #[test]
    fn a_file_that_changed_is_not_known() {
        let case = Case::new();
        let file = case.file("a", b"abc");
        case.digest(&file);
        let changes: [fn(&mut Identity); 5] = [
            |identity| identity.modified_ns += 1,
            |identity| identity.changed_ns += 1,
            |identity| identity.size += 1,
            |identity| identity.inode += 1,
            |identity| identity.device += 1,
        ];
        for change in changes {
            let mut other = file.clone();
            change(&mut other.identity);
            assert_eq!(case.known(&other), None);
        }
    }

    /// `rsync --inplace --times` and `tar` write such files: other bytes under the same path, size, time and
    /// inode.
    #[test]
    fn a_file_rewritten_with_its_time_kept_is_not_known() {
        let case = Case::new();
        let before = case.file("a", &[1; 100_000]);
        case.digest(&before);
        assert!(case.known(&before).is_some());
        let mut bytes = [1; 100_000];
        bytes[50_000] = 2;
        let after = case.file("a", &bytes);
        assert_eq!((before.size, before.identity.inode), (after.size, after.identity.inode));
        assert_eq!(before.identity.modified_ns, after.identity.modified_ns);
        assert_eq!(case.known(&after), None);
    }

    /// Where a file system has no time of change, the sample tells; it covers small files whole, and the
    /// ends of large ones.
    #[test]
    fn a_sample_tells_other_content() {
        let sampled = |bytes: &[u8]| sample(&crate::source::MemorySource::new(bytes)).unwrap();
        for length in [1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1_000_000] {
            let zeros = vec![0; length];
            let step = if length <= 65_536 { 977 } else { length };
            for place in (0..length).step_by(step).chain([length - 1]) {
                let mut other = zeros.clone();
                other[place] = 1;
                assert_ne!(sampled(&zeros), sampled(&other), "byte {place} of {length}");
            }
        }
        assert_eq!(sampled(b""), sampled(b""));
    }

    /// Such a file could change again within the same tick of its file system's clock.
    #[test]
    fn a_file_changed_just_now_is_not_remembered() {
        let case = Case::new();
        let path = case.folder.path().join("new");
        fs::write(&path, "abc").unwrap();
        let ahead = SystemTime::now() + Duration::from_secs(3600);
        File::options().write(true).open(&path).unwrap().set_modified(ahead).unwrap();
        assert_eq!(case.digest(&shard(&path)), ABC);
        assert_eq!(case.known(&shard(&path)), None);
    }

    #[test]
    fn a_damaged_store_is_ignored_and_replaced() {
        let case = Case::new();
        let file = case.file("a", b"abc");
        fs::create_dir_all(case.store()).unwrap();
        for damaged in
            ["", "{", "[]", r#"{"version":1,"files":[]}"#, r#"{"version":2,"files":[{}]}"#]
        {
            fs::write(case.store().join(STORE), damaged).unwrap();
            assert_eq!(case.known(&file), None, "{damaged}");
            assert_eq!(case.digest(&file), ABC);
            assert_eq!(case.known(&file).as_deref(), Some(ABC));
        }
        // A store that cannot be written costs nothing but time.
        fs::remove_dir_all(case.store()).unwrap();
        fs::write(case.store(), "a file where the folder should be").unwrap();
        assert_eq!(case.digest(&file), ABC);
    }

    /// A process that was stopped while it held the lock, or whoever holds it on purpose, stops no merge.
    #[test]
    fn a_lock_that_is_held_is_not_waited_for_without_end() {
        let case = Case::new();
        let file = case.file("a", b"abc");
        fs::create_dir_all(case.store()).unwrap();
        let held = File::create(case.store().join("digests.lock")).unwrap();
        held.lock().unwrap();
        assert_eq!(case.digest(&file), ABC);
        assert_eq!(case.known(&file), None);
        drop(held);
        case.digest(&file);
        assert!(case.known(&file).is_some());
    }

    #[test]
    fn planted_links_and_pipes_are_not_followed() {
        let case = Case::new();
        let file = case.file("a", b"abc");
        fs::create_dir_all(case.store()).unwrap();
        let precious = case.folder.path().join("precious");
        fs::write(&precious, "data").unwrap();
        for name in ["digests.lock", &format!("digests.{}.tmp", std::process::id())] {
            std::os::unix::fs::symlink(&precious, case.store().join(name)).unwrap();
        }
        let pipe = case.store().join(STORE);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(case.digest(&file), ABC);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "data");
    }

    #[test]
    fn processes_that_remember_at_once_lose_nothing() {
        let case = Case::new();
        let files: Vec<Shard> =
            (0..8).map(|number| case.file(&number.to_string(), &[number])).collect();
        std::thread::scope(|scope| {
            for file in &files {
                scope.spawn(|| case.digest(file));
            }
        });
        for file in &files {
            assert!(case.known(file).is_some());
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_hub_s_blob_names_are_digests() {
        let case = Case::new();
        let link = |name: &str, target: &str| {
            let path = case.folder.path().join(name);
            std::os::unix::fs::symlink(case.folder.path().join(target), &path).unwrap();
            shard(&path)
        };
        let known = |shard: &Shard| {
            let digests = Digests::new(case.store()).with_hub(&case.folder.path().join("hub"));
            digests.known_sha256(shard).map(|digest| digest.to_string())
        };
        // The name is taken at its word; the content here is another on purpose.
        let blob = format!("hub/models--a--b/blobs/{ABC}");
        case.file(&blob, b"not abc");
        assert_eq!(known(&link("a", &blob)).as_deref(), Some(ABC));
        assert_eq!(case.known(&link("a2", &blob)), None);
        // Small files are named by a git object, which is no sha256 of the file. Folders that look like the
        // cache, and others in it, name their files as they like.
        let small = "hub/models--a--b/blobs/0123456789abcdef0123456789abcdef01234567";
        let others = ["blobs", "models--a--b/blobs", "hub/blobs", "hub/models--a--b/other"];
        let others = others.map(|folder| format!("{folder}/{ABC}"));
        for (number, other) in others.iter().map(String::as_str).chain([small]).enumerate() {
            case.file(other, b"x");
            assert_eq!(known(&link(&format!("b{number}"), other)), None, "{other}");
        }
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_has_no_digest() {
        let case = Case::new();
        let mut file = case.file("a", b"abc");
        file.identity.modified_ns += 1;
        let fault = Digests::new(case.store()).sha256(&file, &mut |_| {}).unwrap_err();
        assert_eq!(fault.code, mixdown_diagnostics::codes::FILE_CHANGED);
    }

    #[test]
    fn only_digests_are_read_as_digests() {
        assert_eq!(ABC.parse::<FileDigest>().unwrap().to_string(), ABC);
        for other in ["", "ab", &ABC.to_uppercase(), &ABC[1..], &format!("{}g", &ABC[1..])] {
            assert_eq!(other.parse::<FileDigest>(), Err(NotADigest));
        }
        assert!("é".repeat(32).parse::<FileDigest>().is_err());
    }
}
