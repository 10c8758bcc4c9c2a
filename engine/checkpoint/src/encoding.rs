//! Weights that lie in files as codes beside scales: which tensors belong together, and what they stand
//! for. A packed code is never a number, whatever element type stores it.
//!
//! Everything above sees the tensor that codes and scales make: its own name and shape, and f32, which
//! holds the values exactly. One file for each family of codecs; what none of them claims and what still
//! looks packed is refused.

mod affine;
mod awq;
mod bitsandbytes;
mod blocks;
mod claims;
mod compressed;
pub(crate) mod gguf;
mod gptq;
mod groups;
mod hqq;
mod mlx;
mod modelopt;
mod mxfp4;
mod promises;
mod scaled;
mod settings;
mod signs;
mod torchao;
mod unpack;
mod values;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

pub use blocks::Blocks;
pub(crate) use blocks::Held;
pub(crate) use claims::{Context, logical};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::DType;
pub(crate) use settings::Settings;

use crate::index::TensorEntry;
use crate::shown::shown;
use crate::source::ReadError;

/// Reads bytes of a checkpoint: which shard, from which byte on.
pub type ReadAt<'a> = dyn Fn(u32, u64, &mut [u8]) -> Result<(), ReadError> + 'a;

/// How a tensor lies in files when it is not stored as numbers.
#[derive(Clone)]
pub struct Encoding {
    scheme: Arc<str>,
    model_dtype: DType,
    parts: Vec<TensorEntry>,
    codec: Arc<dyn Codec>,
}

/// Makes values of stored parts.
pub(crate) trait Codec: fmt::Debug + Send + Sync {
    /// The values from an element on.
    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError>;

    /// Bytes of what it makes once and keeps in [`Blocks`] for all stretches.
    fn held_bytes(&self) -> u64 {
        0
    }

    /// All settings of a tensor that is computed from others, in words; none where codes lie in files.
    fn computed(&self) -> Option<String> {
        None
    }
}

impl Encoding {
    /// A tensor that is computed from stored ones.
    pub(crate) fn computed(
        scheme: String,
        model_dtype: DType,
        parts: Vec<TensorEntry>,
        codec: Arc<dyn Codec>,
    ) -> Self {
        Self { scheme: scheme.into(), model_dtype, parts, codec }
    }

    /// Whether it is computed from tensors of an adapter, rather than stored as codes.
    pub fn is_computed(&self) -> bool {
        self.codec.computed().is_some()
    }

    /// What tells it from others over the same parts: the codec with all its settings.
    pub fn identity(&self) -> String {
        match self.codec.computed() {
            Some(settings) => format!("{} {settings}", self.scheme),
            None => self.scheme.as_ref().to_owned(),
        }
    }

    /// Bytes of what is kept in [`Blocks`] while it is read.
    pub fn held_bytes(&self) -> u64 {
        self.codec.held_bytes()
    }

    /// Bytes that one reading takes for itself at most, whatever its length: what is read ahead of each part, and
    /// what a stretch is decoded in.
    pub fn reading_bytes(&self) -> u64 {
        /// Codes, scales and zero points of a segment, and values on the stack.
        const DECODED: u64 = 64 << 10;
        /// Of a tensor that is joined of many parts a reading takes few.
        const MOST_PARTS: usize = 8;
        self.parts.len().min(MOST_PARTS) as u64 * Ahead::MOST as u64 + DECODED
    }

    /// The codec with its settings, in words: `fp8 e4m3, blocks of 128 x 128`.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The type in which the model calculates with the tensor: what it is written as, unless a recipe
    /// says otherwise.
    pub fn model_dtype(&self) -> DType {
        self.model_dtype
    }

    /// The stored tensors that it is made of, codes first.
    pub fn parts(&self) -> &[TensorEntry] {
        &self.parts
    }

    /// The same in another shard of a checkpoint.
    pub(crate) fn in_shard(&self, shard: u32) -> Self {
        let parts = self.parts.iter().map(|part| TensorEntry { shard, ..part.clone() }).collect();
        Self { parts, ..self.clone() }
    }

    /// The same where so many other shards come first.
    pub(crate) fn moved(&self, more: u32) -> Self {
        let parts = self.parts.iter().map(|part| {
            let shard = part.shard + more;
            part.clone().moved(more, shard)
        });
        Self { parts: parts.collect(), ..self.clone() }
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(TensorEntry::bytes).fold(0, u64::saturating_add)
    }

