//! What a device must do to run block programs.

use mixdown_tensor::DType;

use crate::matrix::{MatrixOp, Needs, OperandShapes, Operands, Prepared, Stop};
use crate::program::{Pass, Program};
use crate::selection::{Cut, Round, RoundPartial};

/// The type in which elements are computed. Sums are f64 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32, for inputs of 32 bits and fewer.
    Single,
    /// f64, for f64 inputs or where the recipe asks.
    Double,
}

/// Elements of one input, as stored: little-endian, not necessarily aligned.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Storage type; a float.
    pub dtype: DType,
    /// The bytes of exactly the call's elements. Empty for inputs that the pass does not load.
    pub bytes: &'a [u8],
}

/// Where a pass that stores writes.
#[derive(Debug)]
pub struct Output<'a> {
    /// Storage type; a float.
    pub dtype: DType,
    /// Room for exactly the call's elements.
    pub bytes: &'a mut [u8],
}

/// A NaN or an infinity among the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NonFinite {
    /// Element within the tensor.
    pub element: u64,
    /// Which input of the program.
    pub input: u32,
}

/// A number that was to be a probability, and lies outside of 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Improbable {
    /// Element within the tensor.
    pub element: u64,
    /// The number.
    pub found: f64,
}

/// One stretch of a piece. A piece may come in several calls, in order of index; every stretch but
/// the last of a tensor is a multiple of [`BLOCK`](crate::program::BLOCK) long.
#[derive(Debug)]
pub struct Call<'a> {
    /// The program.
    pub program: &'a Program,
    /// Which of its passes.
    pub pass: &'a Pass,
    /// In which type.
    pub precision: Precision,
    /// Index within the tensor of the first element.
    pub first: u64,
    /// Count of elements.
    pub elements: usize,
    /// All inputs of the program, by position.
    pub inputs: &'a [Input<'a>],
    /// The scalar table.
    pub scalars: &'a [f64],
    /// The cuts found by earlier passes.
    pub cuts: &'a [Cut],
    /// Keys of the random streams.
    pub streams: &'a [u64],
    /// What each selection of the pass does in this round.
    pub rounds: &'a [Round],
    /// Whether reductions accumulate in this round. They do so once per pass.
    pub reduce: bool,
    /// Whether loads look for NaN and infinity.
    pub check_finite: bool,
    /// Present when the pass stores.
    pub output: Option<Output<'a>>,
}

/// A matrix that is held as two factors: `left · right`.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// The factors.
    pub sides: Sides<'a>,
    /// Columns of the left factor, rows of the right one.
    pub rank: usize,
    /// Columns of the product.
    pub columns: usize,
}

/// Both factors, row-major, in the type of the arithmetic: `rows × rank` and `rank × columns`.
#[derive(Clone, Copy, Debug)]
pub enum Sides<'a> {
    /// f32.
    Single(&'a [f32], &'a [f32]),
    /// f64.
    Double(&'a [f64], &'a [f64]),
}

/// What a piece contributes to reductions and selections.
#[derive(Clone, Debug, Default)]
pub struct Partial {
    /// Per reduction of the pass: the value over the elements so far. Filled by [`Worker::finish`].
    pub reductions: Vec<f64>,
    /// Per selection of the pass.
    pub selections: Vec<RoundPartial>,
    /// The first NaN or infinity met: lowest element, then lowest input.
    pub nonfinite: Option<NonFinite>,
    /// The first number met that was to be a probability and is none.
    pub improbable: Option<Improbable>,
}

/// One thread's hold on a backend: its registers and accumulators.
///
/// For each piece: [`begin`](Self::begin), then [`run`](Self::run) for its stretches in order, then
/// [`finish`](Self::finish).
pub trait Worker: Send {
    /// Clears what an earlier piece left.
    fn begin(&mut self, pass: &Pass, precision: Precision, rounds: &[Round]);

    /// Runs one stretch.
    fn run(&mut self, call: Call<'_>);

    /// What the piece contributes.
    fn finish(&mut self) -> Partial;

    /// Writes the elements of a product from `first` on that fill `out`, little-endian, in the type of its
    /// factors. Each is a sum in order of the directions; no operation is fused with another. It has
    /// nothing to do with the piece under way.
    fn multiply(&mut self, matrix: LowRank<'_>, first: u64, out: &mut [u8]);
}

/// Where a matrix op is done. It depends on shapes and parameters alone, never on threads or on what else
/// runs, because bits of results depend on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Placement {
    /// By the backend itself.
    #[default]
    Own,
    /// The part that a device has kernels for is done there, the rest by the backend itself.
    Device(Place),
    /// By the backend itself although it has a device: why, as the end of a sentence.
    Declined(String),
}

/// A device for one op.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Which: `cuda:0`.
    pub device: String,
    /// All of it that bits of results depend on, as in identities.
    pub identity: String,
    /// Bytes of its memory that the op needs.
    pub device_bytes: u64,
    /// Rows that are there at a time.
    pub block_rows: usize,
    /// Seconds there by the device's model, and on the processor of the cost model.
    pub seconds: [f64; 2],
}

/// A device that runs block programs.
pub trait Backend: Send + Sync {
    /// Its name in manifests: `cpu`, `cuda:0`.
    fn name(&self) -> &str;

    /// What a person may want to know: instruction set, device model.
    fn describe(&self) -> String;

    /// A worker for one thread.
    fn worker(&self) -> Box<dyn Worker>;

    /// Bytes a worker holds while it runs this pass, without inputs and output.
    fn worker_bytes(&self, pass: &Pass, precision: Precision) -> u64;

    /// What a matrix op will hold and do on matrices of these shapes.
    ///
    /// **Errors.** [`Stop::Lacks`], as by default, where the backend does not have the op; else the op cannot be
    /// applied to such matrices, whatever their values.
    fn needs(
        &self,
        op: &MatrixOp,
        operands: &OperandShapes,
        precision: Precision,
    ) -> Result<Needs, Stop> {
        let _ = (operands, precision);
        Err(Stop::Lacks(format!("`{}` does not have `{}`", self.name(), op.name())))
    }

    /// Where a matrix op on matrices of these shapes is done.
    fn place(&self, op: &MatrixOp, operands: &OperandShapes, precision: Precision) -> Placement {
        let _ = (op, operands, precision);
        Placement::Own
    }

    /// Does the part of a matrix op that all rows need, on one thread.
    fn prepare(
        &self,
        op: &MatrixOp,
        operands: &mut dyn Operands,
        precision: Precision,
    ) -> Result<Box<dyn Prepared>, Stop> {
        let _ = (operands, precision);
        Err(Stop::Lacks(format!("`{}` does not have `{}`", self.name(), op.name())))
    }
}
