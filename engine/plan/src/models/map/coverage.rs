//! Which parts of a map's source are used.

use std::collections::BTreeMap;

use crate::plan::TensorRef;
use crate::plan::{Patch, PatchSource};

/// What is read of each tensor.
#[derive(Debug, Default)]
pub(super) struct Coverage(BTreeMap<TensorRef, Vec<Rectangle>>);

/// Rows and columns of a stored matrix: first, and the one after the last.
type Rectangle = [u64; 4];

impl Coverage {
    /// Notes what rectangles read.
    pub fn add<'p>(&mut self, patches: impl Iterator<Item = &'p Patch>) {
        for patch in patches {
            let PatchSource::Tensor { tensor, start, row_step, column_step } = patch.from else {
                continue;
            };
            let height = patch.rows.end - patch.rows.start;
            let width = patch.columns.end - patch.columns.start;
            // Whichever step is the wider one is that of the stored rows.
            let (pitch, rows, columns) = match row_step >= column_step {
                true => (row_step, height, width),
                false => (column_step, width, height),
            };
            let pitch = pitch.max(1);
            let (row, column) = (start / pitch, start % pitch);
            let rectangle = [row, row + rows, column, column + columns];
            let known = self.0.entry(tensor).or_default();
            if !known.contains(&rectangle) {
                known.push(rectangle);
            }
        }
    }

    /// Whether anything is read of a tensor.
    pub fn has(&self, tensor: TensorRef) -> bool {
        self.0.contains_key(&tensor)
    }

    /// The tensors that are read, each with how many of its elements are.
    pub fn tensors(&self) -> impl Iterator<Item = (TensorRef, u64)> {
        self.0.iter().map(|(tensor, rectangles)| (*tensor, area(rectangles)))
    }
}

/// Elements in a union of rectangles.
fn area(rectangles: &[Rectangle]) -> u64 {
    if let [[top, bottom, left, right]] = rectangles {
        return (bottom - top) * (right - left);
    }
    let mut edges: Vec<u64> =
        rectangles.iter().flat_map(|[top, bottom, ..]| [*top, *bottom]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut total = 0;
    for band in edges.windows(2) {
        let within =
            rectangles.iter().filter(|[top, bottom, ..]| *top <= band[0] && band[1] <= *bottom);
        let mut spans: Vec<(u64, u64)> = within.map(|[.., left, right]| (*left, *right)).collect();
        spans.sort_unstable();
        let (mut width, mut end) = (0, 0);
        for (left, right) in spans {
            width += right.max(end) - left.max(end);
            end = end.max(right);
        }
        total += width * (band[1] - band[0]);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_count_once() {
        assert_eq!(area(&[[0, 4, 0, 3]]), 12);
        assert_eq!(area(&[[0, 2, 0, 3], [2, 4, 0, 3]]), 12);
        assert_eq!(area(&[[0, 3, 0, 3], [1, 4, 1, 4]]), 14);
        assert_eq!(area(&[[0, 1, 0, 2], [0, 1, 5, 6], [0, 1, 1, 3]]), 4);
    }
}
