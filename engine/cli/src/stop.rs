//! Ctrl-C and SIGTERM: the first asks the work to stop where it can go on later, the second ends it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Exit;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Begins to listen. Without it, a signal ends the program at once, which loses nothing either.
pub fn listen() {
    // Fails only when something else listens already or the system has no signals.
    let _ = ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(Exit::Interrupted as i32);
        }
    });
}

/// Raised when somebody asked to stop.
pub fn flag() -> &'static AtomicBool {
    &ASKED
}
