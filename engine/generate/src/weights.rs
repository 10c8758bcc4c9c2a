//! The tensors of a model, read from its files: bf16 as it is stored, everything else as f32.

use std::collections::HashMap;

use mixdown_checkpoint::encoding::Blocks;
use mixdown_checkpoint::{ByteSource, Checkpoint, FilePool, FileSource, TensorEntry};
use mixdown_diagnostics::{Diagnostic, codes};
use mixdown_tensor::DType;
use mixdown_tensor::convert::{bf16_to_f32, f16_to_f32};
use rayon::prelude::*;

use crate::arithmetic::{Bf16, Element, dot};

/// Products that are worth a thread's attention: fewer are computed faster than they are handed over.
const PRODUCTS_PER_THREAD: usize = 1 << 15;

/// Numbers as they are held.
#[derive(Clone, Debug)]
enum Numbers {
    F32(Vec<f32>),
    Bf16(Vec<Bf16>),
}

/// A matrix that is applied to rows, with its bias.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    numbers: Numbers,
    bias: Option<Vec<f32>>,
}

impl Matrix {
    /// A matrix of these numbers, row after row.
    pub fn new(rows: usize, columns: usize, numbers: Vec<f32>, bias: Option<Vec<f32>>) -> Self {
        assert_eq!(numbers.len(), rows * columns, "a matrix has all its numbers");
        Self { rows, columns, numbers: Numbers::F32(numbers), bias }
    }

    /// Count of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One row, without the bias.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let range = row * self.columns..(row + 1) * self.columns;
        match &self.numbers {
            Numbers::F32(numbers) => numbers[range].to_vec(),
            Numbers::Bf16(numbers) => numbers[range].iter().map(|number| number.widen()).collect(),
        }
    }

    /// The matrix times each row of `x`, plus the bias.
    ///
    /// **Shapes.** `x: [n, columns]`; the result is `[n, rows]`.
    /// **Numerics.** Each element is one [`dot`]: it depends on nothing but its row of `x`.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        match &self.numbers {
            Numbers::F32(numbers) => self.apply_as(numbers, x),
            Numbers::Bf16(numbers) => self.apply_as(numbers, x),
        }
    }

    fn apply_as<E: Element>(&self, numbers: &[E], x: &[f32]) -> Vec<f32> {
        let (rows, columns) = (self.rows, self.columns);
        let count = x.len() / columns;
        // A row of the matrix meets all rows of `x` while it is in the cache, so the product is made
        // column by column and turned at the end.
        let mut turned = vec![0.0_f32; rows * count];
        let rows_per_thread = (PRODUCTS_PER_THREAD / (columns * count).max(1)).max(1);
        turned.par_chunks_mut(rows_per_thread * count).enumerate().for_each(|(block, out)| {
            for (offset, out) in out.chunks_mut(count).enumerate() {
                let row = block * rows_per_thread + offset;
                let numbers = &numbers[row * columns..(row + 1) * columns];
                let bias = self.bias.as_ref().map_or(0.0, |bias| bias[row]);
                for (out, x) in out.iter_mut().zip(x.chunks_exact(columns)) {
                    *out = dot(numbers, x) + bias;
                }
            }
        });
        if count == 1 {
            return turned;
        }
        let mut out = vec![0.0; rows * count];
        for (n, out) in out.chunks_mut(rows).enumerate() {
            for (row, out) in out.iter_mut().enumerate() {
                *out = turned[row * count + n];
            }
        }
        out
    }
}

/// Reads tensors of a checkpoint by name, and gathers what is wrong with them.
pub struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    sources: HashMap<u32, FileSource>,
    /// What is wrong so far. Nothing is read any more once something is.
    pub found: Vec<Diagnostic>,
}

