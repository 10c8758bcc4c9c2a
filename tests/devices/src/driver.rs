//! A driver that shows devices which are none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mixdown_cuda::driver::{Described, Device, Driver, Fault};
use mixdown_cuda::{Capability, Version};

use crate::{Emulated, Kernels};

/// What a driver is told to be.
#[derive(Debug)]
pub struct Installed {
    version: Version,
    devices: Vec<Described>,
    /// The driver's number for what goes wrong at its start; 0 if nothing does.
    start: u32,
    /// The same where a device is opened.
    open: u32,
    kernels: &'static dyn Kernels,
    seed: u64,
    opened: Mutex<Vec<Arc<Emulated>>>,
    /// What a device that is opened is told, before anything is done on it.
    on_opening: Mutex<OnOpening>,
}

type Tell = dyn Fn(&Emulated) + Send + Sync;

#[derive(Default)]
struct OnOpening(Option<Box<Tell>>);

impl std::fmt::Debug for OnOpening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnOpening")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Installed {
    /// A driver with devices of these compute capabilities, 16 GB each.
    pub fn new(kernels: &'static dyn Kernels, seed: u64, capabilities: &[(u32, u32)]) -> Self {
        let described = |&(major, minor): &(u32, u32)| Described {
            name: format!("Emulated {major}.{minor}"),
            capability: Capability { major, minor },
            memory_bytes: 16_000_000_000,
        };
        Self {
            version: Version { major: 12, minor: 8 },
            devices: capabilities.iter().map(described).collect(),
            start: 0,
            open: 0,
            kernels,
            seed,
            opened: Mutex::default(),
            on_opening: Mutex::default(),
        }
    }

    /// Runs this version of CUDA.
    pub fn running(self, major: u32, minor: u32) -> Self {
        Self { version: Version { major, minor }, ..self }
    }

    /// Fails to start, with the driver's number for why.
    pub fn failing_to_start(self, code: u32) -> Self {
        Self { start: code, ..self }
    }

    /// Fails to open its devices.
    pub fn failing_to_open(self, code: u32) -> Self {
        Self { open: code, ..self }
    }

    /// Tells each device that is opened something.
    pub fn on_opening(self, tell: impl Fn(&Emulated) + Send + Sync + 'static) -> Self {
        lock(&self.on_opening).0 = Some(Box::new(tell));
        self
    }

    /// The devices that were opened so far.
    pub fn opened(&self) -> Vec<Arc<Emulated>> {
        lock(&self.opened).clone()
    }
}

fn fault(call: &'static str, code: u32) -> Result<(), Fault> {
    match code {
        0 => Ok(()),
        code => Err(Fault { call, code, name: "CUDA_ERROR_TOLD".to_owned() }),
    }
}

impl Driver for Installed {
    fn start(&self) -> Result<(), Fault> {
        fault("cuInit", self.start)
    }

    fn version(&self) -> Result<Version, Fault> {
        Ok(self.version)
    }

    fn count(&self) -> Result<u32, Fault> {
        Ok(self.devices.len() as u32)
    }

    fn describe(&self, number: u32) -> Result<Described, Fault> {
        Ok(self.devices[number as usize].clone())
    }

    fn open(&self, _: u32) -> Result<Arc<dyn Device>, Fault> {
        fault("cuDevicePrimaryCtxRetain", self.open)?;
        let device = Emulated::new(self.kernels, self.seed);
        if let Some(tell) = &lock(&self.on_opening).0 {
            tell(&device);
        }
        lock(&self.opened).push(Arc::clone(&device));
        Ok(device)
    }
}
