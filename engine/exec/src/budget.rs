//! The account of bytes in use: what is admitted now, and the most that ever was.

use std::sync::{Mutex, PoisonError};

/// Admits bytes up to a limit and remembers the peak.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    state: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    used: u64,
    peak: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Takes `bytes` if they fit, and says whether they did.
    pub(crate) fn try_admit(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        let Some(used) = state.used.checked_add(bytes).filter(|&used| used <= self.limit) else {
            return false;
        };
        state.used = used;
        state.peak = state.peak.max(used);
        true
    }

    /// Gives back what was admitted.
    pub(crate) fn release(&self, bytes: u64) {
        let mut state = self.lock();
        debug_assert!(state.used >= bytes, "more is released than was admitted");
        state.used = state.used.saturating_sub(bytes);
    }

    /// Bytes admitted now.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.lock().used
    }

    /// The most bytes that were admitted at one time.
    pub(crate) fn peak(&self) -> u64 {
        self.lock().peak
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Account> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_to_the_last_byte_and_no_further() {
        let budget = Budget::new(10);
        assert!(budget.try_admit(4));
        assert!(budget.try_admit(6));
        assert!(!budget.try_admit(1));
        assert!(budget.try_admit(0));
        budget.release(6);
        assert!(!budget.try_admit(7));
        assert!(!budget.try_admit(u64::MAX), "the sum must not wrap");
        assert_eq!((budget.used(), budget.peak()), (4, 10));
    }
}
