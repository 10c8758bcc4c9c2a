//! Stretches of tensors, whatever they are made of, and of task vectors.

use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::index::TensorEntry;
use mixdown_checkpoint::shown;
use mixdown_cpu::{CpuBackend, survey};
use mixdown_diagnostics::Diagnostic;
use mixdown_exec::Source;
use mixdown_ops::{Backend, LowRank, Sides, Worker};
use mixdown_plan::TensorRef;

use super::models::{Made, Place, Product};

/// Elements that are read at a time.
pub const PIECE: u64 = 1 << 16;

/// The data of all models.
pub struct Reader<'a> {
    sources: &'a [Source<'a>],
    blocks: Blocks,
}

/// What of a tensor is held while its stretches are read: factors, and what rows or columns are multiplied
/// with.
#[derive(Debug, Default)]
pub struct Held {
    update: Option<Factors>,
    scales: Option<(Vec<f32>, bool)>,
}

#[derive(Debug)]
struct Factors {
    left: Vec<f32>,
    right: Vec<f32>,
    rank: usize,
    scale: f32,
}

/// One thread's room.
pub struct Room {
    worker: Box<dyn Worker>,
    bytes: Vec<u8>,
    base_bytes: Vec<u8>,
    product: Vec<u8>,
    other: Vec<f32>,
    /// The base's numbers.
    pub base: Vec<f32>,
    /// The task vectors.
    pub vectors: Vec<Vec<f32>>,
}

impl Room {
    /// For so many experts.
    pub fn of(experts: usize) -> Self {
        Self {
            worker: CpuBackend::new().worker(),
            bytes: Vec::new(),
            base_bytes: Vec::new(),
            product: Vec::new(),
            other: Vec::new(),
            base: Vec::new(),
            vectors: vec![Vec::new(); experts],
        }
    }

    /// Bytes that one takes.
    pub fn bytes(experts: usize) -> u64 {
        // Numbers of f32, and as stored in 8 bytes at most; f64 are widened twice.
        PIECE * (4 * (experts as u64 + 3) + 8 * 4) + (1 << 18)
    }
}

