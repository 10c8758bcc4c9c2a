//! Hands pieces of several flows to a pool of threads, and decides which failure is the one to report.
//!
//! Knows nothing of tensors. A flow is a sequence of rounds; a round is a count of pieces that may run
//! in any order and at the same time. Pieces are handed out in order, of the oldest flow first, so
//! that flows finish in about the order they start; a new flow starts when no piece is ready.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use mixdown_diagnostics::Diagnostic;

use crate::budget::Budget;

/// What a flow wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// That pieces `0..n` are run, each once. None is fine.
    Round(u64),
    /// Nothing: it is finished.
    Done,
}

/// Why a piece could not be done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something about the inputs. The same inputs give the same failure, so flows that started
    /// earlier are finished first: theirs would be the one to report.
    Input(Box<Diagnostic>),
    /// Anything else. There is no use in going on.
    Fatal(Box<Diagnostic>),
    /// Our own code panicked, with this message.
    Panic(String),
    /// The flag was raised in the middle of long work.
    Interrupted,
}

/// Work that comes in rounds of pieces. `W` is what a thread holds.
pub(crate) trait Flow<W>: Send + Sync {
    /// Called before the first round and after the last piece of each; never at the same time as
    /// anything else of this flow.
    fn advance(&self) -> Result<Step, Failure>;

    /// Runs one piece of the round.
    fn piece(&self, index: u64, worker: &mut W) -> Result<(), Failure>;
}

/// Flows by position, made when their turn comes.
pub(crate) trait Queue<W>: Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Bytes that the flow holds from its start to its end, apart from what workers hold.
    fn bytes(&self, position: usize) -> u64;

    /// Makes the flow.
    fn start(&self, position: usize) -> Result<Arc<dyn Flow<W> + '_>, Failure>;
}

/// How the run of a queue ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All flows are done.
    Done,
    /// The flag was raised.
    Interrupted,
    /// The first failure, in order of flows, that does not depend on the threads; or a fatal one.
    Failed(Failure),
}

/// Runs all flows of a queue with one thread per worker. All threads have ended when it returns.
pub(crate) fn run<W: Send>(
    queue: &dyn Queue<W>,
    workers: &mut [W],
    budget: &Budget,
    cancel: &AtomicBool,
) -> End {
    let pool = Pool { queue, budget, cancel, state: Mutex::default(), changed: Condvar::new() };
    thread::scope(|scope| {
        let Some((own, others)) = workers.split_first_mut() else { return };
        for worker in others {
            // Fewer threads give the same result, so a system that starts no more of them stops nothing.
            if thread::Builder::new().spawn_scoped(scope, || pool.work(worker)).is_err() {
                break;
            }
        }
        pool.work(own);
    });
    let state = pool.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    // What was admitted for flows that a failure left behind.
    for active in &state.active {
        budget.release(active.bytes);
    }
    match (state.stop, state.failed) {
        (Some(end), _) => end,
        (None, Some((_, failure))) => End::Failed(failure),
        (None, None) => End::Done,
    }
}

struct Pool<'a, W> {
    queue: &'a dyn Queue<W>,
    budget: &'a Budget,
    cancel: &'a AtomicBool,
    state: Mutex<State<'a, W>>,
    changed: Condvar,
}

struct State<'a, W> {
    /// Flows in flight, by position.
    active: Vec<Active<'a, W>>,
    /// Position of the next flow to start.
    next: usize,
    /// The failure to report, with the position of its flow: later flows are given up.
    failed: Option<(usize, Failure)>,
    /// Set when everything must stop at once.
    stop: Option<End>,
}

impl<W> Default for State<'_, W> {
    fn default() -> Self {
        Self { active: Vec::new(), next: 0, failed: None, stop: None }
    }
}

struct Active<'a, W> {
    position: usize,
    /// Absent while it is being made.
    flow: Option<Arc<dyn Flow<W> + 'a>>,
    bytes: u64,
    /// The next piece to hand out, of this many.
    next: u64,
    pieces: u64,
    /// Threads that are in the flow now: running a piece, or advancing it.
    inside: usize,
    /// The failure of its first piece that failed.
    failed: Option<(u64, Failure)>,
}