    /// Fills `buffer` with the values from an element on, as f32 in little endian.
    pub(crate) fn read(
        &self,
        (name, elements): (&str, u64),
        first: u64,
        buffer: &mut [u8],
        from: &ReadAt<'_>,
        blocks: &Blocks,
    ) -> Result<(), ReadError> {
        /// Values that are decoded at a time, on the stack.
        const STRETCH: usize = 2048;
        let share = (buffer.len() / 4) as f64 / elements.max(1) as f64;
        let ahead = self.parts.iter().map(|part| Ahead::of(part, share)).collect();
        let reader = Reader { encoding: self, name, from, blocks, ahead: RefCell::new(ahead) };
        let mut values = [0.0_f32; STRETCH];
        for (number, bytes) in (0..).zip(buffer.chunks_mut(STRETCH * 4)) {
            let values = &mut values[..bytes.len() / 4];
            self.codec.decode(&reader, first + number * STRETCH as u64, values)?;
            for (four, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *four = value.to_le_bytes();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoding").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl PartialEq for Encoding {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity() && self.parts == other.parts
    }
}

impl Eq for Encoding {}

/// The stored parts of one tensor, for its codec.
pub(crate) struct Reader<'a> {
    encoding: &'a Encoding,
    name: &'a str,
    from: &'a ReadAt<'a>,
    blocks: &'a Blocks,
    /// For each part what was read behind what was asked for: rows and their scales mostly follow each other,
    /// and a call of the system costs more than decoding what it reads.
    ahead: RefCell<Vec<Ahead>>,
}

/// Bytes of a part.
#[derive(Debug, Default)]
struct Ahead {
    start: u64,
    bytes: Vec<u8>,
    /// How many are read at once.
    window: usize,
}

impl Ahead {
    /// Most bytes of a part that are kept.
    const MOST: usize = 32 << 10;

    /// Of a part, of which this share is read: no more than it will take.
    fn of(part: &TensorEntry, share: f64) -> Self {
        let wanted = (part.bytes() as f64 * share) as usize;
        Self { window: wanted.saturating_add(64).min(Self::MOST), ..Self::default() }
    }

    /// The bytes from an offset on, if all are there.
    fn get(&self, offset: u64, count: usize) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(at..at.checked_add(count)?)
    }
}

impl Reader<'_> {
    /// Elements of a stored tensor of floats from `first` on, as f32.
    pub(crate) fn floats(&self, part: usize, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        let part = self.part(part);
        let mut bytes = vec![0; out.len() * part.dtype.bytes()];
        part.read(first, &mut bytes, self.from, self.blocks)?;
        values::widen(&bytes, part.dtype, out);
        Ok(())
    }

    /// All elements of a stored tensor of floats.
    pub(crate) fn all(&self, part: usize) -> Result<Vec<f32>, ReadError> {
        let mut out = vec![0.0; self.part(part).shape.elements() as usize];
        self.floats(part, 0, &mut out)?;
        Ok(out)
    }

    /// What is made once for all stretches: from [`Blocks`], or made now.
    pub(crate) fn held(
        &self,
        make: &dyn Fn() -> Result<Held, ReadError>,
    ) -> Result<Arc<Held>, ReadError> {
        self.blocks.held(std::ptr::from_ref(self.encoding).addr(), self.encoding.held_bytes(), make)
    }

    /// A stored tensor.
    pub(crate) fn part(&self, part: usize) -> &TensorEntry {
        &self.encoding.parts[part]
    }

    /// Bytes of a stored tensor, counted from its own first one.
    pub(crate) fn bytes(
        &self,
        part: usize,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), ReadError> {
        let mut all = self.ahead.borrow_mut();
        let ahead = &mut all[part];
        let part = self.part(part);
        if let Some(bytes) = ahead.get(offset, buffer.len()) {
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        let left = part.bytes().saturating_sub(offset);
        let window = (ahead.window as u64).min(left) as usize;
        if window <= buffer.len() {
            return (self.from)(part.shard, part.offset + offset, buffer);
        }
        ahead.bytes.resize(window, 0);
        // Nothing is believed of a reading that failed.
        ahead.start = u64::MAX;
        (self.from)(part.shard, part.offset + offset, &mut ahead.bytes)?;
        ahead.start = offset;
        buffer.copy_from_slice(&ahead.bytes[..buffer.len()]);
        Ok(())
    }

    /// A stored value that no writer of the codec makes.
    pub(crate) fn wrong_value(&self, part: usize, what: &str) -> ReadError {
        let part = &self.part(part).name;
        let headline = format!("`{}` {what}", shown(part));
        let fault = Diagnostic::error(codes::PACKED_VALUE, headline)
            .fact("scheme", self.encoding.scheme())
            .note(format!("`{}` is decoded with it", shown(self.name)))
            .help("fetch or quantize the model again");
        ReadError::Packed(Box::new(fault))
    }
}
