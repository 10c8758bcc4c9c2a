//! What a device beside the processor does for matrix ops: whole descents of Adam.

use std::fmt;

use crate::matrix::Stop;

/// What multiplies the displacement D in the gradient `2·(D·G + R_0)`, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Curvature<'a> {
    /// G, symmetric, `n × n`.
    Gram {
        /// Its numbers.
        gram: &'a [f32],
        /// Its side.
        n: usize,
    },
    /// S with `G = Sᵀ·S`, `r × n`. Without rows, the gradient is constant.
    Factored {
        /// Its numbers.
        stack: &'a [f32],
        /// Its rows.
        r: usize,
        /// Its columns.
        n: usize,
    },
}

/// Sides of a descent, before anything is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescentShape {
    /// Rows of the displacement.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// Rows of S at most; none where G is used.
    pub stacked: Option<usize>,
}

/// What a device needs for a descent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescentNeeds {
    /// Rows that one call should get.
    pub block_rows: usize,
    /// Bytes of the device's memory: with blocks of so many rows.
    pub device_bytes: u64,
    /// Bytes of the host's memory that a call takes, beside its arguments.
    pub host_bytes: u64,
}

/// A device that runs descents.
pub trait Descents: Send + Sync + fmt::Debug {
    /// Its name in manifests: `cuda`.
    fn name(&self) -> &str;

    /// All that bits of results depend on: architecture, form of the kernels, their version.
    fn describe(&self) -> String;

    /// Which device it is, for people: `cuda:0`.
    fn device(&self) -> String;

    /// Seconds that a descent takes there by a model, which is no measurement.
    fn seconds(&self, shape: DescentShape, steps: u32) -> f64;

    /// What a descent needs.
    ///
    /// **Errors.** It does not fit, however few rows are done at a time.
    fn needs(&self, shape: DescentShape) -> Result<DescentNeeds, Stop>;

    /// Takes what is constant over steps and rows.
    fn begin(&self, curvature: Curvature<'_>) -> Result<Box<dyn Descent>, Stop>;
}

/// A descent whose curvature is known.
pub trait Descent: Send + Sync + fmt::Debug {
    /// Moves `rows` rows, row-major, by Adam with PyTorch's defaults: `displacement` is set to D after
    /// `steps` steps from 0. A row gets the same bits whatever rows are beside it.
    fn run(
        &self,
        offset: &[f32],
        rows: usize,
        learning_rate: f64,
        steps: u32,
        displacement: &mut [f32],
    ) -> Result<(), Stop>;
}
