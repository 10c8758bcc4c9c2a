//! Matrix ops: what needs a whole matrix at once, and what a backend must do to run it.
//!
//! A matrix op takes one or several matrices of one shape `m × n` (`[out, in]`, row-major) and gives
//! one of the same shape, but for Gram matrices, which are `n × n`, and bases. It runs in two steps. [`prepare`](crate::backend::Backend::prepare) reads the operands as often as it
//! wants and keeps what all rows need; [`Prepared::rows`] then computes rows of the result, in any
//! order and in parallel. Operands are never held as a whole unless the op says so in [`Needs`].

pub mod axes;
pub mod interference;
pub mod joint;
mod layout;
pub mod spectral;

pub use interference::Interference;
pub use joint::Joint;
pub use layout::MatrixLayout;
pub use spectral::{Rank, RankAware};

use crate::Precision;
use crate::matrix::axes::{Axis, Blocks, Fact, Karcher};
use crate::matrix::interference::Solver;
use crate::matrix::spectral::{Doge, Reshape};

/// A number that equals itself bit by bit, so that ops with parameters can be compared and hashed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Exact(u64);

impl Exact {
    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for Exact {
    fn from(number: f64) -> Self {
        Self(number.to_bits())
    }
}

impl std::fmt::Debug for Exact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

/// A matrix op with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MatrixOp {
    /// Best approximation of one matrix with a bounded rank.
    TruncatedSvd(Rank),
    /// The nearest matrix with orthonormal rows or columns, of one matrix: U·Vᵀ of its SVD.
    Polar,
    /// The singular values of one matrix on the diagonal of the result.
    SingularValues,
    /// The Gram matrix of one matrix `m × n`, `τᵀ·τ`: `n × n`.
    Gram,
    /// All directions of the sum of all operands with the mean of its singular values: Iso-C.
    Isotropic(RankAware),
    /// Common and task-specific directions with the mean singular value: Iso-CTS. The common share.
    IsotropicCommon(Exact),
    /// Task singular vectors, orthogonalized: TSV-Merge. The rank kept of each.
    TaskSingularVectors(Rank),
    /// Minimizes the interference objective: WUDI, OptMerge, SWUDI, ASWUDI.
    Interference(Interference),
    /// KnOTS: the basis that the columns of all operands share. With `[τ_1 … τ_N] = U·[R_1 … R_N]` the
    /// result has a row for each column of U: the rows of all `R_i` side by side, the column of U, and 1;
    /// zeros for directions without energy. `min(m, N·n) × (N·n + m + 1)`.
    CommonBasis,
    /// What has coordinates in such a basis: `U·x`. Operands: `x`, of which as many rows count as the basis
    /// has, and `Uᵀ`.
    OutOfBasis {
        /// How many matrices share the basis, which bounds its directions.
        experts: u32,
    },
    /// DOGE: the shift Δ that all task vectors share.
    SharedShift(Doge),
    /// RegMean: the least-squares solution from Gram matrices. Operands: the experts' weights, then as
    /// many Gram matrices `n × n`, which [`Operands::shape`] tells.
    Regression {
        /// Share of the Gram matrix off its diagonal that is kept, 0 to 1: `a` of the paper.
        off_diagonal: Exact,
    },
    /// One matrix with other singular values, made from its own.
    Reshaped(Reshape),
    /// SVC: a merged matrix, and those that it was merged from; its singular values divided by the mean over these
    /// of how it projects on them in each left direction, at least `alpha`.
    CalibratedSpectrum {
        /// The least that a projection counts.
        alpha: Exact,
    },
    /// A fact about each row or column of one matrix, or of two for a product: `m × 1` or `1 × n`.
    AxisFact(Fact, Axis),
    /// The place of each magnitude among those of its row, from 0 for the smallest; of equal ones the element
    /// of lower index has the higher place.
    PlaceInRow,
    /// What each matrix counts in the Karcher mean of all of them, each seen as one vector: `N × 1`.
    KarcherWeights(Karcher),
    /// Which matrix has an element among those that are kept for it: 1 for the first, 0 for none.
    BlockOwner(Blocks),
    /// Several whole matrices together.
    Joint(Joint),
    /// The op on operands of which the rounding of their storage is left out, where they are clearly updates of
    /// low rank: see [`Operands::noise`].
    Recovered(Box<MatrixOp>),
}

