//! Devices that are opened when something is to be done on them, and several that share the work.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mixdown_ops::descent::{Curvature, Descent, DescentNeeds, DescentShape, Descents};
use mixdown_ops::matrix::Stop;

use crate::descent::CudaDescents;
use crate::driver::Driver;
use crate::images::{self, Form, TEXT_DRIVER};
use crate::probe::{Found, Version};
use crate::sizing::Sizing;

/// What of a device's memory is left to others where nothing else was asked for: its context, the images, and
/// the screen.
const RESERVE: u64 = 1 << 30;

/// A device that is opened on demand.
pub struct OnDemand {
    driver: Arc<dyn Driver>,
    number: u32,
    version: Version,
    sizing: Sizing,
    opened: Mutex<Option<Arc<CudaDescents>>>,
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand").field("sizing", &self.sizing).finish_non_exhaustive()
    }
}

impl OnDemand {
    /// A device that was found, with the best kernels that it runs and at most so many bytes of its memory.
    ///
    /// **Errors.** Words for a headline: no image fits.
    pub fn new(
        driver: Arc<dyn Driver>,
        version: Version,
        found: &Found,
        memory_bytes: Option<u64>,
    ) -> Result<Self, String> {
        let number = found.number;
        let name = format!("cuda:{number}");
        let Some(described) = &found.described else {
            return Err(format!("`{name}` does not say what it is"));
        };
        let capability = described.capability;
        let has_image = |form: &&Form| images::image(**form, capability, version).is_some();
        let form = Form::of(capability).iter().find(has_image).copied();
        let form = form.ok_or_else(|| {
            format!(
                "`{name}` needs a driver of CUDA {TEXT_DRIVER} or newer, and has one of {version}: there is \
                 no machine code for compute capability {capability}"
            )
        })?;
        let all = described.memory_bytes;
        let rest = all - (all / 8).min(RESERVE);
        let budget = memory_bytes.map_or(rest, |asked| asked.min(all));
        let sizing = Sizing { name, capability, form, budget };
        Ok(Self { driver, number, version, sizing, opened: Mutex::default() })
    }

    /// What plans know of it.
    pub fn sizing(&self) -> &Sizing {
        &self.sizing
    }

    /// Opens it, if that was not done before, and proves it on a small descent.
    ///
    /// **Errors.** Words for a headline.
    pub fn open(&self) -> Result<Arc<CudaDescents>, String> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(Arc::clone(opened));
        }
        let failed = |fault| format!("`{}` does not open: {fault}", self.sizing.name);
        let device = self.driver.open(self.number).map_err(failed)?;
        let descents = Arc::new(CudaDescents::new(device, self.version, self.sizing.clone())?);
        *opened = Some(Arc::clone(&descents));
        Ok(descents)
    }
}

/// Devices of one kind, which take turns. Bits of results do not depend on which of them did what.
#[derive(Debug)]
pub struct CudaDevices {
    devices: Vec<OnDemand>,
    turn: AtomicUsize,
}

impl CudaDevices {
    /// Devices that give the same bits.
    ///
    /// **Errors.** Words for a headline: they do not, or there are none.
    pub fn new(devices: Vec<OnDemand>) -> Result<Self, String> {
        let mut kinds = devices.iter().map(|one| (one.sizing.describe(), &one.sizing.name));
        let Some((kind, first)) = kinds.next() else {
            return Err("no device was named".to_owned());
        };
        if let Some((other, name)) = kinds.find(|(other, _)| *other != kind) {
            return Err(format!(
                "devices of several kinds would make results depend on which of them did what: `{first}` is \
                 {kind}, `{name}` is {other}"
            ));
        }
        Ok(Self { devices, turn: AtomicUsize::new(0) })
    }

    /// Opens all of them.
    ///
    /// **Errors.** Words for a headline.
    pub fn open(&self) -> Result<(), String> {
        self.devices.iter().try_for_each(|device| device.open().map(drop))
    }
}

impl Descents for CudaDevices {
    fn name(&self) -> &str {
        "cuda"
    }

    fn describe(&self) -> String {
        self.devices[0].sizing.describe()
    }

    fn device(&self) -> String {
        let names: Vec<&str> = self.devices.iter().map(|one| one.sizing.name.as_str()).collect();
        names.join(", ")
    }

    fn seconds(&self, shape: DescentShape, steps: u32) -> f64 {
        // Whatever their number, so that results do not depend on it.
        self.devices[0].sizing.seconds(shape, steps)
    }

    fn needs(&self, shape: DescentShape) -> Result<DescentNeeds, Stop> {
        let least = self.devices.iter().map(|one| &one.sizing).min_by_key(|sizing| sizing.budget);
        least.unwrap_or(&self.devices[0].sizing).needs(shape)
    }

    fn begin(&self, curvature: Curvature<'_>) -> Result<Box<dyn Descent>, Stop> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let device = &self.devices[turn % self.devices.len()];
        let help = "look at `nvidia-smi`, then run the same command again to go on".to_owned();
        let opened = device.open().map_err(|headline| Stop::Device(headline, help))?;
        opened.begin(curvature)
    }
}
