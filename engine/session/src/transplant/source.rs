//! An embedding that is made while it is read.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use mixdown_checkpoint::{ByteSource, ReadError};
use mixdown_diagnostics::Diagnostic;
use mixdown_ops::program::PIECE;

use super::approximate::Maker;
use super::request::Settings;
use super::rows::{Matrix, Row};
use crate::numbers::store;

/// Programs that cut texts, and the folder of the tokenizer.
pub(super) struct Texts {
    pub programs: Vec<PathBuf>,
    pub folder: PathBuf,
}

/// Rows of new tokens that are made together, at least: what a reader takes at once, so that several readers are at
/// several places.
const FEWEST: usize = 16;

/// Stretches of rows that are kept for the reads that follow.
const KEPT: usize = 64;

/// What was made, or why it could not be.
pub(super) type Found<T> = Result<T, Box<Diagnostic>>;

/// New rows of a stretch, as they are stored.
type Stretch = Arc<OnceLock<Found<Vec<u8>>>>;

/// A matrix of a transplant.
pub(super) struct Made {
    matrix: Matrix,
    maker: OnceLock<Found<Maker>>,
    settings: Settings,
    texts: Texts,
    name: String,
    /// New rows together.
    together: usize,
    stretches: Mutex<VecDeque<(usize, Stretch)>>,
}

impl Made {
    pub fn new(matrix: Matrix, settings: Settings, texts: Texts, name: String) -> Self {
        let together = (PIECE as usize / matrix.own.columns().max(1)).max(FEWEST);
        let (maker, stretches) = Default::default();
        Self { matrix, maker, settings, texts, name, together, stretches }
    }

    fn maker(&self) -> Result<&Maker, ReadError> {
        let made = self
            .maker
            .get_or_init(|| Maker::new(&self.matrix, &self.settings, &self.texts, &self.name));
        made.as_ref().map_err(|error| ReadError::Packed(error.clone()))
    }

    /// The stretch that a new row is in, with the number of its first.
    fn stretch(&self, new: usize) -> Result<(usize, Stretch), ReadError> {
        let number = new / self.together;
        let stretch = {
            let mut kept = self.stretches.lock().unwrap_or_else(PoisonError::into_inner);
            let known = kept.iter().find(|(known, _)| *known == number);
            match known.map(|(_, stretch)| Arc::clone(stretch)) {
                Some(stretch) => stretch,
                None => {
                    let stretch = Stretch::default();
                    kept.push_back((number, Arc::clone(&stretch)));
                    if kept.len() > KEPT {
                        kept.pop_front();
                    }
                    stretch
                }
            }
        };
        let maker = self.maker()?;
        let first = number * self.together;
        let last = self.matrix.plan.new.len().min(first + self.together);
        // Whoever comes first makes it, and others wait for that stretch alone.
        stretch.get_or_init(|| {
            let rows = maker.rows(&self.matrix, &self.settings, first..last)?;
            let mut bytes = Vec::with_capacity(rows.len() * self.matrix.own.dtype().bytes());
            store(&rows, self.matrix.own.dtype(), &mut bytes);
            Ok(bytes)
        });
        Ok((first, stretch))
    }

    fn row(&self, at: u64, bytes: &mut [u8]) -> Result<(), ReadError> {
        match self.matrix.plan.from[at as usize] {
            Row::Zero => bytes.fill(0),
            Row::Own(own) => self.matrix.own.row(u64::from(own), bytes)?,
            Row::New(_) if self.matrix.from.is_none() => bytes.fill(0),
            Row::New(new) => {
                let (first, stretch) = self.stretch(new as usize)?;
                let made = match stretch.get() {
                    Some(Ok(made)) => made,
                    Some(Err(error)) => return Err(ReadError::Packed(error.clone())),
                    None => return Ok(()),
                };
                let start = (new as usize - first) * bytes.len();
                bytes.copy_from_slice(&made[start..start + bytes.len()]);
            }
        }
        Ok(())
    }
}

impl ByteSource for Made {
    fn read_exact_at(&self, offset: u64, mut buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = self.matrix.own.row_bytes();
        let mut whole = vec![0; length];
        let (mut row, mut from) = (offset / length as u64, (offset % length as u64) as usize);
        while !buffer.is_empty() {
            let count = buffer.len().min(length - from);
            let (part, rest) = buffer.split_at_mut(count);
            match count == length {
                true => self.row(row, part)?,
                false => {
                    self.row(row, &mut whole)?;
                    part.copy_from_slice(&whole[from..from + count]);
                }
            }
            (row, from, buffer) = (row + 1, 0, rest);
        }
        Ok(())
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn len(&self) -> u64 {
        self.matrix.plan.rows * self.matrix.own.row_bytes() as u64
    }
}
