//! Faults on purpose: the program with any of its system calls failing, coming short or being its last
//! (`campaign.rs`), the power going at any moment (`cuts.rs`), and its readers with damaged files
//! (`readers.rs`). `main.rs` runs them for as long as
//! there is time and prints figures; the tests run a few of each.

pub mod campaign;
pub mod commands;
pub mod cuts;
mod disk;
pub mod random;
pub mod readers;
pub mod shim;
mod tape;
