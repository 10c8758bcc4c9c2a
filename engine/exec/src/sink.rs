//! Where output tensors go: the executor's view of the output folder.

use std::fs::File;

use mixdown_checkpoint::output::OutputFolder;
use mixdown_checkpoint::tensor_digest::TensorDigest;
use mixdown_diagnostics::Diagnostic;

use crate::context::internal;
use crate::report::Told;

/// Takes the bytes of output tensors, which are known by their position in the plan's jobs.
///
/// Called from many threads. Each byte of a tensor is written once, in any order, and the tensor is
/// completed after its last byte.
pub trait Sink: Sync {
    /// Whether an earlier run finished this tensor.
    fn is_complete(&self, tensor: usize) -> bool;

    /// Writes bytes at a place within a tensor.
    fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>>;

    /// Lets a tensor share blocks with a file that holds the same bytes from a place on. Returns the
    /// bytes that are now in place: all of the tensor's, or 0.
    fn share(&self, tensor: usize, from: (&File, u64), bytes: u64) -> Result<u64, Box<Diagnostic>> {
        let _ = (tensor, from, bytes);
        Ok(0)
    }

    /// Puts bytes aside until the end of the run, at a place of their own. An earlier run's are gone.
    fn put_aside(&self, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        let _ = (offset, bytes);
        Err(internal("nothing can be put aside here"))
    }

    /// Reads bytes that were put aside.
    fn read_aside(&self, offset: u64, out: &mut [u8]) -> Result<(), Box<Diagnostic>> {
        let _ = (offset, out);
        Err(internal("nothing was put aside"))
    }

    /// Records a tensor as finished, with what making it told.
    fn complete(
        &self,
        tensor: usize,
        digest: TensorDigest,
        told: &Told,
    ) -> Result<(), Box<Diagnostic>>;

    /// What making a tensor told that an earlier run had finished.
    fn told(&self, tensor: usize) -> Told {
        let _ = tensor;
        Told::default()
    }
}

impl Sink for OutputFolder {
    fn is_complete(&self, tensor: usize) -> bool {
        self.finished(tensor).is_some()
    }

    fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        self.write_at(tensor, offset, bytes)
    }

    fn share(&self, tensor: usize, from: (&File, u64), bytes: u64) -> Result<u64, Box<Diagnostic>> {
        self.copy_range(tensor, 0, from.0, from.1, bytes)
    }

    fn put_aside(&self, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        self.put_aside(offset, bytes)
    }

    fn read_aside(&self, offset: u64, out: &mut [u8]) -> Result<(), Box<Diagnostic>> {
        self.read_aside(offset, out)
    }

    /// What was told is not kept: how it is written is for others to say.
    fn complete(
        &self,
        tensor: usize,
        digest: TensorDigest,
        _told: &Told,
    ) -> Result<(), Box<Diagnostic>> {
        self.complete(tensor, digest)
    }
}
