//! How far the work is: counted by many threads, read by whoever shows it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Models come from the hub.
    Fetching,
    /// What an interrupted merge wrote is read again.
    Confirming,
    /// Input files are hashed.
    Hashing,
    /// Tensors are merged.
    Merging,
    /// Checkpoints are compared.
    Comparing,
    /// An output is read against its manifest.
    Verifying,
    /// Parts become one output.
    Assembling,
    /// An output goes to the hub.
    Pushing,
}

/// Counts the work. Many threads add to it.
#[derive(Debug)]
pub struct Meter {
    task: Task,
    begun: Instant,
    tensors: AtomicUsize,
    tensors_done: AtomicUsize,
    bytes: AtomicU64,
    bytes_done: AtomicU64,
    written: AtomicU64,
    stage: Mutex<String>,
    /// Tensors that are done and not yet told, where somebody listens.
    names: Option<Mutex<Vec<String>>>,
}

/// The count at one moment.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// What is being done.
    pub stage: String,
    /// Tensors to be made; 0 when tensors are not what is counted.
    pub tensors: usize,
    /// Tensors made.
    pub tensors_done: usize,
    /// Bytes to be read and written; 0 when nobody knows.
    pub bytes: u64,
    /// Bytes read and written.
    pub bytes_done: u64,
    /// Bytes written.
    pub written: u64,
    /// Time since the work began.
    pub elapsed: Duration,
    /// Names of tensors that were done since the last count.
    pub names: Vec<String>,
}

impl Meter {
    /// Nothing is done yet.
    pub fn new(task: Task, wants_names: bool) -> Self {
        Self {
            task,
            begun: Instant::now(),
            tensors: AtomicUsize::new(0),
            tensors_done: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            written: AtomicU64::new(0),
            stage: Mutex::default(),
            names: wants_names.then(Mutex::default),
        }
    }

    /// What is counted.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Says how much there is to do.
    pub fn expect(&self, tensors: usize, bytes: u64) {
        self.tensors.store(tensors, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Says what is being done.
    pub fn enter(&self, stage: &str) {
        *lock(&self.stage) = stage.to_owned();
    }

    /// Counts bytes.
    pub fn add(&self, read: u64, written: u64) {
        self.bytes_done.fetch_add(read + written, Ordering::Relaxed);
        self.written.fetch_add(written, Ordering::Relaxed);
    }

    /// The count now.
    pub fn count(&self) -> Count {
        Count {
            stage: lock(&self.stage).clone(),
            tensors: self.tensors.load(Ordering::Relaxed),
            tensors_done: self.tensors_done.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
            elapsed: self.begun.elapsed(),
            names: self
                .names
                .as_ref()
                .map(|names| std::mem::take(&mut *lock(names)))
                .unwrap_or_default(),
        }
    }
}

impl mixdown_exec::Progress for Meter {
    fn started(&self, tensors: usize, bytes: u64) {
        self.expect(tensors, bytes);
    }

    fn stage(&self, text: &str) {
        self.enter(&format!("merging {text}"));
    }

    fn bytes(&self, read: u64, written: u64) {
        self.add(read, written);
    }

    fn tensor_done(&self, name: &str) {
        self.tensors_done.fetch_add(1, Ordering::Relaxed);
        if let Some(names) = &self.names {
            lock(names).push(name.to_owned());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Count {
    /// What it takes until the end at the rate so far; none when that would be a guess.
    pub fn left(&self) -> Option<Duration> {
        let seconds = self.elapsed.as_secs_f64();
        if self.bytes_done == 0 || self.bytes == 0 || seconds < 0.5 {
            return None;
        }
        let missing = self.bytes.saturating_sub(self.bytes_done) as f64;
        Duration::try_from_secs_f64(missing * seconds / self.bytes_done as f64).ok()
    }
}

/// Does the work while a thread of its own shows the count every tenth of a second, and once at the end,
/// which the second argument tells.
pub fn show<T>(
    meter: &Meter,
    mut show: impl FnMut(&Count, bool) + Send,
    work: impl FnOnce() -> T,
) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = || {
            while !done.load(Ordering::Acquire) {
                thread::park_timeout(Duration::from_millis(100));
                if !done.load(Ordering::Acquire) {
                    show(&meter.count(), false);
                }
            }
            show(&meter.count(), true);
        };
        // Where the system starts no thread, the work is done unseen.
        let watcher = thread::Builder::new().spawn_scoped(scope, watch);
        let result = work();
        done.store(true, Ordering::Release);
        if let Ok(watcher) = watcher {
            watcher.thread().unpark();
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use mixdown_exec::Progress;

    use super::*;

    #[test]
    fn counts_come_together_from_all_threads() {
        let meter = Meter::new(Task::Merging, true);
        meter.started(8, 800);
        thread::scope(|scope| {
            for number in 0..8 {
                let meter = &meter;
                scope.spawn(move || {
                    meter.bytes(75, 25);
                    meter.tensor_done(&format!("t{number}"));
                });
            }
        });
        let mut count = meter.count();
        count.names.sort();
        assert_eq!((count.tensors_done, count.bytes_done, count.written), (8, 800, 200));
        assert_eq!(count.names.len(), 8);
        assert!(meter.count().names.is_empty(), "a tensor is told once");
    }

    #[test]
    fn nothing_is_guessed_at_the_start() {
        let count = Count { bytes: 100, bytes_done: 50, ..Count::default() };
        assert_eq!(count.left(), None);
    }

    #[test]
    fn the_last_count_is_shown_and_the_result_comes_back() {
        let meter = Meter::new(Task::Comparing, false);
        let mut last = None;
        let result = show(
            &meter,
            |count, is_last| last = is_last.then_some(count.bytes_done),
            || {
                meter.add(5, 0);
                7
            },
        );
        assert_eq!((result, last), (7, Some(5)));
    }
}
