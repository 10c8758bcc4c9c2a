//! The shard files of an output: opened when they are written, stored on disk in the background
//! while the merge goes on, and closed when their last tensor is finished.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use mixdown_diagnostics::Diagnostic;

use super::clone::shareable;
use super::disk::Disk;
use super::trouble::refused;
use crate::layout::Layout;

/// After this much, a shard is sent to the disk. Without it the disk idles until the last byte is
/// computed, and storing 1 GB then takes 0.55 s instead of 0.05 s (2 threads writing, ext4).
const SYNC_BYTES: u64 = 64 << 20;

const WRITE: &str = "write to a shard";
const STORE: &str = "store a shard on the disk";

/// All shards of an output.
#[derive(Debug)]
pub(super) struct Shards {
    shared: Arc<Shared>,
    /// Block size of the file system where it may share blocks, else 0.
    block: AtomicU64,
    wake: Option<Sender<usize>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    files: Vec<ShardFile>,
    /// Position and trouble of the first shard that could not be stored.
    failure: Mutex<Option<(usize, Box<Diagnostic>)>>,
    has_failed: AtomicBool,
}

#[derive(Debug)]
struct ShardFile {
    path: PathBuf,
    open: Mutex<Option<Arc<File>>>,
    /// Tensors that are not finished.
    unfinished: AtomicUsize,
    /// Bytes written since this process began.
    written: AtomicU64,
    /// What `written` was before the last time the file was stored; `NEVER` before the first.
    stored: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Shards {
    /// Creates the files at full length with their headers, or takes over those that are there.
    pub fn create(disk: &Disk, folder: &Path, layout: &Layout) -> Result<Self, Box<Diagnostic>> {
        let mut files = Vec::with_capacity(layout.shards().len());
        for shard in layout.shards() {
            let path = folder.join(&shard.name);
            let more = shard.torch.iter().flat_map(|torch| torch.parts(None).into_iter().skip(1));
            create(disk, &path, &shard.header, shard.file_bytes)
                .and_then(|file| {
                    let mut more = more;
                    more.try_for_each(|(at, bytes)| disk.write_at(&file, &path, &bytes, at))
                })
                .map_err(|error| refused("create a shard", &path, &error))?;
            files.push(ShardFile {
                path,
                open: Mutex::default(),
                unfinished: AtomicUsize::new(shard.tensors.len()),
                written: AtomicU64::new(0),
                stored: AtomicU64::new(NEVER),
            });
        }
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            files,
            failure: Mutex::default(),
            has_failed: AtomicBool::new(false),
        });
        let (wake, woken) = channel();
        let background = (Arc::clone(&shared), disk.clone());
        // Where the system starts no thread, all is stored at the end.
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || background.0.store_when_woken(&background.1, &woken));
        let block = rustix::fs::statvfs(folder).map_or(0, |found| found.f_frsize);
        Ok(Self { shared, block: AtomicU64::new(block), wake: Some(wake), thread: thread.ok() })
    }

    /// The folder that holds them.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Path of a shard.
    pub fn path(&self, shard: usize) -> PathBuf {
        self.shared.files[shard].path.clone()
    }

    /// Puts a file in a shard's place, by a second name; see `OutputFolder::adopt`.
    pub fn adopt(&self, disk: &Disk, shard: usize, from: &Path) -> Result<bool, Box<Diagnostic>> {
        self.shared.check()?;
        let shard_file = &self.shared.files[shard];
        let path = &shard_file.path;
        // Beside the shard first, so that there is a file in its place at all times.
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let linked = disk.remove_all(&beside).and_then(|()| disk.link(from, &beside));
        if linked.is_err() {
            return Ok(false);
        }
        *shard_file.lock() = None;
        disk.rename(&beside, path).map_err(|error| refused(WRITE, path, &error))?;
        Ok(true)
    }

    pub fn write_at(
        &self,
        disk: &Disk,
        shard: usize,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), Box<Diagnostic>> {
        self.shared.check()?;
        let shard_file = &self.shared.files[shard];
        shard_file
            .open(disk)
            .and_then(|file| disk.write_at(&file, &shard_file.path, bytes, at))
            .map_err(|error| refused(WRITE, &shard_file.path, &error))?;
        self.count(shard, bytes.len() as u64);
        Ok(())
    }

    /// Whether `bytes` could be shared with `from`; see `OutputFolder::copy_range`.
    pub fn clone_range(
        &self,
        disk: &Disk,
        shard: usize,
        at: u64,
        from: (&File, u64),
        bytes: u64,
    ) -> Result<bool, Box<Diagnostic>> {
        self.shared.check()?;
        let block = self.block.load(Ordering::Relaxed);
        let Some((skip, whole)) = shareable(from.1, at, bytes, block) else { return Ok(false) };
        let shard_file = &self.shared.files[shard];
        let path = &shard_file.path;
        let file = shard_file.open(disk).map_err(|error| refused(WRITE, path, &error))?;
        let source = (from.0, from.1 + skip);
        if let Err(error) = disk.clone_range(source, (&file, at + skip), path, whole) {
            // A full disk will show again when the bytes are written; all other errors mean that
            // these files cannot share. `EXDEV` is about this one source, the others about the disk.
            if error.kind() != io::ErrorKind::CrossesDevices {
                self.block.store(0, Ordering::Relaxed);
            }
            return Ok(false);
        }
        for (start, end) in [(0, skip), (skip + whole, bytes)] {
            let mut edge = vec![0; (end - start) as usize];
            if std::os::unix::fs::FileExt::read_exact_at(from.0, &mut edge, from.1 + start).is_err()
            {
                // The caller reads the source itself, and says what is wrong with it.
                return Ok(false);
            }
            self.write_at(disk, shard, at + start, &edge)?;
        }
        self.count(shard, whole);
        Ok(true)
    }

    /// Counts a tensor of this shard as finished.
    pub fn tensor_finished(&self, shard: usize) {
        if self.shared.files[shard].unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake(shard);
        }
    }

    /// Waits until all that was written is stored. The error names the shard that could not be.
    pub fn store_all(&mut self, disk: &Disk) -> Result<(), (usize, Box<Diagnostic>)> {
        self.stop();
        for shard in 0..self.shared.files.len() {
            self.shared.store(disk, shard);
        }
        match self.shared.lock_failure().clone() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// The shard that could not be stored, if one could not.
    pub fn lost(&self) -> Option<usize> {
        self.shared.lock_failure().as_ref().map(|failure| failure.0)
    }

    /// Lets the background thread end after what it was woken for.
    pub fn stop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, `store_all` does its work again.
            let _ = thread.join();
        }
    }

    fn count(&self, shard: usize, bytes: u64) {
        let before = self.shared.files[shard].written.fetch_add(bytes, Ordering::AcqRel);
        if before / SYNC_BYTES != (before + bytes) / SYNC_BYTES {
            self.wake(shard);
        }
    }

    fn wake(&self, shard: usize) {
        if let Some(wake) = &self.wake {
            // Fails only when the thread has ended; then `store_all` does the work.
            let _ = wake.send(shard);
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn store_when_woken(&self, disk: &Disk, woken: &Receiver<usize>) {
        while let Ok(first) = woken.recv() {
            // Several calls for one shard are answered once.
            let mut shards: Vec<usize> = std::iter::once(first).chain(woken.try_iter()).collect();
            shards.sort_unstable();
            shards.dedup();
            for shard in shards {
                self.store(disk, shard);
            }
        }
    }

    /// Stores a shard unless it is stored, and closes it when it is finished.
    fn store(&self, disk: &Disk, shard: usize) {
        let shard_file = &self.files[shard];
        if self.has_failed.load(Ordering::Acquire) {
            return;
        }
        let is_finished = shard_file.unfinished.load(Ordering::Acquire) == 0;
        let written = shard_file.written.load(Ordering::Acquire);
        if shard_file.stored.load(Ordering::Acquire) == written {
            return;
        }
        let path = &shard_file.path;
        let result = shard_file.open(disk).and_then(|file| match is_finished {
            true => disk.sync(&file, path),
            false => disk.sync_data(&file, path),
        });
        match result {
            Ok(()) if is_finished => {
                shard_file.stored.store(written, Ordering::Release);
                // A model of a thousand shards must not need a thousand open files.
                *shard_file.lock() = None;
            }
            Ok(()) => {}
            Err(error) => {
                self.lock_failure().get_or_insert((shard, refused(STORE, path, &error)));
                self.has_failed.store(true, Ordering::Release);
            }
        }
    }

    /// The failure of the background thread, for whoever comes next.
    fn check(&self) -> Result<(), Box<Diagnostic>> {
        if !self.has_failed.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.lock_failure().clone() {
            Some((_, failure)) => Err(failure),
            None => Ok(()),
        }
    }

    fn lock_failure(&self) -> std::sync::MutexGuard<'_, Option<(usize, Box<Diagnostic>)>> {
        self.failure.lock().expect("no thread panics while it holds the failure")
    }
}

impl ShardFile {
    fn open(&self, disk: &Disk) -> io::Result<Arc<File>> {
        let mut open = self.lock();
        if let Some(file) = &*open {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(disk.open(&self.path)?);
        *open = Some(Arc::clone(&file));
        Ok(file)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<File>>> {
        self.open.lock().expect("no thread panics while it holds a file")
    }
}

/// A file of this length that begins with this header. Bytes that are there are kept.
fn create(disk: &Disk, path: &Path, header: &[u8], bytes: u64) -> io::Result<File> {
    // A link or a file with a second name may be left of a folder that was replaced; what it leads
    // to belongs to somebody else.
    let is_ours = |found: std::fs::Metadata| {
        found.is_file() && std::os::unix::fs::MetadataExt::nlink(&found) == 1
    };
    if !std::fs::symlink_metadata(path).is_ok_and(is_ours) {
        disk.remove_all(path)?;
    }
    let file = disk.open(path)?;
    if file.metadata()?.len() != bytes {
        disk.set_length(&file, path, bytes)?;
    }
    disk.write_at(&file, path, header, 0)?;
    Ok(file)
}
