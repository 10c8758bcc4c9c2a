//! What computes a merge: the processor, with or without devices, chosen for a plan.
//!
//! `auto` takes a device where the cost model says that the plan gains by it, and says in one line why it does
//! not; a device that was asked for by name is used or an error.

use std::sync::Arc;
use std::time::Duration;

use mixdown_cpu::{Assisted, CpuBackend, When};
use mixdown_cuda::driver::Driver;
use mixdown_cuda::{CudaDevices, Devices, Found, NoCuda, OnDemand};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_exec::{Placements, placements};
use mixdown_ops::descent::{Curvature, Descent, DescentNeeds, DescentShape, Descents};
use mixdown_ops::matrix::Stop;
use mixdown_ops::{Backend, Placement};

use crate::device::{self, Device, Numbers};
use crate::planning::Planned;
use crate::{Machine, Session, quantity};

/// Seconds that a plan must gain by the cost model before a device is opened unasked: a context, the images and
/// the proof of it take one or two.
const START: f64 = 3.0;

/// What computes a merge.
#[derive(Debug)]
pub struct Chosen {
    computes: Computes,
    is_asked_for: bool,
    /// Why no device is used where one could have been, in one line.
    pub note: Option<String>,
    /// What whoever asked for a device should know.
    pub warnings: Vec<Diagnostic>,
}

enum Computes {
    Processor(CpuBackend),
    Devices(Assisted, Arc<CudaDevices>),
    /// What the caller brought.
    Lent(Arc<dyn Backend>),
}

impl std::fmt::Debug for Computes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.backend().name())
    }
}

impl Computes {
    fn backend(&self) -> &dyn Backend {
        match self {
            Self::Processor(cpu) => cpu,
            Self::Devices(assisted, _) => assisted,
            Self::Lent(backend) => &**backend,
        }
    }
}

impl Chosen {
    fn new(computes: Computes) -> Self {
        Self { computes, is_asked_for: false, note: None, warnings: Vec::new() }
    }

    fn cpu(note: Option<String>) -> Self {
        Self { note, ..Self::new(Computes::Processor(CpuBackend::new())) }
    }

    /// It, for the plan that it was chosen for.
    pub fn backend(&self) -> &dyn Backend {
        self.computes.backend()
    }

    /// How manifests and unfinished outputs know it: everything of a device that bits depend on.
    pub fn word(&self) -> String {
        match &self.computes {
            Computes::Devices(_, devices) => format!("cuda ({})", devices.describe()),
            computes => computes.backend().name().to_owned(),
        }
    }

    /// With what it computes, for people and for those who compare parts of an output.
    pub fn describe(&self) -> String {
        match &self.computes {
            Computes::Devices(assisted, devices) => {
                format!("{}; {}", assisted.describe(), devices.describe())
            }
            computes => computes.backend().describe(),
        }
    }

    /// By what an unfinished output of it is told from those of others; none for the processor's.
    pub(crate) fn device_word(&self) -> Option<String> {
        match &self.computes {
            Computes::Processor(_) => None,
            Computes::Devices(..) => Some(self.word()),
            Computes::Lent(backend) => Some(format!("{}: {}", self.word(), backend.describe())),
        }
    }

    /// Opens the devices. Where none was asked for, one that fails is left out.
    ///
    /// **Errors.** `CUDA_FAILED`, for devices that were asked for.
    pub(crate) fn open(&mut self) -> Result<(), Box<Diagnostic>> {
        let Computes::Devices(_, devices) = &self.computes else { return Ok(()) };
        match devices.open() {
            Ok(()) => Ok(()),
            Err(headline) if self.is_asked_for => {
                Err(Diagnostic::error(codes::CUDA_FAILED, headline)
                    .help("look at `nvidia-smi`; `--device cpu` merges without a device")
                    .into())
            }
            Err(headline) => {
                *self = Self::cpu(Some(format!("the processor computes: {headline}")));
                Ok(())
            }
        }
    }

    /// Tells what the caller should know of the choice.
    pub(crate) fn tell(&self, session: &Session<'_>) {
        if let Some(note) = &self.note {
            session.tell(crate::Event::Notice(note));
        }
        session.warn(&self.warnings);
    }
}

impl Planned {
    /// What computes this plan on a machine, unless the session brings what does. Devices are asked for what they are, and not opened.
    ///
    /// **Errors.** A device that was asked for and cannot be used; a tensor that does not fit into it; an op that
    /// cannot be applied to its operands.
    pub fn backend(
        &self,
        machine: &Machine,
        session: &Session<'_>,
    ) -> Result<Chosen, Box<Diagnostic>> {
        if let Some(backend) = session.backend {
            return Ok(Chosen::new(Computes::Lent(Arc::clone(backend))));
        }
        match machine.device {
            Device::Cpu => Ok(Chosen::cpu(None)),
            Device::Auto => self.best(machine, session),
            Device::Cuda(numbers) => self.asked(machine, numbers, session),
        }
    }

