//! CUDA devices: which there are and whether they can be used.
//!
//! Nothing of CUDA is needed to build or to start the program. The driver's library is looked for when
//! somebody asks for a device, and everything that can be missing then has a name in [`NoCuda`].

pub mod driver;
mod probe;

pub use driver::Fault;
pub use driver::library::Library;
pub use probe::{Capability, Devices, Found, NoCuda, Unusable, Version, probe, probe_with};
