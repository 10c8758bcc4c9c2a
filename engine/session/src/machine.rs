//! What a merge may use of the machine.

mod available;

use std::num::NonZeroUsize;

use mixdown_diagnostics::Diagnostic;

use crate::device::Device;
use crate::quantity;

/// What a merge may use of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Bytes to stay within; without, what the machine has [available](Machine::budget), less a reserve.
    pub memory_bytes: Option<u64>,
    /// Threads; one for each processor if none are named.
    pub threads: Option<NonZeroUsize>,
    /// Device that computes.
    pub device: Device,
    /// Bytes of a device's memory to stay within; all but a reserve if none are named.
    pub device_memory_bytes: Option<u64>,
}

impl Default for Machine {
    /// What memory is available, all processors, and the best device.
    fn default() -> Self {
        Self { memory_bytes: None, threads: None, device: Device::Auto, device_memory_bytes: None }
    }
}

/// Bytes to stay within, and where that number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes to stay within.
    pub bytes: u64,
    /// Bytes that the machine had available, where the budget was made from them.
    pub available: Option<u64>,
}

/// What the reserve is at least: room for other programs' next steps and for the pages of files that are read.
const LEAST_RESERVE: u64 = 256 << 20;

/// The budget where the system does not tell what is available.
const UNKNOWN: u64 = 2_000_000_000;

impl Budget {
    /// Seven eighths of what is available, but 256 MiB less at least, and half of it where that is little.
    fn of_available(available: u64) -> Self {
        let reserve = (available / 8).max(LEAST_RESERVE).min(available / 2);
        Self { bytes: available - reserve, available: Some(available) }
    }

    /// What belongs to a message about a budget that is too small.
    pub(crate) fn explain(self, diagnostic: Diagnostic) -> Diagnostic {
        let Some(available) = self.available else { return diagnostic };
        diagnostic.note(format!(
            "the budget is what this machine has available now, {}, less a reserve",
            quantity::bytes(available)
        ))
    }
}

impl Machine {
    /// Threads that work.
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }

    /// The bytes to stay within: those that were asked for, or what is available now, within the limits of
    /// control groups and of the address space, less a reserve. No result depends on it.
    pub fn budget(&self) -> Budget {
        match self.memory_bytes {
            Some(bytes) => Budget { bytes, available: None },
            None => available::available()
                .map_or(Budget { bytes: UNKNOWN, available: None }, Budget::of_available),
        }
    }
}

/// The count of threads that was asked for, or one for each processor.
pub fn threads(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_left() {
        const MIB: u64 = 1 << 20;
        for (available, expected) in
            [(0, 0), (100 * MIB, 50 * MIB), (1024 * MIB, 768 * MIB), (8192 * MIB, 7168 * MIB)]
        {
            assert_eq!(Budget::of_available(available).bytes, expected);
        }
        let asked = Machine { memory_bytes: Some(5), ..Machine::default() };
        assert_eq!(asked.budget(), Budget { bytes: 5, available: None });
        assert!(Machine::default().budget().bytes > 0);
    }
}