impl MatrixOp {
    /// Name in stores and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TruncatedSvd(_) => "truncated_svd",
            Self::Polar => "polar",
            Self::SingularValues => "singular_values",
            Self::Gram => "gram",
            Self::Isotropic(_) => "isotropic",
            Self::IsotropicCommon(_) => "isotropic_common",
            Self::TaskSingularVectors(_) => "task_singular_vectors",
            Self::Interference(_) => "interference",
            Self::CommonBasis => "common_basis",
            Self::OutOfBasis { .. } => "out_of_basis",
            Self::SharedShift(_) => "shared_shift",
            Self::Regression { .. } => "regression",
            Self::Reshaped(Reshape::Leading(_)) => "leading_share",
            Self::Reshaped(Reshape::Lifted(_)) => "lift_spectrum",
            Self::CalibratedSpectrum { .. } => "calibrate_spectrum",
            Self::AxisFact(..) => "axis_fact",
            Self::PlaceInRow => "place_in_row",
            Self::KarcherWeights(_) => "karcher_weights",
            Self::BlockOwner(_) => "block_owner",
            Self::Joint(op) => op.name(),
            Self::Recovered(op) => op.name(),
        }
    }

    /// Rows and columns of the result, from those of the first of `count` operands.
    pub fn result_shape(&self, (rows, columns): (u64, u64), count: usize) -> (u64, u64) {
        match self {
            Self::Gram => (columns, columns),
            Self::CommonBasis => {
                let all = columns.saturating_mul(count as u64);
                (rows.min(all), all.saturating_add(rows).saturating_add(1))
            }
            Self::AxisFact(_, Axis::Rows) => (rows, 1),
            Self::AxisFact(_, Axis::Columns) => (1, columns),
            Self::KarcherWeights(_) => (count as u64, 1),
            Self::Joint(Joint::Peak) => (1, 1),
            Self::Recovered(op) => op.result_shape((rows, columns), count),
            _ => (rows, columns),
        }
    }

    /// Whether the result has another count of elements than the operands.
    pub fn has_own_shape(&self) -> bool {
        matches!(
            self.inner(),
            Self::Gram
                | Self::CommonBasis
                | Self::AxisFact(..)
                | Self::KarcherWeights(_)
                | Self::Joint(Joint::Peak)
        )
    }

    /// The op that is applied, to whatever operands.
    pub fn inner(&self) -> &Self {
        match self {
            Self::Recovered(op) => op.inner(),
            op => op,
        }
    }

    /// Whether the op runs on small cores of low-rank operands, and gives its result as factors: those
    /// ops that do not depend on the bases of rows and columns, and leave null directions empty.
    pub fn runs_on_cores(&self, operands: &OperandShapes) -> bool {
        operands.are_low_rank()
            && match self {
                Self::TruncatedSvd(_) | Self::TaskSingularVectors(_) | Self::Reshaped(_) => true,
                Self::Isotropic(aware) => *aware != RankAware::No,
                Self::Interference(Interference { solver, .. }) => {
                    matches!(solver, Solver::Filter(..))
                }
                Self::Recovered(op) => op.runs_on_cores(operands),
                Self::Polar
                | Self::SingularValues
                | Self::Gram
                | Self::IsotropicCommon(_)
                | Self::CommonBasis
                | Self::OutOfBasis { .. }
                | Self::SharedShift(_)
                | Self::Regression { .. }
                | Self::CalibratedSpectrum { .. }
                | Self::AxisFact(..)
                | Self::PlaceInRow
                | Self::KarcherWeights(_)
                | Self::BlockOwner(_)
                | Self::Joint(_) => false,
            }
    }

    /// The most directions of the result where their number is bounded below the operands' shapes. A
    /// backend must give such a result as [`Prepared::factors`], of this rank or a smaller one.
    pub fn result_rank(&self, operands: &OperandShapes) -> Option<usize> {
        let on_cores = self.runs_on_cores(operands);
        let total: usize = operands.ranks.iter().flatten().sum();
        match self.inner() {
            // A share of the directions is read faster as a dense matrix.
            Self::TruncatedSvd(Rank::Count(count)) => {
                let smaller = operands.rows.min(operands.columns);
                let most = if on_cores { total } else { smaller };
                Some((*count as usize).min(most))
            }
            Self::Joint(op) => op.result_rank(operands),
            _ => on_cores.then_some(total),
        }
    }

    /// Counted up when the op's results change: stored results of another version are not read. What an
    /// op stands on alone, such as products and decompositions, counts all of them up.
    pub fn version(&self) -> u32 {
        match self {
            Self::Recovered(op) => op.version(),
            Self::SingularValues | Self::Isotropic(_) | Self::CommonBasis => 6,
            Self::TruncatedSvd(_)
            | Self::TaskSingularVectors(_)
            | Self::Interference(_)
            | Self::Polar
            | Self::IsotropicCommon(_)
            | Self::SharedShift(_)
            | Self::Reshaped(_) => 7,
            Self::CalibratedSpectrum { .. } => 8,
            Self::Gram
            | Self::OutOfBasis { .. }
            | Self::Regression { .. }
            | Self::AxisFact(..)
            | Self::PlaceInRow
            | Self::KarcherWeights(_) => 5,
            Self::BlockOwner(_) | Self::Joint(_) => 1,
        }
    }
}

