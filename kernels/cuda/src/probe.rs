//! Which devices there are, told without a panic whatever is missing.

use std::fmt;

use crate::driver::library::{Library, Missing};
use crate::driver::{Described, Driver, Fault, NO_DEVICE};

/// A version of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 12 of 12.8.
    pub major: u32,
    /// 8 of 12.8.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The compute capability of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// 9 of 9.0.
    pub major: u32,
    /// 0 of 9.0.
    pub minor: u32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest driver that loads images of a compiler of CUDA 12: NVIDIA's rule for minor versions.
const OLDEST_DRIVER: Version = Version { major: 12, minor: 0 };

/// The oldest devices that the kernels are written for.
const OLDEST_DEVICE: Capability = Capability { major: 7, minor: 0 };

/// Why there is no device at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCuda {
    /// No library of a driver.
    NoDriver,
    /// The library lacks a function that every driver of the oldest version has.
    Incomplete(&'static str),
    /// The driver is older than the images.
    OldDriver {
        /// What it runs.
        found: Version,
        /// What it would have to.
        needed: Version,
    },
    /// A driver without a device.
    NoDevice,
    /// The driver itself failed.
    Failed(Fault),
}

impl fmt::Display for NoCuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => write!(f, "no CUDA driver is installed (libcuda.so.1 is not found)"),
            Self::Incomplete(symbol) => {
                write!(f, "the CUDA driver is too old: its library lacks `{symbol}`")
            }
            Self::OldDriver { found, needed } => {
                write!(f, "the CUDA driver runs CUDA {found}, and {needed} or newer is needed")
            }
            Self::NoDevice => write!(f, "the CUDA driver shows no device to this process"),
            Self::Failed(fault) => write!(f, "the CUDA driver does not start: {fault}"),
        }
    }
}

/// Why one device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Older than the kernels.
    Old {
        /// What it would have to be.
        needed: Capability,
    },
    /// The driver fails to say what it is.
    Failed(Fault),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Old { needed } => write!(f, "compute capability {needed} or newer is needed"),
            Self::Failed(fault) => write!(f, "{fault}"),
        }
    }
}

/// A device that the driver shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number for this process.
    pub number: u32,
    /// What the driver says of it, if it says anything.
    pub described: Option<Described>,
    /// Why it cannot be used, if so.
    pub unusable: Option<Unusable>,
}

/// All devices of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// What the driver runs.
    pub driver: Version,
    /// The devices, by number; at least one.
    pub found: Vec<Found>,
}

/// Looks for the driver, and for its devices. Never panics: what cudarc would panic over is looked for
/// first.
pub fn probe() -> Result<(Library, Devices), NoCuda> {
    let library = Library::find().map_err(|missing| match missing {
        Missing::Library => NoCuda::NoDriver,
        Missing::Symbol(symbol) => NoCuda::Incomplete(symbol),
    })?;
    let devices = probe_with(&library)?;
    Ok((library, devices))
}

/// Asks a driver for its devices.
pub fn probe_with(driver: &dyn Driver) -> Result<Devices, NoCuda> {
    let failed = |fault: Fault| match fault.code {
        NO_DEVICE => NoCuda::NoDevice,
        _ => NoCuda::Failed(fault),
    };
    // A driver tells its version before it starts, and one too old may not start at all.
    let version = driver.version().map_err(failed)?;
    if version < OLDEST_DRIVER {
        return Err(NoCuda::OldDriver { found: version, needed: OLDEST_DRIVER });
    }
    driver.start().map_err(failed)?;
    let count = driver.count().map_err(failed)?;
    if count == 0 {
        return Err(NoCuda::NoDevice);
    }
    let found = (0..count).map(|number| match driver.describe(number) {
        Ok(described) => {
            let unusable = (described.capability < OLDEST_DEVICE)
                .then_some(Unusable::Old { needed: OLDEST_DEVICE });
            Found { number, described: Some(described), unusable }
        }
        Err(fault) => Found { number, described: None, unusable: Some(Unusable::Failed(fault)) },
    });
    Ok(Devices { driver: version, found: found.collect() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::driver::Device;

    #[derive(Clone, Debug)]
    struct Told {
        version: Version,
        start: u32,
        devices: Vec<Result<(u32, u32), u32>>,
    }

    fn fault(call: &'static str, code: u32) -> Fault {
        Fault { call, code, name: "CUDA_ERROR".to_owned() }
    }

    impl Driver for Told {
        fn start(&self) -> Result<(), Fault> {
            if self.start == 0 { Ok(()) } else { Err(fault("cuInit", self.start)) }
        }

        fn version(&self) -> Result<Version, Fault> {
            Ok(self.version)
        }

        fn count(&self) -> Result<u32, Fault> {
            Ok(self.devices.len() as u32)
        }

        fn describe(&self, number: u32) -> Result<Described, Fault> {
            let (major, minor) =
                self.devices[number as usize].map_err(|code| fault("cuDeviceGetName", code))?;
            let capability = Capability { major, minor };
            Ok(Described { name: "a device".to_owned(), capability, memory_bytes: 1 << 30 })
        }

        fn open(&self, _: u32) -> Result<Arc<dyn Device>, Fault> {
            Err(fault("cuDevicePrimaryCtxRetain", 1))
        }
    }

    fn told(minor: u32, start: u32, devices: &[Result<(u32, u32), u32>]) -> Told {
        let version = Version { major: 12, minor };
        Told { version, start, devices: devices.to_vec() }
    }

    #[test]
    fn what_is_missing_has_a_name() {
        let mut old = told(8, 0, &[Ok((9, 0))]);
        old.version.major = 11;
        let error = probe_with(&old).unwrap_err();
        let text = "the CUDA driver runs CUDA 11.8, and 12.0 or newer is needed";
        assert_eq!(error.to_string(), text);
        assert_eq!(probe_with(&told(8, NO_DEVICE, &[])), Err(NoCuda::NoDevice));
        assert_eq!(probe_with(&told(8, 0, &[])), Err(NoCuda::NoDevice));
        let failed = probe_with(&told(8, 999, &[Ok((9, 0))])).unwrap_err();
        let text = "the CUDA driver does not start: cuInit gave CUDA_ERROR (999)";
        assert_eq!(failed.to_string(), text);
    }

    #[test]
    fn a_device_that_cannot_be_used_hides_no_other() {
        let devices = probe_with(&told(8, 0, &[Ok((6, 1)), Err(46), Ok((9, 0)), Ok((7, 0))]));
        let devices = devices.unwrap();
        let why: Vec<_> = devices
            .found
            .iter()
            .map(|found| found.unusable.as_ref().map(ToString::to_string))
            .collect();
        let old = "compute capability 7.0 or newer is needed".to_owned();
        let silent = "cuDeviceGetName gave CUDA_ERROR (46)".to_owned();
        assert_eq!(why, [Some(old), Some(silent), None, None]);
        assert_eq!(devices.found[2].number, 2);
    }

    /// Whatever this machine has, asking is safe, twice as well.
    #[test]
    fn this_machine_can_be_asked() {
        for _ in 0..2 {
            match probe() {
                Ok((_, devices)) => assert!(!devices.found.is_empty()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}
