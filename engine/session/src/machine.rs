//! What a merge may use of the machine.

use std::num::NonZeroUsize;

use mixdown_cpu::CpuBackend;

/// What a merge may use of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Bytes to stay within.
    pub memory_bytes: u64,
    /// Threads; one for each processor if none are named.
    pub threads: Option<NonZeroUsize>,
    /// Device that computes.
    pub device: Device,
}

/// A device that computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The best there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
}

impl Default for Machine {
    /// Two gigabytes, all processors, and the best device.
    fn default() -> Self {
        Self { memory_bytes: 2_000_000_000, threads: None, device: Device::Auto }
    }
}

impl Machine {
    /// Threads that work.
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }
}

/// The count of threads that was asked for, or one for each processor.
pub fn threads(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, Into::into)
}

impl Device {
    /// Its backend. The processor is the best there is until another backend exists.
    pub fn backend(self) -> CpuBackend {
        match self {
            Self::Auto | Self::Cpu => CpuBackend::new(),
        }
    }
}
