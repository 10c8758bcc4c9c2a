//! Where results of matrix ops are kept from one run to the next.

use mixdown_ops::Precision;
use mixdown_ops::matrix::Report;

use crate::held::Held;

/// Keeps results of matrix ops. A result that is not there is computed; whether it is kept changes
/// nothing but the time that a merge takes.
pub trait Results: Sync {
    /// The result of a job's matrix op, if it is kept: the same bits as computing it gives.
    fn load(&self, job: u32, step: usize, precision: Precision) -> Option<(Held, Report)>;

    /// Keeps a result that took so many floating-point operations, if that is worth it. Failing to is
    /// no failure of the merge.
    fn keep(&self, job: u32, step: usize, flops: u64, held: &Held, report: &Report);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoResults;

impl Results for NoResults {
    fn load(&self, _: u32, _: usize, _: Precision) -> Option<(Held, Report)> {
        None
    }

    fn keep(&self, _: u32, _: usize, _: u64, _: &Held, _: &Report) {}
}
