//! Runs a plan within a memory budget, on any number of threads, always to the same bytes.
//!
//! Start reading at [`run()`]. A plan becomes flows, one for each tensor; a flow goes through the
//! passes of its program in rounds of pieces, and the scheduler hands pieces of several flows to a
//! pool of threads. Nothing here names a backend, a method or a file format, and nothing prints.

mod assembled;
mod budget;
mod check;
mod codes;
mod context;
mod copy;
mod encoded;
mod footprint;
mod hands;
mod held;
mod lineup;
mod matrix;
mod matrix_needs;
mod merge;
mod messages;
mod needs;
mod noise;
mod part;
mod places;
mod progress;
mod read;
mod report;
mod resources;
mod results;
mod rounds;
mod row_means;
mod rows;
mod run;
mod scheduler;
mod sink;
mod sizing;
mod stages;
mod steps;
mod sums;
mod turned;
mod widen;

pub use footprint::{DeviceUse, Footprint, JobCost, footprint, job_costs};
pub use held::{Held, Values};
pub use matrix_needs::{Placements, placements};
pub use messages::overflow as overflow_warning;
pub use progress::{Progress, Silent};
pub use read::Source;
pub use report::{MatrixReport, Outcome, Overflow, QuantizeLoss, Report, StorageLoss, Told};
pub use results::{NoResults, Results};
pub use run::{Options, run};
pub use sink::Sink;