impl<'a> Reader<'a> {
    pub fn new(sources: &'a [Source<'a>]) -> Self {
        let blocks = Blocks::over(sources.iter().map(|source| source.index));
        Self { sources, blocks }
    }

    /// Bytes that are held for packed tensors.
    pub fn bytes(sources: &[Source<'_>]) -> u64 {
        let encodings = sources.iter().flat_map(|source| source.index.tensors());
        let encodings = encodings.filter_map(|one| one.encoding.as_ref());
        let reading = encodings.map(|encoding| encoding.reading_bytes()).max().unwrap_or(0);
        Blocks::BYTES + Blocks::room_for(sources.iter().map(|source| source.index)) + reading
    }

    fn entry(&self, tensor: TensorRef) -> &'a TensorEntry {
        &self.sources[tensor.model as usize].index.tensors()[tensor.tensor as usize]
    }

    /// The stored bytes of a stretch.
    fn read(
        &self,
        tensor: TensorRef,
        first: u64,
        count: u64,
        to: &mut Vec<u8>,
    ) -> Result<(), Box<Diagnostic>> {
        let entry = self.entry(tensor);
        to.resize((count * entry.dtype.bytes() as u64) as usize, 0);
        let shards = &self.sources[tensor.model as usize].shards;
        let from = |shard: u32, offset: u64, buffer: &mut [u8]| {
            shards[shard as usize].read_exact_at(offset, buffer)
        };
        let found = entry.read(first, to, &from, &self.blocks);
        found.map_err(|error| Box::new(error.diagnostic().fact("tensor", shown(&entry.name))))
    }

    fn whole(&self, tensor: TensorRef) -> Result<Vec<f32>, Box<Diagnostic>> {
        let entry = self.entry(tensor);
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        self.read(tensor, 0, entry.shape.elements(), &mut bytes)?;
        survey::widen(&bytes, entry.dtype, &mut values);
        Ok(values)
    }

    /// What has to be there before stretches of a tensor can be read.
    pub fn hold(&self, made: &Made, shape: (u64, u64)) -> Result<Held, Box<Diagnostic>> {
        let mut held = Held::default();
        if let Some(update) = &made.update {
            held.update = Some(self.factors(update)?);
        }
        if let Some((norms, by_columns)) = made.magnitude {
            held.scales = Some((self.scales(made, &held, norms, by_columns, shape)?, by_columns));
        }
        Ok(held)
    }

    /// Bytes that [`Reader::hold`] needs.
    pub fn held_bytes(&self, made: &Made, shape: (u64, u64)) -> u64 {
        let factors = made.update.map_or(0, |update| {
            let elements = |tensor| self.entry(tensor).shape.elements();
            // As stored, as numbers, and turned.
            16 * (elements(update.left) + elements(update.right))
        });
        let scales = made.magnitude.map_or(0, |(_, by_columns)| {
            16 * if by_columns { shape.1 } else { shape.0 } + Room::bytes(0)
        });
        factors + scales
    }

    fn factors(&self, update: &Product) -> Result<Factors, Box<Diagnostic>> {
        let (left, right) = (self.whole(update.left)?, self.whole(update.right)?);
        let rank = update.rank as usize;
        let (left, right) = match update.transposed {
            false => (left, right),
            true => {
                let (outputs, inputs) = (left.len() / rank, right.len() / rank);
                (turned(&right, rank, inputs), turned(&left, outputs, rank))
            }
        };
        Ok(Factors { left, right, rank, scale: update.scale as f32 })
    }

    /// What rows or columns are multiplied with, so that they get these norms.
    fn scales(
        &self,
        made: &Made,
        held: &Held,
        norms: TensorRef,
        by_columns: bool,
        (rows, columns): (u64, u64),
    ) -> Result<Vec<f32>, Box<Diagnostic>> {
        let mut squares = vec![0.0_f64; if by_columns { columns } else { rows } as usize];
        let mut room = Room::of(0);
        let mut values = Vec::new();
        let elements = rows * columns;
        for first in (0..elements).step_by(PIECE as usize) {
            let count = (elements - first).min(PIECE);
            self.values(made, held, columns, (first, count), &mut room, &mut values)?;
            for (at, value) in (first..).zip(&values) {
                let place = if by_columns { at % columns } else { at / columns };
                squares[place as usize] += f64::from(*value) * f64::from(*value);
            }
        }
        let norms = self.whole(norms)?;
        let scale = |(norm, square): (&f32, &f64)| (f64::from(*norm) / square.sqrt()) as f32;
        // Each element of a row, or of a column, has its norm.
        let step = if by_columns { 1 } else { columns.max(1) as usize };
        Ok(norms.iter().step_by(step).zip(&squares).map(scale).collect())
    }

    /// A stretch of a tensor's numbers.
    fn values(
        &self,
        made: &Made,
        held: &Held,
        columns: u64,
        (first, count): (u64, u64),
        room: &mut Room,
        to: &mut Vec<f32>,
    ) -> Result<(), Box<Diagnostic>> {
        self.read(made.stored, first, count, &mut room.bytes)?;
        survey::widen(&room.bytes, self.entry(made.stored).dtype, to);
        self.add(made, held, columns, (first, count), room, to)?;
        scale(held, columns, first, to);
        Ok(())
    }

    /// Adds what is added to what is stored.
    fn add(
        &self,
        made: &Made,
        held: &Held,
        columns: u64,
        (first, count): (u64, u64),
        room: &mut Room,
        to: &mut [f32],
    ) -> Result<(), Box<Diagnostic>> {
        if let Some(Factors { left, right, rank, scale }) = &held.update {
            room.product.resize(4 * count as usize, 0);
            let sides = Sides::Single(left, right);
            let product = LowRank { sides, rank: *rank, columns: columns as usize };
            room.worker.multiply(product, first, &mut room.product);
            survey::widen(&room.product, mixdown_tensor::DType::F32, &mut room.other);
            survey::add_scaled(to, *scale, &room.other);
        }
        if let Some(delta) = made.delta {
            self.read(delta, first, count, &mut room.bytes)?;
            survey::widen(&room.bytes, self.entry(delta).dtype, &mut room.other);
            survey::add_scaled(to, 1.0, &room.other);
        }
        Ok(())
    }

    /// Reads a stretch of the base.
    pub fn base(
        &self,
        place: &Place,
        held: &Held,
        stretch: (u64, u64),
        room: &mut Room,
    ) -> Result<(), Box<Diagnostic>> {
        let mut base = std::mem::take(&mut room.base);
        let outcome = self.values(&place.base, held, place.shape.1, stretch, room, &mut base);
        // The bytes stay for differences of f64.
        std::mem::swap(&mut room.base_bytes, &mut room.bytes);
        room.base = base;
        outcome
    }

    /// Reads a stretch of an expert's task vector, after that of the base. Says how many elements of it are
    /// NaN or infinite.
    pub fn vector(
        &self,
        (place, expert): (&Place, usize),
        made: &Made,
        held: &Held,
        (first, count): (u64, u64),
        room: &mut Room,
    ) -> Result<u64, Box<Diagnostic>> {
        let columns = place.shape.1;
        let mut vector = std::mem::take(&mut room.vectors[expert]);
        let is_same = made.stored == place.base.stored && place.base.is_plain();
        let stretch = (first, count);
        let odd = match () {
            () if is_same && made.magnitude.is_none() => {
                vector.clear();
                vector.resize(count as usize, 0.0);
                self.add(made, held, columns, stretch, room, &mut vector)?;
                survey::clean(&mut vector)
            }
            () if made.is_plain() && place.base.is_plain() => {
                self.read(made.stored, first, count, &mut room.bytes)?;
                let base = (&*room.base_bytes, self.entry(place.base.stored).dtype);
                let own = (&*room.bytes, self.entry(made.stored).dtype);
                survey::difference(own, base, &room.base, &mut vector)
            }
            () => {
                self.values(made, held, columns, stretch, room, &mut vector)?;
                survey::add_scaled(&mut vector, -1.0, &room.base);
                survey::clean(&mut vector)
            }
        };
        room.vectors[expert] = vector;
        Ok(odd)
    }
}

fn scale(held: &Held, columns: u64, first: u64, values: &mut [f32]) {
    let Some((scales, by_columns)) = &held.scales else { return };
    for (at, value) in (first..).zip(values) {
        let place = if *by_columns { at % columns } else { at / columns };
        *value *= scales[place as usize];
    }
}

/// The transpose of a matrix of so many rows and columns.
fn turned(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let at = |index: usize| values[(index % rows) * columns + index / rows];
    (0..rows * columns).map(at).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn matrices_are_turned() {
        assert_eq!(
            super::turned(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
    }
}
