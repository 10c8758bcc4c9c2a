//! A graph becomes block programs: matrix ops split off, products joined, passes formed.

pub(crate) mod compile;
mod fuse;
pub(crate) mod matrices;
