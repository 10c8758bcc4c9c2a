//! The CPU with a device beside it that runs descents.
//!
//! Which descents those are depends on shapes and parameters alone: a model of the time that knows nothing of this
//! machine's threads, so that bits of results do not depend on them either.

use std::sync::Arc;

use mixdown_ops::backend::{Place, Placement};
use mixdown_ops::descent::Descents;
use mixdown_ops::matrix::{MatrixOp, Needs, OperandShapes, Operands, Prepared, Stop};
use mixdown_ops::{Backend, Pass, Precision, Worker};

use crate::CpuBackend;
use crate::matrix::{self, descended};

/// Operations a second of the processor in the cost model: descents on 16 threads of a server, at an assumed
/// 50 GFLOP/s each. `cargo bench -p mixdown-cpu --bench adam` tells what a thread of this machine does.
pub const PROCESSOR: f64 = 16.0 * 50e9;

/// When a descent is done on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Wherever it has kernels for it; what does not fit is an error.
    Always,
    /// Where the cost model says that it is faster there, and it fits.
    Faster,
}

/// The CPU's backend, whose descents a device runs.
#[derive(Clone, Debug)]
pub struct Assisted {
    cpu: CpuBackend,
    device: Arc<dyn Descents>,
    when: When,
}

impl Assisted {
    /// Lends it a device.
    pub fn new(cpu: CpuBackend, device: Arc<dyn Descents>, when: When) -> Self {
        Self { cpu, device, when }
    }

    /// The device, where an op is to be done there.
    fn device_for(
        &self,
        op: &MatrixOp,
        operands: &OperandShapes,
        precision: Precision,
    ) -> Option<&dyn Descents> {
        match self.place(op, operands, precision) {
            Placement::Device(_) => Some(&*self.device),
            Placement::Own | Placement::Declined(_) => None,
        }
    }
}

impl Backend for Assisted {
    fn name(&self) -> &str {
        self.cpu.name()
    }

    /// What the processor computes with; a [`Place`] says what a device does.
    fn describe(&self) -> String {
        self.cpu.describe()
    }

    fn worker(&self) -> Box<dyn Worker> {
        self.cpu.worker()
    }

    fn worker_bytes(&self, pass: &Pass, precision: Precision) -> u64 {
        self.cpu.worker_bytes(pass, precision)
    }

    fn place(&self, op: &MatrixOp, operands: &OperandShapes, precision: Precision) -> Placement {
        let Some(found) = descended::of(op, operands, precision) else { return Placement::Own };
        let descent = match found {
            Ok(descent) => descent,
            Err(why) => return Placement::Declined(why.to_owned()),
        };
        let seconds =
            [self.device.seconds(descent.shape, descent.steps), descent.operations() / PROCESSOR];
        if self.when == When::Faster && seconds[0] >= seconds[1] {
            return Placement::Declined("they are faster on the processor".to_owned());
        }
        let (device, identity) = (self.device.device(), self.device.describe());
        match self.device.needs(descent.shape) {
            Ok(needs) => Placement::Device(Place {
                device,
                identity,
                device_bytes: needs.device_bytes,
                block_rows: descended::block_rows(needs.block_rows, operands.rows),
                seconds,
            }),
            // Whoever asked for the device is told by `needs`.
            Err(_) if self.when == When::Always => Placement::Device(Place {
                device,
                identity,
                device_bytes: 0,
                block_rows: 0,
                seconds,
            }),
            Err(Stop::DeviceMemory(why, _)) => Placement::Declined(why),
            Err(_) => Placement::Declined("the device refuses it".to_owned()),
        }
    }

    fn needs(
        &self,
        op: &MatrixOp,
        operands: &OperandShapes,
        precision: Precision,
    ) -> Result<Needs, Stop> {
        let device = self.device_for(op, operands, precision);
        if let (Some(device), Some(Ok(descent))) = (device, descended::of(op, operands, precision))
        {
            device.needs(descent.shape)?;
        }
        matrix::needs(op, operands, precision, device)
    }

    fn prepare(
        &self,
        op: &MatrixOp,
        operands: &mut dyn Operands,
        precision: Precision,
    ) -> Result<Box<dyn Prepared>, Stop> {
        let shapes = matrix::shapes(operands);
        let device = self.device_for(op, &shapes, precision);
        matrix::prepare(op, operands, precision, device)
    }
}
