//! How the matrices of a weight lie in its tensor.

use super::{Joint, MatrixOp};

/// How the matrices of a weight lie in its tensor: one, or one after another, each row-major as
/// `[out, in]` or as `[in, out]`.
///
/// The kernel of a convolution, `[out, in, …]`, is one matrix of all that follows the first axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatrixLayout {
    /// How many there are: one, or one for each expert.
    pub matrices: u64,
    /// Rows of each as it is stored.
    pub rows: u64,
    /// Columns of each as it is stored.
    pub columns: u64,
    /// Whether it is stored as `[in, out]`, so that what ops see is its transpose.
    pub inputs_first: bool,
}

impl MatrixLayout {
    /// One matrix that is stored as `[out, in]`.
    pub fn plain(rows: u64, columns: u64) -> Self {
        Self { matrices: 1, rows, columns, inputs_first: false }
    }

    /// Whether the tensor is the matrix that ops see.
    pub fn is_plain(&self) -> bool {
        self.matrices == 1 && !self.inputs_first
    }

    /// Rows and columns of each matrix as ops see it: `[out, in]`.
    pub fn shape(&self) -> (u64, u64) {
        match self.inputs_first {
            true => (self.columns, self.rows),
            false => (self.rows, self.columns),
        }
    }

    /// Rows and columns of all matrices as they are stored, one beneath another.
    pub fn stored(&self) -> (u64, u64) {
        (self.rows.saturating_mul(self.matrices), self.columns)
    }

    /// Rows and columns of one of `count` operands of an op, as it lies in memory.
    pub fn of_operand(&self, op: &MatrixOp, operand: usize, count: usize) -> (u64, u64) {
        if op.reads_weight(operand, count) {
            return self.stored();
        }
        let (rows, columns) = self.shape();
        let (rows, columns) = match op {
            // Weights `[out, in]`, then as many Gram matrices `[in, in]`.
            MatrixOp::Regression { .. } => (columns, columns),
            // Coordinates like a weight, then the basis, one row for each direction.
            MatrixOp::OutOfBasis { experts } if operand == 1 => {
                (self.basis_rows(u64::from(*experts)), rows)
            }
            _ => (rows, columns),
        };
        (rows.saturating_mul(self.matrices), columns)
    }

    /// Rows that the basis of each matrix and of as many experts is stored in: one for each direction. Bases of
    /// a stack have rows of zeros beneath, as many as a matrix has rows, so that the rows of coordinates of all
    /// matrices follow one another.
    pub fn basis_rows(&self, experts: u64) -> u64 {
        let (rows, columns) = self.shape();
        match self.matrices {
            1 => rows.min(columns.saturating_mul(experts)),
            _ => rows,
        }
    }

    /// Rows and columns of an op's result from `count` operands, as it lies in memory.
    pub fn of_result(&self, op: &MatrixOp, count: usize) -> (u64, u64) {
        match op.gives_weight() {
            true => self.stored(),
            false => {
                let (rows, columns) = op.result_shape(self.shape(), count);
                let rows = match op.inner() {
                    MatrixOp::CommonBasis => self.basis_rows(count as u64),
                    _ => rows,
                };
                (rows.saturating_mul(self.matrices), columns)
            }
        }
    }

    /// The same for an op whose result is that of the transpose, transposed: it needs not see which axis
    /// is which.
    #[must_use]
    pub fn seen_by(self, op: &MatrixOp) -> Self {
        Self { inputs_first: self.inputs_first && op.tells_sides_apart(), ..self }
    }
}

impl MatrixOp {
    /// Whether the op of a transpose is more than the transpose of its result: whether outputs and inputs
    /// play different parts.
    pub fn tells_sides_apart(&self) -> bool {
        match self.inner() {
            Self::Recovered(_) => true,
            Self::TruncatedSvd(_)
            | Self::Polar
            | Self::SingularValues
            | Self::Isotropic(_)
            | Self::Reshaped(_)
            | Self::TaskSingularVectors(_) => false,
            Self::Gram
            | Self::IsotropicCommon(_)
            | Self::Interference(_)
            | Self::CommonBasis
            | Self::OutOfBasis { .. }
            | Self::SharedShift(_)
            | Self::Regression { .. }
            | Self::CalibratedSpectrum { .. }
            | Self::AxisFact(..)
            | Self::PlaceInRow
            | Self::KarcherWeights(_)
            | Self::BlockOwner(_)
            | Self::Joint(_) => true,
        }
    }

    /// Whether an operand lies as the weight does. Coordinates, bases and Gram matrices have places of
    /// their own.
    pub fn reads_weight(&self, operand: usize, count: usize) -> bool {
        match self.inner() {
            Self::OutOfBasis { .. } => false,
            Self::Regression { .. } => operand < count / 2,
            _ => true,
        }
    }

    /// Whether the result lies as the weight does.
    pub fn gives_weight(&self) -> bool {
        !self.has_own_shape()
    }

    /// Whether the op can be applied to each matrix of a stack by itself.
    pub fn takes_stacks(&self) -> bool {
        !matches!(self.inner(), Self::Gram | Self::Joint(Joint::Peak | Joint::Rotations(_)))
    }
}
