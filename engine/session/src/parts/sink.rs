//! The output of a part, as the executor sees it: a plan's tensors, of which it takes a stretch.

use std::fs::File;
use std::ops::Range;

use mixdown_checkpoint::output::OutputFolder;
use mixdown_checkpoint::tensor_digest::TensorDigest;
use mixdown_diagnostics::Diagnostic;
use mixdown_exec::{Sink, Told};

use crate::told;

/// An output folder for a stretch of the tensors that a plan stores. The others count as complete, so that
/// nothing is made of them but what these need to know.
pub struct PartSink<'a> {
    /// Has these tensors alone, in order.
    pub output: &'a OutputFolder,
    /// Positions among all.
    pub tensors: Range<usize>,
}

impl PartSink<'_> {
    fn own(&self, tensor: usize) -> usize {
        tensor - self.tensors.start
    }
}

impl Sink for PartSink<'_> {
    fn is_complete(&self, tensor: usize) -> bool {
        !self.tensors.contains(&tensor) || self.output.finished(self.own(tensor)).is_some()
    }

    fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        self.output.write_at(self.own(tensor), offset, bytes)
    }

    fn share(&self, tensor: usize, from: (&File, u64), bytes: u64) -> Result<u64, Box<Diagnostic>> {
        self.output.copy_range(self.own(tensor), 0, from.0, from.1, bytes)
    }

    fn put_aside(&self, offset: u64, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        self.output.put_aside(offset, bytes)
    }

    fn read_aside(&self, offset: u64, out: &mut [u8]) -> Result<(), Box<Diagnostic>> {
        self.output.read_aside(offset, out)
    }

    fn complete(
        &self,
        tensor: usize,
        digest: TensorDigest,
        told: &Told,
    ) -> Result<(), Box<Diagnostic>> {
        let text = (!told.is_empty()).then(|| told::json(told).to_string());
        self.output.complete_telling(self.own(tensor), digest, text)
    }

    fn told(&self, tensor: usize) -> Told {
        if !self.tensors.contains(&tensor) {
            return Told::default();
        }
        let text = self.output.told(self.own(tensor));
        let value = text.and_then(|text| serde_json::from_str(text).ok());
        value.and_then(|value| told::read(&value)).unwrap_or_default()
    }
}
