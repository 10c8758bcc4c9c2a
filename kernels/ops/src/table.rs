//! The list of elementwise ops, one line each, in alphabetical order.

/// An elementwise op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapOp {
    /// a + b
    Add,
}
