//! What the driver of a device must do, so that tests can stand in for it.

use std::fmt;
use std::sync::Arc;

use crate::probe::{Capability, Version};

pub mod library;

/// A call of the driver that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The call, as the driver's manual names it.
    pub call: &'static str,
    /// The driver's number for what went wrong.
    pub code: u32,
    /// Its name for it, for instance `CUDA_ERROR_OUT_OF_MEMORY`.
    pub name: String,
}

impl Fault {
    /// Whether memory of the device ran out.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == OUT_OF_MEMORY
    }
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub const OUT_OF_MEMORY: u32 = 2;

/// `CUDA_ERROR_NO_DEVICE`.
pub const NO_DEVICE: u32 = 100;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} gave {} ({})", self.call, self.name, self.code)
    }
}

impl std::error::Error for Fault {}

/// What a driver says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The model.
    pub name: String,
    /// What it can do.
    pub capability: Capability,
    /// Bytes of its memory.
    pub memory_bytes: u64,
}

/// A driver that is there.
pub trait Driver: Send + Sync + fmt::Debug {
    /// Makes it ready. Nothing else may be called before.
    fn start(&self) -> Result<(), Fault>;

    /// The newest version of CUDA that it runs.
    fn version(&self) -> Result<Version, Fault>;

    /// How many devices it shows to this process.
    fn count(&self) -> Result<u32, Fault>;

    /// What it says of one of them.
    fn describe(&self, number: u32) -> Result<Described, Fault>;

    /// Makes a device ready for work.
    fn open(&self, number: u32) -> Result<Arc<dyn Device>, Fault>;
}

/// A place in a device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// So many bytes further.
    pub fn after(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// An image that a device has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Module(pub usize);

/// A kernel of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Function(pub usize);

/// A queue of work; what is in it happens in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream(pub usize);

/// Memory of the host that a device reads and writes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pinned(pub usize);

/// Blocks and threads of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks in x and y.
    pub blocks: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory that the launch brings.
    pub shared_bytes: u32,
}

/// An argument of a kernel, in the kernel's order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer.
    Address(Address),
    /// An `unsigned int`.
    U32(u32),
    /// An `unsigned long long`.
    U64(u64),
    /// A `float`.
    F32(f32),
    /// A `double`.
    F64(f64),
}

/// A device that is ready for work.
pub trait Device: Send + Sync + fmt::Debug {
    /// Bytes that nobody uses at the moment.
    fn free_bytes(&self) -> Result<u64, Fault>;

    /// Loads an image.
    fn load(&self, image: &[u8]) -> Result<Module, Fault>;

    /// A kernel of a module, which may be launched with so many bytes of shared memory.
    fn function(&self, module: Module, name: &str, shared_bytes: u32) -> Result<Function, Fault>;

    /// Takes memory of the device.
    fn allocate(&self, bytes: u64) -> Result<Address, Fault>;

    /// Gives it back. Work that uses it must be done.
    fn release(&self, address: Address) -> Result<(), Fault>;

    /// Takes memory of the host.
    fn allocate_pinned(&self, bytes: u64) -> Result<Pinned, Fault>;

    /// Gives it back. Work that uses it must be done.
    fn release_pinned(&self, pinned: Pinned) -> Result<(), Fault>;

    /// Makes a queue.
    fn create_stream(&self) -> Result<Stream, Fault>;

    /// Ends a queue.
    fn destroy_stream(&self, stream: Stream) -> Result<(), Fault>;

    /// Queues a copy to the device.
    ///
    /// # Safety
    ///
    /// `bytes` bytes from both places on are memory of this device and of the host; those of the host
    /// are not written before [`synchronize`](Self::synchronize) has returned.
    unsafe fn upload(
        &self,
        stream: Stream,
        to: Address,
        from: Pinned,
        bytes: u64,
    ) -> Result<(), Fault>;

    /// Queues a copy from the device.
    ///
    /// # Safety
    ///
    /// As for [`upload`](Self::upload); those of the host are not read either.
    unsafe fn download(
        &self,
        stream: Stream,
        to: Pinned,
        from: Address,
        bytes: u64,
    ) -> Result<(), Fault>;

    /// Queues zeros for so many bytes.
    ///
    /// # Safety
    ///
    /// They are memory of this device.
    unsafe fn clear(&self, stream: Stream, to: Address, bytes: u64) -> Result<(), Fault>;

    /// Queues a kernel.
    ///
    /// # Safety
    ///
    /// The arguments are those of the kernel, and it stays within the memory that they name.
    unsafe fn launch(
        &self,
        stream: Stream,
        function: Function,
        geometry: Geometry,
        arguments: &[Argument],
    ) -> Result<(), Fault>;

    /// Waits until a queue is empty, and says what failed in it.
    fn synchronize(&self, stream: Stream) -> Result<(), Fault>;
}
