//! What was read of remote files, kept on this machine for later runs where the user gives it room: blocks of
//! files, each under the state of the file that it is of, so that no two states are ever mixed.
//!
//! ```text
//! remote/KEY/of        address, bytes and etag of a state of a file; KEY is their digest
//! remote/KEY/00000a    a block, with a digest at its end
//! ```
//!
//! Several processes may use it at once: blocks appear whole, and one that is gone is fetched again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

/// The name of the folder in mixdown's cache.
const FOLDER: &str = "remote";

/// The file that says which remote file a folder is of.
const NOTE: &str = "of";

const DIGEST_BYTES: usize = 32;

/// A block counts as used at the hour, so that reading it seldom writes.
const FRESH: Duration = Duration::from_secs(3600);

/// When the limit is passed, so many percent of it stay.
const KEPT_PERCENT: u64 = 90;

/// The blocks that are kept within a folder.
#[derive(Debug)]
pub(super) struct Kept {
    folder: PathBuf,
    most_bytes: u64,
    /// Bytes that are there, as far as this process knows.
    held: Mutex<Option<u64>>,
}

/// A state of a remote file, in the folder of its blocks.
#[derive(Clone, Debug)]
pub(super) struct KeptFile {
    kept: Arc<Kept>,
    key: String,
    note: Value,
}

/// All that are in use in this process: what they hold counts together.
static KEPT: Mutex<BTreeMap<PathBuf, Arc<Kept>>> = Mutex::new(BTreeMap::new());

impl Kept {
    /// The blocks within mixdown's cache folder, of which so many bytes may be there.
    pub fn of(cache: &Path, most_bytes: u64) -> Arc<Self> {
        let folder = cache.join(FOLDER);
        let fresh =
            || Arc::new(Self { folder: folder.clone(), most_bytes, held: Mutex::default() });
        let mut all = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(folder.clone()).or_insert_with(fresh);
        if known.most_bytes != most_bytes {
            *known = fresh();
        }
        Arc::clone(known)
    }

    /// The folder of a state of a file; none where the server does not name states.
    pub fn file(
        self: &Arc<Self>,
        address: &str,
        bytes: u64,
        etag: Option<&str>,
    ) -> Option<KeptFile> {
        // A weak name stands for several contents.
        let etag = etag.filter(|etag| !etag.is_empty() && !etag.starts_with("W/"))?;
        let key = blake3::hash(format!("{address}\n{bytes}\n{etag}").as_bytes()).to_hex();
        let note = json!({"address": address, "bytes": bytes, "etag": etag});
        Some(KeptFile { kept: Arc::clone(self), key: key[..32].to_owned(), note })
    }

    /// Counts what was added, and makes room where it is too much.
    fn count(&self, bytes: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all = match *held {
            Some(held) => held + bytes,
            None => blocks(&self.folder).iter().map(|block| block.bytes).sum(),
        };
        *held = Some(all);
        if all > self.most_bytes {
            let found = blocks(&self.folder);
            let room = self.most_bytes / 100 * KEPT_PERCENT;
            let removed = remove(&self.folder, &found, Some(room), None, false);
            *held = Some(found.iter().map(|block| block.bytes).sum::<u64>() - removed.bytes);
        }
    }
}

impl KeptFile {
    fn folder(&self) -> PathBuf {
        self.kept.folder.join(&self.key)
    }

    fn path(&self, block: u64) -> PathBuf {
        self.folder().join(format!("{block:06x}"))
    }

