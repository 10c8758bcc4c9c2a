//! An expert that is an adapter on a model: its tensors, made while they are read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use mixdown_checkpoint::adapter::Update;
use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::{Adapter, ByteSource, FilePool, Index, ReadError, TensorEntry};
use mixdown_cpu::{CpuBackend, survey};
use mixdown_ops::{Backend, LowRank, Sides};
use mixdown_tensor::DType;

/// Elements that are made at a time.
const STRETCH: u64 = 1 << 16;

/// Tensors whose factors are kept for the reads that follow: what readers take at once.
const KEPT: usize = 8;

/// A checkpoint's tensors with its files.
struct Tensors {
    index: Index,
    files: Vec<Arc<dyn ByteSource>>,
}

impl Tensors {
    fn new(index: Index, pool: &Arc<FilePool>) -> Self {
        let files = index
            .shards()
            .iter()
            .map(|shard| -> Arc<dyn ByteSource> { Arc::new(pool.source(shard)) });
        let files = files.collect();
        Self { index, files }
    }

    fn entry(&self, tensor: u32) -> &TensorEntry {
        &self.index.tensors()[tensor as usize]
    }

    /// A stretch of a tensor's numbers.
    fn numbers(
        &self,
        tensor: u32,
        (first, count): (u64, u64),
        blocks: &Blocks,
    ) -> Result<Vec<f32>, ReadError> {
        let entry = self.entry(tensor);
        let mut bytes = vec![0; (count * entry.dtype.bytes() as u64) as usize];
        let from = |shard: u32, offset: u64, buffer: &mut [u8]| {
            self.files[shard as usize].read_exact_at(offset, buffer)
        };
        entry.read(first, &mut bytes, &from, blocks)?;
        let mut numbers = Vec::new();
        survey::widen(&bytes, entry.dtype, &mut numbers);
        Ok(numbers)
    }

    fn whole(&self, tensor: u32, blocks: &Blocks) -> Result<Vec<f32>, ReadError> {
        self.numbers(tensor, (0, self.entry(tensor).shape.elements()), blocks)
    }
}

/// A model with an adapter on it.
pub(super) struct OnModel {
    adapter: Adapter,
    base: Tensors,
    own: Tensors,
    blocks: Blocks,
    held: Mutex<VecDeque<(u32, Arc<Held>)>>,
}

/// What is held of a tensor while its stretches are read.
#[derive(Default)]
struct Held {
    /// The factors in the order in which they are multiplied, and the product's own factor.
    product: Option<(Vec<f32>, Vec<f32>, usize, f32)>,
    /// What rows or columns are multiplied with, so that they get the adapter's norms; whether it is columns.
    scales: Option<(Vec<f32>, bool)>,
}

impl OnModel {
    /// The adapter's index is `own`, unless the adapter has another one.
    pub fn new(adapter: Adapter, own: &Index, base: &Index) -> Self {
        let pool = FilePool::new(FilePool::DEFAULT_LIMIT);
        let own = adapter.index.as_ref().unwrap_or(own).clone();
        let blocks = Blocks::over([base, &own].into_iter());
        let (base, own) = (Tensors::new(base.clone(), &pool), Tensors::new(own, &pool));
        Self { adapter, base, own, blocks, held: Mutex::default() }
    }

    /// Whether a tensor of the model is another one with the adapter.
    pub fn changes(&self, tensor: u32) -> bool {
        self.update(tensor).is_some()
            || self.replacement(tensor).is_some()
            || self.adapter.deltas.iter().any(|delta| delta.base_tensor == tensor)
            || self.adapter.magnitudes.iter().any(|one| one.base_tensor == tensor)
    }

    fn update(&self, tensor: u32) -> Option<&Update> {
        self.adapter.updates.iter().find(|update| update.base_tensor == tensor)
    }

    fn replacement(&self, tensor: u32) -> Option<u32> {
        let mut replacements = self.adapter.replacements.iter();
        let found = replacements.find(|replacement| replacement.base_tensor == tensor);
        found.map(|replacement| replacement.adapter_tensor)
    }

    /// Rows, and elements of each.
    fn shape(&self, tensor: u32) -> (u64, u64) {
        match self.base.entry(tensor).shape.dimensions() {
            [] => (1, 1),
            [rows, others @ ..] => (*rows, others.iter().product()),
        }
    }

