//! What every backend must do, and backends that are made for tests.
//!
//! [`conformance`] takes any [`Backend`](mixdown_ops::Backend) and holds it to [`Plain`], which goes through a
//! program element by element and is worth believing because it is short. [`Counting`] lends its work to another
//! backend and counts what it was asked for, so that tests can say how often something is read without a clock.
//! [`Job`] is one pass over numbers, for tests of single instructions.

pub mod conformance;
mod counting;
pub mod job;
mod plain;

pub use counting::{Counting, Counts};
pub use job::Job;
pub use plain::Plain;
