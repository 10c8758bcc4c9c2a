//! What programs read: tensors of inputs, and what is put together from them.

use mixdown_ops::matrix::Exact;
use mixdown_tensor::DType;

/// A tensor of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorRef {
    /// Position in [`Plan::models`].
    pub model: u32,
    /// Position in that checkpoint's index.
    pub tensor: u32,
}

/// An input of a block program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// A tensor as stored; its type is a float.
    Tensor(TensorRef),
    /// An embedding put together from rows: position in [`Plan::rows`].
    Rows(u32),
    /// A tensor put together from parts of others: position in [`Plan::assembled`], type.
    Assembled(u32, DType),
    /// The update of an adapter, never multiplied out as a whole.
    Product(Product),
    /// The result of a matrix op: position in [`Merge::matrices`].
    Matrix(u32),
    /// A part of the result of a matrix op: position in [`Merge::matrices`].
    Part(u32, Rectangle),
    /// One side of a matrix that is written as factors: [`Merge::factor`].
    Factor,
}

impl Leaf {
    /// The matrix op whose result it is, or a part of.
    pub fn step(&self) -> Option<usize> {
        match self {
            Self::Matrix(step) | Self::Part(step, _) => Some(*step as usize),
            _ => None,
        }
    }
}

/// The update of a low-rank adapter: `scale · left · right`, or its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// `[rows, rank]`, or `[columns, rank]` if transposed.
    pub left: TensorRef,
    /// `[rank, columns]`, or `[rank, rows]` if transposed.
    pub right: TensorRef,
    /// Rank; with 0 there is no update, and neither factor is read.
    pub rank: u32,
    /// Rows of the weight.
    pub rows: u64,
    /// Columns of the weight.
    pub columns: u64,
    /// Factor.
    pub scale: Exact,
    /// Whether the weight is updated by the transposed product.
    pub transposed: bool,
}

/// A part of a matrix, seen as a matrix of its own: steps through its elements from a place on, and zeros
/// beneath the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rectangle {
    /// The element of the matrix that comes first.
    pub start: u64,
    /// Elements from one row to the next.
    pub row_step: u64,
    /// Elements from one column to the next; with 0 all columns are one.
    pub column_step: u64,
    /// Rows that are there.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
}

impl Rectangle {
    /// The elements of the matrix before which it ends.
    pub fn end(&self) -> Option<u64> {
        let (Some(row), Some(column)) = (self.rows.checked_sub(1), self.columns.checked_sub(1))
        else {
            return Some(0);
        };
        let rows = row.checked_mul(self.row_step)?;
        let columns = column.checked_mul(self.column_step)?;
        self.start.checked_add(rows)?.checked_add(columns)?.checked_add(1)
    }
}

/// An embedding (`[vocabulary, ..]`) put together row by row, for models whose vocabularies differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    /// The tensors that rows come from; all have the same row length, and float types.
    pub tensors: Vec<TensorRef>,
    /// Elements of one row.
    pub row_elements: u64,
    /// One for each output row.
    pub rows: Vec<RowSource>,
}

/// Where one row of an embedding comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowSource {
    /// A row of a tensor: position in [`Rows::tensors`], row.
    Row(u32, u32),
    /// Zeros.
    Zero,
    /// The mean of these rows.
    Mean(Vec<(u32, u32)>),
    /// Padding: the mean of all rows of this embedding that are not padding.
    MeanOfRows,
}
