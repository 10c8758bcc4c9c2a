//! A part of a recipe that treats its tensors alike: which tensors answer, whether they fit, and their graph.

pub(crate) mod alike;
pub(crate) mod beside;
mod configs;
mod lacking;
mod mapped;
pub(crate) mod pair;
pub(crate) mod parameters;
