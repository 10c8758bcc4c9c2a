//! How far the work is: counted by many threads, shown by one as a bar, as lines or as events.

mod bar;
mod events;
mod lines;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::quantity;
use crate::talk::Talk;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// A bar on the terminal.
    Bar,
    /// A plain line every few seconds.
    Lines,
    /// A JSON object per line, to stdout.
    Events,
    /// Not at all.
    #[default]
    Nothing,
}

impl Style {
    /// What suits the terminal and the flags.
    pub fn suited(talk: Talk, events: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match () {
            () if events => Self::Events,
            () if talk.quiet => Self::Nothing,
            () if std::io::stderr().is_terminal() && !dumb => Self::Bar,
            () => Self::Lines,
        }
    }
}

/// Counts the work. Many threads add to it.
#[derive(Debug)]
pub struct Meter {
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
    pub fn new(style: Style) -> Self {
        Self {
            begun: Instant::now(),
            tensors: AtomicUsize::new(0),
            tensors_done: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            written: AtomicU64::new(0),
            stage: Mutex::default(),
            names: (style == Style::Events).then(Mutex::default),
        }
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

    /// `212 of 291 tensors, 3.10 GB of 4.90 GB, 1.30 GB/s, 4 s left`.
    pub fn text(&self) -> String {
        let mut parts = Vec::new();
        if self.tensors > 0 {
            parts.push(format!(
                "{} of {}",
                self.tensors_done,
                quantity::count(self.tensors, "tensor")
            ));
        }
        let done = self.bytes_done.min(self.bytes.max(self.bytes_done));
        match self.bytes {
            0 => parts.push(quantity::bytes(done)),
            // What is announced is an estimate, and more than all is never done.
            all => parts.push(format!(
                "{} of {}",
                quantity::bytes(done.min(all)),
                quantity::bytes(all)
            )),
        }
        if self.bytes_done > 0 {
            parts.push(quantity::rate(self.bytes_done, self.elapsed));
        }
        if let Some(left) = self.left() {
            parts.push(format!("{} left", coarse(left)));
        }
        parts.join(", ")
    }
}

/// Whole seconds: tenths would only flicker.
fn coarse(time: Duration) -> String {
    match time.as_secs_f64().round() as u64 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => quantity::time(Duration::from_secs(seconds)),
    }
}

/// Something that shows counts.
trait Display {
    /// Shows the count; called ten times a second.
    fn show(&mut self, count: &Count);
    /// Shows the last count, and leaves the place to others.
    fn end(&mut self, count: &Count);
}

/// Does the work while its progress is shown.
pub fn watch<T>(style: Style, meter: &Meter, work: impl FnOnce() -> T) -> T {
    let Some(mut display) = display(style) else { return work() };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                thread::park_timeout(Duration::from_millis(100));
                if !done.load(Ordering::Acquire) {
                    display.show(&meter.count());
                }
            }
            display.end(&meter.count());
        });
        let result = work();
        done.store(true, Ordering::Release);
        watcher.thread().unpark();
        result
    })
}

fn display(style: Style) -> Option<Box<dyn Display + Send>> {
    match style {
        Style::Bar => Some(Box::new(bar::Bar::new())),
        Style::Lines => Some(Box::new(lines::Lines::default())),
        Style::Events => Some(Box::new(events::Events::default())),
        Style::Nothing => None,
    }
}

#[cfg(test)]
mod tests {
    use mixdown_exec::Progress;

    use super::*;

    #[test]
    fn counts_come_together_from_all_threads() {
        let meter = Meter::new(Style::Events);
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
    fn the_text_tells_what_is_known() {
        let mut count = Count { elapsed: Duration::from_secs(2), ..Count::default() };
        assert_eq!(count.text(), "0 B");
        count.bytes_done = 1_000_000;
        assert_eq!(count.text(), "1.00 MB, 500 kB/s");
        count = Count { tensors: 291, tensors_done: 212, bytes: 4_000_000, ..count };
        assert_eq!(count.text(), "212 of 291 tensors, 1.00 MB of 4.00 MB, 500 kB/s, 6 s left");
        count.bytes = 900_000;
        assert_eq!(count.left(), Some(Duration::ZERO), "an estimate that was too low");
        assert_eq!(count.text(), "212 of 291 tensors, 900 kB of 900 kB, 500 kB/s, 0 s left");
    }

    #[test]
    fn nothing_is_guessed_at_the_start() {
        let count = Count { bytes: 100, bytes_done: 50, ..Count::default() };
        assert_eq!(count.left(), None);
    }

    #[test]
    fn the_result_of_the_work_comes_back_in_every_style() {
        for style in [Style::Lines, Style::Nothing] {
            assert_eq!(watch(style, &Meter::new(style), || 7), 7);
        }
    }
}
