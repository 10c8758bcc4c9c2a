//! Made tensors become the jobs of a plan, and what is written beside them.

mod adapter;
pub(crate) mod finish;
mod gguf;
mod kept_codes;
pub mod quantize;
