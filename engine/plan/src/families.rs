//! What is known of model families: what tensors are, and where their layers stand.

pub mod knowledge;
pub(crate) mod layer;
pub(crate) mod tensor_class;
pub(crate) mod tied;
