//! Fetches one file into the cache: continues what was begun, checks what arrived, tries again.
//!
//! Beside a file's blob lie, as other clients of the cache have them, `ETAG.part` with what has arrived
//! and `ETAG.lock` while a process fetches it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use mixdown_files::own_file;

use super::trouble::{Trouble, wrong_size};
use super::web::{Announced, Web};
use super::{FetchProgress, HubOptions};
use crate::digest::{self, FileDigest};
use crate::index::Shard;
use crate::source::{FilePool, identity};
use crate::stored;

/// Failures in a row, with nothing arriving between them, after which a file is given up.
pub(super) const MOST_FAILURES: u32 = 5;
/// Failures after which the hub is given up before any file was begun. A name that was mistyped or
/// a network that is down should be said soon.
const MOST_FAILURES_AT_FIRST: u32 = 2;
/// How often the user's wish to stop is asked for.
const TICK: Duration = Duration::from_millis(100);

/// What the fetching of each file of a model has in common.
pub(super) struct Fetch<'a> {
    pub web: &'a Web,
    pub id: &'a str,
    pub commit: &'a str,
    /// The folder of blobs.
    pub blobs: &'a Path,
    pub snapshot: &'a Path,
    pub options: &'a HubOptions,
    pub progress: &'a dyn FetchProgress,
}

/// What the transferring thread tells.
enum News {
    /// So many bytes are here, of so many.
    Bytes(u64, u64),
    /// It goes on, with nothing to show.
    Alive,
}

impl Fetch<'_> {
    /// Brings a file into the snapshot, if it is not there.
    pub fn file(&self, name: &str) -> Result<(), Trouble> {
        if fs::metadata(self.snapshot.join(name)).is_ok() {
            return Ok(());
        }
        let mut furthest = 0;
        let attempt = |furthest: &mut u64| self.attempt(name, furthest);
        patiently_from(self.options, self.progress, &mut furthest, MOST_FAILURES, attempt)
    }

    /// One attempt, in a thread of its own, so that silence can be noticed. A thread that hangs is
    /// left behind and ends with the program.
    fn attempt(&self, name: &str, furthest: &mut u64) -> Result<(), Trouble> {
        let (sender, receiver) = sync_channel(64);
        let transfer = |news| Transfer {
            web: self.web.clone(),
            address: self.web.file_address(self.id, self.commit, name),
            commit: self.commit.to_owned(),
            blobs: self.blobs.to_owned(),
            pointer: self.snapshot.join(name),
            name: name.to_owned(),
            news,
        };
        let own = transfer(sender.clone());
        let Ok(thread) = std::thread::Builder::new().spawn(move || own.run()) else {
            // Where the system starts no thread, silence goes unnoticed, and nobody hears the news.
            drop(receiver);
            return transfer(sender).run();
        };
        drop(sender);
        let mut heard = Instant::now();
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(News::Bytes(done, total)) => {
                    heard = Instant::now();
                    *furthest = done.max(*furthest);
                    self.progress.advance(name, done, total);
                }
                Ok(News::Alive) => heard = Instant::now(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.progress.is_cancelled() {
                return Err(Trouble::Cancelled);
            }
            if heard.elapsed() > self.options.patience {
                return Err(Trouble::Silence);
            }
        }
        let unwound = |_| Err(Trouble::Confused("an answer without what it must have".to_owned()));
        thread.join().unwrap_or_else(unwound)
    }
}

/// Repeats a request while its failures may pass.
pub(super) fn patiently<T>(
    options: &HubOptions,
    progress: &dyn FetchProgress,
    ask: impl Fn() -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    patiently_from(options, progress, &mut 0, MOST_FAILURES_AT_FIRST, |_| ask())
}

/// Repeats a request until it failed so often.
pub(super) fn patiently_for<T>(
    options: &HubOptions,
    progress: &dyn FetchProgress,
    most_failures: u32,
    ask: impl Fn() -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    patiently_from(options, progress, &mut 0, most_failures, |_| ask())
}

/// Repeats a transfer while its failures may pass; whatever gets further renews the patience.
fn patiently_from<T>(
    options: &HubOptions,
    progress: &dyn FetchProgress,
    furthest: &mut u64,
    most_failures: u32,
    mut ask: impl FnMut(&mut u64) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let mut failures = 0;
    loop {
        let before = *furthest;
        let trouble = match ask(furthest) {
            Ok(value) => return Ok(value),
            Err(trouble) => trouble,
        };
        if *furthest > before {
            failures = 0;
        }
        failures += 1;
        if !trouble.may_pass() || failures >= most_failures {
            return Err(trouble);
        }
        let until = Instant::now() + options.retry_after * (1 << failures.min(5)) / 2;
        while Instant::now() < until {
            if progress.is_cancelled() {
                return Err(Trouble::Cancelled);
            }
            std::thread::sleep(TICK.min(until.saturating_duration_since(Instant::now())));
        }
    }
}

/// One attempt at one file.
struct Transfer {
    web: Web,
    address: String,
    commit: String,
    blobs: PathBuf,
    /// Where the snapshot shows the file.
    pointer: PathBuf,
    name: String,
    news: SyncSender<News>,
}

