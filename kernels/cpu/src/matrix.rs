//! Ops on whole matrices.

pub mod adam;
