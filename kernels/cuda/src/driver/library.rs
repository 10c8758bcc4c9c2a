//! The driver's library, through cudarc's bindings.
//!
//! cudarc panics where the library or a function of it is missing, so [`Library::find`] looks for all
//! that is called here, and nothing here can be called without it.

use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys;

use super::{Address, Argument, Described, Device, Driver, Fault, Function, Geometry, Module};
use super::{Pinned, Stream};
use crate::probe::{Capability, Version};

/// All functions that are called. Each is in every driver that runs CUDA 12.
const SYMBOLS: [&str; 27] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
];

/// What is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The library.
    Library,
    /// A function of it.
    Symbol(&'static str),
}

/// The driver of this machine. That one exists says that all functions are there.
#[derive(Clone, Copy, Debug)]
pub struct Library(());

impl Library {
    /// Looks for it.
    pub fn find() -> Result<Self, Missing> {
        // SAFETY: both load the driver's library, whose initializers are made to be run by any process.
        let library = unsafe {
            if !sys::is_culib_present() {
                return Err(Missing::Library);
            }
            sys::culib()
        };
        for symbol in SYMBOLS {
            // SAFETY: the address is not used as anything.
            let found = unsafe { library.get::<*const c_void>(symbol.as_bytes()) };
            found.map_err(|_| Missing::Symbol(symbol))?;
        }
        Ok(Self(()))
    }
}

fn check(call: &'static str, result: sys::CUresult) -> Result<(), Fault> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut name = std::ptr::null();
    // SAFETY: the driver gives a text that lives as long as itself, or leaves the null.
    let name = unsafe {
        let _ = sys::cuGetErrorName(result, &mut name);
        if name.is_null() {
            "an unknown error".into()
        } else {
            CStr::from_ptr(name).to_string_lossy()
        }
    };
    Err(Fault { call, code: result as u32, name: name.into_owned() })
}

/// Calls the driver. Each use says why it may.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        check(stringify!($name), sys::$name($($argument),*))
    };
}

fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute) -> Result<u32, Fault> {
    let mut value: c_int = 0;
    // SAFETY: the value is written, and the device is one that the driver gave.
    unsafe { call!(cuDeviceGetAttribute(&mut value, which, device))? };
    Ok(u32::try_from(value).unwrap_or(0))
}

fn handle(number: u32) -> Result<sys::CUdevice, Fault> {
    let mut device = 0;
    // SAFETY: the device is written; the driver checks the number.
    unsafe { call!(cuDeviceGet(&mut device, number as c_int))? };
    Ok(device)
}

impl Driver for Library {
    fn start(&self) -> Result<(), Fault> {
        // SAFETY: may be called by any thread at any time.
        unsafe { call!(cuInit(0)) }
    }

    fn version(&self) -> Result<Version, Fault> {
        let mut version: c_int = 0;
        // SAFETY: may be called before the start; the version is written.
        unsafe { call!(cuDriverGetVersion(&mut version))? };
        let version = u32::try_from(version).unwrap_or(0);
        Ok(Version { major: version / 1000, minor: version % 1000 / 10 })
    }

    fn count(&self) -> Result<u32, Fault> {
        let mut count: c_int = 0;
        // SAFETY: the count is written.
        unsafe { call!(cuDeviceGetCount(&mut count))? };
        Ok(u32::try_from(count).unwrap_or(0))
    }

    fn describe(&self, number: u32) -> Result<Described, Fault> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let device = handle(number)?;
        let mut name = [0_u8; 256];
        let mut memory_bytes = 0_usize;
        // SAFETY: the driver writes at most the room that it is told, and a number.
        unsafe {
            call!(cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
            call!(cuDeviceTotalMem_v2(&mut memory_bytes, device))?;
        }
        let name = name.split(|&byte| byte == 0).next().unwrap_or(&[]);
        let capability =
            Capability { major: attribute(device, MAJOR)?, minor: attribute(device, MINOR)? };
        Ok(Described {
            name: String::from_utf8_lossy(name).into_owned(),
            capability,
            memory_bytes: memory_bytes as u64,
        })
    }

