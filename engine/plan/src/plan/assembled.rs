//! Tensors put together from rectangles of stored ones: what architecture maps make of concatenation,
//! slicing, transposition, stacking and rows kept. Nothing is computed, so any stretch can be read at any time.

use std::ops::Range;

use mixdown_tensor::DType;

use super::leaf::TensorRef;

/// A tensor put together from rectangles, as a matrix in row-major order: the columns are its last axis, a
/// tensor with one axis is a single column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Assembled {
    /// Rows: the product of all axes but the last.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
    /// Type of its elements, which is that of all tensors in it.
    pub dtype: DType,
    /// The rectangles: they cover each element once, ordered by their first rows, then their first columns.
    pub patches: Vec<Patch>,
}

/// A rectangle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Patch {
    /// Rows of the result.
    pub rows: Range<u64>,
    /// Columns of the result.
    pub columns: Range<u64>,
    /// What they are.
    pub from: PatchSource,
}

/// What a rectangle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchSource {
    /// Elements of a stored tensor: row r and column c of the rectangle, from 0, are its element
    /// `start + r * row_step + c * column_step`.
    Tensor {
        /// Which.
        tensor: TensorRef,
        /// Element of the first row and column.
        start: u64,
        /// Elements from one row to the next.
        row_step: u64,
        /// Elements from one column to the next.
        column_step: u64,
    },
    /// This number: 0 or 1.
    Fill(u8),
}

impl Assembled {
    /// Its elements.
    pub fn elements(&self) -> Option<u64> {
        self.rows.checked_mul(self.columns)
    }

    /// The tensors in it, each once, in the order of their first rectangles.
    pub fn tensors(&self) -> Vec<TensorRef> {
        let mut found = Vec::new();
        for patch in &self.patches {
            if let PatchSource::Tensor { tensor, .. } = patch.from
                && !found.contains(&tensor)
            {
                found.push(tensor);
            }
        }
        found
    }

    /// Rows of zeros, then rows of ones.
    pub(crate) fn ones_from(row: u64, rows: u64, columns: u64) -> Self {
        let patch = |rows, fill| Patch { rows, columns: 0..columns, from: PatchSource::Fill(fill) };
        let patches = [patch(0..row, 0), patch(row..rows, 1)];
        let patches = patches.into_iter().filter(|patch| !patch.is_empty()).collect();
        Self { rows, columns, dtype: DType::F32, patches }
    }
}

impl Patch {
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() || self.columns.is_empty()
    }

    /// Its elements.
    pub fn elements(&self) -> u64 {
        (self.rows.end - self.rows.start) * (self.columns.end - self.columns.start)
    }

    /// The last element of its tensor that it reads, and the tensor; none if it reads none or the number
    /// has no place in 64 bits.
    pub fn last(&self) -> Option<(TensorRef, u64)> {
        let PatchSource::Tensor { tensor, start, row_step, column_step } = self.from else {
            return None;
        };
        let rows = (self.rows.end - self.rows.start).checked_sub(1)?;
        let columns = (self.columns.end - self.columns.start).checked_sub(1)?;
        let last = start
            .checked_add(rows.checked_mul(row_step)?)?
            .checked_add(columns.checked_mul(column_step)?)?;
        Some((tensor, last))
    }

    /// The part of it that lies within these rows and columns, where it is.
    pub(crate) fn within(&self, rows: &Range<u64>, columns: &Range<u64>) -> Option<Self> {
        let cut = |own: &Range<u64>, to: &Range<u64>| own.start.max(to.start)..own.end.min(to.end);
        let part = Self {
            rows: cut(&self.rows, rows),
            columns: cut(&self.columns, columns),
            ..self.clone()
        };
        if part.is_empty() {
            return None;
        }
        let from = match self.from {
            PatchSource::Tensor { tensor, start, row_step, column_step } => PatchSource::Tensor {
                tensor,
                start: start
                    + (part.rows.start - self.rows.start) * row_step
                    + (part.columns.start - self.columns.start) * column_step,
                row_step,
                column_step,
            },
            fill @ PatchSource::Fill(_) => fill,
        };
        Some(Self { from, ..part })
    }

    /// The same at other rows and columns.
    pub(crate) fn moved(&self, down: i128, right: i128) -> Self {
        let shift = |range: &Range<u64>, by: i128| {
            (i128::from(range.start) + by) as u64..(i128::from(range.end) + by) as u64
        };
        Self {
            rows: shift(&self.rows, down),
            columns: shift(&self.columns, right),
            from: self.from,
        }
    }

    /// The same with rows and columns exchanged.
    pub(crate) fn transposed(&self) -> Self {
        let from = match self.from {
            PatchSource::Tensor { tensor, start, row_step, column_step } => {
                PatchSource::Tensor { tensor, start, row_step: column_step, column_step: row_step }
            }
            fill @ PatchSource::Fill(_) => fill,
        };
        Self { rows: self.columns.clone(), columns: self.rows.clone(), from }
    }
}
