//! The body of a recipe: which tensors of the output its rules, slices and modules make.

pub(crate) mod averaged;
pub(crate) mod context;
mod module_names;
pub(crate) mod modules;
pub(crate) mod rules;
pub(crate) mod unused;