    fn held(&self, tensor: u32) -> Result<Arc<Held>, ReadError> {
        {
            let kept = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, held)) = kept.iter().find(|(known, _)| *known == tensor) {
                return Ok(Arc::clone(held));
            }
        }
        // Two readers may make the same, which is less than waiting for one another.
        let mut held = Held::default();
        if let Some(update) = self.update(tensor) {
            held.product = Some(self.product(update)?);
        }
        let mut magnitudes = self.adapter.magnitudes.iter();
        if let Some(magnitude) = magnitudes.find(|magnitude| magnitude.base_tensor == tensor) {
            let by_columns = magnitude.by_columns;
            let norms = self.own.whole(magnitude.adapter_tensor, &self.blocks)?;
            let own = self.lengths(tensor, &held, by_columns)?;
            // Each element of a row, or of a column, has its norm.
            let step = if by_columns { 1 } else { self.shape(tensor).1.max(1) as usize };
            let scale = |(norm, own): (&f32, f64)| (f64::from(*norm) / own) as f32;
            held.scales =
                Some((norms.iter().step_by(step).zip(own).map(scale).collect(), by_columns));
        }
        let held = Arc::new(held);
        let mut kept = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((tensor, Arc::clone(&held)));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(held)
    }

    fn product(&self, update: &Update) -> Result<(Vec<f32>, Vec<f32>, usize, f32), ReadError> {
        let left = self.own.whole(update.left, &self.blocks)?;
        let right = self.own.whole(update.right, &self.blocks)?;
        let rank = update.rank as usize;
        let (left, right) = match update.transposed {
            false => (left, right),
            true => (turned(&right, rank), turned(&left, left.len() / rank)),
        };
        Ok((left, right, rank, update.scale as f32))
    }

    /// The lengths of the rows or columns of a tensor that has no norms yet.
    fn lengths(&self, tensor: u32, held: &Held, by_columns: bool) -> Result<Vec<f64>, ReadError> {
        let (rows, columns) = self.shape(tensor);
        let mut squares = vec![0.0_f64; if by_columns { columns } else { rows } as usize];
        let elements = rows * columns;
        for first in (0..elements).step_by(STRETCH as usize) {
            let stretch = (first, (elements - first).min(STRETCH));
            for (at, value) in (first..).zip(self.made(tensor, held, stretch)?) {
                let place = if by_columns { at % columns } else { at / columns };
                squares[place as usize] += f64::from(value) * f64::from(value);
            }
        }
        Ok(squares.into_iter().map(f64::sqrt).collect())
    }

    /// A stretch of a tensor, in f32.
    fn made(
        &self,
        tensor: u32,
        held: &Held,
        (first, count): (u64, u64),
    ) -> Result<Vec<f32>, ReadError> {
        let mut values = match self.replacement(tensor) {
            Some(whole) => self.own.numbers(whole, (first, count), &self.blocks),
            None => self.base.numbers(tensor, (first, count), &self.blocks),
        }?;
        let columns = self.shape(tensor).1;
        if let Some((left, right, rank, scale)) = &held.product {
            let sides = Sides::Single(left, right);
            let product = LowRank { sides, rank: *rank, columns: columns as usize };
            let mut bytes = vec![0; 4 * values.len()];
            CpuBackend::new().worker().multiply(product, first, &mut bytes);
            let mut added = Vec::new();
            survey::widen(&bytes, DType::F32, &mut added);
            survey::add_scaled(&mut values, *scale, &added);
        }
        let mut deltas = self.adapter.deltas.iter();
        if let Some(delta) = deltas.find(|delta| delta.base_tensor == tensor) {
            let added = self.own.numbers(delta.adapter_tensor, (first, count), &self.blocks)?;
            survey::add_scaled(&mut values, 1.0, &added);
        }
        if let Some((scales, by_columns)) = &held.scales {
            for (at, value) in (first..).zip(&mut values) {
                let place = if *by_columns { at % columns } else { at / columns };
                *value *= scales[place as usize];
            }
        }
        Ok(values)
    }
}

/// The transpose of a matrix with so many rows.
fn turned(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}

/// A tensor of such a model, as f32.
pub(super) struct Adapted {
    pub model: Arc<OnModel>,
    /// Its position in the model's index.
    pub tensor: u32,
}

impl Adapted {
    /// How it lies in the bytes that it gives.
    pub fn entry(&self) -> TensorEntry {
        let stored = self.model.base.entry(self.tensor).clone();
        TensorEntry { dtype: DType::F32, shard: 0, offset: 0, encoding: None, ..stored }
    }
}

impl ByteSource for Adapted {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let held = self.model.held(self.tensor)?;
        // Whole numbers around what is asked for.
        let (mut first, end) = (offset / 4, (offset + buffer.len() as u64).div_ceil(4));
        let mut skipped = (offset % 4) as usize;
        let mut rest = buffer;
        while first < end && !rest.is_empty() {
            let count = (end - first).min(STRETCH);
            let values = self.model.made(self.tensor, &held, (first, count))?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let take = (bytes.len() - skipped).min(rest.len());
            let (own, after) = rest.split_at_mut(take);
            own.copy_from_slice(&bytes[skipped..skipped + take]);
            (rest, first, skipped) = (after, first + count, 0);
        }
        Ok(())
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn len(&self) -> u64 {
        self.model.base.entry(self.tensor).shape.elements() * 4
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn factors_are_turned() {
        let turned = super::turned(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2);
        assert_eq!(turned, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
