//! Checkpoints: what they hold, where they come from, and how a merged one is written.
//!
//! Reading starts at [`hub`] and [`mod@open`]; what was found is an [`index`], which needs no
//! files to be built or used.

pub mod adapter;
pub mod card;
pub mod config;
pub mod digest;
pub mod encoding;
pub mod experts;
pub mod format;
pub mod gguf_file;
pub mod hub;
pub mod index;
pub mod journal;
pub mod known;
pub mod layout;
pub mod links;
pub mod manifest;
pub mod open;
pub mod output;
mod pairs;
pub mod quantize;
mod reread;
pub mod shown;
pub mod side_files;
pub mod small;
pub mod source;
pub mod tensor_digest;
pub mod ties;
pub mod torch_file;
pub mod verify;

pub use adapter::{Adapter, AdapterConfig, AdapterFiles, open_adapter, open_adapter_as};
pub use index::{DuplicateName, Identity, Index, Shard, TensorEntry};
pub use mixdown_files::stored;
pub use open::{Checkpoint, Form, open, open_as};
pub use shown::{bytes_text, shown, shown_path};
pub use source::{ByteSource, FilePool, FileSource, MemorySource, ReadError};
