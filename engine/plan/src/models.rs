//! Models as recipes see them, whatever they are made of.

pub(crate) mod described;
pub(crate) mod experts;
mod imported;
pub(crate) mod like;
pub mod map;
pub(crate) mod request;
mod tokenizer;
pub(crate) mod tokenizer_file;
pub(crate) mod view;
pub(crate) mod vocabulary;
