//! GGUF's blocks: what each type of them stands for, and how tensors become those of the model's family.

mod blocks;
mod iq;
mod names;

use std::sync::Arc;

pub(crate) use blocks::Blocks;
use mixdown_tensor::{DType, Shape};
pub(crate) use names::{Description, descriptions, restored};
pub use names::{Norm, Positions};

use super::{Codec, Encoding, Reader};
use crate::index::TensorEntry;
use crate::source::ReadError;

/// A tensor of blocks in a file.
pub(crate) struct Stored {
    pub name: String,
    pub shape: Shape,
    /// Its first byte.
    pub offset: u64,
    pub bytes: u64,
}

/// The entry of a tensor of blocks, under the file's own name.
pub(crate) fn entry(stored: Stored, blocks: Blocks) -> TensorEntry {
    let Stored { name, shape, offset, bytes } = stored;
    let part = TensorEntry {
        name: name.clone(),
        dtype: DType::U8,
        shape: Shape::new(vec![bytes]).expect("a count of bytes in a file is a size"),
        shard: 0,
        offset,
        encoding: None,
    };
    let encoding = Encoding {
        scheme: format!("GGUF {}", blocks.name()).into(),
        model_dtype: DType::Bf16,
        parts: vec![part],
        codec: Arc::new(Whole(blocks)),
    };
    TensorEntry {
        name,
        dtype: DType::F32,
        shape,
        shard: 0,
        offset,
        encoding: Some(Arc::new(encoding)),
    }
}

/// Blocks one after another.
#[derive(Debug)]
struct Whole(Blocks);

impl Codec for Whole {
    fn decode(
        &self,
        reader: &Reader<'_>,
        first: u64,
        mut out: &mut [f32],
    ) -> Result<(), ReadError> {
        let (elements, size) = self.0.size();
        let mut values = [0.0; Blocks::MOST_ELEMENTS];
        let mut bytes = Vec::new();
        let mut at = first;
        while !out.is_empty() {
            // A few blocks at a time, so that a read is worth its call.
            let start = at / elements;
            let blocks = ((at + out.len() as u64).div_ceil(elements) - start).min(32);
            bytes.resize((blocks * size) as usize, 0);
            reader.bytes(0, start * size, &mut bytes)?;
            for block in bytes.chunks_exact(size as usize) {
                let values = &mut values[..elements as usize];
                self.0.decode(block, values);
                let skip = (at % elements) as usize;
                let count = (values.len() - skip).min(out.len());
                let (part, rest) = out.split_at_mut(count);
                part.copy_from_slice(&values[skip..skip + count]);
                (at, out) = (at + count as u64, rest);
            }
        }
        Ok(())
    }
}