/// What a thread does next.
enum Task<'a, W> {
    Piece(usize, u64, Arc<dyn Flow<W> + 'a>),
    Start(usize),
    Advance(usize, Arc<dyn Flow<W> + 'a>),
}

impl<'a, W> Pool<'a, W> {
    fn lock(&self) -> MutexGuard<'_, State<'a, W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, worker: &mut W) {
        let mut finished_advance = None;
        while let Some(task) = self.next_task(finished_advance.take()) {
            match task {
                Task::Piece(position, index, flow) => {
                    let result = guarded(|| flow.piece(index, worker));
                    finished_advance = self.piece_ended(position, index, result);
                }
                Task::Start(position) => match guarded(|| self.queue.start(position)) {
                    Ok(flow) => {
                        self.lock().find(position).flow = Some(Arc::clone(&flow));
                        finished_advance = Some(Task::Advance(position, flow));
                    }
                    Err(failure) => self.flow_failed(position, failure),
                },
                Task::Advance(position, flow) => {
                    self.advanced(position, &flow);
                }
            }
        }
    }

    /// The next thing to do; `None` when there will be nothing more. A flow that this thread brought
    /// to the end of a round is advanced before anything else.
    fn next_task(&self, due: Option<Task<'a, W>>) -> Option<Task<'a, W>> {
        let mut state = self.lock();
        loop {
            if self.cancel.load(Ordering::Relaxed) && state.stop.is_none() {
                state.stop = Some(End::Interrupted);
                self.changed.notify_all();
            }
            if state.stop.is_some() {
                return None;
            }
            if due.is_some() {
                return due;
            }
            if let Some(task) = state.ready_piece().or_else(|| self.start_one(&mut state)) {
                return Some(task);
            }
            let all_started = state.next == self.queue.len() || state.failed.is_some();
            if state.active.is_empty() && all_started {
                self.changed.notify_all();
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Admits the next flow if its bytes fit. The first one always does: the sizes were chosen so.
    fn start_one(&self, state: &mut State<'a, W>) -> Option<Task<'a, W>> {
        if state.failed.is_some() || state.next == self.queue.len() {
            return None;
        }
        let position = state.next;
        let mut bytes = self.queue.bytes(position);
        if !self.budget.try_admit(bytes) {
            if !state.active.is_empty() {
                return None;
            }
            debug_assert!(false, "a flow of {bytes} bytes does not fit into an empty budget");
            bytes = 0;
        }
        state.next += 1;
        state.active.push(Active {
            position,
            flow: None,
            bytes,
            next: 0,
            pieces: 0,
            inside: 1,
            failed: None,
        });
        Some(Task::Start(position))
    }

    /// Accounts for a piece. The thread that brings a round to its end gets the flow to advance.
    fn piece_ended(
        &self,
        position: usize,
        index: u64,
        result: Result<(), Failure>,
    ) -> Option<Task<'a, W>> {
        let mut state = self.lock();
        let active = state.find(position);
        match result {
            Ok(()) => {}
            Err(failure @ Failure::Input(_)) => {
                if active.failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    active.failed = Some((index, failure));
                }
            }
            Err(failure) => {
                self.stop(&mut state, failure);
                return None;
            }
        }
        active.inside -= 1;
        let given_up = state.gives_up(position);
        let active = state.find(position);
        if active.inside > 0 {
            return None;
        }
        if let Some((_, failure)) = active.failed.take() {
            self.remove(&mut state, position, Some(failure));
        } else if given_up {
            self.remove(&mut state, position, None);
        } else if active.next == active.pieces {
            active.inside = 1;
            let flow = active.flow.clone().expect("a flow that ran a piece was made");
            return Some(Task::Advance(position, flow));
        }
        None
    }

    /// Publishes what a flow wants next. A round without pieces is over as soon as it begins.
    fn advanced(&self, position: usize, flow: &Arc<dyn Flow<W> + 'a>) {
        let pieces = loop {
            match guarded(|| flow.advance()) {
                Ok(Step::Round(0)) => {}
                Ok(Step::Round(pieces)) => break pieces,
                Ok(Step::Done) => return self.remove(&mut self.lock(), position, None),
                Err(failure) => return self.flow_failed(position, failure),
            }
        };
        let mut state = self.lock();
        if state.gives_up(position) {
            return self.remove(&mut state, position, None);
        }
        let active = state.find(position);
        active.next = 0;
        active.pieces = pieces;
        active.inside = 0;
        self.changed.notify_all();
    }

    fn flow_failed(&self, position: usize, failure: Failure) {
        let mut state = self.lock();
        match failure {
            Failure::Input(_) => self.remove(&mut state, position, Some(failure)),
            _ => self.stop(&mut state, failure),
        }
    }

    /// Takes a flow out that nobody is in.
    fn remove(&self, state: &mut State<'a, W>, position: usize, failure: Option<Failure>) {
        let at = state.active.iter().position(|active| active.position == position);
        let active = state.active.remove(at.expect("a flow is removed once"));
        self.budget.release(active.bytes);
        if let Some(failure) = failure
            && state.failed.as_ref().is_none_or(|(first, _)| position < *first)
        {
            state.failed = Some((position, failure));
            // Later flows that nobody is in will get no more pieces: nobody else would remove them.
            let idle = |active: &Active<'_, W>| active.position > position && active.inside == 0;
            state.active.retain(|active| {
                if idle(active) {
                    self.budget.release(active.bytes);
                }
                !idle(active)
            });
        }
        self.changed.notify_all();
    }

    fn stop(&self, state: &mut State<'a, W>, failure: Failure) {
        if state.stop.is_none() {
            state.stop = Some(match failure {
                Failure::Interrupted => End::Interrupted,
                failure => End::Failed(failure),
            });
        }
        self.changed.notify_all();
    }
}

impl<'a, W> State<'a, W> {
    fn find(&mut self, position: usize) -> &mut Active<'a, W> {
        let found = self.active.iter_mut().find(|active| active.position == position);
        found.expect("a flow stays while a thread is in it")
    }

    /// Whether a failure of an earlier flow makes this one useless.
    fn gives_up(&self, position: usize) -> bool {
        self.failed.as_ref().is_some_and(|(first, _)| position > *first)
    }

    fn ready_piece(&mut self) -> Option<Task<'a, W>> {
        let limit = self.failed.as_ref().map_or(usize::MAX, |(first, _)| *first);
        let active = self.active.iter_mut().find(|active| {
            active.next < active.pieces && active.failed.is_none() && active.position < limit
        })?;
        let flow = active.flow.clone()?;
        let index = active.next;
        active.next += 1;
        active.inside += 1;
        Some(Task::Piece(active.position, index, flow))
    }
}

/// Turns a panic into a failure, so that the other threads can be told to stop.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // What a panic may leave half-done is not looked at again: the run stops.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Failure::Panic(text(&*panic))))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let fixed = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    fixed
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
