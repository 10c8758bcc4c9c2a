//! Tensors that an adapter makes by computing: what it adds to a tensor of its base, what takes the place of
//! one, and factors of updates. They are read like stored tensors, a stretch at a time.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use mixdown_tensor::{DType, Shape};

use crate::encoding::{Codec, Encoding, Held, Reader};
use crate::index::{Index, TensorEntry};
use crate::source::ReadError;

/// How the values of a computed tensor come about.
pub(super) trait Compute: Debug + Send + Sync {
    /// Bytes of what [`Compute::hold`] gives.
    fn held_bytes(&self) -> u64;

    /// What is made once for all stretches.
    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError>;

    /// The values from an element on.
    fn fill(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        first: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError>;
}

/// The same where each row comes about by itself.
pub(super) trait ByRows: Debug + Send + Sync {
    /// The parts that are held whole, unless [`ByRows::hold`] makes something else of them.
    const HELD: &[usize] = &[];

    /// See [`Compute::held_bytes`].
    fn held_bytes(&self) -> u64 {
        0
    }

    /// See [`Compute::hold`].
    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let numbers = Self::HELD.iter().map(|part| parts.all(*part)).collect::<Result<_, _>>()?;
        Ok(Held { numbers, counts: Vec::new() })
    }

    /// Elements of a row.
    fn columns(&self) -> u64;

    /// The values from a place on, by row and column, which do not go beyond the row.
    fn row(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        at: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError>;
}

impl<R: ByRows> Compute for R {
    fn held_bytes(&self) -> u64 {
        ByRows::held_bytes(self)
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        ByRows::hold(self, parts)
    }

    fn fill(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        first: u64,
        out: &mut [f32],
    ) -> Result<(), ReadError> {
        by_rows(self.columns(), first, out)
            .try_for_each(|(row, column, own)| self.row(held, parts, [row, column], own))
    }
}

#[derive(Debug)]
struct Computed<C>(C);

impl<C: Compute> Codec for Computed<C> {
    fn decode(&self, reader: &Reader<'_>, first: u64, out: &mut [f32]) -> Result<(), ReadError> {
        let held = reader.held(&|| self.0.hold(reader))?;
        self.0.fill(&held, reader, first, out)
    }

    fn held_bytes(&self) -> u64 {
        self.0.held_bytes()
    }

    fn computed(&self) -> Option<String> {
        Some(format!("{:?}", self.0))
    }
}

/// A tensor that goes into a computed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Of the adapter, by its position.
    Adapter(u32),
    /// Of the base, by its position.
    Base(u32),
}

/// A computed tensor, before it has its place in an index.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// What it is, for messages: `LoHa, rank 4`.
    pub scheme: String,
    pub shape: Vec<u64>,
    pub parts: Vec<Part>,
    codec: Arc<dyn Codec>,
}

impl Made {
    pub fn new(
        scheme: impl Into<String>,
        shape: &[u64],
        parts: Vec<Part>,
        compute: impl Compute + 'static,
    ) -> Self {
        let codec = Arc::new(Computed(compute));
        Self { scheme: scheme.into(), shape: shape.to_vec(), parts, codec }
    }
}

/// A factor of an update.
#[derive(Clone, Debug)]
pub(super) enum Factor {
    /// A tensor of the adapter, by its position.
    Stored(u32),
    Made(Made),
}

/// What an adapter does to a tensor of its base.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// This is added.
    Delta(Made),
    /// This takes its place.
    Whole(Made),
    /// scale · left · right is added, or its transpose.
    Product { left: Factor, right: Factor, rank: u64, scale: f64, transposed: bool },
}

/// An adapter's index with the tensors that it makes, and the files of the base where these are made of its
/// tensors too.
pub(super) struct Workshop<'a> {
    adapter: &'a Index,
    base: &'a Index,
    made: Vec<TensorEntry>,
    needs_base: bool,
}

impl<'a> Workshop<'a> {
    pub fn new(adapter: &'a Index, base: &'a Index) -> Self {
        Self { adapter, base, made: Vec::new(), needs_base: false }
    }

    /// Adds a tensor that is made for one of the base; returns its name.
    pub fn add(&mut self, made: Made, base_tensor: u32, what: &str) -> String {
        let target = &self.base.tensors()[base_tensor as usize];
        let mut name = match what {
            "" => target.name.clone(),
            _ => format!("{} ({what})", target.name),
        };
        while self.adapter.position(&name).is_some()
            || self.made.iter().any(|known| known.name == name)
        {
            name.push('+');
        }
        let own = self.adapter.shards().len() as u32;
        let parts: Vec<TensorEntry> = made
            .parts
            .iter()
            .map(|part| match part {
                Part::Adapter(at) => self.adapter.tensors()[*at as usize].clone(),
                Part::Base(at) => {
                    self.needs_base = true;
                    let entry = self.base.tensors()[*at as usize].clone();
                    let shard = entry.shard + own;
                    entry.moved(own, shard)
                }
            })
            .collect();
        let (shard, offset) = (parts[0].shard, parts[0].offset);
        let shape = Shape::new(made.shape).expect("made in the shape of a stored tensor");
        let encoding = Encoding::computed(made.scheme, target.model_dtype(), parts, made.codec);
        let encoding = Some(Arc::new(encoding));
        let entry =
            TensorEntry { name: name.clone(), dtype: DType::F32, shape, shard, offset, encoding };
        self.made.push(entry);
        name
    }

