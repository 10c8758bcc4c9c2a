//! Devices for tests on machines without one, behind the trait of the driver.
//!
//! [`Emulated`] runs the kernels' sources on the processor through the emulation, or [`StandIn`] kernels in plain
//! Rust that are fast and check nothing. It records calls, has as much memory as it is told, and fails at the call
//! that it is told. [`Installed`] is a driver that shows such devices; a session takes it in place of the
//! machine's.

pub mod compile;
mod driver;
mod stand_in;

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::Library;
use mixdown_cuda::driver::{
    Address, Argument, Device, Fault, Function, Geometry, Module, OUT_OF_MEMORY, Pinned, Stream,
};

pub use driver::Installed;
pub use stand_in::StandIn;

type Launch = unsafe extern "C" fn(
    *const c_char,
    u32,
    u32,
    u32,
    usize,
    u64,
    *const *const c_void,
    *mut c_char,
    usize,
) -> usize;

/// What a device runs in place of its images.
pub trait Kernels: Send + Sync + std::fmt::Debug {
    /// Whether there is a kernel of this name.
    fn has(&self, kernel: &str) -> bool;

    /// Runs a kernel, its threads in an order that the seed decides. What went wrong, if anything.
    fn launch(
        &self,
        kernel: &str,
        geometry: Geometry,
        seed: u64,
        arguments: &[Argument],
    ) -> Result<(), String>;
}

/// The kernels' sources, built for the emulation.
#[derive(Debug)]
pub struct Emulation {
    library: Library,
}

/// The kernels as they are; built once for all tests, in a folder for such things.
pub fn kernels(folder: &str) -> &'static Emulation {
    static KERNELS: OnceLock<Emulation> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let folder = Path::new(folder).join("emulated");
        fs::create_dir_all(&folder).unwrap();
        // Programs of tests run side by side.
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        Emulation::load(&compile::build(&folder, &compile::SOURCES, &[]))
    })
}

/// The kernels of one source with changes, in a folder of their own.
pub fn changed(
    folder: &str,
    name: &str,
    source: &str,
    changes: &[compile::Change<'_>],
) -> &'static Emulation {
    let folder = Path::new(folder).join("changed").join(name);
    let built = compile::build(&folder, &[source], changes);
    Box::leak(Box::new(Emulation::load(&built)))
}

impl Emulation {
    fn load(path: &Path) -> Self {
        // SAFETY: the library was built just now from sources without initializers that do anything.
        Self { library: unsafe { Library::new(path) }.unwrap() }
    }
}

impl Kernels for Emulation {
    fn has(&self, kernel: &str) -> bool {
        let name = CString::new(kernel).unwrap();
        // SAFETY: the function is declared so in the library.
        unsafe {
            let has: libloading::Symbol<'_, unsafe extern "C" fn(*const c_char) -> c_int> =
                self.library.get(b"emulation_has").unwrap();
            has(name.as_ptr()) == 1
        }
    }

    fn launch(
        &self,
        kernel: &str,
        geometry: Geometry,
        seed: u64,
        arguments: &[Argument],
    ) -> Result<(), String> {
        let name = CString::new(kernel).unwrap();
        let places: Vec<*const c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Address(Address(value)) | Argument::U64(value) => {
                    std::ptr::from_ref(value).cast()
                }
                Argument::U32(value) => std::ptr::from_ref(value).cast(),
                Argument::F32(value) => std::ptr::from_ref(value).cast(),
                Argument::F64(value) => std::ptr::from_ref(value).cast(),
            })
            .collect();
        let mut error = vec![0_u8; 1024];
        // SAFETY: the function is declared so, and the emulation checks what the kernel does.
        let length = unsafe {
            let launch: libloading::Symbol<'_, Launch> =
                self.library.get(b"emulation_launch").unwrap();
            let [across, down] = geometry.blocks;
            let shared = geometry.shared_bytes as usize;
            let (room, error) = (error.len(), error.as_mut_ptr().cast());
            launch(
                name.as_ptr(),
                across,
                down,
                geometry.threads,
                shared,
                seed,
                places.as_ptr(),
                error,
                room,
            )
        };
        if length == 0 {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&error[..length]).into_owned())
        }
    }
}

/// Bytes on both sides of each allocation that nobody may write.
const GUARD: usize = 4096;
const GUARDED: u8 = 0xa5;

/// What the device is told to do, and what it did.
#[derive(Debug, Default)]
pub struct State {
    /// Names of the calls so far.
    pub calls: Vec<&'static str>,
    /// The call that fails, counted from 0, and with which code.
    pub fails_at: Option<(usize, u32)>,
    /// After a fault that is not of memory, all calls fail, as on a device.
    lost: bool,
    blocks: BTreeMap<u64, usize>,
    pinned: BTreeMap<usize, usize>,
    streams: usize,
    made: usize,
    names: Vec<String>,
    /// Bytes in use.
    pub used: u64,
    /// The most that were at once.
    pub peak: u64,
    /// Bytes that there are.
    pub memory: u64,
}

/// The device.
#[derive(Debug)]
pub struct Emulated {
    kernels: &'static dyn Kernels,
    seed: u64,
    state: Mutex<State>,
}

impl Emulated {
    /// A device with more memory than anything needs. `seed` decides in which order threads run.
    pub fn new(kernels: &'static dyn Kernels, seed: u64) -> Arc<Self> {
        let state = State { memory: 1 << 40, ..State::default() };
        Arc::new(Self { kernels, seed, state: Mutex::new(state) })
    }