/// A dense matrix in memory, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Count of rows.
    pub rows: usize,
    /// Count of columns.
    pub columns: usize,
    /// `rows · columns` numbers.
    pub values: Vec<f64>,
}

/// A low-rank matrix: `left · right`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    /// `m × r`.
    pub left: Matrix,
    /// `r × n`. Scales are multiplied in on either side.
    pub right: Matrix,
}

/// Why an op stopped.
#[derive(Debug)]
pub enum Stop {
    /// Reading an operand failed; the reader keeps the reason.
    Reading,
    /// The recipe asks for what cannot be computed. Words for the headline, and what to do.
    Refused(String, String),
    /// The eigensolver did not converge, or a result is NaN: words for the headline.
    Failed(String),
    /// The backend does not have the op: words for the headline.
    Lacks(String),
    /// A device failed: words for the headline, and what to do.
    Device(String, String),
    /// What a device may use of its memory is too little, however few rows are there at a time: words for
    /// the headline, and what to do.
    DeviceMemory(String, String),
}

/// What an op reads. One for each thread.
pub trait Operands {
    /// How many there are.
    fn count(&self) -> usize;

    /// Rows and columns of an operand.
    fn shape(&self, operand: usize) -> (usize, usize);

    /// Reads whole rows from `first_row` on, as many as `values` has room for, widened to f64.
    /// An operand that is given as factors is multiplied out.
    fn read(&mut self, operand: usize, first_row: usize, values: &mut [f64]) -> Result<(), Stop>;

    /// The same as f32, for the iterations that run in it.
    fn read_single(
        &mut self,
        operand: usize,
        first_row: usize,
        values: &mut [f32],
    ) -> Result<(), Stop>;

    /// The rank of an operand that is given as factors; none for a dense one.
    fn rank(&self, operand: usize) -> Option<usize>;

    /// The factors of an operand that is given so.
    fn factors(&mut self, operand: usize) -> Result<Factors, Stop>;

    /// How large, in the spectral norm, what rounding for storage has done to rows of an operand is at most: where
    /// each stored number is off by up to half a unit in its last place, independently of the others, the root of
    /// the largest sum of variances over a row, and that over a column. None where the operand is no linear
    /// combination of stored numbers, or nothing is known of how they were rounded.
    fn noise(
        &mut self,
        operand: usize,
        first_row: usize,
        rows: usize,
    ) -> Result<Option<f64>, Stop> {
        let _ = (operand, first_row, rows);
        Ok(None)
    }

    /// Puts numbers aside, from a place among the op's own on: as many bytes in all as [`Needs::aside_bytes`] says.
    /// They are there until the op's rows are computed.
    fn put_aside(&mut self, first: usize, numbers: &[f64]) -> Result<(), Stop> {
        let _ = (first, numbers);
        Err(Stop::Failed("there is no place to put numbers aside".to_owned()))
    }

