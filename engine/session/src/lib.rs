//! Everything that mixdown does, for programs: the command line and other callers are thin layers on it.
//!
//! A [`Session`] is what the caller lends: folders and the hub's settings, somebody who listens, and a
//! flag that asks to stop. Requests go in, events go to the listener, results come back. Nothing here
//! prints, exits, reads the environment or keeps anything outside of its values.

mod backend;
mod beside;
mod claimed;
pub mod compare;
mod composed;
pub mod convert;
mod device;
pub mod extract;
pub mod fuse;
pub mod identified;
pub mod kept;
mod machine;
pub mod merge;
pub mod mergekit;
mod modality;
pub mod models;
mod moe;
mod numbers;
mod owner_key;
mod page;
pub mod parts;
mod pieces;
mod places;
pub mod planning;
pub mod progress;
pub mod push;
pub mod quantity;
pub mod recipes;
pub mod search;
mod shuffle;
pub mod survey;
pub mod tensors;
mod told;
pub mod transplant;
mod trouble;
pub mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mixdown_cuda::driver::Driver;
use mixdown_diagnostics::Diagnostic;
use mixdown_ops::Backend;

pub use backend::Chosen;
pub use claimed::{claim, remove_claimed};
pub use device::{Device, Numbers};
pub use machine::{Budget, Machine, threads};
pub use mixdown_exec::Footprint;
pub use places::Places;
pub use planning::{Planned, RecipeInput, plan};
pub use progress::{Meter, Task};
pub use tensors::GivenModel;
pub use trouble::Trouble;

/// What a caller lends to the work.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    /// Where models come from and results are kept.
    pub places: &'a Places,
    /// Who is told of progress and warnings.
    pub listener: &'a dyn Listener,
    /// Raised by the caller, from any thread, when the work should stop where it can go on later.
    pub cancel: &'a AtomicBool,
    /// Models whose tensors the caller holds; recipes name them as they would a path.
    pub given: &'a [GivenModel],
    /// The driver of CUDA devices; this machine's, looked for when it is needed, if none is lent.
    pub driver: Option<&'a Arc<dyn Driver>>,
    /// What computes, whatever [`Machine::device`] says; the machine's processor and devices if none is lent.
    pub backend: Option<&'a Arc<dyn Backend>>,
}

/// Somebody who listens to the work. Every method has a default that does nothing.
pub trait Listener: Sync {
    /// Something happened.
    fn tell(&self, event: &Event<'_>) {
        let _ = event;
    }

    /// Does a task while showing what `meter` counts. `work` must be called, once.
    fn watch(&self, meter: &Meter, work: &mut dyn FnMut()) {
        let _ = meter;
        work();
    }

    /// Told with `true` that from now on a sudden end of the program would cost time, because there is work
    /// that can go on later when it is asked to stop; with `false` when that is over. May come in layers.
    fn has_work(&self, has: bool) {
        let _ = has;
    }

    /// Whether the meter should remember the names of finished tensors.
    fn wants_names(&self) -> bool {
        false
    }
}

/// What is told while the work goes on.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// What a person should know and may rightly ignore.
    Warnings(&'a [Diagnostic]),
    /// What was found at the beginning or is done next, in words.
    Notice(&'a str),
    /// The output is there, and tensors are merged from now on.
    Started(&'a merge::Started<'a>),
}

/// A listener that shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence;

impl Listener for Silence {}

/// While it is there, there is work to lose.
struct Working<'a>(&'a dyn Listener);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.has_work(false);
    }
}

impl<'a> Session<'a> {
    /// A session of models that lie in files.
    pub fn new(places: &'a Places, listener: &'a dyn Listener, cancel: &'a AtomicBool) -> Self {
        Self { places, listener, cancel, given: &[], driver: None, backend: None }
    }

    /// The same with models whose tensors the caller holds.
    pub fn with_models(self, given: &'a [GivenModel]) -> Self {
        Self { given, ..self }
    }

    /// The same with a driver of devices in place of the machine's.
    pub fn with_driver(self, driver: &'a Arc<dyn Driver>) -> Self {
        Self { driver: Some(driver), ..self }
    }

    /// The same with a backend in place of the machine's processor and devices.
    pub fn with_backend(self, backend: &'a Arc<dyn Backend>) -> Self {
        Self { backend: Some(backend), ..self }
    }

    /// Whether the caller asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// A meter for a task, as the listener needs it.
    pub fn meter(&self, task: Task) -> Meter {
        Meter::new(task, self.listener.wants_names())
    }

    /// Does a task while the listener shows what the meter counts.
    pub fn watch<T>(&self, meter: &Meter, work: impl FnOnce() -> T) -> T {
        let mut work = Some(work);
        let mut result = None;
        self.listener.watch(meter, &mut || {
            if let Some(work) = work.take() {
                result = Some(work());
            }
        });
        // A listener that forgets the work must not lose it.
        match (result, work) {
            (Some(result), _) => result,
            (None, Some(work)) => work(),
            (None, None) => unreachable!("work that was taken gave a result"),
        }
    }

    /// Tells the listener that there is work to lose, until what this returns is dropped.
    fn working(&self) -> Working<'a> {
        self.listener.has_work(true);
        Working(self.listener)
    }

    fn tell(&self, event: Event<'_>) {
        self.listener.tell(&event);
    }

    /// Tells the listener what was done, in words.
    pub fn notice(&self, text: &str) {
        self.tell(Event::Notice(text));
    }

    /// Tells the listener what the user should know.
    pub fn warn(&self, warnings: &[Diagnostic]) {
        if !warnings.is_empty() {
            self.tell(Event::Warnings(warnings));
        }
    }
}
