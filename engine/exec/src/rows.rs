//! Embeddings put together row by row: any stretch of one, gathered as f32 or f64.

use mixdown_ops::Precision;
use mixdown_plan::{RowSource, Rows, TensorRef};
use mixdown_tensor::DType;

use crate::read::Inputs;
use crate::scheduler::Failure;
use crate::widen;

/// The storage type that a gathered stretch has.
pub(crate) fn gathered(precision: Precision) -> DType {
    match precision {
        Precision::Single => DType::F32,
        Precision::Double => DType::F64,
    }
}

/// Bytes of scratch memory for each element of a stretch: what is read, and sums for means.
pub(crate) const SCRATCH_BYTES: usize = 16;

/// An embedding with what is needed to read it.
#[derive(Clone, Copy)]
pub(crate) struct Embedding<'a> {
    pub(crate) rows: &'a Rows,
    /// The mean of all rows that are not padding; empty while it is not known.
    pub(crate) padding: &'a [f64],
}

/// A part of the output that comes from one place: whole rows and parts of rows.
struct Segment<'a> {
    source: &'a RowSource,
    /// First column.
    column: u64,
    elements: usize,
}

impl<'a> Embedding<'a> {
    /// Gathers the elements from `first` on that fill `out`, whose type is `dtype`: f32 or f64.
    /// `scratch` has [`SCRATCH_BYTES`] for each of them.
    pub(crate) fn gather(
        &self,
        inputs: &Inputs<'_>,
        first: u64,
        dtype: DType,
        mut out: &mut [u8],
        scratch: &mut [u8],
    ) -> Result<(), Failure> {
        let width = dtype.bytes();
        let mut at = first;
        while !out.is_empty() {
            let segment = self.segment(at, out.len() / width);
            let (part, rest) = out.split_at_mut(segment.elements * width);
            self.fill(inputs, &segment, dtype, part, scratch)?;
            at += segment.elements as u64;
            out = rest;
        }
        Ok(())
    }

    /// The segment that starts at an element: consecutive rows of one tensor are one segment.
    fn segment(&self, at: u64, most: usize) -> Segment<'a> {
        let length = self.rows.row_elements;
        let (row, column) = ((at / length) as usize, at % length);
        let source = &self.rows.rows[row];
        let mut elements = length - column;
        if let RowSource::Row(tensor, first) = *source {
            let follows = |next: usize| match self.rows.rows.get(row + next) {
                Some(&RowSource::Row(other, found)) => {
                    other == tensor && u64::from(found) == u64::from(first) + next as u64
                }
                _ => false,
            };
            let mut next = 1;
            while elements < most as u64 && follows(next) {
                elements += length;
                next += 1;
            }
        }
        Segment { source, column, elements: elements.min(most as u64) as usize }
    }

    fn fill(
        &self,
        inputs: &Inputs<'_>,
        segment: &Segment<'_>,
        dtype: DType,
        out: &mut [u8],
        scratch: &mut [u8],
    ) -> Result<(), Failure> {
        match segment.source {
            RowSource::Zero => out.fill(0),
            RowSource::MeanOfRows => {
                let start = segment.column as usize;
                widen::store(&self.padding[start..start + segment.elements], dtype, out);
            }
            &RowSource::Row(tensor, row) => {
                let (tensor, first) = self.place(tensor, row, segment.column);
                let stored = inputs.entry(tensor).dtype;
                let bytes = &mut scratch[..segment.elements * stored.bytes()];
                inputs.read(tensor, first, bytes)?;
                widen::copy(bytes, stored, out, dtype);
            }
            RowSource::Mean(sources) => {
                let (bytes, sums) = scratch.split_at_mut(segment.elements * 8);
                let sums = &mut sums[..segment.elements * 8];
                sums.fill(0);
                for &(tensor, row) in sources {
                    let (tensor, first) = self.place(tensor, row, segment.column);
                    let stored = inputs.entry(tensor).dtype;
                    let bytes = &mut bytes[..segment.elements * stored.bytes()];
                    inputs.read(tensor, first, bytes)?;
                    widen::add(bytes, stored, sums);
                }
                widen::divide(sums, sources.len().max(1) as f64, dtype, out);
            }
        }
        Ok(())
    }

    fn place(&self, tensor: u32, row: u32, column: u64) -> (TensorRef, u64) {
        let first = u64::from(row) * self.rows.row_elements + column;
        (self.rows.tensors[tensor as usize], first)
    }

    /// The stored element behind a gathered one that is NaN or infinite. For a mean that is the
    /// first of its rows with such an element; `None` if none of them has one, or if the element
    /// comes from no row.
    pub(crate) fn culprit(
        &self,
        inputs: &Inputs<'_>,
        element: u64,
    ) -> Result<Option<(TensorRef, u64)>, Failure> {
        let column = element % self.rows.row_elements;
        let candidates = match &self.rows.rows[(element / self.rows.row_elements) as usize] {
            &RowSource::Row(tensor, row) => vec![(tensor, row)],
            RowSource::Mean(sources) => sources.clone(),
            RowSource::Zero | RowSource::MeanOfRows => Vec::new(),
        };
        for (tensor, row) in candidates {
            let (tensor, first) = self.place(tensor, row, column);
            let stored = inputs.entry(tensor).dtype;
            let mut bytes = [0; 8];
            let bytes = &mut bytes[..stored.bytes()];
            inputs.read(tensor, first, bytes)?;
            if widen::first_nonfinite(bytes, stored).is_some() {
                return Ok(Some((tensor, first)));
            }
        }
        Ok(None)
    }
}
