//! What a merge may use of the machine.

use std::num::NonZeroUsize;

use mixdown_cpu::CpuBackend;
use mixdown_diagnostics::{Diagnostic, codes};

use crate::device::{self, Device};

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

    /// The backend that was asked for.
    pub fn backend(&self) -> Result<CpuBackend, Box<Diagnostic>> {
        let Device::Cuda(number) = self.device else { return Ok(CpuBackend::new()) };
        let (_, devices) =
            mixdown_cuda::probe().map_err(|why| device::no_cuda(self.device, &why))?;
        let found = device::chosen(number, &devices)?;
        let headline = format!("`cuda:{}` does not merge yet", found.number);
        Err(Diagnostic::error(codes::DEVICE, headline).help("use `--device cpu`").into())
    }
}

/// The count of threads that was asked for, or one for each processor.
pub fn threads(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, Into::into)
}
