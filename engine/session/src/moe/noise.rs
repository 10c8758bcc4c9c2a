//! An expert's tensor with noise on it, made while it is read.

use std::sync::Arc;

use mixdown_checkpoint::{ByteSource, ReadError, TensorEntry};

use crate::numbers::{normal, number, store};

/// Normal numbers of one size on a stored tensor of floating-point numbers.
pub(super) struct Noisy {
    entry: TensorEntry,
    source: Arc<dyn ByteSource>,
    scale: f64,
    /// The stream of its noise.
    key: u64,
}

impl Noisy {
    /// None of a tensor that is not stored as floating-point numbers.
    pub fn new(
        entry: &TensorEntry,
        source: Arc<dyn ByteSource>,
        scale: f64,
        key: u64,
    ) -> Option<Self> {
        let is_plain = entry.encoding.is_none()
            && number(entry.dtype, &vec![0; entry.dtype.bytes()]).is_some();
        is_plain.then(|| Self { entry: entry.clone(), source, scale, key })
    }
}

impl ByteSource for Noisy {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let width = self.entry.dtype.bytes() as u64;
        // Whole numbers around what is asked for.
        let first = offset / width;
        let last = (offset + buffer.len() as u64).div_ceil(width);
        let mut bytes = vec![0; ((last - first) * width) as usize];
        self.source.read_exact_at(self.entry.offset + first * width, &mut bytes)?;
        let stored = bytes.chunks_exact(width as usize);
        let noisy: Vec<f64> = (first..)
            .zip(stored)
            .map(|(at, bytes)| {
                number(self.entry.dtype, bytes).unwrap_or_default()
                    + self.scale * normal(self.key, at)
            })
            .collect();
        let mut made = Vec::with_capacity(bytes.len());
        store(&noisy, self.entry.dtype, &mut made);
        let skipped = (offset - first * width) as usize;
        buffer.copy_from_slice(&made[skipped..skipped + buffer.len()]);
        Ok(())
    }

    fn will_need(&self, offset: u64, length: u64) {
        self.source.will_need(self.entry.offset + offset, length);
    }

    fn len(&self) -> u64 {
        self.entry.shape.elements() * self.entry.dtype.bytes() as u64
    }
}
