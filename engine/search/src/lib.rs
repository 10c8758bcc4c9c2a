//! Searches a parameter of a recipe: candidates are merged, answer the same prompts, and the one whose
//! answers differ least from its neighbors' is chosen; or a program scores them.
//!
//! What is compared and chosen is pure. Files, programs and servers are touched in `generate`, `process`,
//! `cache`, `prompts`, `score`, `embed` and `http`. Nothing here knows how a candidate is merged.

pub mod cache;
pub mod cma;
pub mod decimal;
pub mod early_exit;
pub mod embed;
pub mod generate;
pub mod grid;
pub mod http;
pub mod normalize;
pub mod objective;
pub mod optimizer;
pub mod process;
pub mod prompts;
pub mod report;
pub mod responses;
pub mod run;
pub mod schema;
pub mod score;
pub mod settings;
pub mod subset;

mod json_lines;
