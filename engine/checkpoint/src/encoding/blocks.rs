//! Reading along the other axis: tensors whose codes lie in lines that run across the rows of what they
//! stand for. A row then takes a few bytes of every line, so lines are read in blocks, which stay for
//! the rows after it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::Reader;
use crate::index::Index;
use crate::source::ReadError;

/// Lines of a block.
const LINES: u64 = 2048;
/// Bytes of each line in a block: as many as one line of a processor's cache, so that what a read brings
/// along is not read again.
const WIDTH: u64 = 64;
/// Blocks that stay, the least recently used one goes first.
const KEPT: usize = 32;

/// Tensors of the largest size for which room is kept at a time. Threads work on a few tensors at once.
const TENSORS: u64 = 8;

/// Blocks that were read and may be read from again, and what computed tensors make once.
#[derive(Debug, Default)]
pub struct Blocks {
    kept: Mutex<Vec<(Place, Arc<[u8]>)>>,
    held: Mutex<Vec<(usize, u64, Slot)>>,
    /// Bytes that may be held; none where nobody counts them.
    room: Option<u64>,
}

/// Which block of which stored tensor: the address of its encoding, which tells the tensors of all checkpoints
/// apart, then which of its parts (two of them may begin at the same byte of two shards), first line, and first byte
/// of a line.
type Place = (usize, usize, u64, u64);

/// What a computed tensor makes once: numbers, and whole numbers beside them.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub numbers: Vec<Vec<f32>>,
    pub counts: Vec<u64>,
}

/// Filled by the first thread that needs it, for which others wait.
type Slot = Arc<Mutex<Option<Arc<Held>>>>;

impl Blocks {
    /// The most memory that blocks take.
    pub const BYTES: u64 = LINES * WIDTH * KEPT as u64;

    /// With room for what the computed tensors of these checkpoints hold: [`Blocks::room_for`].
    pub fn over<'a>(indexes: impl Iterator<Item = &'a Index>) -> Self {
        Self { room: Some(Self::room_for(indexes)), ..Self::default() }
    }

    /// Bytes that the computed tensors of these checkpoints hold while they are read.
    pub fn room_for<'a>(indexes: impl Iterator<Item = &'a Index>) -> u64 {
        let (mut all, mut largest) = (0_u64, 0_u64);
        let encodings = indexes.flat_map(Index::tensors).filter_map(|one| one.encoding.as_ref());
        for encoding in encodings {
            let bytes = encoding.held_bytes();
            (all, largest) = (all.saturating_add(bytes), largest.max(bytes));
        }
        all.min(largest.saturating_mul(TENSORS))
    }

    /// What the computed tensor with this key holds, made now unless it is there.
    pub(super) fn held(
        &self,
        key: usize,
        bytes: u64,
        make: &dyn Fn() -> Result<Held, ReadError>,
    ) -> Result<Arc<Held>, ReadError> {
        let slot = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = match held.iter().position(|(known, ..)| *known == key) {
                Some(found) => held.remove(found).2,
                None => {
                    let room = self.room.unwrap_or(256 << 20);
                    let used = |held: &[(usize, u64, Slot)]| -> u64 {
                        held.iter().map(|(_, bytes, _)| bytes).sum()
                    };
                    while !held.is_empty() && used(&held) + bytes > room {
                        held.remove(0);
                    }
                    Slot::default()
                }
            };
            held.push((key, bytes, slot.clone()));
            slot
        };
        let mut own = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*own {
            return Ok(made.clone());
        }
        let made = Arc::new(make()?);
        *own = Some(made.clone());
        Ok(made)
    }

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
        let key = std::ptr::from_ref(reader.encoding).addr();
        let place = (key, self.part, first, start);
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
