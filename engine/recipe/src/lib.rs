//! Recipes and method files: text in, types and diagnostics out. All errors of a text are reported at once.
//!
//! Nothing here knows which ops or methods exist, or reads a checkpoint.

pub mod expression;
pub mod method;
pub mod pattern;
pub mod recipe;
pub mod schema;
pub mod setting;
pub mod tree;
pub mod yaml;

pub use expression::{Expression, ExpressionKind};
pub use method::Method;
pub use pattern::Pattern;
pub use recipe::Recipe;