    fn best(&self, machine: &Machine, session: &Session<'_>) -> Result<Chosen, Box<Diagnostic>> {
        let cpu = CpuBackend::new();
        let ideal = Assisted::new(cpu, Arc::new(Ideal), When::Faster);
        let [_, on_processor] = seconds(&placements(&self.plan, &ideal)?);
        if on_processor < START {
            // Nothing that is worth a look for a device.
            return Ok(Chosen::cpu(None));
        }
        let without = |why: &str| {
            Ok(Chosen::cpu(Some(format!(
                "the processor computes what a device could, {} by the cost model: {why}",
                quantity::time(Duration::from_secs_f64(on_processor))
            ))))
        };
        let (driver, devices) = match probe(session) {
            Ok(probed) => probed,
            Err(why) => return without(&why.to_string()),
        };
        let found = match device::chosen(None, &devices) {
            Ok(found) => found,
            Err(diagnostic) => return without(&diagnostic.headline),
        };
        let device = match OnDemand::new(driver, devices.driver, found, machine.device_memory_bytes)
        {
            Ok(device) => device,
            Err(why) => return without(&why),
        };
        let devices = match CudaDevices::new(vec![device]) {
            Ok(devices) => Arc::new(devices),
            Err(why) => return without(&why),
        };
        let assisted = Assisted::new(cpu, Arc::clone(&devices) as _, When::Faster);
        let places = placements(&self.plan, &assisted)?;
        let [there, here] = seconds(&places);
        if here - there < START {
            let declined = places.into_values().find_map(|place| match place {
                Placement::Declined(why) => Some(why),
                Placement::Own | Placement::Device(_) => None,
            });
            let nothing = "a device would hardly be faster".to_owned();
            return without(&declined.unwrap_or(nothing));
        }
        Ok(Chosen::new(Computes::Devices(assisted, devices)))
    }

    fn asked(
        &self,
        machine: &Machine,
        numbers: Numbers,
        session: &Session<'_>,
    ) -> Result<Chosen, Box<Diagnostic>> {
        let (driver, devices) =
            probe(session).map_err(|why| device::no_cuda(machine.device, &why))?;
        let one = |number: Option<u32>| {
            let found: &Found = device::chosen(number, &devices)?;
            let memory = machine.device_memory_bytes;
            let made = OnDemand::new(Arc::clone(&driver), devices.driver, found, memory);
            made.map_err(|headline| {
                Box::new(
                    Diagnostic::error(codes::OLD_CUDA_DRIVER, headline)
                        .help("install a newer driver; `--device cpu` merges without"),
                )
            })
        };
        let found = match numbers.list() {
            None => vec![one(None)?],
            Some(list) => {
                list.into_iter().map(|number| one(Some(number))).collect::<Result<_, _>>()?
            }
        };
        let devices = CudaDevices::new(found).map_err(|headline| {
            Diagnostic::error(codes::DEVICES_DIFFER, headline)
                .help("name devices of one kind, as `mixdown devices` lists them")
        })?;
        let devices = Arc::new(devices);
        let cpu = CpuBackend::new();
        let assisted = Assisted::new(cpu, Arc::clone(&devices) as _, When::Always);
        let places = placements(&self.plan, &assisted)?;
        let is_used = places.values().any(|place| matches!(place, Placement::Device(_)));
        if is_used {
            let computes = Computes::Devices(assisted, devices);
            return Ok(Chosen { is_asked_for: true, ..Chosen::new(computes) });
        }
        let headline = format!("nothing of this merge is done on `{}`", machine.device);
        let declined = places.into_values().find_map(|place| match place {
            Placement::Declined(why) => Some(format!("its descents are not: {why}")),
            Placement::Own | Placement::Device(_) => None,
        });
        let why = declined.unwrap_or_else(|| {
            "devices run descents of Adam, as `optmerge` and `wudi` have them; the processor has everything"
                .to_owned()
        });
        let warning = Diagnostic::warning(codes::DEVICE_UNUSED, headline).note(why);
        Ok(Chosen { warnings: vec![warning], ..Chosen::cpu(None) })
    }
}

/// Seconds of all ops that a device does: there and on the processor, by the cost model.
fn seconds(places: &Placements) -> [f64; 2] {
    let mut found: Vec<(&(u32, usize), [f64; 2])> = places
        .iter()
        .filter_map(|(at, place)| match place {
            Placement::Device(place) => Some((at, place.seconds)),
            Placement::Own | Placement::Declined(_) => None,
        })
        .collect();
    // Sums in one order, whatever that of the map is.
    found.sort_unstable_by_key(|(at, _)| **at);
    found.iter().fold([0.0; 2], |[a, b], (_, [c, d])| [a + c, b + d])
}

/// The driver that the caller lent, or this machine's, and its devices.
fn probe(session: &Session<'_>) -> Result<(Arc<dyn Driver>, Devices), NoCuda> {
    match session.driver {
        Some(driver) => Ok((Arc::clone(driver), mixdown_cuda::probe_with(&**driver)?)),
        None => {
            let (library, devices) = mixdown_cuda::probe()?;
            Ok((Arc::new(library), devices))
        }
    }
}

/// A device that needs neither time nor memory: by it one knows what a device could do at most.
#[derive(Debug)]
struct Ideal;

impl Descents for Ideal {
    fn name(&self) -> &str {
        "ideal"
    }

    fn describe(&self) -> String {
        "a device that is none".to_owned()
    }

    fn device(&self) -> String {
        "none".to_owned()
    }

    fn seconds(&self, _: DescentShape, _: u32) -> f64 {
        0.0
    }

    fn needs(&self, shape: DescentShape) -> Result<DescentNeeds, Stop> {
        Ok(DescentNeeds { block_rows: shape.rows, device_bytes: 0, host_bytes: 0 })
    }

    fn begin(&self, _: Curvature<'_>) -> Result<Box<dyn Descent>, Stop> {
        Err(Stop::Failed("nothing can be computed by an estimate".to_owned()))
    }
}
