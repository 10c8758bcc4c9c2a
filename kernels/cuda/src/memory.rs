//! A budget of a device's memory, and what is taken from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::{Address, Device, Fault};

/// The memory of a device that may be used.
#[derive(Debug)]
pub struct Memory {
    device: Arc<dyn Device>,
    budget: u64,
    used: Mutex<u64>,
}

/// Why memory could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Short {
    /// There is less than this: bytes that were asked for.
    Full(u64),
    /// The driver failed otherwise.
    Failed(Fault),
}

impl Memory {
    /// At most so many bytes.
    pub fn new(device: Arc<dyn Device>, budget: u64) -> Arc<Self> {
        Arc::new(Self { device, budget, used: Mutex::new(0) })
    }

    /// Bytes that may be used in all.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many bytes; at least one.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Result<Buffer, Short> {
        let bytes = bytes.max(1);
        {
            let mut used = self.lock();
            if bytes > self.budget.saturating_sub(*used) {
                return Err(Short::Full(bytes));
            }
            *used += bytes;
        }
        match self.device.allocate(bytes) {
            Ok(address) => Ok(Buffer { memory: Arc::clone(self), address, bytes }),
            Err(fault) => {
                *self.lock() -= bytes;
                // Others use the device as well: what the budget allows need not be there.
                Err(if fault.is_out_of_memory() {
                    Short::Full(bytes)
                } else {
                    Short::Failed(fault)
                })
            }
        }
    }
}

/// Memory of a device, until it is dropped. Work that uses it must be done by then.
#[derive(Debug)]
pub struct Buffer {
    memory: Arc<Memory>,
    address: Address,
    bytes: u64,
}

impl Buffer {
    /// Where it begins.
    pub fn address(&self) -> Address {
        self.address
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // After a fault of the device this fails too, and there is nothing left to give back.
        let _ = self.memory.device.release(self.address);
        *self.memory.lock() -= self.bytes;
    }
}