impl<'a> Loader<'a> {
    /// Nothing is read yet.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        let pool = FilePool::new(FilePool::DEFAULT_LIMIT);
        let shards = checkpoint.index.shards().iter().zip(0..);
        let sources = shards.map(|(shard, number)| (number, pool.source(shard))).collect();
        Self { checkpoint, sources, found: Vec::new() }
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.index.get(name).is_some()
    }

    /// The weight and, where there is one, the bias of a linear layer.
    pub fn linear(&mut self, name: &str, rows: usize, columns: usize) -> Option<Matrix> {
        let numbers = self.numbers(&format!("{name}.weight"), &[rows, columns]);
        let bias_name = format!("{name}.bias");
        let bias = match self.has(&bias_name) {
            true => Some(self.vector(&bias_name, rows)?),
            false => None,
        };
        Some(Matrix { rows, columns, numbers: numbers?, bias })
    }

    /// The same for a layer that is stored turned, its columns as rows.
    pub fn turned_linear(&mut self, name: &str, rows: usize, columns: usize) -> Option<Matrix> {
        let turned = self.numbers(&format!("{name}.weight"), &[columns, rows]);
        let bias = self.vector(&format!("{name}.bias"), rows);
        let numbers = match turned? {
            Numbers::F32(numbers) => Numbers::F32(turn(&numbers, columns, rows)),
            Numbers::Bf16(numbers) => Numbers::Bf16(turn(&numbers, columns, rows)),
        };
        Some(Matrix { rows, columns, numbers, bias: Some(bias?) })
    }

    /// A vector of this length.
    pub fn vector(&mut self, name: &str, length: usize) -> Option<Vec<f32>> {
        self.numbers(name, &[length]).map(into_f32)
    }

    /// Rows of this length, however many.
    pub fn rows(&mut self, name: &str, columns: usize) -> Option<Vec<f32>> {
        let rows = self.checkpoint.index.get(name).map(|entry| entry.shape.dimensions());
        let rows = rows.and_then(|shape| shape.first().copied()).unwrap_or(0);
        self.numbers(name, &[usize::try_from(rows).unwrap_or(0), columns]).map(into_f32)
    }

    fn numbers(&mut self, name: &str, shape: &[usize]) -> Option<Numbers> {
        let checkpoint = self.checkpoint;
        let Some(entry) = checkpoint.index.get(name) else {
            let headline = format!("the model has no `{name}`");
            let error = Diagnostic::error(codes::GENERATOR_TENSOR, headline);
            self.found.push(error.in_file(&checkpoint.name));
            return None;
        };
        if !entry.shape.dimensions().iter().map(|&n| n as usize).eq(shape.iter().copied()) {
            let error = Diagnostic::error(
                codes::GENERATOR_TENSOR,
                format!("`{name}` has another shape than config.json says"),
            );
            let error = error
                .in_file(&checkpoint.index.shard_of(entry).shown)
                .fact("expected", format!("{shape:?}"))
                .fact("found", format!("{:?}", entry.shape.dimensions()));
            self.found.push(error);
            return None;
        }
        if !self.found.is_empty() {
            return None;
        }
        self.read(entry).map_err(|error| self.found.push(*error)).ok()
    }

    fn read(&self, entry: &TensorEntry) -> Result<Numbers, Box<Diagnostic>> {
        let mut bytes = vec![0_u8; usize::try_from(entry.bytes()).unwrap_or(usize::MAX)];
        let from = |shard: u32, offset: u64, bytes: &mut [u8]| {
            self.sources[&shard].read_exact_at(offset, bytes)
        };
        entry.read(0, &mut bytes, &from, &Blocks::default()).map_err(|error| {
            Box::new(error.diagnostic().note(format!("reading `{}`", entry.name)))
        })?;
        let halves = || bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
        Ok(match entry.dtype {
            DType::Bf16 => Numbers::Bf16(halves().map(Bf16).collect()),
            DType::F16 => Numbers::F32(halves().map(f16_to_f32).collect()),
            DType::F32 => {
                let fours = bytes.as_chunks::<4>().0;
                Numbers::F32(fours.iter().map(|four| f32::from_le_bytes(*four)).collect())
            }
            other => {
                let headline = format!("`{}` is stored as {}", entry.name, other.name());
                let shard = &self.checkpoint.index.shard_of(entry).shown;
                return Err(Box::new(
                    Diagnostic::error(codes::GENERATOR_TENSOR, headline)
                        .in_file(shard)
                        .fact("expected", "f32, f16 or bf16"),
                ));
            }
        })
    }
}

/// Columns as rows.
fn turn<E: Element>(numbers: &[E], rows: usize, columns: usize) -> Vec<E> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| numbers[i * columns + j])).collect()
}

fn into_f32(numbers: Numbers) -> Vec<f32> {
    match numbers {
        Numbers::F32(numbers) => numbers,
        Numbers::Bf16(numbers) => numbers.into_iter().map(|Bf16(bits)| bf16_to_f32(bits)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [[1, 2], [3, 4], [5, 6]] · (1, 10) = (21, 43, 65), and twice that; the bias is (0, 100, 0).
    #[test]
    fn each_row_meets_each_row() {
        let numbers = (1..=6).map(|n| n as f32).collect();
        let matrix = Matrix::new(3, 2, numbers, Some(vec![0.0, 100.0, 0.0]));
        assert_eq!(matrix.apply(&[1.0, 10.0]), [21.0, 143.0, 65.0]);
        let both = matrix.apply(&[1.0, 10.0, 2.0, 20.0]);
        assert_eq!(both, [21.0, 143.0, 65.0, 42.0, 186.0, 130.0]);
        assert_eq!(matrix.row(1), [3.0, 4.0]);
    }

    #[test]
    fn columns_become_rows() {
        assert_eq!(turn(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
