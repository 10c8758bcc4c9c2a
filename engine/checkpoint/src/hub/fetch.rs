//! Fetches one file into the cache: continues what was begun, checks what arrived, tries again.
//!
//! hf-hub does the transfer and keeps the layout. What it leaves open is supplied around it: it
//! waits forever on a silent connection, asks for the rest of a file that is all there, and does
//! not look at the bytes it got.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, Metadata};
use hf_hub::{Cache, Repo};

use super::trouble::{Trouble, wrong_size};
use super::{FetchProgress, HubOptions};
use crate::digest::{self, FileDigest};
use crate::index::Shard;
use crate::source::{FilePool, identity};

/// Failures in a row, with nothing arriving between them, after which a file is given up.
const MOST_FAILURES: u32 = 5;
/// Failures after which the hub is given up before any file was begun. A name that was mistyped or
/// a network that is down should be said soon.
const MOST_FAILURES_AT_FIRST: u32 = 2;
/// How often the user's wish to stop is asked for.
const TICK: Duration = Duration::from_millis(100);

/// What the fetching of each file of a model has in common.
pub(super) struct Fetch<'a> {
    pub api: &'a Api,
    pub repo: &'a Repo,
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
            api: self.api.clone(),
            repo: self.repo.clone(),
            cache: self.options.cache.clone(),
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
    api: Api,
    repo: Repo,
    cache: PathBuf,
    /// Where the snapshot shows the file.
    pointer: PathBuf,
    name: String,
    news: SyncSender<News>,
}

impl Transfer {
    fn run(self) -> Result<(), Trouble> {
        let repo = self.api.repo(self.repo.clone());
        let metadata = match self.api.metadata(&repo.url(&self.name)) {
            Ok(metadata) => metadata,
            Err(error) => match error.into() {
                // No first byte can be asked for: the file is empty.
                Trouble::Refused { status: 416, .. } => return self.place_empty(),
                trouble => return Err(trouble),
            },
        };
        self.check_answer(&metadata)?;
        let size = metadata.size() as u64;
        let blob =
            Cache::new(self.cache.clone()).repo(self.repo.clone()).blob_path(metadata.etag());
        if fs::metadata(&blob).is_ok_and(|found| found.len() == size) {
            return self.link(&blob);
        }
        let part = blob.with_extension("part");
        match fs::metadata(&part).map(|found| found.len()) {
            // The rest of a file that is all there cannot be asked for.
            Ok(here) if here == size && size > 0 => {
                self.check_content(&part, &metadata)?;
                fs::rename(&part, &blob).map_err(Trouble::Disk)?;
                return self.link(&blob);
            }
            Ok(here) if here > size => fs::remove_file(&part).map_err(Trouble::Disk)?,
            _ => {}
        }
        let reporter = Reporter { news: self.news.clone(), done: 0, total: size };
        let pointer = match repo.download_with_progress(&self.name, reporter).map_err(Into::into) {
            Ok(pointer) => pointer,
            Err(Trouble::Busy) => {
                // As long as the other process gets further, it is waited for.
                let here = fs::metadata(&part).map_or(0, |found| found.len());
                let _ = self.news.send(News::Bytes(here, size));
                return Err(Trouble::Busy);
            }
            Err(trouble) => return Err(trouble),
        };
        if let Err(trouble) = self.check_content(&blob, &metadata) {
            // Nobody must find it, neither this program's next run nor another.
            let _ = fs::remove_file(&pointer);
            let _ = fs::remove_file(&blob);
            return Err(trouble);
        }
        Ok(())
    }

    /// Checks what becomes part of a path.
    fn check_answer(&self, metadata: &Metadata) -> Result<(), Trouble> {
        let etag = metadata.etag();
        let plain = etag.strip_prefix("W/").unwrap_or(etag);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if plain.is_empty() || plain.len() > 128 || !plain.bytes().all(is_plain) {
            return Err(Trouble::Confused(format!("the etag `{etag}`")));
        }
        if metadata.commit_hash() != self.repo.revision() {
            return Err(Trouble::Confused(format!("the commit `{}`", metadata.commit_hash())));
        }
        Ok(())
    }

    /// Checks size and, where the hub names a file by it, sha256.
    fn check_content(&self, path: &Path, metadata: &Metadata) -> Result<(), Trouble> {
        if let Some(trouble) = wrong_size(path, metadata.size() as u64) {
            return Err(trouble);
        }
        let Ok(expected) = metadata.etag().parse::<FileDigest>() else { return Ok(()) };
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
        let folder = self.pointer.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(Trouble::Disk)?;
        fs::write(&self.pointer, b"").map_err(Trouble::Disk)
    }
}

/// Passes hf-hub's progress on.
struct Reporter {
    news: SyncSender<News>,
    done: u64,
    total: u64,
}

impl Progress for Reporter {
    fn init(&mut self, size: usize, _filename: &str) {
        // Called again when the transfer begins, which then tells what was here before.
        (self.done, self.total) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        // Nobody listens to a transfer that was given up.
        let _ = self.news.send(News::Bytes(self.done, self.total));
    }

    fn finish(&mut self) {
        let _ = self.news.send(News::Bytes(self.done, self.total));
    }
}