    fn digest(&self, block: u64, bytes: &[u8]) -> [u8; DIGEST_BYTES] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{}\n{block}\n", self.key).as_bytes()).update(bytes);
        *hasher.finalize().as_bytes()
    }

    /// A block of so many bytes, if it is there and undamaged.
    pub fn get(&self, block: u64, count: u64) -> Option<Vec<u8>> {
        let path = self.path(block);
        let mut bytes = fs::read(&path).ok()?;
        let content = bytes.len().checked_sub(DIGEST_BYTES)?;
        let digest = bytes.split_off(content);
        if content as u64 != count || digest != self.digest(block, &bytes) {
            let _ = fs::remove_file(&path);
            return None;
        }
        let is_old = |used: SystemTime| used.elapsed().is_ok_and(|since| since > FRESH);
        if fs::metadata(&path).and_then(|found| found.modified()).is_ok_and(is_old) {
            let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        }
        Some(bytes)
    }

    /// Keeps a block. What cannot be kept is fetched again.
    pub fn put(&self, block: u64, bytes: &[u8]) {
        if self.kept.most_bytes < (bytes.len() + DIGEST_BYTES) as u64 {
            return;
        }
        let content = [bytes, &self.digest(block, bytes)].concat();
        let folder = self.folder();
        let note = folder.join(NOTE);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        let noted = made.and_then(|()| match note.exists() {
            true => Ok(()),
            false => place(&note, self.note.to_string().as_bytes()),
        });
        if noted.and_then(|()| place(&self.path(block), &content)).is_ok() {
            self.kept.count(content.len() as u64);
        }
    }
}

/// Writes a file in one step.
fn place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let fresh = path.with_file_name(format!(".{}.{number}", std::process::id()));
    let written = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, path));
    written.inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// A block on the disk, or what a killed process left of one.
#[derive(Clone, Debug)]
struct Block {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// All blocks.
fn blocks(folder: &Path) -> Vec<Block> {
    let files = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for file in files(folder) {
        for entry in files(&file.path()) {
            let Ok(metadata) = entry.metadata() else { continue };
            if entry.file_name() != NOTE && metadata.is_file() {
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push(Block { path: entry.path(), bytes: metadata.len(), used });
            }
        }
    }
    found
}

/// A remote file of which blocks are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptState {
    /// Where it lies.
    pub address: String,
    /// Bytes of it that are kept.
    pub bytes: u64,
    /// Blocks that are kept.
    pub blocks: usize,
    /// When one was used last.
    pub last_used: SystemTime,
}

/// What is removed of what was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blocks.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The folder of what is kept of remote files, within mixdown's cache.
pub fn folder(cache: &Path) -> PathBuf {
    cache.join(FOLDER)
}

/// The files of which something is kept, the least recently used first.
pub fn list(cache: &Path) -> Vec<KeptState> {
    let mut files: BTreeMap<PathBuf, KeptState> = BTreeMap::new();
    for block in blocks(&folder(cache)) {
        let Some(parent) = block.path.parent() else { continue };
        let of = || {
            let note = fs::read(parent.join(NOTE)).ok()?;
            let note: Value = serde_json::from_slice(&note).ok()?;
            Some(note["address"].as_str()?.to_owned())
        };
        let file = files.entry(parent.to_owned()).or_insert_with(|| KeptState {
            address: of().unwrap_or_else(|| "not known".to_owned()),
            bytes: 0,
            blocks: 0,
            last_used: SystemTime::UNIX_EPOCH,
        });
        file.bytes += block.bytes;
        file.blocks += 1;
        file.last_used = file.last_used.max(block.used);
    }
    let mut files: Vec<KeptState> = files.into_values().collect();
    files.sort_by(|a, b| (a.last_used, &a.address).cmp(&(b.last_used, &b.address)));
    files
}

/// Bytes and last use of each block, for a limit that other things share.
pub fn uses(cache: &Path) -> Vec<(u64, SystemTime)> {
    blocks(&folder(cache)).into_iter().map(|block| (block.bytes, block.used)).collect()
}

/// Removes what was not used for longest until `most_bytes` are left, and what was not used for `most_age`;
/// only tells what would go if it `is_tried`.
pub fn prune(
    cache: &Path,
    most_bytes: Option<u64>,
    most_age: Option<Duration>,
    is_tried: bool,
) -> Removed {
    let folder = folder(cache);
    remove(&folder, &blocks(&folder), most_bytes, most_age, is_tried)
}