    fn open(&self, number: u32) -> Result<Arc<dyn Device>, Fault> {
        let device = handle(number)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: the context is written, and released when what holds it is dropped.
        unsafe { call!(cuDevicePrimaryCtxRetain(&mut context, device))? };
        Ok(Arc::new(Opened { device, context: context as usize, modules: Mutex::default() }))
    }
}

/// A device with its primary context. Handles are kept as numbers, since the driver takes them from any
/// thread.
#[derive(Debug)]
struct Opened {
    device: sys::CUdevice,
    context: usize,
    modules: Mutex<Vec<usize>>,
}

impl Opened {
    /// Makes the context the calling thread's, as all calls below need.
    fn enter(&self) -> Result<(), Fault> {
        // SAFETY: the context is held until this is dropped.
        unsafe { call!(cuCtxSetCurrent(self.context as sys::CUcontext)) }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let modules =
            std::mem::take(&mut *self.modules.lock().unwrap_or_else(PoisonError::into_inner));
        if self.enter().is_ok() {
            for module in modules {
                // SAFETY: each was loaded here, and nothing that uses it outlives the device. What fails
                // at the end has nobody to be told to.
                let _ = unsafe { call!(cuModuleUnload(module as sys::CUmodule)) };
            }
        }
        // SAFETY: as often as it was retained.
        let _ = unsafe { call!(cuDevicePrimaryCtxRelease_v2(self.device)) };
    }
}