impl Transfer {
    fn run(self) -> Result<(), Trouble> {
        let announced = match self.web.announced(&self.address) {
            Ok(announced) => announced,
            // No first byte can be asked for: the file is empty.
            Err(Trouble::Refused { status: 416, .. }) => return self.place_empty(),
            Err(trouble) => return Err(trouble),
        };
        self.check_answer(&announced)?;
        let size = announced.size;
        let blob = self.blobs.join(&announced.etag);
        let is_whole = || fs::metadata(&blob).is_ok_and(|found| found.len() == size);
        if is_whole() {
            return self.link(&blob);
        }
        let folder = blob.parent().unwrap_or(&self.blobs);
        fs::create_dir_all(folder).map_err(Trouble::Disk)?;
        let part = blob.with_extension("part");
        let _lock = match lock(&blob.with_extension("lock"))? {
            Some(lock) => lock,
            None => {
                // As long as the other process gets further, it is waited for.
                let here = fs::metadata(&part).map_or(0, |found| found.len());
                let _ = self.news.send(News::Bytes(here, size));
                return Err(Trouble::Busy);
            }
        };
        // Another process may have fetched it meanwhile.
        if is_whole() {
            return self.link(&blob);
        }
        let here = fs::metadata(&part).map_or(0, |found| found.len());
        if here > size {
            fs::remove_file(&part).map_err(Trouble::Disk)?;
        }
        // The rest of a file that is all there cannot be asked for.
        if here != size {
            self.receive(&part, size)?;
        }
        self.check_content(&part, &announced)?;
        // What has its final name is believed by later runs, and so has to be stored before.
        let stored = own_file().read(true).open(&part).and_then(|file| file.sync_all());
        stored.and_then(|()| fs::rename(&part, &blob)).map_err(Trouble::Disk)?;
        stored::sync_folder(blob.parent().unwrap_or(Path::new("."))).map_err(Trouble::Disk)?;
        self.link(&blob)
    }

    /// Adds to the part what it lacks.
    fn receive(&self, part: &Path, size: u64) -> Result<(), Trouble> {
        let mut file = own_file().append(true).create(true).open(part).map_err(Trouble::Disk)?;
        let start = file.metadata().map_err(Trouble::Disk)?.len();
        let (mut body, begins) = self.web.bytes(&self.address, start, None)?;
        if begins != start {
            file.set_len(begins).map_err(Trouble::Disk)?;
        }
        let mut done = begins;
        let mut buffer = vec![0; 256 << 10];
        loop {
            // Nobody listens to a transfer that was given up.
            let _ = self.news.send(News::Bytes(done, size));
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            done += count as u64;
            // Nothing beyond is stored: a server could fill the disk.
            if done > size {
                return Err(Trouble::Confused(format!("more than the {size} bytes announced")));
            }
            file.write_all(&buffer[..count]).map_err(Trouble::Disk)?;
        }
    }

    /// Checks what becomes part of a path.
    fn check_answer(&self, announced: &Announced) -> Result<(), Trouble> {
        let etag = announced.etag.as_str();
        let plain = etag.strip_prefix("W/").unwrap_or(etag);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if plain.is_empty() || plain.len() > 128 || !plain.bytes().all(is_plain) {
            return Err(Trouble::Confused(format!("the etag `{etag}`")));
        }
        if announced.commit != self.commit {
            return Err(Trouble::Confused(format!("the commit `{}`", announced.commit)));
        }
        Ok(())
    }

    /// Checks size and, where the hub names a file by it, sha256.
    fn check_content(&self, path: &Path, announced: &Announced) -> Result<(), Trouble> {
        if let Some(trouble) = wrong_size(path, announced.size) {
            // More than was announced is of no use, while less is continued.
            if fs::metadata(path).is_ok_and(|found| found.len() > announced.size) {
                let _ = fs::remove_file(path);
            }
            return Err(trouble);
        }
        let Ok(expected) = announced.etag.parse::<FileDigest>() else { return Ok(()) };
        let state = identity(&fs::metadata(path).map_err(Trouble::Disk)?);
        let shown = self.name.clone();
        let shard = Shard { path: path.to_owned(), shown, size: state.size, identity: state };
        let mut alive = |_| {
            let _ = self.news.send(News::Alive);
        };
        let found = digest::of_source(&FilePool::new(1).source(&shard), &mut alive)
            .map_err(|error| Trouble::Disk(std::io::Error::other(error.to_string())))?;
        if found == expected {
            return Ok(());
        }
        let _ = fs::remove_file(path);
        Err(Trouble::Damaged { found: found.to_string(), expected: expected.to_string() })
    }

    /// Shows a blob that is there already in the snapshot.
    fn link(&self, blob: &Path) -> Result<(), Trouble> {
        let folder = self.pointer.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(Trouble::Disk)?;
        // A link of that name would lead nowhere, or the file would not be fetched.
        let _ = fs::remove_file(&self.pointer);
        #[cfg(unix)]
        {
            let depth = 2 + self.name.matches('/').count();
            let mut target: PathBuf = std::iter::repeat_n("..", depth).collect();
            target.push("blobs");
            // A weak etag has a slash in it.
            let inside = blob.ancestors().find(|part| part.ends_with("blobs"));
            target.extend(inside.and_then(|blobs| blob.strip_prefix(blobs).ok()));
            std::os::unix::fs::symlink(target, &self.pointer).map_err(Trouble::Disk)
        }
        #[cfg(not(unix))]
        {
            fs::copy(blob, &self.pointer).map(drop).map_err(Trouble::Disk)
        }
    }

    fn place_empty(&self) -> Result<(), Trouble> {
        // Put in the place of a link that leads nowhere, and not written through it.
        stored::write_file(&self.pointer, b"").map_err(Trouble::Disk)
    }
}

/// Takes the lock of a blob; none while another process has it.
fn lock(path: &Path) -> Result<Option<File>, Trouble> {
    let file =
        own_file().write(true).create(true).truncate(false).open(path).map_err(Trouble::Disk)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        // A file system without locks: parts of two processes would mix, and the digest tells.
        Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}
