//! Work on a thread of its own, attended by the thread that Python called from.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mixdown_diagnostics::render;
use mixdown_session::progress::{self, Count};
use mixdown_session::{Event, Listener, Meter, Places, Session, Task, Trouble};
use pyo3::prelude::*;
use serde_json::{Value, json};

/// Time between two looks at signals.
const PERIOD: Duration = Duration::from_millis(100);

/// Events on their way from the threads that work to the one that Python called from.
#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    events: VecDeque<Value>,
    is_finished: bool,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, event: Value) {
        self.state().events.push_back(event);
        self.news.notify_one();
    }

    fn finish(&self) {
        self.state().is_finished = true;
        self.news.notify_one();
    }

    /// The events so far, and whether the work has ended; after a while there may be none.
    fn wait(&self) -> (VecDeque<Value>, bool) {
        let quiet = |state: &mut State| state.events.is_empty() && !state.is_finished;
        let waited = self.news.wait_timeout_while(self.state(), PERIOD, quiet);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut state.events), state.is_finished)
    }
}

impl Listener for Inbox {
    fn tell(&self, event: &Event<'_>) {
        match event {
            Event::Warnings(warnings) => {
                self.put(json!({"event": "warnings", "diagnostics": render::render_json(warnings)}))
            }
            Event::Notice(text) => self.put(json!({"event": "notice", "text": text})),
            Event::Started(started) => self.put(mixdown_cli::data::started(started)),
        }
    }

    fn watch(&self, meter: &Meter, work: &mut dyn FnMut()) {
        let show = |count: &Count, is_last| self.put(count_json(meter.task(), count, is_last));
        progress::show(meter, show, work);
    }
}

fn count_json(task: Task, count: &Count, is_last: bool) -> Value {
    json!({
        "event": "progress",
        "task": match task {
            Task::Fetching => "fetching",
            Task::Confirming => "confirming",
            Task::Hashing => "hashing",
            Task::Merging => "merging",
            Task::Comparing => "comparing",
            Task::Verifying => "verifying",
            Task::Assembling => "assembling",
            Task::Pushing => "pushing",
        },
        "stage": count.stage,
        "tensors": count.tensors,
        "tensors_done": count.tensors_done,
        "bytes": count.bytes,
        "bytes_done": count.bytes_done,
        "bytes_written": count.written,
        "seconds": count.elapsed.as_secs_f64(),
        "is_last": is_last,
    })
}

/// Finishes the inbox however the work ends, so that nobody waits for a thread that panicked.
struct Finish<'a>(&'a Inbox);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Does work without Python's lock. `listener` is called with each event as JSON, from this thread; what it
/// raises, and Ctrl-C, stops the work where it can go on later.
pub fn attended(
    py: Python<'_>,
    listener: Option<Py<PyAny>>,
    work: impl FnOnce(&Session<'_>) -> Result<Value, Trouble> + Send,
) -> PyResult<String> {
    let found = attended_by(py, listener, work)?;
    found.map(|value| value.to_string()).map_err(|trouble| crate::failure(&trouble))
}

/// The same for work with a result that is no document.
pub fn attended_by<T: Send>(
    py: Python<'_>,
    listener: Option<Py<PyAny>>,
    work: impl FnOnce(&Session<'_>) -> Result<T, Trouble> + Send,
) -> PyResult<Result<T, Trouble>> {
    let places = Places::from_env(&|name| std::env::var_os(name));
    let (inbox, cancel) = (Inbox::default(), AtomicBool::new(false));
    let mut raised = None;
    let found = py.detach(|| {
        thread::scope(|scope| {
            let worker = thread::Builder::new().spawn_scoped(scope, || {
                let _finish = Finish(&inbox);
                work(&Session::new(&places, &inbox, &cancel))
            });
            let worker = match worker {
                Ok(worker) => worker,
                Err(error) => return Err(Trouble::no_thread(&error)),
            };
            loop {
                let (events, is_finished) = inbox.wait();
                if raised.is_none()
                    && let Err(error) = deliver(events, listener.as_ref())
                {
                    raised = Some(error);
                    cancel.store(true, Ordering::SeqCst);
                }
                if is_finished {
                    break;
                }
            }
            match worker.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    });
    match raised {
        Some(error) => Err(error),
        None => Ok(found),
    }
}

fn deliver(events: VecDeque<Value>, listener: Option<&Py<PyAny>>) -> PyResult<()> {
    Python::attach(|py| {
        py.check_signals()?;
        let Some(listener) = listener else { return Ok(()) };
        for event in events {
            listener.call1(py, (event.to_string(),))?;
        }
        Ok(())
    })
}
