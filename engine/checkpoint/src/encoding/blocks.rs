//! Reading along the other axis: tensors whose codes lie in lines that run across the rows of what they
//! stand for. A row then takes a few bytes of every line, so lines are read in blocks, which stay for
//! the rows after it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::Reader;
use crate::source::ReadError;

/// Lines of a block.
const LINES: u64 = 2048;
/// Bytes of each line in a block: as many as one line of a processor's cache, so that what a read brings
/// along is not read again.
const WIDTH: u64 = 64;
/// Blocks that stay, the least recently used one goes first.
const KEPT: usize = 32;

/// Blocks that were read and may be read from again.
#[derive(Debug, Default)]
pub struct Blocks {
    kept: Mutex<Vec<(Place, Arc<[u8]>)>>,
}

/// Which block of which stored tensor: shard, first byte, first line, first byte of a line.
type Place = (u32, u64, u64, u64);

impl Blocks {
    /// The most memory that blocks take.
    pub const BYTES: u64 = LINES * WIDTH * KEPT as u64;

    fn get(&self, place: Place) -> Option<Arc<[u8]>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rposition(|(known, _)| *known == place)?;
        let entry = kept.remove(found);
        let bytes = entry.1.clone();
        kept.push(entry);
        Some(bytes)
    }

    fn keep(&self, place: Place, bytes: Arc<[u8]>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((place, bytes));
    }
}

/// A stored matrix of bytes, whose lines run across the rows of what it stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    /// Position among the tensor's parts.
    pub part: usize,
    /// Bytes of a line.
    pub bytes: u64,
}

impl Lines {
    /// Adds `width` bytes from `byte` on of each of these lines to `out`.
    pub(super) fn across(
        &self,
        reader: &Reader<'_>,
        lines: Range<u64>,
        byte: u64,
        width: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let start = byte / WIDTH * WIDTH;
        if byte + width > start + WIDTH {
            // Across the border between two blocks: line by line.
            for line in lines {
                let left = start + WIDTH - byte;
                self.across(reader, line..line + 1, byte, left, out)?;
                self.across(reader, line..line + 1, byte + left, width - left, out)?;
            }
            return Ok(());
        }
        let stride = WIDTH.min(self.bytes - start);
        let mut line = lines.start;
        while line < lines.end {
            let first = line / LINES * LINES;
            let end = lines.end.min(first + LINES);
            let block = self.block(reader, first, start)?;
            for line in line..end {
                let from = ((line - first) * stride + (byte - start)) as usize;
                out.extend_from_slice(&block[from..from + width as usize]);
            }
            line = end;
        }
        Ok(())
    }

    /// The block of lines from `first` on, of their bytes from `start` on.
    fn block(&self, reader: &Reader<'_>, first: u64, start: u64) -> Result<Arc<[u8]>, ReadError> {
        let part = reader.part(self.part);
        let place = (part.shard, part.offset, first, start);
        if let Some(found) = reader.blocks.get(place) {
            return Ok(found);
        }
        let all = part.bytes() / self.bytes;
        let lines = LINES.min(all - first);
        let width = WIDTH.min(self.bytes - start);
        let mut bytes = vec![0; (lines * width) as usize];
        if width == self.bytes {
            reader.bytes(self.part, first * width, &mut bytes)?;
        } else {
            for (line, into) in (first..).zip(bytes.chunks_exact_mut(width as usize)) {
                reader.bytes(self.part, line * self.bytes + start, into)?;
            }
        }
        let bytes: Arc<[u8]> = bytes.into();
        reader.blocks.keep(place, bytes.clone());
        Ok(bytes)
    }
}
