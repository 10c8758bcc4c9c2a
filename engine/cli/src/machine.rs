//! What a merge may use of the machine: the flags that all commands which merge have.

use std::num::NonZeroUsize;

use clap::Args;
use mixdown_session::Device;

use crate::size;

/// What a merge may use of the machine.
#[derive(Clone, Copy, Debug, Args)]
pub struct Machine {
    /// Memory to stay within, for instance 500MB or 2GiB; by default what is available, less a reserve
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    #[arg(env = "MIXDOWN_MEMORY", hide_env_values = true)]
    pub memory: Option<u64>,
    /// Threads; all processors by default
    #[arg(long, value_name = "N", env = "MIXDOWN_THREADS", hide_env_values = true)]
    pub threads: Option<NonZeroUsize>,
    /// Device that computes: auto, cpu, cuda, cuda:N, or cuda:N,N; `mixdown devices` lists them
    #[arg(long, default_value_t, env = "MIXDOWN_DEVICE", hide_env_values = true)]
    pub device: Device,
    /// Memory of each device to stay within, for instance 16GB; by default all but a reserve
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    #[arg(env = "MIXDOWN_DEVICE_MEMORY", hide_env_values = true)]
    pub device_memory: Option<u64>,
}

impl Machine {
    /// As a session takes it.
    pub fn of_session(self) -> mixdown_session::Machine {
        let Self { memory, threads, device, device_memory } = self;
        mixdown_session::Machine {
            memory_bytes: memory,
            threads,
            device,
            device_memory_bytes: device_memory,
        }
    }
}
