//! The CPU backend: it has every op, and elementwise bits are the same on every machine.
//!
//! A worker holds a few registers of one block each, which stay in the first-level cache, and takes
//! each block through the instructions of a pass. Each instruction is a loop that exists once per op,
//! precision and shape of its operands, written plainly and compiled for several instruction sets;
//! [`Features`] says which of them run. No formula is written here: those of elementwise ops come
//! from `mixdown-ops`.
//!
//! Ops on whole matrices are in `matrix/`; their bits do not depend on threads, but their products do on
//! the instruction set.
//!
//! Otherwise bits do not depend on the instruction set, because every operation is rounded by itself (nothing
//! is fused), sums have a fixed number of lanes, and every NaN is stored as the same one.

mod assisted;
mod block;
#[cfg(target_arch = "x86_64")]
mod bracket;
mod features;
mod keep;
mod load;
mod low_rank;
mod map;
mod matrix;
mod points;
mod reduce;
mod select;
mod storage;
mod store;
pub mod survey;
mod worker;

pub use assisted::{Assisted, PROCESSOR, When};
pub use features::Features;
pub use points::{Measure, Points, Rotary, Turned, Weighted};

pub use matrix::corresponding;

#[doc(hidden)]
pub use matrix::adam;

use mixdown_ops::matrix::{MatrixOp, Needs, OperandShapes, Operands, Prepared, Stop};
use mixdown_ops::program::PIECE;
use mixdown_ops::{Backend, Pass, Precision, Worker};

/// The CPU as a [`Backend`].
#[derive(Clone, Copy, Debug)]
pub struct CpuBackend {
    features: Features,
}

impl CpuBackend {
    /// With the best instructions that this machine has.
    pub fn new() -> Self {
        Self::with_features(Features::best())
    }

    /// With these instructions. The results are the same with any.
    pub fn with_features(features: Features) -> Self {
        Self { features }
    }
}

impl Default for CpuBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &str {
        "cpu"
    }

    fn describe(&self) -> String {
        format!("{} with {}", std::env::consts::ARCH, self.features.name())
    }

    fn worker(&self) -> Box<dyn Worker> {
        Box::new(worker::CpuWorker::new(self.features))
    }

    fn worker_bytes(&self, pass: &Pass, precision: Precision) -> u64 {
        let number = match precision {
            Precision::Single => 4,
            Precision::Double => 8,
        };
        let registers =
            (u64::from(pass.registers) + 1) * mixdown_ops::program::BLOCK as u64 * number;
        // The keys of a piece, while they are collected and as they are handed over.
        let keys = pass.selections.len() as u64 * 2 * PIECE * number;
        let histograms = pass.selections.len() as u64 * select::HISTOGRAM_BYTES;
        registers + keys + histograms
    }

    fn needs(
        &self,
        op: &MatrixOp,
        operands: &OperandShapes,
        precision: Precision,
    ) -> Result<Needs, Stop> {
        matrix::needs(op, operands, precision, None)
    }

    fn prepare(
        &self,
        op: &MatrixOp,
        operands: &mut dyn Operands,
        precision: Precision,
    ) -> Result<Box<dyn Prepared>, Stop> {
        matrix::prepare(op, operands, precision, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_state_what_they_hold() {
        let pass = Pass { registers: 3, ..Pass::default() };
        let backend = CpuBackend::new();
        assert_eq!(backend.worker_bytes(&pass, Precision::Single), 4 * 4096);
        assert_eq!(backend.worker_bytes(&pass, Precision::Double), 4 * 8192);
        assert!(backend.describe().contains(Features::best().name()));
    }
}