    /// The index with all that was made, and where the tensors of the adapter are in it. None if nothing was.
    pub fn finish(self) -> Option<(Index, HashMap<u32, u32>)> {
        if self.made.is_empty() {
            return None;
        }
        let mut shards = self.adapter.shards().to_vec();
        if self.needs_base {
            shards.extend_from_slice(self.base.shards());
        }
        let tensors = self.adapter.tensors().iter().cloned().chain(self.made).collect();
        let index = Index::new(shards, tensors).expect("names were made different");
        let places = (0_u32..).zip(self.adapter.tensors()).map(|(old, tensor)| {
            let new = index.position(&tensor.name).expect("all tensors are still there");
            (old, new as u32)
        });
        let places = places.collect();
        Some((index, places))
    }
}

/// Stretches of rows: row, first column, and the part of the output.
fn by_rows(
    columns: u64,
    first: u64,
    out: &mut [f32],
) -> impl Iterator<Item = (u64, u64, &mut [f32])> {
    let (mut at, mut rest) = (first, out);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (row, column) = (at / columns, at % columns);
        let count = ((columns - column) as usize).min(rest.len());
        let (own, after) = std::mem::take(&mut rest).split_at_mut(count);
        (at, rest) = (at + count as u64, after);
        Some((row, column, own))
    })
}

/// Adds Σ left[k] · right[k, from ..] to a part of a row; `right` is row-major with `columns`.
pub(super) fn add_product(
    out: &mut [f32],
    left: &[f32],
    right: &[f32],
    columns: usize,
    from: usize,
) {
    let row = |k: usize| &right[k * columns + from..k * columns + from + out.len()];
    let mut sums = out.to_vec();
    let mut k = 0;
    // Four directions at a time read and write each sum once.
    while k + 4 <= left.len() {
        let (a, b, c, d) = (row(k), row(k + 1), row(k + 2), row(k + 3));
        let [w, x, y, z] = [left[k], left[k + 1], left[k + 2], left[k + 3]];
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum += w * a[at] + x * b[at] + y * c[at] + z * d[at];
        }
        k += 4;
    }
    for (k, &factor) in left.iter().enumerate().skip(k) {
        sums.iter_mut().zip(row(k)).for_each(|(sum, value)| *sum += factor * value);
    }
    out.copy_from_slice(&sums);
}

/// A stored matrix of numbers, part of it, of which each row or each column has a factor.
#[derive(Debug)]
pub(super) struct Scaled {
    /// Columns of the stored matrix, and of this one.
    pub stride: u64,
    pub columns: u64,
    /// The matrix is part 0, its factors are part 1.
    pub along: Along,
    /// A factor of all.
    pub by: f32,
}

/// What has a factor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    Nothing,
    Rows,
    Columns,
}

impl ByRows for Scaled {
    fn held_bytes(&self) -> u64 {
        // As many factors as a matrix has on its longer side at most; a bound is enough.
        if self.along == Along::Columns { self.columns * 4 } else { 1 << 16 }
    }

    fn hold(&self, parts: &Reader<'_>) -> Result<Held, ReadError> {
        let numbers = match self.along {
            Along::Nothing => Vec::new(),
            _ => vec![parts.all(1)?],
        };
        Ok(Held { numbers, counts: Vec::new() })
    }

    fn columns(&self) -> u64 {
        self.columns
    }

    fn row(
        &self,
        held: &Held,
        parts: &Reader<'_>,
        [row, column]: [u64; 2],
        own: &mut [f32],
    ) -> Result<(), ReadError> {
        parts.floats(0, row * self.stride + column, own)?;
        match self.along {
            Along::Nothing => own.iter_mut().for_each(|value| *value *= self.by),
            Along::Rows => {
                let factor = held.numbers[0][row as usize] * self.by;
                own.iter_mut().for_each(|value| *value *= factor);
            }
            Along::Columns => {
                let factors = &held.numbers[0][column as usize..];
                own.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor * self.by);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_end_with_rows() {
        let mut out = [0.0; 7];
        let found: Vec<(u64, u64, usize)> =
            by_rows(4, 2, &mut out).map(|(row, column, own)| (row, column, own.len())).collect();
        assert_eq!(found, [(0, 2, 2), (1, 0, 4), (2, 0, 1)]);
    }

    #[test]
    fn products_are_added_from_a_column_on() {
        let left = [1.0, 2.0, 3.0, 4.0, 5.0];
        let right: Vec<f32> = (0..15).map(|value| value as f32).collect();
        let mut out = [100.0, 200.0];
        add_product(&mut out, &left, &right, 3, 1);
        let column = |c: usize| (0..5).map(|k| left[k] * right[k * 3 + c]).sum::<f32>();
        assert_eq!(out, [100.0 + column(1), 200.0 + column(2)]);
    }
}
