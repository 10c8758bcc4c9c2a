//! Parameters of ops that look at rows, at columns, or at the products of whole matrices.

use super::Exact;

/// Along what a fact is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// One for each row: over the last dimension of a tensor.
    Rows,
    /// One for each column: over the first dimension of a tensor.
    Columns,
}

impl Axis {
    /// Rows and columns of a tensor of any shape. What has fewer than two dimensions is one row.
    pub fn view(self, dimensions: &[u64]) -> (u64, u64) {
        let product = |sizes: &[u64]| sizes.iter().copied().fold(1, u64::saturating_mul);
        match (dimensions, self) {
            ([] | [_], _) => (1, product(dimensions)),
            ([others @ .., last], Self::Rows) => (product(others), *last),
            ([first, others @ ..], Self::Columns) => (*first, product(others)),
        }
    }

    /// Along what the fact really goes: a tensor that is one row has one fact.
    pub fn of(self, dimensions: &[u64]) -> Self {
        if dimensions.len() < 2 { Self::Rows } else { self }
    }
}

/// A number made from the elements of a row or of a column, summed in f64 in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// Σ a.
    Sum,
    /// Σ a·b; of one operand Σ a².
    SumProduct,
    /// The largest, with its sign. NaN are passed over.
    Highest,
}

/// The Karcher mean of points on a sphere, as mergekit iterates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Karcher {
    /// Most steps.
    pub max_iter: u32,
    /// Lengths and angles below this are none.
    pub tol: Exact,
}

/// Which matrix keeps which elements where each keeps so many of every block of what those before it left:
/// CABS. The blocks are of elements in their order, through all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blocks {
    /// Elements that each keeps of a block, those of largest magnitude; of equal ones the first.
    pub count: u32,
    /// Elements of a block; at least 1.
    pub block: u32,
    /// Whether elements of a last block that is shorter can be kept.
    pub keeps_tail: bool,
}
