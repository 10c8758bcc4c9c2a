//! The formats that checkpoints come in. A format is recognized from its bytes, never from the
//! name of a file.

pub mod gguf;
pub mod safetensors;
pub mod torch;

use std::collections::BTreeMap;

use mixdown_diagnostics::Diagnostic;

use crate::index::TensorEntry;
use crate::source::ByteSource;

/// What the header of one file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The tensors, in the order of their offsets; [`TensorEntry::shard`] is 0.
    pub tensors: Vec<TensorEntry>,
    /// Free text that the file carries.
    pub metadata: BTreeMap<String, String>,
    /// What the user should know and may ignore.
    pub warnings: Vec<Diagnostic>,
}

/// A way to lay tensors out in a file.
pub trait Format: Sync {
    /// Its name, as messages use it.
    fn name(&self) -> &'static str;

    /// Whether a file that starts with these bytes (up to [`START`]) is of this format.
    fn recognizes(&self, start: &[u8]) -> bool;

    /// Reads and checks the header.
    ///
    /// **Errors.** All that is wrong with the file, each with its place; `shown` names the file.
    /// After success every tensor lies inside the file. None overlaps another, unless the format
    /// lets tensors share bytes and the file says that these do.
    fn read_header(&self, source: &dyn ByteSource, shown: &str) -> Result<Header, Vec<Diagnostic>>;
}

/// How many bytes [`Format::recognizes`] wants to see.
pub const START: usize = 64;

/// The formats that are read.
pub const FORMATS: &[&dyn Format] = &[&gguf::Gguf, &safetensors::Safetensors, &torch::Torch];

/// The format of a file that starts with these bytes, if it is read.
pub fn recognize(start: &[u8]) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| format.recognizes(start))
}

/// The name of a format that is known but not read, from a file's first bytes.
pub fn recognize_unread(start: &[u8]) -> Option<&'static str> {
    // A pickle of protocol 2 and up, HDF5's signature.
    const UNREAD: [(&[u8], &str); 3] = [
        (b"\x80\x02", "a pickle, but not PyTorch's"),
        (b"\x80\x04", "a pickle, but not PyTorch's"),
        (b"\x89HDF\r\n", "HDF5"),
    ];
    UNREAD.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| *name)
}

/// The name of a format that is known but not read, from a file's name.
///
/// For the message about a folder without weights only.
pub fn unread_by_name(file: &str) -> Option<&'static str> {
    const UNREAD: [(&str, &str); 3] = [(".h5", "Keras"), (".msgpack", "Flax"), (".onnx", "ONNX")];
    UNREAD.iter().find(|(ending, _)| file.ends_with(ending)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognized_from_their_bytes() {
        let header = b"\x40\0\0\0\0\0\0\0{\"a\":{}}";
        assert_eq!(recognize(header).map(Format::name), Some("safetensors"));
        assert_eq!(recognize_unread(header), None);
        assert_eq!(recognize(b"GGUF\x03\0\0\0{").map(Format::name), Some("GGUF"));
        assert_eq!(recognize(b"PK\x03\x04").map(Format::name), Some("PyTorch"));
        let old = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
        assert_eq!(recognize(old).map(Format::name), Some("PyTorch"));
        let other = b"\x80\x02}q\0.";
        assert!(recognize(other).is_none());
        assert_eq!(recognize_unread(other), Some("a pickle, but not PyTorch's"));
        assert!(recognize(b"").is_none() && recognize_unread(b"").is_none());
    }

    #[test]
    fn weights_of_other_formats_are_named() {
        assert_eq!(unread_by_name("model.onnx"), Some("ONNX"));
        assert_eq!(unread_by_name("config.json"), None);
    }
}
