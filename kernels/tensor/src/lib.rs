//! Element types, shapes, and conversions between them.
//! Knows numbers only: nothing here has heard of files, models or recipes.

pub mod convert;
mod dtype;
mod shape;

pub use dtype::{DType, UnknownDType};
pub use shape::{Shape, ShapeOverflow};
