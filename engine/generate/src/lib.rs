//! Answers prompts with small text models: what a search by answers needs, with nothing else installed.
//!
//! Answers are greedy and are the same bytes on every machine, with every number of threads and however
//! a prompt is cut: every sum is made in one fixed order ([`arithmetic`]), and functions such as the
//! exponential are computed here and not by the system. That is why the forward pass is written out in
//! plain loops and calls no library of matrix products, whose order of summation depends on shapes,
//! threads and instruction sets.

pub mod answer;
pub mod arithmetic;
pub mod attention;
pub mod config;
pub mod input;
pub mod model;
pub mod represent;
pub mod rope;
pub mod template;
pub mod text;
pub mod weights;

/// What decides an answer beside the model and the prompt. The number of `answers` rises when the same
/// model and prompt may be answered otherwise than before: kept answers of another version are not used.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ", answers 1");