fn remove(
    folder: &Path,
    found: &[Block],
    most_bytes: Option<u64>,
    most_age: Option<Duration>,
    is_tried: bool,
) -> Removed {
    let mut sorted: Vec<&Block> = found.iter().collect();
    sorted.sort_by_key(|block| std::cmp::Reverse(block.used));
    let (mut left, mut removed) = (0, Removed::default());
    for block in sorted {
        let is_old = |most: Duration| block.used.elapsed().is_ok_and(|since| since > most);
        let is_much = |most: u64| left + block.bytes > most;
        if !most_age.is_some_and(is_old) && !most_bytes.is_some_and(is_much) {
            left += block.bytes;
            continue;
        }
        if is_tried || fs::remove_file(&block.path).is_ok() {
            removed.blocks += 1;
            removed.bytes += block.bytes;
        }
    }
    if !is_tried && removed.blocks > 0 {
        // A folder with its note alone goes too; one in which blocks are, stays.
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            let mut entries = fs::read_dir(file.path()).into_iter().flatten().flatten();
            if entries.all(|entry| entry.file_name() == NOTE) {
                let _ = fs::remove_file(file.path().join(NOTE));
                let _ = fs::remove_dir(file.path());
            }
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(cache: &Path, most: u64, etag: &str) -> KeptFile {
        Kept::of(cache, most).file("https://host/a", 10, Some(etag)).unwrap()
    }

    #[test]
    fn blocks_are_of_one_state_of_one_file() {
        let cache = tempfile::tempdir().unwrap();
        let one = file(cache.path(), 1 << 20, "one");
        one.put(3, b"abc");
        assert_eq!(one.get(3, 3).as_deref(), Some(&b"abc"[..]));
        assert_eq!(one.get(2, 3), None);
        assert_eq!(file(cache.path(), 1 << 20, "two").get(3, 3), None);
        let kept = Kept::of(cache.path(), 1 << 20);
        assert!(kept.file("https://host/a", 10, None).is_none());
        assert!(kept.file("https://host/a", 10, Some("W/one")).is_none());
        let listed = list(cache.path());
        assert_eq!((listed.len(), listed[0].blocks), (1, 1));
        assert_eq!(listed[0].address, "https://host/a");
    }

    #[test]
    fn a_damaged_block_is_none() {
        let cache = tempfile::tempdir().unwrap();
        let one = file(cache.path(), 1 << 20, "one");
        for at in 0..3 + DIGEST_BYTES {
            one.put(0, b"abc");
            let mut bytes = fs::read(one.path(0)).unwrap();
            bytes[at] ^= 1;
            fs::write(one.path(0), bytes).unwrap();
            assert_eq!(one.get(0, 3), None, "byte {at}");
        }
        one.put(0, b"abc");
        assert_eq!(one.get(0, 4), None, "another length than is asked for");
        // A block in another's place is no block.
        one.put(0, b"abc");
        fs::rename(one.path(0), one.path(1)).unwrap();
        assert_eq!(one.get(1, 3), None);
    }

    #[test]
    fn what_is_kept_stays_within_its_limit() {
        let cache = tempfile::tempdir().unwrap();
        let block = vec![7; 1000 - DIGEST_BYTES];
        let one = file(cache.path(), 10_000, "one");
        for number in 0..100 {
            one.put(number, &block);
            let held: u64 = uses(cache.path()).iter().map(|(bytes, _)| bytes).sum();
            assert!(held <= 10_000, "{held}");
        }
        assert!(one.get(99, block.len() as u64).is_some(), "what came last stays");
        file(cache.path(), 100, "two").put(0, &block);
        assert!(file(cache.path(), 100, "two").get(0, block.len() as u64).is_none(), "too large");
        let tried = prune(cache.path(), Some(0), None, true);
        assert_eq!(prune(cache.path(), Some(0), None, false), tried);
        assert!(list(cache.path()).is_empty());
        assert_eq!(fs::read_dir(folder(cache.path())).unwrap().count(), 0);
        assert_eq!(prune(cache.path(), Some(0), None, false), Removed::default());
    }
}
