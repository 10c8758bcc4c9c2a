//! Tensors put together from rectangles of stored ones: any stretch of one, in its storage type.

use mixdown_plan::{Assembled, Patch, PatchSource, TensorRef};

mod bands;

pub(crate) use bands::{BYTES_PER_THREAD, Bands, has_bands, is_banded};

use crate::context::internal;
use crate::read::Inputs;
use crate::scheduler::Failure;

/// Bytes of scratch memory for each element of a stretch: a column of a transposed part, before its
/// elements go to their rows.
pub(crate) const SCRATCH_BYTES: usize = 8;

/// The part of one patch within one stretch of the result.
struct Run<'a> {
    patch: &'a Patch,
    /// Its first row and column within the patch.
    row: u64,
    column: u64,
    /// Whole rows of the patch, or one row or a part of it.
    rows: u64,
    columns: u64,
}

/// Reads the elements from `first` on that fill `out`. `scratch` has [`SCRATCH_BYTES`] for each of them.
pub(crate) fn read(
    inputs: &Inputs<'_>,
    assembled: &Assembled,
    first: u64,
    out: &mut [u8],
    scratch: &mut [u8],
) -> Result<(), Failure> {
    let width = assembled.dtype.bytes();
    let end = first + (out.len() / width) as u64;
    let mut at = first;
    while at < end {
        let run = run(assembled, at, end)?;
        let start = ((at - first) as usize) * width;
        let bytes = (run.rows * run.columns) as usize * width;
        fill(inputs, &run, width, &mut out[start..start + bytes], scratch)?;
        at += run.rows * run.columns;
    }
    Ok(())
}

/// What the elements from `at` on come from: as many as one patch has without a break, before `end`.
fn run(assembled: &Assembled, at: u64, end: u64) -> Result<Run<'_>, Failure> {
    let (row, column) = (at / assembled.columns, at % assembled.columns);
    let patch = patch_at(assembled, row, column)
        .ok_or_else(|| Failure::Fatal(internal("a part of a tensor comes from nowhere")))?;
    let left = patch.columns.end - column;
    let within = |columns, rows| Run {
        patch,
        row: row - patch.rows.start,
        column: column - patch.columns.start,
        rows,
        columns,
    };
    let is_full = patch.columns.start == 0 && patch.columns.end == assembled.columns;
    let rows = (end - at) / assembled.columns;
    if column == 0 && is_full && rows > 0 {
        return Ok(within(assembled.columns, rows.min(patch.rows.end - row)));
    }
    Ok(within(left.min(end - at), 1))
}

/// The patch of an element.
fn patch_at(assembled: &Assembled, row: u64, column: u64) -> Option<&Patch> {
    // They are ordered by their first rows: none from here on covers the row.
    let after = assembled.patches.partition_point(|patch| patch.rows.start <= row);
    assembled.patches[..after]
        .iter()
        .rev()
        .find(|patch| patch.rows.contains(&row) && patch.columns.contains(&column))
}

fn fill(
    inputs: &Inputs<'_>,
    run: &Run<'_>,
    width: usize,
    out: &mut [u8],
    scratch: &mut [u8],
) -> Result<(), Failure> {
    let PatchSource::Tensor { tensor, start, row_step, column_step } = run.patch.from else {
        return fill_with_number(run.patch, width, out);
    };
    let first = start + run.row * row_step + run.column * column_step;
    let (rows, columns) = (run.rows, run.columns);
    if column_step == 1 || columns == 1 {
        // Rows that follow each other in the file are read as one.
        if row_step == columns || rows == 1 {
            return inputs.read(tensor, first, out);
        }
        for (row, part) in (0..rows).zip(out.chunks_exact_mut(columns as usize * width)) {
            inputs.read(tensor, first + row * row_step, part)?;
        }
        return Ok(());
    }
    if row_step == 1 && rows > 1 {
        // A column of the result lies together in the file.
        let column_bytes = rows as usize * width;
        for column in 0..columns {
            let bytes = &mut scratch[..column_bytes];
            inputs.read(tensor, first + column * column_step, bytes)?;
            let places = out.chunks_exact_mut(columns as usize * width);
            for (place, element) in places.zip(bytes.chunks_exact(width)) {
                let at = column as usize * width;
                place[at..at + width].copy_from_slice(element);
            }
        }
        return Ok(());
    }
    let mut elements = out.chunks_exact_mut(width);
    for row in 0..rows {
        for column in 0..columns {
            let element = first + row * row_step + column * column_step;
            if let Some(place) = elements.next() {
                inputs.read(tensor, element, place)?;
            }
        }
    }
    Ok(())
}

/// Zeros, or ones of f32, the type of masks.
fn fill_with_number(patch: &Patch, width: usize, out: &mut [u8]) -> Result<(), Failure> {
    match patch.from {
        PatchSource::Fill(0) => out.fill(0),
        PatchSource::Fill(1) if width == 4 => {
            for place in out.chunks_exact_mut(4) {
                place.copy_from_slice(&1.0_f32.to_le_bytes());
            }
        }
        _ => return Err(Failure::Fatal(internal("a mask is not of f32"))),
    }
    Ok(())
}

/// The stored element behind an element of the result; none where it is a number of its own.
pub(crate) fn culprit(assembled: &Assembled, element: u64) -> Option<(TensorRef, u64)> {
    let (row, column) = (element / assembled.columns, element % assembled.columns);
    let patch = patch_at(assembled, row, column)?;
    match patch.from {
        PatchSource::Fill(_) => None,
        PatchSource::Tensor { tensor, start, row_step, column_step } => {
            let (row, column) = (row - patch.rows.start, column - patch.columns.start);
            Some((tensor, start + row * row_step + column * column_step))
        }
    }
}

/// Whether the patches cover each element exactly once, and none reads beyond its tensor. `tensor` tells
/// type and element count of one.
pub(crate) fn is_sound(
    assembled: &Assembled,
    tensor: impl Fn(TensorRef) -> Option<(mixdown_tensor::DType, u64)>,
) -> bool {
    let Some(elements) = assembled.elements() else { return false };
    let mut covered = 0_u64;
    for patch in &assembled.patches {
        let is_within = !patch.is_empty()
            && patch.rows.end <= assembled.rows
            && patch.columns.end <= assembled.columns;
        if !is_within {
            return false;
        }
        if let PatchSource::Tensor { .. } = patch.from {
            let Some((source, last)) = patch.last() else { return false };
            let fits = tensor(source)
                .is_some_and(|(dtype, count)| dtype == assembled.dtype && last < count);
            if !fits {
                return false;
            }
        }
        covered = covered.saturating_add(patch.elements());
    }
    let pairs = assembled.patches.windows(2);
    let mut in_order = pairs.map(|pair| {
        (pair[0].rows.start, pair[0].columns.start) < (pair[1].rows.start, pair[1].columns.start)
    });
    covered == elements && in_order.all(|ordered| ordered) && !overlaps(&assembled.patches)
}

/// Whether two patches, in their order, share an element.
fn overlaps(patches: &[Patch]) -> bool {
    let mut open: Vec<&Patch> = Vec::new();
    for patch in patches {
        open.retain(|other| other.rows.end > patch.rows.start);
        let shares = |other: &&Patch| {
            other.columns.start < patch.columns.end && patch.columns.start < other.columns.end
        };
        if open.iter().any(shares) {
            return true;
        }
        open.push(patch);
    }
    false
}
