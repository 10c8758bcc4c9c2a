//! What the test suites share: a folder of their own, small checkpoints, files that lie, the real program.
//!
//! Nothing here uses mixdown's own reading or writing of checkpoints, so that a fault there cannot
//! hide itself: tensors are written and read with this crate's code and the `safetensors` crate.

pub mod adapter;
pub mod chat;
pub mod checkpoint;
pub mod compare;
pub mod gguf;
pub mod hub;
pub mod program;
pub mod published;
pub mod quickstart;
pub mod raw;
pub mod read;
pub mod side_files;
pub mod space;
pub mod store;
pub mod tensor;
pub mod torch;
pub mod torch_read;
pub mod upload_hub;
pub mod values;
pub mod yaml;

pub use adapter::{AdapterBuilder, adapter};
pub use chat::{ChatServer, Reply, chat_reply};
pub use checkpoint::{CheckpointBuilder, Layout, checkpoint};
pub use compare::{Tolerance, assert_same_tensors, compare_tensors};
pub use mixdown_tensor::DType;
pub use program::{Outcome, Program, mixdown};
pub use published::published;
pub use read::{Stored, read_checkpoint, read_safetensors};
pub use space::Space;
pub use tensor::Tensor;
pub use yaml::read_yaml;