    /// What it is told, and what it did.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, name: &'static str) -> Result<MutexGuard<'_, State>, Fault> {
        let mut state = self.state();
        let number = state.calls.len();
        state.calls.push(name);
        let fault = |code| Fault { call: name, code, name: "CUDA_ERROR_TOLD".to_owned() };
        match state.fails_at {
            _ if state.lost => Err(fault(719)),
            Some((at, code)) if at == number => {
                state.lost = code != OUT_OF_MEMORY;
                Err(fault(code))
            }
            _ => Ok(state),
        }
    }

    /// Panics if something was not given back.
    pub fn assert_empty(&self) {
        let state = self.state();
        assert!(state.blocks.is_empty(), "{:?}", state.blocks);
        assert!(state.pinned.is_empty(), "{:?}", state.pinned);
        assert_eq!((state.streams, state.used), (0, 0));
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + 2 * GUARD, 4096).unwrap()
}

/// Memory with guards around it, full of NaN.
fn allocate(bytes: usize) -> usize {
    // SAFETY: the layout is not empty, and what is written is within it.
    unsafe {
        let start = std::alloc::alloc(layout(bytes));
        assert!(!start.is_null());
        start.write_bytes(GUARDED, bytes + 2 * GUARD);
        start.add(GUARD).write_bytes(0xff, bytes);
        start as usize + GUARD
    }
}

fn release(place: usize, bytes: usize) {
    // SAFETY: it was allocated above with this layout.
    unsafe {
        let start = (place - GUARD) as *mut u8;
        let all = std::slice::from_raw_parts(start, bytes + 2 * GUARD);
        let untouched = |guard: &[u8]| guard.iter().all(|&byte| byte == GUARDED);
        assert!(untouched(&all[..GUARD]), "written before the memory's begin");
        assert!(untouched(&all[GUARD + bytes..]), "written behind the memory's end");
        std::alloc::dealloc(start, layout(bytes));
    }
}

impl Device for Emulated {
    fn free_bytes(&self) -> Result<u64, Fault> {
        let state = self.call("free_bytes")?;
        Ok(state.memory.saturating_sub(state.used))
    }

    fn load(&self, _: &[u8]) -> Result<Module, Fault> {
        self.call("load").map(|_| Module(1))
    }

    fn function(&self, _: Module, name: &str, _: u32) -> Result<Function, Fault> {
        let mut state = self.call("function")?;
        assert!(self.kernels.has(name), "{name}");
        state.names.push(name.to_owned());
        Ok(Function(state.names.len() - 1))
    }

    fn allocate(&self, bytes: u64) -> Result<Address, Fault> {
        let mut state = self.call("allocate")?;
        if bytes > state.memory.saturating_sub(state.used) {
            let name = "CUDA_ERROR_OUT_OF_MEMORY".to_owned();
            return Err(Fault { call: "allocate", code: OUT_OF_MEMORY, name });
        }
        state.used += bytes;
        state.peak = state.peak.max(state.used);
        let place = allocate(bytes as usize) as u64;
        state.blocks.insert(place, bytes as usize);
        Ok(Address(place))
    }

    fn release(&self, address: Address) -> Result<(), Fault> {
        // Giving back works whatever happened.
        let mut state = self.state();
        let bytes = state.blocks.remove(&address.0).expect("was allocated");
        state.used -= bytes as u64;
        release(address.0 as usize, bytes);
        Ok(())
    }

    fn allocate_pinned(&self, bytes: u64) -> Result<Pinned, Fault> {
        let mut state = self.call("allocate_pinned")?;
        let place = allocate(bytes as usize);
        state.pinned.insert(place, bytes as usize);
        Ok(Pinned(place))
    }

    fn release_pinned(&self, pinned: Pinned) -> Result<(), Fault> {
        let bytes = self.state().pinned.remove(&pinned.0).expect("was allocated");
        release(pinned.0, bytes);
        Ok(())
    }

    fn create_stream(&self) -> Result<Stream, Fault> {
        let mut state = self.call("create_stream")?;
        state.streams += 1;
        state.made += 1;
        Ok(Stream(state.made))
    }

    fn destroy_stream(&self, _: Stream) -> Result<(), Fault> {
        self.state().streams -= 1;
        Ok(())
    }

    unsafe fn upload(&self, _: Stream, to: Address, from: Pinned, bytes: u64) -> Result<(), Fault> {
        let _state = self.call("upload")?;
        // SAFETY: by the caller's word.
        unsafe {
            std::ptr::copy_nonoverlapping(from.0 as *const u8, to.0 as *mut u8, bytes as usize);
        }
        Ok(())
    }

    unsafe fn download(
        &self,
        _: Stream,
        to: Pinned,
        from: Address,
        bytes: u64,
    ) -> Result<(), Fault> {
        let _state = self.call("download")?;
        // SAFETY: by the caller's word.
        unsafe {
            std::ptr::copy_nonoverlapping(from.0 as *const u8, to.0 as *mut u8, bytes as usize);
        }
        Ok(())
    }

    unsafe fn clear(&self, _: Stream, to: Address, bytes: u64) -> Result<(), Fault> {
        let _state = self.call("clear")?;
        // SAFETY: by the caller's word.
        unsafe { std::ptr::write_bytes(to.0 as *mut u8, 0, bytes as usize) };
        Ok(())
    }

    unsafe fn launch(
        &self,
        _: Stream,
        function: Function,
        geometry: Geometry,
        arguments: &[Argument],
    ) -> Result<(), Fault> {
        let name = self.call("launch")?.names[function.0].clone();
        self.kernels.launch(&name, geometry, self.seed, arguments).map_err(|error| Fault {
            call: "launch",
            code: 719,
            name: format!("{name}: {error}"),
        })
    }

    fn synchronize(&self, _: Stream) -> Result<(), Fault> {
        self.call("synchronize").map(|_| ())
    }
}