impl Device for Opened {
    fn free_bytes(&self) -> Result<u64, Fault> {
        self.enter()?;
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: both are written.
        unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total))? };
        Ok(free as u64)
    }

    fn load(&self, image: &[u8]) -> Result<Module, Fault> {
        self.enter()?;
        // Text must end with a zero; machine code tells its own length.
        let mut ended = image.to_vec();
        ended.push(0);
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is one that the project built, whole and followed by a zero.
        unsafe { call!(cuModuleLoadData(&mut module, ended.as_ptr().cast()))? };
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).push(module as usize);
        Ok(Module(module as usize))
    }

    fn function(&self, module: Module, name: &str, shared_bytes: u32) -> Result<Function, Fault> {
        self.enter()?;
        let absent = || Fault {
            call: "cuModuleGetFunction",
            code: 500,
            name: "CUDA_ERROR_NOT_FOUND".into(),
        };
        let name = CString::new(name).map_err(|_| absent())?;
        let mut function = std::ptr::null_mut();
        let dynamic =
            sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the module is loaded, the name ends with a zero, and the function is written.
        unsafe {
            let module = module.0 as sys::CUmodule;
            call!(cuModuleGetFunction(&mut function, module, name.as_ptr()))?;
            if shared_bytes > 0 {
                call!(cuFuncSetAttribute(function, dynamic, shared_bytes as c_int))?;
            }
        }
        Ok(Function(function as usize))
    }

    fn allocate(&self, bytes: u64) -> Result<Address, Fault> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: the address is written.
        unsafe { call!(cuMemAlloc_v2(&mut address, bytes as usize))? };
        Ok(Address(address))
    }

    fn release(&self, address: Address) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: it came from `allocate`, and the caller has waited for its work.
        unsafe { call!(cuMemFree_v2(address.0)) }
    }

    fn allocate_pinned(&self, bytes: u64) -> Result<Pinned, Fault> {
        self.enter()?;
        let mut place = std::ptr::null_mut();
        // SAFETY: the place is written. Portable, so that any context may copy from it.
        unsafe {
            call!(cuMemHostAlloc(&mut place, bytes as usize, sys::CU_MEMHOSTALLOC_PORTABLE))?
        };
        Ok(Pinned(place as usize))
    }

    fn release_pinned(&self, pinned: Pinned) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: it came from `allocate_pinned`, and the caller has waited for its work.
        unsafe { call!(cuMemFreeHost(pinned.0 as *mut c_void)) }
    }

    fn create_stream(&self) -> Result<Stream, Fault> {
        self.enter()?;
        let mut stream = std::ptr::null_mut();
        let own = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the stream is written.
        unsafe { call!(cuStreamCreate(&mut stream, own))? };
        Ok(Stream(stream as usize))
    }

    fn destroy_stream(&self, stream: Stream) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: it came from `create_stream`.
        unsafe { call!(cuStreamDestroy_v2(stream.0 as sys::CUstream)) }
    }

    unsafe fn upload(
        &self,
        stream: Stream,
        to: Address,
        from: Pinned,
        bytes: u64,
    ) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: by the caller's word.
        unsafe {
            let (from, stream) = (from.0 as *const c_void, stream.0 as sys::CUstream);
            call!(cuMemcpyHtoDAsync_v2(to.0, from, bytes as usize, stream))
        }
    }

    unsafe fn download(
        &self,
        stream: Stream,
        to: Pinned,
        from: Address,
        bytes: u64,
    ) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: by the caller's word.
        unsafe {
            let (to, stream) = (to.0 as *mut c_void, stream.0 as sys::CUstream);
            call!(cuMemcpyDtoHAsync_v2(to, from.0, bytes as usize, stream))
        }
    }

    unsafe fn clear(&self, stream: Stream, to: Address, bytes: u64) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: by the caller's word.
        unsafe { call!(cuMemsetD8Async(to.0, 0, bytes as usize, stream.0 as sys::CUstream)) }
    }

    unsafe fn launch(
        &self,
        stream: Stream,
        function: Function,
        geometry: Geometry,
        arguments: &[Argument],
    ) -> Result<(), Fault> {
        self.enter()?;
        // The driver wants the address of each argument, in the type that the kernel declares.
        let mut places: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Address(Address(value)) | Argument::U64(value) => {
                    std::ptr::from_ref(value).cast_mut().cast()
                }
                Argument::U32(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::F32(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::F64(value) => std::ptr::from_ref(value).cast_mut().cast(),
            })
            .collect();
        let [across, down] = geometry.blocks;
        // SAFETY: by the caller's word; the driver copies the arguments before it returns.
        unsafe {
            call!(cuLaunchKernel(
                function.0 as sys::CUfunction,
                across,
                down,
                1,
                geometry.threads,
                1,
                1,
                geometry.shared_bytes,
                stream.0 as sys::CUstream,
                places.as_mut_ptr(),
                std::ptr::null_mut(),
            ))
        }
    }

    fn synchronize(&self, stream: Stream) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: the stream came from `create_stream`.
        unsafe { call!(cuStreamSynchronize(stream.0 as sys::CUstream)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// The table of functions is what the calls in this file use: one more call without its line would
    /// panic on a driver that lacks it.
    #[test]
    fn all_calls_are_looked_for() {
        let text = include_str!("library.rs");
        let mut called: HashMap<&str, usize> = HashMap::new();
        for after in text.split("call!(").skip(1) {
            let name = after.split('(').next().unwrap().trim();
            if name.starts_with("cu") {
                *called.entry(name).or_default() += 1;
            }
        }
        assert!(called.len() > 20, "{called:?}");
        let direct = ["cuGetErrorName"];
        for name in called.keys().copied().chain(direct) {
            assert!(SYMBOLS.contains(&name), "{name}");
        }
        for symbol in SYMBOLS {
            assert!(
                called.contains_key(symbol) || direct.contains(&symbol),
                "{symbol} is not called"
            );
        }
    }

    #[test]
    fn a_driver_that_fails_is_no_panic() {
        let Ok(library) = Library::find() else { return };
        // Beyond any machine's devices.
        assert!(library.describe(1 << 20).is_err());
    }
}
