//! Ctrl-C, SIGTERM and SIGHUP. Where nothing would be lost, as while a merge is planned, the first of
//! them ends the program at once, whatever it waits for; elsewhere the first asks the work to stop where
//! it can go on later, and the second ends it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::exit::Exit;

static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Whether a first signal ends the program.
static AT_ONCE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));
/// How many parts of the program want to be asked.
static CAREFUL: AtomicUsize = AtomicUsize::new(0);

/// Begins to listen. Without it, a signal ends the program at once, which loses nothing either.
pub fn listen() {
    // All of it happens in the handler: no thread is needed, which a system may refuse. The order counts:
    // the second signal finds what the first one left. Registering fails only where there are no signals.
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let status = Exit::Interrupted as i32;
        let _ = flag::register_conditional_shutdown(signal, status, Arc::clone(&AT_ONCE));
        let _ = flag::register_conditional_shutdown(signal, status, Arc::clone(&ASKED));
        let _ = flag::register(signal, Arc::clone(&ASKED));
    }
    // Caught, it no longer ends the process, and the write that met the limit fails and says so.
    let _ = flag::register(SIGXFSZ, Arc::default());
}

/// From now on a first signal only asks, until what this returns is dropped.
#[must_use]
pub fn carefully() -> Careful {
    careful(true);
    Careful
}

/// Whether one part more, or one less, of the program is to stop where it can go on later.
pub fn careful(more: bool) {
    let parts = match more {
        true => CAREFUL.fetch_add(1, Ordering::SeqCst) + 1,
        false => CAREFUL.fetch_sub(1, Ordering::SeqCst) - 1,
    };
    AT_ONCE.store(parts == 0, Ordering::SeqCst);
}

/// Work that is to stop where it can go on later.
pub struct Careful;

impl Drop for Careful {
    fn drop(&mut self) {
        careful(false);
    }
}

/// Raised when somebody asked to stop.
pub fn flag() -> &'static AtomicBool {
    &ASKED
}
