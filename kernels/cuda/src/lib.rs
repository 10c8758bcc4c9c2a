//! CUDA devices: which there are, whether they can be used, and the work that they do.
//!
//! The kernels are plain CUDA C, in `kernels/`, each with its formula, shapes and error bound. `images/` has
//! them compiled, and [`images`] builds that into the program. `emulation/` gives the same sources a grid on a
//! processor, with checks that a device lacks; the tests run every kernel there.
//!
//! [`CudaDescents`] runs Adam's descents, [`CudaDevices`] those of several devices that are opened when they are
//! needed; [`Sizing`] knows what they take before that. Others share the device, so what it holds goes through [`lanes`].
//!
//! Nothing of CUDA is needed to build or to start the program. The driver's library is looked for when
//! somebody asks for a device, and everything that can be missing then has a name in [`NoCuda`].

mod check;
mod descent;
pub mod driver;
pub mod images;
pub mod lanes;
pub mod memory;
mod on_demand;
mod probe;
mod sizing;

pub use descent::CudaDescents;
pub use driver::Fault;
pub use driver::library::Library;
pub use on_demand::{CudaDevices, OnDemand};
pub use probe::{Capability, Devices, Found, NoCuda, Unusable, Version, probe, probe_with};
pub use sizing::Sizing;
