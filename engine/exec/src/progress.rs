//! What a run tells while it runs.

/// Hears how a run goes. Called from many threads and often: answers must be quick.
pub trait Progress: Sync {
    /// Before the first byte: tensors that will be made, and about how many bytes will be read and
    /// written for them.
    fn started(&self, tensors: usize, bytes: u64) {
        let _ = (tensors, bytes);
    }

    /// A part of the work begins; in a few words, for people.
    fn stage(&self, text: &str) {
        let _ = text;
    }

    /// Bytes read and written since the last call.
    fn bytes(&self, read: u64, written: u64) {
        let _ = (read, written);
    }

    /// An output tensor is written and recorded.
    fn tensor_done(&self, name: &str) {
        let _ = name;
    }
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