    /// Reads numbers that were put aside.
    fn read_aside(&mut self, first: usize, numbers: &mut [f64]) -> Result<(), Stop> {
        let _ = (first, numbers);
        Err(Stop::Failed("no numbers were put aside".to_owned()))
    }
}

/// What is known of the operands before anything is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperandShapes {
    /// Rows of the first operand.
    pub rows: usize,
    /// Columns of the first operand.
    pub columns: usize,
    /// For each operand its rank, if it comes as factors.
    pub ranks: Vec<Option<usize>>,
}

impl OperandShapes {
    /// Whether all operands are factors and together have fewer directions than the smaller side.
    pub fn are_low_rank(&self) -> bool {
        let total: Option<usize> = self.ranks.iter().copied().sum();
        total.is_some_and(|total| total < self.rows.min(self.columns))
    }
}

/// What an op will hold and do, in bytes and in floating-point operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes at the peak of [`prepare`](crate::backend::Backend::prepare).
    pub prepare_bytes: u64,
    /// Bytes that a [`Prepared`] holds.
    pub held_bytes: u64,
    /// Bytes that lie aside, outside memory, until all rows are computed.
    pub aside_bytes: u64,
    /// Bytes that one call of [`Prepared::rows`] takes for itself, for a block of
    /// [`block_rows`](Self::block_rows) rows.
    pub rows_bytes: u64,
    /// Rows that one call of [`Prepared::rows`] should get. The result does not depend on it.
    pub block_rows: usize,
    /// Operations in all: 2 for a product and its sum.
    pub flops: u64,
    /// The rank of the result where it is bounded and the result comes as factors.
    pub result_rank: Option<usize>,
}

/// What a person may want to know of one result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The objective at the start and at the end, where the op has one: what is known of it before rows
    /// are computed. What [`Prepared::rows`] returns is to be added.
    pub loss: Option<(f64, f64)>,
    /// Frobenius norm of the result, where it is known without another pass.
    pub norm: Option<f64>,
    /// Directions kept: of each operand, or of the whole system.
    pub ranks: Vec<usize>,
    /// `(σ_k − σ_{k+1}) / σ_1` at the cut: the smallest over the operands. Below 1e-6 the truncated
    /// matrix is not a function of its input in practice.
    pub gap: Option<f64>,
    /// The objective and the result's norm at some of the steps, in their order, where an op that descends
    /// sees them without computing more: all of them where iterations are in f64, else the first and last.
    pub curve: Vec<Point>,
    /// What is known of the rounding in each operand whose noise is known.
    pub noise: Vec<Noise>,
    /// What else is worth a warning, in words.
    pub notes: Vec<String>,
}

/// Where a descent is after so many steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Steps so far.
    pub step: u32,
    /// The objective.
    pub loss: f64,
    /// Frobenius norm of what is descended on.
    pub norm: f64,
}

/// The rounding of an operand's storage, and what stands out of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// The bound of its spectral norm.
    pub floor: f64,
    /// Directions above it, where they are clearly apart from those below: what the op was applied to.
    pub rank: Option<usize>,
    /// The first singular value that is left out over the last that is not.
    pub ratio: Option<f64>,
}

/// An op whose preparation is done.
pub trait Prepared: Send + Sync {
    /// Computes rows of the result from `first_row` on, as many as `values` has room for. `first_row` is a
    /// multiple of [`Needs::block_rows`], and so is the count of rows, but for the last call of a matrix:
    /// the same row then gets the same bits however rows are grouped. Partial losses of these rows, at start and end,
    /// are returned where the op has a loss that is a sum over rows.
    fn rows(
        &self,
        operands: &mut dyn Operands,
        first_row: usize,
        values: &mut [f64],
    ) -> Result<(f64, f64), Stop>;

    /// The result as factors, where [`Needs::result_rank`] promised them.
    fn factors(&self) -> Option<&Factors> {
        None
    }

    /// What is known before rows are computed.
    fn report(&self) -> Report;
}

/// The type of iterations inside an op, from the type of the merge's arithmetic: what is f64 in any
/// case (Gram matrices, eigenproblems) stays so.
pub type Arithmetic = Precision;
